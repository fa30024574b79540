package main

import (
	"bytes"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/scan"
	"github.com/hashike/hashike/internal/state"
)

// treeWorld is both sides with a vendor of our own, whose key an order brought.
func treeWorld(t testing.TB, files map[string]string) *world {
	t.Helper()
	dir, key := signedTree(t, files)
	w := newWorld(t, treeBlock(dir))
	w.trustTree(key)
	return w
}

func (w *world) trustTree(key string) {
	w.t.Helper()
	roots, err := filepath.Glob(w.path("envelopes", "root-key-*.txt"))
	if err != nil || len(roots) != 3 {
		w.t.Fatal(roots, err)
	}
	w.ok("", "--data", w.path(outside), "order", "trust", "--feed", "tools", "--anchor", key, "--reason", "試験", "--approver", "課長",
		"--root-key", roots[0], "--root-key", roots[2])
}

// scanWith names a scanner in a side's configuration.
func (w *world) scanWith(side, value string) {
	w.t.Helper()
	setLine(w.t, w.path(side, "hashike.toml"), `scan = ""`, "scan = "+value)
}

// clamd runs Debian's clamd on a socket of its own; it knows the EICAR test
// file. It returns the setting that names it.
func clamd(t testing.TB, settings ...string) string {
	t.Helper()
	program, err := exec.LookPath("clamd")
	if err != nil {
		program = "/usr/sbin/clamd"
	}
	if _, err := os.Stat(program); err != nil {
		missing(t, "clamd is not here")
	}
	dir, err := os.MkdirTemp("", "clamd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, file, socket := filepath.Join(dir, "db"), filepath.Join(dir, "clamd.conf"), filepath.Join(dir, "s")
	conf := append([]string{"LocalSocket " + socket, "DatabaseDirectory " + db, "Foreground yes", "TemporaryDirectory " + dir}, settings...)
	if os.Getuid() == 0 {
		conf = append(conf, "User root")
	}
	err = errors.Join(os.Mkdir(db, 0o755), os.WriteFile(filepath.Join(db, "test.hdb"), fmt.Appendf(nil, "%x:68:Test.Eicar\n", md5.Sum(scan.TestFile())), 0o644),
		os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 300 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return fmt.Sprintf("%q", "clamd:unix:"+socket)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("clamd does not answer:\n%s", out.String())
	return ""
}

// sheetText is the newest carry sheet.
func (w *world) sheetText(number int) string {
	w.t.Helper()
	b, err := os.ReadFile(w.path(outside, "outbox", fmt.Sprintf("sheet-%05d.txt", number)))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// logText is a side's log, JSON Lines.
func (w *world) logText(side string) string {
	w.t.Helper()
	var out strings.Builder
	err := state.At(state.Dir(w.path(side)), "test").View(func(tx state.Tx) error {
		for r, err := range tx.AuditLog(1) {
			if err != nil {
				return err
			}
			if err := json.NewEncoder(&out).Encode(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.String()
}

// The test file stops the bundle before the medium is touched; only an
// exception for this file and this detection lets it through, on both sides.
func TestDetectionStopsBothSides(t *testing.T) {
	at := clamd(t)
	w := treeWorld(t, map[string]string{"tool.exe": "one", "eicar.com": string(scan.TestFile())})
	w.scanWith(outside, at)
	w.scanWith(inside, at)
	if out := w.outside("scan", "--test"); !strings.Contains(out, "Test.Eicar") {
		t.Errorf("the trial says\n%s", out)
	}
	w.outside("fetch")
	pack := []string{"--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test"}
	errs := w.fails(exitHeld, "H-604", pack...)
	for _, want := range []string{"eicar.com", "Test.Eicar", "ClamAV", "更新便の作成", "誤検出"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%s is not in\n%s", want, errs)
		}
	}
	if ents, err := os.ReadDir(w.path("media")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the medium holds %v (%v)", ents, err)
	}
	if log := w.logText(outside); !strings.Contains(log, "Test.Eicar") || !strings.Contains(log, `"scan.detected":"1"`) {
		t.Errorf("the log says\n%s", log)
	}
	digest := string(feed.DigestOf(scan.TestFile()))
	order := []string{"--data", w.path(outside), "order", "exception", "--detection", "Test.Eicar.UNOFFICIAL", "--reason", "誤検出", "--approver", "課長",
		"--until", feed.FiscalYearEnd(w.now()).AddDate(0, 0, -1).Format("2006-01-02")}
	w.fails(exitConfig, "H-211", append(order, "--feed", "tools")...) // not for a whole feed
	w.ok("", append(order, "--digest", digest)...)
	w.ok("", pack...)
	text := w.sheetText(1)
	for _, want := range []string{"ウイルス検査（外側）: ClamAV", "検出 1件（例外措置により可）、ほかは検出されませんでした（4件", "例外措置", "年3月31日", "承認 承認者", "ウイルス検査（内側）"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not on the sheet:\n%s", want, text)
		}
	}
	if strings.Contains(text, "年4月1日") {
		t.Errorf("the exception ends a day later on the sheet:\n%s", text)
	}
	if log := w.logText(outside); !strings.Contains(log, `"scan.released.`) {
		t.Errorf("the log does not name the exception:\n%s", log)
	}
	w.inside("import", w.path("media")) // the exception comes with the bundle
	w.inside("publish", "--now")
	if w.generations("tools") != 1 {
		t.Error("an exception did not release the file inside")
	}
	if log := w.logText(inside); !strings.Contains(log, `"what":"scan"`) || !strings.Contains(log, `"bundle":"1"`) {
		t.Errorf("the inside's log says\n%s", log)
	}
}

// What no scanner saw outside is stopped inside, before any ring.
func TestInsideScansByItself(t *testing.T) {
	at := clamd(t)
	w := treeWorld(t, map[string]string{"eicar.com": string(scan.TestFile())})
	w.outside("fetch")
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test")
	if text := w.sheetText(1); !strings.Contains(text, "ウイルス検査（外側）: 未実施（理由: 試験のため）") {
		t.Errorf("the sheet says\n%s", text)
	}
	w.scanWith(inside, at)
	w.inside("import", w.path("media"))
	if errs := w.fails(exitHeld, "H-604", "--data", w.path(inside), "publish", "--now"); !strings.Contains(errs, "内側") {
		t.Errorf("which side found it?\n%s", errs)
	}
	w.fails(exitHeld, "H-604", "--data", w.path(inside), "publish", "--now")
	if n := w.generations("tools"); n != 0 {
		t.Errorf("%d generations", n)
	}
	if n := strings.Count(w.logText(inside), `"what":"scan"`); n != 2 {
		t.Errorf("the log has %d scans: clamd without a date is asked each time", n)
	}
	w.fails(exitHeld, "H-604", "--data", w.path(inside), "scan")
}

// A scanner that does not answer stops the step that needs it, and only that.
func TestUnreachableScannerStops(t *testing.T) {
	w := treeWorld(t, map[string]string{"tool.exe": "one"})
	w.outside("fetch")
	w.scanWith(outside, `"clamd:unix:/nonexistent/clamd.ctl"`)
	w.fails(exitHeld, "H-603", "--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test")
	w.fails(exitHeld, "H-603", "--data", w.path(outside), "scan", "--test")
	setLine(t, w.path(outside, "hashike.toml"), `scan = "clamd:unix:/nonexistent/clamd.ctl"`, `scan = ["sh", "-c", "exit 0", "sh", "{file}"]`)
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test")
	if text := w.sheetText(1); !strings.Contains(text, "ウイルス検査（外側）: sh、定義 ") {
		t.Errorf("the sheet says\n%s", text)
	}
	w.fails(exitHeld, "H-603", "--data", w.path(outside), "scan", "--test") // it does not detect the test file
	w.scanWith(inside, `["sh", "-c", "exit 3", "sh", "{file}"]`)
	w.inside("import", w.path("media")) // importing and storing does not need it
	w.fails(exitHeld, "H-603", "--data", w.path(inside), "publish", "--now")
	if n := w.generations("tools"); n != 0 {
		t.Errorf("%d generations", n)
	}
	setLine(t, w.path(inside, "hashike.toml"), `"exit 3"`, `"exit 0"`)
	w.inside("publish", "--now")
	if n := w.generations("tools"); n != 1 {
		t.Errorf("%d generations", n)
	}
}

// Without a scanner a reason is needed: flag, configuration or typed.
func TestNoScanNeedsAReason(t *testing.T) {
	w := treeWorld(t, map[string]string{"tool.exe": "one"})
	setLine(t, w.path(outside, "hashike.toml"), `scan_reason = "試験のため"`, `scan_reason = ""`)
	w.outside("fetch")
	pack := []string{"--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test"}
	w.fails(exitHeld, "H-621", pack...)
	w.ok("", append(pack, "--dry-run")...)
	w.ok("端末側で検査\n", pack...)
	if text := w.sheetText(1); !strings.Contains(text, "未実施（理由: 端末側で検査）") {
		t.Errorf("the sheet says\n%s", text)
	}
	w.ok("", append(pack, "--no-scan-reason", "急ぎ")...)
	if log := w.logText(outside); !strings.Contains(log, `"scan.reason":"急ぎ"`) || !strings.Contains(log, `"scan":"not done"`) {
		t.Errorf("the log says\n%s", log)
	}
}

// Publishing without a scanner says so in the log, once for each serial.
func TestUnscannedPublicationIsRecorded(t *testing.T) {
	w := treeWorld(t, map[string]string{"tool.exe": "one"})
	w.carry()
	w.inside("publish", "--now")
	log := w.logText(inside)
	if n := strings.Count(log, `"scan":"not done"`); n != 1 {
		t.Errorf("%d records\n%s", n, log)
	}
	if r := w.lastRecord(inside, "scan"); r.Detail["feed"] != "tools" || r.Detail["bundle"] != "1" || r.Result != "ok" {
		t.Errorf("%+v", r)
	}
}

// What the scanner does not look at is never called clean.
func TestOverTheLimit(t *testing.T) {
	at := clamd(t, "StreamMaxLength 1M")
	w := treeWorld(t, map[string]string{"small.exe": "one", "large.bin": strings.Repeat("x", 2<<20)})
	w.outside("fetch")
	w.scanWith(outside, at)
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test")
	if text := w.sheetText(1); !strings.Contains(text, "未検査（上限超過） 1件") || !strings.Contains(text, "large.bin") {
		t.Errorf("the sheet says\n%s", text)
	}
	setLine(t, w.path(outside, "hashike.toml"), `over_limit = "record"`, `over_limit = "stop"`)
	if errs := w.fails(exitHeld, "H-620", "--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test"); !strings.Contains(errs, "large.bin") {
		t.Errorf("which file?\n%s", errs)
	}
}

// A stored file that another program took is said to be that, with and
// without a scanner of our own.
func TestResidentAntivirusByCommand(t *testing.T) {
	w := treeWorld(t, map[string]string{"small.exe": "one", "large.bin": strings.Repeat("x", 2<<20)})
	w.outside("fetch")
	for _, text := range []string{"one", strings.Repeat("x", 2<<20)} {
		hex := feed.DigestOf([]byte(text)).Hex()
		at, aside := w.path(outside, "store/sha256", hex[:2], hex), w.path("aside")
		if err := os.Rename(at, aside); err != nil {
			t.Fatal(err)
		}
		w.fails(exitMachine, "H-820", "--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test")
		if err := os.Rename(aside, at); err != nil {
			t.Fatal(err)
		}
	}
	before := len(stored(t, w))
	// The scanner itself removes what it is shown.
	w.scanWith(outside, `["sh", "-c", "rm -f \"$1\"", "sh", "{file}"]`)
	w.fails(exitMachine, "H-820", "--data", w.path(outside), "pack", "--to", w.path("media"), "--clock-checked", "test")
	taken := before - len(stored(t, w))
	if taken != 1 {
		t.Errorf("%d files are gone; the first should have stopped the bundle", taken)
	}
}

func stored(t testing.TB, w *world) []string {
	t.Helper()
	names, err := filepath.Glob(w.path(outside, "store/sha256/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}
