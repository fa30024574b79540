package mozilla

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
	"github.com/hashike/hashike/internal/format/mar/martest"
)

// policiesOf is the policies.json that the feed prints.
func policiesOf(t *testing.T, f feed.Feed, base *url.URL) string {
	t.Helper()
	settings, err := f.(feed.ClientSettings).Settings(nil, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		if s.File == "distribution/policies.json" {
			return s.Body
		}
	}
	t.Fatal("no policies.json")
	return ""
}

// TestTerminals: old versions reach the newest by the mirror's answers alone:
// through the watershed, by partial files where there are any.
func TestTerminals(t *testing.T) {
	now := time.Now()
	m, h := newMaker(t, "vendor", now), terminal.NewHistory(now)
	b := newBench(t, func(c *Config) { c.Versions = []string{"115.17.0", "128.1.0", "128.2.0"} })
	c := b.must(m.state(h, []string{"win64 ja"}), nil)
	if v, _, err := b.verify(c, m.anchors()); err != nil || len(v.Withheld) > 0 {
		t.Fatal(v, err)
	}
	l := &ledger{}
	srv, base := b.serve(map[string]feed.View{"all": {Content: c}}, everyone, l)
	start := func(version string) *terminal.Terminal {
		p, ok := h.Find(version)
		if !ok {
			p.Build = "20230801120000"
		}
		return &terminal.Terminal{Do: srv.Client().Do, Policies: policiesOf(t, b.feed, base), Version: version, Build: p.Build,
			Target: "WINNT_x86_64-msvc-x64", Locale: "ja", Cert: m.anchor.Data, Channels: []string{terminal.Channel}}
	}
	for _, x := range []struct {
		from string
		took []string
	}{
		{"115.17.0", []string{"partial 115.18.0", "complete 128.4.0"}}, // through the watershed
		{"115.17.5", []string{"complete 115.18.0", "complete 128.4.0"}},
		{"128.1.0", []string{"complete 128.4.0"}}, // the vendor has no partial file from it
		{"128.2.0", []string{"partial 128.4.0"}},
		{"128.2.5", []string{"complete 128.4.0"}},
		{"128.4.0", nil},
		{"128.5.0", nil},
		{"115.10.0", nil}, // older than what was asked for
	} {
		term := start(x.from)
		for range 5 {
			more, err := term.Check()
			if err != nil {
				t.Fatalf("%s: %v", x.from, err)
			}
			if !more {
				break
			}
		}
		if !slices.Equal(term.Took, x.took) || term.Code != 0 {
			t.Errorf("from %s: took %q, code %d, want %q", x.from, term.Took, term.Code, x.took)
		}
	}
	// A build that the vendor's partial file was not made for takes the complete one.
	other := start("128.2.0")
	other.Build = "20200101000000"
	if _, err := other.Check(); err != nil || !slices.Equal(other.Took, []string{"complete 128.4.0"}) {
		t.Errorf("another build: took %q, %v", other.Took, err)
	}
	// Other programs and languages are offered nothing, and told so politely.
	for what, change := range map[string]func(*terminal.Terminal){
		"language": func(x *terminal.Terminal) { x.Locale = "fr" },
		"platform": func(x *terminal.Terminal) { x.Target = "Darwin_aarch64-gcc3" },
	} {
		x := start("128.2.0")
		change(x)
		if more, err := x.Check(); more || err != nil {
			t.Errorf("other %s: %v, %v", what, x.Took, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.terminals["127.0.0.1"]; len(l.saw) == 0 || r == nil || r.Model == "" || len(r.Updates) != 1 || r.Updates["128.4.0esr"].State == "" {
		t.Errorf("the ledger's record: %+v", r)
	}
}

// TestTerminalRefuses: the emulated terminal is as strict as the real one is
// said to be, or it would prove nothing.
func TestTerminalRefuses(t *testing.T) {
	now := time.Now()
	m, h := newMaker(t, "vendor", now), terminal.NewHistory(now)
	b := newBench(t, nil)
	c := b.must(m.state(h, []string{"win64 ja"}), nil)
	srv, base := b.serve(map[string]feed.View{"all": {Content: c}}, everyone, &ledger{})
	full := c.Named["thunderbird/releases/128.4.0esr/update/win64/ja/thunderbird-128.4.0esr.complete.mar"]
	genuine := c.Blobs[full.Digest]
	p, _ := h.Find("128.1.0")
	try := func(body []byte, change func(*terminal.Terminal)) int {
		c.Blobs[full.Digest] = body
		defer func() { c.Blobs[full.Digest] = genuine }()
		x := &terminal.Terminal{Do: srv.Client().Do, Policies: policiesOf(t, b.feed, base), Version: p.Version, Build: p.Build,
			Target: "WINNT_x86_64-msvc-x64", Locale: "ja", Cert: m.anchor.Data, Channels: []string{terminal.Channel}}
		change(x)
		// The mirror is made to lie about hash and size too.
		do := x.Do
		x.Do = func(r *http.Request) (*http.Response, error) {
			res, err := do(r)
			if err == nil && strings.HasSuffix(r.URL.Path, "update.xml") {
				doc, _ := io.ReadAll(res.Body)
				res.Body = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(doc, []byte(full.Digest.Hex()), []byte(feed.DigestOf(body).Hex()))))
			}
			return res, err
		}
		if _, err := x.Check(); err != nil {
			t.Fatal(err)
		}
		return x.Code
	}
	flipped := bytes.Clone(genuine)
	flipped[len(flipped)/2] ^= 1
	old := martest.Signed(t, m.Key, terminal.Channel, "128.0.0", martest.Member{Name: "updatev3.manifest", Body: bytes.Repeat([]byte("x"), len(genuine)-len(martest.Signed(t, m.Key, terminal.Channel, "128.0.0", martest.Member{Name: "updatev3.manifest"})))})
	_, foreign := martest.NewKey(t, "foreign")
	same := func(*terminal.Terminal) {}
	for what, got := range map[string][2]int{
		"genuine":       {try(genuine, same), 0},
		"flipped":       {try(flipped, same), terminal.CertVerifyError},
		"other key":     {try(genuine, func(x *terminal.Terminal) { x.Cert = foreign }), terminal.CertVerifyError},
		"other channel": {try(genuine, func(x *terminal.Terminal) { x.Channels = []string{"thunderbird-comm-release"} }), terminal.ChannelMismatch},
		"older":         {try(old, same), terminal.DowngradeError},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: code %d, want %d", what, got[0], got[1])
		}
	}
}
