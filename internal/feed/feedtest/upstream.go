package feedtest

import (
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// below is where the vendor's tree begins on its server.
const below = "/vendor/"

// fault answers the n-th request (from 0) in the vendor's place, or not.
type fault func(n int, w http.ResponseWriter, r *http.Request) bool

// upstream is the vendor: a web server, or a directory that somebody fills.
type upstream struct {
	*httptest.Server
	dir   string               // for kinds that read one; else ""
	known map[feed.Digest]bool // of the files of every state set
	sent  atomic.Int64

	mu    sync.Mutex
	state State
	since time.Time // Last-Modified
	bare  bool      // sends no validators, as some vendors do
	fault fault
	asked []string // paths
	conns map[net.Conn]bool
}

func newUpstream(t testing.TB, dir string) *upstream {
	u := &upstream{dir: dir, known: map[feed.Digest]bool{}, conns: map[net.Conn]bool{}}
	u.Server = httptest.NewUnstartedServer(u)
	u.Config.ConnState = func(c net.Conn, s http.ConnState) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.conns[c] = true; s == http.StateClosed {
			delete(u.conns, c)
		}
	}
	u.Start()
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// alone ends the requests of earlier runs: one that was cancelled may still lie
// unread in a socket, and would be counted as the next run's.
func (u *upstream) alone(t testing.TB) {
	t.Helper()
	// The listener accepts in order: what came before this one is known now.
	c, err := net.Dial("tcp", u.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	known := func(n int, is string) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		if is == "" {
			return len(u.conns) == n
		}
		for k := range u.conns {
			if k.RemoteAddr().String() == is {
				return true
			}
		}
		return false
	}
	wait := func(ok func() bool) {
		for range 10000 {
			if ok() {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatal("requests of an earlier run do not end")
	}
	wait(func() bool { return known(0, c.LocalAddr().String()) })
	u.CloseClientConnections()
	wait(func() bool { return known(0, "") })
}

// set brings the vendor into a state and forgets faults and requests.
func (u *upstream) set(t testing.TB, s State, since time.Time) {
	t.Helper()
	u.alone(t)
	u.mu.Lock()
	u.state, u.since, u.fault, u.asked = s, since, nil, nil
	for _, b := range s.Files {
		u.known[feed.DigestOf(b)] = true
	}
	u.mu.Unlock()
	u.sent.Store(0)
	if u.dir == "" {
		return
	}
	if err := os.RemoveAll(u.dir); err != nil {
		t.Fatal(err)
	}
	for p, b := range s.Files {
		if !feed.ValidPath(p) {
			continue // a list can give a file such a name, a directory cannot
		}
		at := filepath.Join(u.dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(at, since, since); err != nil {
			t.Fatal(err)
		}
	}
}

// switchTo changes the state while somebody fetches.
func (u *upstream) switchTo(s State, since time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state, u.since = s, since
	for _, b := range s.Files {
		u.known[feed.DigestOf(b)] = true
	}
}

// file is what the vendor has at a URL's path; nil if nothing.
func (u *upstream) file(at string) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state.Files[strings.TrimPrefix(at, below)]
}

// forget returns the digests of what the vendor had so far; all is false if it
// had more than files.
func (u *upstream) forget() (known map[feed.Digest]bool, all bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	known, u.known, u.bare = u.known, map[feed.Digest]bool{}, false
	return known, u.state.Handler == nil
}

func (u *upstream) breaks(t testing.TB, f fault) {
	t.Helper()
	u.alone(t)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fault, u.asked = f, nil
}

// requests are those since the last set or break_.
func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.asked)
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	n := len(u.asked)
	u.asked = append(u.asked, r.URL.Path)
	f := u.fault
	u.mu.Unlock()
	// Until what was sent has been read, a server does not see that its client has gone.
	if sent, err := io.ReadAll(r.Body); err == nil {
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	w = &counted{w, &u.sent}
	if f != nil && f(n, w, r) {
		return
	}
	u.mu.Lock() // after the fault, which may have moved the vendor on
	state, since, bare := u.state, u.since, u.bare
	u.mu.Unlock()
	p, ok := strings.CutPrefix(r.URL.Path, below)
	body, have := state.Files[p]
	switch {
	case ok && have:
		serveBytes(w, r, body, since, bare)
	case ok && state.Handler != nil:
		http.StripPrefix(strings.TrimSuffix(below, "/"), state.Handler).ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

func serveBytes(w http.ResponseWriter, r *http.Request, body []byte, since time.Time, bare bool) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if !bare {
		w.Header().Set("ETag", `"`+feed.DigestOf(body).Hex()+`"`)
	} else {
		since = time.Time{}
	}
	http.ServeContent(w, r, "", since, strings.NewReader(string(body)))
}

// counted counts the bytes of bodies.
type counted struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// with is the state with one file replaced.
func (s State) with(p string, b []byte) State {
	s.Files = maps.Clone(s.Files)
	s.Files[p] = b
	return s
}

// Below is the state with its files in a folder ("pub/").
func (s State) Below(folder string) State {
	files := Files{}
	for p, b := range s.Files {
		files[folder+p] = b
	}
	s.Files = files
	return s
}
