// Package withsecure carries what WithSecure's (F-Secure's) definitions update
// tool writes on a connected machine for a Policy Manager in isolated mode.
//
// Neither the layout of that output nor a signature in it is documented in
// public, so this is a file drop: archives that are whole, and do not get
// older. Nothing is proved (tier D); Policy Manager and the terminals check
// what they take in. No genuine output was at hand.
package withsecure

import (
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
	"github.com/hashike/hashike/internal/format/zipfile"
)

// Kind is the table entry.
func Kind() feed.Kind {
	return tooldir.Vendor{
		Name:   "withsecure",
		Title:  feed.Text{JA: "WithSecure（F-Secure）の定義（更新ツールの出力）", EN: "WithSecure (F-Secure) definitions (the update tool's output)"},
		Maker:  "WithSecure",
		Floors: map[feed.Class]feed.Strength{feed.Definition: feed.Attested, feed.Metadata: feed.Attested},
		Tier:   "tier D: the signature has no public format; Policy Manager and the terminal check it",
		Index:  func(p string) bool { return strings.EqualFold(path.Ext(p), ".json") },
		Read:   read, Settings: settings,
	}.Kind()
}

// read: there is an archive, and every archive is whole. The newest member
// dates the release: the writer's clock, without a zone, taken for UTC.
func read(t *tooldir.Tree) (tooldir.Release, error) {
	var rel tooldir.Release
	for _, p := range t.Paths() {
		if !strings.EqualFold(path.Ext(p), ".zip") {
			continue
		}
		at, err := newest(t, p)
		if err != nil {
			return rel, fmt.Errorf("%s: %w: %w", p, err, tooldir.ErrIncomplete)
		}
		if at.After(rel.Time) {
			rel.Time, rel.Version = at, at.Format("2006-01-02 15:04")
		}
	}
	if rel.Version == "" {
		return rel, fmt.Errorf("no archive (*.zip) with a date: %w", tooldir.ErrIncomplete)
	}
	rel.Marks = map[string]int64{"archive": rel.Time.Unix()}
	return rel, nil
}

func newest(t *tooldir.Tree, p string) (at time.Time, err error) {
	err = t.Each(p, func(r io.ReaderAt, size int64) error {
		z, err := zipfile.Open(r, size)
		if err == nil {
			at = zipfile.Newest(z)
		}
		return err
	})
	return at, err
}

func settings(t *tooldir.Tree, mirror string) []feed.Setting {
	var b strings.Builder
	for _, p := range t.Paths() {
		if strings.EqualFold(path.Ext(p), ".zip") {
			b.WriteString(mirror + "/" + p + "\n")
		}
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "Policy Managerに取り込むファイル", EN: "Files to import into Policy Manager"},
		Body:  b.String(),
		Note: feed.Text{
			JA: "隔離モードのPolicy Managerのサーバで上のファイルを取り、Policy Managerの手順で取り込みます。端末はPolicy Managerから更新するので、設定を変えません。未確認: 更新ツールの出力の形と取り込みの操作（WithSecureの管理者ガイド「隔離されたネットワーク」の節）。手順: 取り込み後、Policy Managerの定義の日付が hashike status の版と合うことを見る。",
			EN: "Fetch the files on the Policy Manager server in isolated mode and import them as its guide says. Terminals update from Policy Manager and stay as they are. Not confirmed: the form of the tool's output and the import (see the administrator's guide on isolated networks); afterwards compare the date of the definitions in Policy Manager with hashike status.",
		},
	}}
}
