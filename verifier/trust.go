package verifier

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// revision goes up when a check of this package becomes stricter: verdicts
// that older programs remembered are then worth nothing.
const revision = 2

// BuildTrust is what one feed may believe: the keys and roots pinned in the
// build, those added by trust orders, less what distrust orders withdraw. at
// is the snapshot's taken time. Orders that do not pass Check are ignored;
// whoever accepted them has said so.
func BuildTrust(anchors []feed.Anchor, orders []feed.Order, feedName string, at time.Time) feed.Trust {
	t := feed.Trust{Anchors: slices.Clone(anchors), At: at.UTC()}
	for _, o := range orders {
		if o.Check() != nil || o.Feed != "" && o.Feed != feedName {
			continue
		}
		switch o.Kind {
		case feed.OrderTrust:
			if o.InForce(at) {
				t.Anchors = append(t.Anchors, feed.Anchor{
					Name: o.Anchor.Name, Use: o.Anchor.Use, Data: o.Anchor.Data, Source: o.Anchor.Source})
			}
		case feed.OrderDistrust:
			d := *o.Distrust
			if !strings.HasPrefix(d.KeyID, "sha256:") {
				d.KeyID = strings.ToUpper(d.KeyID)
			}
			if d.Reason == "" {
				d.Reason = o.Reason
			}
			t.Distrust = append(t.Distrust, d)
		}
	}
	slices.SortStableFunc(t.Anchors, func(a, b feed.Anchor) int {
		if c := strings.Compare(a.Use, b.Use); c != 0 {
			return c
		}
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.SHA256()), string(b.SHA256()))
	})
	t.Epoch = epoch(t)
	return t
}

// epoch identifies what was believed, apart from the time.
func epoch(t feed.Trust) string {
	h := sha256.New()
	e := json.NewEncoder(h)
	e.Encode(revision) // a hash does not fail
	for _, a := range t.Anchors {
		e.Encode([]string{a.Use, a.Name, string(a.SHA256())})
	}
	distrust := make([]string, 0, len(t.Distrust))
	for _, d := range t.Distrust {
		b, _ := json.Marshal(d)
		distrust = append(distrust, string(b))
	}
	slices.Sort(distrust)
	e.Encode(distrust)
	return hex.EncodeToString(h.Sum(nil))
}
