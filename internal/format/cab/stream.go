package cab

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
)

// byteReader reads entries with their zero-terminated names.
type byteReader struct{ *bufio.Reader }

func newByteReader(r io.Reader) byteReader { return byteReader{bufio.NewReader(r)} }

const maxName = 256 // bytes with the zero (MS-CAB 2.3, szName)

func (b byteReader) name() ([]byte, error) {
	var name []byte
	for len(name) < maxName {
		c, err := b.ReadByte()
		if err != nil {
			return nil, err
		}
		if c == 0 {
			return name, nil
		}
		name = append(name, c)
	}
	return nil, errors.New("name too long")
}

// unpacker turns one block's bytes into its uncompressed bytes. What it
// returns holds until the next call.
type unpacker interface {
	block(in []byte, n int) ([]byte, error)
}

// stream is one folder's uncompressed bytes.
type stream struct {
	c      *Reader
	f      folder
	at     int64
	left   int // blocks
	unpack unpacker
	buf    []byte
	out    []byte
	err    error
}

// Compression methods (MS-CAB 2.2, typeCompress).
const (
	methodStored = 0
	methodMSZIP  = 1
	methodLZX    = 3
)

func newStream(c *Reader, f folder) *stream {
	s := &stream{c: c, f: f, at: f.start, left: f.blocks}
	switch f.method & 15 {
	case methodStored:
		s.unpack = stored{}
	case methodMSZIP:
		s.unpack = &mszip{}
	case methodLZX:
		if bits := f.method >> 8 & 31; bits >= 15 && bits <= 21 {
			s.unpack = newLZX(uint(bits))
			break
		}
		fallthrough
	default:
		s.err = bad("compression %#x", f.method)
	}
	return s
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if s.left == 0 {
			return 0, io.EOF
		}
		if s.out, s.err = s.next(); s.err != nil {
			s.out = nil
			return 0, s.err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// next reads one CFDATA (MS-CAB 2.4).
func (s *stream) next() ([]byte, error) {
	var h [8]byte
	if s.at+8+s.c.reserve > s.c.size {
		return nil, bad("block beyond the end")
	}
	if _, err := s.c.r.ReadAt(h[:], s.at); err != nil {
		return nil, bad("block: %v", err)
	}
	sum, in, out := binary.LittleEndian.Uint32(h[:]), int64(binary.LittleEndian.Uint16(h[4:])), int(binary.LittleEndian.Uint16(h[6:]))
	s.left--
	s.at += 8 + s.c.reserve
	switch {
	case out == 0:
		return nil, bad("block continues in another cabinet")
	case in > blockIn || out > blockOut || s.left > 0 && out != blockOut:
		return nil, bad("block of %d bytes for %d", in, out)
	case s.at+in > s.c.size:
		return nil, bad("block beyond the end")
	}
	if s.buf == nil {
		s.buf = make([]byte, blockIn)
	}
	b := s.buf[:in]
	if _, err := s.c.r.ReadAt(b, s.at); err != nil {
		return nil, bad("block: %v", err)
	}
	s.at += in
	if sum != 0 && checksum(h[4:8], checksum(b, 0)) != sum {
		return nil, bad("checksum of a block")
	}
	return s.unpack.block(b, out)
}

// checksum is MS-CAB 3.1: little-endian words, the rest in the other order.
func checksum(b []byte, sum uint32) uint32 {
	for ; len(b) >= 4; b = b[4:] {
		sum ^= binary.LittleEndian.Uint32(b)
	}
	var rest uint32
	for _, c := range b {
		rest = rest<<8 | uint32(c)
	}
	return sum ^ rest
}

type stored struct{}

func (stored) block(in []byte, n int) ([]byte, error) {
	if len(in) != n {
		return nil, bad("stored block of %d bytes for %d", len(in), n)
	}
	return in, nil
}

// mszip is MS-MCI: "CK" and a deflate stream per block, whose window is the
// 32 KiB before it.
type mszip struct {
	z    io.ReadCloser
	last []byte
}

func (m *mszip) block(in []byte, n int) ([]byte, error) {
	if len(in) < 2 || in[0] != 'C' || in[1] != 'K' {
		return nil, bad("MSZIP block without CK")
	}
	src := bytes.NewReader(in[2:])
	if m.z == nil {
		m.z = flate.NewReader(src)
	} else if err := m.z.(flate.Resetter).Reset(src, m.last); err != nil {
		return nil, bad("MSZIP: %v", err)
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(m.z, out); err != nil {
		return nil, bad("MSZIP: %v", err)
	}
	var more [1]byte
	if k, err := m.z.Read(more[:]); k != 0 || !errors.Is(err, io.EOF) {
		return nil, bad("MSZIP block longer than %d", n)
	}
	m.last = out
	return out, nil
}
