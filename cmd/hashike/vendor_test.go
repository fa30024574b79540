package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
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
