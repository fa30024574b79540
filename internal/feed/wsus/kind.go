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
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is a wsus feed's block.
type Config struct {
	Upstream        string            `toml:"upstream" doc:"更新の取得元。Microsoft（https://sws.update.microsoft.com）または既存のWSUS（http://名前:8530）。空ならフォルダ（dirs.drop）だけ / upstream: Microsoft or a WSUS; empty: the drop directory only"`
	Products        []string          `toml:"products" doc:"製品（名前またはID。例 \"Windows 11\"） / products, by title or id"`
	Classifications []string          `toml:"classifications" doc:"分類（名前またはID） / classifications, by title or id"`
	Offline         string            `toml:"offline" doc:"wsusscn2.cabの入手先（http://download.windowsupdate.com/microsoftupdate/v6/wsusscan/wsusscn2.cab）。フォルダに置くときは空 / address of wsusscn2.cab; empty when it is put into the drop directory"`
	Hardware        []string          `toml:"hardware" doc:"運ぶドライバーのハードウェアID（前方一致。例 'PCI\\VEN_8086&DEV_15F3'）。分類にDriversを入れたときに使う。空はすべて / drivers to carry, by the beginning of the hardware id; with the classification Drivers"`
	Superseded      bool              `toml:"superseded" doc:"置き換えられた更新の本体も運ぶ / carry the files of superseded updates too"`
	Account         string            `toml:"account" doc:"取得元に名乗る名前 / name told to the upstream"`
	Groups          map[string]string `toml:"groups" doc:"端末のグループ（TargetGroupポリシーの名前）と配信段階（test、pilot、all） / target group (policy TargetGroup) to ring"`
	Rules           []Rule            `toml:"rules" doc:"承認の規則（上から順に、最初に当てはまるもの） / approval rules, the first that fits"`
	Others          string            `toml:"others" doc:"どの規則にも当てはまらない更新（install、detect、decline。空は外側の規則、それもなければinstall） / what becomes of updates that no rule fits; empty: as the outside says, else install"`
}

const maxGroups = 1000

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "wsus",
		Title: feed.Text{JA: "Windowsの更新プログラム", EN: "Windows updates"},
		Config: func() any {
			return &Config{Classifications: defaultClassifications(), Account: "hashike"}
		},
		New: newFeed,
		Floors: map[feed.Class]feed.Strength{
			feed.Metadata: feed.Attested, feed.Definition: feed.Signed, feed.Security: feed.Signed, feed.Feature: feed.Signed,
		},
		Anchors: verifier.MicrosoftAnchors(),
	}
}

// updates is one configured feed.
type updates struct {
	conf  Config
	rings map[string]string // lower-case target group → ring
	now   func() time.Time  // for the expiry of cookies
	epoch func() epoch      // of a new map of revisions

	anchors []feed.Anchor // that a wsusscn2.cab must lead to before it is read; Verify decides
}

func newFeed(decode feed.Decode) (feed.Feed, error) {
	var cfg Config
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	f := &updates{conf: cfg, rings: map[string]string{}, now: time.Now, epoch: newEpoch, anchors: verifier.MicrosoftAnchors()}
	if err := errors.Join(cfg.check(), cfg.checkRules()); err != nil {
		return nil, err
	}
	if o := f.conf.Others; o != "" && o != "install" {
		// Definition updates do not wait for a person unless a rule says so.
		f.conf.Rules = append(slices.Clone(cfg.Rules), Rule{Classification: "Definition Updates", Action: "install"})
	}
	for _, group := range slices.Sorted(maps.Keys(cfg.Groups)) {
		ring, key := cfg.Groups[group], strings.ToLower(group)
		if _, twice := f.rings[key]; twice || group == "" || len(group) > maxText || len(f.rings) >= maxGroups || !slices.Contains(feed.Rings(), ring) {
			return nil, fmt.Errorf("groups.%.80q = %.40q: once each, and one of %s: %w", group, ring, strings.Join(feed.Rings(), ", "), feed.ErrConfig)
		}
		f.rings[key] = ring
	}
	return f, nil
}

// check refuses an upstream that cannot be meant.
func (c *Config) check() error {
	if len(c.Hardware) > maxHardware || slices.ContainsFunc(c.Hardware, func(h string) bool { return h == "" || len(h) > maxText }) {
		return fmt.Errorf("hardware: at most %d beginnings of hardware ids: %w", maxHardware, feed.ErrConfig)
	}
	if c.Offline != "" {
		u, err := url.Parse(c.Offline)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || len(c.Products) == 0 || len(c.Classifications) == 0 {
			return fmt.Errorf("offline = %.200q: http(s)://…/wsusscn2.cab, with products and classifications: %w", c.Offline, feed.ErrConfig)
		}
	}
	if c.Upstream == "" {
		return nil
	}
	u, err := url.Parse(c.Upstream)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.HasSuffix(c.Upstream, "/") || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("upstream = %.200q: http(s)://name[:port]: %w", c.Upstream, feed.ErrConfig)
	}
	if len(c.Products) == 0 || len(c.Classifications) == 0 || len(c.Products)+len(c.Classifications) > maxGroups {
		return fmt.Errorf("upstream needs products and classifications: %w", feed.ErrConfig)
	}
	return nil
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
