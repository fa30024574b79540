// Package appx reads Windows app packages and bundles (.appx, .msix,
// .appxbundle, .msixbundle): the ZIP container as the packaging tools write it,
// the block map, the manifests and the digests that a signature states.
//
// Sources: "App package architecture" and "Package manifest schema reference"
// (learn.microsoft.com, windows/msix); ISO/IEC 29500-2 (OPC) for names and
// [Content_Types].xml; PKWARE APPNOTE 6.3 for ZIP; what the signature's digests
// cover is not documented and was taken from genuine packages.
//
// A ZIP archive tells everything twice, and tricks live in the difference. So
// only one layout is read: records one after the other from the first byte to
// the central directory, in the directory's order, each agreeing with its
// entry in every field; the signature last; then directory and end records up
// to the last byte, without a comment.
package appx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"
)

// ErrFormat: the file is not a package in the one layout that is read here.
var ErrFormat = errors.New("not an app package")

// Names of the files that every package or bundle has, or may have.
const (
	ContentTypes   = "[Content_Types].xml"
	BlockMap       = "AppxBlockMap.xml"
	Manifest       = "AppxManifest.xml"
	BundleManifest = "AppxMetadata/AppxBundleManifest.xml"
	CodeIntegrity  = "AppxMetadata/CodeIntegrity.cat"
	Signature      = "AppxSignature.p7x"
)

// Limits on a package.
const (
	MaxFiles     = 1 << 18
	maxDirectory = 64 << 20 // bytes
	maxPartName  = 1024     // bytes
	maxDocument  = 8 << 20  // manifest, content types
	maxBlockMap  = 64 << 20
	recordHeader = 30
	dirHeader    = 46
	endRecord    = 22
	endRecord64  = 56
	locator64    = 20
)

// File is one file of a package.
type File struct {
	Name   string // with slashes, percent-decoded
	Size   int64  // unpacked
	Packed int64  // bytes in the archive
	Data   int64  // where they begin
	header int64  // bytes of the local header
	method uint16
	crc    uint32
	entry  []byte // in the central directory
	start  int64  // of the record
}

// Package is an open package or bundle.
type Package struct {
	r         io.ReaderAt
	Files     []File // in the order of the archive
	byName    map[string]int
	directory int64 // offset
	end       []byte
	zip64     bool
}

func bad(format string, a ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, a...), ErrFormat)
}

// Open reads the layout: the directory and each record's header. Errors wrap
// ErrFormat, or are r's.
func Open(r io.ReaderAt, size int64) (*Package, error) {
	p := &Package{r: r, byName: map[string]int{}}
	n, length, err := p.ends(size)
	if err != nil {
		return nil, err
	}
	dir := make([]byte, length)
	if err := readAt(r, dir, p.directory); err != nil {
		return nil, err
	}
	next := int64(0)
	for i := range n {
		f, rest, err := entry(dir)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		dir = rest
		if f.start != next {
			return nil, bad("%.200s: begins at %d, the file before it ended at %d", f.Name, f.start, next)
		}
		if next, err = p.record(&f, len(dir) == 0); err != nil {
			return nil, fmt.Errorf("%.200s: %w", f.Name, err)
		}
		key := strings.ToLower(f.Name)
		if _, twice := p.byName[key]; twice {
			return nil, bad("%.200s: twice", f.Name)
		}
		p.byName[key] = len(p.Files)
		p.Files = append(p.Files, f)
	}
	if len(dir) > 0 || next != p.directory {
		return nil, bad("bytes that belong to no file")
	}
	return p, nil
}

// Lookup finds a file by name, without regard to case as Windows does.
func (p *Package) Lookup(name string) (File, bool) {
	i, ok := p.byName[strings.ToLower(name)]
	if !ok || p.Files[i].Name != name && isFootprint(name) {
		return File{}, false
	}
	return p.Files[i], true
}

func isFootprint(name string) bool {
	switch name {
	case ContentTypes, BlockMap, Signature, CodeIntegrity, Manifest, BundleManifest:
		return true
	}
	return false
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return bad("cut off at %d", at+int64(n))
	}
	return err
}

var le = binary.LittleEndian

