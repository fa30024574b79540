package mozilla

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

// bench is one feed without the engines: what it fetches stays in memory.
type bench struct {
	t     *testing.T
	feed  feed.Feed
	state feedtest.State
	mu    sync.Mutex // of asked
	asked []string
	blobs *blobs
	next  map[string]feed.Artifact
}

// blobs are contents by digest.
type blobs struct {
	mu sync.Mutex
	m  map[feed.Digest][]byte
}

func (b *blobs) get(d feed.Digest) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.m[d]
}

func (b *blobs) set(d feed.Digest, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m[d] = body
}

func newBench(t *testing.T, change func(*Config)) *bench {
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.Service, c.Archive, c.Versions = "https://vendor.example/aus", "https://vendor.example/pub", []string{"115.17.0", "128.1.0"}
		if change != nil {
			change(c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, feed: f, blobs: &blobs{m: map[feed.Digest][]byte{}}}
}

func (b *bench) get(u string) ([]byte, error) {
	p, err := url.Parse(u)
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.asked = append(b.asked, p.Path)
	b.mu.Unlock()
	body, ok := b.state.Files[strings.TrimPrefix(p.Path, "/")]
	if !ok && strings.HasPrefix(p.Path, "/aus/") {
		w := httptest.NewRecorder()
		b.state.Handler.ServeHTTP(w, httptest.NewRequest("GET", u, nil))
		body, ok = w.Body.Bytes(), w.Code == http.StatusOK
	}
	if !ok {
		return nil, fmt.Errorf("%w: %w", &feed.StatusError{URL: u, Status: 404}, feed.ErrUpstream)
	}
	return body, nil
}

func (b *bench) Do(_ context.Context, r feed.Request) (*feed.Response, error) {
	body, err := b.get(r.URL)
	return &feed.Response{Status: 200, Body: body}, err
}

func (b *bench) Dir(string) (fs.FS, error) { return nil, fs.ErrNotExist }

func (b *bench) Load(_ context.Context, r feed.Request, w feed.Want) (feed.Blob, error) {
	body, err := b.get(r.URL)
	if err == nil && feed.DigestOf(body) != w.Digest {
		err = feed.ErrUntrusted
	}
	if int64(len(body)) > r.Limit {
		err = feed.ErrUpstream
	}
	return b.keep(body), err
}

func (b *bench) Put(_ context.Context, _ string, r io.Reader) (feed.Blob, error) {
	body, err := io.ReadAll(r)
	return b.keep(body), err
}

func (b *bench) keep(body []byte) feedtest.Blob {
	b.blobs.set(feed.DigestOf(body), body)
	return feedtest.Blob(body)
}

func (b *bench) Add(a feed.Artifact) error {
	a.Size = int64(len(b.blobs.get(a.Digest)))
	a.Time = a.Time.UTC()
	b.next[a.Path] = a
	return nil
}

// fetch brings the vendor's state. The snapshot has a table of blobs of its own:
// a kind reads the one before while it keeps new contents.
func (b *bench) fetch(s feedtest.State, prev feed.Content) (*feedtest.Memory, error) {
	b.state, b.asked, b.next = s, nil, map[string]feed.Artifact{}
	state, err := b.feed.Fetch(b.t.Context(), b, prev, b)
	head := feed.Header{Feed: "m", Kind: "mozilla", Serial: 1, State: state, Taken: time.Now()}
	return &feedtest.Memory{Head: head, Named: b.next, Blobs: maps.Clone(b.blobs.m)}, err
}

func (b *bench) must(s feedtest.State, prev feed.Content) *feedtest.Memory {
	b.t.Helper()
	m, err := b.fetch(s, prev)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

func (b *bench) verify(c feed.Content, anchors []feed.Anchor, orders ...feed.Order) (verifier.Verdict, []feed.Evidence, error) {
	b.t.Helper()
	k := Kind()
	policy, err := verifier.BuildPolicy(k.Floors, nil, orders, "m", 1, c.Header().Taken)
	if err != nil {
		b.t.Fatal(err)
	}
	var doc bytes.Buffer
	v, err := verifier.Run(b.t.Context(), verifier.Job{Setup: feed.Setup{Name: "m", Kind: k, Feed: b.feed}, Content: c,
		Trust: verifier.BuildTrust(anchors, orders, "m", c.Header().Taken), Policy: policy, Evidence: &doc})
	_, all, rerr := verifier.ReadEvidence(&doc)
	if rerr != nil {
		b.t.Fatal(rerr)
	}
	var evidence []feed.Evidence
	for e, err := range all {
		if err != nil {
			b.t.Fatal(err)
		}
		evidence = append(evidence, e)
	}
	return v, evidence, err
}

// ledger keeps what it is told.
type ledger struct {
	mu        sync.Mutex
	saw       []feed.Sighting
	terminals map[string]*feed.Terminal
}

func (l *ledger) Saw(s feed.Sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saw = append(l.saw, s)
}

func (l *ledger) Change(name, id string, f func(*feed.Terminal)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terminals == nil {
		l.terminals = map[string]*feed.Terminal{}
	}
	if l.terminals[id] == nil {
		l.terminals[id] = &feed.Terminal{Feed: name, ID: id}
	}
	f(l.terminals[id])
}

// serve starts a mirror below /moz/; views are by ring.
func (b *bench) serve(views map[string]feed.View, ring func(*http.Request) string, l *ledger) (*httptest.Server, *url.URL) {
	b.t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	base, _ := url.Parse("http://" + srv.Listener.Addr().String() + "/moz/")
	h, err := b.feed.Handler(feed.Serving{Feed: "m", Ring: ring, Ledger: l, Base: base,
		View: func(r string) (feed.View, bool) { v, ok := views[r]; return v, ok }})
	if err != nil {
		b.t.Fatal(err)
	}
	srv.Config.Handler = http.StripPrefix("/moz", h)
	srv.Start()
	b.t.Cleanup(srv.Close)
	return srv, base
}

func everyone(*http.Request) string { return "all" }
