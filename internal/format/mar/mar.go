// Package mar reads Mozilla ARchives (.mar), the files that Firefox and
// Thunderbird update themselves with. Layout, all integers big-endian
// (wiki.mozilla.org/Software_Update:MAR; the vendor's modules/libmar):
//
//	0   "MAR1"
//	4   u32 offset of the index
//	8   u64 size of the file
//	16  u32 number of signatures: each u32 algorithm, u32 length, bytes
//	..  u32 number of additional blocks: each u32 size (with these 8 bytes), u32 id, bytes
//	..  contents
//	idx u32 length, then entries: u32 offset, u32 length, u32 mode, name, NUL
//
// The signed bytes are the whole file without the signatures' own bytes. What
// the members hold (xz streams, patches, a manifest) is not looked at: the
// signature covers it, and the terminal's updater reads it after checking that.
//
// Older forms, without size and signatures (2005) or without additional blocks,
// are refused.
package mar

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrFormat: not an archive, or one that contradicts itself.
var ErrFormat = errors.New("not a well-formed MAR file")

// Limits of a file; the first three and those of the product information are libmar's.
const (
	MaxSize       = 500 << 20 // bytes of the file
	maxSignatures = 8
	maxSignature  = 2048 // bytes
	maxBlocks     = 16
	maxBlock      = 1 << 20 // bytes
	maxInfo       = 96      // bytes of a product information block without its head
	maxChannel    = 63
	maxVersion    = 31
	maxIndex      = 4 << 20
	maxName       = 1024
)

// SHA384 is RSA PKCS#1 v1.5 over SHA-384, the one algorithm that today's
// updaters take. SHA1 is what they took until 2017.
const (
	SHA1   = 1
	SHA384 = 2
)

const productInfo = 1 // id of an additional block

// Signature is one signature; which key made it is not said in the file.
type Signature struct {
	Algorithm uint32
	Data      []byte
}

// Entry is one member.
type Entry struct {
	Name           string
	Offset, Length int64
	Mode           uint32
}

// File is an archive whose layout holds.
type File struct {
	Size       int64
	Signatures []Signature
	Informed   bool   // it has a product information block:
	Channel    string // "firefox-mozilla-release"
	Version    string // "140.12.0"
	Entries    []Entry

	head []byte // all before the contents, without signatures: what is signed
	body int64  // where the contents begin
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrFormat)
}

// Read reads the layout of an archive of the given size. It refuses what the
// vendor's reader refuses, and besides: members outside the contents or of one
// name, names that lead elsewhere, product information behind another block, and
// an index that does not end with the file. ErrFormat, or the error of r.
func Read(r io.ReaderAt, size int64) (*File, error) {
	if size < 28 || size > MaxSize {
		return nil, malformed("%d bytes", size)
	}
	f := &File{Size: size}
	s := &scanner{r: r, end: size}
	if string(s.take(4)) != "MAR1" {
		return nil, cmp.Or(s.err, malformed("no MAR file"))
	}
	index := int64(s.u32())
	if total := s.u64(); s.err == nil && total != uint64(size) {
		return nil, malformed("%d bytes, the file says %d", size, total)
	}
	if index > size-4 {
		return nil, malformed("index at %d of %d bytes", index, size)
	}
	s.end = index
	f.signatures(s)
	f.blocks(s)
	if s.err != nil {
		return nil, s.err
	}
	f.head, f.body = s.seen, s.at
	return f, f.index(r, index)
}

func (f *File) signatures(s *scanner) {
	n := s.u32()
	if s.err == nil && n > maxSignatures {
		s.err = malformed("%d signatures", n)
	}
	for ; s.err == nil && n > 0; n-- {
		alg, size := s.u32(), s.u32()
		if s.err == nil && (size == 0 || size > maxSignature) {
			s.err = malformed("signature of %d bytes", size)
			return
		}
		f.Signatures = append(f.Signatures, Signature{alg, s.unsigned(int64(size))})
	}
}

