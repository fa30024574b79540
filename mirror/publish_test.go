package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

func code(err error) string {
	var f *feed.Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

func TestRingsWaitByClass(t *testing.T) {
	in := newInside(t, t.TempDir(), staged())
	in.accept("slow", 10, map[string]string{"f": "ten"})
	in.accept("av", 10, map[string]string{"f": "av ten"})
	in.advance()
	in.want("slow", "0 0 0")
	in.want("av", "10 0 0")
	for _, c := range []struct {
		wait     time.Duration
		slow, av string
	}{
		{2*time.Hour - time.Second, "0 0 0", "10 0 0"},
		{time.Second, "0 0 0", "10 10 0"},
		{2 * time.Hour, "0 0 0", "10 10 10"},
		{20 * time.Hour, "10 0 0", "10 10 10"},
		{48 * time.Hour, "10 10 0", "10 10 10"},
		{96*time.Hour - time.Second, "10 10 0", "10 10 10"},
		{time.Second, "10 10 10", "10 10 10"},
	} {
		in.clock.add(c.wait)
		in.advance()
		in.want("slow", c.slow)
		in.want("av", c.av)
	}
	if g := in.advance(); len(g) != 0 {
		t.Fatalf("published again: %+v", g)
	}
}

// A daily snapshot must not start the wait of the last ring again each day.
func TestDailySnapshotsReachTheLastRing(t *testing.T) {
	in := newInside(t, t.TempDir(), staged())
	for i := range uint64(9) {
		in.accept("slow", 10+i, map[string]string{"f": "x"})
		in.advance()
		in.clock.add(24 * time.Hour)
	}
	in.advance()
	in.want("slow", "18 16 12")
}

func TestOneRingWithoutTestTerminals(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.feeds[0].Waits = map[string]feed.Duration{"all": feed.Duration(time.Hour)}
	in.open()
	in.accept("slow", 10, map[string]string{"f": "ten"})
	in.accept("av", 10, map[string]string{"f": "av ten"})
	in.advance()
	in.want("av", "0 0 10")
	in.want("slow", "0 0 0")
	in.clock.add(time.Hour)
	in.advance()
	in.want("slow", "0 0 10")
	h := in.server().Handler(0)
	if g := got(ask(h, "10.0.1.5", "/slow/f")); g != "200 ten" {
		t.Fatal(g)
	}
}

func TestPublishByHandRollbackAndHold(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), staged())
	in.accept("slow", 10, map[string]string{"f": "ten"})
	if _, err := in.pub.Publish(ctx, "slow", "", PublishOptions{}); code(err) != "H-606" || !errors.Is(err, feed.ErrHeld) {
		t.Fatalf("without now: %v", err)
	}
	if _, err := in.pub.Publish(ctx, "slow", "", PublishOptions{Now: true, By: "tester"}); err != nil {
		t.Fatal(err)
	}
	in.want("slow", "10 10 10")
	if _, err := in.pub.Rollback(ctx, "slow", 0, "tester", "why"); code(err) != "H-610" {
		t.Fatalf("nothing before: %v", err)
	}
	in.accept("slow", 11, map[string]string{"f": "eleven", "gone": "only in eleven"})
	in.clock.add(73 * time.Hour)
	in.advance()
	in.want("slow", "11 11 10")
	if _, err := in.pub.Rollback(ctx, "slow", 0, "tester", "eleven breaks printing"); err != nil {
		t.Fatal(err)
	}
	in.want("slow", "10 10 10")
	s := in.server()
	if g := got(ask(s.Handler(0), "10.0.1.5", "/slow/gone")); !strings.HasPrefix(g, "404") {
		t.Fatalf("taken back but reachable: %s", g)
	}
	// Held: neither the same nor a newer snapshot goes out by rule.
	in.clock.add(30 * 24 * time.Hour)
	in.accept("slow", 12, map[string]string{"f": "twelve"})
	in.clock.add(30 * 24 * time.Hour)
	in.advance()
	in.want("slow", "10 10 10")
	if _, err := in.pub.Publish(ctx, "slow", "", PublishOptions{Serial: 11}); code(err) != "H-607" {
		t.Fatalf("taken back, published again without a reason: %v", err)
	}
	if _, err := in.pub.Publish(ctx, "slow", "", PublishOptions{By: "tester"}); err != nil {
		t.Fatal(err)
	}
	in.want("slow", "12 12 12")
	in.accept("slow", 13, map[string]string{"f": "thirteen"})
	in.clock.add(8 * 24 * time.Hour)
	in.advance()
	in.want("slow", "13 13 13")
	g := in.generation("all", "slow")
	for _, n := range g.Older {
		if n == 11 {
			t.Fatal("a snapshot that was taken back is reachable again")
		}
	}
	in.audited("publish", "rollback")
}

func (in *inside) generation(ring, name string) Generation {
	in.t.Helper()
	gens, _, err := Generations(in.dir, ring, name)
	if err != nil || len(gens) == 0 {
		in.t.Fatalf("no generation of %s: %v", name, err)
	}
	return gens[0]
}

