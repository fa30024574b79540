package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hashike/hashike/internal/feed"
)

const maxSignature = 1 << 20

// parallel is how many files are asked for at a time; the engine's limit per
// host decides beyond that.
const parallel = 8

// mark is what Fetch must know at the next run, kept as the snapshot's state:
// which documents it was made from, under which configuration, and the
// validators of the document that is asked for first.
type mark struct {
	list, signature feed.Digest
	config          string
	etag, modified  string
}

func (m mark) String() string {
	v := url.Values{"list": {string(m.list)}, "config": {m.config}}
	for k, s := range map[string]string{"signature": string(m.signature), "etag": m.etag, "modified": m.modified} {
		if s != "" && len(s) < 500 {
			v.Set(k, s)
		}
	}
	return v.Encode()
}

func (t *tree) markOf(prev feed.Content) (mark, bool) {
	if prev == nil {
		return mark{}, false
	}
	v, err := url.ParseQuery(prev.Header().State)
	if err != nil || v.Get("config") != t.fingerprint() {
		return mark{}, false
	}
	return mark{
		list: feed.Digest(v.Get("list")), signature: feed.Digest(v.Get("signature")), config: v.Get("config"),
		etag: v.Get("etag"), modified: v.Get("modified"),
	}, true
}

// fingerprint changes with the settings that decide what a snapshot holds.
func (t *tree) fingerprint() string {
	c := t.cfg
	return feed.DigestOf(fmt.Appendf(nil, "%q %q %q %q %q %q %q", c.URL, c.Dir, c.List, c.Signature, c.Include, c.Exclude, c.Class)).Hex()[:16]
}

// doc is a list or its signature as it came.
type doc struct {
	path   string
	body   []byte
	origin feed.Origin
	time   time.Time
}

// source is where the tree is: a web server or a directory.
type source interface {
	// first reads the document that changes with every publication: the
	// signature, else the list. ErrUnchanged if it is that of was.
	first(ctx context.Context, name string, limit int64, was mark, now *mark) (doc, error)
	read(ctx context.Context, name string, limit int64) (doc, error)
	file(ctx context.Context, e entry, got *found) error
}

// tries is how often a fetch starts over when the vendor publishes meanwhile.
const tries = 3

// errMoved: the vendor published anew during the fetch.
var errMoved = errors.New("the list was published anew during the fetch")

// Fetch implements feed.Feed. With nothing new it costs one small request: a
// detached signature covers the list, so the same signature is the same list;
// otherwise the list is asked for conditionally. With something new, the
// document that was read first is read again at the end: whatever does not fit
// together because the vendor was publishing is no attack.
func (t *tree) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	src, err := t.open(up, prev, dst)
	if err != nil {
		return "", err
	}
	for try := 1; ; try++ {
		got := &found{}
		state, err := t.fetchOnce(ctx, src, prev, got, dst)
		if errors.Is(err, feed.ErrUnchanged) {
			return "", err
		}
		if err = t.moved(ctx, src, got, err); err == nil {
			for _, a := range got.arts {
				if err := dst.Add(a); err != nil {
					return "", err
				}
			}
			return state, nil
		}
		if !errors.Is(err, errMoved) {
			return "", err
		}
		if try == tries {
			return "", fmt.Errorf("%s: %w %d times: %w", t.cfg.List, errMoved, try, feed.ErrTransient)
		}
		prev = nil // the validators in its mark are not those of what was read meanwhile
	}
}

// found is what one try brought.
type found struct {
	first *doc // what was read first
	mu    sync.Mutex
	arts  []feed.Artifact
}

func (f *found) add(a feed.Artifact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arts = append(f.arts, a)
}

// moved reads the first document again: errMoved if it changed, else err.
func (t *tree) moved(ctx context.Context, src source, got *found, err error) error {
	if got.first == nil || ctx.Err() != nil || errors.Is(err, feed.ErrHeld) || errors.Is(err, feed.ErrConfig) || errors.Is(err, feed.ErrTransient) {
		return err
	}
	again, aerr := src.read(ctx, got.first.path, maxList)
	if aerr != nil {
		return errors.Join(err, aerr)
	}
	if !bytes.Equal(again.body, got.first.body) {
		return errMoved
	}
	return err
}

func (t *tree) fetchOnce(ctx context.Context, src source, prev feed.Content, got *found, dst feed.Sink) (string, error) {
	was, _ := t.markOf(prev)
	now := mark{config: t.fingerprint()}
	var docs []doc
	var err error
	if t.detached() {
		sig, err := src.first(ctx, t.cfg.Signature, maxSignature, was, &now)
		if err != nil {
			return "", err
		}
		if now.signature = feed.DigestOf(sig.body); now.signature == was.signature {
			return "", feed.ErrUnchanged
		}
		docs, got.first = append(docs, sig), &sig
	}
	var list doc
	if t.detached() {
		list, err = src.read(ctx, t.cfg.List, maxList)
	} else {
		list, err = src.first(ctx, t.cfg.List, maxList, was, &now)
	}
	if err != nil {
		return "", err
	}
	if now.list = feed.DigestOf(list.body); now.list == was.list && !t.detached() {
		return "", feed.ErrUnchanged
	}
	if got.first == nil {
		got.first = &list
	}
	if err := t.fill(ctx, src, list, got); err != nil {
		return "", err
	}
	for _, d := range append(docs, list) {
		b, err := dst.Put(ctx, d.origin.URL, bytes.NewReader(d.body))
		if err != nil {
			return "", err
		}
		got.add(feed.Artifact{Path: d.path, Digest: b.Digest(), Class: feed.Metadata, Time: d.time, Origin: d.origin})
	}
	return now.String(), nil
}