// ends reads the end records (APPNOTE §4.3.14–16): number of files and size of
// the directory.
func (p *Package) ends(size int64) (n int, length int64, err error) {
	if size < endRecord {
		return 0, 0, bad("%d bytes", size)
	}
	tail := make([]byte, min(size, endRecord+locator64+endRecord64))
	if err := readAt(p.r, tail, size-int64(len(tail))); err != nil {
		return 0, 0, err
	}
	e := tail[len(tail)-endRecord:]
	if string(e[:4]) != "PK\x05\x06" || le.Uint16(e[20:]) != 0 {
		return 0, 0, bad("no end record at the end")
	}
	if le.Uint16(e[4:]) != 0 || le.Uint16(e[6:]) != 0 || le.Uint16(e[8:]) != le.Uint16(e[10:]) {
		return 0, 0, bad("several disks")
	}
	files, bytes, at := uint64(le.Uint16(e[8:])), uint64(le.Uint32(e[12:])), uint64(le.Uint32(e[16:]))
	after := size - endRecord
	p.end = e
	if files == 0xFFFF || bytes == 0xFFFFFFFF || at == 0xFFFFFFFF || hasLocator(tail) {
		if len(tail) < endRecord+locator64+endRecord64 {
			return 0, 0, bad("no room for the larger end record")
		}
		p.zip64, p.end = true, tail
		z, l := tail[:endRecord64], tail[endRecord64:endRecord64+locator64]
		after = size - int64(len(tail))
		switch {
		case string(z[:4]) != "PK\x06\x06" || le.Uint64(z[4:]) != endRecord64-12 || le.Uint32(z[16:]) != 0 || le.Uint32(z[20:]) != 0 || le.Uint64(z[24:]) != le.Uint64(z[32:]):
			return 0, 0, bad("larger end record")
		case string(l[:4]) != "PK\x06\x07" || le.Uint32(l[4:]) != 0 || le.Uint64(l[8:]) != uint64(after) || le.Uint32(l[16:]) > 1:
			return 0, 0, bad("locator")
		case files != 0xFFFF && files != le.Uint64(z[32:]), bytes != 0xFFFFFFFF && bytes != le.Uint64(z[40:]), at != 0xFFFFFFFF && at != le.Uint64(z[48:]):
			return 0, 0, bad("two end records that disagree")
		}
		files, bytes, at = le.Uint64(z[32:]), le.Uint64(z[40:]), le.Uint64(z[48:])
	}
	if files == 0 || files > MaxFiles || bytes > maxDirectory || at > uint64(after) || at+bytes != uint64(after) {
		return 0, 0, bad("directory of %d files at %d, %d bytes", files, at, bytes)
	}
	p.directory = int64(at)
	return int(files), int64(bytes), nil
}

func hasLocator(tail []byte) bool {
	i := len(tail) - endRecord - locator64
	return i >= 0 && string(tail[i:i+4]) == "PK\x06\x07"
}

// entry reads one entry of the central directory (§4.3.12).
func entry(dir []byte) (f File, rest []byte, err error) {
	if len(dir) < dirHeader || string(dir[:4]) != "PK\x01\x02" {
		return f, nil, bad("directory")
	}
	name, extra, comment := int(le.Uint16(dir[28:])), int(le.Uint16(dir[30:])), int(le.Uint16(dir[32:]))
	if name == 0 || name > maxPartName || comment != 0 || le.Uint16(dir[34:]) != 0 || len(dir) < dirHeader+name+extra {
		return f, nil, bad("directory")
	}
	f.entry, rest = dir[:dirHeader+name+extra], dir[dirHeader+name+extra:]
	if f.Name, err = partName(string(dir[dirHeader : dirHeader+name])); err != nil {
		return f, nil, err
	}
	f.method, f.crc = le.Uint16(dir[10:]), le.Uint32(dir[16:])
	if f.method != 0 && f.method != 8 || le.Uint16(dir[8:])&^(0x08|0x06|0x800) != 0 {
		return f, nil, bad("%.200s: method %d, flags %#x", f.Name, f.method, le.Uint16(dir[8:]))
	}
	size, packed, start := uint64(le.Uint32(dir[24:])), uint64(le.Uint32(dir[20:])), uint64(le.Uint32(dir[42:]))
	if err := wide(dir[dirHeader+name:dirHeader+name+extra], &size, &packed, &start); err != nil {
		return f, nil, fmt.Errorf("%.200s: %w", f.Name, err)
	}
	const most = 1 << 50
	if size > most || packed > most || start > most || f.method == 0 && size != packed {
		return f, nil, bad("%.200s: sizes", f.Name)
	}
	f.Size, f.Packed, f.start = int64(size), int64(packed), int64(start)
	return f, rest, nil
}

