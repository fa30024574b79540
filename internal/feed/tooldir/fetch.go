package tooldir

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// manifest is our own document in a snapshot.
type manifest struct {
	Schema int    `json:"schema"`
	Kind   string `json:"kind"`
	Files  []File `json:"files"` // by path
}

const maxManifest = 128 << 20

func (m manifest) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", " ")
	return append(b, '\n'), err
}

// Fetch implements feed.Feed. The folder is listed, left alone for the quiet
// period, listed again, read, and listed a third time: only one that did not
// change is taken. A tool that never pauses for longer than the quiet period in
// the middle of its work cannot be mistaken for one that has finished; the
// vendor's completeness rule comes on top.
func (f *folder) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	dir, err := up.Dir(Folder)
	if err != nil {
		return "", err
	}
	list, err := f.list(ctx, dir)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", f.later(errors.New("the folder is empty (has the tool run?)"))
	}
	state := f.fingerprint(list)
	if prev != nil && strings.HasSuffix(prev.Header().State, state) {
		return "", feed.ErrUnchanged
	}
	if err := rest(ctx, time.Duration(f.cfg.Quiet)); err != nil {
		return "", err
	}
	if err := f.still(ctx, dir, state); err != nil {
		return "", err
	}
	tree, err := f.take(ctx, dir, list, prev, dst)
	if err != nil {
		return "", err
	}
	if err := f.still(ctx, dir, state); err != nil {
		return "", err
	}
	return f.add(ctx, tree, state, dst)
}

// add reads the release off the folder that was taken, and names its files.
func (f *folder) add(ctx context.Context, tree *Tree, state string, dst feed.Sink) (string, error) {
	rel, err := f.read(tree)
	if errors.Is(err, ErrIncomplete) {
		return "", f.later(err)
	}
	if err != nil {
		return "", f.unreadable(err)
	}
	m := manifest{Schema: 1, Kind: f.v.Name}
	for _, p := range tree.Paths() {
		m.Files = append(m.Files, tree.files[p])
	}
	b, err := m.encode()
	if err != nil {
		return "", err
	}
	own, err := dst.Put(ctx, "made:"+Manifest, bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	for _, x := range append(m.Files, File{Path: Manifest, Digest: own.Digest()}) {
		a := feed.Artifact{Path: x.Path, Digest: x.Digest, Class: f.class(x.Path), Version: rel.Version, Time: rel.Time}
		if err := dst.Add(a); err != nil {
			return "", err
		}
	}
	return rel.Version + " " + state, nil
}

// read is the vendor's rule, with what the driver asks of it.
func (f *folder) read(t *Tree) (Release, error) {
	rel, err := f.v.Read(t)
	if err != nil {
		return rel, err
	}
	if rel.Version == "" || len(rel.Version) > 200 || len(rel.Marks) == 0 {
		return rel, fmt.Errorf("no version in its indexes: %w", feed.ErrUpstream)
	}
	rel.Time = cmp.Or(rel.Time, t.newest()).UTC().Truncate(time.Second)
	return rel, nil
}

func rest(ctx context.Context, quiet time.Duration) error {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// list walks the folder. Files are listed without their digests.
func (f *folder) list(ctx context.Context, dir fs.FS) ([]File, error) {
	var out []File
	err := fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return f.later(err)
		case p != "." && f.excluded(p):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return f.unreadable(fmt.Errorf("%.200q is no regular file: %w", p, feed.ErrUpstream))
		case !feed.ValidPath(p) || strings.EqualFold(p, Manifest) || len(out) == MaxFiles:
			return f.unreadable(fmt.Errorf("%.200q: no name that can be carried, or more than %d files: %w", p, MaxFiles, feed.ErrUpstream))
		}
		st, err := d.Info()
		if err != nil {
			return f.later(err)
		}
		if st.Size() > MaxFile {
			return f.unreadable(fmt.Errorf("%s: %d bytes: %w", p, st.Size(), feed.ErrUpstream))
		}
		out = append(out, File{Path: p, Size: st.Size(), Modified: st.ModTime().UTC()})
		return nil
	})
	slices.SortFunc(out, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return out, err
}

