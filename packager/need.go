package packager

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/internal/typed"
)

// A need list tells the outside exactly what an inside lacks of the state of a
// bundle, short enough to be typed: for each feed, ranges of places in the
// snapshot's order of artifacts. It is no secret and needs no signature: what
// the outside packs for it is signed as every bundle is.
//
//	byte 1 · uvarint number · 4 bytes of the set's digest ·
//	per feed with a lack: uvarint place in the feeds table, counted from the
//	one before · uvarint count of ranges (0: the snapshot itself is lacking,
//	so everything) · per range: uvarint gap, uvarint length − 1 ·
//	4 bytes of the SHA-256 of all before
//
// in Crockford's base 32 without padding, in groups of four.
const (
	needVersion = 1
	needTag     = 4 // bytes of a digest
	maxNeed     = 1 << 20
)

// Need is what an inside lacks of one bundle's state.
type Need struct {
	Number uint64
	Blobs  int64 // artifacts that lack; 0 if it holds everything, or lacks snapshots only
	set    [needTag]byte
	feeds  map[int][]span // by place in the feeds table; nil spans are everything
}

// span is a range of artifacts in a snapshot's order.
type span struct{ from, to int64 }

// Empty reports whether nothing lacks.
func (n Need) Empty() bool { return len(n.feeds) == 0 }

// Lacking finds what this inside lacks of the set accepted last.
func Lacking(db *state.DB, store *cas.Store) (Need, error) {
	a, err := accepted(db)
	if err != nil {
		return Need{}, err
	}
	lines, err := acceptedFeeds(db.Dir(), a)
	if err != nil {
		return Need{}, err
	}
	n := Need{Number: a.Number, feeds: map[int][]span{}}
	copy(n.set[:], a.Set.Sum())
	for i, l := range lines {
		snap, err := store.Snapshot(l.Feed, l.Serial)
		if errors.Is(err, fs.ErrNotExist) {
			n.feeds[i] = nil
			continue
		}
		if err != nil {
			return n, err
		}
		var spans []span
		at := int64(0)
		for art, err := range snap.Artifacts() {
			if err != nil {
				return n, err
			}
			if _, have := store.Stat(art.Digest); !have {
				n.Blobs++
				if k := len(spans); k > 0 && spans[k-1].to == at {
					spans[k-1].to++
				} else {
					spans = append(spans, span{at, at + 1})
				}
			}
			at++
		}
		if len(spans) > 0 {
			n.feeds[i] = spans
		}
	}
	return n, nil
}

// String is the list as it is shown and typed.
func (n Need) String() string {
	b := binary.AppendUvarint([]byte{needVersion}, n.Number)
	b = append(b, n.set[:]...)
	var places []int
	for i := range n.feeds {
		places = append(places, i)
	}
	slices.Sort(places)
	last := -1
	for _, i := range places {
		b = binary.AppendUvarint(b, uint64(i-last-1))
		last = i
		b = binary.AppendUvarint(b, uint64(len(n.feeds[i])))
		at := int64(0)
		for _, s := range n.feeds[i] {
			b = binary.AppendUvarint(b, uint64(s.from-at))
			b = binary.AppendUvarint(b, uint64(s.to-s.from-1))
			at = s.to
		}
	}
	return typed.Letters(b)
}

// ParseNeed reads a list that was typed or kept in a file. Full-width letters,
// any dash and any space are accepted, O is 0, I and L are 1; so is what a
// scanner types of the QR codes (Codes). A slip of the finger is H-222, a code
// that was not scanned H-622 (both ErrConfig).
func ParseNeed(text string) (Need, error) {
	wrong := feed.NewFault(fmt.Errorf("the need list was mistyped: %w", feed.ErrConfig), "H-222")
	if len(text) > 4*maxNeed {
		return Need{}, wrong
	}
	text, err := scanned(text)
	if err != nil {
		return Need{}, err
	}
	b, err := typed.ParseLetters(text, maxNeed)
	if err != nil || len(b) < 1+1+needTag || b[0] != needVersion {
		return Need{}, wrong
	}
	n, ok := decodeNeed(b[1:])
	if !ok {
		return Need{}, wrong
	}
	return n, nil
}