// wide takes what does not fit 32 bits from the extra field 1 (§4.5.3), which
// must be the only one, and hold nothing else.
func wide(extra []byte, values ...*uint64) error {
	if len(extra) == 0 {
		return nil
	}
	if len(extra) < 4 || le.Uint16(extra) != 1 || int(le.Uint16(extra[2:])) != len(extra)-4 {
		return bad("extra field")
	}
	extra = extra[4:]
	for _, v := range values {
		if *v != 0xFFFFFFFF {
			continue
		}
		if len(extra) < 8 {
			return bad("extra field")
		}
		*v, extra = le.Uint64(extra), extra[8:]
	}
	if len(extra) > 0 {
		return bad("extra field")
	}
	return nil
}

// partName is the file's name: an OPC part name, percent-encoded.
func partName(raw string) (string, error) {
	s, err := url.PathUnescape(raw)
	if err != nil || s == "" || strings.ContainsAny(s, "\\:\x00") || path.Clean("/"+s) != "/"+s {
		return "", bad("name %.200q", raw)
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7F || r == 0xFFFD {
			return "", bad("name %.200q", raw)
		}
	}
	return s, nil
}

// record reads the local header (§4.3.7) and the descriptor behind the data
// (§4.3.9), which must say what the directory says; it returns where the next
// record begins. The descriptor's length follows from its form: 64-bit sizes
// as packaging tools always write them, or 32-bit ones.
func (p *Package) record(f *File, last bool) (int64, error) {
	var h [recordHeader]byte
	if f.start+recordHeader > p.directory {
		return 0, bad("record outside")
	}
	if err := readAt(p.r, h[:], f.start); err != nil {
		return 0, err
	}
	flags, name, extra := le.Uint16(h[6:]), int(le.Uint16(h[26:])), int(le.Uint16(h[28:]))
	if string(h[:4]) != "PK\x03\x04" || name != int(le.Uint16(f.entry[28:])) || extra > 64 {
		return 0, bad("record")
	}
	rest := make([]byte, name+extra)
	if err := readAt(p.r, rest, f.start+recordHeader); err != nil {
		return 0, err
	}
	if flags != le.Uint16(f.entry[8:]) || le.Uint16(h[8:]) != f.method || string(h[10:14]) != string(f.entry[12:16]) || string(rest[:name]) != string(f.entry[dirHeader:dirHeader+name]) {
		return 0, bad("record and directory disagree")
	}
	f.header = int64(recordHeader + name + extra)
	f.Data = f.start + f.header
	end := f.Data + f.Packed
	if end > p.directory {
		return 0, bad("data outside")
	}
	size, packed := uint64(le.Uint32(h[22:])), uint64(le.Uint32(h[18:]))
	if err := wide(rest[name:], &size, &packed); err != nil {
		return 0, err
	}
	if flags&0x08 == 0 {
		if le.Uint32(h[14:]) != f.crc || int64(size) != f.Size || int64(packed) != f.Packed {
			return 0, bad("record and directory disagree")
		}
		return end, nil
	}
	if le.Uint32(h[14:]) != 0 || size != 0 || packed != 0 {
		return 0, bad("record with sizes twice")
	}
	return p.descriptor(f, end, last)
}

func (p *Package) descriptor(f *File, at int64, last bool) (int64, error) {
	var d [24]byte
	n := min(int64(len(d)), p.directory-at)
	if n < 16 {
		return 0, bad("no descriptor")
	}
	if err := readAt(p.r, d[:n], at); err != nil {
		return 0, err
	}
	if string(d[:4]) != "PK\x07\x08" || le.Uint32(d[4:]) != f.crc {
		return 0, bad("descriptor")
	}
	next := func(n int64) bool {
		var m [4]byte
		return last && at+n == p.directory || !last && readAt(p.r, m[:], at+n) == nil && string(m[:]) == "PK\x03\x04"
	}
	switch {
	case n == 24 && le.Uint64(d[8:]) == uint64(f.Packed) && le.Uint64(d[16:]) == uint64(f.Size) && next(24):
		return at + 24, nil
	case f.Packed < 1<<32 && f.Size < 1<<32 && le.Uint32(d[8:]) == uint32(f.Packed) && le.Uint32(d[12:]) == uint32(f.Size) && next(16):
		return at + 16, nil
	}
	return 0, bad("descriptor")
}
