package diode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/hashike/hashike/internal/typed"
)

// Span is a range of block numbers [From, To).
type Span struct{ From, To int64 }

// Need is what a receiver lacks of one session, short enough to be typed.
type Need struct {
	Session [8]byte // the beginning of its ID
	Blocks  []Span
}

const (
	needVersion = 0x44
	maxNeed     = 64 << 10
	// MaxSpans is how many ranges a list names; the narrowest gaps between more
	// are asked for too.
	MaxSpans = 50
)

// ErrNeed is a list that was mistyped.
var ErrNeed = errors.New("not a need list of a diode, or mistyped")

// String is the list in groups of four letters (docs/diode.md §7).
func (n Need) String() string {
	b := append([]byte{needVersion}, n.Session[:]...)
	at := int64(0)
	for _, s := range n.Blocks {
		b = binary.AppendUvarint(b, uint64(s.From-at))
		b = binary.AppendUvarint(b, uint64(s.To-s.From-1))
		at = s.To
	}
	return typed.Letters(b)
}

// ParseNeed reads a list that was typed, scanned or kept in a file. Full-width
// letters, dashes and white space are accepted; O is 0, I and L are 1.
func ParseNeed(text string) (Need, error) {
	b, err := typed.ParseLetters(text, maxNeed)
	if err != nil || len(b) < 9 || b[0] != needVersion {
		return Need{}, ErrNeed
	}
	n := Need{Session: [8]byte(b[1:9])}
	body := b[9:]
	for at := int64(0); len(body) > 0; {
		gap, i := binary.Uvarint(body)
		if i <= 0 || gap > 1<<32 {
			return Need{}, ErrNeed
		}
		length, k := binary.Uvarint(body[i:])
		if k <= 0 || length > 1<<32 || at > 1<<32 {
			return Need{}, ErrNeed
		}
		body = body[i+k:]
		s := Span{From: at + int64(gap)}
		s.To = s.From + int64(length) + 1
		at = s.To
		n.Blocks = append(n.Blocks, s)
	}
	return n, nil
}

// Of reports whether the list is about a session.
func (n Need) Of(id ID) bool { return bytes.Equal(n.Session[:], id[:8]) }

// clip keeps of rising spans what lies below end.
func clip(spans []Span, end int64) []Span {
	out := []Span{}
	for _, s := range spans {
		if s.From = max(s.From, 0); s.From < min(s.To, end) {
			out = append(out, Span{s.From, min(s.To, end)})
		}
	}
	return out
}

// coarse closes the narrowest gaps until at most n spans are left.
func coarse(spans []Span, n int) []Span {
	if len(spans) <= n {
		return spans
	}
	gaps := make([]int64, 0, len(spans)-1)
	for i := 1; i < len(spans); i++ {
		gaps = append(gaps, spans[i].From-spans[i-1].To)
	}
	slices.Sort(gaps)
	limit := gaps[len(spans)-n-1] // gaps up to this are closed
	out := spans[:1:1]
	for _, s := range spans[1:] {
		if last := &out[len(out)-1]; s.From-last.To <= limit {
			last.To = s.To
		} else {
			out = append(out, s)
		}
	}
	return out
}
