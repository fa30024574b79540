package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// kasperskyFolder is what the update utility leaves on a day: an index whose
// signature nobody outside the vendor can read, and a database.
func kasperskyFolder(t testing.TB, dir string, at time.Time, database string) {
	t.Helper()
	index := "<?xml version=\"1.0\"?>\r\n<UpdateFiles UpdateDate=\"" + at.UTC().Format("02012006 1504") + "\" ObjectType=\"x\">\r\n" +
		"<FileDescription UpdateType=\"desc\" ServerFolder=\"../bases\" Filename=\"base.stt\"/>\r\n</UpdateFiles>\r\n;:10" + strings.Repeat("Ab9+", 21) + "Q=%%\r\n"
	for p, b := range map[string]string{"bases/base.stt": database, "index/u0607g.xml": index} {
		p = filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A vendor's folder that nothing can prove is held, until somebody answers for
// it by an exception order; that shows on the sheet, the board and the card, on
// both sides, and ends on its date.
func TestVendorFolderByException(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	kasperskyFolder(t, dir, began.Add(-2*time.Hour), "first")
	block := fmt.Sprintf("[feed.kav]\nkind = \"kaspersky\"\nquiet = \"10ms\"\ndirs = { tool = %q }\n", filepath.ToSlash(dir))
	w := newWorld(t, block)
	w.fails(exitHeld, "H-601", "--data", w.path(outside), "fetch", "kav")
	until := feed.FiscalYearEnd(began).AddDate(0, 0, -1)
	w.outside("order", "exception", "--feed", "kav", "--strength", "none", "--reason", "署名の形式が非公開", "--approver", "課長", "--until", until.Format("2006-01-02"))
	w.outside("fetch")
	if got := w.feedStatus(outside, "kav"); got.Weakest != feed.None {
		t.Errorf("%+v", got)
	}
	w.pack()
	if sheet, err := os.ReadFile(w.path(outside, "outbox/sheet-00001.html")); err != nil || !strings.Contains(string(sheet), "署名の形式が非公開") {
		t.Errorf("the sheet does not show the exception: %v\n%s", err, sheet)
	}
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	for _, out := range []string{w.inside("status"), w.outside("status"), w.inside("origin", "kav:bases/base.stt")} {
		if !strings.Contains(out, "署名の形式が非公開") {
			t.Errorf("the exception does not show:\n%s", out)
		}
	}
	if out := w.inside("origin", "kav:bases/base.stt"); !strings.Contains(out, "tier D") || !strings.Contains(out, "確認手段なし") {
		t.Errorf("the card does not say how weak it is:\n%s", out)
	}
	base := w.serve()
	if res, b := get(t, base+"/kav/BASES/base.STT"); string(b) != "first" {
		t.Errorf("%s %q", res.Status, b)
	}
	if out := w.inside("client", "kav", "--base", base); !strings.Contains(out, "Kaspersky Security Center") {
		t.Error(out)
	}
	// On its last day it holds; a day later nothing new comes in, and what is served stays.
	kasperskyFolder(t, dir, began.Add(-time.Hour), "second")
	w.now = func() time.Time { return until.AddDate(0, 0, 1).Add(time.Hour) }
	w.fails(exitHeld, "H-601", "--data", w.path(outside), "fetch", "kav")
	if out := w.outside("status"); strings.Contains(out, "署名の形式が非公開") {
		t.Errorf("the exception has ended and still shows:\n%s", out)
	}
	if res, b := get(t, base+"/kav/bases/base.stt"); string(b) != "first" {
		t.Errorf("%s %q", res.Status, b)
	}
}

// A vendor's private root comes from the site's own product, by a trust order;
// until then what it signed is held.
func TestVendorRootByTrustOrder(t *testing.T) {
	dir, at := t.TempDir(), time.Now().Add(-time.Hour).Truncate(time.Second)
	p := feedtest.NewPublisher(t, "x509-trendmicro", "Trend Micro", at)
	put := func(name string, b []byte) {
		t.Helper()
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("pattern/lpt.zip", []byte("pattern"))
	put("pattern/lpt.zip.sig", p.Detached(t, []byte("pattern"), at))
	put("server.ini", []byte("[PATTERN]\r\nP.4=pattern/lpt.zip,17.5.00,7\r\n"))
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, p.Anchor.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, fmt.Sprintf("[feed.au]\nkind = \"trendmicro\"\nquiet = \"10ms\"\ndirs = { tool = %q }\n", filepath.ToSlash(dir)))
	w.fails(exitHeld, "H-601", "--data", w.path(outside), "fetch", "au")
	keys, err := filepath.Glob(w.path("envelopes", "*.txt"))
	if err != nil || len(keys) < 2 {
		t.Fatal(keys, err)
	}
	w.outside("order", "trust", "--feed", "au", "--anchor", root, "--use", "x509-trendmicro", "--reason", "試験", "--approver", "課長", "--root-key", keys[0], "--root-key", keys[1])
	w.carry()
	if out := w.inside("origin", "au:pattern/lpt.zip"); !strings.Contains(out, "Trend Micro") || !strings.Contains(out, "署名確認済") || !strings.Contains(out, "root.pem") {
		t.Errorf("origin card:\n%s", out)
	}
	if out := w.inside("status"); !strings.Contains(out, "17.5.00") {
		t.Errorf("status does not name the pattern:\n%s", out)
	}
	// What is signed by another is refused, not held.
	put("pattern/lpt.zip", []byte("malware"))
	put("pattern/lpt.zip.sig", feedtest.NewPublisher(t, "x509-trendmicro", "Trend Micro", at).Detached(t, []byte("malware"), at))
	w.fails(exitUntrusted, "H-502", "--data", w.path(outside), "fetch", "au")
}
