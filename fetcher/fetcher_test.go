package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// fake is a feed whose Fetch is a function of the test.
type fake struct {
	reach []string
	fetch func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error)
}

func (k *fake) Reaches() []string { return k.reach }
func (k *fake) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	return k.fetch(ctx, up, prev, dst)
}
func (k *fake) Verify(context.Context, feed.Content, feed.Trust, feed.Proof) error { return nil }
func (k *fake) Handler(feed.Serving) (http.Handler, error)                         { return nil, nil }

type fetchFunc = func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error)

func setup(name string, srv *httptest.Server, f fetchFunc) feed.Setup {
	k := &fake{fetch: f}
	if srv != nil {
		k.reach = []string{srv.URL}
	}
	return feed.Setup{Name: name, Kind: feed.Kind{Name: "fake"}, Feed: k, Every: time.Hour}
}

// outside is a data directory of its own.
type outside struct {
	t     *testing.T
	dir   state.Dir
	db    *state.DB
	store *cas.Store
	opt   Options
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	dir := state.Dir(t.TempDir())
	db := state.At(dir, "test")
	if err := db.Create("outside", 1); err != nil {
		t.Fatal(err)
	}
	store, err := cas.Open(string(dir), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return &outside{t, dir, db, store, Options{
		Data: dir, DB: db, Store: store,
		Network: Network{Proxy: "none", UserAgent: "Hashike/test", Timeouts: Timeouts{Backoff: time.Millisecond}},
		Verify: func(context.Context, feed.Setup, feed.Content, state.FeedState) (Verdict, error) {
			return Verdict{Weakest: feed.Signed, Marks: map[string]int64{"m": 1}}, nil
		},
	}}
}

// fetcher makes a new Fetcher, as a restart of the program would.
func (o *outside) fetcher() *Fetcher {
	o.t.Helper()
	f, err := New(o.opt)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(f.Close)
	return f
}

func (o *outside) state(name string) (st state.FeedState) {
	o.t.Helper()
	if err := o.db.View(func(tx state.Tx) (err error) { st, err = tx.Feed(name); return err }); err != nil {
		o.t.Fatal(err)
	}
	return st
}

func load(url string, want feed.Want) fetchFunc {
	return func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
		b, err := dst.Load(ctx, feed.Request{URL: url, Limit: 64 << 20}, want)
		if err != nil {
			return "", err
		}
		return "s", dst.Add(feed.Artifact{Path: "file", Digest: b.Digest(), Class: feed.Feature})
	}
}

func wantCode(t *testing.T, err error, code string, class error) *feed.Fault {
	t.Helper()
	f, ok := errors.AsType[*feed.Fault](err)
	if !ok || f.Code != code || !errors.Is(err, class) {
		t.Fatalf("error %v: want code %s of class %v", err, code, class)
	}
	return f
}

func noise(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

func TestAcceptThenUnchanged(t *testing.T) {
	o := newOutside(t)
	body := []byte("definitions")
	var asked atomic.Int64
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if ua := r.Header.Get("User-Agent"); ua != "Hashike/test" {
			t.Errorf("User-Agent %q", ua)
		}
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(body)
	}))
	defer srv.Close()
	o.opt.Network.ExtraRoots = [][]byte{pemOf(srv.Certificate())}
	u := strings.Replace(srv.URL, "https://", "https://user:secret@", 1) + "/f"
	s := setup("demo", srv, func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
		if prev != nil {
			r, err := up.Do(ctx, feed.Request{URL: u, Limit: 100, ETag: prev.Header().State})
			if err != nil || !r.Unchanged {
				return "", fmt.Errorf("want 304, got %v %v", r, err)
			}
			return "", feed.ErrUnchanged
		}
		if _, err := load(u, feed.Want{Digest: feed.DigestOf(body)})(ctx, up, prev, dst); err != nil {
			return "", err
		}
		return `"1"`, nil
	})
	f := o.fetcher()
	res, err := f.Run(t.Context(), s)
	if err != nil || res.Artifacts != 1 || res.Serial == 0 {
		t.Fatal(res, err)
	}
	snap, err := o.store.Snapshot("demo", res.Serial)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := snap.Lookup("file")
	if a.Origin.URL != srv.URL+"/f" || !strings.Contains(a.Origin.Peer, "; sha256:") || !a.Origin.Inspected || a.Origin.Fetched.IsZero() {
		t.Errorf("origin %+v: want no credentials, a peer, inspected", a.Origin)
	}
	before := o.state("demo")
	if before.Serial != res.Serial || before.ID != snap.ID() || before.Marks["m"] != 1 {
		t.Fatalf("state %+v", before)
	}
	asked.Store(0)
	res, err = o.fetcher().Run(t.Context(), s)
	if err != nil || !res.Unchanged || asked.Load() != 1 {
		t.Fatal(res, err, asked.Load())
	}
	after := o.state("demo")
	after.Tried, before.Tried = time.Time{}, time.Time{}
	if d := cmp.Diff(before, after); d != "" {
		t.Error("an unchanged run changed more than Tried:", d)
	}
	n := 0
	o.db.View(func(tx state.Tx) error {
		for r, err := range tx.AuditLog(1) {
			if err != nil || r.What != "fetch" || r.Detail["feed"] != "demo" {
				t.Error(r, err)
			}
			n++
		}
		return nil
	})
	if n != 1 {
		t.Errorf("%d audit records, want 1", n)
	}
}

