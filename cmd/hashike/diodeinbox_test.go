package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Received folders go only after their import, the oldest import first; what
// was refused and what a person put there stays.
func TestOnlyImportedFoldersLeaveTheInbox(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.outside("fetch")
	w.pack()
	setLine(t, w.path(inside, "hashike.toml"), `keep = 5`, `keep = 2`)
	inbox := w.path(inside, "inbox")
	folder := func(n int) string { return filepath.Join(inbox, fmt.Sprintf("diode-%032x", n)) }
	kept := []string{folder(0xbad), filepath.Join(inbox, "diode-by-hand")}
	for _, dir := range kept { // a bundle that cannot be read, and a person's own folder
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(kept[0], "index.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		if err := os.CopyFS(folder(n), os.DirFS(w.path("media"))); err != nil {
			t.Fatal(err)
		}
	}
	errs := discard()
	s, err := testApp(t, w.path(inside), errs).open("run", inside)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.watchInbox(ctx, 50*time.Millisecond); close(done) }()
	defer func() { cancel(); <-done }()
	var left []string
	for range 300 {
		left, _ = filepath.Glob(filepath.Join(inbox, "diode-*"))
		if len(left) <= 2+len(kept) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(left) != 2+len(kept) {
		t.Fatalf("in the inbox: %s\n%s", strings.Join(left, "\n"), errs)
	}
	for _, dir := range kept {
		if !slices.Contains(left, dir) {
			t.Errorf("%s is gone", dir)
		}
	}
	if w.serial(inside, "clamav-test") != w.serial(outside, "clamav-test") {
		t.Error("nothing was imported")
	}
}
