package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/mirror"
)

// tamper copies the medium and lets f spoil the copy.
func (w *world) tamper(f func(dir string)) string {
	w.t.Helper()
	to := filepath.Join(w.t.TempDir(), "spoilt")
	must(w.t, exec.Command("cp", "-r", w.path("media"), to))
	f(to)
	return to
}

// Every file of a medium, flipped, cut, emptied and removed: the command
// refuses by class, says which file, and what was published stays.
func TestSpoiltMediaByCommand(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	base := w.serve()
	before := w.serial(inside, "clamav-test")
	_, served := get(t, base+"/clamav/test.cvd")
	spoolTo(t, files, spool, 2, 4)
	w.outside("fetch")
	w.pack("--full", "--parity", "0") // parity would repair it
	// Without any of its files nobody says that they are all here, nor that none is missing.
	said, errs, code := w.run("", "--data", w.path(inside), "import", w.tamper(func(dir string) {
		if err := os.RemoveAll(filepath.Join(dir, "blobs")); err != nil {
			t.Fatal(err)
		}
	}))
	if code == 0 || !strings.Contains(said, "傷があります") || strings.Contains(said, "中身はそろいました") || strings.Contains(said, "、0件）") {
		t.Errorf("exit %d\n%s%s", code, said, errs)
	}
	var names []string
	err := filepath.WalkDir(w.path("media"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, rerr := filepath.Rel(w.path("media"), p)
			names = append(names, rel)
			return rerr
		}
		return err
	})
	if err != nil || len(names) < 8 {
		t.Fatalf("%d files on the medium, %v", len(names), err)
	}
	refused := 0
	beside := map[string]bool{"README.txt": true, "oci-layout": true, "index.json": true} // nothing depends on these, nor on manifests and configs
	for _, name := range names {
		if b, err := os.ReadFile(w.path("media", name)); err == nil && strings.HasPrefix(name, "blobs") && strings.HasPrefix(string(b), "{") {
			beside[name] = true
		}
		if beside[name] {
			continue
		}
		for what, spoil := range map[string]func(p string, b []byte) error{
			"flipped":   func(p string, b []byte) error { b[len(b)/2] ^= 1; return os.WriteFile(p, b, 0o644) },
			"truncated": func(p string, b []byte) error { return os.WriteFile(p, b[:len(b)/2], 0o644) },
			"removed":   func(p string, _ []byte) error { return os.Remove(p) },
		} {
			dir := w.tamper(func(dir string) {
				p := filepath.Join(dir, name)
				b, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				if len(b) == 0 { // nothing to flip: something that was not signed
					b = []byte("xx")
				}
				if err := spoil(p, b); err != nil {
					t.Fatal(err)
				}
			})
			out, errs, code := w.run("", "--data", w.path(inside), "import", dir)
			if code != exitUntrusted && code != exitDamaged || !strings.Contains(errs, "H-5") && !strings.Contains(errs, "H-7") {
				t.Errorf("%s %s: exit %d\n%s%s", name, what, code, out, errs)
			}
			if strings.HasPrefix(name, "blobs") && !strings.Contains(errs+out, filepath.Base(name)) {
				t.Errorf("%s %s: the file is not named:\n%s%s", name, what, out, errs)
			}
			refused++
			// The good parts of a spoilt medium may complete a feed; a spoilt part never is one.
			w.ok("", "--data", w.path(inside), "scrub", "--all")
		}
	}
	t.Logf("%d spoilt media", refused)
	if _, now := get(t, base+"/clamav/test.cvd"); string(now) != string(served) {
		t.Error("what is served changed")
	}
	// What lies beside the payload may be scratched: it is named, and all the rest is good.
	if len(beside) < 5 {
		t.Errorf("only %v", beside)
	}
	out := w.inside("import", w.tamper(func(dir string) {
		for name := range beside {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil && name != "index.json" { // without it the manifests would not be known
				b[len(b)/2] ^= 1
				err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}))
	for name := range beside {
		if name != "index.json" && !strings.Contains(out, filepath.Base(name)) && !strings.Contains(out, "傷があります") {
			t.Errorf("%s is damaged and not named:\n%s", name, out)
		}
	}
	if got := w.serial(inside, "clamav-test"); got <= before {
		t.Errorf("serial %d after %d", got, before)
	}
}

// Bundles that are genuine but not right here and now.
func TestWrongBundlesByCommand(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	old := w.tamper(func(string) {})
	spoolTo(t, files, spool, 2, 4)
	w.carry()
	now := w.serial(inside, "clamav-test")
	w.fails(exitUntrusted, "H-503", "--data", w.path(inside), "import", old)

	other := newWorld(t, clamavBlock(spool))
	other.outside("fetch")
	other.pack()
	w.fails(exitUntrusted, "H-501", "--data", w.path(inside), "import", other.path("media"))

	if got := w.serial(inside, "clamav-test"); got != now {
		t.Errorf("serial %d, was %d", got, now)
	}
	w.fails(exitConfig, "H-213", "--data", w.path(inside), "import", t.TempDir())

	sheet := w.outside("setup-medium", "--site", "2")
	digits := []byte(fingerprintOn(sheet))
	digits[5] = '0' + (digits[5]-'0'+1)%10
	_, errs, code := w.run(string(digits)+"\n", "--data", t.TempDir()+"/new", "init", "--side", "inside", "--pair", w.path(outside, "outbox/setup-2"))
	if code == 0 || !strings.Contains(errs, "H-508") {
		t.Errorf("a mistyped fingerprint: exit %d\n%s", code, errs)
	}
	_, errs, code = w.run(fingerprintOn(w.outside("setup-medium", "--site", "1"))+"\n", "--data", t.TempDir()+"/new", "init", "--side", "inside", "--pair", w.path(outside, "outbox/setup-2"))
	if code != exitUntrusted || !strings.Contains(errs, "H-508") {
		t.Errorf("another site's fingerprint: exit %d\n%s", code, errs)
	}
}

// Rollback, withdraw, gc and the rest of the operator's day, by command.
func TestOperatorsDay(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	base := w.serve()
	spoolTo(t, files, spool, 2, 4)
	w.carry()
	url := base + "/clamav/test.cvd"
	w.waitGeneration("clamav-test", url, 4)
	w.inside("rollback", "clamav-test", "--reason", "試験")
	w.waitGeneration("clamav-test", url, 3)
	spoolTo(t, files, spool, 2, 5)
	w.outside("fetch")
	w.pack()
	w.inside("import", w.path("media"))
	w.inside("publish") // a rule publishes nothing while a person holds the feed
	if _, b := get(t, url); !strings.Contains(string(b[:100]), ":3:") {
		t.Errorf("a held feed moved on: %s", b[:60])
	}
	w.inside("publish", "--now", "clamav-test")
	w.waitGeneration("clamav-test", url, 5)
	w.inside("gc", "--dry-run")
	w.inside("gc")
	w.outside("gc")
	stopped := func(where, out string) {
		if !strings.Contains(out, "止め") || strings.Contains(out, "公開しました") {
			t.Errorf("%s hides the stop:\n%s", where, out)
		}
	}
	stopped("withdraw", w.inside("withdraw", "clamav-test", "--reason", "試験"))
	stopped("status", w.inside("status"))
	if f := w.status(inside).Feeds[0]; !slices.ContainsFunc(f.Rings, func(r mirror.RingStatus) bool { return r.Stopped }) {
		t.Errorf("status --json hides the stop: %+v", f)
	}
	waitFor(t, "the withdrawal", func() bool { res, _ := get(t, url); return res.StatusCode == 404 || res.StatusCode == 503 })
	// The way back that H-607 names.
	serial := fmt.Sprint(w.serial(inside, "clamav-test"))
	if said := w.fails(exitHeld, "H-607", "--data", w.path(inside), "publish", "clamav-test", "--now"); !strings.Contains(said, "--serial "+serial) {
		t.Errorf("no way back is named:\n%s", said)
	}
	w.fails(exitConfig, "H-616", "--data", w.path(inside), "publish", "clamav-test", "--serial", "99", "--reason", "試験", "--now")
	w.fails(exitConfig, "H-617", "--data", w.path(inside), "decide", "clamav-test")
	w.inside("publish", "clamav-test", "--serial", serial, "--reason", "試験", "--now")
	w.waitGeneration("clamav-test", url, 5)
}
