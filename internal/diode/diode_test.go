package diode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// air is a line that loses, doubles and reorders: Wire and Inlet in one.
type air struct {
	mu      sync.Mutex
	more    sync.Cond
	rng     *rand.Rand
	loss    float64
	double  float64
	shuffle int // packets of a window that come in any order
	window  [][]byte
	queue   [][]byte
	ended   bool
	sent    [][]byte // a recording, if keep
	keep    bool
}

func newAir(seed uint64) *air {
	a := &air{rng: rand.New(rand.NewPCG(seed, 1))}
	a.more.L = &a.mu
	return a
}

func (a *air) Write(b []byte, size int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ; len(b) > 0; b = b[size:] {
		p := bytes.Clone(b[:size])
		if a.keep {
			a.sent = append(a.sent, p)
		}
		if a.rng.Float64() < a.loss {
			continue
		}
		a.window = append(a.window, p)
		if a.rng.Float64() < a.double {
			a.window = append(a.window, p)
		}
		if len(a.window) > a.shuffle {
			a.release()
		}
	}
	for len(a.queue) > 4000 && !a.ended { // the pace of a test is the receiver's
		a.more.Wait()
	}
	return nil
}

func (a *air) release() {
	a.rng.Shuffle(len(a.window), func(i, j int) { a.window[i], a.window[j] = a.window[j], a.window[i] })
	a.queue = append(a.queue, a.window...)
	a.window = nil
	a.more.Broadcast()
}

func (a *air) Read(fn func([]byte)) error {
	a.mu.Lock()
	for len(a.queue) == 0 && !a.ended {
		a.more.Wait()
	}
	q := a.queue
	a.queue = nil
	ended := a.ended
	a.more.Broadcast()
	a.mu.Unlock()
	if ended {
		return os.ErrDeadlineExceeded
	}
	for _, p := range q {
		fn(p)
	}
	return nil
}

func (a *air) SetReadDeadline(time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.more.Broadcast()
	return nil
}
func (a *air) Drops() int64 { return 0 }
func (a *air) Close() error { return nil }

// over lets the rest through and waits until it was taken.
func (a *air) over() {
	a.mu.Lock()
	a.release()
	for len(a.queue) > 0 && !a.ended {
		a.more.Wait()
	}
	a.mu.Unlock()
}

func small() Profile { return Profile{Data: 20, Parity: 6, Shard: 512, Interleave: 8} }

// tree writes files of all sizes and returns their directory.
func tree(t testing.TB, seed uint64, count int, large int64) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(seed, 2))
	src := rand.NewChaCha8([32]byte{byte(seed)})
	put := func(name string, n int64) {
		b := make([]byte, n)
		src.Read(b)
		if name == "" {
			s := sha256.Sum256(b)
			name = "blobs/sha256/" + hex.EncodeToString(s[:])
		}
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("set.json", 700)
	put("index.json", 3000)
	put("empty", 0)
	for range count {
		put("", rng.Int64N(3000))
	}
	if large > 0 {
		put("", large)
	}
	return dir
}

