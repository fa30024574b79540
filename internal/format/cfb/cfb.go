// Package cfb reads compound files ([MS-CFB] v20240423: "OLE2", the container
// of .msi and .msp): the tree of storages and streams, with what Authenticode
// needs of each entry. It reads hostile files in bounded memory: at most four
// bytes a sector, and one entry of the directory for 128 bytes of it.
package cfb

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf16"
)

// ErrFormat: not a compound file, or one that contradicts itself.
var ErrFormat = errors.New("not a well-formed compound file")

// Limits of a file.
const (
	MaxEntries = 1 << 16 // storages and streams
	maxSectors = 1 << 24 // 8 GiB of 512-byte sectors: 64 MiB of table
	maxDepth   = 64
)

const (
	endOfChain = 0xFFFFFFFE
	maxRegular = 0xFFFFFFFA // from here on: marks
	noStream   = 0xFFFFFFFF
	free       = 0xFFFFFFFF // a sector that belongs to nothing
)

// Kind of an entry (§2.6.1).
type Kind byte

// The kinds that occur in a tree.
const (
	Storage Kind = 1
	Stream  Kind = 2
	Root    Kind = 5
)

// Entry is one storage or stream.
type Entry struct {
	Kind     Kind
	RawName  []byte // UTF-16LE without the final zero
	CLSID    [16]byte
	State    [4]byte
	Created  [8]byte
	Modified [8]byte
	Size     int64
	Children []*Entry // by raw name, as memcmp orders and then by length

	f     *File
	start uint32
}

// Name is the entry's name; unpaired surrogates become U+FFFD.
func (e *Entry) Name() string {
	u := make([]uint16, len(e.RawName)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(e.RawName[2*i:])
	}
	return string(utf16.Decode(u))
}

// Child is the entry of that name, or nil.
func (e *Entry) Child(name string) *Entry {
	for _, c := range e.Children {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// File is an open compound file.
type File struct {
	Root *Entry

	r       io.ReaderAt
	size    int64
	sector  int64 // bytes
	mini    int64 // bytes of a small sector
	cutoff  int64 // streams below it lie in small sectors
	version uint16
	fat     []uint32
	minifat []uint32
	heap    []uint32 // sectors of the root's stream, which holds the small sectors
}

// Open reads the tables and the tree. Errors are ErrFormat or r's.
func Open(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, size: size}
	var h [512]byte
	if size < int64(len(h)) {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrFormat)
	}
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return nil, err
	}
	if err := f.header(h[:]); err != nil {
		return nil, err
	}
	if err := f.loadFAT(h[:]); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var err error
	if f.minifat, err = f.table(le.Uint32(h[60:]), int64(le.Uint32(h[64:]))); err != nil {
		return nil, err
	}
	return f, f.directory(le.Uint32(h[48:]))
}

// header checks §2.2.
func (f *File) header(h []byte) error {
	le := binary.LittleEndian
	f.version = le.Uint16(h[26:])
	shift, mini := le.Uint16(h[30:]), le.Uint16(h[32:])
	switch {
	case string(h[:8]) != "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", le.Uint16(h[28:]) != 0xFFFE:
		return fmt.Errorf("signature: %w", ErrFormat)
	case f.version == 3 && shift == 9, f.version == 4 && shift == 12:
	default:
		return fmt.Errorf("version %d with sectors of 2^%d: %w", f.version, shift, ErrFormat)
	}
	if mini != 6 || le.Uint32(h[56:]) != 4096 {
		return fmt.Errorf("small sectors: %w", ErrFormat)
	}
	f.sector, f.mini, f.cutoff = 1<<shift, 1<<mini, 4096
	if f.sectors() > maxSectors {
		return fmt.Errorf("%d sectors: %w", f.sectors(), ErrFormat)
	}
	return nil
}

// sectors is how many the file can hold; the last may be cut short.
func (f *File) sectors() int64 { return (f.size - f.sector + f.sector - 1) / f.sector }

// loadFAT reads the sector table through the DIFAT (§2.3, §2.5).
func (f *File) loadFAT(h []byte) error {
	le := binary.LittleEndian
	want := int64(le.Uint32(h[44:]))
	per := f.sector / 4
	if want > (f.sectors()+per-1)/per+1 {
		return fmt.Errorf("%d sectors of table in a file of %d: %w", want, f.sectors(), ErrFormat)
	}
	var list []uint32
	for i := 76; i < 512; i += 4 {
		if n := le.Uint32(h[i:]); n < maxRegular {
			list = append(list, n)
		}
	}
	buf := make([]byte, f.sector)
	next, steps := le.Uint32(h[68:]), int64(0)
	for ; next < maxRegular && int64(len(list)) < want; steps++ {
		if steps > f.sectors() {
			return fmt.Errorf("table of tables: %w", ErrFormat)
		}
		if err := f.readSector(next, buf); err != nil {
			return err
		}
		for i := int64(0); i < f.sector-4; i += 4 {
			if n := le.Uint32(buf[i:]); n < maxRegular {
				list = append(list, n)
			}
		}
		next = le.Uint32(buf[f.sector-4:])
	}
	if int64(len(list)) != want || steps != int64(le.Uint32(h[72:])) || next < maxRegular {
		return fmt.Errorf("%d sectors of table, %d named: %w", want, len(list), ErrFormat)
	}
	f.fat = make([]uint32, 0, want*per)
	for _, n := range list {
		if err := f.readSector(n, buf); err != nil {
			return err
		}
		f.fat = appendTable(f.fat, buf)
	}
	return nil
}

