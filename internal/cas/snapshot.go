package cas

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

func (s *Store) snapshotDir(feedName string) string {
	return filepath.Join(s.dir, "snapshots", feedName)
}

// SnapshotPath is where the document of a snapshot lies.
func (s *Store) SnapshotPath(feedName string, serial uint64) string {
	return filepath.Join(s.snapshotDir(feedName), strconv.FormatUint(serial, 10)+".jsonl.zst")
}

func (s *Store) indexPath(feedName string, serial uint64) string {
	return filepath.Join(s.snapshotDir(feedName), strconv.FormatUint(serial, 10)+".idx")
}

// Snapshot is a stored snapshot with the blobs the store has. It implements feed.Content.
type Snapshot struct {
	*feed.Index
	s *Store
}

var _ feed.Content = (*Snapshot)(nil)

// Open opens an artifact by its path. The file is also io.ReaderAt and io.Seeker.
func (c *Snapshot) Open(path string) (fs.File, error) {
	a, ok := c.Lookup(path)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return c.OpenArtifact(a)
}

// OpenArtifact opens what Lookup found, for serving.
func (c *Snapshot) OpenArtifact(a feed.Artifact) (fs.File, error) {
	f, err := c.s.openHot(a.Digest, a.Size)
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", a.Path, err)
	}
	return f, nil
}

// Missing yields the artifacts whose blobs the store lacks.
func (c *Snapshot) Missing() iter.Seq[feed.Artifact] {
	return func(yield func(feed.Artifact) bool) {
		for a := range c.Artifacts() {
			if n, ok := c.s.Stat(a.Digest); (!ok || n != a.Size) && !yield(a) {
				return
			}
		}
	}
}

