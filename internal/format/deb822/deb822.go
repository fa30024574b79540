// Package deb822 reads Debian control data: paragraphs of "Field: value" with
// continuation lines (Debian Policy §5.1), as in Release and Packages files.
package deb822

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Limits on one line and one paragraph. Debian's largest Release file is
// about 1 MiB in one paragraph.
const (
	MaxLine      = 1 << 20
	MaxParagraph = 8 << 20
)

// Paragraph is one block of fields. It is valid until the next call of Next.
type Paragraph struct {
	fields []field
}

type field struct{ name, value string }

// Get returns a field's value; continuation lines are joined with newlines,
// without their leading space. Names match without regard to case.
func (p *Paragraph) Get(name string) string {
	for _, f := range p.fields {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// Has reports whether the field is there.
func (p *Paragraph) Has(name string) bool {
	for _, f := range p.fields {
		if strings.EqualFold(f.name, name) {
			return true
		}
	}
	return false
}

// Reader reads paragraphs one at a time.
type Reader struct {
	br   *bufio.Reader
	p    Paragraph
	line int
}

// NewReader reads from r.
func NewReader(r io.Reader) *Reader { return &Reader{br: bufio.NewReaderSize(r, 64<<10)} }

// Next returns the next paragraph, or io.EOF. A field given twice, a
// continuation without a field and anything over the limits is ErrUpstream.
func (r *Reader) Next() (*Paragraph, error) {
	r.p.fields = r.p.fields[:0]
	var value []byte
	total := 0
	end := func() {
		if n := len(r.p.fields); n > 0 {
			r.p.fields[n-1].value = string(value)
		}
	}
	for {
		line, err := r.readLine()
		if errors.Is(err, io.EOF) {
			if len(r.p.fields) == 0 {
				return nil, io.EOF
			}
			end()
			return &r.p, nil
		}
		if err != nil {
			return nil, err
		}
		if total += len(line); total > MaxParagraph {
			return nil, r.bad("paragraph over its limit")
		}
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			if len(r.p.fields) == 0 {
				continue
			}
			end()
			return &r.p, nil
		case line[0] == '#':
			continue
		case line[0] == ' ' || line[0] == '\t':
			if len(r.p.fields) == 0 {
				return nil, r.bad("continuation without a field")
			}
			value = append(append(value, '\n'), bytes.TrimSpace(line)...)
		default:
			end()
			name, rest, ok := bytes.Cut(line, []byte{':'})
			if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
				return nil, r.bad("not a field")
			}
			n := string(name)
			if r.p.Has(n) {
				return nil, r.bad("field " + n + " twice")
			}
			r.p.fields = append(r.p.fields, field{name: n})
			value = append(value[:0], bytes.TrimSpace(rest)...)
		}
	}
}

func (r *Reader) bad(what string) error {
	return fmt.Errorf("control data line %d: %.100s: %w", r.line, what, feed.ErrUpstream)
}

func (r *Reader) readLine() ([]byte, error) {
	r.line++
	line, err := r.br.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(long) > MaxLine {
				return nil, r.bad("line over its limit")
			}
			line, err = r.br.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	if err != nil && !(errors.Is(err, io.EOF) && len(line) > 0) {
		return nil, err
	}
	if i := bytes.IndexByte(line, 0); i >= 0 {
		return nil, r.bad("NUL byte")
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