func appendTable(to []uint32, buf []byte) []uint32 {
	for i := 0; i+4 <= len(buf); i += 4 {
		to = append(to, binary.LittleEndian.Uint32(buf[i:]))
	}
	return to
}

// End is where the last sector ends that the table calls used, but not beyond
// the file's end: what lies behind it belongs to nothing.
func (f *File) End() int64 {
	last := int64(len(f.fat)) - 1
	for ; last >= 0 && f.fat[last] == free; last-- {
	}
	return min((last+2)*f.sector, f.size)
}

// table reads a chain of n sectors of numbers.
func (f *File) table(start uint32, n int64) ([]uint32, error) {
	if n == 0 {
		return nil, nil
	}
	chain, err := f.chain(start, n*f.sector)
	if err != nil {
		return nil, err
	}
	var out []uint32
	buf := make([]byte, f.sector)
	for _, s := range chain {
		if err := f.readSector(s, buf); err != nil {
			return nil, err
		}
		out = appendTable(out, buf)
	}
	return out, nil
}

// readSector reads sector n; what the file's end cuts off reads as zeros.
func (f *File) readSector(n uint32, buf []byte) error {
	at := (int64(n) + 1) * f.sector
	if at >= f.size {
		return fmt.Errorf("sector %d is beyond the end: %w", n, ErrFormat)
	}
	k := min(int64(len(buf)), f.size-at)
	clear(buf[k:])
	_, err := f.r.ReadAt(buf[:k], at)
	return err
}

// chain lists the sectors of size bytes from start (§2.3).
func (f *File) chain(start uint32, size int64) ([]uint32, error) {
	return follow(f.fat, start, (size+f.sector-1)/f.sector)
}

func follow(table []uint32, start uint32, n int64) ([]uint32, error) {
	if n > int64(len(table)) {
		return nil, fmt.Errorf("a chain of %d sectors of %d: %w", n, len(table), ErrFormat)
	}
	out := make([]uint32, 0, n)
	at := start
	for ; int64(len(out)) < n; at = table[at] {
		if int64(at) >= int64(len(table)) {
			return nil, fmt.Errorf("a chain ends after %d sectors of %d: %w", len(out), n, ErrFormat)
		}
		out = append(out, at)
	}
	if n > 0 && at != endOfChain && int64(at) >= int64(len(table)) { // it may go on: room kept for the stream
		return nil, fmt.Errorf("a chain of %d sectors without an end: %w", n, ErrFormat)
	}
	return out, nil
}

// directory reads the entries and makes the tree (§2.6).
func (f *File) directory(start uint32) error {
	var raw [][]byte
	seen := int64(0)
	for at := start; at < maxRegular; at = f.fat[at] {
		if int64(at) >= int64(len(f.fat)) || len(raw) > MaxEntries || seen > int64(len(f.fat)) {
			return fmt.Errorf("directory: %w", ErrFormat)
		}
		seen++
		buf := make([]byte, f.sector)
		if err := f.readSector(at, buf); err != nil {
			return err
		}
		for i := int64(0); i < f.sector; i += 128 {
			raw = append(raw, buf[i:i+128])
		}
	}
	if len(raw) == 0 {
		return fmt.Errorf("no directory: %w", ErrFormat)
	}
	b := builder{f: f, raw: raw, used: make([]bool, len(raw))}
	root, err := b.entry(0)
	if err != nil {
		return err
	}
	if root.Kind != Root {
		return fmt.Errorf("no root: %w", ErrFormat)
	}
	if root.Size > 0 {
		if f.heap, err = f.chain(root.start, root.Size); err != nil {
			return err
		}
	}
	if err := b.children(root, binary.LittleEndian.Uint32(raw[0][76:]), 0); err != nil {
		return err
	}
	f.Root = root
	return nil
}

type builder struct {
	f     *File
	raw   [][]byte
	used  []bool
	bytes int64 // of all streams: they may not share sectors, or reading would have no bound
}

