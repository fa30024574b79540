package tooldir

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"
)

// Decode returns a vendor's index as UTF-8: UTF-16 with or without a byte order
// mark, UTF-8 with or without, else Shift_JIS (code page 932). Text with a NUL,
// or that is none of these, is an error. The result is at most three times as long.
func Decode(b []byte) (string, error) {
	var s string
	switch {
	case bytes.HasPrefix(b, []byte{0xEF, 0xBB, 0xBF}):
		s = string(b[3:])
	case bytes.HasPrefix(b, []byte{0xFF, 0xFE}):
		return wide(b[2:], binary.LittleEndian)
	case bytes.HasPrefix(b, []byte{0xFE, 0xFF}):
		return wide(b[2:], binary.BigEndian)
	case len(b) >= 2 && b[0] != 0 && b[1] == 0:
		return wide(b, binary.LittleEndian)
	case len(b) >= 2 && b[0] == 0 && b[1] != 0:
		return wide(b, binary.BigEndian)
	case utf8.Valid(b):
		s = string(b)
	default:
		d, err := japanese.ShiftJIS.NewDecoder().Bytes(b)
		if err != nil {
			return "", err
		}
		if s = string(d); strings.ContainsRune(s, utf8.RuneError) {
			return "", errors.New("neither UTF-8 nor Shift_JIS")
		}
	}
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return "", errors.New("no text")
	}
	return s, nil
}

func wide(b []byte, order binary.ByteOrder) (string, error) {
	if len(b)%2 != 0 {
		return "", errors.New("UTF-16 of an odd length")
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = order.Uint16(b[2*i:])
	}
	s := string(utf16.Decode(u))
	if strings.ContainsRune(s, utf8.RuneError) || strings.ContainsRune(s, 0) {
		return "", errors.New("damaged UTF-16")
	}
	return s, nil
}

// Section is one section of an INI file. Keys are in their own case; find them
// with Get.
type Section struct {
	Name string
	Keys []Key
}

// Key is one line key=value.
type Key struct{ Name, Value string }

// Limits on an INI file.
const (
	maxSections = 200_000
	maxKeys     = 2_000_000
	maxLine     = 64 << 10
)

// ParseINI reads an INI file as GetPrivateProfileString does: names without
// regard to case, blanks around names and values dropped, lines that begin with
// ; or # ignored. Lines outside a section, without "=", sections and keys that
// occur twice are kept: vendors write them. Errors say the line.
func ParseINI(text string) ([]Section, error) {
	var out []Section
	keys := 0
	in := bufio.NewScanner(strings.NewReader(text))
	in.Buffer(nil, maxLine)
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		switch {
		case line == "", line[0] == ';', line[0] == '#':
			continue
		case line[0] == '[':
			name, rest, ok := strings.Cut(line[1:], "]")
			if !ok || strings.TrimSpace(rest) != "" && !strings.HasPrefix(strings.TrimSpace(rest), ";") {
				return nil, fmt.Errorf("line %d: %.60q is no section", n, line)
			}
			out = append(out, Section{Name: strings.TrimSpace(name)})
		default:
			if len(out) == 0 {
				out = append(out, Section{})
			}
			k, v, _ := strings.Cut(line, "=")
			s := &out[len(out)-1]
			s.Keys = append(s.Keys, Key{strings.TrimSpace(k), strings.TrimSpace(v)})
			keys++
		}
		if len(out) > maxSections || keys > maxKeys {
			return nil, errors.New("too many sections or keys")
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("a line of over %d bytes: %w", maxLine, err)
	}
	return out, nil
}

// Get returns the first value of a key.
func (s Section) Get(name string) (string, bool) {
	for _, k := range s.Keys {
		if strings.EqualFold(k.Name, name) {
			return k.Value, true
		}
	}
	return "", false
}

// Element is the start of one XML element, or its end.
type Element struct {
	Name  string
	Depth int // 1 is the root
	End   bool
	Attrs map[string]string
}

const (
	maxDepth    = 32
	maxElements = 2_000_000
)

// WalkXML calls f for each element of a document that Decode returned, up to the
// end of the root, and returns what follows it. Entities, DTDs and a depth over
// 32 are errors.
func WalkXML(text string, f func(Element) error) (rest string, err error) {
	d := xml.NewDecoder(strings.NewReader(text))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil } // it is UTF-8 already
	depth := 0
	for n := 0; n < maxElements; n++ {
		tok, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("XML: %w", err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return "", errors.New("XML: too deep")
			}
			el := Element{Name: e.Name.Local, Depth: depth, Attrs: make(map[string]string, len(e.Attr))}
			for _, a := range e.Attr {
				if _, twice := el.Attrs[a.Name.Local]; twice {
					return "", fmt.Errorf("XML: attribute %.60q twice", a.Name.Local)
				}
				el.Attrs[a.Name.Local] = a.Value
			}
			if err := f(el); err != nil {
				return "", err
			}
		case xml.EndElement:
			if err := f(Element{Name: e.Name.Local, Depth: depth, End: true}); err != nil {
				return "", err
			}
			if depth--; depth <= 0 {
				return text[d.InputOffset():], nil
			}
		case xml.Directive:
			return "", errors.New("XML: a document type")
		}
	}
	return "", errors.New("XML: too many parts")
}

// Order makes a number of a version of up to four parts ("17.123.00") that
// orders as the version does; ok is false for anything else.
func Order(version string) (n int64, ok bool) {
	parts := strings.Split(version, ".")
	if len(parts) == 1 {
		n, err := strconv.ParseInt(version, 10, 64)
		return n, err == nil && n > 0
	}
	if len(parts) > 4 {
		return 0, false
	}
	for i := range 4 {
		part := uint64(0)
		if i < len(parts) {
			var err error
			if part, err = strconv.ParseUint(parts[i], 10, 15); err != nil {
				return 0, false
			}
		}
		n = n<<15 | int64(part)
	}
	return n, n > 0
}
