// Package apt carries Debian-style package archives.
//
// What the vendor publishes (wiki.debian.org/DebianRepository/Format): a
// clear-signed dists/<suite>/InRelease that lists index files by SHA-256;
// Packages indexes that list .deb files by SHA-256; the .deb files themselves.
// The chain is OpenPGP signature → InRelease → Packages → .deb, so that every
// file is "signed" although no .deb carries a signature of its own.
//
// Hashike never rewrites that metadata. When only chosen packages are
// carried, the pool is sparse under the untouched upstream index: apt asks for
// a .deb only when somebody installs it. Stock apt with the stock keyring
// works; a sources entry must name only what is carried (Settings).
package apt

import (
	_ "embed"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Config is an apt feed's block.
type Config struct {
	URL           string   `toml:"url" doc:"archive address: what stands in URIs of a sources entry / アーカイブのURL"`
	Suites        []string `toml:"suites" doc:"suites to carry / 取得するスイート"`
	Components    []string `toml:"components" doc:"components / コンポーネント"`
	Architectures []string `toml:"architectures" doc:"architectures; add \"all\" nowhere: it is included where the archive keeps it apart / アーキテクチャ"`
	Packages      []string `toml:"packages" doc:"chosen packages, with what they depend on; empty is every package / 対象パッケージ（空は全部）"`
	Recommends    bool     `toml:"recommends" doc:"follow Recommends too / 推奨パッケージも含める"`
	Translations  []string `toml:"translations" doc:"languages of package descriptions, e.g. [\"ja\", \"en\"] / 説明文の言語"`
	Contents      bool     `toml:"contents" doc:"carry Contents files (apt-file) / Contentsファイルも運ぶ"`
	Installer     bool     `toml:"installer" doc:"carry debian-installer indexes and their .udeb files / インストーラ用ファイルも運ぶ"`
	Keys          []string `toml:"keys" doc:"names of the pinned keyrings that may sign this archive / 署名を確かめる鍵束の名前"`
	ClientKeyring string   `toml:"client_keyring" doc:"keyring file on the terminals, for the printed settings / 端末側の鍵束ファイル"`
}

//go:embed keys/debian-archive-keyring.gpg
var debianKeyring []byte

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "apt",
		Title: feed.Text{JA: "Debian・Ubuntu等のパッケージ（apt）", EN: "Debian-style package archives (apt)"},
		Config: func() any {
			return &Config{Components: []string{"main"}, Architectures: []string{"amd64"}, Keys: []string{debianKeys},
				ClientKeyring: "/usr/share/keyrings/debian-archive-keyring.gpg"}
		},
		New:    newFeed,
		Floors: map[feed.Class]feed.Strength{feed.Metadata: feed.Signed, feed.Security: feed.Signed, feed.Feature: feed.Signed, feed.Definition: feed.Signed},
		Anchors: []feed.Anchor{{
			Name: debianKeys, Use: "openpgp", Data: debianKeyring,
			// SHA-256 506b815cbb32d9b6066b4a2aa524071e071761e7e7f68c3ac74f3061ba852017
			Source: "Debian package debian-archive-keyring 2023.3+deb12u2, /usr/share/keyrings/debian-archive-keyring.gpg",
		}},
	}
}

const debianKeys = "debian-archive-keyring"

type archive struct {
	cfg  Config
	base *url.URL
}

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	base, err := url.Parse(strings.TrimSuffix(cfg.URL, "/"))
	switch {
	case err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "":
		return nil, bad("url", fmt.Sprintf("%q is not an http or https address", cfg.URL))
	case len(cfg.Suites) == 0:
		return nil, bad("suites", "at least one is needed")
	case len(cfg.Components) == 0:
		return nil, bad("components", "at least one is needed")
	case len(cfg.Architectures) == 0:
		return nil, bad("architectures", "at least one is needed")
	case len(cfg.Keys) == 0:
		return nil, bad("keys", "at least one pinned keyring is needed")
	}
	for key, list := range map[string][]string{"suites": cfg.Suites, "components": cfg.Components, "architectures": cfg.Architectures, "translations": cfg.Translations} {
		for _, v := range list {
			if !feed.ValidPath(v) || strings.ContainsAny(v, " \t") {
				return nil, bad(key, fmt.Sprintf("%q", v))
			}
		}
	}
	for _, a := range cfg.Architectures {
		if a == "all" || strings.Contains(a, "/") {
			return nil, bad("architectures", fmt.Sprintf("%q is not an architecture of terminals", a))
		}
	}
	return &archive{cfg: cfg, base: base}, nil
}

// AnchorNames implements feed.Named.
func (f *archive) AnchorNames() []string { return f.cfg.Keys }

// url joins the archive address and a path below it.
func (f *archive) url(p string) string { return below(f.base, p) }

// below is the URL of a path under base. Names are escaped: "%3a" in a name is
// part of it, not a colon.
func below(base *url.URL, p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return base.JoinPath(parts...).String()
}

// Reaches implements feed.Reacher.
func (f *archive) Reaches() []string { return []string{f.base.String()} }

// Released implements feed.Freshness: the newest Date of the suites.
func (f *archive) Released(c feed.Content) (time.Time, string) {
	var newest time.Time
	for _, s := range f.cfg.Suites {
		if a, ok := c.Lookup(path.Join("dists", s, "InRelease")); ok && a.Time.After(newest) {
			newest = a.Time
		} else if a, ok := c.Lookup(path.Join("dists", s, "Release")); ok && a.Time.After(newest) {
			newest = a.Time
		}
	}
	if newest.IsZero() {
		return newest, ""
	}
	return newest, newest.In(feed.JST()).Format("2006-01-02 15:04 JST")
}

// Stale implements feed.Freshness. A security suite is signed anew within its
// week of validity; a stable suite may rest for two months between point releases.
func (f *archive) Stale() (yellow, red time.Duration) {
	for _, s := range f.cfg.Suites {
		if strings.Contains(s, "security") || strings.Contains(s, "updates") {
			return 7 * 24 * time.Hour, 14 * 24 * time.Hour
		}
	}
	return 100 * 24 * time.Hour, 200 * 24 * time.Hour
}
