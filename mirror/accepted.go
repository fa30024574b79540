package mirror

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
)

// Accepted is one snapshot that import verified here: a candidate for rings.
type Accepted struct {
	Kind     string            `json:"kind"`
	Serial   uint64            `json:"serial"`
	ID       feed.Digest       `json:"id"`
	Taken    time.Time         `json:"taken"`
	Accepted time.Time         `json:"accepted"`
	Withheld map[string]string `json:"withheld,omitempty"`
	Weakest  feed.Strength     `json:"weakest"`
	Bundle   uint64            `json:"bundle,omitempty"`
	Late     bool              `json:"late,omitempty"`    // came in an expired set: a person must publish it
	LateFor  string            `json:"latefor,omitempty"` // the reason that person gave
	// Unapproved keeps it from every ring until somebody approves its bundle, or a later one that states it.
	Unapproved bool `json:"unapproved,omitempty"`
}

// Hold keeps a feed's rings where they are until a person publishes.
type Hold struct {
	Serial uint64    `json:"serial"` // the newest snapshot that was taken back
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Since  time.Time `json:"since"`
}

// The buckets of state.db that publishing owns.
const (
	acceptedBucket  = "accepted"  // feed/serial → Accepted
	publishedBucket = "published" // ring/feed → Generation, the last decided
	holdsBucket     = "holds"     // feed → Hold
	barredBucket    = "barred"    // feed/serial → reason: taken back, no longer reachable
	withdrawnBucket = "withdrawn" // feed/digest → Withdrawal
	decisionsBucket = "decisions" // feed/subject/group → feed.Decision: persons' words on single updates
	appliedBucket   = "applied"   // order number → true: pull-back orders carried out
)

func serialKey(feedName string, serial uint64) string {
	return fmt.Sprintf("%s/%020d", feedName, serial)
}

// Accept records, in import's own transaction, that a snapshot was verified
// here, and puts it as the feed's state. late holds it for publish --late.
// Without this call Publisher.Advance learns only the newest, never a late one.
func Accept(tx state.Tx, name string, f state.FeedState, late bool) error {
	if err := tx.PutFeed(name, f); err != nil {
		return err
	}
	return tx.Put(acceptedBucket, serialKey(name, f.Serial), accepted(f, late))
}

// confirm ends the hold of a snapshot that came in an expired set, now that a
// set that is not held states it again.
func confirm(tx state.Tx, name string, serial uint64) error {
	var a Accepted
	ok, err := tx.Get(acceptedBucket, serialKey(name, serial), &a)
	if err != nil || !ok || !a.Late {
		return err
	}
	a.Late = false
	return tx.Put(acceptedBucket, serialKey(name, serial), a)
}

// Approve lets snapshots be published that waited for an approver. Those it
// does not know, or that did not wait, are left alone.
func Approve(tx state.Tx, snapshots []people.Snapshot) error {
	for _, s := range snapshots {
		f, err := tx.Feed(s.Feed)
		if err != nil {
			return err
		}
		if f.Serial == s.Serial && f.Unapproved {
			f.Unapproved = false
			if err := tx.PutFeed(s.Feed, f); err != nil {
				return err
			}
		}
		var a Accepted
		ok, err := tx.Get(acceptedBucket, serialKey(s.Feed, s.Serial), &a)
		if err != nil {
			return err
		}
		if ok && a.Unapproved {
			a.Unapproved = false
			if err := tx.Put(acceptedBucket, serialKey(s.Feed, s.Serial), a); err != nil {
				return err
			}
		}
	}
	return nil
}

func accepted(f state.FeedState, late bool) Accepted {
	return Accepted{
		Kind: f.Kind, Serial: f.Serial, ID: f.ID, Taken: f.Taken, Accepted: f.Accepted,
		Withheld: f.Withheld, Weakest: f.Weakest, Bundle: f.Bundle, Late: late, Unapproved: f.Unapproved,
	}
}

