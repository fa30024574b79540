package feedtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// moments are the requests of a fetch at which something happens: the first
// ones, the middle, the last.
func moments(n int) []int {
	out := []int{0, 1, n / 2, n - 1}
	out = slices.DeleteFunc(out, func(i int) bool { return i < 0 || i >= n })
	slices.Sort(out)
	return slices.Compact(out)
}

const blockPage = "<!DOCTYPE html><html><head><title>Blocked</title></head><body>This site is not allowed.</body></html>"

// testFaults: what stands between, or a vendor in trouble, is told apart from
// the vendor's word, and the accepted state stays.
func testFaults(t *testing.T, h *history) {
	if h.c.Dir != "" {
		testDirFaults(t, h)
		return
	}
	b := h.spare(t)
	b.at(t, h.c.Older)
	b.at(t, h.c.Now)
	n := len(b.up.requests())
	// half sends the first half of the genuine answer, after the header of the whole.
	half := func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		serveBytes(rec, r, b.up.file(r.URL.Path), time.Time{}, true)
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		http.NewResponseController(w).Flush()
	}
	for what, f := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		code   string
	}{
		"block page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte(blockPage))
		}, "H-302"},
		"500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "H-301"},
		"cut": {func(w http.ResponseWriter, r *http.Request) {
			half(w, r)
			panic(http.ErrAbortHandler)
		}, "H-301"},
		"drip": {func(w http.ResponseWriter, r *http.Request) {
			half(w, r)
			<-r.Context().Done()
		}, "H-301"},
	} {
		var hit atomic.Bool
		for _, k := range moments(n) {
			if what == "drip" && k != 0 && k != n/2 {
				continue // each costs a real wait
			}
			hit.Store(false)
			b.fresh(t) // else what came before the last fault is not asked again
			old := b.at(t, h.c.Older)
			b.up.set(t, h.c.Now, b.clock)
			b.up.breaks(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n < k || b.up.file(r.URL.Path) == nil && (what == "cut" || what == "drip") {
					return false
				}
				hit.Store(true)
				f.answer(w, r)
				return true
			})
			res, err := b.run(t.Context())
			fault, ok := errors.AsType[*feed.Fault](err)
			switch {
			case !hit.Load():
				continue // only questions after what the vendor does not have followed
			case err == nil:
				t.Errorf("%s from request %d on: %+v", what, k, res)
			case errors.Is(err, feed.ErrUntrusted):
				t.Errorf("%s from request %d on is taken for an attack: %v", what, k, err)
			case !errors.Is(err, feed.ErrTransient) && !errors.Is(err, feed.ErrUpstream), !ok, fault.Code != f.code && what != "cut":
				t.Errorf("%s from request %d on, want %s: %v", what, k, f.code, err)
			}
			b.stays(t, old.Header().Serial)
		}
		b.up.set(t, h.c.Now, b.clock)
		if res, err := b.run(t.Context()); hit.Load() && (err != nil || res.Unchanged) {
			t.Errorf("after %s has passed: %+v, %v", what, res, err)
		}
	}
}

// testDirFaults: a directory that is not there, is half filled, or holds what
// is no file.
func testDirFaults(t *testing.T, h *history) {
	b := h.spare(t)
	old := b.at(t, h.c.Older)
	os.RemoveAll(b.up.dir)
	if _, err := b.run(t.Context()); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("no directory: %v", err)
	}
	b.stays(t, old.Header().Serial)
	secret := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(secret, []byte("a secret of this machine"), 0o600)
	b = h.spare(t)
	for p := range h.c.Now.Files {
		at := filepath.Join(b.up.dir, filepath.FromSlash(p))
		for what, spoil := range map[string]func(){
			"missing":            func() {},
			"a directory":        func() { os.Mkdir(at, 0o700) },
			"a link that leaves": func() { os.Symlink(secret, at) },
		} {
			b.fresh(t)
			b.up.set(t, h.c.Now, b.clock)
			at = filepath.Join(b.up.dir, filepath.FromSlash(p))
			os.Remove(at)
			spoil()
			res, err := b.run(t.Context())
			if err != nil {
				if errors.Is(err, feed.ErrUntrusted) {
					t.Errorf("%s is %s: taken for an attack: %v", p, what, err)
				}
				b.stays(t, 0)
				continue
			}
			snap, _ := b.store.Snapshot(name, res.Serial)
			for a := range h.now.Artifacts() {
				if _, ok := snap.Lookup(a.Path); !ok && !h.c.Optional(a.Path) {
					t.Errorf("%s is %s: accepted without %s", p, what, a.Path)
				}
			}
			if _, ok := b.store.Stat(feed.DigestOf([]byte("a secret of this machine"))); ok {
				t.Errorf("%s is %s: a file outside the directory was read", p, what)
			}
		}
	}
}

