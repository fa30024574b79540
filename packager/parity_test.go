package packager_test

import (
	"context"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashike/hashike/packager"
)

// blocks of a bundle's stream, found without the packager: where each byte
// lies on the media.
type stream struct {
	t     testing.TB
	parts []piece // in order; parity is a stream of its own
	size  int64
}

type piece struct {
	path     string
	at, size int64
}

// damage overwrites n bytes of the stream at off.
func (s *stream) damage(off, n int64) {
	s.t.Helper()
	for _, p := range s.parts {
		from, to := max(off, p.at), min(off+n, p.at+p.size)
		if from >= to {
			continue
		}
		f, err := os.OpenFile(p.path, os.O_WRONLY, 0)
		ok(s.t, err)
		_, err = f.WriteAt(random(int(to-from)), from-p.at)
		ok(s.t, err)
		ok(s.t, f.Close())
	}
}

// streams reads the layers of all volumes, in order: data and parity.
func streams(t testing.TB, dirs []string) (data, parity *stream) {
	data, parity = &stream{t: t}, &stream{t: t}
	for _, dir := range dirs {
		for _, l := range packager.Layers(t, dir) {
			s := data
			if l.Type == "application/vnd.hashike.parity.v1" {
				s = parity
			}
			s.parts = append(s.parts, piece{filepath.Join(dir, "blobs/sha256", l.Hex), s.size, l.Size})
			s.size += l.Size
		}
	}
	return data, parity
}

// restore puts undamaged copies back.
func restore(t testing.TB, good, dir string) {
	t.Helper()
	ok(t, os.RemoveAll(dir))
	ok(t, os.CopyFS(dir, os.DirFS(good)))
}

// Any damage inside the guarantee is repaired: P whole blocks anywhere, or B
// runs of at most (P−B)·G blocks, over data and parity.
func TestDamageInsideTheGuaranteeIsRepaired(t *testing.T) {
	patterns := 30
	if os.Getenv("HASHIKE_CI") == "1" {
		patterns = 250
	}
	if n, err := strconv.Atoi(os.Getenv("HASHIKE_PATTERNS")); err == nil { // bench/run damage
		patterns = n
	}
	w := newWorldIn(t, memory(t))
	a := w.snapshot("alpha", large("a", 9, 5<<18))
	good := filepath.Join(memory(t), "good")
	r := w.volumes(good, 8<<20, 50, a)
	b := must(w.open(r.Dirs...))(t)
	set := b.Info().Set
	b.Close()
	k, p, g := set.Parity.Data, set.Parity.Parity, set.Parity.Groups
	n := (set.Bytes + 1<<20 - 1) >> 20
	if r.Volumes < 2 || p < 3 || g < 2 || k != (n+g-1)/g {
		t.Fatalf("%d volumes, %d blocks, parity %+v", r.Volumes, n, set.Parity)
	}
	rnd := mrand.New(mrand.NewPCG(1, 2))
	dir := filepath.Join(memory(t), "bad")
	for i := range patterns {
		restore(t, good, dir)
		var dirs []string
		for v := range r.Volumes {
			dirs = append(dirs, filepath.Join(dir, fmt.Sprint("volume-", v+1)))
		}
		data, parity := streams(t, dirs)
		at := func(block int64) {
			if block < n {
				data.damage(block<<20+rnd.Int64N(min(1<<20, data.size-block<<20)), 1)
			} else {
				parity.damage((block-n)<<20+rnd.Int64N(1<<20), 1)
			}
		}
		if i%2 == 0 {
			for range p {
				at(rnd.Int64N(n + g*p))
			}
		} else {
			runs := 1 + rnd.Int64N(p-1)
			for left := (p - runs) * g; left > 0 && runs > 0; runs-- {
				l := left
				if runs > 1 {
					l = 1 + rnd.Int64N(left)
				}
				left -= l
				from := rnd.Int64N(n + g*p - l + 1)
				for q := range l {
					if from < n && from+q >= n {
						break // the two streams are two runs
					}
					at(from + q)
				}
			}
		}
		w.reset()
		order := rnd.Perm(len(dirs))
		got, damaged, err := w.take(slices.Collect(func(yield func(string) bool) {
			for _, o := range order {
				if !yield(dirs[o]) {
					return
				}
			}
		})...)
		if err != nil || got.Left != 0 {
			t.Fatalf("pattern %d: %+v %v %v", i, got, damaged, err)
		}
		for _, d := range damaged {
			if !d.Repaired {
				t.Errorf("pattern %d: %v", i, d)
			}
		}
		w.holds(a)
	}
	w.sound()
}

// A whole volume lost: pack says what covers it, and then any one may be lost.
func TestLostVolume(t *testing.T) {
	w := newWorldIn(t, memory(t))
	a, b := w.snapshot("alpha", large("a", 3, 5<<20)), w.snapshot("beta", large("b", 2, 3<<20))
	r := w.volumes(filepath.Join(memory(t), "m"), 12<<20, 10, a, b)
	if r.Covered || r.CoverPercent < 20 {
		t.Fatalf("10 %%: %+v", r.Cover)
	}
	percent, volumes := r.CoverPercent, r.CoverVolumes
	r = w.volumes(filepath.Join(memory(t), "m"), 12<<20, percent, a, b)
	if !r.Covered || r.Volumes != volumes {
		t.Fatalf("%d %%: %+v on %d volumes", percent, r.Cover, r.Volumes)
	}
	for lost := range r.Dirs {
		w.reset()
		dirs := slices.Delete(slices.Clone(r.Dirs), lost, lost+1)
		got, damaged, err := w.take(dirs...)
		if err != nil || got.Left != 0 || len(got.Needed) != 0 || len(damaged) != 0 || got.Blocks == 0 {
			t.Errorf("without volume %d: %+v %v %v", lost+1, got, damaged, err)
		}
		w.holds(a)
		w.holds(b)
	}
	// One below it says that it does not cover.
	if r = w.volumes(filepath.Join(memory(t), "m"), 12<<20, percent-1, a, b); r.Covered {
		t.Errorf("%d %% is said to cover too", percent-1)
	}
}

// Beyond the guarantee every good blob is kept.
func TestBeyondParityKeepsWhatIsGood(t *testing.T) {
	w := newWorldIn(t, memory(t))
	f := large("a", 5, 3<<20)
	a := w.snapshot("alpha", f)
	o := w.options(filepath.Join(memory(t), "m"), a)
	o.Parity = 10
	r := must(packager.Pack(context.Background(), o))(t)
	data, _ := streams(t, r.Dirs)
	spoilt := map[string]bool{}
	for _, p := range data.parts {
		if p.size >= 3<<20 && len(spoilt) < 3 {
			spoilt[filepath.Base(p.path)] = true
			data.damage(p.at+100, 3<<20-200)
		}
	}
	got, damaged, err := w.take(r.Dirs...)
	ok(t, err)
	if got.Left != 3 || len(damaged) != 3 || got.Blobs != 7 {
		t.Errorf("%+v, damaged %v", got, damaged)
	}
	for p, err := range a.Snapshot.Artifacts() {
		ok(t, err)
		if _, have := w.inCAS.Stat(p.Digest); have == spoilt[p.Digest.Hex()] {
			t.Errorf("%s: held %v", p.Path, have)
		}
	}
	w.sound()
	w.now = w.now.Add(time.Minute)
}
