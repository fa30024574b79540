package mirror

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/verifier"
	"pgregory.net/rapid"
)

// needed is an independent account of what must stay: by re-reading the files
// that readers read, not by the marks of gc.
func (in *inside) needed() map[feed.Digest]bool {
	need := map[feed.Digest]bool{}
	add := func(name string, n uint64) {
		s, err := in.store.Snapshot(name, n)
		if err != nil {
			return
		}
		for a := range s.Artifacts() {
			need[a.Digest] = true
		}
	}
	for _, f := range in.feeds {
		for _, ring := range feed.Rings() {
			ents, _ := os.ReadDir(in.dir.Published(ring, f.Name))
			for _, e := range ents {
				var n uint64
				fmt.Sscanf(e.Name(), "%d.json", &n)
				if g, err := ReadGeneration(in.dir, ring, f.Name, n); err == nil {
					for _, serial := range append([]uint64{g.Serial}, g.Older...) {
						add(f.Name, serial)
					}
				}
			}
		}
	}
	in.db.View(func(tx state.Tx) error {
		feeds, _ := tx.Feeds()
		for name, f := range feeds {
			add(name, f.Serial)
		}
		for _, decode := range tx.All("receipts", "") {
			var b map[string]string
			decode(&b)
			names, _ := in.store.Feeds()
			for _, name := range names {
				serials, _ := in.store.Serials(name)
				for _, n := range serials {
					if s, err := in.store.Snapshot(name, n); err == nil && string(s.ID()) == b["snapshot"] {
						add(name, n)
					}
				}
			}
		}
		return nil
	})
	return need
}

func TestGCProperty(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "gc")
		if err != nil {
			rt.Fatal(err)
		}
		rings := Rings{}
		if rapid.Bool().Draw(rt, "staged") {
			rings = staged()
		}
		in := newInside(t, dir, rings)
		serial := uint64(10)
		steps := rapid.IntRange(3, 12).Draw(rt, "steps")
		for i := range steps {
			name := rapid.SampledFrom([]string{"av", "slow"}).Draw(rt, "feed")
			switch rapid.IntRange(0, 8).Draw(rt, "act") {
			case 0, 1, 2, 3:
				serial++
				files := map[string]string{"same": "shared by all", fmt.Sprint("own", i): fmt.Sprint("content ", serial, name)}
				in.accept(name, serial, files)
			case 4:
				in.clock.add(time.Duration(rapid.IntRange(1, 200).Draw(rt, "hours")) * time.Hour)
			case 5:
				in.advance()
			case 6:
				in.pub.Rollback(ctx, name, 0, "t", "r")
			case 7:
				in.pub.Publish(ctx, name, "", PublishOptions{Now: true})
			case 8:
				in.store.Put(ctx, strings.NewReader(fmt.Sprint("stray", i)), "")
				if s, err := in.store.Snapshot(name, serial); err == nil {
					in.db.Update(func(tx state.Tx) error {
						return tx.Put("receipts", "1", map[string]string{"snapshot": string(s.ID())})
					})
				}
			}
		}
		views := map[string]string{"av": in.sees("av"), "slow": in.sees("slow")}
		dry, err := in.pub.GC(ctx, GCOptions{DryRun: true})
		if err != nil {
			rt.Fatal(err)
		}
		did, err := in.pub.GC(ctx, GCOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		if dry != did {
			rt.Fatalf("dry run said %+v, did %+v", dry, did)
		}
		// Waiting snapshots too: what the rule would publish later must still be there.
		for name, v := range views {
			if in.sees(name) != v {
				rt.Fatalf("%s: rings saw %s, now %s", name, v, in.sees(name))
			}
		}
		in.checkStore(rt, in.needed())
		in.checkSnapshots(rt)
	})
}

// checkSnapshots wants no snapshot that neither a generation, the accepted
// state, a base nor a ring's wait explains.
func (in *inside) checkSnapshots(rt *rapid.T) {
	named := map[string]bool{}
	in.db.View(func(tx state.Tx) error {
		for _, f := range in.feeds {
			lowest := ^uint64(0)
			for _, ring := range feed.Rings() {
				gens, _, _ := Generations(in.dir, ring, f.Name)
				for _, g := range gens {
					for _, n := range append(g.Older, g.Serial) {
						named[fmt.Sprint(f.Name, n)] = true
					}
				}
				if in.rings.Staged() || ring == "all" {
					lowest = min(lowest, first(gens).Serial)
				}
			}
			st, _ := tx.Feed(f.Name)
			serials, _ := in.store.Serials(f.Name)
			for _, n := range serials {
				if n > lowest || n >= st.Serial {
					named[fmt.Sprint(f.Name, n)] = true
				}
			}
		}
		var b map[string]string
		tx.Get("receipts", "1", &b)
		for _, f := range in.feeds {
			serials, _ := in.store.Serials(f.Name)
			for _, n := range serials {
				if s, err := in.store.Snapshot(f.Name, n); err == nil && string(s.ID()) != b["snapshot"] && !named[fmt.Sprint(f.Name, n)] {
					rt.Fatalf("snapshot %s %d is needed by nothing and stays", f.Name, n)
				}
			}
		}
		return nil
	})
}

