package defender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/authenticode"
	"github.com/hashike/hashike/internal/format/pe"
)

// fetch is one run.
type fetch struct {
	*definitions
	up    feed.Upstream
	fsys  fs.FS        // of dirs.drop; nil with an address
	prev  feed.Content // may be nil
	dst   feed.Sink
	found []feed.Artifact
	state []string
}

// Fetch implements feed.Feed.
func (f *definitions) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	r := &fetch{definitions: f, up: up, prev: prev, dst: dst}
	if f.base == nil {
		var err error
		if r.fsys, err = up.Dir("drop"); err != nil {
			return "", err
		}
	}
	for _, i := range f.want {
		take := r.program
		if i.pack {
			take = r.pack
		}
		if err := take(ctx, i); err != nil {
			return "", fmt.Errorf("%s: %w", i.path, err)
		}
	}
	if r.unchanged() {
		return "", feed.ErrUnchanged
	}
	for _, a := range r.found {
		if err := dst.Add(a); err != nil {
			return "", err
		}
	}
	return strings.Join(r.state, " "), nil
}

func (r *fetch) unchanged() bool {
	if r.prev == nil {
		return false
	}
	n := 0
	for _, err := range r.prev.Artifacts() {
		if n++; err != nil {
			return false
		}
	}
	for _, a := range r.found {
		if had, ok := r.prev.Lookup(a.Path); !ok || had.Digest != a.Digest {
			return false
		}
	}
	return n == len(r.found)
}

// program brings one signed program.
func (r *fetch) program(ctx context.Context, i item) error {
	b, err := r.load(ctx, i, i.path, maxProgram)
	if err != nil {
		return err
	}
	info, err := pe.Read(b, b.Size())
	if err != nil {
		return r.unreadable(i.path, err)
	}
	a := i.artifact(i.path)
	a.Digest, a.Version, a.Time = b.Digest(), info.File.String(), signedAt(b, b.Size(), info)
	r.found, r.state = append(r.found, a), append(r.state, i.path+" "+a.Version)
	return nil
}

// pack brings an updates.zip and what says its version: the manifest that the
// vendor's downloader writes, from its document of information or as it lies
// in another mirror.
func (r *fetch) pack(ctx context.Context, i item) error {
	m, text, err := r.version(ctx, i)
	if err != nil {
		return err
	}
	var blob feed.Blob
	if had, ok := r.held(i.path, m.Definitions); ok && r.cfg.URL == links { // the same version: nothing to load
		blob, err = r.dst.Load(ctx, feed.Request{URL: r.address(i, i.path, ""), Limit: maxPackage}, feed.Want{Digest: had.Digest, Size: had.Size})
	} else {
		blob, err = r.load(ctx, i, i.path, maxPackage)
	}
	if err != nil {
		return err
	}
	at, err := zipTime(blob, blob.Size())
	if err == nil {
		err = checkZip(blob, blob.Size())
	}
	if err != nil {
		return r.unreadable(i.path, err)
	}
	mb, err := r.dst.Put(ctx, text.from, bytes.NewReader(text.body))
	if err != nil {
		return err
	}
	for _, x := range []struct {
		path string
		blob feed.Blob
	}{{i.manifest(), mb}, {i.path, blob}} {
		a := i.artifact(x.path)
		a.Digest, a.Version, a.Time = x.blob.Digest(), m.Definitions, at
		r.found = append(r.found, a)
	}
	r.state = append(r.state, i.path+" "+m.Definitions)
	return nil
}

func (r *fetch) held(p, version string) (feed.Artifact, bool) {
	if r.prev == nil {
		return feed.Artifact{}, false
	}
	a, ok := r.prev.Lookup(p)
	return a, ok && a.Version == version
}

// sourced is a small document and where it came from.
type sourced struct {
	from string
	body []byte
}

