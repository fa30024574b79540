// Package intake carries what has no channel that a machine can read: a person
// fetches a file from the vendor's page and hands it in with
// "hashike intake add", which looks at it and writes a descriptor beside it
// (Descriptor). In the drop directory and in a snapshot they lie at
//
//	PRODUCT/VERSION/FILE
//	PRODUCT/VERSION/FILE.toml    the descriptor
//	PRODUCT/VERSION/FILE.asc     an OpenPGP signature, where the vendor makes one
//
// What proves a file is its Authenticode signature by the publisher that the
// configuration pins for its product, or the OpenPGP signature by the key that
// it pins. Version and names are the person's word; the digests of all
// descriptors stand in the snapshot's state, so that none can be exchanged.
//
// Pages may be watched: a new title is told in the status, and nothing else is
// done.
package intake

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Config is an intake feed's block. Products have short names of a-z, 0-9 and -.
type Config struct {
	Dir        string            `toml:"dir" doc:"ファイルを受け入れるフォルダ（dirsに書いた名前）。hashike intake add が置く / name of the folder in dirs that files are handed in to"`
	Publishers map[string]string `toml:"publishers" doc:"製品ごとに、署名していなければならない組織名（証明書のO、一字一句） / who must have signed, by product: the organisation of the certificate, exactly"`
	Keys       map[string]string `toml:"keys" doc:"署名付きプログラムでない製品ごとに、OpenPGP署名を確かめる鍵の名前（hashike order trustで加えたもの） / instead, by product: the name of the OpenPGP key that must have signed"`
	Pin        map[string]string `toml:"pin" doc:"製品ごとに、配信する版の上限 / the newest version to offer, by product"`
	Withdrawn  []string          `toml:"withdrawn" doc:"配信をやめた製品、または製品@版 / products, or PRODUCT@VERSION, that are no longer offered"`
	Watch      map[string]string `toml:"watch" doc:"新しい題名が出たら知らせるページ（名前とURL） / pages whose new titles are told, by name"`
	Words      []string          `toml:"words" doc:"知らせる題名に含まれる言葉。空は全部の行 / words that a title must contain to be told; empty is every line"`
	Class      feed.Class        `toml:"class" doc:"ファイルの分類（security、feature） / what the files are"`
	Yellow     feed.Duration     `toml:"yellow" doc:"一番新しいファイルがこれより古ければ黄 / age of the newest file that is shown yellow"`
	Red        feed.Duration     `toml:"red" doc:"これより古ければ赤 / age that is shown red"`
	MaxFile    int64             `toml:"max_file" doc:"1ファイルの最大バイト数 / most bytes of one file"`
}

const (
	day         = 24 * time.Hour
	use         = "x509-code"
	maxProducts = 200
	maxWatch    = 50
	maxGroups   = 2000
)

// Kind is the table entry.
func Kind() feed.Kind {
	return feed.Kind{
		Name:  "intake",
		Title: feed.Text{JA: "人が受け入れるファイル（一太郎・ATOKなど）", EN: "files that a person hands in (Ichitaro, ATOK and the like)"},
		Config: func() any {
			return &Config{Words: []string{"アップデートモジュール", "セキュリティ更新"}, Class: feed.Security, Yellow: feed.Duration(365 * day), Red: feed.Duration(730 * day), MaxFile: 8 << 30}
		},
		New:     newFeed,
		Floors:  map[feed.Class]feed.Strength{feed.Metadata: feed.Attested, feed.Security: feed.Signed, feed.Feature: feed.Signed},
		Anchors: verifier.CodeSigningAnchors(use),
		Prefer:  feed.Security,
	}
}

// Intake is a configured feed. The command that hands files in uses it too.
type Intake struct{ cfg Config }

