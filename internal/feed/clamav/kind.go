// Package clamav carries the databases of ClamAV.
//
// A snapshot holds, per database: the newest CVD, its detached signature
// (ClamAV 1.5), and the patches (cdiff, with theirs) that bring older
// terminals up to it. A bad CVD holds the snapshot; a bad patch is withheld
// alone, and terminals that need it take the whole CVD instead.
//
// Formats and clients' behaviour: docs/design.md. What is served are the
// vendor's bytes; databases that freshclam patched itself (.cld) carry no
// header signature and are neither taken nor served.
package clamav

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is a clamav feed's block.
type Config struct {
	Databases  []string `toml:"databases" doc:"取得するデータベース / databases to carry"`
	URL        string   `toml:"url" doc:"HTTPSのミラー。空ならフォルダ dirs.spool（freshclam や cvdupdate の出力先）から読む / HTTPS mirror; empty reads the directory dirs.spool, which freshclam or cvdupdate fills"`
	KeepCdiffs int      `toml:"keep_cdiffs" doc:"持ち続ける差分の数。端末が更新されない最長の期間に合わせる（30日なら60） / patches to keep per database: enough for the longest absence of a terminal"`
}

const maxKeep = 1000

// origin is where freshclam and cvdupdate fetch from.
const origin = "https://database.clamav.net/"

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "clamav",
		Title: feed.Text{JA: "ClamAVのウイルス定義ファイル", EN: "ClamAV virus definitions"},
		Config: func() any {
			return &Config{Databases: []string{"main", "daily", "bytecode"}, KeepCdiffs: 60}
		},
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Definition: feed.Signed, feed.Metadata: feed.Signed},
		Anchors: verifier.ClamAVAnchors(),
		Prefer:  feed.Definition,
	}
}

type databases struct {
	cfg  Config
	base *url.URL // nil: from the spool
}

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	if len(cfg.Databases) == 0 {
		return nil, bad("databases", "at least one is needed")
	}
	for i, db := range cfg.Databases {
		if !validName(db) || slices.Contains(cfg.Databases[:i], db) {
			return nil, bad("databases", fmt.Sprintf("%.60q", db))
		}
	}
	if cfg.KeepCdiffs < 0 || cfg.KeepCdiffs > maxKeep {
		return nil, bad("keep_cdiffs", fmt.Sprintf("%d is not from 0 to %d", cfg.KeepCdiffs, maxKeep))
	}
	f := &databases{cfg: cfg}
	if cfg.URL != "" {
		u, err := url.Parse(strings.TrimSuffix(cfg.URL, "/"))
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, bad("url", fmt.Sprintf("%.200q is not an http or https address", cfg.URL))
		}
		f.base = u
	}
	return f, nil
}

// Reaches implements feed.Reacher. With a spool it is the vendor's tool that
// goes there; the permission request must name the host all the same.
func (f *databases) Reaches() []string {
	if f.base == nil {
		return []string{origin}
	}
	return []string{f.base.String() + "/"}
}

// Released implements feed.Freshness: daily's build time if it is carried,
// else the newest database's.
func (f *databases) Released(c feed.Content) (time.Time, string) {
	var best feed.Artifact
	for _, a := range currentDatabases(c) {
		if a.Path == "daily.cvd" {
			best = a
			break
		}
		if a.Time.After(best.Time) {
			best = a
		}
	}
	if best.Path == "" {
		return time.Time{}, ""
	}
	return best.Time, strings.TrimSuffix(best.Path, ".cvd") + " " + best.Version
}

// Stale implements feed.Freshness: daily appears once or twice a day.
func (f *databases) Stale() (yellow, red time.Duration) {
	return 3 * 24 * time.Hour, 7 * 24 * time.Hour
}
