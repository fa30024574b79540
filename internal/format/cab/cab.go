// Package cab reads Microsoft cabinet files (MS-CAB): stored, MSZIP and LZX.
//
// A cabinet from outside may be hostile: every count and size is held against
// limits before memory is taken, names that could leave a directory are
// refused, and so are cabinets that continue in another one. Bytes after the
// cabinet (an Authenticode signature) are not its business.
package cab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrFormat: not a cabinet, a damaged one, or one of a form this package does not read.
var ErrFormat = errors.New("cabinet")

// ErrLimit: a cabinet beyond the caller's limits.
var ErrLimit = errors.New("cabinet over the limit")

// Limits bound what one cabinet may hold. Zero fields take the defaults.
type Limits struct {
	Files int   // entries; default and most 65,535, as the format's own
	File  int64 // bytes of one file; default 2 GiB
	Total int64 // bytes of all files; default 4 GiB
}

const (
	blockOut = 32 << 10        // uncompressed bytes of every block but a folder's last (MS-CAB 2.5)
	blockIn  = blockOut + 6144 // most compressed bytes of a block (MS-CAB 2.4, "incompressible")
)

// File is one entry.
type File struct {
	Name     string    // slash-separated, relative, clean
	Size     int64     // bytes
	Modified time.Time // local time without a zone, shown as UTC; 2 s steps
	folder   int
	offset   int64 // in the folder's uncompressed stream
}

type folder struct {
	start  int64 // of its first block
	blocks int
	method uint16
}

// Reader reads one cabinet.
type Reader struct {
	r       io.ReaderAt
	size    int64 // of the cabinet without what follows it
	reserve int64 // bytes before each block's data
	folders []folder
	files   []File // in the cabinet's order
	walk    []int  // the same in order of folder and offset
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Header flags (MS-CAB 2.1).
const (
	flagPrev    = 1
	flagNext    = 2
	flagReserve = 4
)

// NewReader reads the directory of the cabinet of size bytes in r.
func NewReader(r io.ReaderAt, size int64, lim Limits) (*Reader, error) {
	if lim.Files <= 0 || lim.Files > 65535 {
		lim.Files = 65535
	}
	if lim.File <= 0 {
		lim.File = 2 << 30
	}
	if lim.Total <= 0 {
		lim.Total = 4 << 30
	}
	var h [36]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return nil, bad("header: %v", err)
	}
	le := binary.LittleEndian
	c := &Reader{r: r, size: int64(le.Uint32(h[8:]))}
	nfolders, nfiles, flags := int(le.Uint16(h[26:])), int(le.Uint16(h[28:])), le.Uint16(h[30:])
	files := int64(le.Uint32(h[16:]))
	switch {
	case string(h[:4]) != "MSCF":
		return nil, bad("no MSCF")
	case h[25] != 1:
		return nil, bad("version %d.%d", h[25], h[24])
	case c.size > size:
		return nil, bad("%d bytes of %d", size, c.size)
	case flags&(flagPrev|flagNext) != 0:
		return nil, bad("part of a set of cabinets")
	case nfolders == 0 || nfiles == 0:
		return nil, bad("%d folders, %d files", nfolders, nfiles)
	case nfiles > lim.Files:
		return nil, fmt.Errorf("%w: %d files, at most %d", ErrLimit, nfiles, lim.Files)
	}
	at, perFolder := int64(36), int64(8)
	if flags&flagReserve != 0 {
		var x [4]byte
		if _, err := r.ReadAt(x[:], at); err != nil {
			return nil, bad("reserve: %v", err)
		}
		at += 4 + int64(le.Uint16(x[:]))
		perFolder += int64(x[2])
		c.reserve = int64(x[3])
	}
	if err := c.readFolders(at, perFolder, nfolders); err != nil {
		return nil, err
	}
	if err := c.readFiles(files, nfiles, lim); err != nil {
		return nil, err
	}
	return c, c.order()
}

func (c *Reader) readFolders(at, each int64, n int) error {
	if at+each*int64(n) > c.size {
		return bad("folders beyond the end")
	}
	b := make([]byte, each*int64(n))
	if _, err := c.r.ReadAt(b, at); err != nil {
		return bad("folders: %v", err)
	}
	for i := range n {
		e := b[int64(i)*each:]
		f := folder{
			start: int64(binary.LittleEndian.Uint32(e)), blocks: int(binary.LittleEndian.Uint16(e[4:])),
			method: binary.LittleEndian.Uint16(e[6:]),
		}
		if f.start > c.size {
			return bad("folder %d begins beyond the end", i)
		}
		c.folders = append(c.folders, f)
	}
	return nil
}