func TestRefusedGoesToQuarantine(t *testing.T) {
	o := newOutside(t)
	version := "one"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, version) }))
	defer srv.Close()
	s := setup("demo", srv, load(srv.URL+"/f", feed.Want{}))
	good, err := o.fetcher().Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	version = "two"
	o.opt.Verify = func(context.Context, feed.Setup, feed.Content, state.FeedState) (Verdict, error) {
		return Verdict{}, feed.NewFault(fmt.Errorf("bad signature: %w", feed.ErrUntrusted), "H-502")
	}
	for range 2 { // again in the same second: another serial
		_, err = o.fetcher().Run(t.Context(), s)
		wantCode(t, err, "H-502", feed.ErrUntrusted)
	}
	st := o.state("demo")
	if st.Serial != good.Serial || st.Code != "H-502" || st.Problem == "" || st.Since.IsZero() {
		t.Errorf("state %+v", st)
	}
	if serials, _ := o.store.Serials("demo"); len(serials) != 1 || serials[0] != good.Serial {
		t.Errorf("snapshots %v: the refused one must not lie among them", serials)
	}
	if q := o.fetcher().quarantined("demo"); len(q) != 2 {
		t.Errorf("quarantine %v", q)
	}
	docs, _ := filepath.Glob(filepath.Join(o.dir.Quarantine(), "demo", "*.jsonl.zst"))
	if len(docs) != 2 {
		t.Errorf("quarantined documents %v", docs)
	}
	// A passing fault of the verifier is no verdict.
	o.opt.Verify = func(context.Context, feed.Setup, feed.Content, state.FeedState) (Verdict, error) {
		return Verdict{}, io.ErrClosedPipe
	}
	if _, err = o.fetcher().Run(t.Context(), s); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	if q := o.fetcher().quarantined("demo"); len(q) != 2 {
		t.Errorf("quarantine %v", q)
	}
}

func TestOneVendorFailsAlone(t *testing.T) {
	o := newOutside(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		io.WriteString(w, "fine"+r.URL.Path)
	}))
	defer srv.Close()
	res := o.fetcher().RunAll(t.Context(), []feed.Setup{
		setup("one", srv, load(srv.URL+"/1", feed.Want{})),
		setup("bad", srv, load(srv.URL+"/bad", feed.Want{})),
		setup("panics", srv, func(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
			panic("index out of range")
		}),
		setup("two", srv, load(srv.URL+"/2", feed.Want{})),
	})
	if res[0].Err != nil || res[3].Err != nil || res[2].Err == nil {
		t.Fatal(res)
	}
	wantCode(t, res[1].Err, "H-301", feed.ErrTransient)
	if res[1].Requests != 4 {
		t.Errorf("%d tries, want 4", res[1].Requests)
	}
}

func TestOneRunPerFeed(t *testing.T) {
	o := newOutside(t)
	f := o.fetcher()
	inside, leave := make(chan struct{}), make(chan struct{})
	s := setup("demo", nil, func(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
		close(inside)
		<-leave
		return "", io.ErrClosedPipe
	})
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(t.Context(), s) })
	<-inside
	if _, err := o.fetcher().Run(t.Context(), s); !errors.Is(err, state.ErrBusy) {
		t.Error(err)
	}
	close(leave)
	wg.Wait()
}

