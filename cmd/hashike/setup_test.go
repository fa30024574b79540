package main

import (
	"os"
	"strings"
	"testing"
)

// A set-up medium that is not there is said before 40 digits are typed, and
// nothing is left behind.
func TestInitLooksForTheMediumFirst(t *testing.T) {
	w := newWorld(t, "")
	for name, make := range map[string]func(string) error{
		"missing": func(string) error { return nil },
		"empty":   func(p string) error { return os.Mkdir(p, 0o755) },
		"photos": func(p string) error {
			if err := os.Mkdir(p, 0o755); err != nil {
				return err
			}
			return os.WriteFile(p+"/hashike-setup.json", []byte("no"), 0o644)
		},
	} {
		if err := make(w.path(name)); err != nil {
			t.Fatal(err)
		}
		w.fails(exitConfig, "H-213", "--data", w.path("new"), "init", "--side", inside, "--pair", w.path(name))
		if _, err := os.Stat(w.path("new")); err == nil {
			t.Errorf("%s: left a directory behind", name)
		}
	}
}

// What is no medium of ours is not called a damaged one.
func TestWrongMedium(t *testing.T) {
	w := newWorld(t, "")
	if err := os.MkdirAll(w.path("stick", "DCIM"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path("stick", "DCIM", "1.jpg"), []byte("a photo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{w.path("missing"), w.path("stick"), w.path(outside, "outbox", "setup-1")} {
		said := w.fails(exitConfig, "H-213", "--data", w.path(inside), "import", dir)
		if !strings.Contains(said, dir) || !strings.Contains(said, "何も読まず") {
			t.Errorf("%s:\n%s", dir, said)
		}
		w.fails(exitConfig, "H-213", "--data", w.path(outside), "approve", dir, "--key", "none")
		w.fails(exitConfig, "H-213", "--data", w.path(outside), "receipt", "enter", "--from", dir)
	}
}
