package packager_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// beside lists the files of a volume that only third parties and people read:
// damage there costs nothing.
func beside(t *testing.T, dir string) []string {
	names := []string{"README.txt", "oci-layout", "index.json"}
	var index v1.IndexManifest
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "index.json")))(t), &index))
	for _, d := range index.Manifests {
		var m v1.Manifest
		name := "blobs/sha256/" + d.Digest.Hex
		ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, name)))(t), &m))
		names = append(names, name, "blobs/sha256/"+m.Config.Digest.Hex)
	}
	return names
}

func scratch(t *testing.T, dir, name string) {
	path := filepath.Join(dir, name)
	b := must(os.ReadFile(path))(t)
	b[len(b)/2] ^= 1
	ok(t, os.WriteFile(path, b, 0o644))
}

// wornOnly imports and wants exactly these files named, as harmless.
func (w *world) wornOnly(t *testing.T, want []string, dirs ...string) {
	t.Helper()
	got, damaged, err := w.take(dirs...)
	ok(t, err)
	if got.Left != 0 || len(got.Needed) != 0 {
		t.Errorf("%+v", got)
	}
	var names []string
	for _, d := range damaged {
		names = append(names, d.File)
		if !d.Repaired || d.Volume == 0 || d.Reason == "" {
			t.Errorf("%+v", d)
		}
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("named %v, damaged are %v", names, want)
	}
	w.sound()
}

// What surrounds the payload is there for people and other programs: an inside
// goes on by the blob map, names the damage and needs nothing again.
func TestDamageBesideThePayload(t *testing.T) {
	w := newWorldIn(t, memory(t))
	a := w.snapshot("alpha", large("a", 2, 2<<20))
	d, _ := w.pack(a)
	names := beside(t, d)
	all := strings.Join(names, " ")
	for _, only := range append(names, all) {
		w.reset()
		bad := copyTree(t, d)
		list := strings.Fields(only)
		for _, n := range list {
			scratch(t, bad, n)
		}
		if only == all {
			list = list[:3] // without the index nobody knows the manifests
		}
		w.wornOnly(t, list, bad)
		w.holds(a)
	}
	for _, n := range []string{"README.txt", "oci-layout", names[3]} { // lost, not scratched
		w.reset()
		bad := copyTree(t, d)
		ok(t, os.Remove(filepath.Join(bad, n)))
		w.wornOnly(t, []string{n}, bad)
	}
	// A writer that found damage takes every index away: that is no bundle.
	w.reset()
	ok(t, os.Remove(filepath.Join(d, "index.json")))
	_, err := w.open(d)
	wantCode(t, err, "H-701")
}

// Metadata and tables lie on every volume: one good copy is enough, and of
// tables each may be another volume's.
func TestDamagedCopiesOnSeveralMedia(t *testing.T) {
	w := newWorldIn(t, memory(t))
	a := w.snapshot("alpha", large("a", 3, 5<<20))
	r := w.volumes(filepath.Join(memory(t), "m"), 8<<20, 0, a)
	if len(r.Dirs) < 2 {
		t.Fatal(r.Dirs)
	}
	bad := filepath.Join(memory(t), "bad")
	ok(t, os.CopyFS(bad, os.DirFS(filepath.Dir(r.Dirs[0]))))
	first, last := filepath.Join(bad, filepath.Base(r.Dirs[0])), filepath.Join(bad, filepath.Base(r.Dirs[len(r.Dirs)-1]))
	names := []string{"tuf/timestamp.json", "orders.jsonl", "tables/feeds.jsonl.zst", "tables/blocks.bin", "index.json", "README.txt"}
	ok(t, os.WriteFile(filepath.Join(first, "orders.jsonl"), []byte("x"), 0o644)) // it was empty
	for _, n := range names {
		if n != "orders.jsonl" {
			scratch(t, first, n)
		}
	}
	scratch(t, last, "tables/blobs.jsonl.zst")
	w.wornOnly(t, append(names, "tables/blobs.jsonl.zst"), bad)
	w.holds(a)
	// No good copy of one table left.
	w.reset()
	for _, d := range r.Dirs {
		scratch(t, filepath.Join(bad, filepath.Base(d)), "tables/volumes.jsonl")
	}
	_, err := w.open(bad)
	wantCode(t, err, "H-701")
}
