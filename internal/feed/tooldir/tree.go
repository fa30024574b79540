package tooldir

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Limits on one folder.
const (
	MaxFiles = 200_000
	MaxFile  = 8 << 30  // bytes of one file
	MaxIndex = 64 << 20 // bytes of one index
)

// Tree is one folder, as the tool left it or as a snapshot holds it.
type Tree struct {
	ctx   context.Context
	files map[string]File
	fold  map[string]string
	open  func(p string) (io.ReaderAt, func(), error)
}

// File is one file of a tree.
type File struct {
	Path     string      `json:"path"`
	Size     int64       `json:"size"`
	Digest   feed.Digest `json:"sha256"`
	Modified time.Time   `json:"modified"` // as the tool left it
}

// NewTree makes a tree of listed files; open gives their bytes. ErrUpstream if two
// names differ in case alone.
func NewTree(ctx context.Context, list []File, open func(string) (io.ReaderAt, func(), error)) (*Tree, error) {
	t := &Tree{ctx: ctx, files: make(map[string]File, len(list)), fold: make(map[string]string, len(list)), open: open}
	for _, f := range list {
		t.files[f.Path] = f
		low := strings.ToLower(f.Path)
		if other, twice := t.fold[low]; twice {
			return nil, fmt.Errorf("%s and %s differ in case alone: %w", f.Path, other, feed.ErrUpstream)
		}
		t.fold[low] = f.Path
	}
	return t, nil
}

// Paths lists the files, in order.
func (t *Tree) Paths() []string {
	out := make([]string, 0, len(t.files))
	for p := range t.files {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Find looks a file up as Windows does: case does not matter.
func (t *Tree) Find(p string) (File, bool) {
	f, ok := t.files[p]
	if !ok {
		f, ok = t.files[t.fold[strings.ToLower(p)]]
	}
	return f, ok
}

// Each opens a file for f.
func (t *Tree) Each(p string, f func(r io.ReaderAt, size int64) error) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	r, done, err := t.open(p)
	if err != nil {
		return err
	}
	defer done()
	return f(r, t.files[p].Size)
}

// Read returns a file of at most limit bytes.
func (t *Tree) Read(p string, limit int64) (b []byte, err error) {
	err = t.Each(p, func(r io.ReaderAt, size int64) error {
		if size > limit {
			return fmt.Errorf("%s: %d bytes, at most %d are read: %w", p, size, limit, feed.ErrUpstream)
		}
		b, err = io.ReadAll(io.NewSectionReader(r, 0, size))
		return err
	})
	return b, err
}

// Text returns an index as UTF-8; see Decode.
func (t *Tree) Text(p string) (string, error) {
	b, err := t.Read(p, MaxIndex)
	if err != nil {
		return "", err
	}
	s, err := Decode(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", p, err, feed.ErrUpstream)
	}
	return s, nil
}

// Need finds a file that the index at p names with the relative path name, and
// holds it to its size if that is known (not negative). ErrUpstream for a name
// that leads elsewhere, ErrIncomplete if the file is not there as stated.
func (t *Tree) Need(p, name string, size int64) (File, error) {
	at, err := Below(path.Dir(p), name)
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", p, err)
	}
	f, ok := t.Find(at)
	switch {
	case !ok:
		return f, fmt.Errorf("%s names %s, which is not there: %w", p, at, ErrIncomplete)
	case size >= 0 && f.Size != size:
		return f, fmt.Errorf("%s says that %s has %d bytes, it has %d: %w", p, at, size, f.Size, ErrIncomplete)
	}
	return f, nil
}

// Below joins a folder and a name from an index. The name is slash-separated,
// clean and relative; it cannot leave the folder.
func Below(dir, name string) (string, error) {
	at := path.Join(dir, name)
	if !feed.ValidPath(name) || !feed.ValidPath(at) || at == Manifest {
		return "", fmt.Errorf("the index names a file %.200q: %w", name, feed.ErrUpstream)
	}
	return at, nil
}

// newest is the newest time of the files.
func (t *Tree) newest() (at time.Time) {
	for _, f := range t.files {
		if f.Modified.After(at) {
			at = f.Modified
		}
	}
	return at
}

// folded finds paths whatever their case. One list is made for each publication.
type folded struct {
	mu     sync.Mutex
	number uint64
	serial uint64
	names  map[string]string
}

func (f *folded) find(v feed.View, p string) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := v.Header(); f.names == nil || f.number != v.Number || f.serial != h.Serial {
		f.number, f.serial, f.names = v.Number, h.Serial, map[string]string{}
		for a, err := range v.Artifacts() {
			if err == nil && a.Path != Manifest {
				f.names[strings.ToLower(a.Path)] = a.Path
			}
		}
	}
	exact, ok := f.names[strings.ToLower(p)]
	return exact, ok
}
