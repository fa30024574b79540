package main

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// --return writes on the medium that was just judged and counts, and on nothing else.
func TestNoReturnFileOnWhatWasRefused(t *testing.T) {
	w, next := twoFeeds(t)
	w.unapproved = false
	in := []string{"--data", w.path(inside)}
	w.pack()
	w.inside("import", w.path("media"))
	copyDir(t, w.path("media"), w.path("old"))
	copyDir(t, w.path("media"), w.path("tampered"))
	if err := os.MkdirAll(w.path("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(w.path("tampered", "set.json"))
	if err == nil {
		err = os.WriteFile(w.path("tampered", "set.json"), []byte(strings.Replace(string(raw), `"number":1`, `"number":2`, 1)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	refused := func(exit int, code, dir string) {
		t.Helper()
		before := tree(t, w.path(dir))
		w.fails(exit, code, append(in, "import", w.path(dir), "--return")...)
		if tree(t, w.path(dir)) != before {
			t.Errorf("%s was written on", dir)
		}
	}
	refused(exitUntrusted, "H-501", "tampered")
	refused(exitConfig, "H-213", "empty")
	next()
	w.pack()
	w.inside("import", w.path("media"))
	refused(exitUntrusted, "H-503", "old") // no longer the bundle that counts
	// An image takes none, in its own words, and the carry is not used up.
	w.outside("pack", "--to", w.path("images"), "--iso", "--clock-checked", "test data of 2021")
	refused(exitHeld, "H-656", "images")
	w.outside("pack", "--to", w.path("last"), "--clock-checked", "test data of 2021")
	// Of two media named, the one that was believed gets it.
	w.inside("import", w.path("old"), w.path("last"), "--return")
	if _, err := os.Stat(w.path("last", "hashike-return.txt")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(w.path("old", "hashike-return.txt")); err == nil {
		t.Error("it is on the other medium")
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// The name of a foreign file is shown and does nothing.
func TestForeignNamesAreShownAsText(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no such names there")
	}
	w, _ := twoFeeds(t)
	w.pack()
	if err := os.WriteFile(w.path("media", "x\x1b[2J\n検証しました\u202e"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := w.inside("import", w.path("media"), "--approved-by", "課長")
	if strings.ContainsAny(out, "\x1b\u202e") || !strings.Contains(out, `x\x1b[2J\n検証しました\u202e`) {
		t.Errorf("%q", out)
	}
}
