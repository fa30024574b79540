// Package zipfile opens zip files that may be hostile (APPNOTE.TXT 6.3.10).
package zipfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

const (
	maxMembers   = 60_000
	maxDirectory = 32 << 20 // bytes of an archive's directory
)

// Open opens a zip file that may be hostile: at most 60,000 members, a
// directory of at most 32 MiB, no zip64. archive/zip alone would set memory
// aside by what a directory claims. ErrUpstream if a limit is exceeded; any
// other error may mean a file that is still being written.
func Open(r io.ReaderAt, size int64) (*zip.Reader, error) {
	tail := make([]byte, min(size, 66<<10)) // the end record and the longest comment (APPNOTE 4.3.16)
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for at := 0; ; at++ {
		i := bytes.Index(tail[at:], []byte("PK\x05\x06"))
		if i < 0 {
			break
		}
		if at += i; len(tail)-at < 22 {
			break
		}
		le := binary.LittleEndian
		n, length, offset := le.Uint16(tail[at+10:]), le.Uint32(tail[at+12:]), le.Uint32(tail[at+16:])
		if n > maxMembers || length > maxDirectory || offset == 1<<32-1 {
			return nil, fmt.Errorf("archive of %d members, directory of %d bytes: %w", n, length, feed.ErrUpstream)
		}
	}
	b := &budget{r: r, left: maxDirectory + 256<<10}
	z, err := zip.NewReader(b, size)
	if b.left < 0 {
		return nil, fmt.Errorf("directory of over %d bytes: %w", maxDirectory, feed.ErrUpstream)
	}
	if err != nil {
		return nil, err
	}
	b.open = true
	if len(z.File) > maxMembers {
		return nil, fmt.Errorf("archive of %d members: %w", len(z.File), feed.ErrUpstream)
	}
	return z, nil
}

// budget limits what is read until the directory is known.
type budget struct {
	r    io.ReaderAt
	left int64
	open bool
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if !b.open {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, errors.New("too much of an archive's directory")
		}
	}
	return b.r.ReadAt(p, off)
}

// Newest is the time of an archive's newest member: the writer's clock, without
// a zone unless it wrote one, taken for UTC.
func Newest(z *zip.Reader) (at time.Time) {
	for _, f := range z.File {
		if f.Modified.After(at) {
			at = f.Modified.UTC()
		}
	}
	return at
}
