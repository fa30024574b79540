package wsus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/wsus/terminal"
	"github.com/hashike/hashike/verifier"
)

var taken = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// dropOf is a drop directory with genuine unpacked updates ("win8.1", "win6.1").
func dropOf(t testing.TB, names ...string) fstest.MapFS {
	t.Helper()
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	out := fstest.MapFS{}
	for _, n := range names {
		dir := filepath.Join(samples, "microsoft", "msu-kb2999226", n)
		all, err := os.ReadDir(dir)
		if err != nil {
			missing(t, err.Error())
		}
		for _, e := range all {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out[n+"/"+e.Name()] = &fstest.MapFile{Data: b, Mode: 0o644, ModTime: taken}
		}
	}
	return out
}

const (
	payload81 = "Content/A2/587E857B12E8DE7C7CDF409929D5DD8C8B2684A2.cab"
	file81    = "win8.1/Windows8.1-KB2999226-x64.cab"
	scan81    = "win8.1/WSUSSCAN.cab"
)

type snapshot = feedtest.Memory

type outside struct {
	drop fs.FS
	*snapshot
}

func (o *outside) Do(context.Context, feed.Request) (*feed.Response, error) {
	return nil, errors.New("no network here")
}
func (o *outside) Load(context.Context, feed.Request, feed.Want) (feed.Blob, error) {
	return nil, errors.New("no network here")
}
func (o *outside) Dir(string) (fs.FS, error) { return o.drop, nil }

// windows is an empty snapshot of this feed, the next after prev, with its blobs.
func windows(prev *snapshot) *snapshot {
	s := feedtest.NewMemory(feed.Header{Feed: "windows", Kind: "wsus", Serial: 1, Taken: taken})
	if s.Time = taken; prev != nil {
		s.Blobs, s.Head.Serial = prev.Blobs, prev.Head.Serial+1
	}
	return s
}

func newKind(t testing.TB, groups map[string]string) *updates {
	t.Helper()
	f, err := newFeed(func(into any) error { into.(*Config).Groups = groups; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return f.(*updates)
}

// take runs Fetch once.
func take(f feed.Feed, drop fs.FS, prev *snapshot) (*snapshot, error) {
	o := &outside{drop, windows(prev)}
	var p feed.Content
	if prev != nil {
		p = prev
	}
	state, err := f.Fetch(context.Background(), o, p, o)
	o.Head.State = state
	return o.snapshot, err
}

func fetched(t testing.TB, f feed.Feed, drop fs.FS, prev *snapshot) *snapshot {
	t.Helper()
	s, err := take(f, drop, prev)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judge runs the engine over a snapshot.
func judge(f feed.Feed, s *snapshot) (verifier.Verdict, error) {
	return verifier.Run(context.Background(), verifier.Job{
		Setup: feed.Setup{Name: "windows", Kind: Kind(), Feed: f}, Content: s,
		Trust: feed.Trust{Anchors: verifier.MicrosoftAnchors(), At: taken}, Policy: verifier.Policy{Floors: Kind().Floors},
	})
}

// ledger remembers and lists what was seen.
type ledger struct {
	mu    sync.Mutex
	seen  []feed.Sighting
	known map[string]*feed.Terminal
}

func (l *ledger) Change(name, id string, f func(*feed.Terminal)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.known[name+"/"+id]
	if !ok {
		if l.known == nil {
			l.known = map[string]*feed.Terminal{}
		}
		t = &feed.Terminal{Feed: name, ID: id}
		l.known[name+"/"+id] = t
	}
	f(t)
}

func (l *ledger) Saw(s feed.Sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, s)
}

// site serves snapshots by ring.
type site struct {
	*httptest.Server
	t      testing.TB
	f      *updates
	views  map[string]feed.View
	ledger *ledger
	secret []byte
	h      http.Handler
}

func newSite(t testing.TB, f *updates) *site {
	s := &site{t: t, f: f, views: map[string]feed.View{}, ledger: &ledger{}, secret: bytes.Repeat([]byte{7}, 32)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.h.ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	return s
}

// publish derives and serves c to rings, and makes a new handler as the engine does.
func (s *site) publish(c *snapshot, v feed.View, rings ...string) {
	s.t.Helper()
	derived := fstest.MapFS{}
	var prev fs.FS
	if old, ok := s.views[rings[0]]; ok {
		prev = old.Derived
	}
	err := s.f.Derive(s.t.Context(), c, prev, func(name string, r io.Reader) error {
		b, err := io.ReadAll(r)
		derived[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	v.Content, v.Derived, v.Published = c, derived, taken
	for _, r := range rings {
		s.views[r] = v
	}
	s.open()
}

func (s *site) open() {
	s.t.Helper()
	base, _ := url.Parse("http://localhost/")
	h, err := s.f.Handler(feed.Serving{Feed: "windows", Ledger: s.ledger, Base: base, Secret: s.secret, Log: slog.New(slog.DiscardHandler),
		View: func(ring string) (feed.View, bool) { v, ok := s.views[ring]; return v, ok },
		Ring: func(*http.Request) string { return "all" }})
	if err != nil {
		s.t.Fatal(err)
	}
	s.h = h
}

func windows81() terminal.Machine {
	return terminal.Machine{Version: [5]int{6, 3, 9600, 0, 0}, Product: 1, Suite: 256, Arch: 9,
		Packages: map[string]string{"Microsoft-Windows-Client-Features-Package": "6.3.9600.16384"}}
}

func (s *site) terminal(group string) *terminal.Terminal {
	s.t.Helper()
	a := &terminal.Terminal{Base: s.URL, Do: s.Client().Do, Machine: windows81(), ID: "6F1D3C1E-0D3B-4B4A-9F0A-1C2D3E4F5A6B", Name: "pc0001", Group: group}
	if err := a.Begin(); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// needs is what a fresh scan comes to.
func needs(t testing.TB, a *terminal.Terminal) (ids []string) {
	t.Helper()
	if err := a.Scan(); err != nil {
		t.Fatal(err)
	}
	for _, u := range a.Needed() {
		ids = append(ids, u.UpdateID)
	}
	return ids
}

// sample is one file of the sample collection.
func sample(t testing.TB, name ...string) []byte {
	t.Helper()
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{samples}, name...)...))
	if err != nil {
		missing(t, err.Error())
	}
	return b
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
