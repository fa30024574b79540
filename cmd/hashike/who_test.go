package main

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Nobody gets another's name from the environment.
func TestWhoIsNotWhatTheEnvironmentSays(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\n# note\n+::::::\nyamada:x:1000:1000:,,,:/home/yamada:/bin/sh\nshort:x:1001\n"
	for uid, want := range map[int]string{0: "root", 1000: "yamada", 1001: "", 54321: ""} {
		if got, ok := accountOf(uid, strings.NewReader(passwd)); got != want || ok != (want != "") {
			t.Errorf("%d is %q, want %q", uid, got, want)
		}
	}
	if _, err := os.Stat("/usr/bin/getent"); err == nil {
		if got, _ := accountOf(0, strings.NewReader(getent(0))); got != "root" {
			t.Errorf("the switch says that 0 is %q", got)
		}
	}
	before := who()
	for _, name := range []string{"USER", "LOGNAME", "USERNAME", "HOME"} {
		t.Setenv(name, "forged")
	}
	if got := who(); got != before || got == "forged" {
		t.Errorf("%q became %q", before, got)
	}
}

// As it is released, without cgo, and as a user that the machine does not list.
func TestWhoWithoutAnAccount(t *testing.T) {
	const nobody = "54321"
	if _, err := user.LookupId(nobody); err == nil {
		missing(t, "an id that nobody has")
	}
	another, dir := asAnother(t, nobody)
	src, err := os.ReadFile("who.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{"who.go": string(src), "main.go": "package main\n\nfunc main() { println(who()) }\n", "go.mod": "module who\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", "who", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	must(t, build)
	run := another(filepath.Join(dir, "who"))
	run.Env = []string{"USER=yamada", "HOME=/tmp"}
	if got := strings.TrimSpace(must(t, run)); got != "uid:"+nobody {
		t.Errorf("it says %q", got)
	}
}

// asAnother makes commands that run under another user's id, and a directory
// that he may read. Root on Linux can.
func asAnother(t *testing.T, uid string) (command func(name string, args ...string) *exec.Cmd, dir string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has setpriv")
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil || os.Getuid() != 0 {
		missing(t, "root and setpriv")
	}
	if dir, err = os.MkdirTemp("", "another"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return func(name string, args ...string) *exec.Cmd {
		return exec.Command(setpriv, append([]string{"--reuid", uid, "--clear-groups", name}, args...)...)
	}, dir
}
