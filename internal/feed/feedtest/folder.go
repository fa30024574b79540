package feedtest

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// ownDocument is what package tooldir adds to the files of a folder.
const ownDocument = "hashike-folder.json"

// Folder completes the case of a kind that reads the folder of a vendor's own
// tool (package tooldir). unproved are kinds whose files carry no signature
// that we can read: their attacks before the folder was taken cannot be seen,
// those after it are.
func Folder(c Case, unproved bool) Case {
	c.Dir = "tool"
	c.Config = "quiet = '10ms'\n" + c.Config
	c.Address = func(p string) string {
		if p == ownDocument {
			return ""
		}
		return "/" + p
	}
	c.Requests = append(slices.Clone(c.Requests), Request{Path: "/" + ownDocument, Status: 404}, Request{Path: "/", Status: 404})
	without := map[string]string{}
	maps.Copy(without, c.Without)
	if unproved {
		c.Except = true
		for name, why := range map[string]string{
			"orders": "there is no key", "key swapped": "there is no key", "signature removed": "there is no signature that we can read",
			"upstream tampered": "what the tool left carries no signature that we can read",
		} {
			without[name] = why
		}
	}
	c.Without = without
	return c
}

// Once fetches one state from a directory with the real engines, as the first
// ever seen, and returns the refusal or nil: for tests of a kind's own beside Run.
func Once(t testing.TB, k feed.Kind, trust []feed.Anchor, dir, config string, files Files, at time.Time, orders ...feed.Order) error {
	t.Helper()
	k.Anchors = trust
	c := Case{Kind: k, Dir: dir, Config: config, Trust: trust, Time: at}
	c.defaults()
	b := c.bench(t)
	if len(orders) > 0 {
		b.orders = func(feed.Header) []feed.Order { return orders }
	}
	b.up.set(t, State{Files: files}, b.clock)
	_, err := b.run(t.Context())
	return err
}

// With is the state with one file replaced.
func (s State) With(p string, b []byte) State { return s.with(p, b) }
