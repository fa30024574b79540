package state

import (
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// FeedState is what a side last accepted of one feed: fetched and verified on
// the outside, imported and verified on the inside. Publishing is apart.
type FeedState struct {
	Kind     string            `json:"kind"`
	Serial   uint64            `json:"serial"`
	ID       feed.Digest       `json:"id"`
	Taken    time.Time         `json:"taken"`
	State    string            `json:"state,omitempty"` // the vendor's own mark, from the header
	Accepted time.Time         `json:"accepted"`
	Marks    map[string]int64  `json:"marks,omitempty"`
	Withheld map[string]string `json:"withheld,omitempty"` // artifact path → reason
	Weakest  feed.Strength     `json:"weakest"`            // of what is not withheld
	Bundle   uint64            `json:"bundle,omitempty"`   // inside: the number that brought it
	// Unapproved: nobody approved the bundle that brought it; not published until then.
	Unapproved bool `json:"unapproved,omitempty"`
	// What the last attempt met, if it was not accepted; the state above stays.
	Tried   time.Time `json:"tried,omitzero"`
	Problem string    `json:"problem,omitempty"` // English text, for the log and status
	Code    string    `json:"code,omitempty"`    // message code
	Since   time.Time `json:"since,omitzero"`    // of the first failure in a row
}

const feedsBucket = "feeds"

// Feed returns what is known of a feed; the zero value if nothing.
func (t Tx) Feed(name string) (FeedState, error) {
	var f FeedState
	_, err := t.Get(feedsBucket, name, &f)
	return f, err
}

// PutFeed replaces it.
func (t Tx) PutFeed(name string, f FeedState) error { return t.Put(feedsBucket, name, f) }

// Feeds returns all feeds with a state.
func (t Tx) Feeds() (map[string]FeedState, error) {
	out := map[string]FeedState{}
	for name, decode := range t.All(feedsBucket, "") {
		var f FeedState
		if err := decode(&f); err != nil {
			return nil, err
		}
		out[name] = f
	}
	return out, nil
}

// Floor is the newest signed time this side has accepted; zero at first.
func (t Tx) Floor() (time.Time, error) {
	var at time.Time
	_, err := t.Get("meta", "floor", &at)
	return at, err
}

// SetFloor records it. Rules on how far it may rise are the caller's.
func (t Tx) SetFloor(at time.Time) error { return t.Put("meta", "floor", at.UTC()) }

// Orders returns the orders in force or ended that this side has accepted, by number.
func (t Tx) Orders() ([]feed.Order, error) {
	var out []feed.Order
	for _, decode := range t.All("orders", "") {
		var o feed.Order
		if err := decode(&o); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// PutOrder keeps an order; an accepted one is never dropped.
func (t Tx) PutOrder(o feed.Order) error { return t.Put("orders", auditKey(o.Number), o) }

// Zone is the network of an inside, "" before its first use.
func (t Tx) Zone() (name string, err error) {
	_, err = t.Get("meta", "zone", &name)
	return name, err
}

// SetZone keeps it.
func (t Tx) SetZone(name string) error { return t.Put("meta", "zone", name) }
