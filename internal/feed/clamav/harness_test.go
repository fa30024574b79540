package clamav

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

var taken = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// clamFile returns one of the ClamAV project's own test files: from the sample
// collection, or from a directory of Debian's clamav source package.
func clamFile(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_CLAMAV_TESTFILES")
	if samples := os.Getenv("HASHIKE_SAMPLES"); samples != "" {
		dir = filepath.Join(samples, "clamav", "freshclam_testfiles")
	}
	if dir == "" {
		missing(t, "neither HASHIKE_SAMPLES nor HASHIKE_CLAMAV_TESTFILES is set")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		missing(t, err.Error())
	}
	return b
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// spoolOf makes a spool directory of vendor files.
func spoolOf(t testing.TB, names ...string) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{}
	for _, n := range names {
		put(t, fsys, n, n)
	}
	return fsys
}

// put places the vendor's file under a name; "test-6.cvd" as "test.cvd".
func put(t testing.TB, fsys fstest.MapFS, name, from string) {
	t.Helper()
	fsys[name] = &fstest.MapFile{Data: clamFile(t, from), Mode: 0o644, ModTime: taken}
}

func version(t testing.TB, fsys fstest.MapFS, n int) {
	t.Helper()
	put(t, fsys, "test.cvd", "test-"+strconv.Itoa(n)+".cvd")
}

type snapshot = feedtest.Memory

// outside is an Upstream and a Sink in memory.
type outside struct {
	spool    fs.FS
	http     *http.Client
	blobs    map[feed.Digest][]byte
	next     *snapshot
	requests []string
	puts     []string
	onPut    func(name string)
}

func newOutside(spool fs.FS) *outside {
	return &outside{spool: spool, blobs: map[feed.Digest][]byte{}, http: http.DefaultClient}
}

func (o *outside) Dir(name string) (fs.FS, error) {
	if name != "spool" || o.spool == nil {
		return nil, fs.ErrNotExist
	}
	return o.spool, nil
}

func (o *outside) get(r feed.Request) (*http.Response, []byte, error) {
	u, _ := url.Parse(r.URL)
	o.requests = append(o.requests, u.Path)
	req, err := http.NewRequest(http.MethodGet, r.URL, nil)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(req.Header, r.Header)
	res, err := o.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return nil, nil, &feed.StatusError{URL: r.URL, Status: res.StatusCode}
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, r.Limit+1))
	if int64(len(b)) > r.Limit {
		err = feed.ErrUpstream
	}
	return res, b, err
}

func (o *outside) Do(_ context.Context, r feed.Request) (*feed.Response, error) {
	res, b, err := o.get(r)
	if err != nil {
		return nil, err
	}
	return &feed.Response{Status: res.StatusCode, Header: res.Header, Body: b}, nil
}

func (o *outside) Load(_ context.Context, r feed.Request, _ feed.Want) (feed.Blob, error) {
	_, b, err := o.get(r)
	if err != nil {
		return nil, err
	}
	o.blobs[feed.DigestOf(b)] = b
	return feedtest.Blob(b), nil
}

func (o *outside) Put(_ context.Context, name string, r io.Reader) (feed.Blob, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	o.puts = append(o.puts, name)
	o.blobs[feed.DigestOf(b)] = b
	if o.onPut != nil {
		o.onPut(name)
	}
	return feedtest.Blob(b), nil
}

func (o *outside) Add(a feed.Artifact) error { return o.next.Add(a) }

// fetch runs the kind once.
func (o *outside) fetch(t testing.TB, f feed.Feed, prev *snapshot) (*snapshot, error) {
	t.Helper()
	o.requests, o.puts = nil, nil
	o.next = feedtest.NewMemory(feed.Header{Feed: "clamav", Kind: "clamav", Serial: 1, Taken: taken})
	o.next.Blobs, o.next.Time = o.blobs, taken
	var p feed.Content
	if prev != nil {
		p = prev
		o.next.Head.Serial = prev.Head.Serial + 1
	}
	state, err := f.Fetch(t.Context(), o, p, o)
	if err != nil {
		return nil, err
	}
	o.next.Head.State = state
	return o.next, nil
}

// newKind makes the feed as a configuration would.
func newKind(t testing.TB, set func(*Config)) feed.Feed {
	t.Helper()
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.Databases = []string{"test"}
		if set != nil {
			set(c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// testTrust has the vendor's legacy keys and, for the detached signatures, the
// root of the vendor's tests in place of the production one.
func testTrust(t testing.TB) feed.Trust {
	t.Helper()
	tr := feed.Trust{At: taken}
	for _, a := range verifier.ClamAVAnchors() {
		if a.Use != "clamav-sign" {
			tr.Anchors = append(tr.Anchors, a)
		}
	}
	if dir := os.Getenv("HASHIKE_SAMPLES"); dir != "" {
		b, err := os.ReadFile(filepath.Join(dir, "clamav", "certs", "clamav-unit-test-root.crt"))
		if err != nil {
			missing(t, err.Error())
		}
		tr.Anchors = append(tr.Anchors, feed.Anchor{Name: "test root", Use: "clamav-sign", Data: b})
	}
	return tr
}

// judge runs the engine over a snapshot.
func judge(t testing.TB, f feed.Feed, s *snapshot, trust feed.Trust, marks map[string]int64) (verifier.Verdict, error) {
	t.Helper()
	return verifier.Run(context.Background(), verifier.Job{
		Setup:   feed.Setup{Name: "clamav", Kind: Kind(), Feed: f},
		Content: s, Trust: trust, Marks: marks, Policy: verifier.Policy{Floors: Kind().Floors},
	})
}

// mirror serves whatever view is set.
type mirror struct {
	*httptest.Server
	mu       sync.Mutex
	view     feed.View
	ok       bool
	requests []string
}

func (m *mirror) current() (feed.View, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view, m.ok
}

// set changes what is served.
func (m *mirror) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// asked returns the requests since the last call.
func (m *mirror) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.requests
	m.requests = nil
	return r
}

func newMirror(t testing.TB, f feed.Feed) *mirror {
	t.Helper()
	m := &mirror{}
	h, err := f.Handler(feed.Serving{
		Feed: "clamav", View: func(string) (feed.View, bool) { return m.current() },
		Ring: func(*http.Request) string { return "all" }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Server = httptest.NewServer(http.StripPrefix("/av/clamav", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.set(func() { m.requests = append(m.requests, r.URL.Path) })
		h.ServeHTTP(w, r)
	})))
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) base() *url.URL {
	u, _ := url.Parse(m.URL + "/av/clamav/")
	return u
}

func (m *mirror) publish(s *snapshot) {
	m.set(func() {
		if m.ok {
			m.view.Older = append([]feed.Content{m.view.Content}, m.view.Older...)
		}
		m.view.Content, m.ok = s, true
	})
}

// forget leaves nothing published.
func (m *mirror) forget() { m.set(func() { m.view, m.ok = feed.View{}, false }) }
