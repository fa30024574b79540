//go:build crashtest

package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// TestCrashChild is the process that dies: it imports what the environment names.
func TestCrashChild(t *testing.T) {
	in, medium := os.Getenv("HASHIKE_TEST_IN"), os.Getenv("HASHIKE_TEST_MEDIUM")
	if in == "" {
		t.Skip("only run by TestKilledImport")
	}
	x := &crossing{t: t, in: state.Dir(in), inDB: state.At(state.Dir(in), "test"), feeds: []string{"alpha", "beta"}}
	sec, err := strconv.ParseInt(os.Getenv("HASHIKE_TEST_NOW"), 10, 64)
	ok(t, err)
	x.now = time.Unix(sec, 0)
	x.inCAS, err = cas.Open(in, x.clock)
	ok(t, err)
	_, err = mirror.Import(context.Background(), x.options(), []string{medium})
	ok(t, err)
}

// Killed at every durable step of an import: the old state whole or the new
// one whole, no wrong blob, and the next import finishes.
func TestKilledImport(t *testing.T) {
	x := newCrossing(t, memory(t))
	a := genuine("a1", "a2")
	d1, _ := x.pack(filepath.Join(memory(t), "m1"), nil, x.snapshot("alpha", a), x.snapshot("beta", genuine("b1")))
	_, err := x.take(d1)
	ok(t, err)
	old := map[string]uint64{"alpha": x.state("alpha").Serial, "beta": x.state("beta").Serial}
	a["a3"] = []byte("a third")
	a["huge"] = random(17 << 20) // stored by itself, not in a group
	d2, _ := x.pack(filepath.Join(memory(t), "m2"), nil, x.snapshot("alpha", a), x.snapshot("beta", genuine("b2")))
	x.inCAS.Close()

	run := func(in string, at int) error {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1")
		cmd.Env = append(os.Environ(), "HASHIKE_TEST_IN="+in, "HASHIKE_TEST_MEDIUM="+d2,
			"HASHIKE_TEST_NOW="+strconv.FormatInt(x.now.Unix(), 10), "HASHIKE_CRASH_AT="+strconv.Itoa(at))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() != -1 {
			t.Fatalf("step %d: the child failed: %s", at, out)
		}
		return err
	}
	died := 0
	for at := 1; ; at++ {
		in := filepath.Join(memory(t), "in")
		ok(t, os.CopyFS(in, os.DirFS(string(x.in))))
		killed := run(in, at) != nil
		y := *x
		y.in, y.inDB = state.Dir(in), state.At(state.Dir(in), "test")
		y.inCAS, err = cas.Open(in, y.clock)
		ok(t, err)
		for name, serial := range old {
			if s := y.state(name).Serial; s != serial && s != serial+2 {
				t.Fatalf("step %d: %s has serial %d", at, name, s)
			}
			y.whole(name)
		}
		ok(t, y.inCAS.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
			return y.inCAS.Verify(context.Background(), d)
		}))
		if killed {
			died++
			r, err := y.take(d2)
			if err != nil {
				t.Fatalf("step %d: resumed: %v", at, err)
			}
			_ = r
		}
		for name, serial := range old {
			if s := y.state(name).Serial; s != serial+2 {
				t.Fatalf("step %d: %s has serial %d at the end", at, name, s)
			}
			y.whole(name)
		}
		ok(t, y.inDB.View(func(tx state.Tx) error {
			for _, err := range tx.AuditLog(1) {
				if err != nil {
					return err
				}
			}
			cur, _, err := packager.Current(tx)
			if cur.Number != 2 {
				err = fmt.Errorf("accepted bundle %d", cur.Number)
			}
			return err
		}))
		y.inCAS.Close()
		os.RemoveAll(filepath.Dir(in))
		if !killed {
			break
		}
	}
	if died < 30 {
		t.Errorf("only %d steps", died)
	}
	t.Logf("killed at %d steps", died)
}
