// Package defender carries the definitions of Microsoft Defender as files: for
// Windows the signed programs that terminals take from a file share
// (x64/mpam-fe.exe), for Linux and macOS the offline mirror's layout. Terminals
// whose definitions come through Windows Update need package wsus instead.
//
// Sources: Microsoft's documentation of file shares and of the offline update
// of Defender for Endpoint, its downloader (microsoft/mdatp-xplat).
package defender

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is a defender feed's block.
type Config struct {
	Platforms []string `toml:"platforms" doc:"対象（windows/x64、windows/x86、windows/arm64、linux/x86_64、linux/arm64、mac/x86_64、mac/arm64） / what to carry"`
	NIS       bool     `toml:"nis" doc:"ネットワーク検査の定義（nis_full.exe。x64とx86）も運ぶ / the network inspection definitions too"`
	URL       string   `toml:"url" doc:"取得元。既定はMicrosoftのリンク。別の置き場（下に x64/mpam-fe.exe などがある）のアドレス、または空（フォルダ dirs.drop から読む） / Microsoft's links; another place with the same paths; empty reads the directory dirs.drop"`
}

// links is Microsoft's redirector: its links have numbers, not paths.
const links = "https://go.microsoft.com/fwlink/"

// hosts are where the links lead, as far as is known; [network] allow adds others.
var hosts = [...]string{"https://go.microsoft.com", "https://definitionupdates.microsoft.com", "https://www.microsoft.com"}

// item is one file or pair of files.
type item struct {
	path     string // below the mount, as terminals ask
	platform string
	link     string // query of the link
	pack     bool   // updates.zip with a manifest.json beside it; else a program
	nis      bool
}

// items are all that can be carried. The numbers of the NIS links come from a
// third party's program and are not confirmed (docs/feeds/defender.md).
var items = [...]item{
	{path: "x64/mpam-fe.exe", platform: "windows/x64", link: "LinkID=121721&arch=x64"},
	{path: "x86/mpam-fe.exe", platform: "windows/x86", link: "LinkID=121721&arch=x86"},
	{path: "arm64/mpam-fe.exe", platform: "windows/arm64", link: "LinkID=121721&arch=arm64"},
	{path: "x64/nis_full.exe", platform: "windows/x64", link: "LinkID=197094", nis: true},
	{path: "x86/nis_full.exe", platform: "windows/x86", link: "LinkID=207869", nis: true},
	{path: "linux/production/arch_x86_64/updates.zip", platform: "linux/x86_64", link: "linkid=2144709", pack: true},
	{path: "linux/production/arch_arm64/updates.zip", platform: "linux/arm64", link: "linkid=2144709&arch=arm64", pack: true},
	{path: "mac/production/arch_x86_64/updates.zip", platform: "mac/x86_64", link: "linkid=2120136", pack: true},
	{path: "mac/production/arch_arm64/updates.zip", platform: "mac/arm64", link: "linkid=2120136&arch=arm64", pack: true},
}

// manifest is the path of a package's manifest.
func (i item) manifest() string { return strings.TrimSuffix(i.path, "updates.zip") + "manifest.json" }

// at finds the item that a path belongs to.
func at(p string) (item, bool) {
	for _, i := range items {
		if i.path == p || i.pack && i.manifest() == p {
			return i, true
		}
	}
	return item{}, false
}

// artifact says how a file of the item stands in a snapshot. Programs are
// definitions, which must be signed; a package for Linux or macOS has its
// signature where only the client reads it, so it has a class of its own. A bad
// program holds the snapshot, and terminals keep the last good ones; a bad
// package is withheld alone, with its manifest.
func (i item) artifact(p string) feed.Artifact {
	a := feed.Artifact{Path: p, Class: feed.Definition}
	if i.pack {
		a.Group = i.path
		if a.Class = feed.Feature; p != i.path {
			a.Class = feed.Metadata
		}
	}
	return a
}

// Limits on one file.
const (
	maxProgram  = 1 << 30
	maxPackage  = 1 << 30
	maxManifest = 64 << 10
)

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:    "defender",
		Title:   feed.Text{JA: "Microsoft Defenderのウイルス定義ファイル", EN: "Microsoft Defender definitions"},
		Config:  func() any { return &Config{Platforms: []string{"windows/x64"}, URL: links} },
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Definition: feed.Signed, feed.Feature: feed.Attested, feed.Metadata: feed.Attested},
		Anchors: verifier.MicrosoftAnchors(),
		Prefer:  feed.Definition,
	}
}

// definitions is one configured feed.
type definitions struct {
	cfg  Config
	want []item
	base *url.URL // nil: from the directory
}

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	f := &definitions{cfg: cfg}
	for i, p := range cfg.Platforms {
		known := false
		for _, x := range items {
			if x.platform == p {
				known = true
				if !x.nis || cfg.NIS {
					f.want = append(f.want, x)
				}
			}
		}
		if !known || slices.Contains(cfg.Platforms[:i], p) {
			return nil, fmt.Errorf("platforms: %.60q: once each, and one of windows/x64, windows/x86, windows/arm64, linux/x86_64, linux/arm64, mac/x86_64, mac/arm64: %w", p, feed.ErrConfig)
		}
	}
	if len(f.want) == 0 {
		return nil, fmt.Errorf("platforms: at least one is needed: %w", feed.ErrConfig)
	}
	if cfg.URL != "" {
		u, err := url.Parse(cfg.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("url = %.200q is not an http or https address: %w", cfg.URL, feed.ErrConfig)
		}
		f.base = u
	}
	return f, nil
}

// address is where a file of the item is fetched from; more is "action=info"
// with Microsoft's links.
func (f *definitions) address(i item, p, more string) string {
	if f.cfg.URL != links {
		return f.base.JoinPath(strings.Split(p, "/")...).String()
	}
	if more != "" {
		more = "&" + more
	}
	return links + "?" + i.link + more
}

// Reaches implements feed.Reacher.
func (f *definitions) Reaches() []string {
	switch {
	case f.base == nil:
		return nil
	case f.cfg.URL == links:
		return hosts[:]
	}
	return []string{f.base.String()}
}

// Released implements feed.Freshness: the oldest of the files decides, for a
// platform that is left behind must not hide behind another.
func (f *definitions) Released(c feed.Content) (time.Time, string) {
	var best feed.Artifact
	for a, err := range c.Artifacts() {
		if err == nil && a.Class != feed.Metadata && !a.Time.IsZero() && (best.Path == "" || a.Time.Before(best.Time)) {
			best = a
		}
	}
	return best.Time, best.Version
}

// Stale implements feed.Freshness: definitions appear several times a day.
func (f *definitions) Stale() (yellow, red time.Duration) {
	return 3 * 24 * time.Hour, 7 * 24 * time.Hour
}
