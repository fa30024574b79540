//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// The inside on Windows: the Windows build under wine, with its data in a
// folder and its bundles on a medium as a town hall names them, fed by a native
// outside and asked by native clients.
func TestWindows(t *testing.T) {
	x := newWine(t)
	t.Run("main line", func(t *testing.T) { windowsMainLine(t, x) })
	t.Run("killed", func(t *testing.T) { windowsKilled(t, x) })
	t.Run("inbox", func(t *testing.T) { windowsInbox(t, x) })
	t.Run("own tests", func(t *testing.T) { windowsOwnTests(t, x) })
}

const usb = "更新便 USB"

// newWindowsWorld is newWorld with a Windows inside. The folder big is a feed
// of unsigned files that an exception order lets through: large, and ours.
func newWindowsWorld(t testing.TB, x *wine, blocks string) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "内側 データ"), now: time.Now}
	if err := os.MkdirAll(w.path("big"), 0o755); err != nil {
		t.Fatal(err)
	}
	x.use(w)
	blocks += fmt.Sprintf("\n[feed.big]\nkind = \"tree\"\ndir = \"big\"\nsignature = \"\"\nkeys = []\ndirs = { big = %q }\n", w.path("big"))
	sheet := w.ok("", "--data", w.path(outside), "init", "--side", outside, "--name", "試験町", "--keys-to", w.path("envelopes"))
	setLine(t, w.path(outside, "hashike.toml"), `scan_reason = ""`, `scan_reason = "試験のため"`)
	w.configure(outside, blocks)
	w.outside("order", "exception", "--feed", "big", "--strength", "none", "--reason", "試験", "--approver", "鈴木", "--until", nextMarch())
	setup := w.path(outside, "outbox", "setup-1")
	w.fails(exitConfig, "H-508", "--data", w.path(inside), "init", "--side", inside, "--name", "試験町", "--pair", setup)
	w.ok(fingerprintOn(sheet)+"\r\n", "--data", w.path(inside), "init", "--side", inside, "--name", "試験町", "--pair", setup)
	w.configure(inside, blocks)
	setLine(t, w.path(inside, "hashike.toml"), `addr = "127.0.0.1:8081"`, `addr = "127.0.0.1:0"`)
	setLine(t, w.path(inside, "hashike.toml"), `addr = ":8080"`, `addr = "127.0.0.1:0"`)
	setLine(t, w.path(inside, "hashike.toml"), "keep = 3", "keep = 1")
	return w
}

// nextMarch is the latest day an exception may last.
func nextMarch() string {
	now := time.Now().In(feed.JST())
	y := now.Year()
	if now.Month() > time.March {
		y++
	}
	return fmt.Sprintf("%d-03-31", y)
}

