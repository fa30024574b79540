//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wine runs the Windows build on this machine (docs/windows-acceptance.md says
// what that does not prove): a private prefix, two builds of the command and a
// program that holds a file open.
type wine struct {
	dir   string
	exe   string // hashike.exe
	crash string // the same with failpoints
	hold  string // testdata/wine/hold.c
}

// newWine makes all of it, for the rest of the test.
func newWine(t testing.TB) *wine {
	t.Helper()
	for _, tool := range []string{"wine", "wineserver", "x86_64-w64-mingw32-gcc", "go"} {
		need(t, tool)
	}
	dir := t.TempDir()
	x := &wine{dir: dir, exe: filepath.Join(dir, "hashike.exe"), crash: filepath.Join(dir, "hashike-crash.exe"), hold: filepath.Join(dir, "hold.exe")}
	build := func(args ...string) {
		cmd := exec.Command("go", append([]string{"build"}, args...)...)
		cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
		must(t, cmd)
	}
	if err := os.Mkdir(filepath.Join(dir, "prefix"), 0o700); err != nil {
		t.Fatal(err)
	}
	x.server(t, "-p") // stays between the commands, and outside their process groups
	t.Cleanup(func() { x.server(t, "-k") })
	prefix := exec.Command("wineboot", "--init")
	prefix.Env = x.env()
	// Without output: what wine starts in the background would hold a pipe open.
	if err := prefix.Start(); err != nil {
		t.Fatal(err)
	}
	build("-o", x.exe, ".")
	build("-tags", "crashtest", "-o", x.crash, ".")
	const gcc, src = "x86_64-w64-mingw32-gcc", "../../testdata/wine/"
	must(t, exec.Command(gcc, "-municode", "-o", x.hold, src+"hold.c"))
	dll := filepath.Join(dir, "bcryptprimitives.dll")
	must(t, exec.Command(gcc, "-shared", "-o", dll, src+"bcryptprimitives.c", "-ladvapi32"))
	if err := prefix.Wait(); err != nil {
		t.Fatalf("wineboot: %v", err)
	}
	b, err := os.ReadFile(dll)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "prefix/drive_c/windows/system32/bcryptprimitives.dll"), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *wine) server(t testing.TB, arg string) {
	cmd := exec.Command("wineserver", arg)
	cmd.Env = x.env()
	if err := cmd.Run(); err != nil {
		t.Logf("wineserver %s: %v", arg, err)
	}
}

func (x *wine) env(more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); name != "DISPLAY" && !strings.HasPrefix(name, "WINE") && !strings.HasPrefix(name, "LC_") {
			env = append(env, e)
		}
	}
	return append(append(env, "WINEPREFIX="+filepath.Join(x.dir, "prefix"), "WINEDEBUG=-all", "LC_ALL=C.UTF-8",
		"WINEDLLOVERRIDES=bcryptprimitives=n;mscoree=;mshtml=;winemenubuilder.exe=d"), more...)
}

// windowsPath is how the Windows side names a file of this machine.
func windowsPath(p string) string { return "Z:" + strings.ReplaceAll(p, "/", `\`) }

// command prepares a Windows program in a process group of its own, with this
// machine's paths among the arguments translated.
func (x *wine) command(exe string, args ...string) *exec.Cmd {
	list := []string{exe}
	for _, a := range args {
		if strings.HasPrefix(a, os.TempDir()+"/") {
			a = windowsPath(a)
		}
		list = append(list, a)
	}
	cmd := exec.Command("wine", list...)
	cmd.Env = x.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second // wine's own helpers may hold a pipe
	return cmd
}

// typed runs a Windows program to its end.
func typed(t testing.TB, cmd *exec.Cmd, stdin string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errw bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errw
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errw.String(), cmd.ProcessState.ExitCode()
}

// use makes the Windows build the world's inside. Every command of ours prints
// its side before it does anything, and says why it fails: one that ends with 1
// and has said nothing was never begun. Wine does that now and then right after
// programs were killed; it is tried once more.
func (x *wine) use(w *world) {
	w.program = func(stdin string, args ...string) (string, string, int) {
		w.t.Helper()
		out, errs, code := typed(w.t, x.command(x.exe, args...), stdin)
		if code == 1 && out+errs == "" {
			w.t.Log("wine did not begin the program")
			out, errs, code = typed(w.t, x.command(x.exe, args...), stdin)
		}
		return out, errs, code
	}
}

// service is a Windows program that runs until it is told to stop.
type service struct {
	t    testing.TB
	cmd  *exec.Cmd
	said *bytes.Buffer
	done chan error
	addr string // the first address it serves on
}

var serving = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// start runs "hashike serve" or "run" under wine until the test ends.
func (x *wine) start(t testing.TB, args ...string) *service {
	t.Helper()
	cmd := x.command(x.exe, args...)
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = pw, pw
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	s := &service{t: t, cmd: cmd, said: new(bytes.Buffer), done: make(chan error, 1)}
	ready, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			s.said.WriteString(lines.Text() + "\n")
			if at := serving.FindString(lines.Text()); at != "" && s.addr == "" {
				s.addr = at
				ready <- at
			}
		}
	}()
	go func() {
		<-ended
		r.Close()
		s.done <- cmd.Wait()
	}()
	t.Cleanup(func() { s.kill() })
	select {
	case <-ready:
	case err := <-s.done:
		t.Fatalf("hashike %s: %v\n%s", strings.Join(args, " "), err, s.said)
	case <-time.After(time.Minute):
		t.Fatalf("hashike %s does not serve\n%s", strings.Join(args, " "), s.said)
	}
	return s
}

func (s *service) base() string { return "http://" + s.addr }

// kill is what a power cut or the Task Manager does.
func (s *service) kill() error {
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	err := <-s.done
	s.done <- err
	return err
}

// interrupt is Ctrl+C.
func (s *service) interrupt() error {
	s.cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-s.done:
		s.done <- err
		return err
	case <-time.After(30 * time.Second):
		return errors.New("runs on after Ctrl+C")
	}
}

// holdOpen opens a file as most Windows programs do; the returned function lets it go.
func (x *wine) holdOpen(t testing.TB, path string) (release func()) {
	t.Helper()
	cmd := x.command(x.hold, path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatalf("hold %s: %v", path, err)
	}
	return func() {
		in.Close()
		cmd.Wait()
	}
}

// killAfter runs a Windows program and kills it; false if it had ended before.
func killAfter(t testing.TB, cmd *exec.Cmd, d time.Duration) bool {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
		return false
	case <-ctx.Done():
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-done
	return true
}
