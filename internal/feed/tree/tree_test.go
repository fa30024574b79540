package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/fetcher"
	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/verifier"
)

func mustFeed(t *testing.T, block string) *tree {
	t.Helper()
	f, err := newFeed(func(into any) error { _, err := toml.Decode(block, into); return err })
	if err != nil {
		t.Fatal(err)
	}
	return f.(*tree)
}

func TestConfig(t *testing.T) {
	for block, key := range map[string]string{
		``:                                           "url",
		`url="https://a/" ` + "\n" + `dir="x"`:       "url",
		`url="ftp://a/"` + "\n" + `keys=["k"]`:       "url",
		`url="https://a/?x"`:                         "keys", // the default signature needs one
		`dir="d"` + "\n" + `list="../x"`:             "list",
		`dir="d"` + "\n" + `signature="/x"`:          "signature",
		`dir="d"` + "\n" + `signature="clear"`:       "keys",
		"dir='d'\nsignature=''\nkeys=['k']":          "keys",
		"dir='d'\nsignature=''\nclass='odd'":         "class",
		"dir='d'\nsignature=''\ninclude=['[']":       "include",
		"dir='d'\nsignature=''\nmax_file=-1":         "max_file",
		"dir='d'\nsignature=''\nyellow='100d'":       "red",
		"dir='d'\nkeys=['k']\nlist='SHA256SUMS.asc'": "signature",
	} {
		_, err := newFeed(func(into any) error { _, err := toml.Decode(block, into); return err })
		if !errors.Is(err, feed.ErrConfig) || !strings.HasPrefix(err.Error(), key+":") {
			t.Errorf("%q: %v, want an error about %s", block, err, key)
		}
	}
}

func TestChosen(t *testing.T) {
	f := &tree{cfg: Config{Include: []string{"*.iso", "pool/**", "doc/*.txt"}, Exclude: []string{"*-debug*", "pool/old/**"}}}
	for p, want := range map[string]bool{
		"a.iso": true, "x/a.iso": true, "a-debug.iso": false, "pool/a/b.deb": true, "pool": false, "pools/a": false,
		"pool/old/x": false, "doc/a.txt": true, "doc/x/a.txt": false, "other": false,
	} {
		if f.chosen(p) != want {
			t.Errorf("%s: want %v", p, want)
		}
	}
}

// signer is a vendor's key.
type signer struct {
	e      *openpgp.Entity
	anchor feed.Anchor
}