func newFeed(decode feed.Decode) (feed.Feed, error) {
	cfg := *Kind().Config().(*Config)
	if err := decode(&cfg); err != nil {
		return nil, err
	}
	bad := func(key, why string) error { return fmt.Errorf("%s: %s: %w", key, why, feed.ErrConfig) }
	x := &Intake{cfg}
	for key, m := range map[string]map[string]string{"publishers": cfg.Publishers, "keys": cfg.Keys} {
		for p, who := range m {
			if !validProduct(p) || who == "" || len(who) > 400 {
				return nil, bad(key, fmt.Sprintf("%.60q = %.60q: a product is named by a-z, 0-9 and -", p, who))
			}
			if _, both := cfg.Keys[p]; key == "publishers" && both {
				return nil, bad(key, fmt.Sprintf("%q has a key as well", p))
			}
		}
	}
	for p, v := range cfg.Pin {
		if _, ok := parseVersion(v); !ok || !x.knows(p) {
			return nil, bad("pin", fmt.Sprintf("%.60q = %.60q", p, v))
		}
	}
	for _, w := range cfg.Withdrawn {
		p, v, one := strings.Cut(w, "@")
		if _, ok := parseVersion(v); !x.knows(p) || one && !ok {
			return nil, bad("withdrawn", fmt.Sprintf("%.60q", w))
		}
	}
	for n, s := range cfg.Watch {
		u, err := url.Parse(s)
		if !validProduct(n) || err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return nil, bad("watch", fmt.Sprintf("%.60q = %.200q", n, s))
		}
	}
	switch {
	case cfg.Dir == "":
		return nil, bad("dir", "which folder?")
	case len(cfg.Publishers)+len(cfg.Keys) == 0 || len(cfg.Publishers)+len(cfg.Keys) > maxProducts:
		return nil, bad("publishers", fmt.Sprintf("from 1 to %d products", maxProducts))
	case len(cfg.Watch) > maxWatch:
		return nil, bad("watch", fmt.Sprintf("more than %d", maxWatch))
	case cfg.Class != feed.Security && cfg.Class != feed.Feature:
		return nil, bad("class", fmt.Sprintf("%q is neither security nor feature", cfg.Class))
	case cfg.Yellow <= 0 || cfg.Red < cfg.Yellow:
		return nil, bad("red", "must not be less than yellow")
	case cfg.MaxFile <= 0:
		return nil, bad("max_file", "must be positive")
	}
	return x, nil
}

// validProduct: a product's name is a folder's and a bare key of TOML.
func validProduct(s string) bool { return feed.ValidName(s) && s != watchFolder }

func (x *Intake) knows(p string) bool { return x.cfg.Publishers[p] != "" || x.cfg.Keys[p] != "" }

// Dir is the name of the drop directory in the configuration.
func (x *Intake) Dir() string { return x.cfg.Dir }

// MaxFile is the most bytes of one file.
func (x *Intake) MaxFile() int64 { return x.cfg.MaxFile }

// Products are the names of those that the configuration pins somebody for, sorted.
func (x *Intake) Products() []string {
	var out []string
	for p := range x.cfg.Publishers {
		out = append(out, p)
	}
	for p := range x.cfg.Keys {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Expected is who must have signed a product's files: an organisation, or the
// name of an OpenPGP key.
func (x *Intake) Expected(product string) (organisation, key string) {
	return x.cfg.Publishers[product], x.cfg.Keys[product]
}

// offered: why a version is not offered, by the configuration; empty if it is.
func (x *Intake) held(product, version string) string {
	if !x.knows(product) {
		return "the configuration does not name the product " + product
	}
	if slices.Contains(x.cfg.Withdrawn, product) || slices.Contains(x.cfg.Withdrawn, product+"@"+version) {
		return "withdrawn by the configuration"
	}
	v, _ := parseVersion(version)
	if top, ok := parseVersion(x.cfg.Pin[product]); ok && v > top {
		return "the configuration stops at version " + x.cfg.Pin[product]
	}
	return ""
}

var versionForm = regexp.MustCompile(`^(0|[1-9]\d{0,4})(\.(0|[1-9]\d{0,4})){0,3}$`)

// parseVersion gives a version its place in the order: up to four numbers below
// 65536 (the first below 32768).
func parseVersion(s string) (int64, bool) {
	if !versionForm.MatchString(s) {
		return 0, false
	}
	var v int64
	parts := append(strings.Split(s, "."), "0", "0", "0")
	for i, p := range parts[:4] {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || i == 0 && n >= 1<<15 {
			return 0, false
		}
		v = v<<16 | int64(n)
	}
	return v, true
}

// Normal is a version as it must be written: "2026.03.15" is 2026.3.15.
func Normal(s string) (string, bool) {
	parts := strings.Split(strings.NewReplacer("/", ".", "-", ".").Replace(strings.TrimSpace(s)), ".")
	for i, p := range parts {
		if p = strings.TrimLeft(p, "0"); p == "" && parts[i] != "" {
			p = "0"
		}
		parts[i] = p
	}
	out := strings.Join(parts, ".")
	_, ok := parseVersion(out)
	return out, ok
}

// Reaches implements feed.Reacher: the watched pages.
func (x *Intake) Reaches() []string {
	var out []string
	for _, u := range x.cfg.Watch {
		out = append(out, u)
	}
	slices.Sort(out)
	return out
}

// Released implements feed.Freshness: the vendor's own date of the newest file.
func (x *Intake) Released(c feed.Content) (at time.Time, version string) {
	for a, err := range c.Artifacts() {
		if err != nil {
			return time.Time{}, ""
		}
		if e, ok := parsePath(a.Path); ok && e.kind == isFile && (version == "" || a.Time.After(at)) {
			at, version = a.Time, e.product+" "+a.Version
		}
	}
	return at, version
}

// Stale implements feed.Freshness.
func (x *Intake) Stale() (yellow, red time.Duration) {
	return time.Duration(x.cfg.Yellow), time.Duration(x.cfg.Red)
}
