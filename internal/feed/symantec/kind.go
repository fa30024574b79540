// Package symantec carries what Symantec Endpoint Protection updates from: the
// definition archives for its manager (.jdb), or a LiveUpdate tree as LiveUpdate
// Administrator exports it.
//
// A guarded archive is a zip file with v.grd, an INI file that names each member
// with its SHA-256, and v.sig, a detached CMS signature over v.grd. Its root is
// not published: the site takes it from its product and adds it by a trust order
// (Use "x509-symantec"). Sources: a third party's gateway
// (groupe-edf/dsas-tinycore). No genuine file was at hand. How livetri.zip names
// the payloads of a LiveUpdate tree is not known, so these are not proved.
package symantec

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
)

// Use is the Use of the anchor that a site adds.
const Use = "x509-symantec"

// Kind is the table entry.
func Kind() feed.Kind {
	return tooldir.Vendor{
		Name:   "symantec",
		Title:  feed.Text{JA: "Symantec Endpoint Protectionの定義（JDB、LiveUpdateのフォルダ）", EN: "Symantec Endpoint Protection definitions (JDB, LiveUpdate folder)"},
		Maker:  "Broadcom (Symantec)",
		Floors: map[feed.Class]feed.Strength{feed.Definition: feed.Signed, feed.Metadata: feed.None},
		Tier:   "no signature that we could check (tier D): not a guarded archive, or no root of Symantec's was added by a trust order",
		Index:  index,
		Read:   read, Prove: prove, Settings: settings,
	}.Kind()
}

func index(p string) bool {
	base := strings.ToLower(path.Base(p))
	return strings.HasSuffix(base, "livetri.zip") || base == "minitri.flg"
}

// plain are names that mean nothing else to PowerShell.
var plain = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

// must: a file with this name is a guarded archive.
func must(p string) bool {
	low := strings.ToLower(p)
	return strings.HasSuffix(low, ".jdb") || strings.HasSuffix(low, "livetri.zip")
}

// read: every archive is whole, its guard names its members, and a tree that
// says so has its index. The newest guard dates the release.
func read(t *tooldir.Tree) (tooldir.Release, error) {
	var rel tooldir.Release
	var mini, tri bool
	for _, p := range t.Paths() {
		base := strings.ToLower(path.Base(p))
		mini, tri = mini || base == "minitri.flg", tri || strings.HasSuffix(base, "livetri.zip")
		a, ok, err := guarded(t, p)
		if err != nil {
			return rel, err
		}
		if ok && a.made.After(rel.Time) {
			rel.Time, rel.Version = a.made, a.made.Format("2006-01-02 15:04")
		}
	}
	if rel.Time.IsZero() || mini && !tri {
		return rel, fmt.Errorf("no definition archive (*.jdb, *livetri.zip) with its v.grd: %w", tooldir.ErrIncomplete)
	}
	rel.Marks = map[string]int64{"v.grd": rel.Time.Unix()}
	return rel, nil
}

func settings(t *tooldir.Tree, mirror string) []feed.Setting {
	var jdb []string
	tree := ""
	for _, p := range t.Paths() {
		switch low := strings.ToLower(p); {
		case strings.HasSuffix(low, ".jdb") && plain.MatchString(p):
			jdb = append(jdb, p)
		case strings.HasSuffix(low, "livetri.zip"):
			tree = strings.TrimSuffix(mirror+"/"+path.Dir(p), "/.")
		}
	}
	var out []feed.Setting
	if len(jdb) > 0 {
		var b strings.Builder
		b.WriteString("$inbox = 'C:\\Program Files (x86)\\Symantec\\Symantec Endpoint Protection Manager\\data\\inbox\\content\\incoming'\n")
		b.WriteString("$seen = 'C:\\ProgramData\\Hashike-SEPM'; New-Item -ItemType Directory -Force $seen | Out-Null\n")
		for _, p := range jdb {
			name := path.Base(p)
			fmt.Fprintf(&b, "$copy = \"$seen\\%[2]s\"; $was = (Get-Item $copy -ErrorAction SilentlyContinue).LastWriteTime\n"+
				"$when = @(); if (Test-Path $copy) { $when = @('-z', $copy) }\n"+
				"& curl.exe -fsS -R @when -o $copy '%[1]s/%[2]s'\n"+
				"if ($LASTEXITCODE -eq 0 -and (Get-Item $copy).LastWriteTime -ne $was) { Copy-Item $copy \"$inbox\\%[2]s.tmp\"; Rename-Item \"$inbox\\%[2]s.tmp\" '%[2]s' }\n",
				strings.TrimSuffix(mirror+"/"+path.Dir(p), "/."), name)
		}
		out = append(out, feed.Setting{
			Title: feed.Text{JA: "管理サーバ（SEPM）がJDBを取るスクリプト（1時間ごと）", EN: "Script by which the manager (SEPM) takes the JDB (hourly)"},
			File:  "Update-SEPM.ps1", Body: b.String(),
			Note: feed.Text{
				JA: "SEPMのサーバでタスク スケジューラから動かします。incomingに置いたJDBをSEPMが取り込み、端末はSEPMから更新します（端末の設定は変えません）。フォルダは導入先に合わせてください。未確認: 実際のSEPMでの動作。手順: 数分後にSEPMの「管理 → サーバ → LiveUpdateコンテンツの表示」の日付が hashike status の版（協定世界時）と合うことを見る。",
				EN: "Run it by the task scheduler on the SEPM server. SEPM takes in a JDB laid into incoming; terminals update from SEPM as before. Adjust the folder. Not confirmed on a real SEPM: after some minutes compare the date of its LiveUpdate content with hashike status (UTC).",
			},
		})
	}
	if tree != "" {
		out = append(out, feed.Setting{
			Title: feed.Text{JA: "LiveUpdateポリシー（内部のLiveUpdateサーバ）", EN: "LiveUpdate policy: internal LiveUpdate server"},
			Body:  tree + "\n",
			Note: feed.Text{
				JA: "SEPMの「ポリシー → LiveUpdate → サーバーの設定」で「指定した内部LiveUpdateサーバーを使う」を選び、HTTPで上のアドレスを書きます。未確認: 実際の端末での動作。",
				EN: "In SEPM under Policies, LiveUpdate, Server Settings: use a specified internal LiveUpdate server, HTTP, the address above. Not confirmed on a real terminal.",
			},
		})
	}
	return out
}

// epoch reads Unix seconds.
func epoch(n int64) (time.Time, bool) {
	return time.Unix(n, 0).UTC(), n > 1_000_000_000 && n < 1<<33
}
