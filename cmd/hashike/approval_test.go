package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/mirror"
)

// twoFeeds is a world with antivirus definitions and something else, fetched.
// next fetches newer definitions.
func twoFeeds(t *testing.T) (w *world, next func()) {
	files, spool := clamavFiles(t), t.TempDir()
	version := 3
	spoolTo(t, files, spool, 2, version)
	dir := t.TempDir()
	for name, content := range map[string]string{"tool.exe": "one", "SHA256SUMS": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  tool.exe\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	block := "[feed.tools]\nkind = \"tree\"\ndir = \"drop\"\nlist = \"SHA256SUMS\"\nsignature = \"\"\ndirs = { drop = \"" + filepath.ToSlash(dir) + "\" }\n"
	w = newWorld(t, clamavBlock(spool)+block)
	w.unapproved = true
	w.outside("order", "exception", "--feed", "tools", "--strength", "none", "--reason", "試験", "--approver", "課長", "--until", w.march())
	w.outside("fetch")
	return w, func() {
		version++
		spoolTo(t, files, spool, 2, version)
		w.outside("fetch", "clamav-test")
	}
}

// march is the last day of this fiscal year, as it is typed.
func (w *world) march() string {
	return feed.FiscalYearEnd(w.now()).AddDate(0, 0, -1).Format("2006-01-02")
}

func (w *world) feedStatus(side, name string) mirror.FeedStatus {
	w.t.Helper()
	for _, f := range w.status(side).Feeds {
		if f.Feed == name {
			return f
		}
	}
	w.t.Fatalf("no feed %s", name)
	return mirror.FeedStatus{}
}

// A bundle is imported and verified without an approver, but not published:
// not by rule, not by a person's word. The stamped sheet lets it go on.
func TestAnUnapprovedBundleWaits(t *testing.T) {
	w, _ := twoFeeds(t)
	in := []string{"--data", w.path(inside)}
	w.pack()
	w.fails(exitHeld, "H-646", append(in, "import", w.path("media"))...)
	if f := w.feedStatus(inside, "tools"); f.Serial == 0 || !f.Unapproved {
		t.Errorf("%+v", f)
	}
	w.fails(exitHeld, "H-646", append(in, "publish", "--now")...)
	w.fails(exitHeld, "H-646", append(in, "publish", "--now", "--late", "x", "--reason", "x")...)
	if w.generations("tools")+w.generations("clamav-test") != 0 {
		t.Fatal("an unapproved bundle was published")
	}
	if out := w.inside("status"); !strings.Contains(out, "［赤］第1便: 承認待ち") {
		t.Error(out)
	}
	// The one who brought it in cannot approve it; nobody is no approver.
	w.fails(exitHeld, "H-644", append(in, "approval", "record", "1", "--by", who())...)
	w.fails(exitConfig, "H-645", append(in, "approval", "record", "1", "--by", " ")...)
	w.fails(exitConfig, "H-205", append(in, "approval", "record", "7", "--by", "課長")...)
	w.inside("approval", "record", "1", "--by", "課長")
	if r := w.lastRecord(inside, "approve"); r.Detail["how"] != "紙承認" || r.Detail["approver"] != "課長" || r.Detail["bundle"] != "1" {
		t.Errorf("%+v", r)
	}
	w.inside("publish", "--now")
	if w.generations("tools") == 0 || w.generations("clamav-test") == 0 {
		t.Error("nothing was published after the approval")
	}
	if o := w.status(inside); len(o.Awaited) != 0 {
		t.Errorf("%+v", o.Awaited)
	}
	// Again: nobody is asked twice.
	w.ok("", append(in, "import", w.path("media"))...)
}

// At a terminal the import shows the words and asks for the name on the sheet;
// a registered approver must be one, in any spelling of the name.
func TestTheApproverIsTypedAtTheImport(t *testing.T) {
	w, _ := twoFeeds(t)
	in := []string{"--data", w.path(inside)}
	w.inside("person", "add", "山田 太郎", "--role", "operator,approver")
	w.inside("person", "add", "鈴木 花子", "--role", "approver", "--account", "kacho")
	w.pack()
	for name, code := range map[string]string{"山田太郎": "H-644", "通りすがり": "H-645", "": "H-646"} {
		_, errs, exit := w.typed(name+"\n", append(in, "import", w.path("media"))...)
		if exit != exitHeld || !strings.Contains(errs, code) || !strings.Contains(errs, "照合語") {
			t.Errorf("%q: exit %d\n%s", name, exit, errs)
		}
	}
	w.typedOK("鈴木　花子\n", append(in, "import", w.path("media"))...)
	if r := w.lastRecord(inside, "approve"); r.Detail["approver"] != "鈴木 花子" || r.Person != "山田 太郎" {
		t.Errorf("%+v", r)
	}
	// Outside, whoever packed cannot record his own approval either.
	w.outside("person", "add", "山田 太郎", "--role", "operator,approver")
	w.outside("person", "add", "鈴木 花子", "--role", "approver", "--account", "kacho")
	w.pack()
	w.fails(exitHeld, "H-644", "--data", w.path(outside), "approval", "record", "2", "--by", "山田太郎")
	w.outside("approval", "record", "2", "--by", "鈴木 花子")
	if out := w.outside("approval", "list"); !strings.Contains(out, "紙承認") || !strings.Contains(out, "鈴木 花子") {
		t.Error(out)
	}
}

// A blanket approval lets the daily definitions through without anybody, and
// nothing else.
func TestBlanketApprovalCoversDefinitionsOnly(t *testing.T) {
	w, next := twoFeeds(t)
	in := []string{"--data", w.path(inside)}
	blanket := append(in, "approval", "blanket", "--reason", "毎日の定義")
	w.fails(exitConfig, "H-652", append(blanket, "--by", "課長", "--feed", "tools")...)
	w.fails(exitConfig, "H-652", append(blanket, "--by", "課長", "--until", "2199-03-31")...)
	w.fails(exitConfig, "H-652", append(in, "approval", "blanket", "--by", "課長")...)
	w.fails(exitHeld, "H-644", append(blanket, "--by", who())...)
	w.ok("", append(blanket, "--by", "課長")...)
	if r := w.lastRecord(inside, "approval blanket"); r.Detail["approver"] != "課長" || r.Detail["reason"] == "" {
		t.Errorf("%+v", r)
	}
	w.pack()
	w.fails(exitHeld, "H-646", append(in, "import", w.path("media"))...)
	if w.generations("clamav-test") == 0 || w.generations("tools") != 0 {
		t.Errorf("definitions %d, tools %d", w.generations("clamav-test"), w.generations("tools"))
	}
	w.ok("", append(in, "import", w.path("media"), "--approved-by", "課長")...)
	w.inside("publish", "--now")
	if w.generations("tools") == 0 {
		t.Error("the approved import did not publish")
	}
	// The same day's carry of definitions alone needs nobody.
	next()
	w.pack()
	w.ok("", append(in, "import", w.path("media"))...)
	if r := w.lastRecord(inside, "approve"); r.Detail["how"] != "包括承認" || r.Detail["blanket"] != "1" {
		t.Errorf("%+v", r)
	}
	w.inside("approval", "end", "1", "--reason", "終了")
	next()
	w.pack()
	w.fails(exitHeld, "H-646", append(in, "import", w.path("media"))...)
}

// Whoever packed approves it under no other name of his account, unless a PIN
// told the two apart.
func TestTheApproverHasAnotherAccount(t *testing.T) {
	w, _ := twoFeeds(t)
	data := []string{"--data", w.path(outside)}
	pack := func(typed string) {
		t.Helper()
		w.typedOK(typed, append(data, "pack", "--to", w.path("media"), "--feed", "clamav-test", "--urgent", "--clock-checked", "test data of 2021")...)
	}
	pack("") // by an account that is nobody's
	w.outside("person", "add", "課長", "--role", "approver")
	w.fails(exitHeld, "H-644", append(data, "approval", "record", "1", "--by", "課長")...)
	w.typedOK("abcdef\nabcdef\n", append(data, "person", "pin", "課長")...)
	w.outside("person", "add", "係長", "--role", "approver", "--account", "kakari")
	w.outside("person", "add", "山田", "--role", "operator")
	w.typedOK("課長\nabcdef\n123456\n123456\n", append(data, "person", "pin", "山田")...)
	record := func(number string) (string, int) {
		_, errs, code := w.typed("課長\nabcdef\n", append(data, "approval", "record", number, "--by", "課長")...)
		return errs, code
	}
	if errs, code := record("1"); code != exitHeld || !strings.Contains(errs, "H-644") {
		t.Errorf("exit %d\n%s", code, errs)
	}
	pack("山田\n123456\n")
	if errs, code := record("2"); code != 0 {
		t.Errorf("two persons, told apart by PINs: exit %d\n%s", code, errs)
	}
	w.typedOK("課長\nabcdef\n", append(data, "approval", "record", "1", "--by", "係長")...)
}
