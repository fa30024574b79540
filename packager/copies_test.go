package packager_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashike/hashike/packager"
)

// spoilFile changes one byte in the middle of a container.
func spoilFile(t testing.TB, dir string, l packager.Layer) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "blobs/sha256", l.Hex), os.O_RDWR, 0)
	ok(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], l.Size/2)
	ok(t, err)
	_, err = f.WriteAt([]byte{b[0] ^ 1}, l.Size/2)
	ok(t, err)
}

// The same volume on two media, each damaged where the other is not: whatever
// the order in which they are named, everything is there.
func TestAGoodCopyIsFound(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", large("a", 3, 3<<20))
	r := w.volumes(filepath.Join(t.TempDir(), "m"), 40<<20, 0, a)
	x, y := r.Dirs[0], copyTree(t, r.Dirs[0])
	all := packager.Layers(t, x)
	for i, l := range all {
		spoilFile(t, []string{x, y}[i%2], l)
	}
	for _, dirs := range [][]string{{x, y}, {y, x}} {
		w.reset()
		got, damaged, err := w.take(dirs...)
		ok(t, err)
		if got.Left != 0 || len(got.Needed) != 0 {
			t.Errorf("%v: %+v", dirs, got)
		}
		if len(damaged) == 0 || slices.ContainsFunc(damaged, func(d packager.Damage) bool { return !d.Repaired }) {
			t.Errorf("damage that the other copy made good: %+v", damaged)
		}
		w.holds(a)
		w.sound()
	}
	// Damaged on both it is damage, named once.
	w.reset()
	last := all[len(all)-1]
	spoilFile(t, []string{y, x}[(len(all)-1)%2], last) // the other has it already
	got, damaged, err := w.take(x, y)
	ok(t, err)
	bad := slices.DeleteFunc(damaged, func(d packager.Damage) bool { return d.Repaired })
	if got.Left == 0 || len(bad) != 1 {
		t.Errorf("%+v %+v", got, damaged)
	}
}

// Parity takes each block from the copy that has it.
func TestParityReadsEveryCopy(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", files{"one": random(12 << 20), "two": random(9 << 20)})
	r := w.volumes(filepath.Join(t.TempDir(), "m"), 40<<20, 10, a)
	x, y := r.Dirs[0], copyTree(t, r.Dirs[0])
	for i, dir := range []string{x, y} {
		data, _ := streams(t, []string{dir})
		for n := int64(i); n<<20 < data.size; n += 2 { // far more than parity alone repairs
			data.damage(n<<20+1000, 8)
		}
	}
	got, damaged, err := w.take(x, y)
	ok(t, err)
	if got.Left != 0 {
		t.Errorf("%+v %+v", got, damaged)
	}
	w.holds(a)
	w.sound()
}

// A bundle that waits keeps the good copy of each document.
func TestAPendingBundleKeepsGoodDocuments(t *testing.T) {
	w := newWorld(t)
	must2(t)(w.take(must1(w.pack(w.snapshot("alpha", sample("1"))))))
	key, _ := w.enrol()
	a := w.snapshot("alpha", sample("2"))
	x, r := w.pack(a)
	y := copyTree(t, x)
	for i, l := range packager.Layers(t, x) {
		if l.Type == "application/vnd.hashike.document.v1+jsonl+zstd" {
			spoilFile(t, []string{x, y}[i%2], l)
		}
	}
	_, _, err := w.take(x, y)
	wantCode(t, err, "H-661")
	_, damaged, err := w.take(onto(t, r.Number, w.approve(x, key)))
	ok(t, err)
	if len(damaged) != 0 {
		t.Errorf("%+v", damaged)
	}
	w.holds(a)
}

func must1[T, U any](v T, _ U) T { return v }
