// Package wsus carries Windows updates and answers terminals as a WSUS does.
//
// A snapshot holds the vendor's own metadata as received (WSUSSCAN.cab of an
// .msu), the payload files that it names, and the map of revision numbers that
// terminals cache. Nothing of an update is made here: what terminals get are
// the vendor's fragments.
//
// Formats: MS-WUSP rev. 38 (client to server), MS-CAB, the offline scan
// layout of wsusscn2.cab. docs/design.md says what is measured and where.
package wsus

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is a wsus feed's block.
type Config struct {
	Groups map[string]string `toml:"groups" doc:"端末のグループ（TargetGroupポリシーの名前）と配信段階（test、pilot、all） / target group (policy TargetGroup) to ring"`
}

const maxGroups = 1000

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:   "wsus",
		Title:  feed.Text{JA: "Windowsの更新プログラム", EN: "Windows updates"},
		Config: func() any { return &Config{} },
		New:    newFeed,
		Floors: map[feed.Class]feed.Strength{
			feed.Metadata: feed.Attested, feed.Definition: feed.Signed, feed.Security: feed.Signed, feed.Feature: feed.Signed,
		},
		Anchors: verifier.MicrosoftAnchors(),
	}
}

// updates is one configured feed.
type updates struct {
	rings map[string]string // lower-case target group → ring
	now   func() time.Time  // for the expiry of cookies
}

func newFeed(decode feed.Decode) (feed.Feed, error) {
	var cfg Config
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	f := &updates{rings: map[string]string{}, now: time.Now}
	for _, group := range slices.Sorted(maps.Keys(cfg.Groups)) {
		ring, key := cfg.Groups[group], strings.ToLower(group)
		if _, twice := f.rings[key]; twice || group == "" || len(group) > maxText || len(f.rings) >= maxGroups || !slices.Contains(feed.Rings(), ring) {
			return nil, fmt.Errorf("groups.%.80q = %.40q: once each, and one of %s: %w", group, ring, strings.Join(feed.Rings(), ", "), feed.ErrConfig)
		}
		f.rings[key] = ring
	}
	return f, nil
}

// Released implements feed.Freshness: the newest metadata's own date.
func (f *updates) Released(c feed.Content) (time.Time, string) {
	var best time.Time
	for a, err := range c.Artifacts() {
		if err == nil && a.Class == feed.Metadata && a.Time.After(best) {
			best = a.Time
		}
	}
	if best.IsZero() {
		return best, ""
	}
	return best, best.Format(time.DateOnly)
}

// Stale implements feed.Freshness: Microsoft publishes monthly.
func (f *updates) Stale() (yellow, red time.Duration) {
	return 35 * 24 * time.Hour, 65 * 24 * time.Hour
}
