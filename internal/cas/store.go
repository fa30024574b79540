// Package cas keeps content-addressed blobs and the snapshots that name them.
//
//	store/sha256/ab/<hex>                  blobs; modification time = time of import
//	snapshots/<feed>/<serial>.jsonl.zst    snapshot documents (package feed)
//	snapshots/<feed>/<serial>.idx          derived: the same for Lookup
//
// A blob under its final name is whole and flushed: a name never appears
// before its bytes are on the disk. Blobs are opened through os.Root, which
// lets other processes rename and remove an open file on Windows too and
// keeps every access below the store.
package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// Store is one data directory's blobs and snapshots. Safe for concurrent use.
type Store struct {
	dir    string
	blobs  string
	root   *os.Root
	clock  func() time.Time
	hot    hot
	idle   idle
	proven proven
	bufs   sync.Pool // *[]byte of chunk bytes: a small blob must not cost a large allocation
}

// Open opens the store below the data directory dir, making it if needed.
// clock gives the import time of new blobs: max(system clock, time floor).
func Open(dir string, clock func() time.Time) (*Store, error) {
	s := &Store{dir: dir, blobs: filepath.Join(dir, "store", "sha256"), clock: clock}
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	var err error
	s.root, err = os.OpenRoot(s.blobs)
	return s, err
}

// makeDirs makes all 256 directories at once: Put never has to, and one flush covers them.
func (s *Store) makeDirs() error {
	if err := durable.Mkdir(s.blobs); err != nil {
		return err
	}
	if err := durable.Mkdir(s.snapshotDir("")); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.blobs, "ff")); err == nil {
		return nil
	}
	for i := range 256 {
		if err := os.Mkdir(filepath.Join(s.blobs, fmt.Sprintf("%02x", i)), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return durable.SyncDir(s.blobs)
}

// Close releases the directory handle and the files that rest.
func (s *Store) Close() error {
	s.idle.sweep(true)
	return s.root.Close()
}

// Dir is the data directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(d feed.Digest) string {
	h := d.Hex()
	return s.blobs + string(filepath.Separator) + h[:2] + string(filepath.Separator) + h
}

// Stat returns the size of a blob, and false if the store does not have it.
func (s *Store) Stat(d feed.Digest) (int64, bool) {
	if d == "" {
		return 0, false
	}
	st, err := os.Lstat(s.path(d))
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	return st.Size(), true
}

// File opens a blob for reading; the caller closes it.
func (s *Store) File(d feed.Digest) (*os.File, error) {
	if _, err := feed.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	return s.open(d)
}

// Blob returns a blob that needs no close: each ReadAt opens the file, so that
// a run can hold a hundred thousand of them. Read it in large pieces.
func (s *Store) Blob(d feed.Digest) (feed.Blob, error) {
	n, ok := s.Stat(d)
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, fs.ErrNotExist)
	}
	return blob{s, d, n}, nil
}

type blob struct {
	s *Store
	d feed.Digest
	n int64
}

func (b blob) Size() int64         { return b.n }
func (b blob) Digest() feed.Digest { return b.d }
func (b blob) ReadAt(p []byte, off int64) (int, error) {
	f, err := b.s.File(b.d)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

// Put stores r's bytes and returns their digest and size; the blob is durable
// on return. With want set, other bytes are ErrUntrusted and leave nothing.
func (s *Store) Put(ctx context.Context, r io.Reader, want feed.Digest) (feed.Digest, int64, error) {
	t, err := durable.Create(s.blobs)
	if err != nil {
		return "", 0, err
	}
	defer t.Discard()
	d, n, err := s.fill(ctx, t, r)
	if err != nil {
		return "", 0, err
	}
	if want != "" && d != want {
		return "", 0, fmt.Errorf("content has digest %s, not %s: %w", d, want, feed.ErrUntrusted)
	}
	return d, n, s.commit(t, d)
}

// Adopt makes the finished file at path (on the same file system) a blob by
// renaming it; sum is the digest its writer computed.
func (s *Store) Adopt(path string, sum feed.Digest) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if _, ok := s.Stat(sum); ok {
		return durable.Remove(path)
	}
	if err := s.stamp(path); err != nil {
		return err
	}
	durable.Step("before adopt")
	if err := durable.Rename(path, s.path(sum)); err != nil {
		return err
	}
	durable.Step("after adopt")
	return durable.SyncDir(filepath.Dir(s.path(sum)))
}