// audited checks the chain of the audit log and that each act is in it.
func (in *inside) audited(acts ...string) {
	in.t.Helper()
	have := map[string]bool{}
	err := in.db.View(func(tx state.Tx) error {
		for r, err := range tx.AuditLog(1) {
			if err != nil {
				return err
			}
			have[r.What] = true
		}
		return nil
	})
	if err != nil {
		in.t.Fatal(err)
	}
	for _, a := range acts {
		if !have[a] {
			in.t.Errorf("no audit record of %s", a)
		}
	}
}

func TestLateSnapshotNeedsAReason(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	in.acceptSnapshot(in.snapshot("av", 10, map[string]string{"f": "x"}), true)
	in.clock.add(1000 * time.Hour)
	in.advance()
	in.want("av", "0 0 0")
	if _, err := in.pub.Publish(ctx, "av", "", PublishOptions{Now: true}); code(err) != "H-608" {
		t.Fatalf("late without a reason: %v", err)
	}
	if _, err := in.pub.Publish(ctx, "av", "", PublishOptions{Late: "carrier was ill"}); err != nil {
		t.Fatal(err)
	}
	in.want("av", "0 0 10")
	if g := in.generation("all", "av"); g.Reason != "carrier was ill" {
		t.Fatalf("reason %q", g.Reason)
	}
}

func TestWithdrawFile(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"bad": "bad bytes", "good": "good"})
	in.advance()
	s := in.server()
	if g := got(ask(s.Handler(0), "10.1.1.9", "/slow/av/bad")); g != "200 bad bytes" {
		t.Fatal(g)
	}
	if err := s.Close(); err != nil { // writes the ledger's copy
		t.Fatal(err)
	}
	_, took, err := in.pub.Withdraw(ctx, "av", "bad", "tester", "breaks terminals")
	if err != nil {
		t.Fatal(err)
	}
	if len(took) != 1 || took[0].Terminal != "10.1.1.9" || took[0].Path != "bad" {
		t.Fatalf("took: %+v", took)
	}
	s = in.server()
	if g := got(ask(s.Handler(0), "10.1.1.9", "/slow/av/bad")); !strings.HasPrefix(g, "404") {
		t.Fatal(g)
	}
	// The same bytes stay stopped in a later snapshot, whatever their name; other bytes do not.
	in.accept("av", 11, map[string]string{"bad": "repaired", "good": "good", "again": "bad bytes"})
	in.advance()
	if err := s.Look(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"bad": "200 repaired", "good": "200 good", "again": "404 404 page not found"} {
		if g := got(ask(s.Handler(0), "10.1.1.9", "/slow/av/"+path)); g != want {
			t.Errorf("%s: %s", path, g)
		}
	}
	if _, _, err := in.pub.Withdraw(ctx, "av", "nowhere", "tester", "x"); code(err) != "H-611" {
		t.Fatalf("unknown file: %v", err)
	}
	in.audited("withdraw")
}

func TestWithdrawFeedThenRollBack(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.advance()
	in.accept("av", 11, map[string]string{"f": "eleven"})
	in.advance()
	s := in.server()
	if _, _, err := in.pub.Withdraw(ctx, "av", "", "tester", "all of it"); err != nil {
		t.Fatal(err)
	}
	in.want("av", "0 0 stopped")
	s.Look()
	if w := ask(s.Handler(0), "10.1.1.9", "/slow/av/f"); w.Code != 503 {
		t.Fatal(got(w))
	}
	in.advance()
	in.want("av", "0 0 stopped")
	if _, err := in.pub.Rollback(ctx, "av", 0, "tester", "ten was good"); err != nil {
		t.Fatal(err)
	}
	s.Look()
	if g := got(ask(s.Handler(0), "10.1.1.9", "/slow/av/f")); g != "200 ten" {
		t.Fatal(g)
	}
}

func TestPullBackOrder(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.advance()
	in.accept("av", 11, map[string]string{"f": "eleven"})
	order := feed.Order{Schema: 1, Number: 7, Kind: feed.OrderPullBack, Feed: "av", Serial: 11, Reason: "vendor's word", Operator: "o", Issued: begin}
	if err := in.db.Update(func(tx state.Tx) error { return tx.PutOrder(order) }); err != nil {
		t.Fatal(err)
	}
	in.advance()
	in.want("av", "0 0 10")
	in.accept("av", 12, map[string]string{"f": "twelve"})
	in.advance()
	in.want("av", "0 0 12")
	order.Number, order.Serial = 8, 12
	if err := in.db.Update(func(tx state.Tx) error { return tx.PutOrder(order) }); err != nil {
		t.Fatal(err)
	}
	in.advance()
	in.want("av", "0 0 stopped")
	in.advance()
	in.audited("withdraw")
}