func same(t testing.TB, want, got string) {
	t.Helper()
	list := func(dir string) map[string][32]byte {
		out := map[string][32]byte{}
		err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(dir, at)
			b, err := os.ReadFile(at)
			out[rel] = sha256.Sum256(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a, b := list(want), list(got)
	if len(a) != len(b) || len(a) == 0 {
		t.Fatalf("%d files arrived of %d", len(b), len(a))
	}
	for p, s := range a {
		if b[p] != s {
			t.Fatalf("%s is another file", p)
		}
	}
}

// rig is a receiver that runs in a test.
type rig struct {
	t       testing.TB
	dir     string
	o       ReceiveOptions
	r       *Receiver
	arrived chan string
	stop    func()
}

func newRig(t testing.TB, key Key) *rig {
	dir := t.TempDir()
	g := &rig{t: t, dir: dir, arrived: make(chan string, 10)}
	g.o = ReceiveOptions{Dir: filepath.Join(dir, "diode"), Inbox: filepath.Join(dir, "inbox"), Key: key, Block: 4 << 20, Ring: 1 << 20,
		Report: func(err error) { t.Log("receiver:", err) }, Arrived: func(_ Finished, at string) { g.arrived <- at }, checkpoint: 200 * time.Millisecond}
	return g
}

// start runs a receiver on an inlet until stop.
func (g *rig) start(in Inlet) {
	g.t.Helper()
	var err error
	if g.r, err = NewReceiver(g.o); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	r := g.r
	go func() { done <- r.Run(ctx, in, Buffer{}) }()
	g.stop = func() {
		cancel()
		if err := <-done; err != nil && err != context.Canceled {
			g.t.Error(err)
		}
		g.stop = func() {}
	}
	g.t.Cleanup(func() { g.stop() })
}

func (g *rig) wait() string {
	g.t.Helper()
	select {
	case at := <-g.arrived:
		return at
	case <-time.After(30 * time.Second):
		g.t.Fatalf("nothing arrived: %+v", g.r.Status())
	}
	return ""
}

func (g *rig) none() {
	g.t.Helper()
	select {
	case at := <-g.arrived:
		g.t.Fatalf("%s arrived", at)
	default:
	}
}

// quick are options of a sender that loses no time.
func quick(key Key) SendOptions {
	return SendOptions{Rate: 20_000_000_000, Key: key, Warm: time.Microsecond, Trail: time.Microsecond, TableEvery: 20 * time.Millisecond, BeatEvery: 50 * time.Millisecond}
}

func job(t testing.TB, dir string, p Profile, passes int) *Job {
	t.Helper()
	tab, err := Scan(dir, "412", p)
	if err != nil {
		t.Fatal(err)
	}
	j, err := NewJob(dir, tab)
	if err != nil {
		t.Fatal(err)
	}
	j.Passes = passes
	return j
}

func send(t testing.TB, w Wire, o SendOptions, jobs ...*Job) {
	t.Helper()
	o.Report = func(err error) { t.Error("sender:", err) }
	s, err := NewSender(w, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		s.Add(j)
	}
	if err := s.Run(context.Background(), false); err != nil {
		t.Fatal(err)
	}
}

func TestArrivesWhole(t *testing.T) {
	for _, c := range []struct {
		loss, double float64
		shuffle      int
		p            Profile
		passes       int
	}{
		{0, 0, 0, small(), 1},
		{0.01, 0.01, 10, small(), 1},
		{0.05, 0.05, 300, Profile{20, 20, 512, 8}, 1},
		{0.10, 0, 40, Profile{224, 32, 512, 4}, 3},
		{0.05, 0, 0, Profile{216, 40, 1408, 32}, 2},
		{0.20, 0.1, 1000, small(), 8},
	} {
		t.Run(fmt.Sprintf("loss %v double %v shuffle %d %d+%d", c.loss, c.double, c.shuffle, c.p.Data, c.p.Parity), func(t *testing.T) {
			key := RandomKey()
			large := int64(5<<20 + 77)
			if testing.Short() {
				large = 1<<20 + 77
			}
			src := tree(t, 3, 150, large)
			a := newAir(7)
			a.loss, a.double, a.shuffle = c.loss, c.double, c.shuffle
			g := newRig(t, key)
			g.start(a)
			o := quick(key)
			o.Warm = 20 * time.Millisecond // what overtakes the table is lost
			send(t, a, o, job(t, src, c.p, c.passes))
			a.over()
			same(t, src, g.wait())
			if st := g.r.Status(); c.loss > 0 && (st.Lost == 0 || st.Rebuilt == 0) || st.Foreign+st.Newer+st.Damaged > 0 {
				t.Fatalf("%+v", st)
			}
		})
	}
}

// A receiver that is stopped, or killed, goes on with what it has: here each
// life sees one pass with more loss than a pass can mend.
func TestRestarts(t *testing.T) {
	key := RandomKey()
	src := tree(t, 5, 60, 3<<20)
	p := Profile{60, 6, 512, 8}
	g := newRig(t, key)
	lives := 0
	for seed := uint64(1); ; seed++ {
		if seed > 12 {
			t.Fatalf("not whole after %d lives: %+v", lives, g.r.Status())
		}
		a := newAir(seed)
		a.loss = 0.25
		g.start(a)
		o := quick(key)
		o.Warm = time.Millisecond
		send(t, a, o, job(t, src, p, 1))
		a.over()
		lives++
		select {
		case at := <-g.arrived:
			same(t, src, at)
			if lives < 2 {
				t.Fatal("one pass was enough: the test tests nothing")
			}
			g.stop()
			if left, _ := os.ReadDir(filepath.Join(g.o.Dir, "spool")); len(left) != 0 {
				t.Errorf("%d sessions are left in the spool", len(left))
			}
			// A later pass finds it done, even after a restart.
			a := newAir(99)
			g.start(a)
			send(t, a, o, job(t, src, p, 1))
			a.over()
			g.stop()
			g.none()
			return
		case <-time.After(300 * time.Millisecond):
		}
		if open := g.r.Status().Sessions; seed%2 == 0 || len(open) == 0 {
			g.stop()
		} else { // killed: the bitmap of the last checkpoint counts, nothing after it
			have := filepath.Join(g.o.Dir, "spool", open[0].ID, nameHave)
			b, _ := os.ReadFile(have)
			g.stop()
			if b != nil {
				os.WriteFile(have, b, 0o600)
			}
		}
	}
}

// A receiver that starts in the middle of a pass gets the rest with the next.
func TestLateStart(t *testing.T) {
	key := RandomKey()
	src := tree(t, 6, 40, 2<<20)
	a := newAir(1)
	j := job(t, src, small(), 2)
	late := &lateWire{after: 3000, to: a}
	g := newRig(t, key)
	g.start(a)
	o := quick(key)
	o.Warm = time.Millisecond
	send(t, late, o, j)
	a.over()
	same(t, src, g.wait())
}

// lateWire swallows the first packets.
type lateWire struct {
	after int
	to    Wire
}

func (w *lateWire) Write(b []byte, size int) error {
	for ; len(b) > 0 && w.after > 0; b = b[size:] {
		w.after--
	}
	if len(b) == 0 {
		return nil
	}
	return w.to.Write(b, size)
}

// What a receiver lacks after the last pass is named, and sending exactly that
// completes it.
func TestNeedIsAnswered(t *testing.T) {
	key := RandomKey()
	src := tree(t, 7, 40, 4<<20)
	a := newAir(3)
	a.loss = 0.3
	g := newRig(t, key)
	g.start(a)
	o := quick(key)
	o.Warm = 5 * time.Millisecond
	j := job(t, src, small(), 1)
	send(t, a, o, j)
	a.over()
	var need Need
	for range 100 {
		st := g.r.Status()
		if len(st.Sessions) == 1 && st.Sessions[0].Need != "" {
			var err error
			if need, err = ParseNeed(st.Sessions[0].Need); err != nil {
				t.Fatal(err)
			}
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !need.Of(j.ID()) || len(need.Blocks) == 0 {
		t.Fatalf("need %+v", need)
	}
	a.mu.Lock()
	a.loss = 0
	a.mu.Unlock()
	again := job(t, src, small(), 1)
	again.Only = need.Blocks
	send(t, a, o, again)
	a.over()
	same(t, src, g.wait())
	var asked int64
	for _, s := range need.Blocks {
		asked += s.To - s.From
	}
	if asked >= j.Table.Blocks() {
		t.Errorf("all %d blocks were asked for", asked)
	}
}

// The urgent bundle that comes while a large one is being sent goes first.
func TestPriorities(t *testing.T) {
	key := RandomKey()
	large, urgent := tree(t, 8, 10, 6<<20), tree(t, 9, 5, 0)
	a := newAir(3)
	g := newRig(t, key)
	g.start(a)
	o := quick(key)
	o.Warm = time.Millisecond
	s, err := NewSender(a, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	first, second := job(t, large, small(), 1), job(t, urgent, small(), 1)
	second.Priority = 20
	s.Add(first)
	s.take()
	for range 3 { // the large one is under way
		if err := s.step(ctx, s.pick()); err != nil {
			t.Fatal(err)
		}
	}
	s.Add(second)
	if err := s.Run(ctx, false); err != nil {
		t.Fatal(err)
	}
	a.over()
	same(t, urgent, g.wait())
	same(t, large, g.wait())
}

// A folder that changes while it is sent is reported; nothing wrong arrives,
// and the next jobs are sent.
func TestFolderChanges(t *testing.T) {
	key := RandomKey()
	src, next := tree(t, 10, 0, 3<<20), tree(t, 11, 5, 0)
	j := job(t, src, small(), 1)
	big := filepath.Join(src, filepath.FromSlash(j.Table.Files[len(j.Table.Files)-1].Path))
	if err := os.Truncate(big, 1<<20); err != nil {
		t.Fatal(err)
	}
	a := newAir(3)
	g := newRig(t, key)
	g.start(a)
	o := quick(key)
	var told error
	o.Report = func(err error) { told = err }
	var dropped []*Job
	o.Failed = func(j *Job, _ error) { dropped = append(dropped, j) }
	s, err := NewSender(a, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Add(j)
	s.Add(job(t, next, small(), 1))
	if err := s.Run(context.Background(), false); err != nil || told == nil || !slices.Equal(dropped, []*Job{j}) {
		t.Fatal(err, told, dropped)
	}
	a.over()
	same(t, next, g.wait())
	g.none()
}

// A file that was changed on the way in, or under its digest's name, never
// counts: its blocks wait, and the right ones complete it.
func TestWrongContent(t *testing.T) {
	key := RandomKey()
	src := tree(t, 12, 30, 5<<20)
	j := job(t, src, small(), 1)
	at := filepath.Join(src, filepath.FromSlash(j.Table.Files[len(j.Table.Files)-1].Path))
	right, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Clone(right)
	wrong[len(wrong)/2] ^= 1
	os.WriteFile(at, wrong, 0o644)
	a := newAir(3)
	g := newRig(t, key)
	g.start(a)
	o := quick(key)
	o.Warm = time.Millisecond
	send(t, a, o, j)
	a.over()
	for range 200 {
		if g.r.Status().Damaged > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if g.none(); g.r.Status().Damaged != 1 {
		t.Fatalf("%+v", g.r.Status())
	}
	os.WriteFile(at, right, 0o644)
	// Shards of the wrong content that came after it was found out may spoil a
	// block once more: then that one waits for the pass after.
	send(t, a, o, job(t, src, small(), 4))
	a.over()
	same(t, src, g.wait())
}

func TestNoRate(t *testing.T) {
	if _, err := NewSender(newAir(1), SendOptions{}); err != ErrRate {
		t.Fatal(err)
	}
}
