package durable

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

// These run on Windows, and under wine by TestWindows of cmd/hashike.

func TestPrivate(t *testing.T) {
	dir := tempDir(t)
	if err := Private(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if wine() {
		t.Skip("wine keeps access lists as Unix modes")
	}
	for _, p := range []string{dir, filepath.Join(dir, "file")} {
		sd, err := windows.GetNamedSecurityInfo(p, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
		if err != nil {
			t.Fatal(err)
		}
		s := sd.String()
		if strings.Count(s, "(A;") != 3 || strings.Count(s, "(") != 3 || !strings.Contains(s, ";SY)") || !strings.Contains(s, ";BA)") {
			t.Errorf("%s: %s", p, s)
		}
	}
}

// tempDir is t.TempDir, removed by ourselves: os.RemoveAll does not work under wine 8.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hashike-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// wine reports whether we run under wine, by the function that only its ntdll has.
func wine() bool {
	return windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}

func TestTimeOutlivesCommit(t *testing.T) {
	dir := tempDir(t)
	f, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Discard()
	at := time.Unix(1_800_000_000, 0)
	if _, err := f.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if err := f.SetTime(at); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "final")
	if err := f.Commit(path); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || !st.ModTime().Equal(at) {
		t.Errorf("%v %v", st.ModTime(), err)
	}
}

// A file that is held is removed once its holder lets go; one that is not let
// go is an error that Held knows.
func TestHeld(t *testing.T) {
	path := filepath.Join(tempDir(t), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path) // without FILE_SHARE_DELETE, as most programs do
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Remove(path); !Held(err) {
		t.Errorf("held: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { f.Close() })
	if err := Rename(path, path+".new"); err != nil {
		t.Error(err)
	}
	if err := RemoveAll(filepath.Dir(path)); err != nil {
		t.Error(err)
	}
}

// Beyond MAX_PATH (260), with the names that town halls use.
func TestLongPaths(t *testing.T) {
	dir := filepath.Join(tempDir(t), "内側 データ")
	for len(dir) < 400 {
		dir = filepath.Join(dir, strings.Repeat("長い名前", 5))
	}
	if err := Mkdir(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	if err := WriteFile(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := Free(dir); err != nil {
		t.Error(err)
	}
	if err := Private(dir); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Error(string(b), err)
	}
}
