package main

import (
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"log/slog"
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
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	w := newWorld(t, "")
	if err := os.Chmod(w.path(outside), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(w.path(outside), 0o700)
	w.fails(exitMachine, "H-821", "--data", w.path(outside), "status")
}

func TestLogTimesAreJST(t *testing.T) {
	at := slog.Time(slog.TimeKey, time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC))
	if got := inJST(nil, at).Value.String(); got != "2026-11-23T01:00:00+09:00" {
		t.Error(got)
	}
}
