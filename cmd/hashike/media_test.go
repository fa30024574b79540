package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/feed"
)

// A registered medium is written, goes out, is lost, comes back, is wiped and
// disposed of: each is in the ledger and in the log, and what was on a lost one
// is taken by no inside without a person's word.
func TestTheMediaLedger(t *testing.T) {
	w, next := twoFeeds(t)
	w.unapproved = false
	out, in := []string{"--data", w.path(outside)}, []string{"--data", w.path(inside)}
	w.outside("person", "add", "山田 太郎", "--role", "operator", "--department", "総務課")
	w.fails(exitConfig, "H-647", append(out, "media", "add", "yamada-usb")...)
	w.outside("media", "add", "Ｕ-１", "--product", "USB 32GB", "--encrypted")
	w.outside("media", "add", "U-2")
	w.fails(exitConfig, "H-666", append(out, "media", "add", "U-1")...)
	pack := func(dir string, args ...string) []string {
		return append(append(out, "pack", "--to", w.path(dir), "--clock-checked", "test data of 2021"), args...)
	}
	w.fails(exitConfig, "H-647", pack("m1")...)
	w.fails(exitConfig, "H-647", pack("m1", "--medium", "U-9")...)
	w.fails(exitConfig, "H-208", pack(filepath.Join("not", "mounted"))...)
	if _, err := os.Stat(w.path("m1")); err == nil {
		t.Error("a refused pack left a directory behind")
	}
	// At a terminal a mistyped number is asked for again; nobody lost anything.
	if _, errs, code := w.typed("U-99\n\n", pack("m1")...); code != exitConfig || strings.Count(errs, "H-647") != 2 || strings.Contains(errs, "経緯") {
		t.Errorf("exit %d:\n%s", code, errs)
	}
	w.ok("", pack("m1", "--medium", "U-1")...)
	// The medium says its own number: another one is a mix-up.
	before := tree(t, w.path("m1"))
	w.fails(exitConfig, "H-665", pack("m1", "--medium", "U-2")...)
	if tree(t, w.path("m1")) != before {
		t.Error("the medium was written although its number is another")
	}
	list := w.outside("media", "list")
	for _, want := range []string{"U-1", "USB 32GB", "持出中", "総務課 山田 太郎"} {
		if !strings.Contains(list, want) {
			t.Errorf("%s is not in the ledger:\n%s", want, list)
		}
	}
	sheet, err := os.ReadFile(w.path(outside, "outbox/sheet-00001.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"U-1　USB 32GB　暗号化あり", "総務課　山田 太郎", "書込み前: 未", "ClamAV"} {
		if !strings.Contains(string(sheet), want) {
			t.Errorf("%s is not on the sheet:\n%s", want, sheet)
		}
	}
	said := w.outside("media", "lost", "U-1", "--reason", "駅で山田が置き忘れた")
	for _, want := range []string{"第1便は使えなくなりました", "拾った人に分かること", "clamav-test", "暗号化されています"} {
		if !strings.Contains(said, want) {
			t.Errorf("%s is not said:\n%s", want, said)
		}
	}
	if r := w.lastRecord(outside, "media lost"); r.Detail["bundle"] != "1" || r.Detail["reason"] == "" || r.Person != "山田 太郎" {
		t.Errorf("%+v", r)
	}
	w.fails(exitHeld, "H-648", append(out, "media", "out", "U-1", "--borrower", "山田 太郎")...) // not found by that
	// The replacement brings the notice; then the lost one is not imported.
	next()
	w.ok("", pack("m2", "--medium", "U-2")...)
	w.inside("import", w.path("m2"))
	w.fails(exitHeld, "H-605", append(in, "import", w.path("m1"))...)
	if r := w.lastRecord(inside, "void bundle"); r.Result == "ok" || r.Detail["medium"] != "U-1" {
		t.Errorf("%+v", r)
	}
	w.fails(exitHeld, "H-644", append(in, "import", w.path("m1"), "--found", "駅から届いた", "--approved-by", who())...)
	_, errs, _ := w.run("", append(in, "import", w.path("m1"), "--found", "駅から届いた", "--approved-by", "課長")...)
	if strings.Contains(errs, "H-605") {
		t.Errorf("refused in spite of a person's word:\n%s", errs)
	}
	if r := w.lastRecord(inside, "void bundle"); r.Result != "ok" || r.Detail["approver"] != "課長" || r.Detail["found"] == "" {
		t.Errorf("%+v", r)
	}
	// Outside it is not written either, until somebody says how it came back.
	w.fails(exitHeld, "H-648", pack("m1")...)
	w.fails(exitHeld, "H-648", append(out, "media", "in", "U-1")...)
	w.ok("", pack("m1", "--found", "駅から届いた")...)
	if r := w.lastRecord(outside, "wipe medium"); r.Detail["medium"] != "U-1" || r.Detail["bundle"] != "1" {
		t.Errorf("%+v", r)
	}
	if b, err := os.ReadFile(w.path(outside, "outbox/sheet-00003.txt")); err != nil || !strings.Contains(string(b), "書込み前: 済（前の第1便") {
		t.Errorf("the sheet does not say that the medium was wiped: %s %v", b, err)
	}
	w.outside("media", "in", "U-1")
	w.outside("media", "wiped", "U-1")
	w.fails(exitConfig, "H-648", append(out, "media", "disposed", "U-1")...)
	for _, self := range []string{"山田 太郎", "山田太郎", "山田　太郎", who()} {
		w.fails(exitConfig, "H-648", append(out, "media", "disposed", "U-1", "--witness", self)...)
	}
	w.outside("media", "disposed", "U-1", "--witness", "会計 管理者")
	w.fails(exitHeld, "H-648", pack("m1", "--medium", "U-1")...)
	if list := w.outside("media", "list"); !strings.Contains(list, "廃棄") || !strings.Contains(list, "会計 管理者") {
		t.Error(list)
	}
	// What goes to a gateway or a diode lies on no medium.
	w.outside("pack", "--drop", w.path("drop"), "--clock-checked", "test data of 2021")
	w.ok("", pack(outside+"/outbox/diode/next")...)
	w.fails(exitConfig, "H-647", pack("m3")...)
}

// Only our own files are wiped.
func TestForeignFilesAreNeverWiped(t *testing.T) {
	w, _ := twoFeeds(t)
	w.pack()
	foreign := w.path("other")
	if err := os.MkdirAll(filepath.Join(foreign, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"index.json", "oci-layout", "blobs/sha256/" + strings.Repeat("a", 64)}
	for _, n := range names { // an OCI layout that another program made
		if err := os.WriteFile(filepath.Join(foreign, n), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.path("media", "家族の写真.jpg"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	mine := w.path("mine") // names that we use too
	if err := os.MkdirAll(filepath.Join(mine, "tables"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"README.txt": "庁舎移転の写真\r\n", "tables/volumes.jsonl": "{}\n", "set.json": "{}"} {
		if err := os.WriteFile(filepath.Join(mine, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{foreign, mine, w.path("media")} {
		before := tree(t, dir)
		if _, errs, code := w.run("", "--data", w.path(outside), "pack", "--to", dir, "--clock-checked", "test data of 2021"); code != exitMachine || !strings.Contains(errs, "H-806") {
			t.Errorf("%s: exit %d\n%s", dir, code, errs)
		}
		if tree(t, dir) != before {
			t.Errorf("%s changed", dir)
		}
	}
}

// An urgent bundle brings some feeds alone and may be approved by telephone;
// both sides stay red until the stamped sheet is recorded.
func TestUrgentBundles(t *testing.T) {
	w, next := twoFeeds(t)
	out, in := []string{"--data", w.path(outside)}, []string{"--data", w.path(inside)}
	w.pack()
	w.fails(exitHeld, "H-654", append(in, "import", w.path("media"), "--approved-by", "課長", "--telephone")...)
	regular := w.path("media")
	next()
	w.fails(exitConfig, "--urgent", append(out, "pack", "--to", w.path("urgent"), "--urgent")...)
	w.outside("pack", "--to", w.path("urgent"), "--feed", "clamav-test", "--urgent", "--clock-checked", "test data of 2021")
	if o := w.status(outside); len(o.Awaited) != 1 || o.Awaited[0].Level != "red" || o.Awaited[0].Bundle != 2 {
		t.Errorf("outside: %+v", o.Awaited)
	}
	w.ok("", append(in, "import", w.path("urgent"), "--approved-by", "課長", "--telephone")...)
	w.inside("publish", "clamav-test", "--now")
	if f := w.feedStatus(inside, "tools"); f.Serial != 0 {
		t.Errorf("the urgent bundle brought %+v", f)
	}
	if o := w.status(inside); len(o.Awaited) != 1 || o.Awaited[0].How != "telephone" {
		t.Errorf("inside: %+v", o.Awaited)
	}
	for _, side := range []string{outside, inside} {
		if s := w.ok("", "--data", w.path(side), "status"); !strings.Contains(s, "［赤］第2便") {
			t.Errorf("%s is not red:\n%s", side, s)
		}
	}
	base := w.serve()
	if _, page := get(t, base+"/"); !strings.Contains(string(page), "電話承認のみ") || strings.Contains(string(page), "課長") {
		t.Errorf("the board:\n%s", page)
	}
	sheet, err := os.ReadFile(w.path(outside, "outbox/sheet-00002.txt"))
	if err != nil || !strings.Contains(string(sheet), "緊急") {
		t.Errorf("%s %v", sheet, err)
	}
	// The regular medium was on its way: it still brings what the urgent one left
	// out, and that waits for its own sheet, not for the telephone.
	w.unapproved = true
	w.fails(exitHeld, "H-646", append(in, "import", regular)...)
	if f := w.feedStatus(inside, "tools"); f.Serial != 0 && !f.Unapproved {
		t.Errorf("approved by a call about something else: %+v", f)
	}
	w.ok("", append(in, "import", regular, "--approved-by", "試験 花子")...)
	if f := w.feedStatus(inside, "tools"); f.Serial == 0 || f.Unapproved {
		t.Errorf("after the regular medium: %+v", f)
	}
	for _, side := range []string{outside, inside} {
		w.ok("", "--data", w.path(side), "approval", "record", "2", "--by", "課長")
		if o := w.status(side); len(o.Awaited) != 0 {
			t.Errorf("%s: %+v", side, o.Awaited)
		}
	}
	if r := w.lastRecord(inside, "approve"); r.Detail["how"] != "紙承認" {
		t.Errorf("%+v", r)
	}
}

// One file comes back on one carry, if the operator says so, and never from a
// My Number network.
func TestTheReturnFile(t *testing.T) {
	w, _ := twoFeeds(t)
	w.unapproved = false
	w.pack()
	before := tree(t, w.path("media"))
	w.inside("import", w.path("media"))
	if tree(t, w.path("media")) != before {
		t.Error("an import without --return changed the medium")
	}
	w.inside("import", w.path("media"), "--return")
	if err := os.Rename(w.path("media", "hashike-return.txt"), w.path("return.txt")); err != nil {
		t.Fatal(err)
	}
	if tree(t, w.path("media")) != before {
		t.Error("--return changed more than one file")
	}
	w.fails(exitHeld, "H-649", "--data", w.path(inside), "import", w.path("media"), "--return")
	if err := os.Rename(w.path("return.txt"), w.path("media", "hashike-return.txt")); err != nil {
		t.Fatal(err)
	}
	if r := w.lastRecord(inside, "return"); r.Detail["bundle"] != "1" || r.Detail["receipt"] != "true" {
		t.Errorf("%+v", r)
	}
	if said := w.outside("receipt", "enter", "--from", w.path("media")); !strings.Contains(said, "第1便") {
		t.Error(said)
	}
	w.pack() // the return file is ours: it goes with the rest
	if _, err := os.Stat(w.path("media", "hashike-return.txt")); err == nil {
		t.Error("the return file is still there")
	}
	setLine(t, w.path(inside, "hashike.toml"), `zone = "lgwan"`, `zone = "mynumber"`)
	before = tree(t, w.path("media"))
	w.fails(exitHeld, "H-655", "--data", w.path(inside), "import", w.path("media"), "--return")
	if tree(t, w.path("media")) != before {
		t.Error("a My Number network wrote on the medium")
	}
}

// A return file that nobody read is copied before the medium is written again;
// the copy is read like the medium. One that was read goes without a word.
func TestAnUnreadReturnFileIsKept(t *testing.T) {
	w, next := twoFeeds(t)
	w.unapproved = false
	again := func() string {
		t.Helper()
		return w.outside("pack", "--to", w.path("media"), "--clock-checked", "test data of 2021")
	}
	w.pack()
	w.inside("import", w.path("media"), "--return")
	if said := again(); !strings.Contains(said, "まだ読んでいない返送ファイル") {
		t.Errorf("nothing is said of it:\n%s", said)
	}
	kept, err := filepath.Glob(w.path(outside, "outbox/return-*"))
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	if said := w.outside("receipt", "enter", "--from", kept[0]); !strings.Contains(said, "第1便") {
		t.Error(said)
	}
	next()
	again()
	w.inside("import", w.path("media"), "--return")
	w.outside("receipt", "enter", "--from", w.path("media"))
	if said := again(); strings.Contains(said, "返送ファイル") {
		t.Errorf("it was read:\n%s", said)
	}
}

// A dry run leaves nothing behind, wherever the bundle would go.
func TestADryRunWritesNothing(t *testing.T) {
	w, _ := twoFeeds(t)
	for _, to := range [][]string{{"--to", w.path("a", "b")}, {"--to", w.path("c"), "--iso"}, {"--drop", w.path("d")}, {"--to", w.path("e"), "--volume-size", "1GiB"}} {
		w.outside(append([]string{"pack", "--dry-run", "--clock-checked", "test data of 2021"}, to...)...)
	}
	for _, name := range []string{"a", "c", "d", "e", outside + "/outbox/iso", outside + "/outbox/drop"} {
		if _, err := os.Stat(w.path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.fails(exitConfig, "--full, --base", "--data", w.path(outside), "pack", "--to", w.path("a"), "--full", "--base", "1")
}

// A bundle that was not made is in the log, with the number it used up.
func TestAFailedPackIsRecorded(t *testing.T) {
	w := treeWorld(t, map[string]string{"large.bin": strings.Repeat("x", 2<<20)})
	w.outside("fetch")
	pack := []string{"--data", w.path(outside), "pack", "--clock-checked", "test", "--to"}
	if err := os.MkdirAll(w.path("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path("other", "写真.jpg"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.run("", append(pack, w.path("other"))...)
	if r := w.lastRecord(outside, "pack"); r.Result == "ok" || r.Detail["bundle"] != "" || r.Detail["at"] != w.path("other") {
		t.Errorf("%+v", r)
	}
	hex := feed.DigestOf([]byte(strings.Repeat("x", 2<<20))).Hex()
	rotten := w.path(outside, "store/sha256", hex[:2], hex)
	if err := errors.Join(os.Chmod(rotten, 0o644), os.WriteFile(rotten, []byte(strings.Repeat("y", 2<<20)), 0o644)); err != nil {
		t.Fatal(err)
	}
	w.fails(exitDamaged, "H-702", append(pack, w.path("media"))...)
	if r := w.lastRecord(outside, "pack"); r.Result == "ok" || r.Detail["bundle"] != "1" {
		t.Errorf("%+v", r)
	}
}

// tree is every name, size, time and content below dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		b.WriteString(strings.Join([]string{p, st.ModTime().String(), st.Mode().String(), string(raw), "\n"}, " "))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A medium names no person, no host, no account, no path of this machine, and
// no approver: in no file, compressed, packed or plain.
func TestAMediumNamesNobody(t *testing.T) {
	w, next := twoFeeds(t)
	names := []string{"山田太郎", "山田 太郎", "Yamada", "鈴木花子", "会計課", "TOWN\\yamada", "town-pc", "置き忘れ", w.dir}
	if host, err := os.Hostname(); err == nil && len(host) > 3 {
		names = append(names, host)
	}
	if len(who()) > 4 { // "root" is a word of TUF and of file systems
		names = append(names, who())
	}
	w.outside("person", "add", "山田太郎", "--role", "operator", "--department", "会計課", "--account", who(), "--account", "TOWN\\yamada")
	w.outside("person", "add", "鈴木花子", "--role", "approver", "--account", "town-pc\\hanako")
	w.outside("order", "exception", "--feed", "tools", "--strength", "none", "--reason", "試験", "--approver", "鈴木花子", "--until", w.march())
	w.outside("media", "add", "U-1", "--product", "Yamada の USB")
	w.outside("media", "add", "U-2")
	w.pack("--medium", "U-1", "--borrower", "山田太郎")
	w.outside("media", "lost", "U-1", "--reason", "山田太郎が置き忘れた")
	next()
	if err := os.RemoveAll(w.path("media")); err != nil {
		t.Fatal(err)
	}
	w.pack("--medium", "U-2", "--borrower", "山田太郎", "--department", "会計課", "--purpose", "Yamada")
	seen := 0
	look := func(file string, raw []byte) {
		seen++
		for _, n := range names {
			if bytes.Contains(raw, []byte(n)) {
				t.Errorf("%s holds %q", file, n)
			}
		}
	}
	err := filepath.WalkDir(w.path("media"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		look(p, raw)
		if bytes.HasPrefix(raw, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			z, err := zstd.NewReader(bytes.NewReader(raw))
			if err != nil {
				return err
			}
			defer z.Close()
			plain, err := io.ReadAll(z)
			look(p+" (zstd)", plain)
			if err != nil && !errors.Is(err, zstd.ErrMagicMismatch) { // a parity block goes on with zeros
				t.Errorf("%s: %v after %d of %d bytes", p, err, len(plain), len(raw))
			}
			return nil
		}
		for r := tar.NewReader(bytes.NewReader(raw)); ; {
			h, err := r.Next()
			if err != nil {
				return nil // the end, or no archive
			}
			member, err := io.ReadAll(r)
			if err != nil {
				return nil
			}
			look(p+" "+h.Name, append([]byte(h.Name+h.Uname+h.Gname), member...))
		}
	})
	if err != nil || seen < 15 {
		t.Errorf("%d files and members seen: %v", seen, err)
	}
	if raw, err := os.ReadFile(w.path("media", "README.txt")); err != nil || !strings.Contains(string(raw), "媒体番号 / medium: U-2\r\n") {
		t.Errorf("the number is not on the medium: %s %v", raw, err)
	}
	// The log has the names that the orders do not.
	if r := w.lastRecord(outside, "order"); r.Detail["approver"] != "鈴木花子" {
		t.Errorf("%+v", r)
	}
}
