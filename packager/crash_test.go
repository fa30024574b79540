//go:build crashtest

package packager_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// TestCrashChild is the process that dies: it packs what the environment names.
func TestCrashChild(t *testing.T) {
	out, to := os.Getenv("HASHIKE_TEST_OUT"), os.Getenv("HASHIKE_TEST_MEDIUM")
	if out == "" {
		t.Skip("only run by TestKilledPack")
	}
	sec, err := strconv.ParseInt(os.Getenv("HASHIKE_TEST_NOW"), 10, 64)
	ok(t, err)
	w := &world{t: t, out: state.Dir(out), outDB: state.At(state.Dir(out), "test"), now: time.Unix(sec, 0)}
	w.outCAS = must(cas.Open(out, w.clock))(t)
	s := must(w.outCAS.Snapshot("alpha", 2))(t)
	_, err = packager.Pack(context.Background(), w.options(to, packager.Carry{Snapshot: s, Evidence: w.out.Evidence("alpha", 2, "outside")}))
	ok(t, err)
}

// Killed at every durable step of packing over an older bundle: the medium
// holds the old one whole, the new one whole, or none that opens; the number
// is never used for two sets, and the next run succeeds.
func TestKilledPack(t *testing.T) {
	w := newWorldIn(t, memory(t))
	medium := filepath.Join(memory(t), "m")
	a1 := w.snapshot("alpha", files{"a": []byte("1"), "l": random(1 << 20)})
	must(packager.Pack(context.Background(), w.options(medium, a1)))(t)
	a2 := w.snapshot("alpha", files{"a": []byte("2"), "l": random(1 << 20)})
	w.now = w.now.Add(time.Hour)
	w.outCAS.Close()
	sets := map[uint64]feed.Digest{} // by number, ever seen on a medium
	died := 0
	for at := 1; ; at++ {
		dir := memory(t)
		out, to := filepath.Join(dir, "out"), filepath.Join(dir, "m")
		ok(t, os.CopyFS(out, os.DirFS(string(w.out))))
		ok(t, os.CopyFS(to, os.DirFS(medium)))
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1")
		cmd.Env = append(os.Environ(), "HASHIKE_TEST_OUT="+out, "HASHIKE_TEST_MEDIUM="+to,
			"HASHIKE_TEST_NOW="+strconv.FormatInt(w.now.Unix(), 10), "HASHIKE_CRASH_AT="+strconv.Itoa(at))
		text, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() != -1 {
			t.Fatalf("step %d: the child failed: %s", at, text)
		}
		clear(sets)
		see := func() {
			w.reset()
			b, err := w.open(to)
			if err != nil {
				// An emptied medium with nothing of a bundle on it is none of ours (H-213).
				if !errors.Is(err, feed.ErrDamaged) && !errors.Is(err, feed.ErrUntrusted) && code(err) != "H-213" {
					t.Fatalf("step %d: %v", at, err)
				}
				return
			}
			defer b.Close()
			i := b.Info()
			if old, ok := sets[i.Set.Number]; ok && old != i.ID {
				t.Fatalf("step %d: number %d means two sets", at, i.Set.Number)
			}
			sets[i.Set.Number] = i.ID
			if _, err := b.Absorb(context.Background(), w.inCAS); err != nil || len(b.Damaged()) > 0 {
				t.Fatalf("step %d: half a bundle: %v %v", at, err, b.Damaged())
			}
			ok(t, b.Accept(w.inDB, "tester"))
			if i.Set.Number == 1 {
				w.holds(a1)
			} else {
				w.holds(a2)
			}
		}
		see()
		if err != nil {
			died++
			y := *w
			y.out, y.outDB = state.Dir(out), state.At(state.Dir(out), "test")
			y.outCAS = must(cas.Open(out, y.clock))(t)
			y.now = w.now.Add(time.Minute)
			s := must(y.outCAS.Snapshot("alpha", 2))(t)
			r, perr := packager.Pack(context.Background(), y.options(to, packager.Carry{Snapshot: s, Evidence: y.out.Evidence("alpha", 2, "outside")}))
			if perr != nil {
				t.Fatalf("step %d: packed again: %v", at, perr)
			}
			see()
			if _, ok := sets[r.Number]; !ok {
				t.Fatalf("step %d: bundle %d is not on the medium", at, r.Number)
			}
			y.outCAS.Close()
		}
		os.RemoveAll(dir)
		if err == nil {
			break
		}
	}
	if died < 30 {
		t.Errorf("only %d steps", died)
	}
	t.Logf("killed at %d steps", died)
}
