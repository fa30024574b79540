package verifier

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
)

// cabinet: the signature lies behind the cabinet; the 20 bytes of the header's
// reserve tell where. The digest leaves out reserved1, iCabinet and the reserve
// but its last four bytes.
func cabinet(r io.ReaderAt, size int64) (container, error) {
	bad := func(what string) (container, error) {
		return container{}, fmt.Errorf("cabinet: %s: %w", what, feed.ErrUntrusted)
	}
	var h [60]byte
	if size < int64(len(h)) {
		return bad("too short")
	}
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return container{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	le := binary.LittleEndian
	if le.Uint16(h[30:])&4 == 0 || le.Uint16(h[36:]) < 20 {
		return container{}, ErrUnsigned
	}
	end, at, n := int64(le.Uint32(h[8:])), int64(le.Uint32(h[44:])), int64(le.Uint32(h[48:]))
	switch {
	case at == 0 && n == 0:
		return container{}, ErrUnsigned
	case le.Uint16(h[30:]) != 4, !bytes.Equal(h[36:44], []byte{20, 0, 0, 0, 0, 0, 16, 0}), le.Uint32(h[52:]) != 0:
		return bad("unknown flags or reserve")
	case le.Uint32(h[4:]) != 0, le.Uint16(h[34:]) != 0:
		return bad("something in what the signature does not cover")
	case at != end || at < int64(len(h)) || n <= 0 || n > maxSignature || at+n != size:
		return bad("the signature does not follow the cabinet to the file's end")
	}
	der := make([]byte, n)
	if _, err := r.ReadAt(der, at); err != nil {
		return container{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	return container{signature: der, digest: func(h crypto.Hash) ([]byte, error) {
		return digestOf(h, r, [2]int64{0, 4}, [2]int64{8, 34}, [2]int64{56, end})
	}}, nil
}
