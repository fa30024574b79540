package verifier

import (
	"crypto"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
)

// program (PE/COFF §4.7 and §"Attribute Certificate Table"): the digest covers
// the file up to its certificate table, but not the checksum and the
// directory's entry of that table. The table must be the file's end and hold
// one PKCS#7 signature: what is behind or beside it is signed by nobody.
func program(r io.ReaderAt, size int64) (container, error) {
	bad := func(format string, a ...any) (container, error) {
		return container{}, fmt.Errorf("program: %s: %w", fmt.Sprintf(format, a...), feed.ErrUntrusted)
	}
	// DOS stub and headers lie in the first sectors; 4 KiB hold all that is
	// looked at of any genuine file.
	head := make([]byte, min(size, 4096))
	if _, err := r.ReadAt(head, 0); err != nil {
		return container{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	le := binary.LittleEndian
	if len(head) < 64 {
		return bad("too short")
	}
	pe := int64(le.Uint32(head[60:]))
	if pe < 4 || pe+24+96+5*8+8 > int64(len(head)) || string(head[pe:pe+4]) != "PE\x00\x00" {
		return bad("no PE header")
	}
	opt := pe + 24
	dirs := opt + 96
	switch le.Uint16(head[opt:]) {
	case 0x10B: // PE32
	case 0x20B: // PE32+
		dirs = opt + 112
	default:
		return bad("optional header %#x", le.Uint16(head[opt:]))
	}
	entry := dirs + 4*8 // IMAGE_DIRECTORY_ENTRY_SECURITY
	if le.Uint32(head[dirs-4:]) < 5 || dirs-opt+5*8 > int64(le.Uint16(head[pe+20:])) || entry+8 > int64(len(head)) {
		return container{}, ErrUnsigned
	}
	sum := opt + 64 // CheckSum
	at, n := int64(le.Uint32(head[entry:])), int64(le.Uint32(head[entry+4:]))
	c := container{digest: func(h crypto.Hash) ([]byte, error) {
		end := at
		if end == 0 {
			end = size
		}
		return digestOf(h, r, [2]int64{0, sum}, [2]int64{sum + 4, entry}, [2]int64{entry + 8, end})
	}}
	switch {
	case at == 0 && n == 0:
		return c, ErrUnsigned // a catalogue may list it
	case at < entry+8 || n < 8 || n > maxSignature || at+n != size:
		return bad("the signature is not the file's end")
	}
	table := make([]byte, n)
	if _, err := r.ReadAt(table, at); err != nil {
		return container{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	length := int64(le.Uint32(table))
	switch {
	case length < 8 || length > n || n-length > 7:
		return bad("several certificates, or bytes behind one")
	case le.Uint16(table[4:]) != 0x200 || le.Uint16(table[6:]) != 2:
		return bad("certificate of revision %#x and type %d", le.Uint16(table[4:]), le.Uint16(table[6:]))
	}
	for _, b := range table[length:] {
		if b != 0 {
			return bad("something in the padding")
		}
	}
	c.signature = table[8:length]
	return c, nil
}