// fingerprint says which state of the folder a list is.
func (f *folder) fingerprint(list []File) string {
	b := []byte(f.v.Name + "\n")
	for _, x := range list {
		b = fmt.Appendf(b, "%s\x00%d %d %d\n", x.Path, x.Size, x.Modified.Unix(), x.Modified.Nanosecond())
	}
	return string(feed.DigestOf(b))
}

// still makes sure that the folder is what it was.
func (f *folder) still(ctx context.Context, dir fs.FS, state string) error {
	now, err := f.list(ctx, dir)
	if err == nil && f.fingerprint(now) != state {
		err = f.later(errors.New("somebody is writing into the folder"))
	}
	return err
}

// take stores every file that prev does not have.
func (f *folder) take(ctx context.Context, dir fs.FS, list []File, prev feed.Content, dst feed.Sink) (*Tree, error) {
	held := map[string]File{}
	if prev != nil {
		if m, err := readManifest(prev); err == nil {
			for _, x := range m.Files {
				held[x.Path] = x
			}
		}
	}
	blobs := map[string]feed.Blob{}
	for i, x := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if was, ok := held[x.Path]; ok && was.Size == x.Size && was.Modified.Equal(x.Modified) {
			list[i].Digest = was.Digest
			continue
		}
		b, err := f.put(ctx, dir, x, dst)
		if err != nil {
			return nil, err
		}
		list[i].Digest, blobs[x.Path] = b.Digest(), b
	}
	t, err := NewTree(ctx, list, func(p string) (io.ReaderAt, func(), error) {
		if b, ok := blobs[p]; ok {
			return b, func() {}, nil
		}
		return openIn(prev, p)
	})
	if err != nil {
		return nil, f.unreadable(err)
	}
	return t, nil
}

func (f *folder) put(ctx context.Context, dir fs.FS, x File, dst feed.Sink) (feed.Blob, error) {
	r, err := dir.Open(x.Path)
	if err != nil {
		return nil, f.later(err)
	}
	defer r.Close()
	b, err := dst.Put(ctx, "dir:"+Folder+"/"+x.Path, io.LimitReader(r, x.Size+1))
	if err == nil && b.Size() != x.Size {
		err = f.later(fmt.Errorf("%s is being written", x.Path))
	}
	return b, err
}

func openIn(c feed.Content, p string) (io.ReaderAt, func(), error) {
	f, err := c.Open(p)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", p, err, feed.ErrDamaged)
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return nil, nil, fmt.Errorf("%s: no random access: %w", p, feed.ErrDamaged)
	}
	return r, func() { f.Close() }, nil
}

func readManifest(c feed.Content) (m manifest, err error) {
	a, ok := c.Lookup(Manifest)
	if !ok || a.Size > maxManifest {
		return m, fmt.Errorf("%s is missing or too long: %w", Manifest, feed.ErrUntrusted)
	}
	r, done, err := openIn(c, Manifest)
	if err != nil {
		return m, err
	}
	defer done()
	d := json.NewDecoder(io.NewSectionReader(r, 0, a.Size))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%s: %w: %w", Manifest, err, feed.ErrUntrusted)
	}
	if m.Schema != 1 {
		return m, fmt.Errorf("%s: schema %d: %w", Manifest, m.Schema, feed.ErrUntrusted)
	}
	again, err := m.encode()
	if err != nil || feed.DigestOf(again) != a.Digest {
		return m, fmt.Errorf("%s is not in the form in which it is written: %w", Manifest, feed.ErrUntrusted)
	}
	return m, nil
}

// later: the folder is not complete or not at rest; the next run looks again.
func (f *folder) later(err error) error {
	return feed.NewFault(fmt.Errorf("%s: tool folder: %w: %w", f.v.Name, err, feed.ErrTransient), "H-402", "vendor", f.v.Maker, "detail", err.Error())
}

func (f *folder) unreadable(err error) error {
	if errors.Is(err, feed.ErrDamaged) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return feed.NewFault(fmt.Errorf("%s: tool folder: %w: %w", f.v.Name, err, feed.ErrUpstream), "H-401", "file", "", "detail", err.Error())
}
