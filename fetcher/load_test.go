package fetcher

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// vendor serves one body and counts what it sent. cut ends an answer after so
// many bytes of body; 0 never.
type vendor struct {
	*httptest.Server
	mu       sync.Mutex
	body     []byte
	etag     string
	cut      int
	noRange  bool
	noLength bool
	sent     atomic.Int64
	ranges   []string
	hold     chan struct{} // a cut answer waits here instead of closing
	held     chan struct{}
}

func newVendor(t *testing.T, body []byte) *vendor {
	v := &vendor{body: body, etag: `"v1"`}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	body, etag, cut, hold, held := v.body, v.etag, v.cut, v.hold, v.held
	v.ranges = append(v.ranges, r.Header.Get("Range"))
	if v.noRange {
		r.Header.Del("Range")
	}
	noLength := v.noLength
	v.mu.Unlock()
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	out := &cutter{ResponseWriter: w, v: v, left: cut, hold: hold, held: held, ctx: r.Context()}
	if noLength {
		out.Write(body)
		return
	}
	http.ServeContent(out, r, "", time.Time{}, bytes.NewReader(body))
}

type cutter struct {
	http.ResponseWriter
	v          *vendor
	left       int
	hold, held chan struct{}
	ctx        context.Context
}

func (c *cutter) Write(p []byte) (int, error) {
	cutHere := c.left > 0 && len(p) >= c.left
	if cutHere {
		p = p[:c.left]
	}
	n, err := c.ResponseWriter.Write(p)
	c.v.sent.Add(int64(n))
	if cutHere {
		c.ResponseWriter.(http.Flusher).Flush()
		if c.hold != nil {
			c.held <- struct{}{}
			select {
			case <-c.hold:
			case <-c.ctx.Done():
			}
		}
		panic(http.ErrAbortHandler)
	}
	if c.left > 0 {
		c.left -= n
	}
	return n, err
}

func TestCutsAreResumed(t *testing.T) {
	body := noise(1 << 20)
	for _, want := range []feed.Want{{}, {Digest: feed.DigestOf(body)}, {Digest: feed.DigestOf(body), Size: int64(len(body)), SHA1: hexSHA1(body)}} {
		v := newVendor(t, body)
		v.cut = 100 << 10 // of every answer: eleven are needed
		o := newOutside(t)
		res, err := o.fetcher().Run(t.Context(), setup("demo", v.Server, load(v.URL+"/f", want)))
		if err != nil {
			t.Fatal(err)
		}
		if v.sent.Load() != int64(len(body)) || res.Requests != 11 || res.Bytes != int64(len(body)) {
			t.Errorf("sent %d bytes in %d requests for %d", v.sent.Load(), res.Requests, len(body))
		}
	}
}

func hexSHA1(b []byte) string {
	s := sha1.Sum(b)
	return strings.ToUpper(hex.EncodeToString(s[:]))
}

// TestKilledInTheMiddle: what a cancelled run has is not sent again to the
// next, neither whole files nor the begun one.
func TestKilledInTheMiddle(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint("digest known ", known), func(t *testing.T) {
			first, second := noise(300<<10), noise(4 << 20)[1:]
			v1, v2 := newVendor(t, first), newVendor(t, second)
			v2.cut, v2.hold, v2.held = 2<<20, make(chan struct{}), make(chan struct{})
			var w1, w2 feed.Want
			if known {
				w1, w2 = feed.Want{Digest: feed.DigestOf(first)}, feed.Want{Digest: feed.DigestOf(second)}
			}
			s := setup("demo", v2.Server, func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
				for i, get := range []func() (feed.Blob, error){
					func() (feed.Blob, error) { return dst.Load(ctx, feed.Request{URL: v1.URL + "/a", Limit: 1 << 23}, w1) },
					func() (feed.Blob, error) { return dst.Load(ctx, feed.Request{URL: v2.URL + "/b", Limit: 1 << 23}, w2) },
				} {
					b, err := get()
					if err != nil {
						return "", err
					}
					if err := dst.Add(feed.Artifact{Path: fmt.Sprint(i), Digest: b.Digest(), Class: feed.Feature}); err != nil {
						return "", err
					}
				}
				return "s", nil
			})
			o := newOutside(t)
			o.opt.Network.Allow = []string{mustURL(v1.URL).Host}
			before := runtime.NumGoroutine()
			f := o.fetcher()
			ctx, kill := context.WithCancel(t.Context())
			// Only what has reached the disk counts: kill when all that was sent is there.
			o.opt.Progress = nil
			done := make(chan error)
			go func() { _, err := f.Run(ctx, s); done <- err }()
			<-v2.held
			waitFor(t, func() bool {
				parts, _ := filepath.Glob(filepath.Join(o.dir.Partial(), "demo", "*.part"))
				st, err := os.Stat(strings.Join(parts, ""))
				return err == nil && st.Size() == 2<<20
			})
			kill()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			f.Close()
			settled(t, before+2) // the two servers' own connections end by themselves
			if st := o.state("demo"); st.Problem != "" || st.Serial != 0 {
				t.Errorf("a stop is no failure: %+v", st)
			}
			v2.mu.Lock()
			v2.cut = 0
			v2.mu.Unlock()
			res, err := o.fetcher().Run(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if v1.sent.Load() != int64(len(first)) || v2.sent.Load() != int64(len(second)) {
				t.Errorf("sent %d and %d bytes, files have %d and %d", v1.sent.Load(), v2.sent.Load(), len(first), len(second))
			}
			if last := v2.ranges[len(v2.ranges)-1]; last != "bytes=2097152-" {
				t.Errorf("Range %q", last)
			}
			snap, _ := o.store.Snapshot("demo", res.Serial)
			if a, _ := snap.Lookup("0"); a.Origin.URL != v1.URL+"/a" || a.Origin.Fetched.IsZero() {
				t.Errorf("where the first run's file came from is forgotten: %+v", a.Origin)
			}
			if _, err := os.Stat(filepath.Join(o.dir.Partial(), "demo")); !errors.Is(err, os.ErrNotExist) {
				t.Error("leftovers of the unfinished run:", err)
			}
		})
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never came true")
}

