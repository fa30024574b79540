package iso

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/hashike/hashike/internal/feed"
)

// FS is an image opened for reading. It holds names and places in memory; the
// files are read where they are. It is safe for concurrent use.
type FS struct {
	r     io.ReaderAt
	size  int64
	nodes map[string]*entry
	seen  map[uint32]bool // directories, against loops
}

// entry is one name of an image.
type entry struct {
	name  string
	dir   bool
	lba   uint32
	bytes uint32
	below []fs.DirEntry // of a directory, by name
}

func (e *entry) Name() string               { return e.name }
func (e *entry) Size() int64                { return int64(e.bytes) }
func (e *entry) ModTime() time.Time         { return time.Time{} }
func (e *entry) IsDir() bool                { return e.dir }
func (e *entry) Sys() any                   { return nil }
func (e *entry) Type() fs.FileMode          { return e.Mode().Type() }
func (e *entry) Info() (fs.FileInfo, error) { return e, nil }
func (e *entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("image: %s: %w", fmt.Sprintf(format, args...), feed.ErrDamaged)
}

// Open reads the Joliet tree of an image of size bytes. It refuses
// (ErrDamaged) an image without one, one with more than 100,000 names, and
// anything that lies outside of the image.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	f := &FS{r: r, size: size, nodes: map[string]*entry{}, seen: map[uint32]bool{}}
	d := make([]byte, Sector)
	for at := int64(16); at < 48; at++ {
		if _, err := r.ReadAt(d, at*Sector); err != nil {
			return nil, damaged("descriptor %d: %v", at, err)
		}
		if string(d[1:6]) != "CD001" || d[0] == 255 {
			break
		}
		if esc := string(d[88:91]); d[0] != 2 || esc != "%/E" && esc != "%/C" && esc != "%/@" {
			continue
		}
		if binary.LittleEndian.Uint16(d[128:]) != Sector {
			return nil, damaged("sectors that are not of 2,048 bytes")
		}
		root := &entry{name: ".", dir: true, lba: binary.LittleEndian.Uint32(d[158:]), bytes: binary.LittleEndian.Uint32(d[166:])}
		f.nodes["."] = root
		return f, f.directory(".", root, 1)
	}
	return nil, damaged("no Joliet descriptor")
}

// directory reads one and all below it.
func (f *FS) directory(at string, d *entry, depth int) error {
	if depth > maxDepth+1 || d.bytes > maxDir || d.bytes%Sector != 0 || f.seen[d.lba] || int64(d.lba)*Sector+int64(d.bytes) > f.size {
		return damaged("directory %.200q", at)
	}
	f.seen[d.lba] = true
	b := make([]byte, d.bytes)
	if _, err := f.r.ReadAt(b, int64(d.lba)*Sector); err != nil {
		return damaged("directory %.200q: %v", at, err)
	}
	for i := 0; i < len(b); {
		n := int(b[i])
		if n == 0 { // the rest of the sector
			i = (i/Sector + 1) * Sector
			continue
		}
		if n < 34 || i%Sector+n > Sector || 33+int(b[i+32]) > n {
			return damaged("a record of directory %.200q", at)
		}
		r := b[i : i+n]
		i += n
		if id := r[33 : 33+int(r[32])]; len(id) > 1 {
			if err := f.enter(at, d, r, id, depth); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(d.below, func(x, y fs.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
	return nil
}

// enter takes one record.
func (f *FS) enter(at string, d *entry, r, id []byte, depth int) error {
	name, ok := nameOf(id)
	e := &entry{name: name, dir: r[25]&2 != 0, lba: binary.LittleEndian.Uint32(r[2:]), bytes: binary.LittleEndian.Uint32(r[10:])}
	full := path.Join(at, name)
	switch {
	case !ok || !fs.ValidPath(full) || strings.ContainsAny(name, "/\\\x00"):
		return damaged("a name in directory %.200q", at)
	case f.nodes[full] != nil:
		return damaged("%.200q is there twice", full)
	case len(f.nodes) > maxEntries:
		return damaged("more than %d names", maxEntries)
	case r[25]&0x80 != 0 || r[26] != 0 || r[1] != 0:
		return damaged("%.200q is in several parts", full)
	case !e.dir && e.bytes > 0 && int64(e.lba)*Sector+int64(e.bytes) > f.size:
		return damaged("%.200q lies beyond the end", full)
	}
	f.nodes[full] = e
	d.below = append(d.below, e)
	if e.dir {
		return f.directory(full, e, depth+1)
	}
	return nil
}

// nameOf decodes a Joliet name; a version number at its end is left out.
func nameOf(id []byte) (string, bool) {
	if len(id)%2 != 0 {
		return "", false
	}
	var u []uint16
	for i := 0; i < len(id); i += 2 {
		u = append(u, binary.BigEndian.Uint16(id[i:]))
	}
	name := strings.TrimSuffix(string(utf16.Decode(u)), ";1")
	return name, name != "" && name != "." && name != ".."
}

// Open opens a file or directory. A file is an io.ReaderAt and io.Seeker too.
func (f *FS) Open(name string) (fs.File, error) {
	e, ok := f.nodes[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &opened{io.NewSectionReader(f.r, int64(e.lba)*Sector, int64(e.bytes)), e}, nil
}

// Stat describes a file or directory.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	e, ok := f.nodes[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

// ReadDir lists a directory.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, ok := f.nodes[name]
	if !ok || !e.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(e.below), nil
}

// opened is one file.
type opened struct {
	*io.SectionReader
	e *entry
}

func (o *opened) Stat() (fs.FileInfo, error) { return o.e, nil }
func (o *opened) Close() error               { return nil }