func (s *Store) stamp(path string) error {
	now := s.clock()
	return os.Chtimes(path, now, now)
}

func (s *Store) commit(t *durable.Temp, d feed.Digest) error {
	if _, ok := s.Stat(d); ok {
		return nil // the same bytes came in meanwhile; t is discarded
	}
	if err := t.SetTime(s.clock()); err != nil {
		return err
	}
	return t.Commit(s.path(d))
}

// chunk is how much is hashed while the next piece is read.
const chunk = 1 << 20

// fill copies r to w and hashes in a goroutine of its own, which doubles the
// speed of large imports: reading and writing wait for the disk meanwhile.
func (s *Store) fill(ctx context.Context, w io.Writer, r io.Reader) (feed.Digest, int64, error) {
	h := sha256.New()
	pooled, ok := s.bufs.Get().(*[]byte)
	if !ok {
		b := make([]byte, chunk)
		pooled = &b
	}
	defer s.bufs.Put(pooled)
	first := *pooled
	// A small blob needs neither the goroutine nor more buffers.
	n, err := io.ReadFull(r, first)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		h.Write(first[:n])
		_, err = w.Write(first[:n])
		return feed.DigestFrom(h), int64(n), err
	}
	if err != nil {
		return "", 0, err
	}
	free, full, done := make(chan []byte, 3), make(chan []byte, 3), make(chan struct{})
	go func() {
		defer close(done)
		for b := range full {
			h.Write(b)
			free <- b[:chunk]
		}
	}()
	free <- make([]byte, chunk)
	free <- make([]byte, chunk)
	total, pushed := int64(0), int64(0)
	buf := first
	for {
		if n > 0 {
			if _, err = w.Write(buf[:n]); err != nil {
				break
			}
			total += int64(n)
			pushed = push(w, pushed, total)
			full <- buf[:n]
			buf = <-free
		}
		if err = ctx.Err(); err != nil {
			break
		}
		var rerr error
		n, rerr = io.ReadFull(r, buf)
		if n == 0 && errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil && !errors.Is(rerr, io.ErrUnexpectedEOF) && !errors.Is(rerr, io.EOF) {
			err = rerr
			break
		}
	}
	close(full)
	<-done
	return feed.DigestFrom(h), total, err
}

// Verify reads a blob again and compares its digest: ErrDamaged if it differs.
func (s *Store) Verify(ctx context.Context, d feed.Digest) error {
	f, err := s.File(d)
	if err != nil {
		return err
	}
	defer f.Close()
	got, _, err := s.fill(ctx, io.Discard, f)
	if err != nil {
		return err
	}
	if got != d {
		return fmt.Errorf("blob %s now reads as %s: %w", d, got, feed.ErrDamaged)
	}
	return nil
}

// Delete removes a blob; a missing one is no error.
func (s *Store) Delete(d feed.Digest) error {
	s.hot.forget(d)
	return durable.Remove(s.path(d))
}

// Walk calls fn for every blob, in order of digest.
func (s *Store) Walk(ctx context.Context, fn func(d feed.Digest, size int64, imported time.Time) error) error {
	for i := range 256 {
		if err := ctx.Err(); err != nil {
			return err
		}
		ents, err := os.ReadDir(filepath.Join(s.blobs, fmt.Sprintf("%02x", i)))
		if err != nil {
			return err
		}
		for _, e := range ents {
			d, err := feed.ParseDigest("sha256:" + e.Name())
			if err != nil {
				continue
			}
			st, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := fn(d, st.Size(), st.ModTime()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Clean removes what a killed process left unfinished. Call it only while no
// other process writes to this store.
func (s *Store) Clean() error {
	if err := durable.CleanTemps(s.blobs); err != nil {
		return err
	}
	if err := durable.CleanTemps(s.snapshotDir("")); err != nil {
		return err
	}
	feeds, err := s.Feeds()
	if err != nil {
		return err
	}
	for _, f := range feeds {
		if err := durable.CleanTemps(s.snapshotDir(f)); err != nil {
			return err
		}
	}
	return nil
}