// Feeds lists the feeds that have snapshots here.
func (s *Store) Feeds() ([]string, error) {
	ents, err := os.ReadDir(s.snapshotDir(""))
	var out []string
	for _, e := range ents {
		if e.IsDir() && feed.ValidName(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, err
}

// Serials lists a feed's snapshots, oldest first.
func (s *Store) Serials(feedName string) ([]uint64, error) {
	ents, err := os.ReadDir(s.snapshotDir(feedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []uint64
	for _, e := range ents {
		if base, ok := strings.CutSuffix(e.Name(), ".jsonl.zst"); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out, err
}

// Snapshot opens a stored snapshot; fs.ErrNotExist if there is none. A missing
// or damaged index is built again from the document.
func (s *Store) Snapshot(feedName string, serial uint64) (*Snapshot, error) {
	if b, err := os.ReadFile(s.indexPath(feedName, serial)); err == nil {
		if x, err := feed.OpenIndex(b); err == nil && x.Header().Feed == feedName && x.Header().Serial == serial {
			return &Snapshot{x, s}, nil
		}
	}
	f, err := os.Open(s.SnapshotPath(feedName, serial))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	x, b, err := index(f)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s %d: %w", feedName, serial, err)
	}
	// Derived: losing it costs a rebuild, so it is written without a flush of its own.
	if err := durable.WriteFile(s.indexPath(feedName, serial), b); err != nil && !durable.IsFull(err) {
		return nil, err
	}
	return &Snapshot{x, s}, nil
}

// index reads a whole document and returns its index, opened and as bytes.
func index(r io.Reader) (*feed.Index, []byte, error) {
	sr, err := feed.NewSnapshotReader(r)
	if err != nil {
		return nil, nil, err
	}
	defer sr.Close()
	var b feed.IndexBuilder
	for a, err := range sr.Artifacts() {
		if err != nil {
			return nil, nil, err
		}
		b.Add(a)
	}
	id, err := sr.Digest()
	if err != nil {
		return nil, nil, err
	}
	raw, err := b.Bytes(id, sr.Header)
	if err != nil {
		return nil, nil, err
	}
	x, err := feed.OpenIndex(raw)
	return x, raw, err
}

// PutSnapshot stores a document that came across. Its identity must be want:
// ErrUntrusted otherwise. Storing the same snapshot again changes nothing;
// another one under the same feed and serial is ErrUntrusted (a fork).
func (s *Store) PutSnapshot(ctx context.Context, r io.Reader, want feed.Digest) (*Snapshot, error) {
	t, err := durable.Create(s.snapshotDir(""))
	if err != nil {
		return nil, err
	}
	defer t.Discard()
	if _, err := io.Copy(t, r); err != nil {
		return nil, err
	}
	if _, err := t.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	x, _, err := index(t)
	if err != nil {
		return nil, err
	}
	h := x.Header()
	if x.ID() != want {
		return nil, fmt.Errorf("snapshot %s %d has identity %s, not %s: %w", h.Feed, h.Serial, x.ID(), want, feed.ErrUntrusted)
	}
	if old, err := s.Snapshot(h.Feed, h.Serial); err == nil {
		if old.ID() != want {
			return nil, fmt.Errorf("two snapshots of %s with serial %d: %w", h.Feed, h.Serial, feed.ErrUntrusted)
		}
		return old, nil
	}
	return s.commitSnapshot(t, h)
}

func (s *Store) commitSnapshot(t *durable.Temp, h feed.Header) (*Snapshot, error) {
	if err := durable.Mkdir(s.snapshotDir(h.Feed)); err != nil {
		return nil, err
	}
	os.Remove(s.indexPath(h.Feed, h.Serial)) // of an earlier document under this name, should there be one
	if err := t.Commit(s.SnapshotPath(h.Feed, h.Serial)); err != nil {
		return nil, err
	}
	return s.Snapshot(h.Feed, h.Serial)
}

// DeleteSnapshot removes a snapshot's document and index, not its blobs.
func (s *Store) DeleteSnapshot(feedName string, serial uint64) error {
	return errors.Join(durable.Remove(s.SnapshotPath(feedName, serial)), durable.Remove(s.indexPath(feedName, serial)))
}

// Builder makes a snapshot from artifacts in any order. It keeps runs of
// artifacts in memory and sorted runs beyond that on disk, so that memory
// stays flat.
type Builder struct {
	s     *Store
	batch []feed.Artifact
	runs  []*os.File
	held  int
}

// runLength is how many artifacts are sorted in memory at a time.
const runLength = 50_000

// NewSnapshot begins a snapshot. The caller ends it with Commit or Discard.
func (s *Store) NewSnapshot() *Builder { return &Builder{s: s} }

// Add names one artifact; its blob must be in the store. Size is filled in
// from the store if zero.
func (b *Builder) Add(a feed.Artifact) error {
	n, ok := b.s.Stat(a.Digest)
	if !ok {
		return fmt.Errorf("artifact %s: blob %s is not in the store", a.Path, a.Digest)
	}
	if a.Size == 0 {
		a.Size = n
	}
	if a.Size != n {
		return fmt.Errorf("artifact %s: size %d, blob has %d: %w", a.Path, a.Size, n, feed.ErrUntrusted)
	}
	if !feed.ValidPath(a.Path) {
		return fmt.Errorf("artifact path %.200q: %w", a.Path, feed.ErrUpstream)
	}
	b.batch = append(b.batch, a)
	b.held++
	if len(b.batch) >= runLength {
		return b.spill()
	}
	return nil
}

// Len is the number of artifacts added.
func (b *Builder) Len() int { return b.held }

func sortBatch(batch []feed.Artifact) {
	slices.SortStableFunc(batch, func(x, y feed.Artifact) int { return cmp.Compare(x.Path, y.Path) })
}

func (b *Builder) spill() error {
	sortBatch(b.batch)
	f, err := os.CreateTemp(b.s.snapshotDir(""), durable.TempPrefix)
	if err != nil {
		return err
	}
	b.runs = append(b.runs, f)
	w, err := feed.NewSnapshotWriter(f, feed.Header{Feed: "run", Kind: "run", Serial: 1})
	if err != nil {
		return err
	}
	last := ""
	for i, a := range b.batch {
		if i > 0 && a.Path == last {
			return duplicate(a.Path)
		}
		last = a.Path
		if err := w.Add(a); err != nil {
			return err
		}
	}
	b.batch = b.batch[:0]
	_, err = w.Close()
	return err
}

func duplicate(path string) error {
	return fmt.Errorf("artifact %s named twice: %w", path, feed.ErrUpstream)
}

// Commit writes the snapshot durably and opens it.
func (b *Builder) Commit(h feed.Header) (*Snapshot, error) {
	defer b.Discard()
	t, err := durable.Create(b.s.snapshotDir(""))
	if err != nil {
		return nil, err
	}
	defer t.Discard()
	w, err := feed.NewSnapshotWriter(t, h)
	if err != nil {
		return nil, err
	}
	last, first := "", true
	for a, err := range b.sorted() {
		if err != nil {
			return nil, err
		}
		if !first && a.Path == last {
			return nil, duplicate(a.Path)
		}
		last, first = a.Path, false
		if err := w.Add(a); err != nil {
			return nil, err
		}
	}
	if _, err := w.Close(); err != nil {
		return nil, err
	}
	return b.s.commitSnapshot(t, h)
}

// Discard removes the builder's temporary files. Safe to defer.
func (b *Builder) Discard() {
	for _, f := range b.runs {
		f.Close()
		os.Remove(f.Name())
	}
	b.runs, b.batch = nil, nil
}

// sorted merges the runs on disk and the batch in memory.
func (b *Builder) sorted() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		sortBatch(b.batch)
		var m merge
		next, stop := iter.Pull2(slices.All(b.batch))
		defer stop()
		m.add(func() (feed.Artifact, error, bool) { _, a, ok := next(); return a, nil, ok })
		for _, f := range b.runs {
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				yield(feed.Artifact{}, err)
				return
			}
			r, err := feed.NewSnapshotReader(f)
			if err != nil {
				yield(feed.Artifact{}, err)
				return
			}
			defer r.Close()
			next, stop := iter.Pull2(r.Artifacts())
			defer stop()
			m.add(next)
		}
		for len(m) > 0 {
			src := m[0]
			if !yield(src.a, src.err) || src.err != nil {
				return
			}
			if src.advance() {
				heap.Fix(&m, 0)
			} else {
				heap.Pop(&m)
			}
		}
	}
}

type source struct {
	a    feed.Artifact
	err  error
	next func() (feed.Artifact, error, bool)
}

func (s *source) advance() (ok bool) {
	s.a, s.err, ok = s.next()
	return ok
}

// merge is a heap of sources by the path of their next artifact.
type merge []*source

func (m *merge) add(next func() (feed.Artifact, error, bool)) {
	if s := (&source{next: next}); s.advance() {
		heap.Push(m, s)
	}
}

func (m merge) Len() int           { return len(m) }
func (m merge) Less(i, j int) bool { return m[i].a.Path < m[j].a.Path }
func (m merge) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *merge) Push(x any)        { *m = append(*m, x.(*source)) }
func (m *merge) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}
