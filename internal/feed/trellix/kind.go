// Package trellix carries a Trellix (McAfee) CommonUpdater folder: a site as
// ePO's "distributed repository" or a mirror task leaves it.
//
// The DAT indexes (avvdat.ini, oem.ini, gdeltaavv.ini) name files with their
// MD5; catalog.z and PkgCatalog.z are signed in a form that only the agent
// reads. So the folder is checked to be whole (tier C), and nothing is proved.
// Sources: the vendor's documentation of repositories; a third party's scanner
// for oem.ini. No genuine file was at hand.
package trellix

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
	"github.com/hashike/hashike/internal/format/zipfile"
)

// Kind is the table entry.
func Kind() feed.Kind {
	return tooldir.Vendor{
		Name:   "trellix",
		Title:  feed.Text{JA: "Trellix（McAfee）の定義ファイル（CommonUpdaterのフォルダ）", EN: "Trellix (McAfee) definitions (a CommonUpdater folder)"},
		Maker:  "Trellix",
		Floors: map[feed.Class]feed.Strength{feed.Definition: feed.Attested, feed.Metadata: feed.Attested},
		Tier:   "tier C/D: whole by the vendor's own list (MD5); the signature in catalog.z is read by the agent alone",
		Index:  index,
		Read:   read, Settings: settings,
	}.Kind()
}

func index(p string) bool {
	switch ext := strings.ToLower(path.Ext(p)); ext {
	case ".ini", ".xml", ".z", ".mcs", ".log":
		return true
	}
	return false
}

// read: the site says that it is enabled, every DAT index is borne out by its
// files.
func read(t *tooldir.Tree) (tooldir.Release, error) {
	rel := tooldir.Release{Marks: map[string]int64{}}
	catalog := ""
	for _, p := range t.Paths() {
		var err error
		switch strings.ToLower(path.Base(p)) {
		case "sitestat.xml":
			catalog, err = site(t, p, &rel)
		case "avvdat.ini", "oem.ini", "gdeltaavv.ini":
			err = dats(t, p, &rel)
		}
		if err != nil {
			return rel, err
		}
	}
	if rel.Version == "" {
		rel.Version = catalog
	}
	if rel.Version == "" || len(rel.Marks) == 0 {
		return rel, fmt.Errorf("neither SiteStat.xml nor a DAT index with a version: %w", tooldir.ErrIncomplete)
	}
	return rel, nil
}

// site reads SiteStat.xml. "Disabled" is how the vendor says that it is being
// filled.
func site(t *tooldir.Tree, p string, rel *tooldir.Release) (catalog string, err error) {
	text, err := t.Text(p)
	if err != nil {
		return "", err
	}
	status := ""
	_, err = tooldir.WalkXML(text, func(e tooldir.Element) error {
		if e.Depth == 1 && !e.End {
			status, catalog = e.Attrs["Status"], e.Attrs["CatalogVersion"]
		}
		return nil
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w: %w", p, err, tooldir.ErrIncomplete)
	case !strings.EqualFold(status, "Enabled"):
		return "", fmt.Errorf("%s: the site is %.40q, not Enabled: %w", p, status, tooldir.ErrIncomplete)
	}
	n, err := strconv.ParseInt(catalog, 10, 64)
	if err != nil || n <= 0 {
		return "", fmt.Errorf("%s: CatalogVersion %.40q: %w", p, catalog, feed.ErrUpstream)
	}
	rel.Marks[strings.ToLower(p)] = n
	return "catalog " + catalog, nil
}

// dats reads one DAT index.
func dats(t *tooldir.Tree, p string, rel *tooldir.Release) error {
	text, err := t.Text(p)
	if err != nil {
		return err
	}
	sections, err := tooldir.ParseINI(text)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", p, err, feed.ErrUpstream)
	}
	for _, s := range sections {
		for _, key := range []string{"DATVersion", "CurrentVersion"} {
			v, ok := s.Get(key)
			n, valid := tooldir.Order(v)
			if !ok || !valid {
				continue
			}
			stream := strings.ToLower(p)
			rel.Marks[stream] = max(rel.Marks[stream], n)
			if rel.Version == "" {
				rel.Version = "DAT " + v
			}
		}
		if name, ok := s.Get("FileName"); ok {
			sum, _ := s.Get("MD5")
			if err := borne(t, p, name, sum, rel); err != nil {
				return fmt.Errorf("[%s]: %w", s.Name, err)
			}
		}
		for _, k := range s.Keys {
			var err error
			switch {
			case strings.EqualFold(s.Name, "GEM-MD5"):
				err = borne(t, p, k.Name, k.Value, rel)
			case strings.HasSuffix(strings.ToLower(k.Value), ".gem"):
				_, err = t.Need(p, k.Value, -1)
			}
			if err != nil {
				return fmt.Errorf("[%s]: %w", s.Name, err)
			}
		}
	}
	return nil
}

// borne: the file beside the index has the MD5 that the index gives.
func borne(t *tooldir.Tree, p, name, sum string, rel *tooldir.Release) error {
	f, err := t.Need(p, name, -1)
	if err != nil {
		return err
	}
	want, err := hex.DecodeString(sum)
	if err != nil || len(want) != md5.Size {
		return fmt.Errorf("%s: MD5 of %s is %.60q: %w", p, name, sum, feed.ErrUpstream)
	}
	return t.Each(f.Path, func(r io.ReaderAt, size int64) error {
		h := md5.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return err
		}
		if string(h.Sum(nil)) != string(want) {
			return fmt.Errorf("%s says of %s another MD5: %w", p, f.Path, tooldir.ErrIncomplete)
		}
		// What is no zip file has no date.
		if z, err := zipfile.Open(r, size); err == nil && zipfile.Newest(z).After(rel.Time) {
			rel.Time = zipfile.Newest(z)
		}
		return nil
	})
}

func settings(_ *tooldir.Tree, mirror string) []feed.Setting {
	return []feed.Setting{{
		Title: feed.Text{JA: "ePOのソースサイト、または端末のリポジトリ", EN: "ePO source site, or the terminals' repository"},
		Body:  mirror + "/\n",
		Note: feed.Text{
			JA: "ePO（オンプレミス）の「メニュー → 設定 → ソースサイト」にHTTPで上のアドレスを加え、プルタスクで取り込みます（ePOが自分の鍵で署名し直して端末に配ります）。ePOのない端末は、リポジトリの一覧（SiteList.xml）に上のアドレスを書いたものを取り込みます。大文字と小文字はどちらでも応答します。未確認: 実際のePO・端末での動作。手順: プルタスクを実行し、マスターリポジトリのDATの版が hashike status の版と同じことを見る。",
			EN: "Add the address as an HTTP source site of ePO on-premises and pull from it (ePO signs anew with its own key for its agents). Terminals without ePO import a SiteList.xml with the address. Names are answered in either case. Not confirmed on a real ePO or terminal: run the pull task and compare the DAT version in the master repository with hashike status.",
		},
	}}
}
