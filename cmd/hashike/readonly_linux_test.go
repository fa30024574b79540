package main

import (
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// The inside opens every medium for reading only: the whole image of a device
// that is mounted writable is the same before and after, also where the import
// fails. --return writes one file and nothing else.
func TestADeviceImageIsUntouchedByTheInside(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "only root mounts images")
	}
	image, at := filepath.Join(t.TempDir(), "usb.img"), filepath.Join(t.TempDir(), "usb")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(96 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	must(t, exec.Command(need(t, "mkfs.ext4"), "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image))
	if out, err := exec.Command("mount", "-o", "loop,noatime", image, at).CombinedOutput(); err != nil {
		missing(t, "loop devices cannot be mounted here: "+string(out))
	}
	t.Cleanup(func() { exec.Command("umount", at).Run() })
	if err := os.RemoveAll(filepath.Join(at, "lost+found")); err != nil {
		t.Fatal(err)
	}
	sum := func() (s [32]byte) {
		t.Helper()
		syscall.Sync()
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		return [32]byte(h.Sum(nil))
	}
	w, _ := twoFeeds(t)
	w.outside("pack", "--to", at, "--clock-checked", "test data of 2021")
	before := sum()
	w.run("", "--data", w.path(inside), "import", at)                         // waits for an approver
	w.run("", "--data", w.path(inside), "import", at, "--approved-by", "課長")  // complete
	w.run("", "--data", w.path(inside), "import", at)                         // again
	w.run("", "--data", w.path(outside), "import", at, "--approved-by", "課長") // the wrong side
	other := newWorld(t, "")                                                  // another town's inside
	other.run("", "--data", other.path(inside), "import", at)
	if sum() != before {
		t.Fatal("the device changed")
	}
	if w.feedStatus(inside, "tools").Serial == 0 {
		t.Fatal("nothing was imported")
	}
	w.ok("", "--data", w.path(inside), "import", at, "--return")
	if sum() == before {
		t.Fatal("the comparison does not notice a written file")
	}
}
