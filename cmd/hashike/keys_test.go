package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// envelope is a root key's sheet as its holder keeps it.
func envelope(t testing.TB, file string) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSpace(l); len(strings.ReplaceAll(l, " ", "")) == 24 && strings.Trim(l, "0123456789 ") == "" {
			lines = append(lines, l)
		}
	}
	if len(lines) != 5 {
		t.Fatalf("%s has %d lines of the key:\n%s", file, len(lines), b)
	}
	return lines
}

// noRootKey fails if any file below the directories holds a root key in any form.
func noRootKey(t testing.TB, keys [][]string, dirs ...string) {
	t.Helper()
	forms := map[string]string{}
	for i, lines := range keys {
		var raw []byte
		for n, l := range lines[:4] {
			bare := strings.ReplaceAll(l, " ", "")
			v, err := strconv.ParseUint(bare[2:22], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			raw = binary.BigEndian.AppendUint64(raw, v)
			forms[string(rune('1'+i))+" line "+strconv.Itoa(n+1)] = l
			forms[string(rune('1'+i))+" digits "+strconv.Itoa(n+1)] = bare
		}
		forms[string(rune('1'+i))+" raw"], forms[string(rune('1'+i))+" hex"] = string(raw), hex.EncodeToString(raw)
		for shift := range 3 {
			text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), raw...))
			forms[string(rune('1'+i))+" base64 "+strconv.Itoa(shift)] = text[4 : len(text)-4]
		}
	}
	seen := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			seen++
			b, err := os.ReadFile(p)
			joined := strings.NewReplacer("\n", "", "\r", "").Replace(string(b))
			for name, f := range forms {
				if strings.Contains(string(b), f) || strings.Contains(joined, f) {
					t.Errorf("%s holds root key %s", p, name)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 10 {
		t.Fatalf("only %d files were looked at", seen)
	}
}

// The whole life of the keys by command: made with the holders present, typed
// back with slips, one lost and replaced, the bundle key rotated before and
// after everything expired; and no file of either side ever holds a root key.
func TestKeysByCommand(t *testing.T) {
	dir, vendor := signedTree(t, map[string]string{"tool.exe": "one"})
	w := &world{t: t, dir: t.TempDir(), now: time.Now}
	data := []string{"--data", w.path(outside)}
	paper := w.path("ram")
	// Without the holders: everything but the keys.
	if out := w.ok("", append(data, "init", "--side", outside, "--name", "試験町")...); !strings.Contains(out, "keys init") {
		t.Errorf("init says %s", out)
	}
	w.configure(outside, treeBlock(dir))
	setLine(t, w.path(outside, "hashike.toml"), `scan_reason = ""`, `scan_reason = "試験のため"`)
	for _, command := range []string{"keys", "keys book", "setup-medium"} {
		w.fails(exitConfig, "H-216", append(data, strings.Fields(command)...)...)
	}
	if out := w.outside("status"); !strings.Contains(out, "keys init") || strings.Contains(out, "ほかの守りなし") {
		t.Errorf("status without keys says\n%s", out)
	}
	w.fails(exitConfig, "H-517", append(data, "keys", "init", "--to", w.path(outside, "keys", "new"))...)
	if _, err := os.Stat(w.path(outside, "keys", "new")); err == nil {
		t.Error("a refused place was made")
	}
	w.fails(exitConfig, "H-212", append(data, "keys", "init", "--to", paper, "--holders", "課長,会計管理者,"+who())...)
	// Without the word the sheets stay, and the next run asks again.
	w.fails(exitHeld, "H-518", append(data, "keys", "init", "--to", paper)...)
	var keys [][]string
	for slot, holder := range []string{"課長", "会計管理者", "県または副市町村長"} {
		file := filepath.Join(paper, "root-key-"+strconv.Itoa(slot+1))
		keys = append(keys, envelope(t, file+".txt"))
		for _, ext := range []string{".txt", ".html"} {
			b, err := os.ReadFile(file + ext)
			if err != nil || !strings.Contains(string(b), holder) || !strings.Contains(string(b), keys[slot][4]) {
				t.Errorf("%s%s: %v\n%s", file, ext, err, b)
			}
			if strings.Contains(string(b), "<svg") != (ext == ".html") {
				t.Errorf("the QR belongs into the page alone: %s%s", file, ext)
			}
		}
	}
	// Nor does anything else write over them.
	w.fails(exitConfig, "H-220", "--data", w.path("another"), "init", "--side", outside, "--keys-to", paper)
	if got := envelope(t, filepath.Join(paper, "root-key-1.txt")); !slices.Equal(got, keys[0]) {
		t.Error("another outside wrote over a root key")
	}
	if sheet := w.ok("印刷しました\n", append(data, "keys", "init", "--to", paper)...); fingerprintOn(sheet) == "" {
		t.Errorf("no set-up sheet after the word:\n%s", sheet)
	}
	if _, err := os.Stat(w.path(outside, "outbox", "setup-1", "hashike-setup.json")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(paper); len(left) != 0 {
		t.Errorf("left on the RAM disk: %v", left)
	}
	w.fails(exitConfig, "H-221", append(data, "keys", "init", "--to", paper)...)
	w.fails(exitConfig, "H-210", append(data, "init", "--side", outside, "--keys-to", w.path("elsewhere"))...)
	if b, err := os.ReadFile(w.path(outside, "outbox", "key-book.html")); err != nil || !strings.Contains(string(b), "会計管理者") || !strings.Contains(string(b), "4月の引継ぎ") {
		t.Errorf("custody book: %v\n%s", err, b)
	}
	if out := w.outside("status"); !strings.Contains(out, "ほかの守りなし") {
		t.Errorf("check does not say that the key is a plain file:\n%s", out)
	}
	sheet := w.ok("", append(data, "setup-medium")...)
	w.ok(fingerprintOn(sheet)+"\n", "--data", w.path(inside), "init", "--side", inside, "--pair", w.path(outside, "outbox", "setup-1"))
	w.configure(inside, treeBlock(dir))

	// Typed with a slip in line 2 and one line of another sheet.
	slip := "1" + keys[2][1][1:]
	typed := strings.Join([]string{keys[0][0], slip, keys[0][1], keys[0][2], keys[2][3], keys[0][3], keys[0][4]}, "\n") + "\n" + strings.Join(keys[2], "\n") + "\n"
	_, said, code := w.run(typed, append(data, "order", "trust", "--feed", "tools", "--anchor", vendor, "--reason", "試験", "--approver", "課長")...)
	if code != 0 || strings.Count(said, "数字が合いません") != 2 || !strings.Contains(said, "2行目の数字が合いません") || !strings.Contains(said, "4行目の数字が合いません") {
		t.Fatalf("exit %d\n%s", code, said)
	}
	w.carry()

	// Envelope 2 is lost.
	text := func(slots ...int) string {
		var out string
		for _, s := range slots {
			out += strings.Join(keys[s-1], "\n") + "\n"
		}
		return out
	}
	w.ok(text(1, 3)+"印刷しました\n", append(data, "keys", "rotate", "root", "--replace", "2", "--to", paper)...)
	_, said, code = w.run(text(1, 2), append(data, "keys", "rotate", "bundle")...)
	if code != exitConfig || !strings.Contains(said, "H-513") {
		t.Errorf("the lost key still signs: exit %d\n%s", code, said)
	}
	w.ok(text(3, 1), append(data, "keys", "rotate", "bundle")...)
	w.fails(exitConfig, "keys rotate bundle", append(data, "keys", "rotate", "everything")...)
	w.carry()
	noRootKey(t, keys, w.path(outside), w.path(inside), w.path("media"))
}

// setOperator says who packed a bundle, and with which account: the tests run
// under one.
func (w *world) setOperator(number uint64, name, account string) {
	w.t.Helper()
	err := state.At(state.Dir(w.path(outside)), "test").Update(func(tx state.Tx) error {
		var p packager.Packed
		key := "000000000" + strconv.FormatUint(number, 10)
		if _, err := tx.Get("packed", key, &p); err != nil {
			return err
		}
		p.Operator, p.Account = name, account
		return tx.Put("packed", key, p)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// Approval by key, by command: enrolled by two root keys, refused for one's own
// work, carried apart, and withdrawn again.
func TestApproveByCommand(t *testing.T) {
	dir, vendor := signedTree(t, map[string]string{"tool.exe": "one"})
	w := newWorld(t, treeBlock(dir))
	for _, side := range []string{outside, inside} {
		setLine(t, w.path(side, "hashike.toml"), `approval = "paper"`, `approval = "key"`)
	}
	roots := []string{"--root-key", w.path("envelopes", "root-key-1.txt"), "--root-key", w.path("envelopes", "root-key-3.html")}
	w.fails(exitConfig, "H-512", append([]string{"--data", w.path(outside), "keys", "rotate", "bundle"}, roots...)...)
	roots[3] = w.path("envelopes", "root-key-3.txt")
	w.ok("", append([]string{"--data", w.path(outside), "order", "trust", "--feed", "tools", "--anchor", vendor, "--reason", "試験", "--approver", "課長"}, roots...)...)
	key := w.path("approver.key")
	const pass = "はしけの承認者"
	w.fails(exitConfig, "H-223", "keys", "approver", "--to", key) // no passphrase
	if _, said, code := w.run(pass+"\nanother one\n", "keys", "approver", "--to", key); code != exitConfig || !strings.Contains(said, "H-514") {
		t.Errorf("two different passphrases: exit %d\n%s", code, said)
	}
	w.ok(pass+"\n"+pass+"\n", "keys", "approver", "--to", key)
	if b, err := os.ReadFile(key); err != nil || !strings.Contains(string(b), "ENCRYPTED") {
		t.Errorf("the approver's key: %v\n%s", err, b)
	}
	w.fails(exitConfig, "H-209", "keys", "approver", "--to", key) // never replaced
	enrol := append([]string{"--data", w.path(outside), "keys", "rotate", "approver", "--approver", "課長=" + key + ".pub"}, roots...)
	w.ok("", enrol...)
	w.outside("fetch")
	out := w.outside("pack", "--to", w.path("media"), "--clock-checked", "test")
	if !strings.Contains(out, "hashike approve") {
		t.Errorf("pack does not say what is next:\n%s", out)
	}
	approve := []string{"--data", w.path(outside), "approve", w.path("media"), "--key", key}
	if _, said, code := w.run(pass+"\n", approve...); code != exitHeld || !strings.Contains(said, "H-644") {
		t.Errorf("approved one's own work: exit %d\n%s", code, said)
	}
	w.setOperator(1, "担当者", who())
	if _, said, code := w.run(pass+"\n", approve...); code != exitHeld || !strings.Contains(said, "H-644") {
		t.Errorf("approved with the account that packed: exit %d\n%s", code, said)
	}
	w.setOperator(1, "担当者", "")
	if _, said, code := w.run("wrong passphrase\n", approve...); code != exitConfig || !strings.Contains(said, "H-514") {
		t.Errorf("a wrong passphrase: exit %d\n%s", code, said)
	}
	if out := w.ok("\n", approve...); !strings.Contains(out, "承認しませんでした") {
		t.Errorf("an empty passphrase: %s", out)
	}
	w.fails(exitHeld, "H-661", "--data", w.path(inside), "import", w.path("media"))
	if out := w.inside("status"); !strings.Contains(out, "第1便") || !strings.Contains(out, "承認を待って") {
		t.Errorf("status does not say what waits:\n%s", out)
	}
	w.fails(exitConfig, "H-201", "--data", w.path(inside), "approve", w.path("media"), "--key", key)
	if out := w.ok(pass+"\n", approve...); !strings.Contains(out, "第1便を承認しました") || !strings.Contains(out, "tools") {
		t.Errorf("approve says\n%s", out)
	}
	if err := os.Mkdir(w.path("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path(outside, "outbox", "approval-1.json"), w.path("other", "approval-1.json")); err != nil {
		t.Fatal(err)
	}
	w.inside("import", w.path("other"))
	if got := w.serial(inside, "tools"); got == 0 {
		t.Error("the approval brought nothing")
	}
	if out := w.inside("status"); strings.Contains(out, "承認を待って") {
		t.Errorf("still waits:\n%s", out)
	}
	w.inside("import", w.path("media")) // the medium with its approval beside the set is no news
	b, err := os.ReadFile(w.path("other", "approval-1.json"))
	if err != nil || strings.Contains(string(b), "課長") || strings.Contains(string(b), who()) {
		t.Errorf("the approval names a person: %s", b)
	}

	// Orders wait too.
	w.ok("", "--data", w.path(outside), "order", "distrust", "--key", "0abc", "--issuer", "Example CA", "--after", "2026-11-01", "--feed", "tools", "--reason", "試験")
	if out := w.outside("pack", "--to", w.path("m2"), "--clock-checked", "test"); !strings.Contains(out, "指示2は承認を待って") {
		t.Errorf("pack took an order that nobody approved:\n%s", out)
	}
	if _, said, code := w.run(pass+"\n", "--data", w.path(outside), "approve", "--order", "2", "--key", key); code != exitHeld || !strings.Contains(said, "H-644") {
		t.Errorf("approved one's own order: exit %d\n%s", code, said)
	}
	w.ok("", append([]string{"--data", w.path(outside), "keys", "rotate", "approver", "--none"}, roots...)...)
}

// Exceptions show until their day and end on it.
func TestExceptionsEndOnTheirDay(t *testing.T) {
	dir, _ := signedTree(t, map[string]string{"tool.exe": "one"})
	w := newWorld(t, treeBlock(dir))
	now := time.Date(2027, 3, 30, 3, 0, 0, 0, time.UTC)
	at := func(day time.Time, args ...string) (string, int) {
		var out strings.Builder
		a := newApp(strings.NewReader(""), &out, &out, "ja")
		a.clock = func() time.Time { return day }
		code := a.execute(t.Context(), append([]string{"--data", w.path(outside)}, args...))
		return out.String(), code
	}
	if out, code := at(now, "order", "exception", "--feed", "tools", "--strength", "none", "--reason", "業務に必要", "--approver", "課長", "--until", "2027-03-31"); code != 0 {
		t.Fatal(out)
	}
	if out, code := at(now, "order", "exception", "--feed", "tools", "--strength", "none", "--reason", "業務に必要", "--approver", "課長", "--until", "2027-04-01"); code != exitConfig {
		t.Errorf("beyond the fiscal year: %s", out)
	}
	last := time.Date(2027, 3, 31, 14, 59, 0, 0, time.UTC) // 23:59 in Japan
	for day, shown := range map[time.Time]bool{now: true, last: true, last.Add(2 * time.Minute): false} {
		if out, _ := at(day, "status"); strings.Contains(out, "業務に必要") != shown {
			t.Errorf("%s: shown must be %v:\n%s", day, shown, out)
		}
	}
}
