package authenticode

import (
	"bytes"
	"encoding/binary"
	"io"
)

const (
	// headSize is how much of a file's beginning tells where its signature is.
	headSize     = 4096
	maxSignature = 1 << 20
)

// Place says where in a cabinet or program that begins with head its signature
// lies; false if it is neither, or carries none. It judges nothing.
func Place(head []byte) (at, n int64, ok bool) {
	le := binary.LittleEndian
	switch {
	case len(head) >= 60 && string(head[:4]) == "MSCF" && le.Uint16(head[30:])&4 != 0 && le.Uint16(head[36:]) >= 20:
		at, n = int64(le.Uint32(head[44:])), int64(le.Uint32(head[48:]))
	case len(head) >= 64 && string(head[:2]) == "MZ":
		pe := int64(le.Uint32(head[60:]))
		dirs := pe + 24 + 96
		if pe+26 > int64(len(head)) {
			return 0, 0, false
		}
		if le.Uint16(head[pe+24:]) == 0x20B { // PE32+
			dirs += 16
		}
		entry := dirs + 4*8 // IMAGE_DIRECTORY_ENTRY_SECURITY
		if entry+8 > int64(len(head)) {
			return 0, 0, false
		}
		at, n = int64(le.Uint32(head[entry:])), int64(le.Uint32(head[entry+4:]))
	}
	return at, n, at > 0 && n > 0 && n <= maxSignature
}

// Unchanged reports that the file which ask reads ranges of, [from, to), is
// held: it has the same head and the same signature, and a signature holds the
// file's digest. False whenever that cannot be told.
func Unchanged(held io.ReaderAt, size int64, ask func(from, to int64) ([]byte, error)) bool {
	mine := make([]byte, min(size, headSize))
	if _, err := held.ReadAt(mine, 0); err != nil {
		return false
	}
	at, n, ok := Place(mine)
	if !ok || at+n > size {
		return false
	}
	if theirs, err := ask(0, int64(len(mine))); err != nil || !bytes.Equal(theirs, mine) {
		return false
	}
	mine = make([]byte, n)
	if _, err := held.ReadAt(mine, at); err != nil {
		return false
	}
	theirs, err := ask(at, at+n)
	return err == nil && bytes.Equal(theirs, mine)
}
