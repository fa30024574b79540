package cas

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hashike/hashike/internal/feed"
)

// hot remembers the bytes of small blobs that terminals ask for: opening and
// reading costs more than sending them. Its key is the digest, so what it holds
// is never stale; whether a terminal may have it is decided before (Lookup).
type hot struct {
	mu    sync.RWMutex
	blobs map[feed.Digest]*small
	bytes int
}

// small is a blob's content and its file's own attributes.
type small struct {
	data []byte
	info fs.FileInfo
}

// Bounds of what is remembered; beyond, all is forgotten and begins anew.
const (
	maxSmall = 4 << 10 // bytes of one blob
	maxHot   = 8 << 20 // bytes of all
)

// openHot opens a blob for serving: from memory if it is small.
func (s *Store) openHot(d feed.Digest, size int64) (fs.File, error) {
	if size > maxSmall {
		return s.openIdle(d)
	}
	s.hot.mu.RLock()
	b := s.hot.blobs[d]
	s.hot.mu.RUnlock()
	if b == nil {
		f, err := s.File(d)
		if err != nil {
			return nil, err
		}
		b, err = read(f)
		f.Close()
		if err == nil && (int64(len(b.data)) != size || feed.DigestOf(b.data) != d) {
			err = fmt.Errorf("blob %s has other bytes: %w", d, feed.ErrDamaged)
		}
		if err != nil {
			return nil, err
		}
		s.hot.keep(d, b)
	}
	return &smallFile{bytes.NewReader(b.data), b}, nil
}

func read(f *os.File) (*small, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, maxSmall+1)
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return &small{bytes.Clone(b[:n]), st}, err
}

func (h *hot) keep(d feed.Digest, b *small) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blobs == nil || h.bytes+len(b.data) > maxHot || len(h.blobs) >= maxHot/maxSmall*4 {
		h.blobs, h.bytes = map[feed.Digest]*small{}, 0
	}
	if _, has := h.blobs[d]; !has {
		h.bytes += len(b.data)
	}
	h.blobs[d] = b
}

// forget drops what is deleted.
func (h *hot) forget(d feed.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b, has := h.blobs[d]; has {
		h.bytes -= len(b.data)
		delete(h.blobs, d)
	}
}

// smallFile is an fs.File, io.Seeker and io.ReaderAt over a blob in memory.
type smallFile struct {
	*bytes.Reader
	b *small
}

func (f *smallFile) Stat() (fs.FileInfo, error) { return f.b.info, nil }
func (f *smallFile) Close() error               { return nil }

// Bytes is the whole file; it must not be changed.
func (f *smallFile) Bytes() []byte { return f.b.data }

var _ interface {
	fs.File
	io.ReadSeeker
	io.ReaderAt
} = (*smallFile)(nil)
