package mozilla

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
)

func TestCompare(t *testing.T) {
	// From the vendor's own test of its comparator, in ascending order.
	list := []string{"1.0pre1", "1.0pre2", "1.0", "1.1pre", "1.1pre1a", "1.1pre1", "1.1pre10a", "1.1pre10", "1.1", "1.2", "9.9", "10.0", "115.18.0", "128.1.0", "128.1.1", "128.10.0", "128.99999999999", "*"}
	for i, a := range list {
		for j, b := range list {
			if got := compare(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	for _, p := range [][2]string{{"1.0", "1"}, {"1.1pre", "1.0+"}, {"128.4.0", "128.4"}, {"1.0.0.0", "1."}} {
		if compare(p[0], p[1]) != 0 || compare(p[1], p[0]) != 0 {
			t.Errorf("%s and %s differ", p[0], p[1])
		}
	}
	if a, b := order("128.4.0"), order("128.10.0.1"); a >= b || a != 128_0004_0000_0000 {
		t.Error(a, b)
	}
}

func samplesDir(t testing.TB) string {
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" && os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal("HASHIKE_SAMPLES is not set")
	}
	if dir == "" {
		t.Skip("HASHIKE_SAMPLES is not set: no answers of the vendor's")
	}
	return filepath.Join(dir, "mozilla")
}

// TestVendorAnswers: what the real service answered, and the real list.
func TestVendorAnswers(t *testing.T) {
	dir := samplesDir(t)
	for name, want := range map[string]string{
		"update-none.xml":                                   "",
		"update-firefox-155.0b5-mac-complete.xml":           "155.0 20260826090609 143785819",
		"update-thunderbird-155.0b5-mac-complete.xml":       "155.0 20260826184332 144419454",
		"update-thunderbird-157.0a1-daily-mac-complete.xml": "refused: not of a release",
	} {
		b, err := os.ReadFile(filepath.Join(dir, "aus", name))
		if err != nil {
			t.Fatal(err)
		}
		a, err := parseAnswer(b)
		got := ""
		switch {
		case err != nil:
			got = "refused: not of a release"
		case a != nil:
			got = a.Version + " " + a.Build + " " + strconv.FormatInt(a.complete.size, 10)
			if len(a.complete.hash) != 128 {
				t.Errorf("%s: %+v", name, a)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "mozilla-sums", "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if sums, err := parseSums(b); err != nil || len(sums) != bytes.Count(b, []byte("\n")) {
		t.Errorf("%d files, %v", len(sums), err)
	}
}

// TestStrangeAnswers: what is no answer of the service's is the vendor's fault,
// and what the client passes over is passed over.
func TestStrangeAnswers(t *testing.T) {
	const patch = `<patch type="complete" URL="x" size="5" hashFunction="sha512" hashValue="00"/>`
	update := func(attrs, inner string) string {
		return "<updates><update " + attrs + ">" + inner + "</update></updates>"
	}
	const good = `type="minor" appVersion="140.1.0" buildID="20260101000000"`
	for body, want := range map[string]string{
		"<updates/>":        "",
		update(good, patch): "140.1.0",
		update(good+` unsupported="true"`, patch): "",
		update(good, ""): "",
		update(`type="other" appVersion="140.1.0" buildID="20260101000000"`, patch):                                                                             "",
		`<updates><update type="major" appVersion="150.0" buildID="20260101000000">` + patch + `</update><update ` + good + `>` + patch + `</update></updates>`: "140.1.0",
		"":                                  "error",
		"<html><body>blocked</body></html>": "error",
		"<updates/><updates/>":              "error",
		"<updates>":                         "error",
		update(`type="minor" appVersion="../x" buildID="20260101000000"`, patch):    "error",
		update(`type="minor" appVersion="140.1.0" buildID="20261301000000"`, patch): "error",
		update(`type="minor" appVersion="140.1.0" buildID="2026"`, patch):           "error",
		update(good, `<patch type="complete" URL="x" size="0"/>`):                   "error",
		update(good, `<patch type="complete" URL="x" size="99999999999"/>`):         "error",
		update(good, `<patch type="partial" URL="x" size="5"/>`):                    "error",
		"<updates>" + strings.Repeat("<update/>", 100) + "</updates>":               "error",
	} {
		a, err := parseAnswer([]byte(body))
		got := ""
		if err != nil {
			got = "error"
		} else if a != nil {
			got = a.Version
		}
		if got != want {
			t.Errorf("%.100s: %q, want %q (%v)", body, got, want, err)
		}
	}
}

// TestKept: from one fetch to the next the feed asks for what it has led
// terminals to, so that the next partial file is there; and does not begin anew
// when nothing is new.
func TestKept(t *testing.T) {
	now := time.Now()
	m, h := newMaker(t, "vendor", now), terminal.NewHistory(now)
	b := newBench(t, func(c *Config) { c.Versions, c.Keep = []string{"115.10.0"}, 2 })
	var prev feed.Content
	for _, v := range []string{"128.1.0", "128.2.0", "128.3.0", "128.4.0"} {
		s := m.state(h.UpTo(v), []string{"win64 ja"})
		c := b.must(s, prev)
		if _, _, err := b.verify(c, m.anchors()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.fetch(s, c); !errors.Is(err, feed.ErrUnchanged) {
			t.Errorf("%s again: %v, asked %q", v, err, b.asked)
		}
		prev = c
	}
	x, err := readIndex(prev)
	if err != nil {
		t.Fatal(err)
	}
	var asked, partials []string
	for _, a := range x.Streams[0].Asked {
		asked = append(asked, a.Version)
	}
	for a := range prev.Artifacts() {
		if strings.HasSuffix(a.Path, ".partial.mar") {
			partials = append(partials, a.Path[strings.LastIndex(a.Path, "/")+1:])
		}
	}
	if want := []string{"115.10.0", "115.18.0", "128.2.0", "128.3.0", "128.4.0"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if want := []string{"thunderbird-128.2.0esr-128.4.0esr.partial.mar", "thunderbird-128.3.0esr-128.4.0esr.partial.mar"}; !slices.Equal(partials, want) {
		t.Errorf("partial files %q, want %q", partials, want)
	}
}

// TestTwoLines: at the change of the ESR line the vendor leads old terminals to
// the end of their line and new ones to the new; nobody is led across.
func TestTwoLines(t *testing.T) {
	r := func(v string) *release { return &release{v, "20260101000000", "minor"} }
	s := stream{Platform: "win64", Locale: "ja", Asked: []asked{
		{Version: "128.5.0", Offer: r("128.14.0")}, {Version: "128.14.0", Build: "20260101000000"},
		{Version: "140.1.0", Offer: r("140.3.0")}, {Version: "140.3.0", Build: "20260101000000"},
	}}
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	for _, x := range [][4]string{
		{"128.5.0", "", "", "128.14.0"}, {"128.9.1", "", "", "128.14.0"}, {"128.14.0", "20260101000000", "", ""}, {"128.14.0", "20250101000000", "", "128.14.0"},
		{"139.0", "", "", ""}, {"140.1.0", "", "", "140.3.0"}, {"140.2.9", "", "", "140.3.0"}, {"140.3.0", "20270101000000", "", ""}, {"150.0", "", "", ""},
		{"128.4.9", "", "", ""}, {"115.0", "", "", ""}, {"140.1.0", "", "140.", "140.3.0"}, {"140.1.0", "", "128.", ""}, {"128.5.0", "", "128.", "128.14.0"},
		{"", "", "", ""}, {"128.5.0esr", "", "", ""}, {"999999999999999999999.0", "", "", ""},
	} {
		got := ""
		if to := s.next(x[0], x[1], x[2]); to != nil {
			got = to.Version
		}
		if got != x[3] {
			t.Errorf("version %s build %s pin %q: led to %q, want %q", x[0], x[1], x[2], got, x[3])
		}
	}
}

// revocable is a maker whose OpenPGP key the vendor then revokes.
func revocable(t *testing.T, now time.Time) (m *maker, revoke func()) {
	m = newMaker(t, "vendor", now)
	at := func(d time.Duration) *packet.Config {
		return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return now.Add(-d) }}
	}
	e, err := openpgp.NewEntity("vendor", "", "v@vendor.example", at(72*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	export := func() {
		var pub bytes.Buffer
		if err := e.Serialize(&pub); err != nil {
			t.Fatal(err)
		}
		m.pgp = feed.Anchor{Name: "vendor", Use: "openpgp", Data: pub.Bytes()}
	}
	export()
	m.Sign = func(text []byte) []byte {
		var b bytes.Buffer
		if err := openpgp.ArmoredDetachSign(&b, e, bytes.NewReader(text), at(48*time.Hour)); err != nil {
			t.Fatal(err)
		}
		return append(b.Bytes(), '\n')
	}
	return m, func() {
		if err := e.RevokeKey(packet.KeyCompromised, "no longer trusted", at(time.Hour)); err != nil {
			t.Fatal(err)
		}
		export()
	}
}

// TestRevokedList: when the vendor revokes the key of a list, MAR signatures
// alone make files "listed": held, until operator and approver say otherwise.
func TestRevokedList(t *testing.T) {
	now := time.Now()
	m, revoke := revocable(t, now)
	b := newBench(t, func(c *Config) { c.Installers = []string{"exe"} })
	c := b.must(m.state(terminal.NewHistory(now), []string{"win64 ja"}), nil)
	if v, _, err := b.verify(c, m.anchors()); err != nil || len(v.Withheld) > 0 {
		t.Fatal(v, err)
	}
	revoke()
	_, _, err := b.verify(c, m.anchors())
	f, ok := errors.AsType[*feed.Fault](err)
	if !errors.Is(err, feed.ErrHeld) || !ok || f.Code != "H-601" {
		t.Fatalf("under a revoked key: %v", err)
	}
	exception := feed.Order{Schema: 1, Number: 1, Kind: feed.OrderException, Feed: "m", Strength: feed.Listed, Reason: "the key was revoked after the release", Operator: "a", Approver: "b",
		Issued: c.Head.Taken, Until: c.Head.Taken.Add(24 * time.Hour)}
	v, evidence, err := b.verify(c, m.anchors(), exception)
	if err != nil || v.Weakest != feed.Attested {
		t.Fatalf("by exception: %+v, %v", v, err)
	}
	for p := range c.Named {
		_, held := v.Withheld[p]
		if want := !strings.HasSuffix(p, ".mar") && p != indexPath; held != want {
			t.Errorf("%s: withheld %v: %s", p, held, v.Withheld[p])
		}
	}
	for _, e := range evidence {
		if e.Method == "mar" && (e.Strength != feed.Listed || !strings.Contains(e.Note, "revoked") || e.Signer == "") {
			t.Errorf("%+v", e)
		}
	}
	// A list that is wrong is not the same as one whose key was revoked.
	sums := c.Named["thunderbird/releases/128.4.0esr/SHA256SUMS.asc"]
	sums.Digest = c.Named["thunderbird/releases/115.18.0esr/SHA256SUMS.asc"].Digest
	m2 := newMaker(t, "vendor", now)
	good := b.must(m2.state(terminal.NewHistory(now), []string{"win64 ja"}), nil)
	sums = good.Named["thunderbird/releases/128.4.0esr/SHA256SUMS.asc"]
	sums.Digest = good.Named["thunderbird/releases/115.18.0esr/SHA256SUMS.asc"].Digest
	good.Named[sums.Path] = sums
	if _, _, err := b.verify(good, m2.anchors(), exception); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("another's signature, with an exception: %v", err)
	}
}

// TestFetchFaults: what the vendor's parts say of each other.
func TestFetchFaults(t *testing.T) {
	now := time.Now()
	m, h := newMaker(t, "vendor", now), terminal.NewHistory(now)
	const root = "pub/thunderbird/releases/128.4.0esr/"
	for what, x := range map[string]struct {
		change func(*feedtest.State, *Config)
		want   error
	}{
		"service and list name different files": {func(s *feedtest.State, _ *Config) {
			files := maps.Clone(s.Files)
			s.Handler = h.Service(files)
			p := root + "update/win64/ja/thunderbird-128.4.0esr.complete.mar"
			files[p] = bytes.Repeat([]byte("x"), len(files[p]))
		}, feed.ErrTransient},
		"not yet in the list": {func(s *feedtest.State, _ *Config) {
			s.Files[root+"SHA256SUMS"] = s.Files["pub/thunderbird/releases/128.3.0esr/SHA256SUMS"]
		}, feed.ErrUpstream},
		"an installer that is not there": {func(s *feedtest.State, c *Config) { c.Installers = []string{"msi"} }, feed.ErrUpstream},
		"no list":                        {func(s *feedtest.State, _ *Config) { delete(s.Files, root+"SHA256SUMS") }, feed.ErrUpstream},
		"versions newer than all":        {func(s *feedtest.State, c *Config) { c.Versions = []string{"150.0"} }, feed.ErrConfig},
		"a page instead of an answer": {func(s *feedtest.State, _ *Config) {
			s.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html></html>")) })
		}, feed.ErrUpstream},
	} {
		s := m.state(h, []string{"win64 ja"})
		b := newBench(t, func(c *Config) { x.change(&s, c) })
		if c, err := b.fetch(s, nil); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, %d files", what, err, len(c.Named))
		}
	}
}

func TestConfig(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"product":      func(c *Config) { c.Product = "seamonkey" },
		"channel":      func(c *Config) { c.Channel = "beta" },
		"platform":     func(c *Config) { c.Platforms = []string{"os2"} },
		"no platform":  func(c *Config) { c.Platforms = nil },
		"locale":       func(c *Config) { c.Locales = []string{"../ja"} },
		"version":      func(c *Config) { c.Versions = []string{"140.1.0esr"} },
		"no version":   func(c *Config) { c.Versions = nil },
		"twice":        func(c *Config) { c.Versions = []string{"140.1", "140.1"} },
		"keep":         func(c *Config) { c.Keep = 99 },
		"installer":    func(c *Config) { c.Installers = []string{"deb"} },
		"plain http":   func(c *Config) { c.Service = "http://aus5.mozilla.org" },
		"ftp":          func(c *Config) { c.Archive = "ftp://archive.mozilla.org/pub" },
		"with a query": func(c *Config) { c.Archive = "https://archive.mozilla.org/pub?x" },
	} {
		_, err := newFeed(func(into any) error {
			c := into.(*Config)
			c.Versions = []string{"140.1.0"}
			change(c)
			return nil
		})
		if !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRings: terminals of different rings are led to different versions by the same question.
func TestRings(t *testing.T) {
	now := time.Now()
	m, h := newMaker(t, "vendor", now), terminal.NewHistory(now)
	b := newBench(t, nil)
	all := b.must(m.state(h.UpTo("128.3.0"), []string{"win64 ja"}), nil)
	test := b.must(m.state(h, []string{"win64 ja"}), all)
	srv, base := b.serve(map[string]feed.View{"test": {Content: test, Older: []feed.Content{all}}, "all": {Content: all}},
		func(r *http.Request) string { return r.Header.Get("Ring") }, &ledger{})
	for ring, want := range map[string]string{"test": "128.4.0", "all": "128.3.0", "pilot": ""} {
		x := &terminal.Terminal{Policies: policiesOf(t, b.feed, base), Version: "128.1.0", Build: "20240101000000", Target: "WINNT_x86_64-msvc-x64", Locale: "ja", Cert: m.anchor.Data, Channels: []string{terminal.Channel}}
		x.Do = func(r *http.Request) (*http.Response, error) {
			r.Header.Set("Ring", ring)
			return srv.Client().Do(r)
		}
		_, err := x.Check()
		if want == "" && err == nil || want != "" && (err != nil || x.Version != want) {
			t.Errorf("ring %s: version %s, %v", ring, x.Version, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(noUpdate))
	f.Add([]byte(`<updates><update type="minor" appVersion="140.1.0" buildID="20260101000000"><patch type="complete" URL="x" size="5"/></update></updates>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnswer(b); err == nil && a != nil && (!a.valid() || a.complete.size <= 0) {
			t.Fatalf("%+v", a)
		}
	})
}

func FuzzIndex(f *testing.F) {
	x := index{Schema: 1, line: line{"firefox", "release"}, Streams: []stream{{Platform: "mac", Locale: "ja-JP-mac", Asked: []asked{{Version: "1.0", Offer: &release{"2.0", "20260101000000", "minor"}}}}}}
	f.Add(x.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseIndex(b)
		if err != nil {
			return
		}
		for _, s := range x.Streams {
			for _, v := range []string{"0", "1.0", "1.5", "99.0"} {
				if to := s.next(v, "20000101000000", ""); to != nil && compare(to.Version, v) < 0 {
					t.Fatalf("%s is led back to %s", v, to.Version)
				}
			}
		}
		for _, w := range x.wants() {
			for _, n := range w.names {
				if !feed.ValidPath(n) {
					t.Fatalf("path %q", n)
				}
			}
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add("Thunderbird/128.1.0/20240101000000/WINNT_x86_64-msvc-x64/ja/esr/x/y/z/w/update.xml")
	s := stream{Asked: []asked{{Version: "1.0", Offer: &release{"2.0", "20260101000000", "minor"}}}}
	f.Fuzz(func(t *testing.T, p string) {
		if q, ok := parseQuestion(p); ok {
			s.next(q.version, q.build, "")
		}
	})
}

func FuzzSums(f *testing.F) {
	f.Add([]byte(strings.Repeat("0", 64) + "  update/x y.mar\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sums, _ := parseSums(b)
		for p := range sums {
			if !feed.ValidPath(p) {
				t.Fatal(p)
			}
		}
	})
}