func newSigner(t *testing.T, name string) *signer {
	t.Helper()
	// Made an hour ago, so that signatures of the last minutes are its own.
	e, err := openpgp.NewEntity(name, "", name+"@example.org", &packet.Config{Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	var pub bytes.Buffer
	if err := e.Serialize(&pub); err != nil {
		t.Fatal(err)
	}
	return &signer{e, feed.Anchor{Name: name, Use: "openpgp", Data: pub.Bytes()}}
}

func (s *signer) detached(t *testing.T, b []byte, at time.Time) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&out, s.e, bytes.NewReader(b), &packet.Config{Time: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (s *signer) clear(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, s.e.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return append(out.Bytes(), '\n')
}

func trust(at time.Time, s ...*signer) feed.Trust {
	tr := feed.Trust{At: at, Epoch: "test"}
	for _, x := range s {
		tr.Anchors = append(tr.Anchors, x.anchor)
	}
	return tr
}

// proof keeps what Verify says, by the rule of feed.Evidence.
type proof struct {
	strength map[string]feed.Strength
	proved   map[feed.Digest]feed.Strength
	marks    map[string]int64
	c        feed.Content
}

func (p *proof) Evidence(e feed.Evidence) error {
	a, ok := p.c.Lookup(e.Path)
	if !ok || a.Digest != e.Subject || e.Refused != "" {
		return fmt.Errorf("evidence %+v: %w", e, feed.ErrUntrusted)
	}
	s := e.Strength
	if e.Via != "" {
		via, ok := p.proved[e.Via]
		if !ok {
			return fmt.Errorf("via %s, not proved: %w", e.Via, feed.ErrUntrusted)
		}
		s = min(s, via)
	}
	p.strength[e.Path], p.proved[e.Subject] = s, s
	return nil
}
func (p *proof) Once(feed.Artifact, string, func(io.ReaderAt, int64) (feed.Evidence, error)) error {
	panic("tree remembers nothing")
}
func (p *proof) Mark(stream string, order int64) error { p.marks[stream] = order; return nil }

func verify(f *tree, c feed.Content, tr feed.Trust) (*proof, error) {
	p := &proof{map[string]feed.Strength{}, map[feed.Digest]feed.Strength{}, map[string]int64{}, c}
	return p, f.Verify(context.Background(), c, tr, p)
}

// content is a snapshot in memory.
func content(files map[string][]byte, origin feed.Origin) *feedtest.Memory {
	m := feedtest.NewMemory(feed.Header{Feed: "tools", Kind: "tree", Serial: 1})
	for p, b := range files {
		class := feed.Feature
		if strings.HasPrefix(p, "SHA256SUMS") {
			class = feed.Metadata
		}
		m.Set(feed.Artifact{Path: p, Class: class, Origin: origin}, b)
	}
	return m
}

func list(files map[string][]byte) []byte {
	var b bytes.Buffer
	for p, body := range files {
		fmt.Fprintf(&b, "%s  %s\n", feed.DigestOf(body).Hex(), p)
	}
	return b.Bytes()
}

func TestAttacksRefused(t *testing.T) {
	good, evil := newSigner(t, "vendor"), newSigner(t, "evil")
	now := time.Now()
	payload := map[string][]byte{"tool.exe": []byte("tool"), "data/db.bin": []byte("db")}
	sums := list(payload)
	f := mustFeed(t, "url='https://a/'\nkeys=['vendor']")
	fresh := func() map[string][]byte {
		m := map[string][]byte{"SHA256SUMS": sums, "SHA256SUMS.asc": good.detached(t, sums, now.Add(-time.Minute))}
		for p, b := range payload {
			m[p] = b
		}
		return m
	}
	p, err := verify(f, content(fresh(), feed.Origin{}), trust(now, good, evil))
	if err != nil {
		t.Fatal(err)
	}
	for path := range fresh() {
		if p.strength[path] != feed.Signed {
			t.Errorf("%s is %s", path, p.strength[path])
		}
	}
	if p.marks["list SHA256SUMS"] != now.Add(-time.Minute).Unix() {
		t.Error(p.marks)
	}
	for name, attack := range map[string]func(m map[string][]byte){
		"flipped bit in the list": func(m map[string][]byte) { m["SHA256SUMS"] = flip(sums) },
		"flipped bit in the signature": func(m map[string][]byte) {
			b := m["SHA256SUMS.asc"]
			m["SHA256SUMS.asc"] = append(flip(b[:len(b)/2]), b[len(b)/2:]...)
		},
		"flipped bit in a file": func(m map[string][]byte) { m["tool.exe"] = flip(m["tool.exe"]) },
		"truncated list":        func(m map[string][]byte) { m["SHA256SUMS"] = sums[:len(sums)/2] },
		"truncated file":        func(m map[string][]byte) { m["data/db.bin"] = nil },
		"signature removed":     func(m map[string][]byte) { delete(m, "SHA256SUMS.asc") },
		"list removed":          func(m map[string][]byte) { delete(m, "SHA256SUMS") },
		"empty signature":       func(m map[string][]byte) { m["SHA256SUMS.asc"] = nil },
		"other key":             func(m map[string][]byte) { m["SHA256SUMS.asc"] = evil.detached(t, sums, now) },
		"a file more":           func(m map[string][]byte) { m["more.exe"] = []byte("evil") },
		"files swapped":         func(m map[string][]byte) { m["tool.exe"], m["data/db.bin"] = m["data/db.bin"], m["tool.exe"] },
	} {
		m := fresh()
		attack(m)
		if _, err := verify(f, content(m, feed.Origin{Peer: "CN=a"}), trust(now, good, evil)); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify(f, content(fresh(), feed.Origin{}), trust(now)); !errors.Is(err, feed.ErrUntrusted) {
		t.Error("without a pinned key:", err)
	}
	// The store's own damage is told apart from an attack.
	c := content(fresh(), feed.Origin{})
	c.Blobs[c.Named["SHA256SUMS"].Digest] = flip(sums)
	if _, err := verify(f, c, trust(now, good)); !errors.Is(err, feed.ErrDamaged) {
		t.Error(err)
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) > 0 {
		b[len(b)/2] ^= 1
	}
	return b
}

func TestUnsignedList(t *testing.T) {
	m := map[string][]byte{"a": []byte("a")}
	m["SHA256SUMS"] = list(m)
	f := mustFeed(t, "url='https://a/'\nsignature=''")
	for want, o := range map[feed.Strength][]feed.Origin{
		feed.Attested: {{Peer: "CN=a; sha256:00"}},
		feed.None:     {{}, {Peer: "CN=a; sha256:00", Inspected: true}, {URL: "dir:drop/SHA256SUMS"}},
	} {
		for _, o := range o {
			p, err := verify(f, content(m, o), feed.Trust{})
			if err != nil || p.strength["a"] != want || p.strength["SHA256SUMS"] != want {
				t.Errorf("%+v: %v %v, want %s", o, p.strength, err, want)
			}
		}
	}
}

func TestClearSigned(t *testing.T) {
	s := newSigner(t, "vendor")
	m := map[string][]byte{"-dash": []byte("a"), "b": []byte("b")}
	sums := append([]byte("# a comment\n"), list(m)...)
	doc := s.clear(t, sums)
	m["SHA256SUMS"] = doc
	f := mustFeed(t, "url='https://a/'\nsignature='clear'\nkeys=['vendor']")
	p, err := verify(f, content(m, feed.Origin{}), trust(time.Now().Add(time.Minute), s))
	if err != nil || p.strength["b"] != feed.Signed {
		t.Fatal(err, p.strength)
	}
	text, err := clearText(doc)
	if err != nil || strings.TrimSpace(string(text)) != strings.TrimSpace(string(sums)) {
		t.Errorf("%v %q, want %q", err, text, sums)
	}
	m["SHA256SUMS"] = bytes.Replace(doc, []byte("# a comment"), []byte("# a commend"), 1)
	if _, err := verify(f, content(m, feed.Origin{}), trust(time.Now().Add(time.Minute), s)); !errors.Is(err, feed.ErrUntrusted) {
		t.Error(err)
	}
}

// site is a vendor's web server; it counts.
type site struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string][]byte
	validate bool // answers with ETag and 304
	asked    []string
	sent     int
}

func newSite(t *testing.T) *site {
	s := &site{files: map[string][]byte{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := strings.TrimPrefix(r.URL.Path, "/pub/")
	s.asked = append(s.asked, p)
	b, ok := s.files[p]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if s.validate {
		tag := `"` + feed.DigestOf(b).Hex() + `"`
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	n, _ := w.Write(b)
	s.sent += n
}

type bench struct {
	t     *testing.T
	f     *fetcher.Fetcher
	store *cas.Store
	trust feed.Trust
}

func newBench(t *testing.T, signers ...*signer) *bench {
	t.Helper()
	tr := trust(time.Time{}, signers...)
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
	f, err := fetcher.New(fetcher.Options{Data: dir, DB: db, Store: store, Network: fetcher.Network{Proxy: "none", Timeouts: fetcher.Timeouts{Backoff: time.Millisecond}},
		Verify: func(ctx context.Context, s feed.Setup, c feed.Content, prev state.FeedState) (fetcher.Verdict, error) {
			v, err := verifier.Run(ctx, verifier.Job{Setup: s, Content: c, Trust: tr, Marks: prev.Marks, Policy: verifier.Policy{Floors: s.Floors}, Side: "outside"})
			return fetcher.Verdict{Marks: v.Marks, Withheld: v.Withheld, Weakest: v.Weakest}, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return &bench{t, f, store, tr}
}

func (b *bench) run(f *tree, dirs map[string]string) (fetcher.Result, error) {
	least := feed.Signed
	if f.cfg.Signature == "" {
		least = feed.None // plain HTTP and folders prove nothing: as under an exception
	}
	floors := map[feed.Class]feed.Strength{feed.Metadata: least, feed.Security: least, feed.Feature: least}
	kind := Kind()
	kind.Anchors = b.trust.Anchors
	return b.f.Run(b.t.Context(), feed.Setup{Name: "tools", Kind: kind, Feed: f, Dirs: dirs, Floors: floors})
}

func TestFetchFromServer(t *testing.T) {
	s := newSigner(t, "vendor")
	for _, validate := range []bool{true, false} {
		for _, signature := range []string{"SHA256SUMS.asc", "clear", ""} {
			web := newSite(t)
			web.validate = validate
			files := map[string][]byte{"tool 100%25.exe": bytes.Repeat([]byte("x"), 5000), "日本語/読んで.txt": []byte("doc"), "skip.iso": []byte("iso")}
			publish := func() {
				sums := list(files)
				clear := s.clear(t, sums)
				sig := s.detached(t, sums, time.Now())
				web.mu.Lock()
				defer web.mu.Unlock()
				for p, b := range files {
					web.files[p] = b
				}
				web.files["SHA256SUMS"], web.files["SHA256SUMS.asc"] = sums, sig
				if signature == "clear" {
					web.files["SHA256SUMS"] = clear
				}
				web.asked, web.sent = nil, 0
			}
			publish()
			block := fmt.Sprintf("url='%s/pub/'\nsignature='%s'\nexclude=['*.iso']\n", web.URL, signature)
			if signature != "" {
				block += "keys=['vendor']\n"
			}
			f := mustFeed(t, block)
			b := newBench(t, s)
			res, err := b.run(f, nil)
			if err != nil {
				t.Fatal(err)
			}
			snap, _ := b.store.Snapshot("tools", res.Serial)
			if _, ok := snap.Lookup("skip.iso"); ok {
				t.Error("excluded, but carried")
			}
			web.asked, web.sent = nil, 0
			res, err = b.run(f, nil)
			if err != nil || !res.Unchanged || len(web.asked) != 1 || web.sent > 2000 || validate && web.sent > 0 {
				t.Errorf("validators %v, signature %q: %+v %v, asked %v, sent %d: want one small request", validate, signature, res, err, web.asked, web.sent)
			}
			// One file changes: only it and the documents are fetched.
			files["new.txt"] = []byte("new")
			publish()
			if res, err = b.run(f, nil); err != nil || res.Unchanged || slices.Contains(web.asked, "tool 100%25.exe") || !slices.Contains(web.asked, "new.txt") {
				t.Errorf("%+v %v %v", res, err, web.asked)
			}
			// Another choice makes another snapshot though the vendor has nothing new.
			f = mustFeed(t, strings.Replace(block, "*.iso", "*.exe", 1))
			if res, err = b.run(f, nil); err != nil || res.Unchanged {
				t.Error(res, err)
			}
		}
	}
}

func TestFetchRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		sums string
		want error
	}{
		"no list":      {"", feed.ErrUpstream},
		"traversal":    {strings.Repeat("0", 64) + "  ../../etc/passwd\n", feed.ErrUpstream},
		"wrong digest": {strings.Repeat("0", 64) + "  a\n", feed.ErrUntrusted},
		"missing":      {strings.Repeat("0", 64) + "  b\n", feed.ErrUpstream},
	} {
		web := newSite(t)
		web.files["a"] = []byte("a")
		if c.sums != "" {
			web.files["SHA256SUMS"] = []byte(c.sums)
		}
		_, err := newBench(t).run(mustFeed(t, "signature=''\nurl='"+web.URL+"/pub'"), nil)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestFetchFromFolder(t *testing.T) {
	dir := t.TempDir()
	files := map[string][]byte{"kb.msu": []byte("patch"), "sub/x.cab": []byte("cab")}
	os.Mkdir(filepath.Join(dir, "sub"), 0o700)
	write := func(p string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, p), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("SHA256SUMS", list(files))
	write("kb.msu", files["kb.msu"])
	f := mustFeed(t, "dir='drop'\nsignature=''\nclass='security'")
	b := newBench(t)
	dirs := map[string]string{"drop": dir}
	if _, err := b.run(f, dirs); !errors.Is(err, feed.ErrTransient) {
		t.Error("half copied:", err)
	}
	write("sub/x.cab", []byte("bad"))
	if _, err := b.run(f, dirs); !errors.Is(err, feed.ErrUntrusted) {
		t.Error("not as listed:", err)
	}
	write("sub/x.cab", files["sub/x.cab"])
	res, err := b.run(f, dirs)
	if err != nil || res.Artifacts != 3 {
		t.Fatal(res, err)
	}
	snap, _ := b.store.Snapshot("tools", res.Serial)
	if a, _ := snap.Lookup("sub/x.cab"); a.Origin.URL != "dir:drop/sub/x.cab" || a.Class != feed.Security {
		t.Errorf("%+v", a)
	}
	if res, err = b.run(f, dirs); err != nil || !res.Unchanged {
		t.Error(res, err)
	}
	// A new file; the old one is gone from the folder, but the store has it.
	files["new.msu"] = []byte("newer")
	write("SHA256SUMS", list(files))
	write("new.msu", files["new.msu"])
	os.Remove(filepath.Join(dir, "kb.msu"))
	if res, err = b.run(f, dirs); err != nil || res.Artifacts != 4 {
		t.Error(res, err)
	}
}

func TestServeAndProbe(t *testing.T) {
	m := map[string][]byte{"a b%41.txt": []byte("a")}
	m["SHA256SUMS"] = list(m)
	c := content(m, feed.Origin{})
	f := mustFeed(t, "dir='d'\nsignature=''")
	dir := t.TempDir()
	for p, b := range m {
		os.WriteFile(filepath.Join(dir, p), b, 0o600)
	}
	srv := httptest.NewServer(http.StripPrefix("/tools/", http.FileServerFS(os.DirFS(dir))))
	defer srv.Close()
	base, _ := url.Parse(srv.URL + "/tools/")
	told, err := f.Probe(t.Context(), http.DefaultClient.Do, c, base)
	if err != nil || len(told) != 2 {
		t.Error(told, err)
	}
	os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte("other"), 0o600)
	if _, err := f.Probe(t.Context(), http.DefaultClient.Do, c, base); err == nil {
		t.Error("a wrong file was not noticed")
	}
	if s, err := f.Settings(c, base); err != nil || !strings.Contains(s[0].Body, srv.URL+"/tools/SHA256SUMS") {
		t.Error(s, err)
	}
}

// TestOlderListRefused: yesterday's genuine list does not come back.
func TestOlderListRefused(t *testing.T) {
	s := newSigner(t, "vendor")
	web := newSite(t)
	web.files["a"] = []byte("a")
	sums := list(web.files)
	f := mustFeed(t, "keys=['vendor']\nurl='"+web.URL+"/pub/'")
	b := newBench(t, s)
	now := time.Now()
	web.files["SHA256SUMS"], web.files["SHA256SUMS.asc"] = sums, s.detached(t, sums, now.Add(-time.Minute))
	good, err := b.run(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	web.files["SHA256SUMS.asc"] = s.detached(t, sums, now.Add(-30*time.Minute))
	res, err := b.run(f, nil)
	if !errors.Is(err, feed.ErrRollback) || res.Serial != good.Serial {
		t.Error(res, err)
	}
	// Held below the floor without a signature: nothing is accepted.
	bare := mustFeed(t, "signature=''\nurl='"+web.URL+"/pub/'")
	_, err = newBench(t).f.Run(t.Context(), feed.Setup{Name: "bare", Kind: Kind(), Feed: bare, Floors: Kind().Floors})
	if !errors.Is(err, feed.ErrHeld) {
		t.Error(err)
	}
}
