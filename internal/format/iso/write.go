// Package iso writes and reads ISO 9660 images (ECMA-119) with the Joliet
// extension, which Windows, Linux and macOS show: names of up to 64 characters
// in UCS-2, directories eight deep. The plain ISO 9660 tree, for systems that
// know nothing else, holds the files of the root directory whose names it can
// express. Files are one extent each, shorter than 4 GiB.
package iso

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/hashike/hashike/internal/feed"
)

// Sector is the unit of everything on an image, bytes.
const Sector = 2048

// Limits of what is written and read.
const (
	maxName    = 64 // characters, Joliet specification 3.15
	maxDepth   = 8
	maxEntries = 100_000
	maxDir     = 16 << 20 // bytes of one directory
	trailer    = 150      // empty sectors at the end: some drives cannot read the last ones of a disc
)

// File is one file of an image to be written.
type File struct {
	Name string // slash-separated path
	Size int64
	Open func() (io.ReadCloser, error)
}

// node is a file or directory of the tree.
type node struct {
	name     string // of the last element; empty is the root
	file     *File
	children []*node // of a directory, by name
	parent   *node
	lba      uint32
	size     uint32 // of the extent
	number   uint16 // of a directory in the path table
}

// builder lays an image out before a byte is written.
type builder struct {
	label string
	at    time.Time
	root  *node
	dirs  []*node // in the path table's order
	files []*node // in the order of their extents
	plain *node   // root directory of the plain tree
	table [2]uint32
	total uint32 // sectors
	lba   map[string]uint32
}

// Write writes an image of files with the volume's name and a time for all.
// It returns the image's length. Every file is read once, in order of its name.
func Write(w io.Writer, label string, at time.Time, files []File) (int64, error) {
	b := &builder{label: label, at: at.UTC(), root: &node{}, lba: map[string]uint32{}}
	for i := range files {
		if err := b.add(&files[i]); err != nil {
			return 0, err
		}
	}
	if err := b.layOut(); err != nil {
		return 0, err
	}
	out := &sectors{w: w}
	if _, err := out.Write(b.head()); err != nil {
		return out.n, err
	}
	for _, n := range b.files {
		if err := b.copy(out, n); err != nil {
			return out.n, err
		}
	}
	_, err := out.Write(make([]byte, trailer*Sector))
	if err == nil && out.n != int64(b.total)*Sector {
		err = fmt.Errorf("%d bytes written, %d sectors planned", out.n, b.total)
	}
	return out.n, err
}

// sectors counts, and fills up sectors.
type sectors struct {
	w io.Writer
	n int64
}

func (s *sectors) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	return n, err
}

func (s *sectors) pad() error {
	if rest := s.n % Sector; rest != 0 {
		_, err := s.Write(make([]byte, Sector-rest))
		return err
	}
	return nil
}

func (b *builder) copy(out *sectors, n *node) error {
	r, err := n.file.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if out.n != int64(n.lba)*Sector && n.file.Size > 0 {
		return fmt.Errorf("%s: not where it was planned", n.file.Name)
	}
	m, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(r, n.file.Size+1), make([]byte, 1<<20))
	if err == nil && m != n.file.Size {
		err = fmt.Errorf("%s: has another length now: %w", n.file.Name, feed.ErrDamaged)
	}
	return errors.Join(err, out.pad())
}

func (b *builder) add(f *File) error {
	parts := strings.Split(f.Name, "/")
	if f.Size < 0 || f.Size >= 1<<32-Sector || len(parts) > maxDepth {
		return fmt.Errorf("%s: %d bytes, %d deep: an image holds files below 4 GiB, %d deep: %w", f.Name, f.Size, len(parts), maxDepth, feed.ErrConfig)
	}
	at := b.root
	for i, name := range parts {
		if name == "" || name == "." || name == ".." || len(utf16.Encode([]rune(name))) > maxName || strings.ContainsAny(name, "*/:;?\\\x00") {
			return fmt.Errorf("%q: not a name for an image: %w", f.Name, feed.ErrConfig)
		}
		j := slices.IndexFunc(at.children, func(n *node) bool { return n.name == name })
		last := i == len(parts)-1
		if j >= 0 && (last || at.children[j].file != nil) {
			return fmt.Errorf("%q: named twice: %w", f.Name, feed.ErrConfig)
		}
		if j < 0 {
			n := &node{name: name, parent: at}
			if last {
				n.file = f
			}
			at.children = append(at.children, n)
			j = len(at.children) - 1
		}
		at = at.children[j]
	}
	return nil
}

