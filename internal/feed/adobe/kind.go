// Package adobe carries updates of Adobe Acrobat and Reader, on the continuous
// and the classic tracks:
//
//	acrobat/win/AcrobatDC/2500120577/AcroRdrDCx642500120577_MUI.exe   the whole installer
//	acrobat/win/AcrobatDC/2500120577/AcroRdrDCx64Upd2500120577_MUI.msp   a patch
//	reader/mac/AcrobatDC/2500120577/AcroRdrDC_2500120577_MUI.dmg
//
// Paths are the vendor's. What proves the first two is Authenticode under one
// of Adobe's names; the version is the one in the signed bytes: the version
// resource of a program, the transforms of a patch. A disk image has nothing
// that can be checked here: it is worth the TLS that it came over.
//
// The vendor's own updater (ARM) cannot be told another server. Terminals get
// the files by winget, a file share or a start-up script, in the order that
// PatchRoute gives, and the updater is switched off.
package adobe

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is an adobe feed's block.
type Config struct {
	Products   []string          `toml:"products" doc:"製品。reader-x64、reader-x86、acrobat-x64、acrobat-x86、クラシック版は acrobat2020-x86 など、macOSは reader-mac、acrobat-mac / products"`
	Languages  []string          `toml:"languages" doc:"言語。多言語版は\"MUI\"、ほかに\"ja_JP\"、\"en_US\"。端末に入っている版に合わせる / languages, as installed on terminals"`
	Installers bool              `toml:"installers" doc:"インストーラ（.exe）も運ぶ（Readerだけ） / carry whole installers (.exe) of Reader too"`
	Patches    bool              `toml:"patches" doc:"更新（.msp）を運ぶ / carry patches (.msp)"`
	Pin        map[string]string `toml:"pin" doc:"製品ごとに、この版を運ぶ（提供元の最新の版を問い合わせない） / the version to carry, by product, instead of the vendor's newest"`
	Keep       int               `toml:"keep" doc:"残しておく版の数（必要な四半期の更新は別に残す） / versions kept of each; quarterly patches that they need are kept besides"`
	Oracle     string            `toml:"oracle" doc:"提供元が最新の版を示す場所 / where the vendor names the newest versions"`
	Catalogue  string            `toml:"catalogue" doc:"提供元の更新の一覧（SCUP）の場所。空なら使わない / where the vendor's SCUP catalogues are; empty is none"`
	Archive    string            `toml:"archive" doc:"提供元のファイルの場所 / where the vendor's files are"`
	Yellow     feed.Duration     `toml:"yellow" doc:"最新の版の取得がこれより古ければ黄 / age of the newest file that is shown yellow"`
	Red        feed.Duration     `toml:"red" doc:"これより古ければ赤 / age that is shown red"`
}

const (
	day         = 24 * time.Hour
	use         = "x509-code"
	maxKeep     = 20
	maxProducts = 20
)

// publisher signs: the name of today, and that of files until 2018.
func publisher() verifier.Publisher {
	return verifier.Publisher{Roots: use, Names: []string{"Adobe Inc.", "Adobe Systems Incorporated"}}
}

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "adobe",
		Title: feed.Text{JA: "Adobe Acrobat・Reader", EN: "Adobe Acrobat and Reader"},
		Config: func() any {
			return &Config{Products: []string{"reader-x64"}, Languages: []string{"MUI"}, Installers: true, Patches: true, Keep: 2,
				Oracle: "https://armmf.adobe.com/arm-manifests", Catalogue: "https://armmf.adobe.com/arm-manifests/win/SCUP",
				Archive: "https://ardownload2.adobe.com/pub/adobe", Yellow: feed.Duration(60 * day), Red: feed.Duration(120 * day)}
		},
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Security: feed.Signed, feed.Feature: feed.Attested},
		Anchors: verifier.CodeSigningAnchors(use),
		Terms:   terms(),
		Prefer:  feed.Security,
	}
}

// terms: the vendor lets organisations hand its programs on inside only under
// an agreement of their own.
func terms() feed.Terms {
	return feed.Terms{URL: "https://www.adobe.com/products/acrobat/acrobat-reader/volume-distribution.html", Text: feed.Text{
		JA: "Adobe Acrobat・Readerのインストーラと更新を団体の中で配るには、Adobeとの契約（Acrobat Readerの配布契約、Acrobatのライセンス契約）が必要です。契約の内容を読み、この団体が契約していることを確かめてから同意してください。運んだファイルは、契約した団体の中だけで使います。",
		EN: "To distribute installers and updates of Adobe Acrobat and Reader inside an organisation, an agreement with Adobe is needed (distribution agreement for Acrobat Reader, licence for Acrobat). Read it, make sure that this organisation has it, and accept then. What is carried is used within that organisation alone.",
	}}
}

