package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// By command: the dry run, and damage beyond parity: the need list typed
// outside brings what lacks.
func TestNeedListByCommand(t *testing.T) {
	dir, key := signedTree(t, map[string]string{"a": strings.Repeat("a", 3<<20), "b": strings.Repeat("b", 4<<20), "c": strings.Repeat("c", 5<<20)})
	w := newWorld(t, treeBlock(dir))
	roots, err := filepath.Glob(w.path("envelopes", "*.txt"))
	if err != nil || len(roots) != 3 {
		t.Fatal(roots, err)
	}
	w.ok("", "--data", w.path(outside), "order", "trust", "--feed", "tools", "--anchor", key, "--reason", "試験", "--approver", "課長",
		"--root-key", roots[0], "--root-key", roots[2])
	w.outside("fetch")
	if out := w.outside("pack", "--to", w.path("m"), "--clock-checked", "test", "--dry-run"); !strings.Contains(out, "媒体 1枚") {
		t.Errorf("the dry run says\n%s", out)
	}
	w.outside("pack", "--to", w.path("m"), "--clock-checked", "test", "--parity", "0")
	spoilt := 0
	err = filepath.WalkDir(w.path("m", "blobs"), func(p string, d os.DirEntry, err error) error {
		if st, serr := os.Stat(p); serr == nil && st.Size() == 4<<20 {
			spoilt++
			return os.WriteFile(p, make([]byte, st.Size()), 0o644)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, errs, code := w.run("", "--data", w.path(inside), "import", w.path("m"))
	if spoilt != 1 || code != exitDamaged {
		t.Fatalf("%d spoilt, exit %d\n%s%s", spoilt, code, out, errs)
	}
	list := regexp.MustCompile(`(?m)^  ([0-9A-Z]{4}( [0-9A-Z]{1,4})+)$`).FindStringSubmatch(out)
	if list == nil || !strings.Contains(out, "不足一覧") {
		t.Fatalf("no need list:\n%s", out)
	}
	if got := w.inside("need"); !strings.Contains(got, list[1]) {
		t.Errorf("need says\n%s", got)
	}
	w.outside("pack", "--to", w.path("repair"), "--clock-checked", "test", "--need", list[1])
	w.inside("import", w.path("repair"))
	if got := w.inside("need"); !strings.Contains(got, "不足はありません") {
		t.Errorf("afterwards need says\n%s", got)
	}
}