// plainName is what ISO 9660 itself can express: level 2, without our having to invent names.
var plainName = regexp.MustCompile(`^[A-Z0-9_]{1,20}(\.[A-Z0-9_]{1,8})?$`)

func (b *builder) layOut() error {
	// Directories level by level, as ECMA-119 9.4 orders the path table.
	b.root.parent = b.root
	b.dirs = []*node{b.root}
	for i := 0; i < len(b.dirs); i++ {
		d := b.dirs[i]
		d.number = uint16(i + 1)
		slices.SortFunc(d.children, func(x, y *node) int { return cmp.Compare(x.name, y.name) })
		for _, c := range d.children {
			if c.file == nil {
				b.dirs = append(b.dirs, c)
			} else {
				b.files = append(b.files, c)
			}
		}
		if len(b.dirs) > 60_000 || len(b.files) > maxEntries {
			return fmt.Errorf("more than %d files: %w", maxEntries, feed.ErrConfig)
		}
	}
	b.plain = &node{}
	b.plain.parent = b.plain
	for _, n := range b.root.children {
		if n.file != nil && plainName.MatchString(strings.ToUpper(n.name)) {
			b.plain.children = append(b.plain.children, n)
		}
	}
	next := uint64(19) // system area, two descriptors, the terminator
	take := func(bytes int64) uint32 {
		at := next
		next += uint64((bytes + Sector - 1) / Sector)
		return uint32(at)
	}
	b.table[0] = take(2 * Sector) // plain, both byte orders
	b.table[1] = take(2 * padded(len(b.pathTable(binary.LittleEndian))))
	b.plain.size = uint32(len(b.directory(b.plain, plainRecord)))
	b.plain.lba = take(int64(b.plain.size))
	for _, d := range b.dirs {
		d.size = uint32(len(b.directory(d, jolietRecord)))
		d.lba = take(int64(d.size))
	}
	slices.SortFunc(b.files, func(x, y *node) int { return cmp.Compare(x.file.Name, y.file.Name) })
	for _, n := range b.files {
		n.size, n.lba = uint32(n.file.Size), take(n.file.Size)
	}
	if next += trailer; next >= 1<<32 {
		return fmt.Errorf("an image of over 8 TiB: %w", feed.ErrConfig)
	}
	b.total = uint32(next)
	return nil
}

func padded(n int) int64 { return int64(n+Sector-1) / Sector * Sector }

// head is everything before the files.
func (b *builder) head() []byte {
	var out bytes.Buffer
	sector := func(p []byte) {
		out.Write(p)
		out.Write(make([]byte, int(padded(len(p)))-len(p)))
	}
	out.Write(make([]byte, 16*Sector))
	sector(b.descriptor(1, b.plain, b.table[0], 10))
	sector(b.descriptor(2, b.root, b.table[1], len(b.pathTable(binary.LittleEndian))))
	sector([]byte("\xffCD001\x01"))
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		sector(pathRecord(b.plain, 1, []byte{0}, order))
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		sector(b.pathTable(order))
	}
	sector(b.directory(b.plain, plainRecord))
	for _, d := range b.dirs {
		sector(b.directory(d, jolietRecord))
	}
	return out.Bytes()
}

func ucs2(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.BigEndian.AppendUint16(out, u)
	}
	return out
}

// pathTable is ECMA-119 9.4.
func (b *builder) pathTable(order binary.ByteOrder) []byte {
	var out []byte
	for _, d := range b.dirs {
		name := ucs2(d.name)
		if d == b.root {
			name = []byte{0}
		}
		out = append(out, pathRecord(d, d.parent.number, name, order)...)
	}
	return out
}

