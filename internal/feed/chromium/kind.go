// Package chromium carries Google Chrome and Microsoft Edge for enterprises
// (.msi), and browser extensions (.crx) for both.
//
// What proves each:
//
//	chrome/ARCH/VERSION/….msi   Authenticode, publisher Google LLC
//	edge/CHANNEL/ARCH/VERSION/….msi   Authenticode, publisher Microsoft Corporation
//	extensions/ID/VERSION.crx   CRX3 under the developer's key, of which ID is a hash
//
// Browsers cannot be told another update server (their answers are signed by a
// key that is compiled in), so the packages are installed by winget, a file
// share or a start-up script, and the browsers' own updaters are switched off.
// Extensions update by themselves: by policy they ask the update manifest here.
package chromium

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/crx"
	"github.com/hashike/hashike/verifier"
)

// Config is a chromium feed's block.
type Config struct {
	Chrome      []string      `toml:"chrome" doc:"Google ChromeのCPU（x64、x86、arm64）。空なら運ばない / processors for which Chrome is carried"`
	Edge        []string      `toml:"edge" doc:"Microsoft EdgeのCPU（x64、x86、arm64）。空なら運ばない / processors for which Edge is carried"`
	EdgeChannel string        `toml:"edge_channel" doc:"Edgeのチャネル（Stable、ExtendedStable など） / Edge's channel"`
	Extensions  []string      `toml:"extensions" doc:"拡張機能のID（32文字） / identities of extensions"`
	Keep        int           `toml:"keep" doc:"残しておく版の数 / versions kept of each"`
	ChromeURL   string        `toml:"chrome_url" doc:"Chromeの.msiの置き場 / where Chrome's packages are"`
	EdgeURL     string        `toml:"edge_url" doc:"Edgeの版の一覧 / the list of Edge's releases"`
	StoreURL    string        `toml:"store_url" doc:"拡張機能の更新情報の問合せ先 / the update service of extensions"`
	Yellow      feed.Duration `toml:"yellow" doc:"最新の版の取得がこれより古ければ黄 / age of the newest package that is shown yellow"`
	Red         feed.Duration `toml:"red" doc:"これより古ければ赤 / age that is shown red"`
}

const (
	day     = 24 * time.Hour
	use     = "x509-code"
	maxKeep = 20
	maxExts = 200
)

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "chromium",
		Title: feed.Text{JA: "Google Chrome・Microsoft Edgeと拡張機能", EN: "Google Chrome, Microsoft Edge and extensions"},
		Config: func() any {
			return &Config{Chrome: []string{"x64"}, EdgeChannel: "Stable", Keep: 2, ChromeURL: "https://dl.google.com/dl/chrome/install",
				EdgeURL: "https://edgeupdates.microsoft.com/api/products?view=enterprise", StoreURL: "https://clients2.google.com/service/update2/crx",
				Yellow: feed.Duration(21 * day), Red: feed.Duration(45 * day)}
		},
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Security: feed.Signed},
		Anchors: verifier.CodeSigningAnchors(use),
		Prefer:  feed.Security,
	}
}

type browsers struct {
	cfg                 Config
	chrome, edge, store *url.URL
}

func arch(s string) bool { return s == "x64" || s == "x86" || s == "arm64" }

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	for key, c := range map[string]struct {
		list []string
		ok   func(string) bool
	}{"chrome": {cfg.Chrome, arch}, "edge": {cfg.Edge, arch}, "extensions": {cfg.Extensions, crx.ValidID}} {
		for i, s := range c.list {
			if !c.ok(s) || slices.Contains(c.list[:i], s) {
				return nil, bad(key, fmt.Sprintf("%.60q", s))
			}
		}
	}
	switch {
	case len(cfg.Chrome)+len(cfg.Edge)+len(cfg.Extensions) == 0:
		return nil, bad("chrome", "nothing to carry")
	case len(cfg.Extensions) > maxExts:
		return nil, bad("extensions", fmt.Sprintf("more than %d", maxExts))
	case !word(cfg.EdgeChannel):
		return nil, bad("edge_channel", fmt.Sprintf("%.60q", cfg.EdgeChannel))
	case cfg.Keep < 1 || cfg.Keep > maxKeep:
		return nil, bad("keep", fmt.Sprintf("%d is not from 1 to %d", cfg.Keep, maxKeep))
	case cfg.Yellow <= 0 || cfg.Red < cfg.Yellow:
		return nil, bad("red", "must not be less than yellow")
	}
	f := &browsers{cfg: cfg}
	for key, x := range map[string]struct {
		text string
		into **url.URL
	}{"chrome_url": {cfg.ChromeURL, &f.chrome}, "edge_url": {cfg.EdgeURL, &f.edge}, "store_url": {cfg.StoreURL, &f.store}} {
		u, err := url.Parse(strings.TrimSuffix(x.text, "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" || u.User != nil {
			return nil, bad(key, fmt.Sprintf("%.200q is not an http or https address", x.text))
		}
		*x.into = u
	}
	return f, nil
}

func word(s string) bool {
	return len(s) > 0 && len(s) <= 40 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// Reaches implements feed.Reacher. Where Edge's list and the extensions' update
// service lead is known from their answers; these are the hosts seen.
func (f *browsers) Reaches() []string {
	var out []string
	if len(f.cfg.Chrome) > 0 {
		out = append(out, f.chrome.String()+"/")
	}
	if len(f.cfg.Edge) > 0 {
		out = append(out, f.edge.String(), "https://msedge.sf.dl.delivery.mp.microsoft.com/")
	}
	if len(f.cfg.Extensions) > 0 {
		out = append(out, f.store.String(), "https://clients2.googleusercontent.com/crx/")
	}
	return out
}

// Released implements feed.Freshness: the newest package.
func (f *browsers) Released(c feed.Content) (at time.Time, version string) {
	for a, err := range c.Artifacts() {
		if err != nil {
			return time.Time{}, ""
		}
		if t := a.Origin.Fetched; version == "" || t.After(at) {
			at, version = t, a.Version
		}
	}
	return at, version
}

// Stale implements feed.Freshness: Chrome and Edge have a version every week or two.
func (f *browsers) Stale() (yellow, red time.Duration) {
	return time.Duration(f.cfg.Yellow), time.Duration(f.cfg.Red)
}

// version is a browser's or an extension's, four numbers.
type version [4]uint32

func parseVersion(s string) (v version, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 || len(s) > 40 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 17)
		if err != nil || strconv.FormatUint(n, 10) != p {
			return v, false
		}
		v[i] = uint32(n)
	}
	return v, true
}

// order is the place among versions: 10 bits would be short for a build, so
// the parts have 12, 16, 18 and 17.
func (v version) order() int64 {
	return int64(min(v[0], 1<<12-1))<<51 | int64(min(v[1], 1<<16-1))<<35 | int64(min(v[2], 1<<18-1))<<17 | int64(v[3])
}