// readFiles reads the CFFILE entries (MS-CAB 2.3).
func (c *Reader) readFiles(at int64, n int, lim Limits) error {
	if at > c.size {
		return bad("files beyond the end")
	}
	br := newByteReader(io.NewSectionReader(c.r, at, c.size-at))
	seen := make(map[string]bool, n)
	var total int64
	for i := range n {
		var e [16]byte
		if _, err := io.ReadFull(br, e[:]); err != nil {
			return bad("file %d: %v", i, err)
		}
		raw, err := br.name()
		if err != nil {
			return bad("file %d: %v", i, err)
		}
		le := binary.LittleEndian
		f := File{Size: int64(le.Uint32(e[:])), offset: int64(le.Uint32(e[4:])), folder: int(le.Uint16(e[8:])),
			Modified: dosTime(le.Uint16(e[10:]), le.Uint16(e[12:]))}
		utf := le.Uint16(e[14:])&0x80 != 0
		if f.Name, err = cleanName(raw, utf); err != nil {
			return err
		}
		total += f.Size
		switch {
		case f.folder >= 0xFFFD:
			return bad("%q continues in another cabinet", f.Name)
		case f.folder >= len(c.folders):
			return bad("%q in folder %d of %d", f.Name, f.folder, len(c.folders))
		case seen[f.Name]:
			return bad("%q twice", f.Name)
		case f.offset+f.Size > int64(c.folders[f.folder].blocks)*blockOut:
			return bad("%q is longer than its folder", f.Name)
		case f.Size > lim.File:
			return fmt.Errorf("%w: %q has %d bytes, at most %d", ErrLimit, f.Name, f.Size, lim.File)
		case total > lim.Total:
			return fmt.Errorf("%w: over %d bytes", ErrLimit, lim.Total)
		}
		seen[f.Name] = true
		c.files = append(c.files, f)
	}
	return nil
}

// cleanName makes a path of an entry's name, or refuses it.
func cleanName(raw []byte, utf bool) (string, error) {
	s := string(raw)
	if !utf && !utf8.Valid(raw) { // no code page is recorded: each byte a character
		r := make([]rune, len(raw))
		for i, b := range raw {
			r[i] = rune(b)
		}
		s = string(r)
	}
	s = strings.ReplaceAll(s, `\`, "/")
	if s == "." || !fs.ValidPath(s) || !utf8.ValidString(s) ||
		strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == ':' }) {
		return "", bad("name %.300q", raw)
	}
	return s, nil
}

// dosTime reads the FAT form (MS-CAB 2.3, date and time).
func dosTime(d, t uint16) time.Time {
	return time.Date(1980+int(d>>9), time.Month(d>>5&15), int(d&31), int(t>>11), int(t>>5&63), int(t&31)*2, 0, time.UTC)
}

// order sorts the entries as one pass over the folders meets them. Entries
// that share bytes have no use but to make a small cabinet large.
func (c *Reader) order() error {
	for i := range c.files {
		c.walk = append(c.walk, i)
	}
	slices.SortStableFunc(c.walk, func(a, b int) int {
		x, y := c.files[a], c.files[b]
		if x.folder != y.folder {
			return x.folder - y.folder
		}
		if x.offset != y.offset {
			return int(x.offset - y.offset)
		}
		return int(x.Size - y.Size) // empty ones first
	})
	for i := 1; i < len(c.walk); i++ {
		a, b := c.files[c.walk[i-1]], c.files[c.walk[i]]
		if a.folder == b.folder && b.offset < a.offset+a.Size {
			return bad("%q and %q share bytes", a.Name, b.Name)
		}
	}
	return nil
}

// Files lists the entries in the cabinet's order.
func (c *Reader) Files() []File { return slices.Clone(c.files) }

// Size is the cabinet's length; a signature may follow it.
func (c *Reader) Size() int64 { return c.size }

// Walk calls f for every file, each folder unpacked once, in order of position.
// body holds exactly the file's bytes and ends with f's return; it need not be
// read. Damage is ErrFormat, from body's Read too.
func (c *Reader) Walk(f func(e File, body io.Reader) error) error {
	return c.each(c.walk, f)
}

// Open returns one file's bytes as a stream; what stands before it in its
// folder is unpacked and dropped. fs.ErrNotExist if there is none.
func (c *Reader) Open(name string) (File, io.Reader, error) {
	for _, e := range c.files {
		if e.Name == name {
			s := newStream(c, c.folders[e.folder])
			if _, err := io.CopyN(io.Discard, s, e.offset); err != nil {
				return e, nil, unexpected(err)
			}
			return e, &exact{s, e.Size}, nil
		}
	}
	return File{}, nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func (c *Reader) each(order []int, f func(File, io.Reader) error) error {
	var s *stream
	var at int64
	current := -1
	for _, i := range order {
		e := c.files[i]
		if e.folder != current {
			s, at, current = newStream(c, c.folders[e.folder]), 0, e.folder
		}
		if _, err := io.CopyN(io.Discard, s, e.offset-at); err != nil {
			return unexpected(err)
		}
		body := &exact{s, e.Size}
		if err := f(e, body); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		at = e.offset + e.Size
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return bad("folder ends early")
	}
	return err
}

// exact is n bytes of a folder; fewer are damage.
type exact struct {
	r io.Reader
	n int64
}

func (x *exact) Read(p []byte) (int, error) {
	if x.n == 0 {
		return 0, io.EOF
	}
	n, err := x.r.Read(p[:min(int64(len(p)), x.n)])
	x.n -= int64(n)
	if x.n > 0 && errors.Is(err, io.EOF) {
		return n, bad("folder ends early")
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
