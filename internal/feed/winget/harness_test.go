package winget

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hashike/hashike/internal/feed"
)

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func sample(t testing.TB, name ...string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, name...)...))
	if err != nil {
		missing(t, err.Error())
	}
	return b
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// content is a snapshot in memory.
type content struct {
	fstest.MapFS
	name string
}

func (c content) Header() feed.Header { return feed.Header{Feed: c.name, Kind: "test"} }

func (c content) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		var names []string
		for n := range c.MapFS {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			if a, _ := c.Lookup(n); !yield(a, nil) {
				return
			}
		}
	}
}

func (c content) Lookup(p string) (feed.Artifact, bool) {
	f, ok := c.MapFS[p]
	if !ok {
		return feed.Artifact{}, false
	}
	return feed.Artifact{Path: p, Digest: feed.DigestOf(f.Data), Size: int64(len(f.Data)), Class: feed.Feature}, true
}

func contentOf(name string, files map[string][]byte) content {
	c := content{fstest.MapFS{}, name}
	for p, b := range files {
		c.MapFS[p] = &fstest.MapFile{Data: b}
	}
	return c
}

// vendor is a feed whose records are given.
type vendor struct {
	feed.Feed
	records []feed.Installer
}

func (v vendor) Installers(c feed.Content) (out []feed.Installer, err error) {
	for _, r := range v.records {
		if _, ok := c.Lookup(r.Path); ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// world is a source with its peers, as the engine would show them.
type world struct {
	t     *testing.T
	src   *source
	own   feed.View
	peers map[string]map[string]feed.Peer // feed → ring → what it shows
	h     http.Handler
}

func newWorld(t *testing.T, feeds ...string) *world {
	t.Helper()
	f, err := newFeed(func(into any) error {
		into.(*Config).Feeds, into.(*Config).Identifier = feeds, "Hashike.Test"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, src: f.(*source), peers: map[string]map[string]feed.Peer{}}
}

// publish shows files and records of a feed to rings; none is all.
func (w *world) publish(name string, files map[string][]byte, records []feed.Installer, rings ...string) {
	w.t.Helper()
	if w.peers[name] == nil {
		w.peers[name] = map[string]feed.Peer{}
	}
	if len(rings) == 0 {
		rings = feed.Rings()
	}
	for _, r := range rings {
		v := feed.View{Content: contentOf(name, files)}
		if old, ok := w.peers[name][r]; ok {
			v.Older = append([]feed.Content{old.View.Content}, old.View.Older...)
		}
		w.peers[name][r] = feed.Peer{Feed: vendor{records: records}, View: v}
	}
	w.serve()
}

// manifests publishes documents of the source's own.
func (w *world) manifests(docs ...[]byte) {
	w.t.Helper()
	x, files := index{Schema: 1, Manifests: map[string]feed.Digest{}}, map[string][]byte{}
	for _, b := range docs {
		d, err := parseDocument(b)
		if err != nil {
			w.t.Fatal(err)
		}
		files[d.path()], x.Manifests[d.path()] = b, feed.DigestOf(b)
	}
	files[indexPath] = x.encode()
	w.own = feed.View{Content: contentOf("winget", files)}
	w.serve()
}

func (w *world) serve() {
	w.t.Helper()
	base, _ := url.Parse("https://hashike.example/winget/")
	h, err := w.src.Handler(feed.Serving{
		Feed: "winget", Base: base, Log: slog.New(slog.DiscardHandler),
		View: func(string) (feed.View, bool) { return w.own, w.own.Content != nil },
		Ring: func(r *http.Request) string { // by host, as the engine may
			if ring, ok := strings.CutSuffix(r.Host, ".hashike.example"); ok {
				return ring
			}
			return "all"
		},
		Peer: func(name, ring string) (feed.Peer, error) {
			p, ok := w.peers[name][ring]
			if !ok {
				return p, fs.ErrNotExist
			}
			return p, nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.h = http.StripPrefix("/winget", h)
}

// ask sends one request; contract "" sends no header.
func (w *world) ask(method, host, path, body, contract string, header ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, "https://"+host+"/winget"+path, strings.NewReader(body))
	if contract != "" {
		r.Header.Set("Version", contract)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, r)
	return rec
}

// ids are the packages that a search returns, in its order, over all pages.
func (w *world) ids(body string) string {
	w.t.Helper()
	var out []string
	for token := ""; ; {
		var header []string
		if token != "" {
			header = []string{"ContinuationToken", token}
		}
		rec := w.ask("POST", "hashike.example", "/manifestSearch", body, "1.10.0", header...)
		if rec.Code == http.StatusNoContent {
			break
		}
		var got struct {
			Data              []struct{ PackageIdentifier string }
			ContinuationToken string
		}
		if rec.Code != http.StatusOK || json.Unmarshal(rec.Body.Bytes(), &got) != nil {
			w.t.Fatalf("%s: %d %s", body, rec.Code, rec.Body)
		}
		for _, d := range got.Data {
			out = append(out, d.PackageIdentifier)
		}
		if token = got.ContinuationToken; token == "" {
			break
		}
	}
	return strings.Join(out, " ")
}

// shop is a mirror with a program of each kind.
func shop(t *testing.T) *world {
	w := newWorld(t, "apps", "browsers", "mail", "empty")
	msi := feed.Installer{
		Path: "chrome.msi", ID: "Google.Chrome", Name: "Google Chrome", Publisher: "Google LLC", Version: "138.0.7204.50", Arch: "x64", Type: "msi", Scope: "machine", Silent: "/qn", Success: []int{1641, 3010, 5},
		ProductCode: "{630C6D4E-5144-3E8C-A7B1-4B3BC607535E}", UpgradeCode: "{C1DFDF69-5945-32F2-A35E-EE94C99C7CF4}", Home: "https://www.google.com/chrome/",
	}
	old := msi
	old.Path, old.Version, old.ProductCode = "chrome-137.msi", "137.0.1.1", "{11111111-5144-3E8C-A7B1-4B3BC607535E}"
	w.publish("browsers", map[string][]byte{"chrome.msi": []byte("chrome 138"), "chrome-137.msi": []byte("chrome 137"), "patch.msp": []byte("patch")}, []feed.Installer{msi, old, {
		Path: "patch.msp", ID: "Adobe.Patch", Name: "Patch", Publisher: "Adobe", Version: "1", Arch: "x64", Type: "msp",
	}})
	app := feed.Installer{
		Path: "packages/App.msixbundle", ID: "Hashike.App", Name: "業務アプリ", Publisher: "試験町", Version: "1.3.0.0", Arch: "x64", Type: "msix", MinOS: "10.0.17763.0",
		FamilyName: "Hashike.App_8wekyb3d8bbwe", Signature: feed.DigestOf([]byte("signature")), Locale: "ja-JP",
	}
	arm := app
	arm.Arch = "arm64"
	silentless := feed.Installer{Path: "setup.exe", ID: "Just.Ichitaro", Name: "一太郎", Publisher: "JustSystems", Version: "2026", Arch: "x86", Type: "exe"}
	w.publish("apps", map[string][]byte{"packages/App.msixbundle": []byte("bundle"), "setup.exe": []byte("setup")}, []feed.Installer{app, arm, silentless})
	bird := feed.Installer{
		Path: "win64/ja/Thunderbird Setup 140.12.0esr.exe", ID: "Mozilla.Thunderbird.ESR.ja", Name: "Mozilla Thunderbird ESR (ja)", Publisher: "Mozilla", Version: "140.12.0", Locale: "ja", Arch: "x64", Type: "nullsoft",
		Silent: "/S /PreventRebootRequired=true", Scope: "machine", ProductCode: "Mozilla Thunderbird 140.12.0 (x64 ja)", License: "MPL-2.0", Summary: "Mail",
		Entries: []feed.AddRemove{{Name: "Mozilla Thunderbird (x64 ja)", Publisher: "Mozilla", Version: "140.12.0esr"}},
	}
	w.publish("mail", map[string][]byte{bird.Path: []byte("thunderbird")}, []feed.Installer{bird})
	return w
}

func digestUpper(b string) string { return strings.ToUpper(feed.DigestOf([]byte(b)).Hex()) }

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// do hands a request to the source, as a command's HTTP client would.
func (w *world) do() func(*http.Request) (*http.Response, error) { return w.spoil("\x00") }

// spoil is do, with one byte wrong in the answers below a path.
func (w *world) spoil(below string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		r.Host, r.RequestURI = r.URL.Host, r.URL.Path
		rec := httptest.NewRecorder()
		w.h.ServeHTTP(rec, r)
		res := rec.Result()
		b, _ := io.ReadAll(res.Body)
		if strings.Contains(r.URL.Path, below) && len(b) > 0 {
			b[len(b)/2] ^= 1
		}
		res.Body = io.NopCloser(strings.NewReader(string(b)))
		return res, nil
	}
}
