// Package msi reads what a Windows Installer package says of itself: the
// Property table and the summary. The tables lie in the streams of a compound
// file (package cfb). The layout of tables is not published; it is as msitools'
// libmsi and Wine's msi.dll have it, and msiinfo is the oracle of the tests.
//
// Only what is asked for is read, in bounded memory. Nothing is proved here: a
// signature over the file (verifier.Authenticode) covers all of it.
package msi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cfb"
)

// ErrFormat: not an installer package, or a damaged one.
var ErrFormat = errors.New("not a Windows Installer package")

// Limits.
const (
	maxPool    = 16 << 20 // bytes of string data
	maxSummary = 1 << 20
	maxRows    = 1 << 16 // of Property
)

// Package is what a package says of itself.
type Package struct {
	Properties map[string]string
	Template   string // of the summary: "x64;1041", "Intel;1033,1041"
	Subject    string // of the summary: usually the product's name
	Author     string
	Comments   string
}

func bad(format string, a ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, a...), ErrFormat)
}

// Read reads a package. Errors wrap ErrFormat, or are r's. A patch (.msp) has
// no properties and is ErrFormat.
func Read(r io.ReaderAt, size int64) (*Package, error) {
	f, err := cfb.Open(r, size)
	if errors.Is(err, cfb.ErrFormat) {
		return nil, fmt.Errorf("%w: %w", err, ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	streams := map[string]*cfb.Entry{}
	for _, e := range f.Root.Children {
		if e.Kind == cfb.Stream {
			streams[streamName(e.RawName)] = e
		}
	}
	read := func(name string, limit int64) ([]byte, error) {
		e := streams[name]
		if e == nil {
			return nil, bad("no %q", strings.TrimSpace(name))
		}
		b, err := e.Read(limit)
		if errors.Is(err, cfb.ErrFormat) {
			return nil, fmt.Errorf("%s: %w: %w", name, err, ErrFormat)
		}
		return b, err
	}
	pool, err := read("!_StringPool", maxPool)
	if err != nil {
		return nil, err
	}
	data, err := read("!_StringData", maxPool)
	if err != nil {
		return nil, err
	}
	s, err := stringsOf(pool, data)
	if err != nil {
		return nil, err
	}
	table, err := read("!Property", maxRows*6)
	if err != nil {
		return nil, err
	}
	p := &Package{}
	if p.Properties, err = s.properties(table); err != nil {
		return nil, err
	}
	if b, err := read("\x05SummaryInformation", maxSummary); err == nil {
		p.summary(b, s.decode)
	} else if !errors.Is(err, ErrFormat) {
		return nil, err
	}
	return p, nil
}

var le = binary.LittleEndian

// streamName undoes the packing of two letters of a 64-letter alphabet into one
// of the range U+3800; U+4840 before the name marks a table.
func streamName(raw []byte) string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._"
	var b strings.Builder
	for i := 0; i+1 < len(raw); i += 2 {
		switch u := le.Uint16(raw[i:]); {
		case u >= 0x3800 && u < 0x4800:
			b.WriteByte(letters[(u-0x3800)&63])
			b.WriteByte(letters[(u-0x3800)>>6])
		case u >= 0x4800 && u < 0x4840:
			b.WriteByte(letters[u-0x4800])
		case u == 0x4840:
			b.WriteByte('!')
		default:
			b.WriteRune(rune(u))
		}
	}
	return b.String()
}

// table of strings, by number from 1.
type pool struct {
	at     []int // string n is data[at[n-1]:at[n]]
	data   []byte
	wide   bool // numbers have three bytes
	decode func([]byte) string
}

// stringsOf reads the pool: code page and width, then length and use count of
// each string; a length over 65535 stands in an entry of its own.
func stringsOf(p, data []byte) (*pool, error) {
	if len(p) < 4 || len(p)%4 != 0 {
		return nil, bad("string pool of %d bytes", len(p))
	}
	s := &pool{at: []int{0}, data: data, wide: le.Uint16(p[2:])&0x8000 != 0}
	s.decode = decoder(int(le.Uint16(p)) | int(le.Uint16(p[2:])&0x7FFF)<<16)
	at := 0
	for i := 4; i < len(p); i += 4 {
		n := int(le.Uint16(p[i:]))
		if n == 0 && le.Uint16(p[i+2:]) != 0 {
			if i += 4; i >= len(p) {
				return nil, bad("string pool cut off")
			}
			n = int(le.Uint32(p[i:]))
		}
		if n > len(data)-at {
			return nil, bad("string beyond the string data")
		}
		at += n
		s.at = append(s.at, at)
	}
	return s, nil
}

func (s *pool) get(n int) (string, error) {
	if n == 0 {
		return "", nil
	}
	if n >= len(s.at) {
		return "", bad("string %d of %d", n, len(s.at)-1)
	}
	return s.decode(s.data[s.at[n-1]:s.at[n]]), nil
}

// properties reads the table of two text columns, one column after the other.
func (s *pool) properties(t []byte) (map[string]string, error) {
	w := 2
	if s.wide {
		w = 3
	}
	if len(t)%(2*w) != 0 {
		return nil, bad("property table of %d bytes", len(t))
	}
	rows := len(t) / (2 * w)
	number := func(i int) int {
		b := t[i*w:]
		if s.wide {
			return int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		}
		return int(le.Uint16(b))
	}
	out := make(map[string]string, rows)
	for i := range rows {
		k, err := s.get(number(i))
		if err != nil {
			return nil, err
		}
		v, err := s.get(number(rows + i))
		if err != nil {
			return nil, err
		}
		if _, twice := out[k]; twice || k == "" {
			return nil, bad("property %.40q twice", k)
		}
		out[k] = v
	}
	return out, nil
}

// decoder reads text of a code page. One that is not known here gives what of
// it is ASCII.
func decoder(page int) func([]byte) string {
	var e encoding.Encoding
	switch page {
	case 932:
		e = japanese.ShiftJIS
	case 0, 1252:
		e = charmap.Windows1252
	case 65001:
		return func(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
	default:
		return func(b []byte) string {
			return strings.Map(func(r rune) rune {
				if r >= 0x80 {
					return '\uFFFD'
				}
				return r
			}, string(b))
		}
	}
	return func(b []byte) string {
		out, err := e.NewDecoder().Bytes(b)
		if err != nil {
			return strings.ToValidUTF8(string(b), "\uFFFD")
		}
		return string(out)
	}
}

// summary takes what Package has of the summary, as far as it is sound.
func (p *Package) summary(b []byte, decode func([]byte) string) {
	t := summaryOf(b, decode)
	p.Subject, p.Author, p.Comments, p.Template = t[3], t[4], t[6], t[7]
}

// summaryOf reads the texts of a property set ([MS-OLEPS] §2.21) as far as it
// is sound, by property number.
func summaryOf(b []byte, decode func([]byte) string) map[uint32]string {
	out := map[uint32]string{}
	if len(b) < 48 || le.Uint16(b) != 0xFFFE {
		return out
	}
	off := int(le.Uint32(b[44:]))
	if off < 48 || off > len(b)-8 {
		return out
	}
	set := b[off:]
	n := min(int(le.Uint32(set[4:])), 64)
	for i := range n {
		if len(set) < 16+8*i {
			break
		}
		id, at := le.Uint32(set[8+8*i:]), int(le.Uint32(set[12+8*i:]))
		if at < 0 || at > len(set)-8 || le.Uint32(set[at:]) != 30 { // VT_LPSTR
			continue
		}
		l := int(le.Uint32(set[at+4:]))
		if l < 0 || l > len(set)-8-at {
			continue
		}
		out[id] = strings.TrimRight(decode(set[at+8:at+8+l]), "\x00")
	}
	return out
}

// Arch is the architecture that the package installs on, as feed.Installer has it.
func (p *Package) Arch() string {
	platform, _, _ := strings.Cut(p.Template, ";")
	switch strings.ToLower(platform) {
	case "x64", "amd64":
		return "x64"
	case "arm64":
		return "arm64"
	case "arm":
		return "arm"
	}
	return "x86" // "Intel", and where it is empty
}

var guid = regexp.MustCompile(`^\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}$`)

// Installer describes the package for those who know no vendor. ErrFormat if it
// names no product.
func (p *Package) Installer(path string) (feed.Installer, error) {
	get := func(k string) string { return strings.Join(strings.Fields(p.Properties[k]), " ") }
	i := feed.Installer{
		Path: path, Name: get("ProductName"), Publisher: get("Manufacturer"), Version: get("ProductVersion"), Arch: p.Arch(), Type: "msi",
		Silent: "/qn /norestart", Success: []int{1641, 3010}, Home: get("ARPURLINFOABOUT"), Locale: locale(get("ProductLanguage")),
	}
	if i.Name == "" || i.Publisher == "" || i.Version == "" || !guid.MatchString(get("ProductCode")) {
		return i, bad("product %.100q of %.100q, version %.40q, code %.40q", i.Name, i.Publisher, i.Version, get("ProductCode"))
	}
	i.ProductCode = strings.ToUpper(get("ProductCode"))
	if guid.MatchString(get("UpgradeCode")) {
		i.UpgradeCode = strings.ToUpper(get("UpgradeCode"))
	}
	if get("ALLUSERS") == "1" {
		i.Scope = "machine"
	}
	if !strings.HasPrefix(i.Home, "http") {
		i.Home = ""
	}
	i.ID = feed.InstallerID(i.Publisher, i.Name)
	i.Entries = []feed.AddRemove{{Name: i.Name, Publisher: i.Publisher, Version: i.Version, ProductCode: i.ProductCode, UpgradeCode: i.UpgradeCode}}
	return i, nil
}

// locale names the languages that a town hall meets; others are left out rather
// than guessed, as is 0, "neutral".
func locale(id string) string {
	n, err := strconv.Atoi(id)
	if err != nil {
		return ""
	}
	return map[int]string{1033: "en-US", 1041: "ja-JP", 2057: "en-GB", 1042: "ko-KR", 2052: "zh-CN", 1028: "zh-TW"}[n]
}
