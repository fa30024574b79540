package clamav

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// libclamav reads tar with a parser of its own that knows neither long names
// nor PAX records. This one accepts only what both read alike, so that no
// member can be one thing to us and another to the terminal.

const block = 512

type member struct {
	name string // "" at the end of the archive
	size int64
}

// nextMember reads one tar header (POSIX ustar).
func nextMember(r io.Reader) (member, error) {
	var b [block]byte
	if _, err := io.ReadFull(r, b[:]); errors.Is(err, io.EOF) {
		return member{}, nil // sigtool writes no end marker
	} else if err != nil {
		return member{}, fmt.Errorf("tar header: %w", err)
	}
	if b[0] == 0 {
		if b != [block]byte{} {
			return member{}, errors.New("tar header without a name")
		}
		return member{}, nil
	}
	name, pad, _ := bytes.Cut(b[:100], []byte{0})
	if !fileName.Match(name) || len(bytes.Trim(pad, "\x00")) > 0 {
		return member{}, fmt.Errorf("tar member %.100q", name)
	}
	if t := b[156]; t != '0' && t != 0 {
		return member{}, fmt.Errorf("tar member %s of type %q", name, t)
	}
	if len(bytes.Trim(b[345:500], "\x00")) > 0 {
		return member{}, fmt.Errorf("tar member %s with a path", name)
	}
	size, err := octal(b[124:136])
	if err != nil {
		return member{}, fmt.Errorf("tar member %s: %w", name, err)
	}
	want, err := octal(b[148:156])
	if err != nil || want != checksum(&b) {
		return member{}, fmt.Errorf("tar member %s: wrong checksum", name)
	}
	return member{string(name), size}, nil
}

func checksum(b *[block]byte) int64 {
	var n int64
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		n += int64(c)
	}
	return n
}

func octal(b []byte) (int64, error) {
	s := strings.Trim(string(b), " \x00")
	n, err := strconv.ParseUint(s, 8, 33)
	if err != nil {
		return 0, fmt.Errorf("number %q", b)
	}
	return int64(n), nil
}

// read copies the member's bytes to w and passes over its padding.
func (m member) read(r io.Reader, w io.Writer) error {
	if _, err := io.CopyN(w, r, m.size); err != nil {
		return noEOF(err)
	}
	_, err := io.CopyN(io.Discard, r, (block-m.size%block)%block)
	return noEOF(err)
}

// onlyZeros reads to the end, where tar fills up its last record.
func onlyZeros(r io.Reader) error {
	b := make([]byte, 4096)
	for total := 0; ; {
		n, err := r.Read(b)
		if len(bytes.Trim(b[:n], "\x00")) > 0 {
			return errors.New("bytes after the archive's end")
		}
		if total += n; total > maxPadding {
			return errors.New("too much padding after the archive's end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
