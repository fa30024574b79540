package cas

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// proven remembers which blobs this process has hashed before it served them:
// what rotted on the disk since the import, or was changed by another program,
// is found before the first byte leaves. Later rot is the scrubber's.
type proven struct {
	mu    sync.Mutex
	blobs map[feed.Digest]stamp
}

// stamp tells a file that was changed since.
type stamp struct {
	size int64
	mod  time.Time
}

const (
	// maxProve is the largest blob that is hashed before it is served: a second
	// or two of a disk. A terminal would not wait for more; larger ones are the
	// scrubber's, and the terminal's own signature check's.
	maxProve  = 512 << 20
	maxProven = 100_000 // remembered; beyond, all is forgotten and begins anew
)

// prove is ErrDamaged if the open blob does not have its digest.
func (s *Store) prove(f *os.File, d feed.Digest) (fs.FileInfo, error) {
	info, err := f.Stat()
	if err != nil || info.Size() > maxProve {
		return info, err
	}
	now := stamp{info.Size(), info.ModTime()}
	p := &s.proven
	p.mu.Lock()
	was, ok := p.blobs[d]
	p.mu.Unlock()
	if ok && was == now {
		return info, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if feed.DigestFrom(h) != d {
		return nil, fmt.Errorf("blob %s has other bytes: %w", d, feed.ErrDamaged)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blobs == nil || len(p.blobs) >= maxProven {
		p.blobs = map[feed.Digest]stamp{}
	}
	p.blobs[d] = now
	return info, nil
}