// testMoving: the vendor publishes during the fetch, at every moment, with and
// without files that are not there for an instant, or never rests. What is
// accepted is one of the two states, whole; or it is for later.
func testMoving(t *testing.T, h *history) {
	if h.c.Dir != "" {
		t.Skip("a directory: see upstream faults")
	}
	b := h.spare(t)
	b.at(t, h.c.Now)
	requests := b.up.requests()
	states := []listing{list(h.now), list(h.newer)}
	if h.c.Now.Handler != nil {
		// What is made of answers may depend on what was there before, and here nothing is.
		states = nil
		for _, s := range []State{h.c.Now, h.c.Newer} {
			b.fresh(t)
			states = append(states, list(b.at(t, s)))
		}
	}
	genuine := map[feed.Digest]bool{}
	for _, c := range states {
		for _, a := range c {
			genuine[a.Digest] = true
		}
	}
	// Parts of both states together may choose a file that each state alone supersedes.
	for _, s := range []State{h.c.Now, h.c.Newer} {
		for _, body := range s.Files {
			genuine[feed.DigestOf(body)] = true
		}
	}
	try := func(what string, gap, restless bool, f func(since time.Time) fault) {
		b.fresh(t)
		b.up.set(t, h.c.Now, b.clock)
		b.up.breaks(t, f(b.clock))
		res, err := b.run(t.Context())
		if err != nil {
			if !restless && (errors.Is(err, feed.ErrUntrusted) || !errors.Is(err, feed.ErrTransient) && !(gap && errors.Is(err, feed.ErrUpstream))) {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		snap, serr := b.store.Snapshot(name, res.Serial)
		if serr != nil {
			t.Fatal(serr)
		}
		for a := range snap.Artifacts() {
			if !genuine[a.Digest] {
				t.Errorf("%s: %s is of no state", what, a.Path)
			}
		}
		// Of a vendor who flips to and fro, parts that are signed apart may each be of another state.
		if !restless && !holds(list(snap), states[0]) && !holds(list(snap), states[1]) {
			t.Errorf("%s: the snapshot is neither of both states", what)
		}
	}
	for k := range len(requests) + 1 {
		for _, gap := range []bool{false, true} {
			if gap && !slices.Contains(moments(len(requests)), k) {
				continue
			}
			try(fmt.Sprintf("published anew at request %d (404 meanwhile: %v)", k, gap), gap, false, func(since time.Time) fault {
				return func(n int, w http.ResponseWriter, _ *http.Request) bool {
					if n == k {
						b.up.switchTo(h.c.Newer, since)
					}
					if n == k && gap {
						w.WriteHeader(http.StatusNotFound)
					}
					return n == k && gap
				}
			})
		}
	}
	for every := 1; every <= 3; every++ {
		try(fmt.Sprintf("published anew at each %d. request", every), true, true, func(since time.Time) fault {
			return func(n int, _ http.ResponseWriter, _ *http.Request) bool {
				b.up.switchTo([]State{h.c.Now, h.c.Newer}[n/every%2], since)
				return false
			}
		})
	}
	// A file that stays away is the vendor's mistake: no attack, and nothing of it is accepted.
	for _, k := range moments(len(requests)) {
		b.fresh(t)
		b.up.set(t, h.c.Now, b.clock)
		b.up.breaks(t, func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == requests[k] {
				w.WriteHeader(http.StatusNotFound)
			}
			return r.URL.Path == requests[k]
		})
		res, err := b.run(t.Context())
		if err != nil && (errors.Is(err, feed.ErrUntrusted) || !errors.Is(err, feed.ErrUpstream) && !errors.Is(err, feed.ErrTransient)) {
			t.Errorf("%s is not there: %v", requests[k], err)
		}
		if err != nil {
			continue
		}
		snap, serr := b.store.Snapshot(name, res.Serial)
		if serr != nil {
			t.Fatal(serr)
		}
		for a := range h.now.Artifacts() {
			if _, ok := snap.Lookup(a.Path); !ok && !h.c.Optional(a.Path) {
				t.Errorf("%s is not there: accepted without %s", requests[k], a.Path)
			}
		}
	}
}

// listing is what a snapshot names, by path.
type listing map[string]feed.Artifact

func list(c feed.Content) listing {
	out := listing{}
	for a := range c.Artifacts() {
		out[a.Path] = a
	}
	return out
}

// holds reports whether both snapshots name the same files, but for Optional ones.
func holds(a, b listing) bool {
	for _, pair := range [][2]listing{{a, b}, {b, a}} {
		for _, x := range pair[0] {
			if y, ok := pair[1][x.Path]; ok && y.Digest != x.Digest {
				return false
			} else if !ok && x.Class == feed.Metadata && !isSignature(x.Path) {
				return false
			}
		}
	}
	return true
}

// endless is more than any cap that a test can reach, also when a slow machine
// cuts the first try and asks again.
const endless = 400 << 20

// testOversize: bodies without an end are stopped at a cap, and those that
// announce too much are not read at all.
func testOversize(t *testing.T, h *history) {
	if h.c.Dir != "" {
		t.Skip("a directory: the file system bounds its files")
	}
	b := h.spare(t)
	b.at(t, h.c.Now)
	n, usual := len(b.up.requests()), b.up.sent.Load()
	chunk := make([]byte, 1<<20)
	for i := range chunk {
		chunk[i] = byte(i*7 + 1) // no page, no text
	}
	for _, k := range moments(n) {
		for _, announced := range []bool{true, false} {
			b.fresh(t)
			b.up.set(t, h.c.Now, b.clock)
			var victim atomic.Value
			b.up.breaks(t, func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == k {
					victim.Store(r.URL.Path)
				}
				p, _ := victim.Load().(string)
				if p != r.URL.Path || !announced && h.c.Huge(strings.TrimPrefix(p, below)) {
					return false
				}
				if announced {
					w.Header().Set("Content-Length", "1125899906842624")
				}
				for range endless >> 20 {
					if _, err := w.Write(chunk); err != nil {
						break
					}
				}
				return true
			})
			res, err := b.run(t.Context())
			p, _ := victim.Load().(string)
			if !announced && h.c.Huge(strings.TrimPrefix(p, below)) {
				continue
			}
			if err == nil || !errors.Is(err, feed.ErrUpstream) && !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s without an end (announced: %v): %+v, %v", p, announced, res, err)
			}
			if announced && res.Bytes > max(4<<20, usual+1<<20) || res.Bytes > endless*3/4 {
				t.Errorf("%s without an end (announced: %v): %d bytes were read", p, announced, res.Bytes)
			}
		}
	}
}