type acrobat struct {
	cfg             Config
	products        []product
	oracle, archive *url.URL
	catalogue       *url.URL // nil is none
}

var language = regexp.MustCompile(`^(MUI|[a-z]{2}_[A-Z]{2})$`)

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	f := &acrobat{cfg: cfg}
	for i, s := range cfg.Products {
		p, ok := parseProduct(s)
		if !ok || slices.Contains(cfg.Products[:i], s) {
			return nil, bad("products", fmt.Sprintf("%.60q", s))
		}
		f.products = append(f.products, p)
	}
	for i, l := range cfg.Languages {
		if !language.MatchString(l) || slices.Contains(cfg.Languages[:i], l) {
			return nil, bad("languages", fmt.Sprintf("%.60q", l))
		}
	}
	for name, v := range cfg.Pin {
		p, ok := parseProduct(name)
		if pinned, good := ParseVersion(v); !ok || !slices.Contains(f.products, p) || !good || !p.takes(pinned) {
			return nil, bad("pin", fmt.Sprintf("%.60q = %.60q", name, v))
		}
	}
	switch {
	case len(f.products) == 0 || len(f.products) > maxProducts:
		return nil, bad("products", fmt.Sprintf("%d are not from 1 to %d", len(f.products), maxProducts))
	case len(cfg.Languages) == 0 || len(cfg.Languages) > maxProducts:
		return nil, bad("languages", "which?")
	case !cfg.Installers && !cfg.Patches:
		return nil, bad("patches", "neither installers nor patches are to be carried")
	case cfg.Keep < 1 || cfg.Keep > maxKeep:
		return nil, bad("keep", fmt.Sprintf("%d is not from 1 to %d", cfg.Keep, maxKeep))
	case cfg.Yellow <= 0 || cfg.Red < cfg.Yellow:
		return nil, bad("red", "must not be less than yellow")
	}
	for _, p := range f.products {
		if len(f.wanted(p, Version{})) == 0 {
			return nil, bad("products", p.String()+": nothing of it is to be carried: Acrobat has patches only")
		}
	}
	for key, x := range map[string]struct {
		text string
		into **url.URL
	}{"oracle": {cfg.Oracle, &f.oracle}, "archive": {cfg.Archive, &f.archive}, "catalogue": {cfg.Catalogue, &f.catalogue}} {
		if x.text == "" && key == "catalogue" {
			continue
		}
		u, err := url.Parse(strings.TrimSuffix(x.text, "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" || u.User != nil || u.RawQuery != "" {
			return nil, bad(key, fmt.Sprintf("%.200q is not an http or https address", x.text))
		}
		*x.into = u
	}
	return f, nil
}

// wanted are the files of a product's version that the configuration asks for.
// Installers of Acrobat are behind a licence: there are patches only.
func (f *acrobat) wanted(p product, v Version) (out []file) {
	if p.arch == "mac" {
		return []file{{p, "dmg", "", v}}
	}
	plain := false
	for _, l := range f.cfg.Languages {
		if f.cfg.Installers && p.name == "reader" {
			out = append(out, file{p, "exe", l, v})
		}
		if mui := l == "MUI" && p.name == "reader"; f.cfg.Patches && (mui || !plain) {
			patch := file{p, "msp", "", v}
			if mui {
				patch.lang = "MUI"
			} else {
				plain = true
			}
			out = append(out, patch)
		}
	}
	return out
}

// Reaches implements feed.Reacher.
func (f *acrobat) Reaches() []string {
	out := []string{f.oracle.String() + "/", f.archive.String() + "/"}
	if f.catalogue != nil {
		out = append(out, f.catalogue.String()+"/")
	}
	return out
}

// Released implements feed.Freshness: when the newest file was taken.
func (f *acrobat) Released(c feed.Content) (at time.Time, version string) {
	for a, err := range c.Artifacts() {
		if err != nil {
			return time.Time{}, ""
		}
		if t := a.Origin.Fetched; version == "" || t.After(at) || t.Equal(at) && a.Version > version {
			at, version = t, a.Version
		}
	}
	return at, version
}

// Stale implements feed.Freshness: a planned release comes every quarter, and
// mostly something between.
func (f *acrobat) Stale() (yellow, red time.Duration) {
	return time.Duration(f.cfg.Yellow), time.Duration(f.cfg.Red)
}