func (b *builder) entry(i uint32) (*Entry, error) {
	if int64(i) >= int64(len(b.raw)) || b.used[i] {
		return nil, fmt.Errorf("entry %d: %w", i, ErrFormat)
	}
	b.used[i] = true
	r, le := b.raw[i], binary.LittleEndian
	n := le.Uint16(r[64:])
	if n < 2 || n > 64 || n%2 != 0 {
		return nil, fmt.Errorf("entry %d: a name of %d bytes: %w", i, n, ErrFormat)
	}
	e := &Entry{Kind: Kind(r[66]), RawName: r[:n-2], f: b.f, start: le.Uint32(r[116:])}
	copy(e.CLSID[:], r[80:])
	copy(e.State[:], r[96:])
	copy(e.Created[:], r[100:])
	copy(e.Modified[:], r[108:])
	size := le.Uint64(r[120:])
	if b.f.version == 3 {
		size &= 0xFFFFFFFF // §2.6.3: the upper half may hold anything
	}
	if e.Kind != Storage {
		if size > uint64(b.f.size) {
			return nil, fmt.Errorf("entry %d: %d bytes: %w", i, size, ErrFormat)
		}
		e.Size = int64(size)
		if e.Kind == Stream {
			if b.bytes += e.Size; b.bytes > b.f.size {
				return nil, fmt.Errorf("streams longer than the file: %w", ErrFormat)
			}
		}
	}
	return e, nil
}

// children collects the tree of siblings below e (§2.6.4): its order and
// colours are not trusted, only that no entry occurs twice.
func (b *builder) children(e *Entry, first uint32, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("too deep: %w", ErrFormat)
	}
	for todo := []uint32{first}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if i == noStream {
			continue
		}
		c, err := b.entry(i)
		if err != nil {
			return err
		}
		le := binary.LittleEndian
		todo = append(todo, le.Uint32(b.raw[i][68:]), le.Uint32(b.raw[i][72:]))
		switch c.Kind {
		case Stream:
		case Storage:
			if err := b.children(c, le.Uint32(b.raw[i][76:]), depth+1); err != nil {
				return err
			}
		default:
			return fmt.Errorf("entry %d of kind %d: %w", i, c.Kind, ErrFormat)
		}
		e.Children = append(e.Children, c)
	}
	slices.SortFunc(e.Children, func(x, y *Entry) int {
		n := min(len(x.RawName), len(y.RawName))
		return cmp.Or(slices.Compare(x.RawName[:n], y.RawName[:n]), len(x.RawName)-len(y.RawName))
	})
	for i := 1; i < len(e.Children); i++ {
		if slices.Equal(e.Children[i-1].RawName, e.Children[i].RawName) {
			return fmt.Errorf("%q twice: %w", e.Children[i].Name(), ErrFormat)
		}
	}
	return nil
}

// WriteTo copies a stream's bytes to w.
func (e *Entry) WriteTo(w io.Writer) (int64, error) {
	if e.Kind != Stream || e.Size == 0 {
		return 0, nil
	}
	f := e.f
	if e.Size < f.cutoff {
		b, err := f.small(e)
		if err != nil {
			return 0, err
		}
		n, err := w.Write(b)
		return int64(n), err
	}
	chain, err := f.chain(e.start, e.Size)
	if err != nil {
		return 0, err
	}
	done := int64(0)
	for i := 0; i < len(chain); {
		k := i + 1 // sectors that follow each other are read at once
		for k < len(chain) && chain[k] == chain[k-1]+1 {
			k++
		}
		n := min(int64(k-i)*f.sector, e.Size-done)
		at := (int64(chain[i]) + 1) * f.sector
		if at+n > f.size {
			return done, fmt.Errorf("%q is beyond the end: %w", e.Name(), ErrFormat)
		}
		m, err := io.Copy(w, io.NewSectionReader(f.r, at, n))
		if done += m; err != nil {
			return done, err
		}
		i = k
	}
	return done, nil
}

// small reads a stream of less than 4096 bytes from the root's stream (§2.4).
func (f *File) small(e *Entry) ([]byte, error) {
	chain, err := follow(f.minifat, e.start, (e.Size+f.mini-1)/f.mini)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, int64(len(chain))*f.mini)
	for _, s := range chain {
		at := int64(s) * f.mini
		if at/f.sector >= int64(len(f.heap)) {
			return nil, fmt.Errorf("%q: small sector %d: %w", e.Name(), s, ErrFormat)
		}
		pos := (int64(f.heap[at/f.sector])+1)*f.sector + at%f.sector
		if pos+f.mini > f.size {
			return nil, fmt.Errorf("%q is beyond the end: %w", e.Name(), ErrFormat)
		}
		out = out[:len(out)+int(f.mini)]
		if _, err := f.r.ReadAt(out[len(out)-int(f.mini):], pos); err != nil {
			return nil, err
		}
	}
	return out[:e.Size], nil
}

// Read returns a stream of at most limit bytes.
func (e *Entry) Read(limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("%q has %d bytes: %w", e.Name(), e.Size, ErrFormat)
	}
	w := collect{make([]byte, 0, e.Size)}
	_, err := e.WriteTo(&w)
	return w.b, err
}

type collect struct{ b []byte }

func (c *collect) Write(p []byte) (int, error) { c.b = append(c.b, p...); return len(p), nil }
