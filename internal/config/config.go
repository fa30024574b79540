// Package config reads hashike.toml: strict, so that a misspelt key is an
// error naming file, table and key before a service restarts, and writes the
// commented file that init leaves. Zero values are good values.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
)

// Network is how the outside reaches vendors.
type Network struct {
	Proxy      string   `toml:"proxy" doc:"プロキシ: \"system\"（環境に従う）、\"none\"、またはURL / proxy: system, none or a URL"`
	ExtraRoots []string `toml:"extra_roots" doc:"通信を検査する装置のルート証明書（PEMファイル）。来歴票に記録される / extra roots of an inspecting proxy; recorded in provenance"`
	Allow      []string `toml:"allow" doc:"更新対象の提供元のほかに接続してよい名前（転送先など） / further hosts that may be dialled"`
	PerHost    int      `toml:"per_host" doc:"1つの相手への同時接続数 / connections per host"`
	Rate       int64    `toml:"rate" doc:"1つの相手からの最大速度（バイト毎秒、0は無制限） / bytes per second per host, 0 is no limit"`
}

// Bundle is how the outside makes them.
type Bundle struct {
	ExpiryDays int `toml:"expiry_days" doc:"更新便の有効日数（7〜400） / days a bundle is valid"`
}

// Diode is the one-way line: what the outside sends, what the inside hears.
type Diode struct {
	DiodeSend
	DiodeReceive
}

// DiodeSend is the outside's end.
type DiodeSend struct {
	To      string `toml:"to" doc:"送り先（例 \"192.0.2.2:7400\"）。空なら一方向装置を使わない / address of the inside; empty is no diode"`
	Rate    string `toml:"rate" doc:"回線に流す速度（例 \"500M\"、ビット毎秒）。必ず決める / bits per second on the wire; required"`
	Profile string `toml:"profile" doc:"修復用データの割合（\"224+32\"、\"216+40\"、\"192+64\"、\"128+128\"） / data and parity shards of a block"`
	Passes  int    `toml:"passes" doc:"同じ更新便を送る回数（0は止めるまで） / how often a bundle is sent; 0 is for ever"`
	MTU     int    `toml:"mtu" doc:"経路全体のMTU / of the whole way"`
	Site    int    `toml:"site" doc:"拠点番号（0は1つだけの拠点） / site number; 0 is the only one"`
}

// DiodeReceive is the inside's end.
type DiodeReceive struct {
	Listen    string `toml:"listen" doc:"受け取るアドレス（例 \":7400\"）。空なら一方向装置を使わない / where packets arrive; empty is no diode"`
	Interface string `toml:"interface" doc:"マルチキャストのときの受け口の名前 / interface, for multicast"`
	Keep      int    `toml:"keep" doc:"受信箱に残す、取り込みずみの更新便の数 / imported bundles kept in the inbox"`
}

// DiodeDefaults are what a configuration without a [diode] block has.
func DiodeDefaults() Diode {
	return Diode{DiodeSend{Profile: "224+32", Passes: 2, MTU: 1500}, DiodeReceive{Keep: 5}}
}

// Bits reads a rate such as "500M": bits per second, at least 10k.
func Bits(text string) (int64, error) {
	unit := map[byte]float64{'k': 1e3, 'M': 1e6, 'G': 1e9}
	number, f := text, 1.0
	if n := len(text); n > 0 && unit[text[n-1]] != 0 {
		number, f = text[:n-1], unit[text[n-1]]
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v*f >= 10_000 && v*f <= 400e9) {
		return 0, fmt.Errorf("rate %q: bits per second, such as 500M; at least 10k", text)
	}
	return int64(v * f), nil
}

// Shards reads a profile such as "224+32".
func Shards(text string) (data, parity int, err error) {
	a, b, _ := strings.Cut(text, "+")
	data, err = strconv.Atoi(a)
	if err == nil {
		parity, err = strconv.Atoi(b)
	}
	if err != nil || data < 1 || parity < 1 || data+parity > 256 {
		return 0, 0, fmt.Errorf("profile %q: such as 224+32, at most 256 together", text)
	}
	return data, parity, nil
}

func (d Diode) check() error {
	if d.To != "" && d.Rate == "" {
		return fmt.Errorf("rate is needed: a sender that does not know the line's rate loses packets")
	}
	if d.Rate != "" {
		if _, err := Bits(d.Rate); err != nil {
			return err
		}
	}
	if _, _, err := Shards(d.Profile); err != nil {
		return err
	}
	for _, a := range []string{d.To, d.Listen} {
		if _, _, err := net.SplitHostPort(a); a != "" && err != nil {
			return err
		}
	}
	switch {
	case d.MTU < 640 || d.MTU > 9000:
		return fmt.Errorf("mtu %d: 640 to 9000", d.MTU)
	case d.Passes < 0:
		return fmt.Errorf("passes %d: 0 or more", d.Passes)
	case d.Keep < 1:
		return fmt.Errorf("keep %d: at least 1", d.Keep)
	}
	return nil
}

