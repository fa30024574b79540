package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Losing the inside: set up again from the same medium and sheet, then one
// complete bundle brings everything back. An increment alone says what is missing.
func TestLosingTheInside(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	config := w.path(inside, "hashike.toml")
	kept, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.path(inside)); err != nil {
		t.Fatal(err)
	}
	sheet := w.outside("setup-medium", "--site", "1")
	w.ok(fingerprintOn(sheet)+"\n", "--data", w.path(inside), "init", "--side", "inside", "--pair", w.path(outside, "outbox/setup-1"))
	if err := os.WriteFile(config, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	spoolTo(t, files, spool, 2, 4)
	w.outside("fetch")
	w.pack("--base", "1")
	if errs := w.fails(exitDamaged, "H-701", "--data", w.path(inside), "import", w.path("media")); !strings.Contains(errs, "test-") {
		t.Errorf("what is missing is not named:\n%s", errs)
	}
	w.pack("--full")
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	if w.serial(inside, "clamav-test") != w.serial(outside, "clamav-test") {
		t.Error("the rebuilt inside does not have the outside's version")
	}
}

// Losing the outside: its keys and trust were kept, its number is on paper.
func TestLosingTheOutside(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	was := w.serial(inside, "clamav-test")
	lost := w.path("lost")
	if err := os.Rename(w.path(outside), lost); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.path(outside), 0o700); err != nil {
		t.Fatal(err)
	}
	w.fails(exitConfig, "H-203", "--data", w.path(outside), "init", "--side", "outside", "--resume", "--last-bundle", "1")
	for _, d := range []string{"keys", "trust", "hashike.toml"} {
		if err := os.RemoveAll(w.path(outside, d)); err != nil {
			t.Fatal(err)
		}
		must(t, exec.Command("cp", "-a", filepath.Join(lost, d), w.path(outside, d)))
	}
	time.Sleep(1100 * time.Millisecond) // versions are Unix seconds; nobody rebuilds a PC within one
	w.outside("init", "--side", "outside", "--resume", "--last-bundle", "1")
	spoolTo(t, files, spool, 2, 4)
	w.carry()
	if now := w.serial(inside, "clamav-test"); now <= was || now != w.serial(outside, "clamav-test") {
		t.Errorf("serial %d after %d", now, was)
	}
}

// The daemon inside imports what appears in its inbox, publishes and serves.
func TestRunWatchesTheInbox(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.outside("fetch")
	w.pack()
	w.inside("approval", "blanket", "--by", "課長", "--reason", "毎日のウイルス定義")
	errs := discard()
	a := testApp(t, w.path(inside), errs)
	s, err := a.open("run", inside)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.watchInbox(ctx, 400*time.Millisecond) }()
	must(t, exec.Command("cp", "-r", w.path("media"), w.path(inside, "inbox", "from-gateway")))
	deadline := time.Now().Add(30 * time.Second)
	for w.generations("clamav-test") == 0 && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	<-done
	if w.generations("clamav-test") != 1 { // definitions are published at once
		t.Fatalf("nothing was published:\n%s", errs)
	}
}

// A full disk at any point of fetch and import: a clear message, what is
// published stays, and after space is freed the same command goes on.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "mounting a small file system needs root")
	}
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	for _, side := range []string{outside, inside} {
		t.Run(side, func(t *testing.T) {
			w := newWorld(t, clamavBlock(spool))
			if side == inside {
				w.outside("fetch")
				w.pack()
			}
			full := filepath.Join(t.TempDir(), "small")
			if err := os.Mkdir(full, 0o700); err != nil {
				t.Fatal(err)
			}
			// The data directory moves to a file system of its own.
			if err := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=160m"); err != nil {
				missing(t, "tmpfs cannot be mounted: "+err.Error())
			}
			t.Cleanup(func() { syscall.Unmount(full, 0) })
			must(t, exec.Command("cp", "-a", w.path(side)+"/.", full))
			if err := os.RemoveAll(w.path(side)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(full, w.path(side)); err != nil {
				t.Fatal(err)
			}
			fillTheDisk(t, w, side, full)
		})
	}
}

// fillTheDisk leaves a little more free space at each try, until the command
// goes through: so that the disk was full at every write on the way.
func fillTheDisk(t *testing.T, w *world, side, full string) {
	command := []string{"--data", w.path(side), "fetch"}
	if side == inside {
		command = []string{"--data", w.path(side), "import", w.path("media")}
	}
	refused, step := 0, int64(16<<10)
	if side == inside {
		step = 8 << 20 // import keeps a reserve and starts nothing that could not end
	}
	for free := int64(0); ; free += step {
		leave(t, full, free)
		_, errs, code := w.run("", command...)
		if code == 0 {
			break
		}
		if code != exitMachine || !strings.Contains(errs, "H-801") {
			t.Fatalf("with %d bytes free: exit %d\n%s", free, code, errs)
		}
		refused++
		if free > 96<<20 {
			t.Fatal("it never went through")
		}
	}
	if refused == 0 {
		t.Fatal("the disk was never full")
	}
	leave(t, full, 96<<20)
	if side == inside {
		w.inside("publish", "--now")
	}
	w.ok("", "--data", w.path(side), "scrub", "--all")
	if w.serial(side, "clamav-test") == 0 {
		t.Error("nothing was accepted")
	}
}

// leave fills the file system but for free bytes.
func leave(t *testing.T, dir string, free int64) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.Remove(ballast); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	n := int64(st.Bavail)*int64(st.Bsize) - free
	if n <= 0 {
		return
	}
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, n); err != nil {
		t.Fatal(err)
	}
}
