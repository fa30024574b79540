package main

import (
	"os"
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
		exit := exitConfig
		if name == "photos" {
			exit = exitDamaged
		}
		w.fails(exit, "H-213", "--data", w.path("new"), "init", "--side", inside, "--pair", w.path(name))
		if _, err := os.Stat(w.path("new")); err == nil {
			t.Errorf("%s: left a directory behind", name)
		}
	}
}