// desk is what state.db says about publishing, read in one transaction.
type desk struct {
	accepted  map[string]map[uint64]Accepted
	published map[string]map[string]Generation // ring → feed
	holds     map[string]Hold
	barred    map[string]map[uint64]string
	withdrawn map[string]map[feed.Digest]Withdrawal
	decisions map[string][]feed.Decision // by persons inside
	applied   map[string]bool
	orders    []feed.Order
	feeds     map[string]state.FeedState
}

func readDesk(tx state.Tx) (*desk, error) {
	d := &desk{
		accepted: map[string]map[uint64]Accepted{}, published: map[string]map[string]Generation{},
		holds: map[string]Hold{}, barred: map[string]map[uint64]string{},
		withdrawn: map[string]map[feed.Digest]Withdrawal{}, applied: map[string]bool{},
		decisions: map[string][]feed.Decision{},
	}
	var err error
	if d.feeds, err = tx.Feeds(); err != nil {
		return nil, err
	}
	if d.orders, err = tx.Orders(); err != nil {
		return nil, err
	}
	for _, read := range []func(state.Tx) error{d.readAccepted, d.readPublished, d.readHolds, d.readWithdrawn, d.readDecisions} {
		if err := read(tx); err != nil {
			return nil, fmt.Errorf("publishing state: %w", err)
		}
	}
	return d, nil
}

func put[K comparable, V any](m map[string]map[K]V, name string, k K, v V) {
	if m[name] == nil {
		m[name] = map[K]V{}
	}
	m[name][k] = v
}

func (d *desk) readAccepted(tx state.Tx) error {
	for key, decode := range tx.All(acceptedBucket, "") {
		var a Accepted
		if err := decode(&a); err != nil {
			return err
		}
		put(d.accepted, before(key), a.Serial, a)
	}
	// What import accepted but did not queue: the newest of each feed.
	for name, f := range d.feeds {
		if _, ok := d.accepted[name][f.Serial]; !ok && f.Serial > 0 {
			put(d.accepted, name, f.Serial, accepted(f, false))
		}
	}
	return nil
}

func (d *desk) readPublished(tx state.Tx) error {
	for _, decode := range tx.All(publishedBucket, "") {
		var g Generation
		if err := decode(&g); err != nil {
			return err
		}
		put(d.published, g.Ring, g.Feed, g)
	}
	return nil
}

func (d *desk) readHolds(tx state.Tx) error {
	for name, decode := range tx.All(holdsBucket, "") {
		var h Hold
		if err := decode(&h); err != nil {
			return err
		}
		d.holds[name] = h
	}
	for key, decode := range tx.All(barredBucket, "") {
		var b struct {
			Serial uint64 `json:"serial"`
			Reason string `json:"reason"`
		}
		if err := decode(&b); err != nil {
			return err
		}
		put(d.barred, before(key), b.Serial, b.Reason)
	}
	return nil
}

func (d *desk) readWithdrawn(tx state.Tx) error {
	for key, decode := range tx.All(withdrawnBucket, "") {
		var w Withdrawal
		if err := decode(&w); err != nil {
			return err
		}
		put(d.withdrawn, before(key), w.Digest, w)
	}
	for key := range tx.All(appliedBucket, "") {
		d.applied[key] = true
	}
	return nil
}

// before is the feed name of a "feed/…" key.
func before(key string) string {
	for i := range len(key) {
		if key[i] == '/' {
			return key[:i]
		}
	}
	return key
}

// withdrawals are a feed's stopped files, in a fixed order.
func (d *desk) withdrawals(name string) []Withdrawal {
	var out []Withdrawal
	for _, k := range slices.Sorted(maps.Keys(d.withdrawn[name])) {
		out = append(out, d.withdrawn[name][k])
	}
	return out
}

// newest is the newest accepted snapshot that ok allows; false if there is none.
func (d *desk) newest(name string, ok func(Accepted) bool) (Accepted, bool) {
	var best Accepted
	for _, a := range d.accepted[name] {
		if _, barred := d.barred[name][a.Serial]; !barred && a.Serial > best.Serial && ok(a) {
			best = a
		}
	}
	return best, best.Serial > 0
}
