package diode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// What arrived stays in the inbox, however much comes after it: only who
// imported it knows that it is needed no more.
func TestNothingLeavesTheInbox(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	a := newAir(4)
	g.start(a)
	var want []string
	for i := range 8 {
		src := tree(t, uint64(40+i), 3, 0)
		send(t, a, quick(key), job(t, src, small(), 1))
		want = append(want, src, g.wait())
	}
	for i := 0; i < len(want); i += 2 {
		same(t, want[i], want[i+1])
	}
}

// A session that comes once more after its note was lost replaces what it left.
func TestForgottenSessionArrivesAgain(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	src := tree(t, 52, 5, 0)
	for range 2 {
		a := newAir(9)
		g.start(a)
		send(t, a, quick(key), job(t, src, small(), 1))
		same(t, src, g.wait())
		g.stop()
		if err := os.Remove(filepath.Join(g.o.Dir, doneFile)); err != nil {
			t.Fatal(err)
		}
	}
}

// An inbox that was away for a moment costs no bundle.
func TestArrivalIsTriedAgain(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	a := newAir(5)
	g.start(a)
	away := g.o.Inbox + ".away"
	if err := os.Rename(g.o.Inbox, away); err != nil {
		t.Fatal(err)
	}
	src := tree(t, 50, 5, 1<<20)
	send(t, a, quick(key), job(t, src, small(), 1))
	a.over()
	for g.r.Status().Problem == "" {
		time.Sleep(10 * time.Millisecond)
	}
	g.none()
	if err := os.Rename(away, g.o.Inbox); err != nil {
		t.Fatal(err)
	}
	same(t, src, g.wait())
}

// A pass that ended before a restart is still known, and so is what lacks.
func TestNeedSurvivesARestart(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	a := newAir(6)
	a.loss = 0.5
	g.start(a)
	o := quick(key)
	o.Trail, o.TableEvery = time.Millisecond, time.Microsecond
	send(t, a, o, job(t, tree(t, 51, 5, 1<<20), Profile{20, 6, 512, 8}, 1))
	a.over()
	for need(g.r) == "" {
		time.Sleep(10 * time.Millisecond)
	}
	g.stop()
	g.start(newAir(7))
	if need(g.r) == "" {
		t.Fatalf("no need list after a restart: %+v", g.r.Status().Sessions)
	}
}

func need(r *Receiver) string {
	for _, s := range r.Status().Sessions {
		return s.Need
	}
	return ""
}

