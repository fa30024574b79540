// Package msix carries Windows app packages: line-of-business and vendors'
// packages (.msix, .appx and bundles of them), from a folder that a person
// fills or from a list of addresses.
//
// A package proves itself: its signature covers every byte (verifier.
// Authenticode), its manifest names the publisher, who must be the signer, and
// says what it is. So its path here is made from the manifest, not from the
// name that the file came under:
//
//	packages/NAME_VERSION_ARCH_RESOURCE_PUBLISHERID.msix
//
// What terminals follow is the .appinstaller document of each name, which is
// made when it is asked for ("App Installer file overview" and its schema 2018,
// learn.microsoft.com/windows/msix/app-installer). Not confirmed on Windows:
// docs/feeds/msix.md.
package msix

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is an msix feed's block.
type Config struct {
	Dir        string            `toml:"dir" doc:"name of a folder in dirs that packages are put into / パッケージを置くフォルダ（dirsに書いた名前）"`
	URLs       []string          `toml:"urls" doc:"instead of dir: addresses of packages; the address need not hold the version / dirの代わりに、パッケージのURL（版が入っていないURLでもよい）"`
	Publishers []string          `toml:"publishers" doc:"organisations (O of the certificate), or whole names that begin with CN=, that may sign, exactly / 署名してよい組織名（証明書のO）か、CN=から始まる全部の名前（一字一句）"`
	Require    bool              `toml:"require" doc:"withhold a package whose framework packages are not in this feed / 必要なフレームワークがこの更新対象にないパッケージは配信しない"`
	Pin        map[string]string `toml:"pin" doc:"the newest version to offer, by package name / パッケージ名ごとに、配信する版の上限"`
	Hours      int               `toml:"hours" doc:"terminals look for updates at start when the last look is so many hours ago / 起動のときに更新を調べる間隔（時間）"`
	Downgrade  bool              `toml:"downgrade" doc:"terminals also follow back to an older version / 古い版に戻すことを端末に許す"`
	Class      feed.Class        `toml:"class" doc:"what the packages are: security or feature / パッケージの分類"`
	Yellow     feed.Duration     `toml:"yellow" doc:"age of the newest package that is shown yellow / 一番新しいパッケージがこれより古ければ黄"`
	Red        feed.Duration     `toml:"red" doc:"age of the newest package that is shown red / 一番新しいパッケージがこれより古ければ赤"`
	MaxFile    int64             `toml:"max_file" doc:"most bytes of one package / 1ファイルの最大バイト数"`
}

// use is the anchors' use: a town's own signing root is added by a trust order
// with it, and then is believed by this feed alone.
const use = "x509-msix"

const day = 24 * time.Hour

// Limits on a feed.
const (
	maxURLs     = 50
	maxPackages = 2000
)

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "msix",
		Title: feed.Text{JA: "Windowsのアプリパッケージ（MSIX、APPX）", EN: "Windows app packages (MSIX, APPX)"},
		Config: func() any {
			return &Config{Hours: 12, Class: feed.Feature, Yellow: feed.Duration(365 * day), Red: feed.Duration(730 * day), MaxFile: 8 << 30}
		},
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Security: feed.Signed, feed.Feature: feed.Signed},
		Anchors: verifier.CodeSigningAnchors(use),
	}
}

type packages struct{ cfg Config }

var goodVersion = regexp.MustCompile(`^\d{1,5}(\.\d{1,5}){3}$`)

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	switch {
	case (cfg.Dir == "") == (len(cfg.URLs) == 0):
		return nil, bad("urls", "either dir or urls is needed")
	case len(cfg.URLs) > maxURLs:
		return nil, bad("urls", fmt.Sprintf("more than %d", maxURLs))
	case len(cfg.Publishers) == 0:
		return nil, bad("publishers", "at least one organisation is needed")
	case cfg.Hours < 0 || cfg.Hours > 255: // schema 2018: an unsigned byte
		return nil, bad("hours", "must be 0 to 255")
	case cfg.Class != feed.Security && cfg.Class != feed.Feature:
		return nil, bad("class", fmt.Sprintf("%q is neither security nor feature", cfg.Class))
	case cfg.Yellow <= 0 || cfg.Red < cfg.Yellow:
		return nil, bad("red", "must not be less than yellow")
	case cfg.MaxFile <= 0:
		return nil, bad("max_file", "must be positive")
	}
	for _, s := range cfg.URLs {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return nil, bad("urls", fmt.Sprintf("%q is not an http or https address", s))
		}
	}
	for _, n := range slices.Sorted(maps.Keys(cfg.Pin)) {
		if !goodVersion.MatchString(cfg.Pin[n]) {
			return nil, bad("pin", fmt.Sprintf("%q is not a version of four numbers", cfg.Pin[n]))
		}
	}
	return &packages{cfg}, nil
}

func (p *packages) publisher() verifier.Publisher {
	return verifier.Publisher{Roots: use, Names: p.cfg.Publishers}
}

// Reaches implements feed.Reacher.
func (p *packages) Reaches() []string { return p.cfg.URLs }

// extension is that of a package's file name, "" if it is none.
func extension(name string) string {
	switch e := strings.ToLower(path.Ext(name)); e {
	case ".msix", ".appx", ".msixbundle", ".appxbundle":
		return e
	}
	return ""
}

// Released implements feed.Freshness: when the newest package was packed. What
// the packages do not say, the fetch does.
func (p *packages) Released(c feed.Content) (at time.Time, version string) {
	for a, err := range c.Artifacts() {
		if err != nil {
			return time.Time{}, ""
		}
		if version == "" || a.Time.After(at) {
			at, version = a.Time, a.Version
		}
	}
	if at.IsZero() && version != "" {
		at = c.Header().Taken
	}
	return at, version
}

// Stale implements feed.Freshness.
func (p *packages) Stale() (yellow, red time.Duration) {
	return time.Duration(p.cfg.Yellow), time.Duration(p.cfg.Red)
}
