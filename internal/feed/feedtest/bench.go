package feedtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/fetcher"
	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/verifier"
)

// bench is one outside with one feed, and the vendor it fetches from.
type bench struct {
	c      *Case
	root   string // the data directory is deep inside, so that an escape is seen
	db     *state.DB
	store  *cas.Store
	fetch  *fetcher.Fetcher
	up     *upstream
	setup  feed.Setup
	orders func(feed.Header) []feed.Order // nil is none
	clock  time.Time
	last   judgement
}

// judgement is what one verification said.
type judgement struct {
	verdict  verifier.Verdict
	evidence []feed.Evidence
	document []byte
	err      error
}

const (
	patience = 30 * time.Second // how long a test waits for what should come at once
	settle   = 5 * time.Second  // how long what was cancelled may take to be gone
	stall    = 250 * time.Millisecond
)

// quickDir is a temporary directory in memory where there is one: hundreds of
// snapshots are flushed here, and none has to survive a power cut.
func quickDir(t testing.TB) string {
	t.Helper()
	const memory = "/dev/shm"
	if free, err := durable.Free(memory); err != nil || free < 1<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "feedtest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (c *Case) bench(t testing.TB) *bench {
	t.Helper()
	b := &bench{c: c, root: quickDir(t), clock: c.Time}
	spool := ""
	if c.Dir != "" {
		spool = filepath.Join(t.TempDir(), c.Dir)
	}
	b.up = newUpstream(t, spool)
	b.setup = c.setup(t, b.up)
	data := state.Dir(filepath.Join(b.root, "deep", "below", "data"))
	if err := os.MkdirAll(string(data), 0o700); err != nil {
		t.Fatal(err)
	}
	b.db = state.At(data, "feedtest")
	if err := b.db.Create("outside", 1); err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return b.clock }
	var err error
	if b.store, err = cas.Open(string(data), now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	b.fetch, err = fetcher.New(fetcher.Options{Data: data, DB: b.db, Store: b.store, Clock: now, Who: "feedtest", Verify: b.verify,
		Network: fetcher.Network{Proxy: "none", PerHost: 4, Timeouts: fetcher.Timeouts{
			Backoff: time.Millisecond, Patience: 10 * time.Millisecond, Stall: stall, Tries: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.fetch.Close)
	return b
}

// text is a configuration with the case's feed; extra lines come first in its block.
func (c *Case) text(u *upstream, extra string) string {
	dirs := ""
	if c.Dir != "" {
		dirs = fmt.Sprintf("dirs = { %s = '%s' }\n", c.Dir, u.dir)
	}
	block := strings.ReplaceAll(c.Config, "{url}", u.URL+strings.TrimSuffix(below, "/"))
	return fmt.Sprintf("schema = 1\nside = \"outside\"\n[feed.%s]\nkind = %q\n%s%s%s\n", name, c.Kind.Name, dirs, extra, block)
}

func (c *Case) setup(t testing.TB, u *upstream) feed.Setup {
	t.Helper()
	f, err := config.Parse("hashike.toml", c.text(u, ""), []feed.Kind{c.Kind})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Feed(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fresh makes the outside as it was before its first fetch. A new one would
// cost hundreds of directories.
func (b *bench) fresh(t testing.TB) {
	t.Helper()
	data := string(b.db.Dir())
	for _, dir := range []string{"snapshots", "quarantine", "evidence"} {
		if err := os.RemoveAll(filepath.Join(data, dir)); err != nil {
			t.Fatal(err)
		}
	}
	err := os.Mkdir(filepath.Join(data, "snapshots"), 0o700)
	if known, all := b.up.forget(); all {
		for d := range known {
			err = errors.Join(err, b.store.Delete(d))
		}
	} else {
		err = errors.Join(err, b.store.Walk(t.Context(), func(d feed.Digest, _ int64, _ time.Time) error { return b.store.Delete(d) }))
	}
	err = errors.Join(err, b.db.Update(func(tx state.Tx) error { return tx.PutFeed(name, state.FeedState{}) }))
	if err != nil {
		t.Fatal(err)
	}
	b.orders, b.clock = nil, b.c.Time
}

// spare is an outside before its first fetch, for a test to use alone.
func (h *history) spare(t testing.TB) *bench {
	t.Helper()
	h.other.fresh(t)
	return h.other
}

// run fetches once, a minute after the last time.
func (b *bench) run(ctx context.Context) (fetcher.Result, error) {
	b.clock = b.clock.Add(time.Minute)
	return b.fetch.Run(ctx, b.setup)
}

// at brings the vendor into a state and fetches; it must be accepted.
func (b *bench) at(t testing.TB, s State) *cas.Snapshot {
	t.Helper()
	b.up.set(t, s, b.clock)
	res, err := b.run(t.Context())
	if err != nil {
		t.Fatalf("genuine state refused: %v", err)
	}
	snap, err := b.store.Snapshot(name, res.Serial)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func (b *bench) state(t testing.TB) (st state.FeedState) {
	t.Helper()
	err := b.db.View(func(tx state.Tx) (err error) { st, err = tx.Feed(name); return err })
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (b *bench) verify(ctx context.Context, s feed.Setup, c feed.Content, prev state.FeedState) (fetcher.Verdict, error) {
	b.last = b.judge(ctx, c, prev.Marks)
	v := b.last.verdict
	return fetcher.Verdict{Marks: v.Marks, Withheld: v.Withheld, Weakest: v.Weakest}, b.last.err
}

// judge has the real verifier judge a snapshot.
func (b *bench) judge(ctx context.Context, c feed.Content, marks map[string]int64) judgement {
	var orders []feed.Order
	h := c.Header()
	if b.orders != nil {
		orders = b.orders(h)
	}
	if b.c.Except {
		orders = append(slices.Clone(orders), exception(h))
	}
	return b.under(ctx, c, marks, orders)
}

// under judges with these orders and no others.
func (b *bench) under(ctx context.Context, c feed.Content, marks map[string]int64, orders []feed.Order) judgement {
	h := c.Header()
	policy, err := verifier.BuildPolicy(b.setup.Kind.Floors, b.setup.Floors, orders, h.Feed, h.Serial, h.Taken)
	if err != nil {
		return judgement{err: err}
	}
	var doc bytes.Buffer
	j := judgement{}
	j.verdict, j.err = verifier.Run(ctx, verifier.Job{Setup: b.setup, Content: c, Policy: policy, Marks: marks, Side: "outside",
		Trust: verifier.BuildTrust(b.setup.Kind.Anchors, orders, h.Feed, h.Taken), Evidence: &doc})
	j.document = bytes.Clone(doc.Bytes())
	_, all, err := verifier.ReadEvidence(&doc)
	if err != nil {
		j.err = errors.Join(j.err, err)
		return j
	}
	for e, err := range all {
		if err != nil {
			j.err = errors.Join(j.err, err)
			break
		}
		j.evidence = append(j.evidence, e)
	}
	return j
}

// history is an outside that accepted Older, Now and Newer in turn.
type history struct {
	*bench
	other             *bench // see spare
	older, now, newer *cas.Snapshot
	marks             map[string]int64 // after Now
	verdict           judgement        // of Now
	first             int64            // requests of the first fetch
	clocks            [3]time.Time     // of the three
}

func (c *Case) history(t *testing.T) *history {
	t.Helper()
	b := c.bench(t)
	b.clock = c.Time.Add(-3 * time.Minute)
	h := &history{bench: b, other: c.bench(t)}
	h.older = b.at(t, c.Older)
	h.first = int64(len(b.up.requests()))
	h.clocks[0] = b.clock
	h.now = b.at(t, c.Now)
	h.verdict, h.marks, h.clocks[1] = b.last, b.state(t).Marks, b.clock
	h.newer = b.at(t, c.Newer)
	h.clocks[2] = b.clock
	if h.older.ID() == h.now.ID() || h.now.ID() == h.newer.ID() || h.older.Header().Serial == h.now.Header().Serial || h.now.Header().Serial == h.newer.Header().Serial {
		t.Fatal("Older, Now and Newer must be three different states")
	}
	if len(h.verdict.verdict.Withheld) > 0 {
		t.Fatalf("of the genuine state is withheld: %v", h.verdict.verdict.Withheld)
	}
	return h
}

// file is an artifact and its bytes, to be changed at will.
type file struct {
	feed.Artifact
	body []byte
}

// files reads a whole snapshot.
func files(t testing.TB, c feed.Content) []file {
	t.Helper()
	var out []file
	for a, err := range c.Artifacts() {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, file{a, readAll(t, c, a.Path)})
	}
	return out
}

// forge stores a snapshot of these files: its digests are right for the bytes,
// as an outside makes it whose vendor was tampered with.
func (b *bench) forge(t testing.TB, like feed.Header, list []file) *cas.Snapshot {
	t.Helper()
	n := b.store.NewSnapshot()
	for _, f := range list {
		d := feed.DigestOf(f.body)
		if _, ok := b.store.Stat(d); !ok {
			if _, _, err := b.store.Put(t.Context(), bytes.NewReader(f.body), d); err != nil {
				t.Fatal(err)
			}
		}
		f.Digest, f.Size = d, int64(len(f.body))
		if err := n.Add(f.Artifact); err != nil {
			t.Fatal(err)
		}
	}
	like.Serial += 1_000_000
	snap, err := n.Commit(like)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}
