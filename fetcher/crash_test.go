//go:build crashtest

package fetcher

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// crashSetup is a feed of five files whose content is in their URL; "version"
// is asked first.
func crashSetup(base string) feed.Setup {
	return feed.Setup{Name: "demo", Kind: feed.Kind{Name: "fake"}, Feed: &fake{reach: []string{base}, fetch: func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
		r, err := up.Do(ctx, feed.Request{URL: base + "/version", Limit: 10})
		if err != nil {
			return "", err
		}
		version := string(r.Body)
		if prev != nil && prev.Header().State == version {
			return "", feed.ErrUnchanged
		}
		for i := range 5 {
			name := fmt.Sprintf("%s-%d", version, i)
			var want feed.Want
			if i%2 == 0 {
				want.Digest = feed.DigestOf([]byte("/" + name))
			}
			b, err := dst.Load(ctx, feed.Request{URL: base + "/" + name, Limit: 100}, want)
			if err != nil {
				return "", err
			}
			if err := dst.Add(feed.Artifact{Path: fmt.Sprint(i), Digest: b.Digest(), Class: feed.Feature}); err != nil {
				return "", err
			}
		}
		return version, nil
	}}}
}

func crashOptions(t *testing.T, dir string) Options {
	store, err := cas.Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return Options{Data: state.Dir(dir), DB: state.At(state.Dir(dir), "crash test"), Store: store, Network: Network{Proxy: "none"},
		Verify: func(context.Context, feed.Setup, feed.Content, state.FeedState) (Verdict, error) {
			if os.Getenv("HASHIKE_CRASH_REFUSE") != "" {
				return Verdict{}, feed.ErrUntrusted
			}
			return Verdict{Weakest: feed.Signed}, nil
		}}
}

// TestCrashChild is the process that is killed.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("HASHIKE_CRASH_DIR")
	if dir == "" {
		t.Skip("only as a child of TestKilledAnywhere")
	}
	f, err := New(crashOptions(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	f.Run(t.Context(), crashSetup(os.Getenv("HASHIKE_CRASH_URL")))
}

// TestKilledAnywhere kills a run at every durable step: the accepted state is
// the old one or the new one, whole; the next run gets there, and asks again
// for at most the one file whose rename the kill fell into.
func TestKilledAnywhere(t *testing.T) {
	for _, refuse := range []string{"", "1"} {
		steps := 0
		for at := 1; ; at++ {
			died := crashOnce(t, at, refuse)
			if !died {
				break
			}
			steps++
		}
		t.Logf("refuse %q: killed at %d steps", refuse, steps)
		if steps < 20 {
			t.Errorf("only %d steps: are the failpoints built in?", steps)
		}
	}
}

func crashOnce(t *testing.T, at int, refuse string) (died bool) {
	var mu sync.Mutex
	version, asked := "v1", map[string]int{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path]++
		if r.URL.Path == "/version" {
			fmt.Fprint(w, version)
			return
		}
		w.Header().Set("ETag", `"`+r.URL.Path+`"`)
		if r.Header.Get("If-None-Match") == `"`+r.URL.Path+`"` {
			asked[r.URL.Path]--
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	defer srv.Close()
	dir := t.TempDir()
	if err := state.At(state.Dir(dir), "t").Create("outside", 1); err != nil {
		t.Fatal(err)
	}
	f, err := New(crashOptions(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	s := crashSetup(srv.URL)
	first, err := f.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	version = "v2"
	clear(asked)
	mu.Unlock()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "HASHIKE_CRASH_DIR="+dir, "HASHIKE_CRASH_URL="+srv.URL, "HASHIKE_CRASH_REFUSE="+refuse, "HASHIKE_CRASH_AT="+strconv.Itoa(at))
	out, err := cmd.CombinedOutput()
	died = err != nil
	if died && !strings.Contains(err.Error(), "killed") {
		t.Fatalf("step %d: %v\n%s", at, err, out)
	}
	// Whatever happened: the accepted snapshot is whole, the old or the new one.
	var st state.FeedState
	if err := f.DB.View(func(tx state.Tx) (err error) { st, err = tx.Feed("demo"); return err }); err != nil {
		t.Fatal(at, err)
	}
	if st.State != "v1" && (st.State != "v2" || refuse != "") || st.State == "v1" && st.Serial != first.Serial {
		t.Fatalf("step %d: state %+v", at, st)
	}
	wholeSnapshot(t, f, st)
	if _, err := f.Run(t.Context(), s); err != nil {
		t.Fatal(at, err)
	}
	if err := f.DB.View(func(tx state.Tx) (err error) { st, err = tx.Feed("demo"); return err }); err != nil || st.State != "v2" {
		t.Fatal(at, st, err)
	}
	wholeSnapshot(t, f, st)
	if serials, _ := f.Store.Serials("demo"); len(serials) != 2 {
		t.Errorf("step %d: snapshots %v", at, serials)
	}
	twice := 0
	for p, n := range asked {
		if p != "/version" && n > 1 {
			twice++
		}
	}
	if twice > 1 && refuse == "" { // what led to a refusal is asked for again on purpose
		t.Errorf("step %d: %d files were sent twice: %v", at, twice, asked)
	}
	return died
}

func wholeSnapshot(t *testing.T, f *Fetcher, st state.FeedState) {
	t.Helper()
	snap, err := f.Store.Snapshot("demo", st.Serial)
	if err != nil || snap.ID() != st.ID || snap.Len() != 5 {
		t.Fatal(snap, err)
	}
	for a := range snap.Artifacts() {
		if err := f.Store.Verify(t.Context(), a.Digest); err != nil {
			t.Error(err)
		}
	}
}