func decodeNeed(b []byte) (Need, bool) {
	n := Need{feeds: map[int][]span{}}
	ok := true
	next := func() int64 {
		v, k := binary.Uvarint(b)
		if k <= 0 || v >= 1<<40 {
			ok, b = false, nil
			return 0
		}
		b = b[k:]
		return int64(v)
	}
	if n.Number = uint64(next()); !ok || len(b) < needTag {
		return n, false
	}
	b = b[copy(n.set[:], b):]
	for place := int64(-1); ok && len(b) > 0; {
		if place += next() + 1; place > 10_000 {
			return n, false
		}
		count, at := next(), int64(0)
		var spans []span
		for ; ok && count > 0; count-- {
			from := at + next()
			if at = from + next() + 1; at > 1<<40 {
				return n, false
			}
			spans = append(spans, span{from, at})
			n.Blobs += at - from
		}
		n.feeds[int(place)] = spans
	}
	return n, ok
}

// repair turns the options into those of the bundle that answers a need list:
// the state of that bundle, and of its blobs exactly those listed. A base that
// says the bundle arrived whole is no reason to refuse: blobs rot after their
// receipt, and a base set by word may be wrong. Only a need list says what lacks.
func (o *PackOptions) repair() (map[sum]struct{}, error) {
	var p, base Packed
	var ok bool
	err := o.DB.View(func(tx state.Tx) error {
		var err error
		if p, ok, err = PackedAs(tx, o.Need.Number); err != nil || !ok {
			return err
		}
		if p.Base != 0 {
			base, _, err = PackedAs(tx, p.Base)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !ok || !bytes.Equal(p.Set.Sum()[:needTag], o.Need.set[:]):
		return nil, feed.NewFault(fmt.Errorf("bundle %d of the need list was not made here: %w", o.Need.Number, feed.ErrConfig), "H-205", "name", fmt.Sprint(o.Need.Number))
	}
	o.Base, o.Others, o.Feeds, o.Sites = nil, nil, nil, p.Sites
	o.repairs = &BaseRef{p.Number, p.Set}
	if base.Number != 0 {
		o.repairsBase = &BaseRef{base.Number, base.Set}
	}
	only := map[sum]struct{}{}
	for i, l := range p.Feeds {
		snap, err := o.Store.Snapshot(l.Feed, l.Serial)
		if err == nil && snap.ID() != l.Snapshot {
			err = fmt.Errorf("it is another one now: %w", feed.ErrDamaged)
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot %d of %s (make a complete bundle instead): %w", l.Serial, l.Feed, err)
		}
		c := Carry{Snapshot: snap}
		if at := o.Data.Evidence(l.Feed, l.Serial, "outside"); l.Evidence != "" {
			if _, err := os.Stat(at); err != nil {
				return nil, err
			}
			c.Evidence = at
		}
		o.Feeds = append(o.Feeds, c)
		if spans, lacks := o.Need.feeds[i]; lacks {
			if err := listed(snap, spans, only); err != nil {
				return nil, err
			}
		}
	}
	return only, nil
}

// listed adds the blobs of a snapshot that the spans name; nil spans are all.
func listed(snap *cas.Snapshot, spans []span, into map[sum]struct{}) error {
	at := int64(0)
	for a, err := range snap.Artifacts() {
		if err != nil {
			return err
		}
		for len(spans) > 0 && spans[0].to <= at {
			if spans = spans[1:]; len(spans) == 0 {
				return nil
			}
		}
		if len(spans) == 0 || spans[0].from <= at {
			into[sumOf(a.Digest)] = struct{}{}
		}
		at++
	}
	return nil
}
