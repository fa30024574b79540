// Package kaspersky carries the update folder of Kaspersky Update Utility.
//
// Sources: an index of 2016 and the utility's documentation (grammar); the
// signature at the end of an index and the hashes of the files have no public
// description, so nothing here is proved: tier D. The utility and the terminals
// check what they take.
package kaspersky

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
)

// Kind is the table entry.
func Kind() feed.Kind {
	return tooldir.Vendor{
		Name:   "kaspersky",
		Title:  feed.Text{JA: "Kasperskyの定義データベース（更新ツールのフォルダ）", EN: "Kaspersky databases (the update utility's folder)"},
		Maker:  "Kaspersky",
		Floors: map[feed.Class]feed.Strength{feed.Definition: feed.Attested, feed.Metadata: feed.Attested},
		Tier:   "tier D: Kaspersky's signature has no public format; its update utility and the terminal check it",
		Index:  isIndex,
		Read:   read, Settings: settings,
	}.Kind()
}

// master are the indexes that a client asks for first: u0607g.xml and others
// of product families.
var master = regexp.MustCompile(`(?i)(^|/)u[0-9]{4}g\.xml$`)

func isIndex(p string) bool { return strings.EqualFold(path.Ext(p), ".xml") }

// read: every index is whole, and what it names with a place of its own is there.
func read(t *tooldir.Tree) (tooldir.Release, error) {
	rel := tooldir.Release{Marks: map[string]int64{}}
	seen := map[string]bool{}
	for _, p := range t.Paths() {
		if !master.MatchString(p) {
			continue
		}
		at, err := index(t, p, 0, seen)
		if err != nil {
			return rel, err
		}
		rel.Marks[strings.ToLower(p)] = at.Unix()
		if at.After(rel.Time) {
			rel.Time, rel.Version = at, at.Format("2006-01-02 15:04")
		}
	}
	if rel.Version == "" {
		return rel, fmt.Errorf("no index (index/u0607g.xml): %w", tooldir.ErrIncomplete)
	}
	return rel, nil
}

// maxNested is how deep indexes may name indexes.
const maxNested = 4

// index reads one UpdateFiles document, and those that it names.
func index(t *tooldir.Tree, p string, depth int, seen map[string]bool) (at time.Time, err error) {
	text, err := t.Text(p)
	if err != nil {
		return at, err
	}
	var nested []string
	rest, err := tooldir.WalkXML(text, func(e tooldir.Element) error {
		switch {
		case e.End:
		case e.Depth == 1 && e.Name != "UpdateFiles":
			return fmt.Errorf("root element %.60q", e.Name)
		case e.Depth == 1:
			at, err = stamp(e.Attrs["UpdateDate"])
			return err
		case e.Name == "FileDescription" && e.Attrs["Body"] == "":
			f, err := described(t, p, e.Attrs)
			if err == nil && f != "" && e.Attrs["UpdateType"] == "desc" && isIndex(f) {
				nested = append(nested, f)
			}
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return at, fmt.Errorf("%s: %w", p, err)
	case at.IsZero():
		return at, fmt.Errorf("%s: no UpdateDate: %w", p, feed.ErrUpstream)
	case !signed(rest):
		return at, fmt.Errorf("%s: its last line, the signature, is missing: %w", p, tooldir.ErrIncomplete)
	case depth == maxNested && len(nested) > 0:
		return at, fmt.Errorf("%s: indexes deeper than %d: %w", p, maxNested, feed.ErrUpstream)
	}
	for _, n := range nested {
		if seen[n] {
			continue
		}
		seen[n] = true
		if _, err := index(t, n, depth+1, seen); err != nil {
			return at, err
		}
	}
	return at, nil
}

// described is the file that an entry names: Filename in ServerFolder, which is
// relative to the index's own folder and begins with "../". One that names a
// folder must be there. A base that the utility was not told to fetch (other
// products, other systems) is not: Kaspersky's index lists all.
func described(t *tooldir.Tree, p string, attrs map[string]string) (string, error) {
	name := attrs["Filename"]
	if name == "" {
		return "", nil
	}
	if strings.Contains(name, "/") || !feed.ValidPath(name) {
		return "", fmt.Errorf("%.200q is no file name: %w", name, feed.ErrUpstream)
	}
	folder := strings.TrimSuffix(attrs["ServerFolder"], "/")
	at := path.Join(path.Dir(p), folder, name)
	if strings.ContainsAny(folder, "\\:\x00") || path.IsAbs(folder) || !feed.ValidPath(at) {
		return "", fmt.Errorf("folder %.200q of %s leads out: %w", folder, name, feed.ErrUpstream)
	}
	f, ok := t.Find(at)
	if !ok {
		if attrs["UpdateType"] != "desc" {
			return "", nil
		}
		return "", fmt.Errorf("names %s, which is not there: %w", at, tooldir.ErrIncomplete)
	}
	return f.Path, nil
}

// stamp reads "ddmmyyyy HHMM".
func stamp(s string) (time.Time, error) {
	at, err := time.Parse("02012006 1504", s)
	if err != nil {
		return at, fmt.Errorf("UpdateDate %.40q: %w", s, feed.ErrUpstream)
	}
	return at, nil
}

var trailer = regexp.MustCompile(`^;[0-9:]+[A-Za-z0-9+/=]{40,400}%%$`)

// signed: what follows the document looks as Kaspersky's signature does
// (";:10", 86 base64 characters, "%%"). What it says cannot be checked.
func signed(rest string) bool { return trailer.MatchString(strings.TrimSpace(rest)) }

func settings(_ *tooldir.Tree, mirror string) []feed.Setting {
	return []feed.Setting{{
		Title: feed.Text{JA: "Kaspersky Security Center のタスク（更新元）", EN: "Kaspersky Security Center: update source of the task"},
		Body:  mirror + "/\n",
		Note: feed.Text{
			JA: "「管理サーバーリポジトリへのアップデートのダウンロード」タスク、または端末の「アップデート」タスクの更新元に、上のアドレスを「HTTPサーバ」として追加し、「カスペルスキーのアップデートサーバー」は外します。画面の文言は版により異なります。未確認: 実際の管理サーバでの動作。手順: タスクを手動で実行し、データベースの日付が hashike status の版（協定世界時）と同じことを見る。",
			EN: "Add the address above as an HTTP source to the task \"Download updates to the Administration Server repository\" or to the terminals' update task, and remove \"Kaspersky update servers\". Wording differs between versions. Not confirmed on a real server: run the task by hand and compare the date of the databases with hashike status (UTC).",
		},
	}, {
		Title: feed.Text{JA: "Kaspersky Endpoint Security（Windows）の単独の端末", EN: "Kaspersky Endpoint Security for Windows, one terminal"},
		Body:  "avp.com UPDATE \"" + mirror + "/\"\n",
		Note: feed.Text{
			JA: "1台で試すときのコマンドです。続けて使うときは、ポリシーまたはアップデートタスクの「更新元」に同じアドレスを書きます。未確認です。",
			EN: "For a trial on one terminal. To keep it, put the address into the policy or the update task as its source. Not confirmed.",
		},
	}}
}
