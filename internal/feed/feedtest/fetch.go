package feedtest

import (
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashike/hashike/fetcher"
	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/feed"
)

// testConfig: strictness, and the block that init writes.
func (c *Case) testConfig(t *testing.T) {
	u := newUpstream(t, filepath.Join(t.TempDir(), "x"))
	kind, filled := c.Kind, any(nil)
	kind.New = func(d feed.Decode) (feed.Feed, error) {
		return c.Kind.New(func(into any) error {
			err := d(into)
			filled = into
			return err
		})
	}
	parse := func(text string) error {
		_, err := config.Parse("hashike.toml", text, []feed.Kind{kind})
		return err
	}
	if err := parse(c.text(u, "")); err != nil {
		t.Fatal(err)
	}
	err := parse(c.text(u, "konfig = 1\n"))
	if err == nil || !strings.Contains(err.Error(), `"konfig"`) || !strings.Contains(err.Error(), "[feed."+name+"]") {
		t.Errorf("unknown key: %v", err)
	}
	head := "schema = 1\nside = \"outside\"\n"
	if err := parse(head + config.FeedBlock(name, kind, filled)); err != nil {
		t.Errorf("the block that init writes: %v\n%s", err, config.FeedBlock(name, kind, filled))
	}
	// With defaults alone something may be needed, but nothing is unknown or of the wrong type.
	if err := parse(head + config.FeedBlock(name, kind, nil)); err != nil && !errors.Is(err, feed.ErrConfig) {
		t.Errorf("the block of defaults: %v", err)
	}
	if kind.Title.JA == "" || kind.Title.EN == "" {
		t.Errorf("title %+v", kind.Title)
	}
	if !feed.ValidName(kind.Name) || len(kind.Floors) == 0 {
		t.Errorf("name %q, floors %v", kind.Name, kind.Floors)
	}
}

// testUnchanged: nothing new costs a few small requests, also where the vendor
// sends no validators, and makes no snapshot.
func testUnchanged(t *testing.T, h *history) {
	for _, bare := range []bool{false, true} {
		b := h.spare(t)
		b.up.bare = bare
		first := b.at(t, h.c.Now)
		n := len(b.up.requests())
		res, err := b.run(t.Context())
		if err != nil || !res.Unchanged || res.Serial != first.Header().Serial {
			t.Errorf("second fetch: %+v, %v", res, err)
		}
		if res.Requests > h.c.Quiet || res.Requests != int64(len(b.up.requests())-n) {
			t.Errorf("second fetch asks %v, at most %d requests may be", b.up.requests()[n:], h.c.Quiet)
		}
		if serials, _ := b.store.Serials(name); len(serials) != 1 {
			t.Errorf("snapshots %v", serials)
		}
	}
}

// testHosts: the feed names every host it asks, and follows no redirect to another.
func testHosts(t *testing.T, h *history) {
	if h.c.Dir != "" {
		if n := h.first; n > 0 {
			t.Errorf("reads a directory, and yet asks the server %d times", n)
		}
		return
	}
	u := strings.TrimPrefix(h.up.URL, "http://")
	perms := fetcher.Hosts([]feed.Setup{h.setup})
	if !slices.ContainsFunc(perms, func(p fetcher.Permission) bool { return p.Host+":"+p.Port == u }) {
		t.Errorf("Reaches gives %v, not %s", perms, u)
	}
	var strays atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { strays.Add(1) }))
	defer other.Close()
	b := h.spare(t)
	b.up.set(t, h.c.Now, b.clock)
	b.up.breaks(t, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
		return true
	})
	// What was POSTed is sent to no other address, so there a redirect is no answer at all.
	if res, err := b.run(t.Context()); !errors.Is(err, feed.ErrHeld) && !(b.c.Now.Handler != nil && errors.Is(err, feed.ErrUpstream)) {
		t.Errorf("redirected elsewhere: %+v, %v", res, err)
	}
	if strays.Load() > 0 {
		t.Errorf("%d requests went to a host that nobody named", strays.Load())
	}
}

// hostileNames must not become a file anywhere but a blob under its digest.
func hostileNames() []string {
	return []string{
		"../escaped", "../../../../escaped", "/escaped", "a/../../escaped", "./../escaped", "a//b", "a/./b",
		`..\escaped`, `a\..\..\escaped`, `C:\escaped`, `\\server\share\escaped`, "//server/share/escaped",
		"a/..", "..", ".", "nul\x00byte", "del\x7f", "file:///escaped", strings.Repeat("long/", 400) + "escaped",
	}
}

