package packager

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hashike/hashike/internal/feed"
)

// containerReader reads one container of a medium and hashes what it reads.
type containerReader struct {
	f    mediumFile
	c    *Container
	h    hash.Hash
	left int64
	err  error // of the medium
}

func openContainer(m *medium, c *Container) (*containerReader, error) {
	f, err := openSized(m, c)
	if err != nil {
		return nil, err
	}
	return &containerReader{f: f, c: c, h: sha256.New(), left: c.Size}, nil
}

func (r *containerReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.f.Read(p[:min(int64(len(p)), r.left)])
	r.h.Write(p[:n])
	r.left -= int64(n)
	if errors.Is(err, io.EOF) && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// end reads what is left and compares the whole with its digest.
func (r *containerReader) end() error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if d := feed.DigestFrom(r.h); d != r.c.Digest {
		return fmt.Errorf("its bytes have digest %s: %w", d, feed.ErrDamaged)
	}
	return nil
}

func (r *containerReader) close() { r.f.Close() }
