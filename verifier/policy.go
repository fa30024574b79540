package verifier

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Policy is what a snapshot must reach.
type Policy struct {
	Floors        map[feed.Class]feed.Strength // a class that is not named needs Signed
	Exceptions    []feed.Order
	AllowRollback bool // an order lets this snapshot's marks go back
}

// BuildPolicy raises a kind's floors by what config wants (least) and takes
// from the orders the exceptions in force at the given time for the feed, and
// the permission to go back to the snapshot with this serial. ErrConfig if
// least is below the kind's floor: that takes an exception order.
func BuildPolicy(kind, least map[feed.Class]feed.Strength, orders []feed.Order, feedName string, serial uint64, at time.Time) (Policy, error) {
	p := Policy{Floors: maps.Clone(kind)}
	if p.Floors == nil {
		p.Floors = map[feed.Class]feed.Strength{}
	}
	for c, want := range least {
		floor, ok := kind[c]
		if !ok {
			floor = feed.Signed
		}
		if want < floor {
			return Policy{}, feed.NewFault(
				fmt.Errorf("feed %s: floor %q for %s is below the kind's %q: %w", feedName, want, c, floor, feed.ErrConfig),
				"H-202", "feed", feedName, "key", "floor."+string(c))
		}
		p.Floors[c] = want
	}
	for _, o := range orders {
		if o.Check() != nil || o.Feed != "" && o.Feed != feedName {
			continue
		}
		switch {
		case o.Kind == feed.OrderException && o.Detection == "" && o.InForce(at): // one for a malware scan lowers no floor
			p.Exceptions = append(p.Exceptions, o)
		case o.Kind == feed.OrderRollback && o.Serial != 0 && o.Serial == serial:
			p.AllowRollback = true
		}
	}
	slices.SortFunc(p.Exceptions, func(a, b feed.Order) int { return int(a.Strength) - int(b.Strength) })
	return p, nil
}

// floor returns what the artifact must reach. If got is below it and an
// exception makes got enough, it returns the exception's strength and number.
func (p Policy) floor(s feed.Setup, a feed.Artifact, at time.Time, got feed.Strength) (need feed.Strength, order uint64) {
	need, ok := p.Floors[a.Class]
	if set, also := s.Floors[a.Class]; also {
		need, ok = max(need, set), true
	}
	if !ok {
		need = feed.Signed
	}
	if got >= need {
		return need, 0
	}
	for _, o := range p.Exceptions {
		covers := (o.Feed == "" || o.Feed == s.Name) && (o.Digest == "" || o.Digest == a.Digest) && (o.Feed != "" || o.Digest != "")
		if o.Kind == feed.OrderException && covers && o.InForce(at) && got >= o.Strength {
			return o.Strength, o.Number
		}
	}
	return need, 0
}
