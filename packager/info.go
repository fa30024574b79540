package packager

import (
	"slices"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Info describes an opened bundle.
type Info struct {
	Set      Set
	ID       feed.Digest
	Standing Standing
	Held     string    // HeldExpired, HeldFuture or nothing
	Expired  bool      // at max(clock, floor)
	Expires  time.Time // the earliest of set and metadata
	Was      Accepted  // accepted before this bundle
	Volumes  []int     // at hand
	Other    []string  // directories that hold another set
	Refused  []error   // Faults: why such a set, newer by its own word, was not believed
	Foreign  []string  // files that are not the bundle's, at most 100
	Foreigns int       // how many there are
	Orders   []feed.Order
	Warnings []error  // Faults
	Media    []string // registered numbers of the volumes at hand, those that have one
	Dirs     []string // plain directories among the media at hand, as named: a return file may be written there
	// TargetsThreshold is how many keys must sign a set: 2 where an approver has
	// a key. Unapproved is a set that lacks the approver's.
	TargetsThreshold int
	Unapproved       bool
}

// Info returns what is known without reading the payload.
func (b *Bundle) Info() Info {
	i := Info{b.set, b.id, b.standing, b.held, b.expired, b.expires, b.was, nil, b.other, b.refused, b.foreign, b.nForeign, nil, b.warnings, nil, b.plainDirs(), b.judged.threshold, b.judged.unapproved}
	for _, o := range b.orders {
		i.Orders = append(i.Orders, o.Order)
	}
	for v, media := range b.present {
		i.Volumes = append(i.Volumes, v)
		if raw, err := media[0].read(nameReadme, maxReadme); err == nil { // compared with the volume table by checkStructure
			if s := labelOf(raw); s != "" {
				i.Media = append(i.Media, s)
			}
		}
	}
	slices.Sort(i.Media)
	slices.Sort(i.Volumes)
	return i
}

// plainDirs are the media that are neither images nor drops, nor our own copy
// of a bundle that waited.
func (b *Bundle) plainDirs() (out []string) {
	for _, m := range b.media {
		if m.image == nil && m.drop == nil && !b.fromPending {
			out = append(out, m.dir)
		}
	}
	return out
}

// Desired is the state that this inside shall reach: the set's if it is newer,
// else the accepted one's.
func (b *Bundle) Desired() []FeedLine { return b.desired }

// Stated are the feeds as this bundle itself states them, newer or older.
func (b *Bundle) Stated() []FeedLine { return b.feeds }

// Damaged lists what the media hold but not as signed.
func (b *Bundle) Damaged() []Damage {
	var out []Damage
	for _, w := range b.worn {
		out = append(out, Damage{b.volumeOf[w.m], w.name, w.err.Error(), true})
	}
	return append(out, b.damaged...)
}

// Stored reports whether Absorb stored this blob: if it is not there
// afterwards, another program took it.
func (b *Bundle) Stored(d feed.Digest) bool {
	_, ok := b.stored[sumOf(d)]
	return ok
}

// Useless is the error for a set that is not newer and brought nothing: H-503
// for an older one, H-504 for one whose expiry has passed (the freeze attack).
// A repeated set within its time is no error.
func (b *Bundle) Useless() error {
	switch {
	case b.accepted || b.standing == Newer:
		return nil
	case b.standing == Older:
		return b.fault("H-503", feed.ErrRollback, "older than bundle %d, which was accepted, and nothing in it is missing here", b.was.Number)
	case b.expired:
		return b.fault("H-504", feed.ErrRollback, "expired on %s and not newer than what was accepted", b.expires.Format(time.RFC3339))
	}
	return nil
}

// Accepted is the set that counts now: this one after Accept if it was newer.
func (b *Bundle) Accepted() Accepted { return b.was }