// Rings says which terminals see a publication first, and how much is kept.
type Rings struct {
	Test  []string `toml:"test" doc:"試験の端末（アドレスの範囲、またはサーバの別名） / test terminals: CIDR ranges or host names they ask for"`
	Pilot []string `toml:"pilot" doc:"先行の端末 / pilot terminals"`
	Keep  int      `toml:"keep" doc:"戻れる版の数 / rollback points per feed"`
}

// Listen is one address the inside answers on.
type Listen struct {
	Addr  string   `toml:"addr" doc:"アドレスとポート / address and port"`
	Admin bool     `toml:"admin" doc:"管理画面（端末・監査・来歴票）。既定はこのPCだけ / admin pages"`
	TLS   bool     `toml:"tls" doc:"HTTPSにする。証明書の指定がなければ独自の認証局で発行 / HTTPS"`
	Cert  string   `toml:"cert" doc:"証明書ファイル（PEM） / certificate file"`
	Key   string   `toml:"key" doc:"秘密鍵ファイル（PEM） / private key file"`
	Names []string `toml:"names" doc:"証明書に入れる名前・アドレス / names in the certificate"`
	Feeds []string `toml:"feeds" doc:"この口で配信する更新対象（空は全部） / feeds on this listener; empty is all"`
	Page  bool     `toml:"page" doc:"更新状況一覧と端末の設定の画面を出す / freshness and settings pages"`
	Login string   `toml:"login" doc:"管理画面の利用者ファイル（hashike keys login で作る） / user file for an admin listener on the LAN"`
}

// common is the part of a feed's block that the engines read.
type common struct {
	Kind  string                       `toml:"kind" doc:"種類 / kind"`
	Every feed.Duration                `toml:"every" doc:"取得の間隔 / how often to fetch"`
	Mount string                       `toml:"mount" doc:"端末から見た場所（既定は /名前/） / path on the mirror"`
	Least map[feed.Class]feed.Strength `toml:"least" doc:"既定より厳しい検証の下限 / stricter floors per class"`
	Dirs  map[string]string            `toml:"dirs" doc:"読み込むフォルダ / spool and drop directories by name"`
	Run   []string                     `toml:"run" doc:"取得の前に動かす提供元のツール / vendor tool run before each fetch"`
	Waits map[string]feed.Duration     `toml:"waits" doc:"配信段階ごとの待機時間 / waits per ring"`
	Terms string                       `toml:"terms" doc:"この利用条件に同意する（hashike terms accept）まで取得しない / terms to accept before anything is fetched"`
}

// File is a whole configuration.
type File struct {
	Path string
	Side string
	Name string // of this organisation, for pages and sheets
	Zone string // "lgwan" or "mynumber": which inside
	// Approval is how a bundle is approved: "paper" (the stamped sheet) or "key".
	Approval string
	Base     string // how terminals reach this mirror: "http://hashike.town.example:8080"
	Contact  i18n.Contact
	Network  Network
	Bundle   Bundle
	Rings    Rings
	Listen   []Listen
	Diode    Diode
	Feeds    []feed.Setup // by name

	Scan       Scanner // who looks for malware; Scanner.None is nobody
	OverLimit  string  // what becomes of a file over the scanner's limit: OverLimitStop, OverLimitRecord
	ScanLimit  int64   // MB over which clamd is not asked; 0 is as clamd says
	RescanDays int     // how much older than the present definitions those of a verdict may be
	ScanReason string  // why no scanner is used, where nobody can be asked
}

type raw struct {
	Schema   int                       `toml:"schema"`
	Side     string                    `toml:"side"`
	Name     string                    `toml:"name"`
	Zone     string                    `toml:"zone"`
	Approval string                    `toml:"approval"`
	Base     string                    `toml:"base"`
	Contact  i18n.Contact              `toml:"contact"`
	Network  Network                   `toml:"network"`
	Bundle   Bundle                    `toml:"bundle"`
	Rings    Rings                     `toml:"rings"`
	Listen   []Listen                  `toml:"listen"`
	Diode    Diode                     `toml:"diode"`
	Feed     map[string]toml.Primitive `toml:"feed"`

	Scan       Scanner `toml:"scan"`
	OverLimit  string  `toml:"over_limit"`
	ScanLimit  int64   `toml:"scan_limit_mb"`
	RescanDays int     `toml:"rescan_days"`
	ScanReason string  `toml:"scan_reason"`
}