// testCancelled: a cancelled context ends a fetch and a verification at once,
// as what it is, and leaves no goroutine.
func testCancelled(t *testing.T, h *history) {
	before := ours(nil)
	b := h.spare(t)
	if h.c.Dir == "" {
		b.at(t, h.c.Now)
		for _, k := range moments(len(b.up.requests())) {
			b.fresh(t)
			b.up.set(t, h.c.Now, b.clock)
			ctx, cancel := context.WithCancel(t.Context())
			b.up.breaks(t, func(n int, _ http.ResponseWriter, r *http.Request) bool {
				if n < k {
					return false
				}
				cancel()
				<-r.Context().Done()
				return true
			})
			b.cancelled(t, ctx)
			cancel()
		}
	}
	b.fresh(t)
	b.up.set(t, h.c.Now, b.clock)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.cancelled(t, ctx)
	setup := h.setup
	defer func() { h.setup = setup }()
	for n := 0; ; n += 1 + n/20 {
		ctx, cancel := context.WithCancel(t.Context())
		w := &tripwire{Content: h.now, left: n, trip: cancel}
		h.setup.Feed = watched{setup.Feed, w}
		j := h.judge(ctx, w, h.marks)
		cancel()
		if !w.tripped {
			break // n is past the end
		}
		if !errors.Is(j.err, context.Canceled) {
			t.Errorf("verification cancelled at its access %d: %v", n, j.err)
		}
		if w.after > 4 {
			t.Errorf("verification cancelled at its access %d opened %d files more", n, w.after)
		}
	}
	var left map[string]string
	for deadline := time.Now().Add(settle); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = ours(before); len(left) == 0 {
			return
		}
	}
	for _, stack := range left {
		t.Errorf("goroutine left behind:\n%s", stack)
	}
}

// cancelled runs with a context that ends: the run must end too, blame nobody
// and accept nothing.
func (b *bench) cancelled(t *testing.T, ctx context.Context) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := b.run(ctx)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled, but: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("cancelled, but still running")
	}
	if st := b.state(t); st.Serial != 0 || st.Problem != "" {
		t.Errorf("cancelled, but accepted %d, problem %q", st.Serial, st.Problem)
	}
	b.fetch.Close()
}

// ours are the running goroutines of our own packages but this suite's, without those of before.
func ours(before map[string]string) map[string]string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	out := map[string]string{}
	for _, g := range strings.Split(string(buf), "\n\n") {
		id, _, _ := strings.Cut(g, " [")
		if _, old := before[id]; !old && strings.Contains(g, "hashike/hashike/") && !strings.Contains(g, "/feedtest.Run") && !strings.Contains(g, "/feedtest.(*") {
			out[id] = g
		}
	}
	return out
}
