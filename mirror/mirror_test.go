package mirror

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// fake is a kind that serves a plain tree, with every ability the mirror asks for.
type fake struct{}

func (fake) Fetch(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
	return "", feed.ErrUnchanged
}
func (fake) Verify(context.Context, feed.Content, feed.Trust, feed.Proof) error { return nil }
func (fake) Handler(s feed.Serving) (http.Handler, error)                       { return feed.FileHandler(s), nil }

// deriving builds one file per snapshot and serves it as /derived.
type deriving struct{ fake }

func (deriving) Derives() []string { return []string{"sub/index"} }

func (deriving) Derive(_ context.Context, c feed.Content, prev fs.FS, out func(string, io.Reader) error) error {
	before := "nothing"
	if prev != nil {
		b, err := fs.ReadFile(prev, "sub/index")
		if err != nil {
			return err
		}
		before = string(b)
	}
	return out("sub/index", strings.NewReader(fmt.Sprintf("index of %d after (%.40s)", c.Header().Serial, before)))
}

func (deriving) Handler(s feed.Serving) (http.Handler, error) {
	files := feed.FileHandler(s)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, ok := s.View(s.Ring(r)); ok && r.URL.Path == "/derived" {
			http.ServeFileFS(w, r, v.Derived, "sub/index")
			return
		}
		files.ServeHTTP(w, r)
	}), nil
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	return c.at
}

var begin = time.Date(2026, 11, 22, 5, 5, 0, 0, time.UTC)

// inside is a data directory with its engines.
type inside struct {
	t     testing.TB
	dir   state.Dir
	db    *state.DB
	store *cas.Store
	clock *clock
	rings Rings
	feeds []feed.Setup
	pub   *Publisher
}

func staged() Rings {
	return Rings{
		Test:  Members{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}, Hosts: []string{"test.mirror.example"}},
		Pilot: Members{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")}},
	}
}

func newInside(t testing.TB, dir string, rings Rings) *inside {
	t.Helper()
	in := &inside{t: t, dir: state.Dir(dir), clock: &clock{at: begin}, rings: rings}
	in.db = state.At(in.dir, "test")
	if _, err := os.Stat(in.dir.DB()); err != nil {
		if err := in.db.Create("inside", 1); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if in.store, err = cas.Open(dir, in.clock.now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.store.Close() })
	kind := feed.Kind{Name: "fake", Title: feed.Text{JA: "試し", EN: "trial"}}
	in.feeds = []feed.Setup{
		{Name: "slow", Kind: kind, Feed: fake{}, Mount: "/slow/", Prefer: feed.Security},
		{Name: "av", Kind: kind, Feed: deriving{}, Mount: "/slow/av/", Prefer: feed.Definition},
	}
	in.open()
	return in
}

func (in *inside) open() {
	in.pub = NewPublisher(Options{Data: in.dir, DB: in.db, Store: in.store, Feeds: in.feeds, Clock: in.clock.now, Rings: in.rings, Who: "tester"})
}

// snapshot stores one; files are path → content.
func (in *inside) snapshot(name string, serial uint64, files map[string]string) *cas.Snapshot {
	in.t.Helper()
	b := in.store.NewSnapshot()
	for p, content := range files {
		d, n, err := in.store.Put(context.Background(), strings.NewReader(content), "")
		if err != nil {
			in.t.Fatal(err)
		}
		class := feed.Security
		if strings.HasPrefix(p, "index") {
			class = feed.Metadata
		}
		if err := b.Add(feed.Artifact{Path: p, Digest: d, Size: n, Class: class, Version: fmt.Sprint(serial), Time: begin.Add(-48 * time.Hour)}); err != nil {
			in.t.Fatal(err)
		}
	}
	s, err := b.Commit(feed.Header{Feed: name, Kind: "fake", Serial: serial, Taken: in.clock.now()})
	if err != nil {
		in.t.Fatal(err)
	}
	return s
}

// accept is what import does with a verified snapshot.
func (in *inside) accept(name string, serial uint64, files map[string]string) {
	in.t.Helper()
	in.acceptSnapshot(in.snapshot(name, serial, files), false)
}

func (in *inside) acceptSnapshot(s *cas.Snapshot, late bool) {
	in.t.Helper()
	h := s.Header()
	err := in.db.Update(func(tx state.Tx) error {
		return Accept(tx, h.Feed, state.FeedState{
			Kind: "fake", Serial: h.Serial, ID: s.ID(), Taken: h.Taken, Accepted: in.clock.now(), Weakest: feed.Signed, Bundle: 412,
		}, late)
	})
	if err != nil {
		in.t.Fatal(err)
	}
}

func (in *inside) advance() []Generation {
	in.t.Helper()
	g, err := in.pub.Advance(context.Background(), in.clock.now())
	if err != nil {
		in.t.Fatal(err)
	}
	return g
}

// rings is what each ring's newest generation names.
func (in *inside) sees(name string) string {
	var out []string
	for _, ring := range feed.Rings() {
		gens, _, err := Generations(in.dir, ring, name)
		if err != nil {
			in.t.Fatal(err)
		}
		g := first(gens)
		s := fmt.Sprint(g.Serial)
		if g.Stopped {
			s = "stopped"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func (in *inside) want(name, want string) {
	in.t.Helper()
	if got := in.sees(name); got != want {
		in.t.Fatalf("rings of %s see %q, want %q", name, got, want)
	}
}

func (in *inside) server(listen ...Listen) *Server {
	in.t.Helper()
	if len(listen) == 0 {
		listen = []Listen{{Addr: "127.0.0.1:0", Page: true}, {Addr: "127.0.0.1:0", Admin: true}}
	}
	s, err := NewServer(ServerOptions{
		Data: in.dir, Store: in.store, Feeds: in.feeds, Listen: listen, Rings: in.rings, Clock: in.clock.now,
		Side: feed.Text{JA: "内側（LGWAN接続系）", EN: "Inside (LGWAN)"}, Poll: 20 * time.Millisecond,
	})
	if err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { s.Close() })
	return s
}

// ask requests path as a terminal with the given address.
func ask(h http.Handler, from, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.RemoteAddr = from + ":40000"
	r.Host = "mirror.example"
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else if header[i] == "Method" {
			r.Method = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func got(w *httptest.ResponseRecorder) string {
	return fmt.Sprintf("%d %s", w.Code, strings.TrimSpace(w.Body.String()))
}
