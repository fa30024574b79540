//go:build crashtest

package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The child does one operation on an existing data directory and is killed at
// step HASHIKE_CRASH_AT of it (internal/durable).
func TestCrashChild(t *testing.T) {
	dir, op := os.Getenv("HASHIKE_CHILD_DIR"), os.Getenv("HASHIKE_CHILD_OP")
	if dir == "" {
		t.Skip("a child of TestCrash")
	}
	in := newInside(t, dir, staged())
	ctx := context.Background()
	var err error
	switch op {
	case "publish":
		_, err = in.pub.Publish(ctx, "av", "", PublishOptions{Now: true, By: "child"})
	case "rollback":
		_, err = in.pub.Rollback(ctx, "av", 0, "child", "reason")
	case "withdraw":
		_, _, err = in.pub.Withdraw(ctx, "av", "", "child", "reason")
	case "gc":
		_, err = in.pub.GC(ctx, GCOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func child(t *testing.T, dir, op string, at int) (killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "HASHIKE_CHILD_DIR="+dir, "HASHIKE_CHILD_OP="+op, fmt.Sprint("HASHIKE_CRASH_AT=", at))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && !exit.Exited():
		return true
	}
	t.Fatalf("%s at step %d: %v\n%s", op, at, err, out)
	return false
}

// TestCrash kills each operation at each of its durable steps. Afterwards the
// rings see the old state whole; the next operation of anybody makes it old or
// new as decided, never a mixture; and nothing served is gone.
func TestCrash(t *testing.T) {
	base := t.TempDir()
	in := newInside(t, base, staged())
	for n := uint64(10); n < 16; n++ {
		in.accept("av", n, map[string]string{"f": fmt.Sprint(n), "same": "same"})
		if _, err := in.pub.Publish(context.Background(), "av", "", PublishOptions{Now: true}); err != nil {
			t.Fatal(err)
		}
	}
	in.accept("av", 16, map[string]string{"f": "16"})
	in.store.Close()
	runs := 0
	for op, want := range map[string][2]string{
		"publish": {"15 15 15", "16 16 16"}, "rollback": {"15 15 15", "14 14 14"},
		"withdraw": {"15 15 15", "stopped stopped stopped"}, "gc": {"15 15 15", "15 15 15"},
	} {
		for at := 1; ; at++ {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
				t.Fatal(err)
			}
			killed := child(t, dir, op, at)
			in := newInside(t, dir, staged())
			in.servesWhole(t, op, at)
			if _, err := in.pub.settleForTest(); err != nil {
				t.Fatalf("%s killed at %d: %v", op, at, err)
			}
			if got := in.sees("av"); got != want[0] && got != want[1] {
				t.Fatalf("%s killed at %d: rings see %q", op, at, got)
			} else if !killed && got != want[1] {
				t.Fatalf("%s finished, rings see %q", op, got)
			}
			in.servesWhole(t, op, at)
			if killed {
				child(t, dir, "gc", 0)
				in.servesWhole(t, op+" then gc", at)
			}
			in.audited()
			in.store.Close()
			runs++
			if !killed {
				t.Logf("%s: %d steps", op, at-1)
				break
			}
		}
	}
	t.Logf("%d runs", runs)
}

func (p *Publisher) settleForTest() (d *desk, err error) {
	err = p.locked(context.Background(), func(_ context.Context, x *desk) error { d = x; return nil })
	return d, err
}

// servesWhole asks as terminals for every file that rings see.
func (in *inside) servesWhole(t *testing.T, op string, at int) {
	t.Helper()
	s := in.server()
	defer s.Close()
	for ring, from := range map[string]string{"test": "10.0.1.1", "pilot": "10.0.2.1", "all": "10.9.9.9"} {
		g := in.generation(ring, "av")
		w := ask(s.Handler(0), from, "/slow/av/f")
		if g.Stopped && w.Code == 503 {
			continue
		}
		if want := fmt.Sprintf("200 %d", g.Serial); got(w) != want {
			t.Fatalf("%s killed at %d: ring %s answers %s, want %s", op, at, ring, got(w), want)
		}
		if w := ask(s.Handler(0), from, "/slow/av/derived"); !strings.HasPrefix(got(w), fmt.Sprintf("200 index of %d", g.Serial)) {
			t.Fatalf("%s killed at %d: ring %s derived: %s", op, at, ring, got(w))
		}
		snap, err := in.store.Snapshot("av", g.Serial)
		if err != nil {
			t.Fatal(err)
		}
		for a := range snap.Artifacts() {
			if err := in.store.Verify(context.Background(), a.Digest); err != nil {
				t.Fatalf("%s killed at %d: %v", op, at, err)
			}
		}
	}
}
