package trellix

import (
	"archive/zip"
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/tooldir/tooltest"
)

var taken = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func dat(t testing.TB, n int) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "avvscan.dat", Method: zip.Store, Modified: taken.Add(time.Duration(n-20) * time.Hour)})
	if err == nil {
		_, err = fmt.Fprintf(w, "DAT %d", n)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func state(t testing.TB, n int, name string) feedtest.State {
	zipped, gem := dat(t, n), fmt.Appendf(nil, "gem %d", n)
	return feedtest.State{Files: feedtest.Files{
		"SiteStat.xml":  fmt.Appendf(nil, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<SiteStatus Status=\"Enabled\" CatalogVersion=\"202611200%05d\"/>", n),
		"avvdat.ini":    fmt.Appendf(nil, "[AVV-ZIP]\r\nEngineVersion=0\r\nDATVersion=%d\r\nFilePath=/\r\nFileName=%s\r\nMD5=%X\r\n", 11000+n, name, md5.Sum(zipped)),
		"gdeltaavv.ini": fmt.Appendf(nil, "[Contents]\r\nCurrentVersion=%d\r\n[GEM-MD5]\r\nab.gem=%x\r\n[%d]\r\nFile1=ab.gem\r\n", 11000+n, md5.Sum(gem), 11000+n),
		"ab.gem":        gem, name: zipped,
		"catalog.z":                    fmt.Appendf(nil, "obfuscated %d", n),
		"Current/VSCANDAT1000/DAT.mcs": []byte("script"),
	}}
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has the same driver in kaspersky and eset")
	}
	feedtest.Run(t, feedtest.Folder(feedtest.Case{
		Kind: Kind(), Time: taken,
		Older: state(t, 1, "avvdat.zip"), Now: state(t, 2, "avvdat.zip"), Newer: state(t, 3, "avvdat.zip"),
		Hostile: func(name string) feedtest.State { return state(t, 2, name) },
		Optional: func(p string) bool { // of these no list says anything that we can read
			return p == "catalog.z" || strings.HasPrefix(p, "Current/") || strings.HasSuffix(p, ".ini") || p == "SiteStat.xml"
		},
		Requests: []feedtest.Request{{Path: "/sitestat.xml", Holds: "Enabled"}, {Path: "/current/vscandat1000/dat.MCS"}},
	}, true))
}

func TestFolderIsWhole(t *testing.T) {
	good := state(t, 5, "avvdat.zip")
	exception := feed.Order{Schema: 1, Number: 1, Kind: feed.OrderException, Feed: "conformance", Reason: "test", Operator: "a", Approver: "b", Issued: taken, Until: taken.AddDate(0, 1, 0)}
	take := func(s feedtest.State) error {
		t.Helper()
		return feedtest.Once(t, Kind(), nil, "tool", "quiet = '10ms'\n", s.Files, taken, exception)
	}
	if err := take(good); err != nil {
		t.Fatal(err)
	}
	edit := func(p, old, new string) feedtest.State {
		b := strings.ReplaceAll(string(good.Files[p]), old, new)
		if b == string(good.Files[p]) {
			t.Fatalf("%s has no %s", p, old)
		}
		return good.With(p, []byte(b))
	}
	for what, c := range map[string]struct {
		s    feedtest.State
		want error
	}{
		"disabled":            {edit("SiteStat.xml", "Enabled", "Disabled"), feed.ErrTransient},
		"half a site file":    {edit("SiteStat.xml", "/>", ""), feed.ErrTransient},
		"no catalogue number": {edit("SiteStat.xml", "2026", "x"), feed.ErrUpstream},
		"an older DAT":        {good.With("avvdat.zip", dat(t, 4)), feed.ErrTransient},
		"a byte of a gem":     {edit("ab.gem", "gem", "gen"), feed.ErrTransient},
		"no gem of a day":     {edit("gdeltaavv.ini", "File1=ab", "File1=cd"), feed.ErrTransient},
		"no MD5":              {edit("avvdat.ini", "MD5=", "MD5=zz"), feed.ErrUpstream},
		"nothing to read":     {feedtest.State{Files: feedtest.Files{"x.zip": []byte("x")}}, feed.ErrTransient},
	} {
		if err := take(c.s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	wide := []byte{0xFF, 0xFE}
	for _, c := range good.Files["avvdat.ini"] {
		wide = append(wide, c, 0)
	}
	if err := take(good.With("avvdat.ini", wide)); err != nil {
		t.Errorf("an index in UTF-16: %v", err)
	}
}

func FuzzSite(f *testing.F) {
	tooltest.FuzzIndex(f, read, state(f, 2, "avvdat.zip").Files, "SiteStat.xml")
}

func FuzzDAT(f *testing.F) {
	tooltest.FuzzIndex(f, read, state(f, 2, "avvdat.zip").Files, "avvdat.ini")
}