func TestDropDirectory(t *testing.T) {
	o := newOutside(t)
	drop := filepath.Join(t.TempDir(), "引き渡し 箱")
	os.Mkdir(drop, 0o700)
	os.WriteFile(filepath.Join(drop, "a.cab"), []byte("cab"), 0o600)
	s := setup("demo", nil, func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
		if _, err := up.Dir("nowhere"); !errors.Is(err, feed.ErrConfig) {
			t.Error(err)
		}
		d, err := up.Dir("drop")
		if err != nil {
			return "", err
		}
		if _, err := d.Open("out/secret"); err == nil {
			t.Error("a symbolic link led out of the drop directory")
		}
		f, err := d.Open("a.cab")
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := dst.Put(ctx, "dir:drop/a.cab", f)
		if err != nil {
			return "", err
		}
		return "s", dst.Add(feed.Artifact{Path: "a.cab", Digest: b.Digest(), Class: feed.Security})
	})
	secret := t.TempDir()
	os.WriteFile(filepath.Join(secret, "secret"), []byte("x"), 0o600)
	if err := os.Symlink(secret, filepath.Join(drop, "out")); err != nil && runtime.GOOS != "windows" {
		t.Fatal(err)
	}
	s.Dirs = map[string]string{"drop": drop}
	res, err := o.fetcher().Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	snap, _ := o.store.Snapshot("demo", res.Serial)
	if a, _ := snap.Lookup("a.cab"); a.Origin.URL != "dir:drop/a.cab" || a.Size != 3 {
		t.Errorf("%+v", a)
	}
	if res, err = o.fetcher().Run(t.Context(), s); err != nil || !res.Unchanged {
		t.Error("the same drop again must be no new snapshot", res, err)
	}
}

func TestTool(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the tool of this test is a POSIX one")
	}
	o := newOutside(t)
	s := setup("demo", nil, func(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
		return "", fmt.Errorf("reached: %w", feed.ErrUpstream)
	})
	s.Run = []string{"ls", "--no-such-option; echo shell"}
	_, err := o.fetcher().Run(t.Context(), s)
	fault := wantCode(t, err, "H-304", feed.ErrTransient)
	if !strings.Contains(fault.Args["detail"], "no-such-option") {
		t.Errorf("args %v", fault.Args)
	}
	s.Run = []string{"true"}
	if _, err := o.fetcher().Run(t.Context(), s); !errors.Is(err, feed.ErrUpstream) {
		t.Error(err)
	}
	s.Run = []string{"no-such-tool-anywhere"}
	_, err = o.fetcher().Run(t.Context(), s)
	wantCode(t, err, "H-202", feed.ErrConfig)
	s.Run = []string{"sleep", "1000"}
	o.opt.Network.Timeouts.Tool = time.Millisecond
	_, err = o.fetcher().Run(t.Context(), s)
	wantCode(t, err, "H-304", feed.ErrTransient)
}

func TestHosts(t *testing.T) {
	k := func(u ...string) feed.Feed { return &fake{reach: u} }
	got := Hosts([]feed.Setup{
		{Name: "b", Feed: k("http://Deb.example.org/debian", "http://deb.example.org/security")},
		{Name: "a", Feed: k("https://cdn.example.com:8443/x", "https://*.dl.example.com/")},
	})
	want := []Permission{{"*.dl.example.com", "443", "a"}, {"cdn.example.com", "8443", "a"}, {"deb.example.org", "80", "b"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	f := &Fetcher{Options: Options{Network: Network{Allow: []string{"mirror.example.net", "*.cdn.net", "x.org:8080"}}}}
	for u, want := range map[string]bool{
		"http://deb.example.org/": true, "https://deb.example.org/": false, "https://a.b.dl.example.com/": true,
		"https://dl.example.com/": false, "https://evil-dl.example.com/": false, "http://mirror.example.net/": true, "https://mirror.example.net:444/": false,
		"https://x.cdn.net/": true, "https://x.cdn.net.evil.org/": false, "http://x.org:8080/": true, "http://x.org/": false,
	} {
		p, _ := url.Parse(u)
		if f.allowed(got, p) != want {
			t.Errorf("%s: want %v", u, want)
		}
	}
}

// settled waits until goroutines that a test began have ended.
func settled(t *testing.T, before int) {
	t.Helper()
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}