// Schema is the newest configuration this program knows.
const Schema = 1

// Load reads and checks a configuration. Every error is ErrConfig and names
// file, table and key.
func Load(path string, kinds []feed.Kind) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault(path, err)
	}
	f, err := Parse(path, string(text), kinds)
	if err != nil {
		return nil, fault(path, err)
	}
	return f, nil
}

func fault(path string, err error) error {
	if f, ok := errors.AsType[*feed.Fault](err); ok { // a kind that has its own word for it
		return feed.NewFault(fmt.Errorf("%s: %w", path, err), f.Code, "file", path)
	}
	return feed.NewFault(fmt.Errorf("%s: %w: %w", path, err, feed.ErrConfig), "H-202", "file", path, "detail", err.Error())
}

// Parse is Load for a text in memory; path is for messages.
func Parse(path, text string, kinds []feed.Kind) (*File, error) {
	r := raw{Approval: "paper", Network: Network{Proxy: "system", PerHost: 2}, Bundle: Bundle{ExpiryDays: 45}, Rings: Rings{Keep: 3}, Diode: DiodeDefaults(), OverLimit: OverLimitRecord, RescanDays: 7}
	md, err := toml.Decode(text, &r)
	if err != nil {
		return nil, err
	}
	f := &File{Path: path, Side: r.Side, Name: r.Name, Zone: r.Zone, Approval: r.Approval, Base: r.Base, Contact: r.Contact, Network: r.Network, Bundle: r.Bundle, Rings: r.Rings, Listen: r.Listen, Diode: r.Diode,
		Scan: r.Scan, OverLimit: r.OverLimit, ScanLimit: r.ScanLimit, RescanDays: r.RescanDays, ScanReason: r.ScanReason}
	// Feeds first: only then is every known key decoded and the rest unknown.
	names := make([]string, 0, len(r.Feed))
	for n := range r.Feed {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		s, err := setup(md, n, r.Feed[n], kinds)
		if err != nil {
			return nil, fmt.Errorf("[feed.%s] %w", n, err)
		}
		f.Feeds = append(f.Feeds, s)
	}
	if left := md.Undecoded(); len(left) > 0 {
		return nil, unknown(left[0])
	}
	if r.Schema > Schema {
		return nil, fmt.Errorf("schema %d is newer than this program's %d", r.Schema, Schema)
	}
	return f, f.check()
}

func unknown(k toml.Key) error {
	table := "top level"
	if len(k) > 1 {
		table = "[" + strings.Join(k[:len(k)-1], ".") + "]"
	}
	return fmt.Errorf("%s: unknown key %q", table, k[len(k)-1])
}

func setup(md toml.MetaData, name string, block toml.Primitive, kinds []feed.Kind) (feed.Setup, error) {
	if !feed.ValidName(name) {
		return feed.Setup{}, fmt.Errorf("a feed's name is 1 to 40 of a-z, 0-9 and -, and no device name of Windows")
	}
	c := common{Every: feed.Duration(6 * time.Hour)}
	if err := md.PrimitiveDecode(block, &c); err != nil {
		return feed.Setup{}, err
	}
	i := slices.IndexFunc(kinds, func(k feed.Kind) bool { return k.Name == c.Kind })
	if i < 0 {
		var known []string
		for _, k := range kinds {
			known = append(known, k.Name)
		}
		return feed.Setup{}, fmt.Errorf("kind %q is none of %s", c.Kind, strings.Join(known, ", "))
	}
	k := kinds[i]
	v, err := k.New(func(into any) error { return md.PrimitiveDecode(block, into) })
	if err != nil {
		return feed.Setup{}, err
	}
	s := feed.Setup{Name: name, Kind: k, Feed: v, Every: time.Duration(c.Every), Mount: c.Mount, Dirs: c.Dirs, Run: c.Run, Waits: c.Waits, Terms: k.Terms.With(c.Terms), Prefer: k.Prefer}
	if s.Mount == "" {
		s.Mount = "/" + name + "/"
	}
	if u, err := url.Parse(s.Mount); err != nil || u.Path != s.Mount || !strings.HasPrefix(s.Mount, "/") || !strings.HasSuffix(s.Mount, "/") || strings.Contains(s.Mount, "//") || strings.Contains(s.Mount, "..") {
		return s, fmt.Errorf("mount %q: a path that begins and ends with a slash", c.Mount)
	}
	if len(c.Terms) > 16<<10 {
		return s, fmt.Errorf("terms: over 16 KiB")
	}
	if s.Every < time.Minute {
		return s, fmt.Errorf("every %s: at least one minute", s.Every)
	}
	for ring, d := range c.Waits {
		if !slices.Contains(feed.Rings(), ring) || d < 0 {
			return s, fmt.Errorf("waits.%s: the rings are %s", ring, strings.Join(feed.Rings(), ", "))
		}
	}
	s.Floors, err = floors(k.Floors, c.Least)
	return s, err
}

