// Package winget is a private source for the Windows Package Manager: the REST
// contract 1.0 to 1.10 over the installers that other feeds of this mirror
// publish.
//
// It fetches no installer and proves none. What there is to install comes from
// the other feeds' neutral records (feed.Installer), per ring, at each
// publication; the files are served from their snapshots by digest. So a package
// appears and vanishes with the publication that has it.
//
// A record may be dressed by a manifest of the community repository
// (winget-pkgs), put into a folder on the outside: it counts only for files
// that are published here with the same SHA-256, its addresses are replaced, and
// of its fields only those of a fixed list are taken (manifest.go). Nobody signs
// manifests: they are "attested".
//
// Sources: the OpenAPI documents of microsoft/winget-cli-restsource, the
// manifest schemas and the client's own reader in microsoft/winget-cli
// (src/AppInstallerRepositoryCore/Rest). Not confirmed on Windows:
// docs/feeds/winget.md.
package winget

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Config is a winget feed's block.
type Config struct {
	Feeds      []string `toml:"feeds" doc:"feeds whose installers are offered / インストーラーを載せる更新対象の名前"`
	Identifier string   `toml:"identifier" doc:"name of the source, which must never change / ソースの識別名（一度決めたら変えない）"`
	Dir        string   `toml:"dir" doc:"name of a folder in dirs with winget-pkgs manifests; empty is none / winget-pkgsのマニフェストを置くフォルダ（dirsに書いた名前）。空なら使わない"`
	Packages   []string `toml:"packages" doc:"package identifiers to take from the folder; empty is all / フォルダから使うパッケージの識別名（空は全部）"`
}

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:   "winget",
		Title:  feed.Text{JA: "wingetの配信元（ほかの更新対象のインストーラー）", EN: "A winget source over the installers of other feeds"},
		Config: func() any { return &Config{Identifier: "Hashike"} },
		New:    newFeed,
		Floors: map[feed.Class]feed.Strength{feed.Metadata: feed.Attested, feed.Feature: feed.Attested},
	}
}

type source struct{ cfg Config }

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	if n := len(cfg.Identifier); n < 3 || n > 128 {
		return nil, bad("identifier", "must have 3 to 128 letters")
	}
	for _, f := range cfg.Feeds {
		if !feed.ValidName(f) {
			return nil, bad("feeds", fmt.Sprintf("%q is not a feed's name", f))
		}
	}
	for _, p := range cfg.Packages {
		if !feed.ValidInstallerID(p) {
			return nil, bad("packages", fmt.Sprintf("%q is not a package identifier", p))
		}
	}
	slices.Sort(cfg.Feeds)
	cfg.Feeds = slices.Compact(cfg.Feeds)
	return &source{cfg}, nil
}

// Peers implements feed.Peers.
func (s *source) Peers() []string { return s.cfg.Feeds }

// Released implements feed.Freshness: when the folder last changed. What is
// offered has the age of the feeds that it comes from.
func (s *source) Released(c feed.Content) (time.Time, string) {
	n := 0
	for a, err := range c.Artifacts() {
		if err != nil {
			return time.Time{}, ""
		}
		if a.Path != indexPath {
			n++
		}
	}
	return c.Header().Taken, fmt.Sprint(n)
}

const day = 24 * time.Hour

// Stale implements feed.Freshness.
func (s *source) Stale() (yellow, red time.Duration) { return 365 * day, 730 * day }
