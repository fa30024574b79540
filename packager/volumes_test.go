package packager_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hashike/hashike/packager"
)

// volumes packs onto small volumes in dir/volume-1, ….
func (w *world) volumes(dir string, size int64, parity int, feeds ...packager.Carry) packager.Report {
	w.t.Helper()
	w.now = w.now.Add(time.Hour)
	o := packager.Tiny(w.options(dir, feeds...), size)
	o.Parity = parity
	return must(packager.Pack(context.Background(), o))(w.t)
}

func large(tag string, n, size int) files {
	f := files{}
	for i := range n {
		f[fmt.Sprintf("%s/large%d", tag, i)] = random(size + i)
		f[fmt.Sprintf("%s/small%d", tag, i)] = random(1000 + i)
	}
	return f
}

func dirSize(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, f := range mediumFiles(t, dir) {
		n += must(os.Stat(filepath.Join(dir, f)))(t).Size()
	}
	return n
}

func TestVolumesInAnyOrderOverSessions(t *testing.T) {
	w := newWorldIn(t, memory(t))
	a, b := w.snapshot("alpha", large("a", 3, 5<<20)), w.snapshot("beta", large("b", 2, 3<<20))
	dir := filepath.Join(memory(t), "m")
	r := w.volumes(dir, 8<<20, 0, a, b)
	if r.Volumes != 3 || len(r.Dirs) != 3 {
		t.Fatalf("%d volumes of 8 MiB for 21 MiB: %v", r.Volumes, r.Dirs)
	}
	for i, d := range r.Dirs {
		if n := dirSize(t, d); n > 8<<20 {
			t.Errorf("volume %d has %d bytes", i+1, n)
		}
		readme := string(must(os.ReadFile(filepath.Join(d, "README.txt")))(t))
		if !strings.Contains(readme, fmt.Sprintf("volume %d of 3", i+1)) || !strings.Contains(readme, fmt.Sprintf("3枚中%d枚目", i+1)) {
			t.Errorf("volume %d says %s", i+1, readme)
		}
	}
	got, _, err := w.take(r.Dirs[2])
	ok(t, err)
	if !slices.Equal(got.Needed, []int{1, 2}) || got.Of != 3 {
		t.Errorf("after volume 3: needed %v of %d", got.Needed, got.Of)
	}
	// The same once more changes nothing.
	if got, _, err = w.take(r.Dirs[2]); err != nil || !slices.Equal(got.Needed, []int{1, 2}) || got.Blobs+got.Pieces != 0 {
		t.Errorf("the same volume twice: %+v %v", got, err)
	}
	if got = w.sessions(r.Dirs[0]); !slices.Equal(got.Needed, []int{2}) {
		t.Errorf("after volumes 3 and 1: needed %v", got.Needed)
	}
	if got = w.sessions(r.Dirs[1]); got.Left != 0 || len(got.Needed) != 0 {
		t.Errorf("after all: %+v", got)
	}
	w.holds(a)
	w.holds(b)
	w.sound()
	// The directory above all volumes does as well.
	w.reset()
	if got = w.sessions(dir); got.Left != 0 {
		t.Errorf("all at once: %+v", got)
	}
	w.holds(a)
}

func TestVolumesOfAnOlderRunAreLeftAlone(t *testing.T) {
	w := newWorldIn(t, memory(t))
	dir := filepath.Join(memory(t), "m")
	old := w.volumes(dir, 8<<20, 0, w.snapshot("alpha", large("a", 4, 5<<20)))
	stale := copyTree(t, old.Dirs[1])
	a := w.snapshot("alpha", large("b", 3, 4<<20))
	r := w.volumes(dir, 8<<20, 0, a)
	if r.Volumes >= old.Volumes {
		t.Fatalf("%d volumes after %d", r.Volumes, old.Volumes)
	}
	for n := r.Volumes + 1; n <= old.Volumes; n++ {
		if _, err := os.Stat(old.Dirs[n-1]); err == nil {
			t.Errorf("%s of the older run is still there", old.Dirs[n-1])
		}
	}
	b := must(w.open(append([]string{stale}, r.Dirs...)...))(t)
	i := b.Info()
	b.Close()
	if i.Set.Number != r.Number || !slices.Equal(i.Other, []string{stale}) {
		t.Errorf("opened %d, others %v", i.Set.Number, i.Other)
	}
	w.sessions(r.Dirs...)
	w.holds(a)
}

