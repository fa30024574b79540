// Package mozilla carries updates of Firefox and Thunderbird.
//
// The vendor has three things: an update service that tells a running program
// what comes next for it (docs of Balrog; "AUS"), archives of files to update
// with (MAR, complete and partial), and a release tree with installers whose
// list SHA256SUMS is signed. A snapshot holds what the service said
// (offers.json), and files by their names in the release tree:
//
//	thunderbird/releases/140.12.0esr/SHA256SUMS, SHA256SUMS.asc
//	thunderbird/releases/140.12.0esr/update/win64/ja/thunderbird-140.12.0esr.complete.mar
//	thunderbird/releases/140.12.0esr/update/win64/ja/thunderbird-140.11.0esr-140.12.0esr.partial.mar
//	thunderbird/releases/140.12.0esr/win64/ja/Thunderbird Setup 140.12.0esr.exe
//
// Nobody signs the service's answers, and terminals take ours as they take the
// vendor's (policy AppUpdateURL). What they are offered is proved twice: the
// MAR's own signature, which the terminal checks too, and the signed list.
package mozilla

import (
	_ "embed"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is a mozilla feed's block: one product on one channel.
type Config struct {
	Product    string   `toml:"product" doc:"製品 / product: \"thunderbird\", \"firefox\""`
	Channel    string   `toml:"channel" doc:"更新の系列。法人向けの延長サポート版は\"esr\" / channel: \"esr\", \"release\""`
	Platforms  []string `toml:"platforms" doc:"端末の種類 / platforms: \"win64\", \"win32\", \"win64-aarch64\", \"mac\", \"linux-x86_64\", \"linux-aarch64\""`
	Locales    []string `toml:"locales" doc:"言語。macの日本語版も\"ja\"と書く / languages; \"ja\" stands for ja-JP-mac too"`
	Versions   []string `toml:"versions" doc:"端末に今入っている版（ヘルプの「バージョン情報」の数字、末尾のesrは除く）。いちばん古い端末の版を必ず含める / versions on terminals now, the oldest among them; without \"esr\""`
	Keep       int      `toml:"keep" doc:"差分を用意する過去の版の数 / how many earlier versions get partial updates"`
	Installers []string `toml:"installers" doc:"最新版のインストーラも運ぶ。空は運ばない / installers of the newest version: \"exe\", \"msi\", \"dmg\", \"pkg\", \"tar\""`
	Service    string   `toml:"service" doc:"提供元の更新サービス / the vendor's update service"`
	Archive    string   `toml:"archive" doc:"提供元の公開ファイル / the vendor's release tree"`
}

//go:embed keys/mar-release-primary.der
var marPrimary []byte

//go:embed keys/mar-release-secondary.der
var marSecondary []byte

//go:embed keys/mozilla-software-releases.asc
var releaseKey []byte

//go:embed keys/digicert-trusted-root-g4.pem
var digicertG4 []byte

//go:embed keys/digicert-assured-id-root.pem
var digicertAssured []byte

// useRoots is the use of the roots that the vendor's installers lead to.
const useRoots = "x509-mozilla"

// anchors are pinned with these SHA-256 (of certificates: of the DER).
//
//	mar primary       357F861C37F6648A0215440339B6555C65234E78FF92B365AD75736E87798361
//	mar secondary     A866C39CCE7F34ED4D85DADF1435185636233DA90321AC9AF64C8C9D6F35DE11
//	release key file  B0C538F0F145FA902AC55455D92D4E9A627C2C6865D79C81B280BCB55D75B798
//	  primary key     14F26682D0916CDD81E37B6D61B7B526D98F0353
//	DigiCert G4       552F7BDCF1A7AF9E6CE672017F4F12ABF77240C78E761AC203D1D9D20AC89988
//	DigiCert Assured  3E9099B5015E8F486C00BCEA9D111EE721FABA355A89BCF1DF69561E3DC6325C
func anchors() []feed.Anchor {
	const updater, certs = "Firefox source, toolkit/mozapps/update/updater/", "Debian package ca-certificates, mozilla/"
	return []feed.Anchor{
		{Name: "mozilla-mar-release-1", Use: verifier.UseMAR, Data: marPrimary, Source: updater + "release_primary.der"},
		{Name: "mozilla-mar-release-2", Use: verifier.UseMAR, Data: marSecondary, Source: updater + "release_secondary.der"},
		{Name: "mozilla-software-releases", Use: "openpgp", Data: releaseKey, Source: "KEY beside the vendor's releases, with the subkeys of earlier years"},
		{Name: "digicert-trusted-root-g4", Use: useRoots, Data: digicertG4, Source: certs + "DigiCert_Trusted_Root_G4.crt"},
		{Name: "digicert-assured-id-root", Use: useRoots, Data: digicertAssured, Source: certs + "DigiCert_Assured_ID_Root_CA.crt"},
	}
}

// publisher signs the vendor's installers for Windows.
func publisher() verifier.Publisher {
	return verifier.Publisher{Roots: useRoots, Names: []string{"Mozilla Corporation"}}
}

// Kind is the table entry. The index needs no strength: whatever it says, only
// what is proved is offered. The other metadata, the lists, is signed or refused.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "mozilla",
		Title: feed.Text{JA: "Firefox・Thunderbirdの更新", EN: "Updates of Firefox and Thunderbird"},
		Config: func() any {
			return &Config{Product: "thunderbird", Channel: "esr", Platforms: []string{"win64"}, Locales: []string{"ja"}, Keep: 3,
				Service: "https://aus5.mozilla.org", Archive: "https://archive.mozilla.org/pub"}
		},
		New: newFeed,
		Floors: map[feed.Class]feed.Strength{
			feed.Metadata: feed.None, feed.Definition: feed.Signed, feed.Security: feed.Signed, feed.Feature: feed.Signed,
		},
		Anchors: anchors(),
		Prefer:  feed.Security,
	}
}

