package apt

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

// vendorArchive generates a small signed archive.
type vendorArchive struct {
	t      *testing.T
	signer *feedtest.Signer
	clear  bool // InRelease with by-hash; else Release with Release.gpg, without
}

// deb is one package of a suite.
type deb struct {
	name, version, file string
	body                []byte
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// state is the archive as published at a time; extra goes into each suite's
// Release list as one more name.
func (v vendorArchive) state(at time.Time, suites map[string][]deb, extra ...string) feedtest.State {
	v.t.Helper()
	s := feedtest.State{Files: feedtest.Files{}}
	for suite, debs := range suites {
		v.suite(s.Files, suite, at, debs, extra)
	}
	return s
}

func (v vendorArchive) suite(files feedtest.Files, suite string, at time.Time, debs []deb, extra []string) {
	var packages, translation, list bytes.Buffer
	for _, d := range debs {
		fmt.Fprintf(&packages, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: %s\nSize: %d\nSHA256: %s\n\n",
			d.name, d.version, d.file, len(d.body), feed.DigestOf(d.body).Hex())
		fmt.Fprintf(&translation, "Package: %s\nDescription-en: %s %s\n\n", d.name, d.name, d.version)
		files["debian/"+d.file] = d.body
	}
	dir := "debian/dists/" + suite + "/"
	index := func(name string, body []byte) {
		files[dir+name] = body
		if v.clear {
			at := strings.LastIndex(name, "/")
			files[dir+name[:at]+"/by-hash/SHA256/"+feed.DigestOf(body).Hex()] = body
		}
		fmt.Fprintf(&list, " %s %d %s\n", feed.DigestOf(body).Hex(), len(body), name)
	}
	index("main/binary-amd64/Packages", packages.Bytes())
	index("main/binary-amd64/Packages.gz", zipped(v.t, packages.Bytes()))
	index("main/i18n/Translation-en", translation.Bytes())
	for _, name := range extra {
		fmt.Fprintf(&list, " %s %d %s\n", feed.DigestOf(nil).Hex(), 0, name)
	}
	byHash := map[bool]string{true: "yes", false: "no"}[v.clear]
	text := fmt.Appendf(nil, "Origin: Test\nSuite: %s\nCodename: %s\nDate: %s\nValid-Until: %s\nAcquire-By-Hash: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n%s",
		suite, suite, at.UTC().Format(time.RFC1123), at.UTC().AddDate(0, 0, 7).Format(time.RFC1123), byHash, list.Bytes())
	if v.clear {
		files[dir+"InRelease"] = v.signer.Clear(v.t, text, at)
	} else {
		files[dir+"Release"], files[dir+"Release.gpg"] = text, v.signer.Detached(v.t, text, at, true)
	}
}

// published are the contents of three publications.
func published() (older, now, newer map[string][]deb) {
	tool := func(n int) deb {
		return deb{"tool", fmt.Sprintf("1:%d-1", n), fmt.Sprintf("pool/main/t/tool/tool_1%%3a%d-1_amd64.deb", n), bytes.Repeat([]byte{byte(n), 'x'}, 3000)}
	}
	lib := func(n int) deb {
		return deb{"libä+", fmt.Sprint(n), fmt.Sprintf("pool/main/l/lib+/lib+_%d~1_amd64.deb", n), bytes.Repeat([]byte{byte(n), 'l'}, 50)}
	}
	return map[string][]deb{"stable": {tool(1), lib(1)}, "stable-security": {lib(2)}},
		map[string][]deb{"stable": {tool(1), lib(1)}, "stable-security": {tool(2), lib(2)}},
		map[string][]deb{"stable": {tool(1), lib(3)}, "stable-security": {tool(3)}}
}

func TestConformance(t *testing.T) {
	now := time.Now()
	vendor, stranger := feedtest.NewSigner(t, "vendor", now), feedtest.NewSigner(t, "vendor", now)
	older, current, newer := published()
	for name, clear := range map[string]bool{"InRelease": true, "Release.gpg": false} {
		t.Run(name, func(t *testing.T) {
			v, forger := vendorArchive{t, vendor, clear}, vendorArchive{t, stranger, clear}
			c := feedtest.Case{
				Kind: Kind(), Trust: []feed.Anchor{vendor.Anchor}, Time: now,
				Config: "url = '{url}/debian'\nsuites = ['stable', 'stable-security']\nkeys = ['vendor']\ntranslations = ['en']\n",
				Older:  v.state(now.Add(-3*time.Hour), older), Now: v.state(now.Add(-2*time.Hour), current), Newer: v.state(now.Add(-time.Hour), newer),
				Forged: forger.state(now.Add(-2*time.Hour), current),
				Hostile: func(p string) feedtest.State {
					if !clear { // by the list in Release
						return v.state(now.Add(-2*time.Hour), current, p)
					}
					bad := maps.Clone(current)
					bad["stable"] = append(slices.Clone(bad["stable"]), deb{"evil", "1", p, []byte("escaped")})
					return v.state(now.Add(-2*time.Hour), bad)
				},
				// The pool is sparse where packages are chosen.
				Optional: func(p string) bool { return strings.HasPrefix(p, "pool/") },
				Requests: []feedtest.Request{
					// As apt asks: "%3a" of the file name is escaped again, or decoded by what is in between.
					{Path: "/pool/main/t/tool/tool_1%3a3-1_amd64.deb", Holds: "\x03x"}, {Path: "/pool/main/t/tool/tool_1:3-1_amd64.deb", Holds: "\x03x"},
					{Path: "/dists/stable/main/binary-amd64/Packages.xz", Status: 404},
				},
			}
			if !clear {
				c.Quiet = 6 // InRelease, Release, Release.gpg of two suites
				c.Config += "packages = ['tool', 'libä+']\n"
			}
			feedtest.Run(t, c)
		})
	}
}

// An index that is withheld under its name must not be read through its
// by-hash name's good evidence: it could vouch for any package.
func TestWithheldIndexVouchesForNothing(t *testing.T) {
	now := time.Now()
	vendor := feedtest.NewSigner(t, "vendor", now)
	v := vendorArchive{t, vendor, true}
	_, current, _ := published()
	good := v.state(now, current)
	evil := deb{"tool", "9", "pool/main/t/tool/tool_9_amd64.deb", []byte("evil")}
	forged := v.state(now, map[string][]deb{"stable": {evil}, "stable-security": {evil}})
	f, err := newFeed(func(into any) error {
		*into.(*Config) = Config{URL: "http://vendor.example/debian", Suites: []string{"stable", "stable-security"}, Components: []string{"main"}, Architectures: []string{"amd64"}, Keys: []string{"vendor"}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	index := "dists/stable/main/binary-amd64/Packages.gz"
	c := feedtest.NewMemory(feed.Header{Feed: "a", Kind: "apt", Serial: 1})
	for p, b := range good.Files {
		p = strings.TrimPrefix(p, "debian/")
		a := feed.Artifact{Path: poolPath(p), Class: feed.Metadata, Time: now.UTC().Truncate(time.Second)}
		if strings.HasPrefix(p, "pool/") {
			a.Class, a.Group = feed.Security, a.Path
		}
		if strings.HasSuffix(p, "Packages") || strings.Contains(p, "i18n") {
			continue
		}
		c.Set(a, b)
	}
	for p := range c.Named { // by-hash names of what is not carried
		if strings.Contains(p, "by-hash") && !bytes.HasPrefix(c.Body(p), []byte{0x1f, 0x8b}) {
			delete(c.Named, p)
		}
	}
	trust := feed.Trust{Anchors: []feed.Anchor{vendor.Anchor}, At: now}
	judge := func() (verifier.Verdict, error) {
		return verifier.Run(t.Context(), verifier.Job{Setup: feed.Setup{Name: "a", Kind: Kind(), Feed: f}, Content: c, Trust: trust, Policy: verifier.Policy{Floors: Kind().Floors}})
	}
	if v, err := judge(); err != nil || len(v.Withheld) > 0 {
		t.Fatal(v, err)
	}
	put := func(p, group string, class feed.Class, b []byte) {
		c.Set(feed.Artifact{Path: p, Class: class, Group: group}, b)
	}
	put(index, "alone", feed.Metadata, forged.Files["debian/"+index])
	put(evil.file, evil.file, feed.Security, evil.body)
	if v, err := judge(); err == nil && v.Withheld[evil.file] == "" {
		t.Fatalf("a package that nobody signed is accepted: %+v", v)
	}
}

// moving is an archive that is published anew at chosen requests for an entry point.
type moving struct {
	feed.Upstream
	feed.Sink
	states  []feedtest.State
	at      int // the state now
	step    func(entry int) bool
	entries int
	added   map[string]feed.Digest
}

func (m *moving) get(u string) ([]byte, error) {
	b, ok := m.states[m.at].Files[strings.TrimPrefix(u, "http://vendor.example/")]
	if !ok {
		return nil, fmt.Errorf("%w: %w", &feed.StatusError{URL: u, Status: 404}, feed.ErrUpstream)
	}
	return b, nil
}

func (m *moving) Do(_ context.Context, r feed.Request) (*feed.Response, error) {
	if m.step(m.entries) {
		m.at = (m.at + 1) % len(m.states)
	}
	m.entries++
	b, err := m.get(r.URL)
	return &feed.Response{Status: 200, Body: b}, err
}

func (m *moving) Load(_ context.Context, r feed.Request, w feed.Want) (feed.Blob, error) {
	b, err := m.get(r.URL)
	if err == nil && feed.DigestOf(b) != w.Digest {
		err = feed.ErrUntrusted
	}
	return feedtest.Blob(b), err
}

func (m *moving) Put(_ context.Context, _ string, r io.Reader) (feed.Blob, error) {
	b, err := io.ReadAll(r)
	return feedtest.Blob(b), err
}

func (m *moving) Add(a feed.Artifact) error { m.added[a.Path] = a.Digest; return nil }

// An archive that is published anew in every try is for later, after three of
// them; one that comes to rest in the third is fetched.
func TestArchiveThatDoesNotRest(t *testing.T) {
	now := time.Now()
	v := vendorArchive{t, feedtest.NewSigner(t, "vendor", now), true}
	var states []feedtest.State
	for i := range 9 {
		body := fmt.Appendf(nil, "tool %d", i)
		states = append(states, v.state(now.Add(time.Duration(i)*time.Second), map[string][]deb{"stable": {{"tool", "1", fmt.Sprintf("pool/tool_%d.deb", i), body}}}))
	}
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.URL, c.Suites, c.Keys = "http://vendor.example/debian", []string{"stable"}, []string{"vendor"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Each try asks for the entry point twice: at its begin and at its end.
	for stop := range 8 {
		m := &moving{states: states, added: map[string]feed.Digest{}, step: func(n int) bool { return n > 0 && n <= stop }}
		_, err := f.Fetch(t.Context(), m, nil, m)
		if rests := stop < 5; rests != (err == nil) {
			t.Fatalf("published anew at the first %d requests: %v", stop, err)
		}
		if err != nil {
			if !errors.Is(err, errMoved) || !errors.Is(err, feed.ErrTransient) || m.entries != 2*tries || len(m.added) > 0 {
				t.Errorf("published anew at the first %d requests: %v after %d requests, added %v", stop, err, m.entries, m.added)
			}
			continue
		}
		for p, d := range m.added {
			if b, ok := m.states[m.at].Files["debian/"+p]; !ok || feed.DigestOf(b) != d {
				t.Errorf("published anew at the first %d requests: %s is not of the last state", stop, p)
			}
		}
	}
}
