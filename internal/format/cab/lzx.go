package cab

import (
	"encoding/binary"
)

// LZX as cabinets use it (MS-PATCH 2; "LZX DELTA" without its extensions):
// one block of data is one frame of 32 KiB, after which the bit stream is
// aligned to 16 bits; blocks of the compressor may span frames.

const (
	lzxMaxBits   = 16
	lzxPre       = 20
	lzxLengths   = 249
	lzxChars     = 256
	lzxAligned   = 8
	lzxMaxFrames = 32768 // E8 translation ends after 1 GiB

	lzxVerbatim     = 1
	lzxAlignedBlock = 2
	lzxUncompressed = 3
)

// lzxSlots is the number of position slots by window bits, from 15.
var lzxSlots = [...]int{30, 32, 34, 36, 38, 42, 50}

type lzx struct {
	window []byte
	pos    int // in window: where the next byte goes
	frame  int64

	in   []byte // not yet read, over the ends of blocks
	at   int
	acc  uint64 // left-aligned bits
	bits uint

	begun    bool
	fileSize int32 // for E8 translation; 0 is none
	e8       bool
	r        [3]int
	kind     uint
	length   int // of the compressor's block
	left     int // of it
	slots    int

	mainLen  [lzxChars + 50*8]uint8
	lenLen   [lzxLengths]uint8
	main     huffman
	lengths  huffman
	aligned  huffman
	out      [blockOut]byte
	overrun  bool // more bits were used than there are
	base     [50]int
	extra    [50]uint
	preTable huffman
}

func newLZX(bits uint) *lzx {
	l := &lzx{window: make([]byte, 1<<bits), slots: lzxSlots[bits-15], r: [3]int{1, 1, 1}}
	base := 0
	for i := range l.base {
		l.base[i] = base
		switch {
		case i < 4:
		case i < 36:
			l.extra[i] = uint(i/2 - 1)
		default:
			l.extra[i] = 17
		}
		base += 1 << l.extra[i]
	}
	return l
}

func (l *lzx) fill() {
	for l.bits <= 48 && l.at+1 < len(l.in) {
		l.acc |= uint64(binary.LittleEndian.Uint16(l.in[l.at:])) << (48 - l.bits)
		l.bits += 16
		l.at += 2
	}
}

// take returns n ≤ 17 bits; beyond the end, zeros, and overrun is set.
func (l *lzx) take(n uint) int {
	if l.bits < n {
		l.fill()
	}
	v := int(l.acc >> (64 - n))
	l.drop(n)
	return v
}

func (l *lzx) drop(n uint) {
	if n > l.bits {
		l.overrun = true
		n = l.bits
	}
	l.acc <<= n
	l.bits -= n
}

// unread gives whole words back and forgets the rest of the current one.
func (l *lzx) unread() {
	l.at -= int(l.bits/16) * 2
	l.acc, l.bits = 0, 0
}

// block unpacks one frame.
func (l *lzx) block(in []byte, n int) ([]byte, error) {
	if len(l.in)-l.at > blockIn {
		return nil, bad("LZX: blocks longer than their content")
	}
	l.in = append(append(make([]byte, 0, len(l.in)-l.at+len(in)), l.in[l.at:]...), in...)
	l.at = 0
	if !l.begun {
		l.begun = true
		if l.take(1) == 1 {
			l.fileSize = int32(uint32(l.take(16))<<16 | uint32(l.take(16)))
		}
	}
	start, todo := l.pos, n
	for todo > 0 {
		if l.left == 0 {
			if err := l.header(); err != nil {
				return nil, err
			}
		}
		run := min(l.left, todo)
		var err error
		if l.kind == lzxUncompressed {
			err = l.raw(run)
		} else {
			err = l.coded(run)
		}
		if err != nil {
			return nil, err
		}
		if l.overrun {
			return nil, bad("LZX: data ends early")
		}
		l.left -= run
		todo -= run
	}
	l.unread()
	copy(l.out[:n], l.window[start:start+n])
	l.pos &= len(l.window) - 1
	l.translate(l.out[:n])
	l.frame++
	return l.out[:n], nil
}

// header begins a block of the compressor.
func (l *lzx) header() error {
	if l.kind == lzxUncompressed && l.length&1 == 1 {
		if l.at >= len(l.in) {
			return bad("LZX: data ends early")
		}
		l.at++ // such a block is padded to 16 bits
	}
	l.kind = uint(l.take(3))
	l.length = l.take(16)<<8 | l.take(8)
	l.left = l.length
	if l.overrun || l.length == 0 {
		return bad("LZX: block header")
	}
	switch l.kind {
	case lzxUncompressed:
		return l.rawHeader()
	case lzxAlignedBlock:
		var lens [lzxAligned]uint8
		for i := range lens {
			lens[i] = uint8(l.take(3))
		}
		if !l.aligned.build(lens[:]) {
			return bad("LZX: aligned tree")
		}
	case lzxVerbatim:
	default:
		return bad("LZX: block type %d", l.kind)
	}
	mains := lzxChars + l.slots*8
	if !l.readLengths(l.mainLen[:lzxChars]) || !l.readLengths(l.mainLen[lzxChars:mains]) || !l.main.build(l.mainLen[:mains]) {
		return bad("LZX: main tree")
	}
	l.e8 = l.e8 || l.mainLen[0xE8] != 0
	if !l.readLengths(l.lenLen[:]) || !l.lengths.build(l.lenLen[:]) && !l.lengths.empty {
		return bad("LZX: length tree")
	}
	return nil
}