const (
	maxKeep     = 12
	maxStreams  = 64 // platforms times languages
	maxVersions = 16
)

type updates struct {
	cfg              Config
	service, archive *url.URL
}

var localeName = regexp.MustCompile(`^[a-z]{2,3}(-[A-Za-z]{2,4}){0,2}$`)

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	f := &updates{cfg: cfg}
	for _, err := range []error{f.checkProduct(), f.checkVersions(), f.checkAddresses()} {
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

func bad(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }

func (f *updates) checkProduct() error {
	c := f.cfg
	if _, ok := products[c.Product]; !ok {
		return bad("product", fmt.Sprintf("%.40q is neither thunderbird nor firefox", c.Product))
	}
	if !slices.Contains([]string{esr, "release"}, c.Channel) {
		return bad("channel", fmt.Sprintf("%.40q is neither esr nor release", c.Channel))
	}
	for _, p := range c.Platforms {
		if _, ok := platforms[p]; !ok {
			return bad("platforms", fmt.Sprintf("%.40q", p))
		}
	}
	for _, l := range c.Locales {
		if !localeName.MatchString(l) {
			return bad("locales", fmt.Sprintf("%.40q", l))
		}
	}
	for _, i := range c.Installers {
		if !slices.Contains(installerKinds, i) {
			return bad("installers", fmt.Sprintf("%.40q is none of %s", i, strings.Join(installerKinds, ", ")))
		}
	}
	if n := len(c.Platforms) * len(c.Locales); n == 0 || n > maxStreams {
		return bad("platforms", fmt.Sprintf("%d combinations of platform and language, from 1 to %d may be", n, maxStreams))
	}
	return nil
}

func (f *updates) checkVersions() error {
	if n := len(f.cfg.Versions); n == 0 || n > maxVersions {
		return bad("versions", fmt.Sprintf("%d versions, from 1 to %d may be", n, maxVersions))
	}
	for i, v := range f.cfg.Versions {
		if !releaseVersion.MatchString(v) || slices.Contains(f.cfg.Versions[:i], v) {
			return bad("versions", fmt.Sprintf("%.40q: write it as 140.12.0, once", v))
		}
	}
	if f.cfg.Keep < 0 || f.cfg.Keep > maxKeep {
		return bad("keep", fmt.Sprintf("%d is not from 0 to %d", f.cfg.Keep, maxKeep))
	}
	return nil
}

// checkAddresses: what the service says is worth its TLS, so plain HTTP is for
// this machine alone. Files carry their signatures.
func (f *updates) checkAddresses() error {
	parse := func(key, s string, plain bool) (*url.URL, error) {
		u, err := url.Parse(strings.TrimSuffix(s, "/"))
		if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			return nil, bad(key, fmt.Sprintf("%.200q is not an https address", s))
		}
		ip := net.ParseIP(u.Hostname())
		if u.Scheme == "http" && !plain && (ip == nil || !ip.IsLoopback()) {
			return nil, bad(key, fmt.Sprintf("%.200q is not an https address", s))
		}
		return u, nil
	}
	var err error
	if f.service, err = parse("service", f.cfg.Service, false); err != nil {
		return err
	}
	f.archive, err = parse("archive", f.cfg.Archive, true)
	return err
}

// Reaches implements feed.Reacher.
func (f *updates) Reaches() []string {
	return []string{f.service.String() + "/", f.archive.String() + "/"}
}

// Released implements feed.Freshness: the newest build of any stream.
func (f *updates) Released(c feed.Content) (time.Time, string) {
	x, err := readIndex(c)
	if err != nil {
		return time.Time{}, ""
	}
	var best *release
	for i := range x.Streams {
		if r := x.Streams[i].newest(); r != nil && (best == nil || best.time().Before(r.time())) {
			best = r
		}
	}
	if best == nil {
		return time.Time{}, ""
	}
	return best.time(), products[x.Product].name + " " + x.dir(best.Version)
}

// Stale implements feed.Freshness: a release comes about every four weeks.
func (f *updates) Stale() (yellow, red time.Duration) {
	return 45 * 24 * time.Hour, 75 * 24 * time.Hour
}
