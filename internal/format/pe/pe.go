// Package pe reads the version resource of Windows programs ("PE Format",
// Microsoft; VS_FIXEDFILEINFO of verrsrc.h). Only what leads there is looked
// at, and every place and length is held against the file and fixed bounds.
package pe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ErrFormat: not a program, a damaged one, or one without a version.
var ErrFormat = errors.New("program")

// Version is a file version, most significant part first.
type Version [4]uint16

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d.%d", v[0], v[1], v[2], v[3]) }

// Order is a number that grows with the version.
func (v Version) Order() int64 {
	// The first part of a real version stays far below 2^15.
	return int64(v[0]&0x7fff)<<48 | int64(v[1])<<32 | int64(v[2])<<16 | int64(v[3])
}

// Info is what a program says of itself. A signature over the file covers it.
type Info struct {
	Machine uint16 // IMAGE_FILE_MACHINE_*
	File    Version
	Linked  time.Time // TimeDateStamp; with reproducible builds a digest, and no time
}

// Machines (PE Format, "Machine Types").
const (
	MachineI386  = 0x14c
	MachineAMD64 = 0x8664
	MachineARM64 = 0xaa64
)

const (
	maxHead     = 4096
	maxSections = 96 // the loader's own limit
	maxEntries  = 1024
	maxResource = 64 << 10
	rtVersion   = 16
	dirResource = 2
)

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, a...))
}

// image is a program whose sections are known.
type image struct {
	r        io.ReaderAt
	size     int64
	sections []section
}

type section struct {
	rva, raw, size int64
	name           string
}

// Read reads machine and version of the program of size bytes in r. ErrFormat
// if it has none.
func Read(r io.ReaderAt, size int64) (Info, error) {
	x, info, root, err := open(r, size)
	if err != nil {
		return info, err
	}
	b, err := x.resource(root, rtVersion)
	if err != nil {
		return info, err
	}
	info.File, err = fixedInfo(b)
	return info, err
}

// open reads the headers: the sections, what they say, and where resources begin.
func open(r io.ReaderAt, size int64) (*image, Info, int64, error) {
	x := &image{r: r, size: size}
	info, root, err := x.headers()
	return x, info, root, err
}

func (x *image) headers() (info Info, root int64, err error) {
	size := x.size
	head := make([]byte, min(size, maxHead))
	if len(head) < 64 {
		return info, 0, bad("%d bytes", size)
	}
	if err := x.at(head, 0); err != nil {
		return info, 0, err
	}
	le := binary.LittleEndian
	pe := int64(le.Uint32(head[60:]))
	if string(head[:2]) != "MZ" || pe < 4 || pe+24+112 > int64(len(head)) || string(head[pe:pe+4]) != "PE\x00\x00" {
		return info, 0, bad("no PE header")
	}
	info.Machine = le.Uint16(head[pe+4:])
	info.Linked = time.Unix(int64(le.Uint32(head[pe+8:])), 0).UTC()
	sections, optional := int64(le.Uint16(head[pe+6:])), int64(le.Uint16(head[pe+20:]))
	dirs := pe + 24 + 96
	switch le.Uint16(head[pe+24:]) {
	case 0x10B:
	case 0x20B:
		dirs += 16
	default:
		return info, 0, bad("optional header %#x", le.Uint16(head[pe+24:]))
	}
	table := pe + 24 + optional
	entry := dirs + 8*dirResource
	if sections > maxSections || entry+8 > table || le.Uint32(head[dirs-4:]) <= dirResource {
		return info, 0, bad("%d sections, or no resources", sections)
	}
	if table+40*sections > int64(len(head)) {
		return info, 0, bad("sections beyond the first %d bytes", maxHead)
	}
	for i := range sections {
		s := head[table+40*i:]
		name, _, _ := strings.Cut(string(s[:8]), "\x00")
		x.sections = append(x.sections, section{int64(le.Uint32(s[12:])), int64(le.Uint32(s[20:])), int64(le.Uint32(s[16:])), name})
	}
	return info, int64(le.Uint32(head[entry:])), nil
}

// at reads exactly len(b) bytes.
func (x *image) at(b []byte, off int64) error {
	if off < 0 || off+int64(len(b)) > x.size {
		return bad("something beyond the end")
	}
	if _, err := x.r.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("program: %w", err)
	}
	return nil
}

// place is where a relative virtual address lies in the file.
func (x *image) place(rva, n int64) (int64, error) {
	for _, s := range x.sections {
		if rva >= s.rva && rva+n <= s.rva+s.size {
			return s.raw + rva - s.rva, nil
		}
	}
	return 0, bad("resources outside of every section")
}

// resource goes down the resource tree: the type, its first name, its first language.
func (x *image) resource(root int64, kind uint32) ([]byte, error) {
	base, err := x.place(root, 16)
	if err != nil {
		return nil, err
	}
	at := uint32(0)
	for level := range 3 {
		if at, err = x.child(base, at, kind, level == 0); err != nil {
			return nil, err
		}
		if deeper := at&(1<<31) != 0; deeper != (level < 2) {
			return nil, bad("resource tree of another depth")
		}
		at &^= 1 << 31
	}
	var data [16]byte
	if err := x.at(data[:], base+int64(at)); err != nil {
		return nil, err
	}
	rva, n := int64(binary.LittleEndian.Uint32(data[:])), int64(binary.LittleEndian.Uint32(data[4:]))
	if n > maxResource {
		return nil, bad("resource of %d bytes", n)
	}
	from, err := x.place(rva, n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	return b, x.at(b, from)
}

// child is where an entry of the directory at off leads: that of the type, or
// the first.
func (x *image) child(base int64, off, kind uint32, typed bool) (uint32, error) {
	var h [16]byte
	if err := x.at(h[:], base+int64(off)); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	n := int64(le.Uint16(h[12:])) + int64(le.Uint16(h[14:]))
	if n > maxEntries {
		return 0, bad("%d resources in one directory", n)
	}
	list := make([]byte, 8*n)
	if err := x.at(list, base+int64(off)+16); err != nil {
		return 0, err
	}
	for ; len(list) > 0; list = list[8:] {
		if !typed || le.Uint32(list) == kind {
			return le.Uint32(list[4:]), nil
		}
	}
	return 0, bad("no resource of type %d", kind)
}

// fixedInfo reads VS_VERSIONINFO as far as its fixed part.
func fixedInfo(b []byte) (v Version, err error) {
	const head = 6 + 2*16 // lengths and type, "VS_VERSION_INFO" with its zero
	le := binary.LittleEndian
	if len(b) < head+2+52 || le.Uint16(b[2:]) < 52 {
		return v, bad("version without its fixed part")
	}
	f := b[head+2:] // aligned to 4
	if le.Uint32(f) != 0xFEEF04BD {
		return v, bad("version without its signature")
	}
	ms, ls := le.Uint32(f[8:]), le.Uint32(f[12:])
	return Version{uint16(ms >> 16), uint16(ms), uint16(ls >> 16), uint16(ls)}, nil
}
