package packager_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashike/hashike/packager"
)

// A set that nobody signed, whatever version it claims, keeps no genuine
// medium beside it from being read.
func TestAForgedSetBesideAGenuineOne(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("a"))
	dir, r := w.pack(a)
	fake := t.TempDir()
	for i, change := range []func(string){
		func(string) {}, // set.json alone
		func(to string) { ok(t, os.CopyFS(filepath.Join(to, "tuf"), os.DirFS(filepath.Join(dir, "tuf")))) },
	} {
		to := filepath.Join(fake, fmt.Sprint(i))
		ok(t, os.Mkdir(to, 0o755))
		change(to)
		set := string(must(os.ReadFile(filepath.Join(dir, "set.json")))(t))
		forged := packager.EditSet(t, []byte(set), func(s *packager.Set) { s.Version += 1000; s.Number = 99 })
		ok(t, os.WriteFile(filepath.Join(to, "set.json"), forged, 0o644))
		for _, dirs := range [][]string{{dir, to}, {to, dir}} {
			b := must(w.open(dirs...))(t)
			info := b.Info()
			b.Close()
			if info.Set.Number != r.Number || !slices.Equal(info.Other, []string{to}) || len(info.Refused) != 1 {
				t.Errorf("%d %v: opened bundle %d, others %v, refused %v", i, dirs, info.Set.Number, info.Other, info.Refused)
			}
		}
		if _, err := w.open(to); err == nil {
			t.Error("the forged set alone is believed")
		}
	}
	w.sessions(dir)
	w.holds(a)
}

// Images that lie beside ours in a directory need not be ours.
func TestForeignImagesBesideOurs(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("a"))
	dir, r := w.pack(a)
	images, empty := t.TempDir(), t.TempDir()
	ok(t, os.WriteFile(filepath.Join(empty, "readme"), []byte("x"), 0o644))
	must(packager.WriteISO(t.Context(), dir, filepath.Join(images, "m.iso"), r.Number, 1, r.Created))(t)
	must(packager.WriteISO(t.Context(), empty, filepath.Join(images, "another.iso"), 7, 1, r.Created))(t)
	ok(t, os.WriteFile(filepath.Join(images, "windows.iso"), random(4096), 0o644))
	b := must(w.open(images))(t)
	info := b.Info()
	b.Close()
	want := []string{filepath.Join(images, "another.iso"), filepath.Join(images, "windows.iso")}
	if info.Set.Number != r.Number || !slices.Equal(info.Other, want) {
		t.Errorf("opened %d, others %v", info.Set.Number, info.Other)
	}
	// Named, or with nothing of ours beside it, it is the error it was.
	_, err := w.open(filepath.Join(images, "windows.iso"))
	wantCode(t, err, "H-701")
	ok(t, os.Remove(filepath.Join(images, "m.iso")))
	_, err = w.open(images)
	wantCode(t, err, "H-213")
}