// Several media, each a volume of its own.
func TestOneVolumePerMedium(t *testing.T) {
	w := newWorldIn(t, memory(t))
	base := memory(t)
	a := w.snapshot("alpha", large("a", 3, 5<<20))
	o := packager.Tiny(w.options(filepath.Join(base, "x"), a), 10<<20)
	o.More = []string{filepath.Join(base, "y"), filepath.Join(base, "z")}
	r := must(packager.Pack(context.Background(), o))(t)
	if !slices.Equal(r.Dirs, []string{o.To, o.More[0]}) {
		t.Errorf("volumes in %v", r.Dirs)
	}
	w.sessions(o.More[0], o.To)
	w.holds(a)
	o.More = nil
	o.VolumeSize = 1 << 20
	if _, err := packager.Pack(context.Background(), o); code(err) != "H-801" {
		t.Errorf("a volume too small: %v", err)
	}
}

// Whatever the sizes, the order and the repetitions: the inside ends whole,
// every volume keeps its limit, and what is needed is named exactly.
func TestVolumesProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorldIn(t, memory(t))
		f := files{}
		for i := range rapid.IntRange(1, 12).Draw(rt, "files") {
			f[fmt.Sprint("f", i)] = random(rapid.SampledFrom([]int{0, 1, 700, 1 << 20, 1<<20 - 1, 3 << 20, 2<<20 + 5}).Draw(rt, "size"))
		}
		a := w.snapshot("alpha", f)
		size := int64(rapid.IntRange(4, 12).Draw(rt, "volume")) << 20
		r := w.volumes(filepath.Join(memory(t), "m"), size, rapid.SampledFrom([]int{0, 10, 50}).Draw(rt, "parity"), a)
		for _, d := range r.Dirs {
			if n := dirSize(t, d); n > size {
				rt.Fatalf("%s has %d bytes", d, n)
			}
		}
		order := rapid.Permutation(r.Dirs).Draw(rt, "order")
		seen := map[string]bool{}
		for _, d := range append(order, order[0]) {
			got, _, err := w.take(d)
			if err != nil {
				rt.Fatal(err)
			}
			seen[d] = true
			for _, n := range got.Needed {
				if seen[r.Dirs[n-1]] {
					rt.Fatalf("volume %d is needed although it was there", n)
				}
			}
			if (got.Left == 0) != (len(got.Needed) == 0) && len(seen) == len(r.Dirs) {
				rt.Fatalf("%+v", got)
			}
		}
		w.holds(a)
		w.sound()
	})
}

// A stick that drops what is beyond its true size, or gives back zeros, or a
// file cut short: the read-back says so and leaves nothing to be carried.
func TestReadBackFindsFakeMedia(t *testing.T) {
	for name, spoil := range map[string]func(path string, size int64) error{
		"zeros":   func(p string, n int64) error { return os.WriteFile(p, make([]byte, n), 0o644) },
		"short":   func(p string, n int64) error { return os.Truncate(p, n-1) },
		"dropped": func(p string, _ int64) error { return os.Remove(p) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldIn(t, memory(t))
			a := w.snapshot("alpha", large("a", 3, 2<<20))
			o := packager.Tiny(w.options(filepath.Join(memory(t), "m"), a), 5<<20)
			o.Parity = 10
			o = packager.Before(o, func(dirs []string) {
				last := packager.Layers(t, dirs[1])
				l := last[len(last)-1]
				ok(t, spoil(filepath.Join(dirs[1], "blobs/sha256", l.Hex), l.Size))
			})
			_, err := packager.Pack(context.Background(), o)
			wantCode(t, err, "H-805")
			if _, err := w.open(o.To); err == nil {
				t.Error("it can be opened")
			}
			if must(packager.MadeAs(w.outDB, 1))(t) {
				t.Error("it may become a base")
			}
		})
	}
}

func TestPreflightIsWhatPackDoes(t *testing.T) {
	w := newWorldIn(t, memory(t))
	a := w.snapshot("alpha", large("a", 4, 3<<20))
	o := packager.Tiny(w.options(filepath.Join(memory(t), "m"), a), 6<<20)
	o.Parity = 10
	e := must(packager.Preflight(context.Background(), o))(t)
	if _, err := os.Stat(o.To); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dry run made %s: %v", o.To, err)
	}
	r := must(packager.Pack(context.Background(), o))(t)
	if r.Number != 1 || e.Volumes != r.Volumes || e.Blobs != r.Blobs || e.BlobBytes != r.BlobBytes || e.Cover != r.Cover {
		t.Errorf("said %+v, did %+v", e, r)
	}
	for i, d := range r.Dirs {
		if n := dirSize(t, d); n > e.PerVolume[i] {
			t.Errorf("volume %d has %d bytes, said were %d", i+1, n, e.PerVolume[i])
		}
	}
	if m := (packager.Estimate{Bytes: 30_000_000 * 60}).Minutes(30_000_000); m != 2 {
		t.Errorf("%d minutes to write and read a minute's bytes", m)
	}
}