// oddNames mean something to Windows: harmless as long as paths are only keys.
func oddNames() []string {
	return []string{"C:/escaped", "con", "aux.txt", "a/NUL", "com1.deb", "x/lpt9"}
}

// testHostile: an index under the right signature gives files names that lead
// elsewhere. The snapshot is refused, and nothing lies outside the store.
func testHostile(t *testing.T, h *history) {
	b := h.spare(t)
	for _, p := range hostileNames() {
		b.fresh(t)
		b.up.set(t, h.c.Hostile(p), b.clock)
		res, err := b.run(t.Context())
		switch {
		case err == nil:
			t.Errorf("%.60q: accepted: %+v", p, res)
		case !errors.Is(err, feed.ErrUpstream) && !errors.Is(err, feed.ErrUntrusted):
			t.Errorf("%.60q: %v", p, err)
		}
		b.stays(t, 0)
		b.contained(t)
	}
	for _, p := range oddNames() {
		b.fresh(t)
		b.up.set(t, h.c.Hostile(p), b.clock)
		if _, err := b.run(t.Context()); err != nil && !errors.Is(err, feed.ErrUpstream) && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%q: %v", p, err)
		}
		b.contained(t)
	}
}

// contained checks that nothing was written but what the engines write.
func (b *bench) contained(t testing.TB) {
	t.Helper()
	ours := []string{"state.db", "store", "snapshots", "evidence", "quarantine", "logs"}
	err := filepath.WalkDir(b.root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(b.root, p)
		rel = filepath.ToSlash(rel)
		inside, in := strings.CutPrefix(rel, "deep/below/data/")
		top, _, _ := strings.Cut(inside, "/")
		switch {
		case err != nil:
			return err
		case strings.Contains(strings.ToLower(d.Name()), "escaped"):
			t.Errorf("%s was written", rel)
		case !in && !strings.HasPrefix("deep/below/data", rel) && rel != ".":
			t.Errorf("%s was written outside the data directory", rel)
		case in && !slices.Contains(ours, top) && !strings.HasPrefix(top, "state.db") && !strings.HasPrefix(top, "lock") && !strings.HasPrefix(top, "."):
			t.Errorf("%s was written into the data directory", inside)
		case d.Type()&os.ModeSymlink != 0:
			t.Errorf("%s is a link", rel)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// testUpstreamTampered: the same attacks a step earlier, on the vendor's own
// files, through Fetch.
func testUpstreamTampered(t *testing.T, h *history) {
	if h.c.Now.Files == nil {
		t.Skip("the upstream is no tree of files")
	}
	genuine := map[feed.Digest]bool{}
	for a := range h.now.Artifacts() {
		genuine[a.Digest] = true
	}
	b := h.spare(t)
	if h.c.Now.Handler != nil { // what is made of answers may depend on what was there before, and here nothing is
		b.fresh(t)
		for a := range b.at(t, h.c.Now).Artifacts() {
			genuine[a.Digest] = true
		}
	}
	for _, p := range slices.Sorted(maps.Keys(h.c.Now.Files)) {
		body := h.c.Now.Files[p]
		if !genuine[feed.DigestOf(body)] {
			continue // nothing fetches it
		}
		half := len(body) / 2
		for _, x := range []change{
			{what: "one bit flipped", body: append(append(slices.Clone(body[:half]), body[half]^1), body[half+1:]...)},
			{what: "cut in half", body: body[:half]},
			{what: "emptied"},
		} {
			if (h.c.Loose(p, half) || encoding(file{feed.Artifact{Path: p}, body}, half)) && x.what == "one bit flipped" {
				continue
			}
			b.fresh(t)
			b.up.set(t, h.c.Now.with(p, x.body), b.clock)
			res, err := b.run(t.Context())
			if err != nil {
				b.stays(t, 0)
				continue
			}
			snap, serr := b.store.Snapshot(name, res.Serial)
			if serr != nil {
				t.Fatal(serr)
			}
			for a := range snap.Artifacts() {
				_, held := b.state(t).Withheld[a.Path]
				if !genuine[a.Digest] && !held {
					t.Errorf("upstream's %s %s: %s accepted", p, x.what, a.Path)
				}
			}
			for a := range h.now.Artifacts() {
				if _, ok := snap.Lookup(a.Path); !ok && !h.c.Optional(a.Path) {
					t.Errorf("upstream's %s %s: accepted without %s", p, x.what, a.Path)
				}
			}
		}
	}
}
