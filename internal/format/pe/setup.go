package pe

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"unicode/utf16"
)

// Setup is a program that installs another.
type Setup struct {
	Info
	Strings map[string]string // of the version resource's first language: ProductName, CompanyName, …
	Maker   string            // nullsoft, inno, burn; empty if it is none of them
}

const (
	rtManifest = 24
	maxStrings = 256
)

// ReadSetup reads what the program says of its product and which maker of
// installers built it, for those take the same arguments everywhere. A program
// without words is ErrFormat.
func ReadSetup(r io.ReaderAt, size int64) (Setup, error) {
	x, info, root, err := open(r, size)
	s := Setup{Info: info, Strings: map[string]string{}}
	if err != nil {
		return s, err
	}
	b, err := x.resource(root, rtVersion)
	if err != nil {
		return s, err
	}
	if s.File, err = fixedInfo(b); err != nil {
		return s, err
	}
	if err := stringsOf(b, 0, s.Strings); err != nil {
		return s, err
	}
	s.Maker = x.maker(root)
	return s, nil
}

// maker knows the bootstrapper of the WiX toolset by its section, the others
// by the assembly that their manifest names.
func (x *image) maker(root int64) string {
	for _, c := range x.sections {
		if c.name == ".wixburn" {
			return "burn"
		}
	}
	m, err := x.resource(root, rtManifest)
	switch {
	case err != nil:
	case bytes.Contains(m, []byte(`"Nullsoft.NSIS.exehead"`)):
		return "nullsoft"
	case bytes.Contains(m, []byte(`"JR.Inno.Setup"`)):
		return "inno"
	}
	return ""
}

// stringsOf reads the strings of a version resource: VS_VERSIONINFO, in it
// StringFileInfo, in it the tables, in those the strings. Each has its length,
// that of its value, a type, a key, padding and what it holds.
func stringsOf(b []byte, depth int, into map[string]string) error {
	le := binary.LittleEndian
	if len(b) < 8 {
		return bad("version resource")
	}
	length, value := int(le.Uint16(b)), int(le.Uint16(b[2:]))
	if length < 8 || length > len(b) {
		return bad("version resource")
	}
	b = b[:length]
	key, rest := text(b[6:])
	at := (length - len(rest) + 3) &^ 3 // padded from the start of this block
	if at > length {
		return nil
	}
	if depth == 3 { // a string; value counts letters
		if v, _ := text(b[at:min(length, at+2*value)]); len(into) < maxStrings && into[key] == "" {
			into[key] = strings.TrimSpace(v)
		}
		return nil
	}
	if depth == 0 {
		at = (at + value + 3) &^ 3
	} else if depth == 1 && key != "StringFileInfo" {
		return nil
	}
	for at+8 <= length {
		n := int(le.Uint16(b[at:]))
		if n < 8 || at+n > length {
			return bad("version resource")
		}
		if err := stringsOf(b[at:at+n], depth+1, into); err != nil {
			return err
		}
		if depth == 1 {
			return nil // the first language
		}
		at = (at + n + 3) &^ 3
	}
	return nil
}

// text is UTF-16 up to its zero, and what follows.
func text(b []byte) (string, []byte) {
	var u []uint16
	for len(b) >= 2 {
		c := binary.LittleEndian.Uint16(b)
		b = b[2:]
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u)), b
}