func TestDerivedAndOlder(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"by-hash/ten": "old index"})
	in.advance()
	in.accept("av", 11, map[string]string{"by-hash/eleven": "new index"})
	in.advance()
	h := in.server().Handler(0)
	for path, want := range map[string]string{
		"derived": "200 index of 11 after (index of 10 after (nothing))", "by-hash/ten": "200 old index", "by-hash/eleven": "200 new index",
	} {
		if g := got(ask(h, "10.1.1.9", "/slow/av/"+path)); g != want {
			t.Errorf("%s: %s", path, g)
		}
	}
}

func TestUnreadableNewestGenerationFallsBack(t *testing.T) {
	for _, bad := range []string{"", "{", `{"schema":99}`, `{"schema":1,"number":2,"feed":"av","ring":"test","serial":11}`} {
		in := newInside(t, t.TempDir(), Rings{})
		in.accept("av", 10, map[string]string{"f": "ten"})
		in.advance()
		in.accept("av", 11, map[string]string{"f": "eleven"})
		in.advance()
		newest := generationPath(in.dir, "all", "av", 2)
		if err := os.WriteFile(newest, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		s := in.server()
		if g := got(ask(s.Handler(0), "10.1.1.9", "/slow/av/f")); g != "200 ten" {
			t.Fatalf("%q: %s", bad, g)
		}
		in.advance() // the rule finds that terminals have 10, and publishes 11 under a new number
		s.Look()
		if g := got(ask(s.Handler(0), "10.1.1.9", "/slow/av/f")); g != "200 eleven" {
			t.Fatalf("%q: %s", bad, g)
		}
		if g := in.generation("all", "av"); g.Number != 3 {
			t.Fatalf("number %d", g.Number)
		}
	}
}

func TestMissingBlobIsNotPublished(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	s := in.snapshot("av", 10, map[string]string{"f": "ten"})
	in.acceptSnapshot(s, false)
	a, _ := s.Lookup("f")
	in.store.Delete(a.Digest)
	in.accept("slow", 10, map[string]string{"f": "slow ten"})
	in.clock.add(25 * time.Hour)
	_, err := in.pub.Advance(context.Background(), in.clock.now())
	if code(err) != "H-702" {
		t.Fatalf("%v", err)
	}
	in.want("av", "0 0 0")
	in.want("slow", "0 0 10") // one feed's fault does not stop another
}

func TestBusy(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	err := in.db.Lock(context.Background(), "import", func(ctx context.Context) error {
		_, err := in.pub.GC(ctx, GCOptions{})
		return err
	})
	if code(err) != "H-804" || !errors.Is(err, state.ErrBusy) {
		t.Fatalf("gc beside import: %v", err)
	}
}

func TestStatus(t *testing.T) {
	in := newInside(t, t.TempDir(), staged())
	in.accept("slow", 10, map[string]string{"f": "ten"})
	in.clock.add(25 * time.Hour)
	in.advance()
	o, err := Status(in.db, in.store, in.feeds, in.rings, in.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Side  string
		Feeds []struct {
			Feed, Kind string
			Serial     uint64
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Side != "inside" || len(doc.Feeds) != 2 || doc.Feeds[0].Feed != "slow" || doc.Feeds[0].Serial != 10 {
		t.Fatalf("%s %v", b, err)
	}
	f := o.Feeds[0]
	if f.Level != Green || time.Duration(f.Age) != 73*time.Hour || f.Rings[0].Serial != 10 || !f.Rings[2].Next.Equal(f.Accepted.Add(7*24*time.Hour)) {
		t.Fatalf("%+v", f)
	}
}

func TestScrub(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	s := in.snapshot("av", 10, map[string]string{"a": "one", "b": "two", "c": "three"})
	in.acceptSnapshot(s, false)
	a, _ := s.Lookup("b")
	path := filepath.Join(string(in.dir), "store", "sha256", a.Digest.Hex()[:2], a.Digest.Hex())
	if err := os.WriteFile(path, []byte("twx"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged []Damage
	blobs := 0
	for range 7 {
		r, err := in.pub.Scrub(ctx, 1.0/7)
		if len(r.Damaged) > 0 && (code(err) != "H-702" || !errors.Is(err, feed.ErrDamaged)) {
			t.Fatal(err)
		}
		if len(r.Damaged) == 0 && err != nil {
			t.Fatal(err)
		}
		damaged = append(damaged, r.Damaged...)
		blobs += r.Blobs
	}
	if blobs != 3 || len(damaged) != 1 || damaged[0].Feed != "av" || damaged[0].Path != "b" {
		t.Fatalf("%d blobs, %+v", blobs, damaged)
	}
	if _, ok := in.store.Stat(a.Digest); ok {
		t.Fatal("the damaged blob is still in the store")
	}
	if b, _ := os.ReadFile(filepath.Join(in.dir.Quarantine(), "damaged", a.Digest.Hex())); string(b) != "twx" {
		t.Fatalf("kept aside: %q", b)
	}
	in.audited("scrub")
}