func TestServerWithoutRange(t *testing.T) {
	body := noise(200 << 10)
	v := newVendor(t, body)
	v.cut, v.noRange = 150<<10, true
	o := newOutside(t)
	s := setup("demo", v.Server, load(v.URL+"/f", feed.Want{Digest: feed.DigestOf(body)}))
	_, err := o.fetcher().Run(t.Context(), s)
	wantCode(t, err, "H-301", feed.ErrTransient)
	v.cut = 0
	if _, err := o.fetcher().Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func TestContentChangedMeanwhile(t *testing.T) {
	old, fresh := noise(200<<10), bytes.ToUpper(noise(220<<10))
	for _, known := range []bool{true, false} {
		v := newVendor(t, old)
		v.cut = 150 << 10
		v.noRange = true // so that the first run ends with a partial file
		o := newOutside(t)
		var want feed.Want
		if known {
			want.Digest = feed.DigestOf(fresh)
		}
		s := setup("demo", v.Server, load(v.URL+"/f", want))
		if _, err := o.fetcher().Run(t.Context(), s); err == nil {
			t.Fatal("cut, but no error")
		}
		v.body, v.etag, v.cut, v.noRange = fresh, `"v2"`, 0, false
		res, err := o.fetcher().Run(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		snap, _ := o.store.Snapshot("demo", res.Serial)
		if a, _ := snap.Lookup("file"); a.Digest != feed.DigestOf(fresh) {
			t.Error("a mixture was stored")
		}
	}
}

// TestPoisonedPartial: a partial file with wrong bytes and a server that does
// not notice. It is thrown away and fetched once anew.
func TestPoisonedPartial(t *testing.T) {
	body := noise(200 << 10)
	v := newVendor(t, body)
	v.cut, v.noRange, v.etag = 150<<10, true, ""
	o := newOutside(t)
	s := setup("demo", v.Server, load(v.URL+"/f", feed.Want{Digest: feed.DigestOf(body)}))
	o.fetcher().Run(t.Context(), s)
	parts, _ := filepath.Glob(filepath.Join(o.dir.Partial(), "demo", "*.part"))
	if len(parts) != 1 {
		t.Fatal(parts)
	}
	b, _ := os.ReadFile(parts[0])
	b[7] ^= 1
	os.WriteFile(parts[0], b, 0o600)
	v.cut, v.noRange = 0, false
	v.sent.Store(0)
	if _, err := o.fetcher().Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if want := int64(50<<10 + 200<<10); v.sent.Load() != want {
		t.Errorf("sent %d, want the rest and the whole: %d", v.sent.Load(), want)
	}
}

func TestWrongContent(t *testing.T) {
	body := noise(10 << 10)
	for name, c := range map[string]struct {
		want  feed.Want
		code  string
		class error
		sent  int64
	}{
		"digest": {feed.Want{Digest: feed.DigestOf([]byte("x"))}, "H-502", feed.ErrUntrusted, 20 << 10},
		"sha1":   {feed.Want{SHA1: hexSHA1([]byte("x"))}, "H-502", feed.ErrUntrusted, 20 << 10},
		"size":   {feed.Want{Size: 11 << 10}, "H-502", feed.ErrUntrusted, -1},
		"size-":  {feed.Want{Size: 9 << 10}, "H-502", feed.ErrUntrusted, -1},
	} {
		t.Run(name, func(t *testing.T) {
			for _, noLength := range []bool{false, true} {
				v := newVendor(t, body)
				v.noLength = noLength
				o := newOutside(t)
				_, err := o.fetcher().Run(t.Context(), setup("demo", v.Server, load(v.URL+"/f", c.want)))
				if name == "size" && noLength { // indistinguishable from a cut
					wantCode(t, err, "H-301", feed.ErrTransient)
					continue
				}
				wantCode(t, err, c.code, c.class)
				if c.sent >= 0 && v.sent.Load() != c.sent {
					t.Errorf("sent %d bytes, want two tries", v.sent.Load())
				}
				if left, _ := filepath.Glob(filepath.Join(o.dir.Partial(), "demo", "*.part")); len(left) != 0 {
					t.Error("left over:", left)
				}
			}
		})
	}
}

func TestOversize(t *testing.T) {
	v := newVendor(t, noise(100<<10))
	for _, noLength := range []bool{false, true} {
		v.noLength = noLength
		o := newOutside(t)
		s := setup("demo", v.Server, func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
			_, err := dst.Load(ctx, feed.Request{URL: v.URL + "/f", Limit: 50 << 10}, feed.Want{})
			return "", err
		})
		res, err := o.fetcher().Run(t.Context(), s)
		wantCode(t, err, "H-401", feed.ErrUpstream)
		if res.Bytes > 200<<10 {
			t.Errorf("%d bytes were read", res.Bytes)
		}
	}
}

func TestStoreAnswersFirst(t *testing.T) {
	v := newVendor(t, []byte("payload"))
	o := newOutside(t)
	want := feed.Want{Digest: feed.DigestOf(v.body)}
	f := o.fetcher()
	if _, err := f.Run(t.Context(), setup("one", v.Server, load(v.URL+"/1", want))); err != nil {
		t.Fatal(err)
	}
	res, err := f.Run(t.Context(), setup("two", v.Server, load(v.URL+"/2", want)))
	if err != nil || res.Requests != 0 {
		t.Fatal(res, err)
	}
	snap, _ := o.store.Snapshot("two", res.Serial)
	if a, _ := snap.Lookup("file"); a.Origin != (feed.Origin{URL: v.URL + "/2"}) {
		t.Errorf("%+v", a.Origin)
	}
	want.Size = 8
	_, err = f.Run(t.Context(), setup("three", v.Server, load(v.URL+"/3", want)))
	wantCode(t, err, "H-502", feed.ErrUntrusted)
}

func TestStalledBody(t *testing.T) {
	v := newVendor(t, noise(200<<10))
	v.cut, v.hold, v.held = 100<<10, make(chan struct{}), make(chan struct{}, 100)
	defer close(v.hold)
	o := newOutside(t)
	o.opt.Network.Timeouts.Stall = 50 * time.Millisecond
	// Each answer stalls after 100 KiB; the second one brings the end.
	s := setup("demo", v.Server, load(v.URL+"/f", feed.Want{}))
	res, err := o.fetcher().Run(t.Context(), s)
	if err != nil || res.Bytes != 200<<10 {
		t.Fatal(res, err)
	}
}

func TestDiskFullCode(t *testing.T) {
	f := &Fetcher{Options: Options{Data: state.Dir(t.TempDir())}}
	err := f.room(1 << 60)
	if fault, ok := errors.AsType[*feed.Fault](err); !ok || fault.Code != "H-801" {
		t.Error(err)
	}
}

// TestUnchangedIsCheap: 100,000 artifacts, one request, little memory.
func TestUnchangedIsCheap(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, "index")
	}))
	defer srv.Close()
	o := newOutside(t)
	s := setup("demo", srv, func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
		req := feed.Request{URL: srv.URL + "/index", Limit: 100}
		if prev != nil {
			req.ETag = prev.Header().State
			if r, err := up.Do(ctx, req); err != nil || r.Unchanged {
				return "", errors.Join(err, feed.ErrUnchanged)
			}
		}
		b, err := dst.Load(ctx, req, feed.Want{})
		for i := 0; i < n && err == nil; i++ {
			err = dst.Add(feed.Artifact{Path: fmt.Sprintf("pool/main/p/package-%06d_1.0-1_amd64.deb", i), Digest: b.Digest(), Class: feed.Security, Version: "1.0-1"})
		}
		return `"1"`, err
	})
	if res, err := o.fetcher().Run(t.Context(), s); err != nil || res.Artifacts != n {
		t.Fatal(res, err)
	}
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	began := time.Now()
	res, err := o.fetcher().Run(t.Context(), s)
	took := time.Since(began)
	runtime.ReadMemStats(&m1)
	if err != nil || !res.Unchanged || res.Requests != 1 {
		t.Fatal(res, err)
	}
	mallocs, bytes := m1.Mallocs-m0.Mallocs, m1.TotalAlloc-m0.TotalAlloc
	t.Logf("%d artifacts: %s, %d allocations, %d bytes", n, took, mallocs, bytes)
	if mallocs > 20_000 || bytes > 64<<20 {
		t.Errorf("%d allocations of %d bytes for nothing new", mallocs, bytes)
	}
}