// checkStore wants exactly the needed blobs, whole.
func (in *inside) checkStore(rt *rapid.T, need map[feed.Digest]bool) {
	waiting := map[feed.Digest]bool{} // accepted and on its way to a ring: allowed
	names, _ := in.store.Feeds()
	for _, name := range names {
		serials, _ := in.store.Serials(name)
		for _, n := range serials {
			s, err := in.store.Snapshot(name, n)
			if err != nil {
				rt.Fatal(err)
			}
			for a := range s.Artifacts() {
				waiting[a.Digest] = true
			}
		}
	}
	have := map[feed.Digest]bool{}
	in.store.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
		have[d] = true
		if !need[d] && !waiting[d] {
			rt.Fatalf("blob %s is needed by nothing and stays", d)
		}
		return in.store.Verify(context.Background(), d)
	})
	for d := range need {
		if !have[d] {
			rt.Fatalf("blob %s is needed and gone", d)
		}
	}
}

func TestGCFreesSnapshotsEvidenceDerived(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	for n := uint64(10); n < 20; n++ {
		in.accept("av", n, map[string]string{"f": fmt.Sprint(n)})
		in.advance()
		ev := in.dir.Evidence("av", n, "inside")
		os.MkdirAll(filepath.Dir(ev), 0o700)
		os.WriteFile(ev, []byte("x"), 0o600)
	}
	audits := in.auditCount()
	r, err := in.pub.GC(ctx, GCOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Generations 8, 9, 10 stay (snapshots 17, 18, 19); 17's older ones are 15 and 16.
	if r.Generations != 7 || r.Snapshots != 5 || r.Blobs != 5 {
		t.Fatalf("%+v", r)
	}
	for n, want := range map[uint64]bool{14: false, 15: true, 19: true} {
		for _, p := range []string{in.dir.Evidence("av", n, "inside"), in.dir.Derived("av", n), in.store.SnapshotPath("av", n)} {
			if _, err := os.Stat(p); (err == nil) != want {
				t.Errorf("%s: %v, want kept %v", p, err, want)
			}
		}
	}
	if in.auditCount() != audits {
		t.Error("gc changed the audit log")
	}
	if r, err := in.pub.GC(ctx, GCOptions{}); err != nil || r.Blobs+r.Snapshots+r.Generations != 0 {
		t.Errorf("second run: %+v %v", r, err)
	}
	in.want("av", "0 0 19")
}

func (in *inside) auditCount() (n int) {
	in.db.View(func(tx state.Tx) error {
		for range tx.AuditLog(1) {
			n++
		}
		return nil
	})
	return n
}

func TestGCKeepsWhatIsOnItsWay(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), staged())
	in.accept("slow", 10, map[string]string{"f": "ten"})
	in.accept("slow", 11, map[string]string{"f": "eleven"}) // both wait for rings
	in.snapshot("slow", 12, map[string]string{"f": "twelve"})
	if _, err := in.pub.GC(ctx, GCOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{10, 11, 12} {
		s, err := in.store.Snapshot("slow", n)
		if err != nil {
			t.Fatal(err)
		}
		for a := range s.Missing() {
			t.Errorf("snapshot %d lost %s", n, a.Path)
		}
	}
	in.store.Put(ctx, strings.NewReader("a part of a set that arrives tomorrow"), "")
	if r, err := in.pub.GC(ctx, GCOptions{Grace: time.Hour}); err != nil || r.Blobs != 0 {
		t.Fatalf("within grace: %+v %v", r, err)
	}
	in.clock.add(2 * time.Hour)
	if r, err := in.pub.GC(ctx, GCOptions{Grace: time.Hour}); err != nil || r.Blobs != 1 {
		t.Fatalf("after grace: %+v %v", r, err)
	}
}

// Verdicts on files that are gone, or by trust that nobody has any more, go
// with them.
func TestGCForgetsVerdicts(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.advance()
	live := verifier.BuildTrust(in.pub.Feeds[0].Kind.Anchors, nil, in.pub.Feeds[0].Name, in.clock.now()).Epoch
	gone, _, err := in.store.Put(ctx, strings.NewReader("nobody names this"), "")
	if err != nil {
		t.Fatal(err)
	}
	kept := feed.DigestOf([]byte("ten"))
	mem := verifier.NewMemory(in.db)
	for _, v := range []struct {
		d     feed.Digest
		epoch string
	}{{gone, live}, {kept, live}, {kept, "former trust"}} {
		if err := mem.Remember(v.d, "method", v.epoch, feed.Evidence{Method: "method", Strength: feed.Signed}); err != nil {
			t.Fatal(err)
		}
	}
	if err := mem.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.pub.GC(ctx, GCOptions{}); err != nil {
		t.Fatal(err)
	}
	fresh := verifier.NewMemory(in.db)
	for _, v := range []struct {
		d     feed.Digest
		epoch string
		want  bool
	}{{gone, live, false}, {kept, live, true}, {kept, "former trust", false}} {
		if _, ok := fresh.Recall(v.d, "method", v.epoch); ok != v.want {
			t.Errorf("verdict on %.20s under %.12s: %v", v.d, v.epoch, ok)
		}
	}
}

// A damaged snapshot document names nobody knows what: nothing may go.
func TestGCStopsAtDamage(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.advance()
	path := in.store.SnapshotPath("av", 10)
	os.WriteFile(path, []byte("garbage"), 0o600)
	os.Remove(strings.TrimSuffix(path, ".jsonl.zst") + ".idx")
	if _, err := in.pub.GC(context.Background(), GCOptions{}); err == nil {
		t.Fatal("gc went on")
	}
	n := 0
	in.store.Walk(context.Background(), func(feed.Digest, int64, time.Time) error { n++; return nil })
	if n != 1 {
		t.Fatalf("%d blobs left", n)
	}
}