// A session whose sender is gone makes way for one that needs its room; giving
// up a session while its files are being flushed holds nobody up.
func TestStaleSessionMakesWay(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	now := time.Now()
	g.o.Clock = func() time.Time { return now }
	g.start(newAir(8))
	begin := func(seed uint64, bytes int64) (ID, error) {
		tab, err := Scan(tree(t, seed, 1, 0), fmt.Sprint(seed), small())
		if err != nil {
			t.Fatal(err)
		}
		packed, id, err := tab.encode()
		if err != nil {
			t.Fatal(err)
		}
		g.r.count.mu.Lock()
		defer g.r.count.mu.Unlock()
		err = g.r.begin(id, packed)
		if s := g.r.sessions[id]; s != nil {
			s.t.Bytes = bytes // as if it were so large
		}
		return id, err
	}
	dead, err := begin(60, 1<<45)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := begin(61, 1); err == nil {
		t.Fatal("two sessions got the same room")
	}
	now = now.Add(2 * time.Hour)
	held := g.r.sessions[dead]
	held.io.Lock() // a slow flush
	if _, err := begin(62, 1); err != nil {
		t.Fatal(err)
	}
	if n := len(g.r.Status().Sessions); n != 1 {
		t.Errorf("%d sessions", n)
	}
	held.io.Unlock()
	g.r.removal.Wait()
	if _, err := os.Stat(held.dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// With an endless carousel every job has its turn.
func TestEndlessCarouselIsFair(t *testing.T) {
	s, err := NewSender(newAir(1), quick(RandomKey()))
	if err != nil {
		t.Fatal(err)
	}
	monthly, virus := job(t, tree(t, 70, 3, 0), small(), 0), job(t, tree(t, 71, 3, 0), small(), 0)
	virus.Priority = 10
	s.jobs = []*Job{monthly, virus}
	var order string
	for range 6 {
		j := s.pick()
		order += map[*Job]string{monthly: "m", virus: "v"}[j]
		j.pass++
	}
	if !strings.HasPrefix(order, "vm") || strings.Count(order, "m") != 3 {
		t.Errorf("order of passes: %s", order)
	}
}

// Any number of jobs may be handed over before the sender runs.
func TestManyJobsAtOnce(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	g.o.Arrived = func(Finished, string) {}
	a := newAir(1)
	g.start(a)
	var jobs []*Job
	for i := range 100 {
		jobs = append(jobs, job(t, tree(t, uint64(1000+i), 1, 0), small(), 1))
	}
	send(t, a, quick(key), jobs...)
	a.over()
}

// A long name in any script is cut, not sent in vain.
func TestLongName(t *testing.T) {
	tab, err := Scan(tree(t, 80, 1, 0), strings.Repeat("更新便", 20), small())
	if err != nil {
		t.Fatal(err)
	}
	packed, id, err := tab.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeTable(packed, id)
	if err != nil || !utf8.ValidString(got.Name) || !strings.HasPrefix(got.Name, "更新便更新便") {
		t.Fatalf("%+v, %v", got, err)
	}
}

// In a folder of volumes too, what names the blobs goes before them.
func TestBlobsGoLast(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"volume-1/index.json", "volume-1/blobs/sha256/aa", "volume-2/set.json", "volume-2/blobs/sha256/bb"} {
		at := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(p), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tab, err := Scan(dir, "x", small())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range tab.Files {
		got = append(got, f.Path)
	}
	if want := "volume-1/index.json volume-2/set.json volume-1/blobs/sha256/aa volume-2/blobs/sha256/bb"; strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
}

// Large packets are sent in smaller groups: two of them fit into what a
// receiver has for blocks that are not whole.
func TestInterleaveFits(t *testing.T) {
	for _, p := range Profiles() {
		for _, shard := range []int{512, 1408, 8896} {
			n := InterleaveFor(p.Data, p.Parity, shard)
			if n < 1 || n > 32 || 2*n*(p.Data+p.Parity)*shard > 64<<20 {
				t.Errorf("%d+%d of %d bytes: %d", p.Data, p.Parity, shard, n)
			}
		}
	}
	if n := InterleaveFor(224, 32, 1408); n != 32 {
		t.Errorf("%d at MTU 1500", n)
	}
}

// Old packets that are repeated make no line live; neither does a clock that
// was set back.
func TestReplayIsNoSignOfLife(t *testing.T) {
	key := RandomKey()
	g := newRig(t, key)
	now := time.Now()
	g.o.Clock = func() time.Time { return now }
	r, err := NewReceiver(g.o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAir(1)
	a.keep = true
	s, err := NewSender(a, quick(key))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.beats(context.Background(), time.Microsecond, 512); err != nil {
		t.Fatal(err)
	}
	c := &chunk{}
	for _, p := range a.sent {
		c.buf = append(c.buf, p...)
		c.ends = append(c.ends, len(c.buf))
	}
	r.chunk(c)
	if !r.Status().Silent(now).IsZero() {
		t.Fatal("a line with beats is silent")
	}
	now = now.Add(time.Hour)
	r.chunk(c)
	if r.Status().Silent(now).IsZero() {
		t.Error("replayed beats hide the silence")
	}
	if r.Status().Silent(now.Add(-3 * time.Hour)).IsZero() {
		t.Error("a clock that was set back hides the silence")
	}
}