// rawHeader aligns by 1 to 16 bits and reads the three last offsets.
func (l *lzx) rawHeader() error {
	l.e8 = true
	if l.bits%16 == 0 {
		l.take(16)
	}
	l.unread()
	if l.overrun || len(l.in)-l.at < 12 {
		return bad("LZX: data ends early")
	}
	for i := range l.r {
		l.r[i] = int(int32(binary.LittleEndian.Uint32(l.in[l.at:])))
		l.at += 4
	}
	return nil
}

func (l *lzx) raw(n int) error {
	if len(l.in)-l.at < n {
		return bad("LZX: data ends early")
	}
	copy(l.window[l.pos:l.pos+n], l.in[l.at:])
	l.at += n
	l.pos += n
	return nil
}

// readLengths reads code lengths as differences to the block before.
func (l *lzx) readLengths(lens []uint8) bool {
	var pre [lzxPre]uint8
	for i := range pre {
		pre[i] = uint8(l.take(4))
	}
	t := &l.preTable
	if !t.build(pre[:]) {
		return false
	}
	for i := 0; i < len(lens); {
		z := l.symbol(t)
		run, v := 1, uint8(0)
		switch z {
		case 17:
			run = 4 + l.take(4)
		case 18:
			run = 20 + l.take(5)
		case 19:
			run = 4 + l.take(1)
			z = l.symbol(t)
			if z > 16 {
				return false
			}
			v = uint8((int(lens[i]) + 17 - z) % 17)
		default:
			v = uint8((int(lens[i]) + 17 - z) % 17)
		}
		if l.overrun || i+run > len(lens) {
			return false
		}
		for range run {
			lens[i] = v
			i++
		}
	}
	return true
}

func (l *lzx) symbol(h *huffman) int {
	if l.bits < lzxMaxBits {
		l.fill()
	}
	s, n := h.decode(uint16(l.acc >> 48))
	l.drop(n)
	return s
}

// coded unpacks n bytes of a verbatim or aligned block. A match must not leave
// the frame nor the block; it may reach back as far as the window, even before
// the first byte, where there are zeros, as every implementation allows.
func (l *lzx) coded(n int) error {
	w, mask, end := l.window, len(l.window)-1, l.pos+n
	for l.pos < end {
		s := l.symbol(&l.main)
		if s < lzxChars {
			w[l.pos] = byte(s)
			l.pos++
			continue
		}
		if l.overrun {
			return bad("LZX: data ends early")
		}
		s -= lzxChars
		length := s & 7
		if length == 7 {
			if l.lengths.empty {
				return bad("LZX: length without a tree")
			}
			length += l.symbol(&l.lengths)
		}
		length += 2
		if length > end-l.pos {
			return bad("LZX: match over the end of a frame")
		}
		off := l.offset(s >> 3)
		if off <= 0 || off > len(w) {
			return bad("LZX: offset %d", off)
		}
		from := l.pos - off
		if from >= 0 && off >= length {
			copy(w[l.pos:l.pos+length], w[from:from+length])
			l.pos += length
			continue
		}
		for range length {
			w[l.pos] = w[from&mask]
			l.pos++
			from++
		}
	}
	return nil
}

// offset reads how far back a match begins.
func (l *lzx) offset(slot int) int {
	switch slot {
	case 0:
	case 1, 2:
		l.r[0], l.r[slot] = l.r[slot], l.r[0]
	default:
		off, extra := l.base[slot]-2, l.extra[slot]
		switch {
		case l.kind == lzxAlignedBlock && extra >= 3:
			if extra > 3 {
				off += l.take(extra-3) << 3
			}
			off += l.symbol(&l.aligned)
		case extra > 0:
			off += l.take(extra)
		}
		l.r = [3]int{off, l.r[0], l.r[1]}
	}
	return l.r[0]
}

// translate undoes the E8 call translation of x86 code in one frame.
func (l *lzx) translate(b []byte) {
	if !l.e8 || l.fileSize == 0 || l.frame >= lzxMaxFrames || len(b) <= 10 {
		return
	}
	pos := int32(l.frame * blockOut)
	for i := 0; i < len(b)-10; i++ {
		if b[i] != 0xE8 {
			continue
		}
		at := pos + int32(i)
		abs := int32(binary.LittleEndian.Uint32(b[i+1:]))
		if abs >= -at && abs < l.fileSize {
			rel := abs + l.fileSize
			if abs >= 0 {
				rel = abs - at
			}
			binary.LittleEndian.PutUint32(b[i+1:], uint32(rel))
		}
		i += 4
	}
}
