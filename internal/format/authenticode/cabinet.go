package authenticode

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// reserveSize is what a signed cabinet's header has more: the sizes of three
// reserves (MS-CAB 2.1) and the header's own, which tells where the signature is.
const reserveSize = 4 + 20

// SignCabinet writes the cabinet in r (size bytes, no reserve, not part of a
// set) with a signature behind it. The files in it are not touched; everything
// that the header says about places moves by the reserve. r is read twice.
func SignCabinet(w io.Writer, r io.ReaderAt, size int64, by Signer, at time.Time) error {
	var h [36]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return fmt.Errorf("cabinet: %w", err)
	}
	le := binary.LittleEndian
	folders := int64(le.Uint16(h[26:]))
	switch {
	case string(h[:4]) != "MSCF" || le.Uint32(h[4:]) != 0 || int64(le.Uint32(h[8:])) != size:
		return errors.New("cabinet: not one, or not whole")
	case le.Uint16(h[30:]) != 0 || le.Uint16(h[34:]) != 0:
		return errors.New("cabinet: has a reserve, or is part of a set")
	case 36+8*folders > size || size > 1<<31-1-reserveSize:
		return errors.New("cabinet: folders beyond the end, or too large")
	}
	head := make([]byte, 36+reserveSize+8*folders)
	copy(head, h[:])
	if _, err := r.ReadAt(head[36+reserveSize:], 36); err != nil {
		return fmt.Errorf("cabinet: %w", err)
	}
	end := uint32(size + reserveSize)
	le.PutUint32(head[8:], end)
	le.PutUint32(head[16:], le.Uint32(h[16:])+reserveSize)
	le.PutUint16(head[30:], 4)
	copy(head[36:], []byte{20, 0, 0, 0, 0, 0, 16, 0})
	le.PutUint32(head[44:], end)
	for i := range folders {
		at := head[36+reserveSize+8*i:]
		le.PutUint32(at, le.Uint32(at)+reserveSize)
	}
	rest := io.NewSectionReader(r, 36+8*folders, size-36-8*folders)
	d := sha256.New() // leaves out reserved1, iCabinet, the reserve but its last bytes (wintrust.h)
	for _, part := range [][]byte{head[:4], head[8:34], head[56:]} {
		d.Write(part)
	}
	if _, err := io.Copy(d, rest); err != nil {
		return fmt.Errorf("cabinet: %w", err)
	}
	sig, err := Sign(Cabinet, d.Sum(nil), by, at)
	if err != nil {
		return err
	}
	for len(sig)%8 != 0 {
		sig = append(sig, 0)
	}
	le.PutUint32(head[48:], uint32(len(sig)))
	if _, err := w.Write(head); err != nil {
		return err
	}
	if _, err := rest.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(w, rest); err != nil {
		return err
	}
	_, err = w.Write(sig)
	return err
}
