package appx

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// piece is bytes at a place of a large file; the rest is zeros.
type piece struct {
	at int64
	b  []byte
}

type sparse []piece

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for _, x := range s {
		from, to := max(off, x.at), min(off+int64(len(p)), x.at+int64(len(x.b)))
		if from < to {
			copy(p[from-off:to-off], x.b[from-x.at:to-x.at])
		}
	}
	return len(p), nil
}

// huge is an archive with one stored file of five gibibytes and one behind it,
// as the packaging tools write what does not fit 32 bits.
func huge(change func(dir []byte)) (io.ReaderAt, int64) {
	const size = int64(5) << 30
	local := append([]byte("PK\x03\x04\x2d\x00\x08\x00\x00\x00\x00\x00\x21\x00"), make([]byte, 16)...)
	binary.LittleEndian.PutUint16(local[26:], 1)
	first, second := append(bytes.Clone(local), 'a'), append(bytes.Clone(local), 'b')
	descriptor := func(n int64) []byte {
		d := append([]byte("PK\x07\x08"), 0, 0, 0, 0)
		d = binary.LittleEndian.AppendUint64(d, uint64(n))
		return binary.LittleEndian.AppendUint64(d, uint64(n))
	}
	at := 31 + size + 24 // of the second record
	entry := func(name byte, extra []byte, size, start uint32) []byte {
		e := append([]byte("PK\x01\x02\x2d\x00"), local[4:30]...)
		binary.LittleEndian.PutUint32(e[20:], size)
		binary.LittleEndian.PutUint32(e[24:], size)
		binary.LittleEndian.PutUint16(e[30:], uint16(len(extra)))
		e = append(e, make([]byte, 14)...)
		binary.LittleEndian.PutUint32(e[42:], start)
		return append(append(e, name), extra...)
	}
	x := binary.LittleEndian.AppendUint64([]byte{1, 0, 16, 0}, uint64(size))
	x = binary.LittleEndian.AppendUint64(x, uint64(size))
	y := binary.LittleEndian.AppendUint64([]byte{1, 0, 8, 0}, uint64(at))
	dir := append(entry('a', x, 0xFFFFFFFF, 0), entry('b', y, 0, 0xFFFFFFFF)...)
	change(dir)
	start := at + 31 + 24
	end := append([]byte("PK\x06\x06"), make([]byte, 52)...)
	binary.LittleEndian.PutUint64(end[4:], 44)
	for i, v := range []uint64{2, 2, uint64(len(dir)), uint64(start)} {
		binary.LittleEndian.PutUint64(end[24+8*i:], v)
	}
	end = append(end, "PK\x06\x07\x00\x00\x00\x00"...)
	end = binary.LittleEndian.AppendUint64(end, uint64(start)+uint64(len(dir)))
	end = append(end, "\x01\x00\x00\x00PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00"...)
	return sparse{{0, first}, {31 + size, descriptor(size)}, {at, second}, {at + 31, descriptor(0)}, {start, append(dir, end...)}}, start + int64(len(dir)+len(end))
}

func TestLargeArchive(t *testing.T) {
	r, size := huge(func([]byte) {})
	p, err := Open(r, size)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Files) != 2 || p.Files[0].Size != 5<<30 || p.Files[1].Data != int64(5<<30)+31+24+31 {
		t.Errorf("%+v", p.Files)
	}
	for name, change := range map[string]func([]byte){
		"another extra field": func(d []byte) { d[47] = 2 },
		"its length":          func(d []byte) { d[49] = 8 },
		"a size of its own":   func(d []byte) { d[51]++ },
		"a start of its own":  func(d []byte) { d[len(d)-8]++ },
		"a size in both":      func(d []byte) { copy(d[24:], []byte{1, 0, 0, 0}) },
		"a disk":              func(d []byte) { d[34] = 1 },
		"encrypted":           func(d []byte) { d[8] |= 1 },
		"an unknown method":   func(d []byte) { d[10] = 9 },
		"a comment":           func(d []byte) { d[32] = 1 },
		"the name of another": func(d []byte) { d[46] = 'b' },
		"more than there is":  func(d []byte) { d[28] = 200 },
		"no directory entry":  func(d []byte) { d[0] = 'X' },
		"another checksum":    func(d []byte) { d[16] = 1 },
		"another time":        func(d []byte) { d[12] = 1 },
	} {
		r, size := huge(change)
		if _, err := Open(r, size); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(r, size-1); !errors.Is(err, ErrFormat) {
		t.Errorf("a byte less: %v", err)
	}
}