func (r *fetch) version(ctx context.Context, i item) (manifest, sourced, error) {
	p := i.manifest()
	if r.fsys != nil {
		b, err := r.small(p)
		if err != nil {
			return manifest{}, sourced{}, err
		}
		m, err := parseManifest(b)
		if err != nil {
			return m, sourced{}, r.unreadable(p, err)
		}
		return m, sourced{"dir:drop/" + p, b}, nil
	}
	u := r.address(i, p, "action=info")
	res, err := r.up.Do(ctx, feed.Request{URL: u, Limit: maxManifest})
	if err != nil {
		return manifest{}, sourced{}, err
	}
	if r.cfg.URL != links {
		m, err := parseManifest(res.Body)
		if err != nil {
			return m, sourced{}, r.unreadable(p, err)
		}
		return m, sourced{u, res.Body}, nil
	}
	m, err := parseInfo(res.Body)
	if err != nil {
		return m, sourced{}, r.unreadable(p, err)
	}
	return m, sourced{"made:" + p, m.encode()}, nil
}

// load brings a file: from the directory, if nobody is writing it; from an
// address unless head and signature there are those that are held.
func (r *fetch) load(ctx context.Context, i item, p string, limit int64) (feed.Blob, error) {
	if r.fsys != nil {
		return r.put(ctx, p, limit)
	}
	u := r.address(i, p, "")
	if r.prev != nil && !i.pack {
		if a, ok := r.prev.Lookup(p); ok && r.same(ctx, a, u) {
			return r.dst.Load(ctx, feed.Request{URL: u, Limit: limit}, feed.Want{Digest: a.Digest, Size: a.Size})
		}
	}
	return r.dst.Load(ctx, feed.Request{URL: u, Limit: limit}, feed.Want{})
}

func (r *fetch) same(ctx context.Context, a feed.Artifact, u string) bool {
	f, err := r.prev.Open(a.Path)
	if err != nil {
		return false
	}
	defer f.Close()
	ra, ok := f.(io.ReaderAt)
	return ok && authenticode.Unchanged(ra, a.Size, func(from, to int64) ([]byte, error) {
		h := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
		res, err := r.up.Do(ctx, feed.Request{URL: u, Header: h, Limit: to - from})
		if err != nil {
			return nil, err
		}
		return res.Body, nil
	})
}

// put copies a file of the directory that does not change meanwhile.
func (r *fetch) put(ctx context.Context, p string, limit int64) (feed.Blob, error) {
	f, err := r.fsys.Open(p)
	if err != nil {
		return nil, r.waits(p, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil || !before.Mode().IsRegular() || before.Size() > limit {
		return nil, r.waits(p, errors.Join(err, fmt.Errorf("no file of at most %d bytes", limit)))
	}
	b, err := r.dst.Put(ctx, "dir:drop/"+p, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	after, err := fs.Stat(r.fsys, p)
	if err != nil || b.Size() != before.Size() || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, r.waits(p, errors.New("is being written"))
	}
	return b, nil
}

func (r *fetch) small(p string) ([]byte, error) {
	f, err := r.fsys.Open(p)
	if err != nil {
		return nil, r.waits(p, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil || len(b) > maxManifest {
		return nil, r.waits(p, errors.Join(err, fmt.Errorf("over %d bytes, or unreadable", maxManifest)))
	}
	return b, nil
}

// waits: the directory's file is not there, or not whole yet.
func (r *fetch) waits(p string, err error) error {
	return feed.NewFault(fmt.Errorf("%s in the drop directory: %w: %w", p, err, feed.ErrTransient), "H-401", "file", p, "detail", err.Error())
}

// unreadable: what came is not what it should be. In a directory it may be cut short.
func (r *fetch) unreadable(p string, err error) error {
	if r.fsys != nil {
		return r.waits(p, err)
	}
	return feed.NewFault(fmt.Errorf("%s: %w: %w", p, err, feed.ErrUpstream), "H-401", "file", p, "detail", err.Error())
}
