package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"log/slog"

	"github.com/hashike/hashike/internal/state"
)

// A command line that cannot be understood is never taken for "nothing to do".
func TestUsageMistakes(t *testing.T) {
	w := &world{t: t, dir: t.TempDir()}
	for line, says := range map[string]string{
		"fecth":               "hashike fetch",
		"media lots U-012":    "hashike media lost",
		"keys rotatte":        "hashike keys rotate",
		"audit foo":           "hashike audit foo",
		"media add":           "hashike media add NUMBER",
		"keys rotate":         "hashike keys rotate bundle|root|approver",
		"status --jsno":       "--jsno",
		"status --lang fr":    "--lang fr",
		"help fecth":          "hashike fecth",
		"person foo --lang=e": "person",
	} {
		said := w.fails(exitConfig, "H-211", strings.Fields(line)...)
		if !strings.Contains(said, says) || !strings.Contains(said, "--help") {
			t.Errorf("%s:\n%s", line, said)
		}
	}
	for _, line := range []string{"", "help", "help media", "media", "media list --help"} {
		for lang, frame := range map[string]string{"ja": "使い方:", "en": "Usage:"} {
			if out := w.ok("", append(strings.Fields(line), "--lang", lang)...); !strings.Contains(out, frame) || lang == "ja" && strings.Contains(out, "Flags:") {
				t.Errorf("%q in %s:\n%s", line, lang, out)
			}
		}
	}
}

// Without permission the data directory is not "not set up yet".
func TestNoPermission(t *testing.T) {
	if exit, code := class(&fs.PathError{Op: "open", Path: "/var/lib/hashike/state.db", Err: os.ErrPermission}); exit != exitMachine || code != "H-821" {
		t.Errorf("%d %s", exit, code)
	}
	// Root may read everything: somebody else runs the command.
	another, dir := asAnother(t, "54321")
	hashike := filepath.Join(dir, "hashike")
	must(t, exec.Command("go", "build", "-o", hashike, "."))
	w := newWorld(t, "")
	data := filepath.Join(dir, "data")
	if err := os.CopyFS(data, os.DirFS(w.path(outside))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := another(hashike, "--data", data, "status").CombinedOutput()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != exitMachine || !strings.Contains(string(out), "H-821") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLogTimesAreJST(t *testing.T) {
	at := slog.Time(slog.TimeKey, time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC))
	if got := inJST(nil, at).Value.String(); got != "2026-11-23T01:00:00+09:00" {
		t.Error(got)
	}
}

// What cannot be done yet says why and what comes first, not that a setting is
// wrong; what has nothing to do says so.
func TestNothingThereYet(t *testing.T) {
	dir, _ := signedTree(t, map[string]string{"tool.exe": "one"})
	w := newWorld(t, treeBlock(dir))
	out, in := []string{"--data", w.path(outside)}, []string{"--data", w.path(inside)}
	w.fails(exitConfig, "H-214", append(out, "pack", "--to", w.path("media"))...)
	if _, err := os.Stat(w.path("media")); err == nil {
		t.Error("a refused pack left a directory behind")
	}
	w.fails(exitConfig, "H-208", append(out, "pack", "--to", w.path("none", "media"))...)
	w.fails(exitConfig, "H-217", append(in, "client", "tools")...)
	w.fails(exitConfig, "H-218", append(out, "scan", "--test")...)
	w.fails(exitConfig, "H-211", append(in, "publish", "tools", "--ring", "foo")...)
	w.fails(exitConfig, "H-205", append(in, "publish", "nix")...)
	w.fails(exitConfig, "H-208", append(out, "order", "trust", "--reason", "x", "--anchor", w.path("none.asc"))...)
	for _, c := range [][]string{{"--need", "x/none.txt"}, {"--urgent"}} {
		w.fails(exitConfig, "H-2", append(append(out, "pack", "--to", w.path("media")), c...)...)
	}
	if said := w.inside("publish"); !strings.Contains(said, "新しく公開するものはありません") {
		t.Errorf("publish says %q", said)
	}
	if said := w.outside("status"); strings.Contains(said, "確認手段なし") {
		t.Errorf("nothing was fetched, and status judges it:\n%s", said)
	}
	if said := newWorld(t, "").outside("fetch"); !strings.Contains(said, "取得する更新対象がありません") {
		t.Errorf("fetch says %q", said)
	}
}

// A port in use is not a configuration that cannot be understood, and a second
// service on one data directory does not start.
func TestServedAlready(t *testing.T) {
	w := newWorld(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	setLine(t, w.path(inside, "hashike.toml"), `addr = "127.0.0.1:0"`, `addr = "`+l.Addr().String()+`"`)
	w.fails(exitConfig, "H-215", "--data", w.path(inside), "serve")
	err = state.At(state.Dir(w.path(outside)), "test").Lock(t.Context(), "run", func(context.Context) error {
		w.fails(exitMachine, "H-226", "--data", w.path(outside), "run")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
