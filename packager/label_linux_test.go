package packager_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashike/hashike/packager"
)

// A pipe, a link or a device on a medium is not opened: it could keep whoever
// reads it waiting for ever, or lead somewhere else.
func TestLookAtOpensFilesAlone(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	ok(t, os.WriteFile(secret, []byte("\r\n媒体番号 / medium: U-9\r\n"), 0o644))
	for name, put := range map[string]func(at string) error{
		"pipe": func(at string) error { return syscall.Mkfifo(at, 0o644) },
		"link": func(at string) error { return os.Symlink(secret, at) },
		"dir":  func(at string) error { return os.Mkdir(at, 0o755) },
	} {
		dir := t.TempDir()
		for _, file := range []string{"README.txt", "set.json"} {
			ok(t, put(filepath.Join(dir, file)))
		}
		done := make(chan packager.OnMedium, 1)
		go func() {
			on, err := packager.LookAt(dir)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			done <- on
		}()
		select {
		case on := <-done:
			if on != (packager.OnMedium{}) {
				t.Errorf("%s: %+v", name, on)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it hangs", name)
		}
	}
	if on, err := packager.LookAt(filepath.Join(t.TempDir(), "none")); err != nil || on != (packager.OnMedium{}) {
		t.Errorf("%+v %v", on, err)
	}
}