// bring makes one whole crossing; big.bin gets n new bytes.
func (w *world) bring(n int) (big []byte) {
	w.t.Helper()
	big = make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(time.Now().UnixNano())}).Read(big)
	sum := fmt.Sprintf("%x  big.bin\n", sha256.Sum256(big))
	for name, b := range map[string][]byte{"big.bin": big, "SHA256SUMS": []byte(sum)} {
		if err := os.WriteFile(w.path("big", name), b, 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	w.outside("fetch", "--now")
	w.outside("pack", "--to", w.path(usb), "--clock-checked", "test data of 2021")
	return big
}

func (w *world) take() {
	w.t.Helper()
	w.inside("import", w.path(usb), "--approved-by", "課長")
	w.inside("publish", "--now")
}

// download is a terminal on a slow line: it has asked for a file and takes
// nothing of it until finish.
type download struct {
	t   testing.TB
	c   net.Conn
	res *http.Response
}

func slowDownload(t testing.TB, base, path string) *download {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("GET", base+path, nil)
	if err == nil {
		err = req.Write(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 4<<10), req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	return &download{t, c, res}
}

func (d *download) finish(want []byte) {
	d.t.Helper()
	defer d.c.Close()
	d.c.SetDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(d.res.Body)
	if err != nil || !bytes.Equal(got, want) {
		d.t.Errorf("the slow terminal got %d bytes of %d: %v", len(got), len(want), err)
	}
}

// blob is where the inside keeps these bytes.
func (w *world) blob(b []byte) string {
	h := feed.DigestOf(b).Hex()
	return w.path(inside, "store", "sha256", h[:2], h)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func serves(base, path string, want []byte) func() bool {
	return func() bool {
		res, err := http.Get(base + path)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		return err == nil && bytes.Equal(got, want)
	}
}

const slowSize = 24 << 20 // more than the sockets of a slow terminal can hold

func windowsMainLine(t *testing.T, x *wine) {
	need(t, "apt-get")
	need(t, "freshclam")
	files := clamavFiles(t)
	blocks, names := aptBlocks(t)
	spool := t.TempDir()
	spoolTo(t, files, spool, 2, 2)
	w := newWindowsWorld(t, x, blocks+clamavBlock(spool))
	first := w.bring(slowSize)
	w.take()
	s := x.start(t, "--data", w.path(inside), "serve")
	base := s.base()

	// The vendors' clients, from nothing.
	r := newAptRoot(t, sourcesOf(w, base, names))
	if out, err := r.get("update"); err != nil || strings.Contains(out, "W:") || strings.Contains(out, "E:") {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	deb := anyDeb(t, w, names)
	out, err := r.get("install", "--download-only", "--reinstall", "-y", "--no-install-recommends", deb)
	if debs, _ := filepath.Glob(filepath.Join(r.dir, "cache/archives/*.deb")); err != nil || len(debs) == 0 {
		t.Fatalf("apt-get install %s: %v\n%s", deb, err, out)
	}
	c := newFreshclam(t, w, base)
	c.update()
	c.want(".cvd", "2")

	// One server a data directory; the first goes on.
	w.fails(exitMachine, "H-226", "--data", w.path(inside), "serve")

	// A slow terminal is in mid-download while two publications and a clean-up
	// take its file away; another program has a file of the store open.
	slow := slowDownload(t, base, "/big/big.bin")
	spoolTo(t, files, spool, 2, 3)
	second := w.bring(1 << 20)
	w.take()
	waitFor(t, "the second publication", serves(base, "/big/big.bin", second))
	w.waitGeneration("clamav-test", base+"/clamav/test.cvd", 3)
	c.update()
	c.want(".cld", "3")
	third := w.bring(1 << 20)
	// The medium as a drive of its own; E:" is what "E:\" in quotation marks becomes.
	if err := os.Symlink(w.path(usb), filepath.Join(x.dir, "prefix/dosdevices/e:")); err != nil {
		t.Fatal(err)
	}
	w.inside("import", `E:"`)
	w.inside("publish", "--now")
	waitFor(t, "the third publication", serves(base, "/big/big.bin", third))
	release := x.holdOpen(t, w.blob(second))
	defer release()
	w.inside("rollback", "big", "--reason", "試験")
	waitFor(t, "the rollback", serves(base, "/big/big.bin", second))
	w.fails(exitHeld, "H-607", "--data", w.path(inside), "publish", "big", "--now")
	fourth := w.bring(1 << 20)
	w.take()
	waitFor(t, "the fourth publication", serves(base, "/big/big.bin", fourth))
	w.inside("gc")
	if !exists(w.blob(second)) {
		t.Error("a file that another program holds is gone: wine is no longer like Windows here")
	}
	slow.finish(first)
	// Before POSIX deletion (Windows 10 1809, never in wine 8) a removed file
	// keeps its name until the last reader closes it.
	waitFor(t, "the removal of the slow terminal's file", func() bool { return !exists(w.blob(first)) })
	release()
	w.inside("gc")
	if exists(w.blob(second)) {
		t.Error("the second gc left what the first could not remove")
	}

	// Withdrawn: nobody gets it, and the server says so while it runs.
	w.inside("withdraw", "big", "--reason", "試験")
	waitFor(t, "the withdrawal", func() bool {
		res, err := http.Get(base + "/big/big.bin")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode != http.StatusOK
	})

	w.inside("scrub", "--all")
	for _, f := range w.status(inside).Feeds {
		if f.Serial == 0 || f.Serial != w.serial(outside, f.Feed) || f.Problem != "" {
			t.Errorf("status --json: %+v", f)
		}
	}
	said, _, _ := w.run("", "--data", w.path(inside), "--lang", "ja", "status")
	if !utf8.ValidString(said) || !strings.Contains(said, "検証") {
		t.Errorf("the pipe got no UTF-8 Japanese: %q", said)
	}
	if err := s.interrupt(); err != nil {
		t.Errorf("Ctrl+C: %v\n%s", err, s.said)
	}
}

// windowsKilled: an import that dies at any durable step, or anywhere, and is
// repeated ends in the state of one that was not disturbed.
func windowsKilled(t *testing.T, x *wine) {
	files := clamavFiles(t)
	spool := t.TempDir()
	spoolTo(t, files, spool, 2, 2)
	w := newWindowsWorld(t, x, clamavBlock(spool))
	w.bring(1 << 20)
	w.take()
	spoolTo(t, files, spool, 2, 3)
	w.bring(slowSize)
	before := filepath.Join(w.dir, "before")
	move(t, w.path(inside), before)

	// The reference, which also counts the steps.
	again := func() { copyTree(t, before, w.path(inside)) }
	again()
	log := filepath.Join(t.TempDir(), "steps")
	importing := x.command(x.crash, "--data", w.path(inside), "import", w.path(usb), "--approved-by", "課長")
	importing.Env = append(importing.Env, "HASHIKE_CRASH_LOG="+windowsPath(log))
	began := time.Now()
	if out, errs, code := typed(t, importing, ""); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	took := time.Since(began)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	steps := strings.Count(string(text), "\n")
	if steps < 20 {
		t.Fatalf("only %d durable steps:\n%s", steps, text)
	}
	w.inside("publish", "--now")
	want := windowsState(t, w)

	check := func(what string) {
		t.Helper()
		intact(t, w, what)
		w.take()
		if got := windowsState(t, w); got != want {
			t.Errorf("%s: the repeated import ends in\n%s\nwant\n%s", what, got, want)
		}
	}
	const samples = 10
	for i := range samples {
		at := 1 + i*(steps-1)/(samples-1)
		again()
		cmd := x.command(x.crash, "--data", w.path(inside), "import", w.path(usb), "--approved-by", "課長")
		cmd.Env = append(cmd.Env, fmt.Sprintf("HASHIKE_CRASH_AT=%d", at))
		if out, errs, code := typed(t, cmd, ""); code != 137 {
			t.Fatalf("step %d: exit %d\n%s%s", at, code, out, errs)
		}
		check(fmt.Sprintf("killed at step %d of %d", at, steps))
	}
	kills := 0
	for i := range 6 {
		again()
		d := took * time.Duration(2+i) / 9
		if killAfter(t, x.command(x.exe, "--data", w.path(inside), "import", w.path(usb), "--approved-by", "課長"), d) {
			kills++
		}
		check(fmt.Sprintf("killed after %s", d))
	}
	if kills == 0 {
		t.Error("no import was killed by time")
	}
}

// intact: what the killed process left has no torn file under a final name.
func intact(t testing.TB, w *world, what string) {
	t.Helper()
	err := filepath.WalkDir(w.path(inside, "store"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), durable.TempPrefix) {
			return err
		}
		b, err := os.ReadFile(p)
		if err == nil && feed.DigestOf(b).Hex() != d.Name() {
			t.Errorf("%s: %s is torn", what, d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// windowsState is what counts of a data directory, times left out.
func windowsState(t testing.TB, w *world) string {
	t.Helper()
	w.inside("gc") // also takes what a killed process left unfinished
	var b strings.Builder
	o := w.status(inside)
	for _, f := range o.Feeds {
		fmt.Fprintln(&b, f.Feed, f.Serial, f.ID, f.Bundle, f.Weakest, f.Withheld, f.Problem)
		for _, r := range f.Rings {
			fmt.Fprintln(&b, " ", r.Ring, r.Serial)
		}
	}
	orders, err := json.Marshal(o.Orders)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(orders)
	var names []string
	for _, dir := range []string{"store", "snapshots", "evidence"} {
		err := filepath.WalkDir(w.path(inside, dir), func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasSuffix(p, ".idx") {
				rel, _ := filepath.Rel(w.path(inside), p)
				names = append(names, rel)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	return b.String() + "\n" + strings.Join(names, "\n")
}

func move(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// windowsInbox: "hashike run" serves and imports what a person puts into the
// inbox, whatever the files' times say.
func windowsInbox(t *testing.T, x *wine) {
	files := clamavFiles(t)
	spool := t.TempDir()
	spoolTo(t, files, spool, 2, 2)
	w := newWindowsWorld(t, x, clamavBlock(spool))
	big := w.bring(1 << 20)
	w.inside("approval", "blanket", "--by", "課長", "--reason", "毎日のウイルス定義")
	s := x.start(t, "--data", w.path(inside), "run")
	box := w.path(inside, "inbox", usb)
	copyTree(t, w.path(usb), box)
	ahead := time.Now().Add(9 * time.Hour) // JST on a medium, read as UTC
	if err := os.Chtimes(filepath.Join(box, "index.json"), ahead, ahead); err != nil {
		t.Fatal(err)
	}
	// Definitions are published at once; the others wait for their day.
	w.waitGenerationFor(time.Minute, s.base()+"/clamav/test.cvd", 2)
	w.inside("approval", "record", "1", "--by", "課長")
	w.inside("publish", "--now")
	waitFor(t, "the publication", serves(s.base(), "/big/big.bin", big))
	if err := s.interrupt(); err != nil {
		t.Errorf("Ctrl+C: %v\n%s", err, s.said)
	}
	if said := strings.ReplaceAll(s.said.String(), "H-646", ""); strings.Contains(said, "H-") {
		t.Errorf("run said\n%s", s.said)
	}
}

func (w *world) waitGenerationFor(d time.Duration, url string, version int) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if _, b := get(w.t, url); strings.Contains(string(b[:min(len(b), 100)]), fmt.Sprintf(":%d:", version)) {
			return
		}
	}
	w.t.Fatalf("%s: version %d was not served", url, version)
}

// windowsOwnTests runs, under wine, the tests that only Windows builds have.
func windowsOwnTests(t *testing.T, x *wine) {
	w := newWindowsWorld(t, x, "")
	for pkg, tests := range map[string]string{"../../packager": "^(TestDPAPI)$", "../../internal/durable": "^(TestPrivate|TestTimeOutlivesCommit|TestHeld|TestLongPaths)$", ".": "^(TestService|TestUnquoted)$"} {
		exe := filepath.Join(x.dir, "tests.exe")
		build := exec.Command("go", "test", "-c", "-o", exe, pkg)
		build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
		must(t, build)
		cmd := x.command(exe, "-test.v", "-test.timeout=2m", "-test.run", tests)
		cmd.Env = append(cmd.Env, "HASHIKE_WINDOWS_DATA="+windowsPath(w.path(inside)))
		out, errs, code := typed(t, cmd, "")
		if code != 0 || strings.Count(out, "=== RUN") != strings.Count(tests, "Test") {
			t.Errorf("%s: exit %d\n%s%s", pkg, code, out, errs)
		}
	}
}