// fill brings the files that the list names and the configuration wants.
func (t *tree) fill(ctx context.Context, src source, list doc, got *found) error {
	text := list.body
	if t.cfg.Signature == inClear {
		var err error
		if text, err = clearText(text); err != nil {
			return t.changed(err)
		}
	}
	entries, err := parseList(text, path.Dir(t.cfg.List))
	if err != nil {
		return t.changed(err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		// A list may name itself or its signature: their bytes are added below.
		if e.path != t.cfg.List && e.path != t.cfg.Signature && t.chosen(e.path) {
			g.Go(func() error { return src.file(ctx, e, got) })
		}
	}
	return g.Wait()
}

func (t *tree) changed(err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w", t.cfg.List, err), "H-401", "detail", err.Error())
}

func (t *tree) open(up feed.Upstream, prev feed.Content, dst feed.Sink) (source, error) {
	if t.base != nil {
		return &web{t, up, dst}, nil
	}
	dir, err := up.Dir(t.cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &folder{t, dir, prev, dst}, nil
}

// web is a tree on a server.
type web struct {
	t   *tree
	up  feed.Upstream
	dst feed.Sink
}

func (w *web) url(p string) string { return below(w.t.base, p) }

func (w *web) first(ctx context.Context, name string, limit int64, was mark, now *mark) (doc, error) {
	r, err := w.up.Do(ctx, feed.Request{URL: w.url(name), Limit: limit, ETag: was.etag, Modified: was.modified})
	if err != nil {
		return doc{}, err
	}
	if r.Unchanged {
		return doc{}, feed.ErrUnchanged
	}
	now.etag, now.modified = r.Header.Get("ETag"), r.Header.Get("Last-Modified")
	return asDoc(name, r), nil
}

func (w *web) read(ctx context.Context, name string, limit int64) (doc, error) {
	r, err := w.up.Do(ctx, feed.Request{URL: w.url(name), Limit: limit})
	if err != nil {
		return doc{}, err
	}
	return asDoc(name, r), nil
}

func asDoc(name string, r *feed.Response) doc {
	d := doc{path: name, body: r.Body, origin: r.Origin}
	if at, err := http.ParseTime(r.Header.Get("Last-Modified")); err == nil {
		d.time = at
	}
	return d
}

func (w *web) file(ctx context.Context, e entry, got *found) error {
	b, err := w.dst.Load(ctx, feed.Request{URL: w.url(e.path), Limit: w.t.cfg.MaxFile}, feed.Want{Digest: e.digest})
	if err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	got.add(feed.Artifact{Path: e.path, Digest: b.Digest(), Class: w.t.cfg.Class})
	return nil
}

// folder is a tree in a directory.
type folder struct {
	t    *tree
	dir  fs.FS
	prev feed.Content
	dst  feed.Sink
}

func (f *folder) first(ctx context.Context, name string, limit int64, _ mark, _ *mark) (doc, error) {
	return f.read(ctx, name, limit)
}

func (f *folder) name(p string) string { return "dir:" + f.t.cfg.Dir + "/" + p }

func (f *folder) open(name string) (fs.File, fs.FileInfo, error) {
	file, err := f.dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody may be copying it in at this moment.
		return nil, nil, fmt.Errorf("%s: %w: %w", f.name(name), err, feed.ErrTransient)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.name(name), err)
	}
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file: %w", f.name(name), feed.ErrUpstream)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, st, nil
}

func (f *folder) read(_ context.Context, name string, limit int64) (doc, error) {
	file, st, err := f.open(name)
	if err != nil {
		return doc{}, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes: %w", f.name(name), limit, feed.ErrUpstream)
	}
	return doc{path: name, body: b, origin: feed.Origin{URL: f.name(name)}, time: st.ModTime()}, err
}

func (f *folder) file(ctx context.Context, e entry, got *found) error {
	a := feed.Artifact{Path: e.path, Digest: e.digest, Class: f.t.cfg.Class}
	if f.prev != nil {
		// Still in the store from the last time: not read again.
		if p, ok := f.prev.Lookup(e.path); ok && p.Digest == e.digest {
			if file, err := f.prev.Open(e.path); err == nil {
				got.add(a)
				return file.Close()
			}
		}
	}
	file, st, err := f.open(e.path)
	if err != nil {
		return err
	}
	defer file.Close()
	if st.Size() > f.t.cfg.MaxFile {
		return fmt.Errorf("%s: %d bytes: %w", f.name(e.path), st.Size(), feed.ErrUpstream)
	}
	b, err := f.dst.Put(ctx, f.name(e.path), file)
	if err != nil {
		return err
	}
	if b.Digest() != e.digest {
		err := fmt.Errorf("%s has digest %s, the list says %s: %w", f.name(e.path), b.Digest(), e.digest, feed.ErrUntrusted)
		return feed.NewFault(err, "H-502", "file", f.name(e.path), "detail", err.Error())
	}
	got.add(a)
	return nil
}
