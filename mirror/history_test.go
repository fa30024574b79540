package mirror_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// Random carry histories: one outside and three insides over two years of a
// virtual clock. Of the deliveries 20 % never arrive, 10 % arrive twice, 10 %
// late and out of order, 5 % damaged; receipts get lost; clocks go wrong by up
// to ten years; the bundle key is replaced three times, the vendor's versions
// are pulled back twice. A reference model that shares no code with packager
// and mirror says after every step what each inside must hold, which message
// an import must give, and what must be published.
//
//	HASHIKE_HISTORIES=10000 HASHIKE_SEED=1 go test ./mirror -run TestCarryHistories
//
// runs seeds 1 to 10,000; one failing seed is repeated by naming it with
// HASHIKE_HISTORIES=1. bench/run histories does this.
func TestCarryHistories(t *testing.T) {
	histories, first := setting("HASHIKE_HISTORIES", 12), setting("HASHIKE_SEED", 1)
	if os.Getenv("HASHIKE_CI") == "1" && !testing.Short() {
		histories = setting("HASHIKE_HISTORIES", 200)
	}
	var total tally
	var mu sync.Mutex
	next := first
	t.Run("of", func(t *testing.T) {
		for i := range min(runtime.GOMAXPROCS(0), histories) {
			t.Run(fmt.Sprint("worker ", i+1), func(t *testing.T) {
				t.Parallel()
				for !t.Failed() {
					mu.Lock()
					seed := next
					next++
					mu.Unlock()
					if seed >= first+histories {
						return
					}
					one := live(t, uint64(seed))
					mu.Lock()
					if total.add(one); total.Histories%100 == 0 {
						t.Logf("%d histories done", total.Histories)
					}
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("histories from seed %d: %+v", first, total)
	if histories >= 10 && !t.Failed() {
		for what, n := range map[string]int{"skipped": total.Skipped, "repeated": total.Repeated, "late": total.Late, "damaged": total.Damaged, "wrong clocks": total.Clocks,
			"rotations": total.Rotations, "pull-backs": total.PullBacks, "clean-ups": total.Cleaned} {
			if n == 0 {
				t.Errorf("no %s: the histories prove less than they say", what)
			}
		}
	}
}

// live is one history from its first day to the last.
func live(t *testing.T, seed uint64) tally {
	h := newHistory(t, seed)
	defer h.close()
	for h.truth.Before(begin().AddDate(2, 0, 0)) {
		h.step()
	}
	h.end()
	h.tally.Histories++
	return h.tally
}

func begin() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

func setting(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// tally is what happened, so that a reader sees that it did.
type tally struct {
	Histories, Bundles, Imports, Skipped, Repeated, Late, Damaged, Refused, Incomplete, Repairs, Receipts, LostReceipts, Clocks, Rotations, PullBacks, Cleaned, Published int
}

func (a *tally) add(b tally) {
	a.Bundles, a.Imports, a.Skipped, a.Repeated, a.Late = a.Bundles+b.Bundles, a.Imports+b.Imports, a.Skipped+b.Skipped, a.Repeated+b.Repeated, a.Late+b.Late
	a.Damaged, a.Refused, a.Incomplete, a.Repairs, a.Receipts = a.Damaged+b.Damaged, a.Refused+b.Refused, a.Incomplete+b.Incomplete, a.Repairs+b.Repairs, a.Receipts+b.Receipts
	a.LostReceipts, a.Clocks, a.Rotations, a.PullBacks = a.LostReceipts+b.LostReceipts, a.Clocks+b.Clocks, a.Rotations+b.Rotations, a.PullBacks+b.PullBacks
	a.Histories, a.Cleaned, a.Published = a.Histories+b.Histories, a.Cleaned+b.Cleaned, a.Published+b.Published
}

// version is one vendor state of a feed.
type version struct {
	serial uint64
	carry  packager.Carry
	blobs  map[feed.Digest]bool
}

// bundle is what the model knows of one bundle.
type bundle struct {
	number  uint64
	version int64
	created time.Time
	expires time.Time
	sites   []int
	base    uint64 // 0 is none
	era     int    // how often the key was replaced before
	dir     string
	state   map[string]*version
	carries map[feed.Digest]bool
	orders  int // how many orders it lists
}

// has are the blobs of the bundle's state.
func (b *bundle) has() map[feed.Digest]bool {
	out := map[feed.Digest]bool{}
	for _, v := range b.state {
		maps.Copy(out, v.blobs)
	}
	return out
}

type parcel struct {
	b       *bundle
	due     int // step
	damaged bool
}

// site is an inside and its model.
type site struct {
	n     int
	dir   state.Dir
	db    *state.DB
	store *cas.Store
	pub   *mirror.Publisher
	now   func() time.Time

	wrong    time.Duration // of its clock
	floor    time.Time
	accepted *bundle
	held     map[feed.Digest]bool // blobs
	shown    map[uint64]*bundle   // receipts that bind
	parcels  []parcel
	receipts []string // on their way
	feeds    map[string]*desk
	lateSet  bool // the accepted set is held for a person
}

// desk is the model of one feed's publishing.
type desk struct {
	current uint64          // FeedState.Serial
	known   map[uint64]bool // accepted serial → late
	barred  map[uint64]bool
	orders  int // known here
	serves  uint64
	stopped bool
	hold    uint64
	applied map[int]bool
}

type history struct {
	t       *testing.T
	seed    uint64
	rnd     *rand.Rand
	dir     string
	at      int // step
	truth   time.Time
	wrong   time.Duration // of the outside's clock
	out     state.Dir
	db      *state.DB
	store   *cas.Store
	keys    []packager.RootKey
	pool    [][]byte
	digests []feed.Digest
	word    map[int]bool // sites whose base is an operator's word, not a receipt
	serial  uint64
	vendor  map[string]map[string]int // feed → path → content
	state   map[string]*version
	bundles []*bundle
	last    int64 // version
	sites   []*site
	bases   map[int]*bundle
	orders  []feed.Order
	rotate  []int // steps at which the key is replaced
	pull    []int
	era     int
	tally   tally
	log     []string
}

func (h *history) failf(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("HASHIKE_SEED=%d HASHIKE_HISTORIES=1, step %d: %s\n  %s", h.seed, h.at, fmt.Sprintf(format, args...), strings.Join(h.log, "\n  "))
}

func (h *history) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.failf("%v", err)
	}
}

func (h *history) note(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf("%d %s ", h.at, h.truth.Format(time.DateOnly))+fmt.Sprintf(format, args...))
}

func (h *history) chance(percent int) bool { return h.rnd.IntN(100) < percent }

func feedNames() []string { return []string{"alpha", "beta", "gamma"} }

// memory is a directory in which flushing costs nothing, where there is one.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "hashike-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 26)), truth: begin(), dir: memory(t),
		vendor: map[string]map[string]int{}, state: map[string]*version{}, bases: map[int]*bundle{}, word: map[int]bool{}}
	h.out = state.Dir(filepath.Join(h.dir, "outside"))
	h.db = state.At(h.out, "test")
	h.ok(h.db.Create("outside", 0))
	h.ok(packager.CreateKeys(h.out, []string{"a", "b", "c"}, h.truth, func(k []packager.RootKey) error { h.keys = k[:2]; return nil }))
	var err error
	h.store, err = cas.Open(string(h.out), h.clock)
	h.ok(err)
	for i := range 40 {
		n := 20 + h.rnd.IntN(3000)
		if i == 0 {
			n = 1<<20 + 1 // a file of its own
		}
		h.pool = append(h.pool, bytes.Repeat([]byte(fmt.Sprintf("%d/%d ", seed, i)), n)[:n])
		h.digests = append(h.digests, feed.DigestOf(h.pool[i]))
	}
	for n := 1; n <= 3; n++ {
		h.sites = append(h.sites, h.newSite(n))
	}
	for range 3 {
		h.rotate = append(h.rotate, 1+h.rnd.IntN(18))
	}
	for range 2 {
		h.pull = append(h.pull, 2+h.rnd.IntN(15))
	}
	for _, f := range feedNames() {
		h.vendor[f] = map[string]int{}
		h.release(f)
	}
	return h
}

func (h *history) newSite(n int) *site {
	s := &site{n: n, dir: state.Dir(filepath.Join(h.dir, fmt.Sprint("inside-", n))), floor: h.truth, held: map[feed.Digest]bool{}, shown: map[uint64]*bundle{}, feeds: map[string]*desk{}}
	s.db = state.At(s.dir, "test")
	s.now = func() time.Time { return h.truth.Add(s.wrong) }
	file := filepath.Join(h.dir, packager.SetupName)
	print, err := packager.WriteSetup(h.out, n, file, h.truth)
	h.ok(err)
	h.ok(packager.Pair(s.dir, file, print))
	h.ok(os.Remove(file))
	s.store, err = cas.Open(string(s.dir), s.now)
	h.ok(err)
	s.pub = mirror.NewPublisher(mirror.Options{Data: s.dir, DB: s.db, Store: s.store, Feeds: slices.Collect(maps.Values(setups())), Clock: s.reference, Who: "tester"})
	for _, f := range feedNames() {
		s.feeds[f] = &desk{known: map[uint64]bool{}, barred: map[uint64]bool{}, applied: map[int]bool{}}
	}
	return s
}

func setups() map[string]feed.Setup {
	out := map[string]feed.Setup{}
	for _, f := range feedNames() {
		out[f] = feed.Setup{Name: f, Kind: feed.Kind{Name: "tiny"}, Feed: plain{}, Waits: map[string]feed.Duration{"test": 0, "pilot": 0, "all": 0}}
	}
	return out
}

func (h *history) close() {
	h.store.Close()
	for _, s := range h.sites {
		s.store.Close()
	}
	os.RemoveAll(h.dir)
}

func (h *history) clock() time.Time { return h.truth.Add(h.wrong) }

// release is a new state of one feed: contents come, go and come back.
func (h *history) release(name string) {
	files := h.vendor[name]
	for range 1 + h.rnd.IntN(4) {
		p := fmt.Sprint("f", h.rnd.IntN(8))
		if h.chance(25) {
			delete(files, p)
		} else {
			files[p] = h.rnd.IntN(len(h.pool))
		}
	}
	files["signature"] = h.rnd.IntN(len(h.pool))
	b := h.store.NewSnapshot()
	v := &version{blobs: map[feed.Digest]bool{}}
	for p, i := range files {
		d, _, err := h.store.Put(context.Background(), bytes.NewReader(h.pool[i]), "")
		h.ok(err)
		h.ok(b.Add(feed.Artifact{Path: p, Digest: d, Class: feed.Security}))
		v.blobs[d] = true
	}
	h.serial++
	v.serial = h.serial
	s, err := b.Commit(feed.Header{Feed: name, Kind: "tiny", Serial: v.serial, Taken: h.truth})
	h.ok(err)
	v.carry = packager.Carry{Snapshot: s}
	h.state[name] = v
}

// step is some weeks.
func (h *history) step() {
	h.at++
	h.truth = h.truth.Add(time.Duration(7+h.rnd.IntN(60)) * 24 * time.Hour)
	h.clocks()
	for _, f := range feedNames() {
		if h.chance(60) {
			h.release(f)
		}
	}
	for range count(h.pull, h.at) {
		f := feedNames()[h.rnd.IntN(3)]
		o, _, err := packager.Issue(h.db, feed.Order{Schema: 1, Kind: feed.OrderPullBack, Feed: f, Serial: h.state[f].serial,
			Reason: "the vendor took it back", Operator: "o", Issued: h.truth}, nil, "o", nil, h.truth)
		h.ok(err)
		h.orders = append(h.orders, o)
		h.note("pull-back of %s %d", f, h.state[f].serial)
		h.release(f)
		h.tally.PullBacks++
	}
	for range count(h.rotate, h.at) {
		_, err := packager.Rotate(h.db, h.keys, packager.Change{Bundle: true}, nil, "tester", h.truth)
		h.ok(err)
		h.era++
		h.tally.Rotations++
		h.note("key replaced")
	}
	h.mail()
	if b := h.pack(); b != nil {
		h.send(b)
	}
	for _, s := range h.sites {
		h.deliver(s)
	}
}

func count(list []int, v int) (n int) {
	for _, x := range list {
		if x == v {
			n++
		}
	}
	return n
}

// clocks sets clocks wrong and right again.
func (h *history) clocks() {
	wrong := func() time.Duration { return time.Duration(h.rnd.IntN(2*3650)-3650) * 24 * time.Hour }
	if h.wrong = 0; h.chance(5) {
		h.wrong = wrong()
		h.tally.Clocks++
	} else if h.chance(5) {
		h.wrong = time.Duration(h.rnd.IntN(25*24)) * time.Hour // nobody can notice
		h.tally.Clocks++
	}
	for _, s := range h.sites {
		if h.chance(50) {
			s.wrong = 0
		}
		if h.chance(10) {
			s.wrong = wrong()
			h.tally.Clocks++
			h.note("site %d: clock wrong by %d days", s.n, int(s.wrong.Hours()/24))
		}
	}
}

// mail brings receipts outside; some get lost, some wait.
func (h *history) mail() {
	for _, s := range h.sites {
		var later []string
		for _, code := range s.receipts {
			switch {
			case h.chance(30):
				h.tally.LostReceipts++
			case h.chance(20):
				later = append(later, code)
			default:
				r, err := packager.EnterReceipt(h.db, code, "tester", h.clock())
				h.ok(err)
				b := h.bundle(r.Number)
				if r.Site != s.n || b == nil || r.Moved != (h.bases[s.n] == nil || b.number > h.bases[s.n].number) {
					h.failf("receipt %s of site %d: %+v", code, s.n, r)
				}
				if r.Moved {
					h.bases[s.n], h.word[s.n] = b, false
				}
			}
		}
		s.receipts = later
	}
	if h.chance(8) && len(h.bundles) > 0 { // somebody says what is not so
		n, b := 1+h.rnd.IntN(3), h.bundles[h.rnd.IntN(len(h.bundles))]
		err := packager.SetBase(h.db, n, b.number, "tester", h.clock())
		if !slices.Contains(b.sites, n) { // what is not so on the face of it
			if code(err) != "H-663" {
				h.failf("base of site %d set to %d, of sites %v: %v", n, b.number, b.sites, err)
			}
			return
		}
		h.ok(err)
		h.bases[n], h.word[n] = b, true
		h.note("base of site %d set to %d by word", n, b.number)
	}
}

func (h *history) bundle(number uint64) *bundle {
	i := slices.IndexFunc(h.bundles, func(b *bundle) bool { return b.number == number })
	if i < 0 {
		return nil
	}
	return h.bundles[i]
}

// pack makes a bundle for some or all sites, or finds that the clock is wrong.
func (h *history) pack() *bundle {
	to := []int{1, 2, 3}
	if h.chance(25) {
		h.rnd.Shuffle(3, func(i, j int) { to[i], to[j] = to[j], to[i] })
		to = to[:1+h.rnd.IntN(2)]
		slices.Sort(to)
	}
	o := h.options(to)
	if h.chance(30) {
		o.Parity = 10
	}
	complete := h.chance(8)
	if !complete {
		h.ok(h.db.View(func(tx state.Tx) error {
			bases, err := packager.SiteBases(tx, to)
			if len(bases) > 0 {
				o.Base, o.Others = &bases[0], bases[1:]
			}
			return err
		}))
	}
	var known map[feed.Digest]bool // what every receiver has
	if !complete && !slices.ContainsFunc(to, func(n int) bool { return h.bases[n] == nil }) {
		for i, n := range to {
			if has := h.bases[n].has(); i == 0 {
				known = has
			} else {
				maps.DeleteFunc(known, func(d feed.Digest, _ bool) bool { return !has[d] })
			}
		}
	}
	return h.made(o, known)
}

func (h *history) options(to []int) packager.PackOptions {
	o := packager.PackOptions{Data: h.out, DB: h.db, Store: h.store, Sites: to, To: filepath.Join(h.dir, "media", strconv.Itoa(len(h.log))),
		Now: h.clock(), NewestSigned: h.truth.Add(-48 * time.Hour), Who: "tester"}
	for _, f := range feedNames() {
		o.Feeds = append(o.Feeds, h.state[f].carry)
	}
	return o
}

// made packs and judges the outcome.
func (h *history) made(o packager.PackOptions, known map[feed.Digest]bool) *bundle {
	r, err := packager.Pack(context.Background(), o)
	now := h.clock()
	if ahead := now.Sub(h.truth); ahead < -48*time.Hour || ahead > 28*24*time.Hour || h.last+1 > now.Add(24*time.Hour).Unix() {
		if code(err) != "H-802" {
			h.failf("the outside's clock is wrong by %s, and pack says %v", ahead, err)
		}
		h.note("not packed: clock wrong by %d days", int(h.wrong.Hours()/24))
		return nil
	}
	h.ok(err)
	h.last = max(h.last+1, now.Unix())
	b := &bundle{number: r.Number, version: h.last, created: r.Created, expires: r.Expires, sites: r.Sites, base: r.Packed.Base, era: h.era, dir: o.To, state: maps.Clone(h.state),
		orders: len(h.orders)}
	if o.Need == nil {
		b.carries = b.has()
		maps.DeleteFunc(b.carries, func(d feed.Digest, _ bool) bool { return known[d] })
		if int64(len(b.carries)) != r.Blobs {
			h.failf("bundle %d carries %d blobs, the model says %d", r.Number, r.Blobs, len(b.carries))
		}
	}
	h.bundles = append(h.bundles, b)
	h.tally.Bundles++
	h.note("bundle %d for %v, base %d, era %d, %d blobs", b.number, b.sites, b.base, b.era, r.Blobs)
	return b
}

// send puts the bundle into the parcels of its sites, and sometimes of others.
func (h *history) send(b *bundle) {
	for _, s := range h.sites {
		if !slices.Contains(b.sites, s.n) && !h.chance(10) {
			continue
		}
		if h.chance(20) {
			h.tally.Skipped++
			h.note("site %d never gets %d", s.n, b.number)
			continue
		}
		p := parcel{b: b, due: h.at, damaged: h.chance(5)}
		if h.chance(10) {
			p.due += 1 + h.rnd.IntN(3)
			h.tally.Late++
		}
		s.parcels = append(s.parcels, p)
		if h.chance(10) {
			h.tally.Repeated++
			s.parcels = append(s.parcels, parcel{b: b, due: p.due + h.rnd.IntN(3)})
		}
	}
}

// deliver imports what has arrived, publishes, sometimes cleans up, and writes a receipt.
func (h *history) deliver(s *site) {
	var later []parcel
	var here []parcel
	for _, p := range s.parcels {
		if p.due > h.at {
			later = append(later, p)
		} else {
			here = append(here, p)
		}
	}
	s.parcels = later
	h.rnd.Shuffle(len(here), func(i, j int) { here[i], here[j] = here[j], here[i] })
	for _, p := range here {
		if p.damaged {
			h.damaged(s, p.b)
		} else {
			h.take(s, p.b)
		}
	}
	h.publish(s)
	if h.chance(20) {
		h.clean(s)
	}
	if h.chance(60) {
		h.receipt(s)
	}
	if h.chance(30) {
		h.repair(s)
	}
}

func (h *history) importInto(s *site, dir string) (mirror.ImportReport, error) {
	h.tally.Imports++
	return mirror.Import(context.Background(), mirror.ImportOptions{Data: s.dir, DB: s.db, Store: s.store, Feeds: setups(), Clock: s.now, Who: "tester",
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Verify: func(context.Context, feed.Setup, feed.Content, state.FeedState) (mirror.Verdict, error) {
			return mirror.Verdict{Weakest: feed.Signed}, nil
		}}, []string{dir})
}

// reference is the time at which a site judges expiry.
func (s *site) reference() time.Time {
	if now := s.now(); now.After(s.floor) {
		return now
	}
	return s.floor
}
