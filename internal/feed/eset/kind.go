// Package eset carries the output folder of ESET Mirror Tool.
//
// An index (update.ver) is not signed, but each of its entries names a module
// (.nup) whose signed [update_info] says the same: so every entry is proved by
// what it names. What stays open is what an index leaves out, and its sections
// that name no module ([HOSTS]); versions never go back, and age is shown.
//
// Sources: three public collections of modules and indexes (2016, 2017, 2021),
// indexes of 2026. No module of the present "dll" generation was at hand: if
// those come in another envelope, they prove nothing and are held.
package eset

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
	"github.com/hashike/hashike/verifier"
)

// Kind is the table entry. An index has no floor of its own: nothing that a
// terminal installs comes from it.
func Kind() feed.Kind {
	return tooldir.Vendor{
		Name:    "eset",
		Title:   feed.Text{JA: "ESETのモジュール（ミラーツールのフォルダ）", EN: "ESET modules (the mirror tool's folder)"},
		Maker:   "ESET",
		Floors:  map[feed.Class]feed.Strength{feed.Definition: feed.Signed, feed.Metadata: feed.None},
		Anchors: verifier.ESETAnchors(),
		Tier:    "not signed in a form that we know (tier D): the terminal checks it",
		Index:   func(p string) bool { return !strings.EqualFold(path.Ext(p), ".nup") },
		Read:    read, Prove: prove, Settings: settings, Keys: true,
	}.Kind()
}

// entry is one section of an index that names a module.
type entry struct {
	index  string
	module string // path in the folder
	tooldir.Section
}

func isIndex(p string) bool { return strings.EqualFold(path.Base(p), "update.ver") }

// entries reads every index of the folder, and finds what each names.
func entries(t *tooldir.Tree) ([]entry, error) {
	var out []entry
	for _, p := range t.Paths() {
		if !isIndex(p) {
			continue
		}
		text, err := t.Text(p)
		if strings.HasPrefix(text, "Rar!") || err != nil && rar(t, p) {
			return nil, fmt.Errorf("%s is RAR-compressed, which is not read: %w", p, feed.ErrUpstream)
		}
		if err != nil {
			return nil, err
		}
		sections, err := tooldir.ParseINI(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", p, err, feed.ErrUpstream)
		}
		for _, s := range sections {
			name, ok := s.Get("file")
			if !ok {
				continue
			}
			size := int64(-1)
			if v, ok := s.Get("size"); ok {
				if size, err = strconv.ParseInt(v, 10, 64); err != nil || size < 0 {
					return nil, fmt.Errorf("%s: [%s] size %.40q: %w", p, s.Name, v, feed.ErrUpstream)
				}
			}
			from := p
			if rooted, ok := strings.CutPrefix(name, "/"); ok { // of the server's root
				from, name = "update.ver", rooted
			}
			f, err := t.Need(from, name, size)
			if err != nil {
				return nil, fmt.Errorf("%s: [%s]: %w", p, s.Name, err)
			}
			out = append(out, entry{p, f.Path, s})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no update.ver that names a module: %w", tooldir.ErrIncomplete)
	}
	return out, nil
}

func rar(t *tooldir.Tree, p string) bool {
	b, err := t.Read(p, tooldir.MaxIndex)
	return err == nil && strings.HasPrefix(string(b), "Rar!")
}

// dated is a version with its day: "13573 (20160531)".
var dated = regexp.MustCompile(`^[0-9.]+[A-Za-z]? ?\(([0-9]{8})\)$`)

// read: every module that an index names is there with its size. The release
// is that of the newest module of each index; the oldest index dates the folder.
func read(t *tooldir.Tree) (tooldir.Release, error) {
	rel := tooldir.Release{Marks: map[string]int64{}}
	all, err := entries(t)
	if err != nil {
		return rel, err
	}
	newest := map[string]entry{}
	when := map[string]time.Time{}
	for _, e := range all {
		v, _ := e.Get("version")
		if m := dated.FindStringSubmatch(v); m != nil {
			if at, err := time.Parse("20060102", m[1]); err == nil && (at.After(when[e.index]) || at.Equal(when[e.index]) && later(e, newest[e.index])) {
				when[e.index], newest[e.index] = at, e
			}
		}
		if level, _ := e.Get("level"); level == "0" || level == "" {
			if n, ok := number(e, "build"); ok {
				stream := e.index + " " + strings.ToLower(e.Name)
				rel.Marks[stream] = max(rel.Marks[stream], n)
			}
		}
	}
	for _, index := range slices.Sorted(maps.Keys(when)) {
		at := when[index]
		rel.Marks[index+" day"] = at.Unix()
		if rel.Version == "" || at.Before(rel.Time) {
			rel.Time = at
			rel.Version, _ = newest[index].Get("version")
		}
	}
	if rel.Version == "" {
		return rel, fmt.Errorf("no version with a day in update.ver: %w", feed.ErrUpstream)
	}
	return rel, nil
}

// later: of two modules of one day, the engine's version is the one that people know.
func later(a, b entry) bool {
	x, _ := number(a, "versionid")
	y, _ := number(b, "versionid")
	return x > y
}

func number(e entry, key string) (int64, bool) {
	v, _ := e.Get(key)
	n, err := strconv.ParseInt(v, 10, 64)
	return n, err == nil && n > 0
}

func settings(t *tooldir.Tree, mirror string) []feed.Setting {
	var lines strings.Builder
	seen := map[string]bool{}
	for _, p := range t.Paths() {
		if !isIndex(p) {
			continue
		}
		// A client asks for update.ver or dll/update.ver below the address.
		dir := path.Dir(p)
		if path.Base(dir) == "dll" {
			dir = path.Dir(dir)
		}
		at := mirror
		if dir != "." {
			at += "/" + dir
		}
		if !seen[at] {
			seen[at] = true
			lines.WriteString(at + "\n")
		}
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "ESET PROTECTのポリシー（アップデートサーバー）", EN: "ESET PROTECT policy: update server"},
		Body:  lines.String(),
		Note: feed.Text{
			JA: "ポリシーの「アップデート → プロファイル → アップデート → モジュールのアップデート」で「自動的に選択」を無効にし、「カスタムサーバー」に上のアドレスを書きます（製品の世代ごとに1つ）。単独の端末は、詳細設定（F5）の同じ場所。認証は要りません。「ミラーからのアップデート」のHTTPは無効のままです。未確認: 実際の端末での動作。手順: 端末で「アップデートの確認」を行い、検出エンジンの版が hashike status の版と同じことを見る。",
			EN: "In the policy under Update, Profiles, Updates, Modules updates: switch \"Choose automatically\" off and put the address above as the custom server (one for each product generation). On a single terminal it is the same place in Advanced setup (F5). No login is needed. Not confirmed on a real terminal: check for updates and compare the detection engine's version with hashike status.",
		},
	}}
}
