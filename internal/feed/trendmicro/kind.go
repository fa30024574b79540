// Package trendmicro carries an ActiveUpdate folder of Trend Micro as their own
// tool or server left it.
//
// Each archive has a detached CMS signature beside it (FILE.sig) under Trend
// Micro's own root, which they do not publish: the site takes it from its
// product and adds it by a trust order (Use "x509-trendmicro"). Sources: the
// ActiveUpdate layout as a third party's gateway (groupe-edf/dsas-tinycore)
// reads it. No genuine file was at hand: the format is from documentation.
package trendmicro

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
	"github.com/hashike/hashike/verifier"
)

// Use is the Use of the anchor that a site adds.
const Use = "x509-trendmicro"

// Kind is the table entry. An index need not be signed: what it names is.
func Kind() feed.Kind {
	return tooldir.Vendor{
		Name:   "trendmicro",
		Title:  feed.Text{JA: "トレンドマイクロのパターンファイル（ActiveUpdateのフォルダ）", EN: "Trend Micro patterns (an ActiveUpdate folder)"},
		Maker:  "Trend Micro",
		Floors: map[feed.Class]feed.Strength{feed.Definition: feed.Signed, feed.Metadata: feed.None},
		Tier:   "no signature that we could check (tier D): none beside it, or no root of Trend Micro's was added by a trust order",
		Index:  index,
		Read:   read, Prove: prove, Settings: settings,
	}.Kind()
}

func index(p string) bool {
	switch strings.ToLower(path.Base(p)) {
	case "server.ini", "ini_xml.zip":
		return true
	}
	ext := strings.ToLower(path.Ext(p))
	return ext == ".sig" || ext == ".xml" || ext == ".ini"
}

// read: each server.ini names its archives with their sizes, and the archives
// are there. The release is dated by the newest signature.
func read(t *tooldir.Tree) (tooldir.Release, error) {
	rel := tooldir.Release{Marks: map[string]int64{}}
	for _, p := range t.Paths() {
		switch {
		case strings.EqualFold(path.Base(p), "server.ini"):
			if err := serverINI(t, p, &rel); err != nil {
				return rel, err
			}
		case strings.EqualFold(path.Ext(p), ".sig"):
			b, err := t.Read(p, verifier.MaxDetached)
			if err != nil {
				return rel, err
			}
			if at := verifier.DetachedTime(b); at.After(rel.Time) {
				rel.Time = at
			}
		}
	}
	if rel.Version == "" {
		return rel, fmt.Errorf("no server.ini with a pattern version: %w", tooldir.ErrIncomplete)
	}
	return rel, nil
}

func serverINI(t *tooldir.Tree, p string, rel *tooldir.Release) error {
	text, err := t.Text(p)
	if err != nil {
		return err
	}
	sections, err := tooldir.ParseINI(text)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", p, err, feed.ErrUpstream)
	}
	for _, s := range sections {
		if strings.EqualFold(s.Name, "Server") { // addresses
			continue
		}
		for _, k := range s.Keys {
			name, size, version, ok := archive(k.Value)
			if !ok {
				continue
			}
			if _, err := t.Need(p, name, size); err != nil {
				return fmt.Errorf("[%s] %s: %w", s.Name, k.Name, err)
			}
			if n, ok := tooldir.Order(version); ok && strings.EqualFold(s.Name, "PATTERN") {
				rel.Marks[strings.ToLower(p+" "+k.Name)] = n
				if rel.Version == "" {
					rel.Version = k.Name + " " + version
				}
			}
		}
	}
	return nil
}

// archive reads "pattern/file.zip,17.123.00,12345": a path, a version that may
// be missing, a size that may be missing. A value that is no path is not one.
func archive(v string) (name string, size int64, version string, ok bool) {
	parts := strings.Split(v, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	if !strings.Contains(path.Base(parts[0]), ".") || !strings.Contains(v, ",") || strings.Contains(parts[0], "://") && !strings.Contains(parts[0], "file:") {
		return "", 0, "", false
	}
	size = -1
	if len(parts) > 1 {
		if n, err := strconv.ParseInt(parts[len(parts)-1], 10, 64); err == nil && n >= 0 {
			size = n
		}
	}
	if len(parts) > 2 {
		version = parts[1]
	}
	return parts[0], size, version, true
}

// prove checks every file that has a signature beside it. Without a root there
// is nothing to check against, and the files are worth nothing until there is.
func prove(t *tooldir.Tree, _ tooldir.Config, trust feed.Trust, out feed.Proof) error {
	if len(trust.For(Use)) == 0 {
		return nil
	}
	for _, p := range t.Paths() {
		sig, ok := t.Find(p + ".sig")
		if !ok || strings.EqualFold(path.Ext(p), ".sig") {
			continue
		}
		f, _ := t.Find(p)
		b, err := t.Read(sig.Path, verifier.MaxDetached)
		if err != nil {
			return err
		}
		var ev feed.Evidence
		err = t.Each(p, func(r io.ReaderAt, size int64) (err error) {
			ev, err = verifier.Detached(r, size, b, Use, time.Time{}, trust)
			return err
		})
		if err != nil && !errors.Is(err, feed.ErrUntrusted) {
			return err
		}
		ev.Path, ev.Subject = p, f.Digest
		if err != nil {
			ev.Method, ev.Signer, ev.Refused = "cms-detached", "Trend Micro", err.Error()
		}
		if err := out.Evidence(ev); err != nil {
			return err
		}
		ev.Path, ev.Subject = sig.Path, sig.Digest
		if err := out.Evidence(ev); err != nil {
			return err
		}
	}
	return nil
}

func settings(t *tooldir.Tree, mirror string) []feed.Setting {
	at := mirror
	for _, p := range t.Paths() {
		if strings.EqualFold(path.Base(p), "server.ini") && path.Dir(p) != "." {
			at = mirror + "/" + path.Dir(p)
			break
		}
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "Apex Oneサーバの更新元", EN: "Apex One server: update source"},
		Body:  at + "\n",
		Note: feed.Text{
			JA: "Apex OneのWebコンソール「アップデート → サーバ → アップデート元 → その他のアップデート元」に上のアドレスを書きます。端末はApex Oneサーバから更新するので、変えません。インデックスは書き換えずに配信します（書き換えると署名が壊れ、新しい製品は受け付けません）。日本語版は日本のサーバ（…activeupdate.trendmicro.co.jp/activeupdate/japan）の内容を使い、海外版と混ぜないでください。未確認: 実際のサーバでの動作。手順: 手動アップデートを行い、パターン番号が hashike status の版と同じことを見る。",
			EN: "In Apex One's web console: Updates, Server, Update Source, Other update source. Agents update from the Apex One server and stay as they are. Indexes are served unchanged: an edited one breaks its signature. Japanese builds need the content of the Japanese server. Not confirmed on a real server: update by hand and compare the pattern number with hashike status.",
		},
	}}
}
