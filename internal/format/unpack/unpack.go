// Package unpack opens the compressed files that vendors publish, bounded: the
// output by the caller's limit, the decoder's memory by MaxWindow, so that a
// few bytes cannot ask for gigabytes.
package unpack

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/hashike/hashike/internal/feed"
)

// MaxWindow is the largest dictionary a file may ask for. xz -9 uses 64 MiB.
const MaxWindow = 128 << 20

// ErrTooLarge: the output went past the limit.
var ErrTooLarge = fmt.Errorf("unpacked content over its limit: %w", feed.ErrUpstream)

// Open decodes a file by its name's ending (.xz .gz .bz2 .zst; anything else
// is plain). Reading past limit bytes of output gives ErrTooLarge.
func Open(name string, r io.ReaderAt, size, limit int64) (io.ReadCloser, error) {
	src := io.NewSectionReader(r, 0, size)
	var out io.Reader
	closer := func() {}
	switch path.Ext(name) {
	case ".xz":
		if err := checkXZ(r, size); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		x, err := xz.ReaderConfig{SingleStream: true}.NewReader(newBuffered(src))
		if err != nil {
			return nil, upstream(name, err)
		}
		out = x
	case ".gz":
		z, err := gzip.NewReader(newBuffered(src))
		if err != nil {
			return nil, upstream(name, err)
		}
		out = z
	case ".bz2":
		out = bzip2.NewReader(newBuffered(src))
	case ".zst":
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderMaxMemory(2*MaxWindow))
		if err != nil {
			return nil, upstream(name, err)
		}
		out, closer = z, z.Close
	default:
		out = newBuffered(src)
	}
	return &limited{name: name, r: out, left: limit, close: closer}, nil
}

func upstream(name string, err error) error {
	return fmt.Errorf("%s: %w: %w", name, err, feed.ErrUpstream)
}

type limited struct {
	name  string
	r     io.Reader
	left  int64
	close func()
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, ErrTooLarge
	}
	// One byte more than allowed shows that there is more.
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if l.left < 0 {
		return 0, fmt.Errorf("%s: %w", l.name, ErrTooLarge)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = upstream(l.name, err)
	}
	return n, err
}

func (l *limited) Close() error { l.close(); return nil }

// buffered gives decoders the ByteReader they want over 256 KiB reads.
func newBuffered(r io.Reader) io.Reader { return &buffered{r: r, buf: make([]byte, 256<<10)} }

type buffered struct {
	r    io.Reader
	buf  []byte
	data []byte
	err  error
}

func (b *buffered) fill() bool {
	for len(b.data) == 0 && b.err == nil {
		var n int
		n, b.err = b.r.Read(b.buf)
		b.data = b.buf[:n]
	}
	return len(b.data) > 0
}

func (b *buffered) Read(p []byte) (int, error) {
	if !b.fill() {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

func (b *buffered) ReadByte() (byte, error) {
	if !b.fill() {
		return 0, b.err
	}
	c := b.data[0]
	b.data = b.data[1:]
	return c, nil
}

// checkXZ walks the index of an .xz stream (The .xz File Format 1.2.1, §§2-4)
// and looks at every block's filter: the decoder allocates the dictionary that
// a block header asks for, up to 4 GiB, before it has read anything else.
func checkXZ(r io.ReaderAt, size int64) error {
	bad := func(what string) error { return fmt.Errorf("xz %s: %w", what, feed.ErrUpstream) }
	var head, foot [12]byte
	if size < 24 {
		return bad("stream too short")
	}
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return err
	}
	if _, err := r.ReadAt(foot[:], size-12); err != nil {
		return err
	}
	if !bytes.Equal(head[:6], []byte("\xfd7zXZ\x00")) || foot[10] != 'Y' || foot[11] != 'Z' {
		return bad("magic")
	}
	back := (int64(binary.LittleEndian.Uint32(foot[4:8])) + 1) * 4
	start := size - 12 - back
	if start < 12 || back > 16<<20 {
		return bad("index size")
	}
	index := make([]byte, back)
	if _, err := r.ReadAt(index, start); err != nil {
		return err
	}
	if index[0] != 0 || crc32.ChecksumIEEE(index[:back-4]) != binary.LittleEndian.Uint32(index[back-4:]) {
		return bad("index")
	}
	p := index[1 : back-4]
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(p)
		if n <= 0 {
			return 0, false
		}
		p = p[n:]
		return v, true
	}
	n, ok := next()
	if !ok || n > uint64(back) {
		return bad("index")
	}
	at := int64(12)
	for range n {
		unpadded, ok1 := next()
		_, ok2 := next()
		if !ok1 || !ok2 || unpadded == 0 || unpadded > uint64(size) || at >= start {
			return bad("index record")
		}
		if err := checkBlock(r, at); err != nil {
			return err
		}
		at += int64(unpadded+3) &^ 3
	}
	if at != start {
		return bad("blocks and index disagree")
	}
	return nil
}

// checkBlock accepts a block with LZMA2 alone and a dictionary within MaxWindow.
func checkBlock(r io.ReaderAt, at int64) error {
	bad := func(what string) error { return fmt.Errorf("xz block: %s: %w", what, feed.ErrUpstream) }
	h := make([]byte, 1024)
	n, err := r.ReadAt(h, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n < 8 || h[0] == 0 || (int(h[0])+1)*4 > n {
		return bad("header")
	}
	h = h[:(int(h[0])+1)*4]
	if h[1]&0x03 != 0 {
		return bad("more than one filter")
	}
	p := h[2 : len(h)-4]
	for _, bit := range []byte{0x40, 0x80} { // compressed and uncompressed size, if present
		if h[1]&bit != 0 {
			_, w := binary.Uvarint(p)
			if w <= 0 {
				return bad("size")
			}
			p = p[w:]
		}
	}
	if len(p) < 3 || p[0] != 0x21 || p[1] != 1 {
		return bad("filter")
	}
	// §5.3.1: dictionary size = (2 | bits&1) << (bits/2 + 11)
	bits := p[2]
	if bits > 40 || (bits < 40 && uint64(2|bits&1)<<(bits/2+11) > MaxWindow) || bits == 40 {
		return bad(fmt.Sprintf("dictionary over %d MiB", MaxWindow>>20))
	}
	return nil
}