// floors raises a kind's floors by config. Lowering needs a signed exception.
func floors(kind, least map[feed.Class]feed.Strength) (map[feed.Class]feed.Strength, error) {
	out := map[feed.Class]feed.Strength{}
	for class, s := range kind {
		out[class] = s
	}
	for class, s := range least {
		was, ok := kind[class]
		if !ok {
			return nil, fmt.Errorf("least.%s: this kind has no such class", class)
		}
		if s < was {
			return nil, fmt.Errorf("least.%s: %q is below the kind's own %q; only a signed exception can lower it", class, s, was)
		}
		out[class] = s
	}
	return out, nil
}

func (f *File) check() error {
	if f.Side != "outside" && f.Side != "inside" {
		return fmt.Errorf("side %q: outside or inside", f.Side)
	}
	if f.Approval != "paper" && f.Approval != "key" {
		return fmt.Errorf("approval %q: paper or key", f.Approval)
	}
	if f.Zone != "" && f.Zone != "lgwan" && f.Zone != "mynumber" {
		return fmt.Errorf("zone %q: lgwan or mynumber", f.Zone)
	}
	if f.Bundle.ExpiryDays < 7 || f.Bundle.ExpiryDays > 400 {
		return fmt.Errorf("[bundle] expiry_days %d: 7 to 400", f.Bundle.ExpiryDays)
	}
	if f.Rings.Keep < 1 {
		return fmt.Errorf("[rings] keep %d: at least 1", f.Rings.Keep)
	}
	if f.Network.PerHost < 1 || f.Network.PerHost > 64 {
		return fmt.Errorf("[network] per_host %d: 1 to 64", f.Network.PerHost)
	}
	if p := f.Network.Proxy; p != "system" && p != "none" {
		if u, err := url.Parse(p); err != nil || u.Host == "" {
			return fmt.Errorf("[network] proxy: system, none or a URL")
		}
	}
	if u, err := url.Parse(f.Base); f.Base != "" && (err != nil || u.Host == "") {
		return fmt.Errorf("base %q: a URL such as http://hashike.town.example:8080", f.Base)
	}
	for _, p := range f.Network.ExtraRoots {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("[network] extra_roots: %w", err)
		}
	}
	for _, list := range [][]string{f.Rings.Test, f.Rings.Pilot} {
		for _, v := range list {
			if strings.Contains(v, "/") {
				if _, err := netip.ParsePrefix(v); err != nil {
					return fmt.Errorf("[rings] %w", err)
				}
			}
		}
	}
	if err := f.Diode.check(); err != nil {
		return fmt.Errorf("[diode] %w", err)
	}
	if err := f.checkScan(); err != nil {
		return err
	}
	return f.checkListeners()
}

func (f *File) checkListeners() error {
	for i, l := range f.Listen {
		where := fmt.Sprintf("[[listen]] %d", i+1)
		if l.Addr == "" {
			return fmt.Errorf("%s: addr is needed", where)
		}
		if (l.Cert == "") != (l.Key == "") {
			return fmt.Errorf("%s: cert and key go together", where)
		}
		for _, name := range l.Feeds {
			if !slices.ContainsFunc(f.Feeds, func(s feed.Setup) bool { return s.Name == name }) {
				return fmt.Errorf("%s: feeds: there is no [feed.%s]", where, name)
			}
		}
	}
	mounts := map[string]string{}
	for _, s := range f.Feeds {
		if other, ok := mounts[s.Mount]; ok {
			return fmt.Errorf("[feed.%s] and [feed.%s] have the same mount %s", other, s.Name, s.Mount)
		}
		mounts[s.Mount] = s.Name
	}
	return nil
}

// Feed finds a configured feed by name.
func (f *File) Feed(name string) (feed.Setup, error) {
	for _, s := range f.Feeds {
		if s.Name == name {
			return s, nil
		}
	}
	return feed.Setup{}, feed.NewFault(fmt.Errorf("feed %q: %w: %w", name, fs.ErrNotExist, feed.ErrConfig), "H-205", "name", name)
}