func pathRecord(d *node, parent uint16, name []byte, order binary.ByteOrder) []byte {
	r := make([]byte, 8, 8+len(name)+1)
	r[0] = byte(len(name))
	order.PutUint32(r[2:], d.lba)
	order.PutUint16(r[6:], parent)
	r = append(r, name...)
	if len(name)%2 == 1 {
		r = append(r, 0)
	}
	return r
}

// directory is an extent of directory records, which do not cross sectors.
func (b *builder) directory(d *node, name func(*node) []byte) []byte {
	var out []byte
	put := func(n *node, id []byte) {
		r := b.record(n, id)
		if left := Sector - len(out)%Sector; len(r) > left {
			out = append(out, make([]byte, left)...)
		}
		out = append(out, r...)
	}
	put(d, []byte{0})
	put(d.parent, []byte{1})
	for _, c := range d.children {
		put(c, name(c))
	}
	return append(out, make([]byte, int(padded(len(out)))-len(out))...)
}

func jolietRecord(n *node) []byte { return ucs2(n.name) }

func plainRecord(n *node) []byte {
	name := strings.ToUpper(n.name)
	if path.Ext(name) == "" {
		name += "."
	}
	return []byte(name + ";1")
}

// both writes a number in both byte orders (ECMA-119 7.2.3, 7.3.3).
func both32(p []byte, v uint32) {
	binary.LittleEndian.PutUint32(p, v)
	binary.BigEndian.PutUint32(p[4:], v)
}

func both16(p []byte, v uint16) {
	binary.LittleEndian.PutUint16(p, v)
	binary.BigEndian.PutUint16(p[2:], v)
}

// record is a directory record, ECMA-119 9.1.
func (b *builder) record(n *node, id []byte) []byte {
	size := 33 + len(id)
	r := make([]byte, size+size%2)
	r[0] = byte(len(r))
	both32(r[2:], n.lba)
	both32(r[10:], n.size)
	copy(r[18:], []byte{byte(b.at.Year() - 1900), byte(b.at.Month()), byte(b.at.Day()), byte(b.at.Hour()), byte(b.at.Minute()), byte(b.at.Second()), 0})
	if n.file == nil {
		r[25] = 2
	}
	both16(r[28:], 1)
	r[32] = byte(len(id))
	copy(r[33:], id)
	return r
}

// descriptor is a volume descriptor: primary (1) or Joliet's supplementary (2),
// ECMA-119 8.4, 8.5.
func (b *builder) descriptor(kind byte, root *node, table uint32, tableSize int) []byte {
	d := make([]byte, Sector)
	d[0], d[6] = kind, 1
	copy(d[1:], "CD001")
	text := func(from, to int, s string) {
		p := []byte(s)
		fill := []byte(" ")
		if kind == 2 {
			p, fill = ucs2(s), []byte{0, ' '}
		}
		for i := from; i < to; i += len(fill) {
			copy(d[i:to], fill)
		}
		copy(d[from:to], p)
	}
	for _, f := range [][2]int{{8, 40}, {190, 318}, {318, 446}, {446, 574}, {574, 702}, {702, 739}, {739, 776}, {776, 813}} {
		text(f[0], f[1], "")
	}
	text(40, 72, b.label)
	text(574, 702, "HASHIKE")
	both32(d[80:], b.total)
	if kind == 2 {
		copy(d[88:], "%/E") // UCS-2 level 3
	}
	both16(d[120:], 1)
	both16(d[124:], 1)
	both16(d[128:], Sector)
	both32(d[132:], uint32(tableSize))
	binary.LittleEndian.PutUint32(d[140:], table)
	binary.BigEndian.PutUint32(d[148:], table+uint32(padded(tableSize)/Sector))
	copy(d[156:190], b.record(root, []byte{0}))
	made := b.at.Format("20060102150405") + "00\x00"
	never := strings.Repeat("0", 16) + "\x00"
	for at, v := range map[int]string{813: made, 830: made, 847: never, 864: never} {
		copy(d[at:], v)
	}
	d[881] = 1
	return d
}