func (f *File) blocks(s *scanner) {
	n := s.u32()
	if s.err == nil && n > maxBlocks {
		s.err = malformed("%d additional blocks", n)
	}
	for i := uint32(0); s.err == nil && i < n; i++ {
		size, id := int64(s.u32()), s.u32()
		if s.err == nil && (size < 8 || size > maxBlock) {
			s.err = malformed("additional block of %d bytes", size)
			return
		}
		b := s.take(size - 8)
		switch {
		case s.err != nil || id != productInfo:
		case i > 0: // the vendor's reader looks at the first block alone
			s.err = malformed("product information is block %d", i+1)
		default:
			s.err = f.info(b)
		}
	}
}

// info reads channel and version, each ending in NUL. The old writer left the
// rest of a fixed buffer behind them.
func (f *File) info(b []byte) error {
	channel, rest, ok := bytes.Cut(b, []byte{0})
	version, _, also := bytes.Cut(rest, []byte{0})
	switch {
	case !ok || !also || len(b) > maxInfo || len(channel) > maxChannel || len(version) > maxVersion:
		return malformed("product information %.100q", b)
	}
	f.Informed, f.Channel, f.Version = true, string(channel), string(version)
	return nil
}

func (f *File) index(r io.ReaderAt, at int64) error {
	s := &scanner{r: r, at: at, end: f.Size}
	n := int64(s.u32())
	if s.err == nil && (n != f.Size-at-4 || n > maxIndex) {
		return malformed("index of %d bytes at %d of %d", n, at, f.Size)
	}
	b := s.take(n)
	if s.err != nil {
		return s.err
	}
	if len(b) == 0 { // the vendor's reader looks for the first entry
		return malformed("no members")
	}
	names := map[string]bool{}
	for len(b) > 0 {
		end := -1
		if len(b) > 12 {
			end = bytes.IndexByte(b[12:], 0)
		}
		if end < 0 {
			return malformed("index ends in an entry")
		}
		e := Entry{Name: string(b[12 : 12+end]), Offset: int64(binary.BigEndian.Uint32(b)), Length: int64(binary.BigEndian.Uint32(b[4:])), Mode: binary.BigEndian.Uint32(b[8:])}
		b = b[13+end:]
		switch {
		case !validName(e.Name):
			return malformed("member name %.100q", e.Name)
		case names[e.Name]:
			return malformed("two members %.100q", e.Name)
		case e.Offset < f.body || e.Offset+e.Length > at:
			return malformed("member %.100q at %d, %d bytes, is outside the contents", e.Name, e.Offset, e.Length)
		}
		names[e.Name] = true
		f.Entries = append(f.Entries, e)
	}
	return f.apart()
}

// apart makes sure that no byte belongs to two members.
func (f *File) apart() error {
	by := slices.Clone(f.Entries)
	slices.SortFunc(by, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Length, b.Length)) })
	end := int64(0)
	for _, e := range by {
		if e.Offset < end && e.Length > 0 {
			return malformed("member %.100q overlaps another", e.Name)
		}
		end = max(end, e.Offset+e.Length)
	}
	return nil
}

// validName: a clean relative path that means the same on every system.
func validName(s string) bool {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' || c == ':' })
}

// Signed writes the bytes that the signatures cover; r is what Read had.
func (f *File) Signed(w io.Writer, r io.ReaderAt) error {
	if _, err := w.Write(f.head); err != nil {
		return err
	}
	_, err := io.Copy(w, io.NewSectionReader(r, f.body, f.Size-f.body))
	return err
}

// scanner reads fields in order up to end; its first error stays.
type scanner struct {
	r       io.ReaderAt
	at, end int64
	seen    []byte // what was read by take
	err     error
}

func (s *scanner) read(n int64) []byte {
	if s.err == nil && n > s.end-s.at {
		s.err = malformed("ends at %d, %d bytes are wanted", s.end, s.at+n)
	}
	if s.err != nil {
		return nil
	}
	b := make([]byte, n)
	if got, err := s.r.ReadAt(b, s.at); int64(got) < n {
		s.err = cmp.Or(err, io.ErrUnexpectedEOF)
		return nil
	}
	s.at += n
	return b
}

func (s *scanner) take(n int64) []byte {
	b := s.read(n)
	s.seen = append(s.seen, b...)
	return b
}

// unsigned reads what is not among the signed bytes.
func (s *scanner) unsigned(n int64) []byte { return s.read(n) }

func (s *scanner) u32() uint32 {
	if b := s.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (s *scanner) u64() uint64 {
	if b := s.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
