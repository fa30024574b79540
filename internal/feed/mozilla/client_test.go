package mozilla

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/mar/martest"
)

// terminal is a Thunderbird as its updater's rules describe it (the vendor's
// toolkit/mozapps/update; SettingUpAnUpdateServer; modules/libmar). It shares no
// code with the feed: questions, answers, archives and versions are read anew.
type terminal struct {
	do             func(*http.Request) (*http.Response, error)
	policies       string // policies.json
	version, build string
	target, locale string
	cert           []byte   // of the updater
	channels       []string // ACCEPTED_MAR_CHANNEL_IDS of update-settings.ini
	took           []string // what it applied: "partial 128.4.0"
	code           int      // of update.status: 0, or why an update was refused
}

// Codes of update.status (toolkit/mozapps/update/common/updatererrors.h).
const (
	readError       = 6
	certVerifyError = 19
	channelMismatch = 22
	downgradeError  = 23
)

var placeholder = regexp.MustCompile(`%(\w+)%`)

// component is JavaScript's encodeURIComponent.
func component(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.!~*'()", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func (t *terminal) question() (string, error) {
	var p struct {
		Policies struct{ AppUpdateURL string } `json:"policies"`
	}
	if err := json.Unmarshal([]byte(t.policies), &p); err != nil || p.Policies.AppUpdateURL == "" {
		return "", fmt.Errorf("policies.json: %q, %w", t.policies, errors.Join(err))
	}
	values := map[string]string{"PRODUCT": "Thunderbird", "VERSION": t.version, "BUILD_ID": t.build, "BUILD_TARGET": t.target, "LOCALE": t.locale, "CHANNEL": "esr",
		"OS_VERSION": "Windows_NT 10.0.0.0.19045.3803 (x64)", "SYSTEM_CAPABILITIES": "ISET:SSE4_2,MEM:32676", "DISTRIBUTION": "default", "DISTRIBUTION_VERSION": "default"}
	return placeholder.ReplaceAllStringFunc(p.Policies.AppUpdateURL, func(s string) string {
		if v, ok := values[strings.Trim(s, "%")]; ok {
			return component(v)
		}
		return component(s)
	}), nil
}

func (t *terminal) get(u string, header ...string) (*http.Response, []byte, error) {
	r, err := http.NewRequest("GET", u, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := t.do(r)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, b, err
}

type offeredPatch struct {
	Type string `xml:"type,attr"`
	URL  string `xml:"URL,attr"`
	Size int    `xml:"size,attr"`
	Func string `xml:"hashFunction,attr"`
	Hash string `xml:"hashValue,attr"`
}

// check looks for an update and applies it; false if there is none.
func (t *terminal) check() (bool, error) {
	u, err := t.question()
	if err != nil {
		return false, err
	}
	res, body, err := t.get(u, "Cache-Control", "no-cache", "Pragma", "no-cache")
	if err != nil || res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/xml") {
		return false, fmt.Errorf("%s: %v, %w", u, res, errors.Join(err))
	}
	var doc struct {
		XMLName xml.Name `xml:"updates"`
		Updates []struct {
			Type    string         `xml:"type,attr"`
			Version string         `xml:"appVersion,attr"`
			Build   string         `xml:"buildID,attr"`
			Patches []offeredPatch `xml:"patch"`
		} `xml:"update"`
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		return false, fmt.Errorf("%q: %w", body, err)
	}
	for _, up := range doc.Updates {
		if up.Type != "minor" && up.Type != "major" || up.Version == "" || up.Build == "" || len(up.Patches) == 0 {
			continue
		}
		if !older(t.version, up.Version) && !(t.version == up.Version && up.Build > t.build) {
			continue
		}
		// The partial file first; the complete one if that fails.
		slices.SortStableFunc(up.Patches, func(a, b offeredPatch) int { return -strings.Compare(a.Type, b.Type) })
		for _, p := range up.Patches {
			if t.code, err = t.apply(p); err != nil {
				return false, err
			}
			if t.code == 0 {
				if t.version != up.Version || t.build != up.Build {
					return false, fmt.Errorf("offered %s of %s, became %s of %s", up.Version, up.Build, t.version, t.build)
				}
				t.took = append(t.took, p.Type+" "+t.version)
				return true, nil
			}
		}
	}
	return false, nil
}

// apply downloads in pieces as nsIIncrementalDownload, checks and applies.
func (t *terminal) apply(p offeredPatch) (int, error) {
	const piece = 300000
	var b []byte
	for len(b) < p.Size {
		res, part, err := t.get(p.URL, "Range", fmt.Sprintf("bytes=%d-%d", len(b), min(len(b)+piece, p.Size)-1))
		if err != nil || res.StatusCode != 206 || len(part) == 0 {
			return 0, fmt.Errorf("%s: %v, %w", p.URL, res, errors.Join(err))
		}
		b = append(b, part...)
	}
	if len(b) != p.Size {
		return readError, nil
	}
	if sum := sha256.Sum256(b); p.Func != "sha256" || hex.EncodeToString(sum[:]) != p.Hash { // clients before 65 check it
		return readError, nil
	}
	members, code := t.archive(b)
	if code != 0 {
		return code, nil
	}
	place := "win64 ja "
	switch string(members["updatev3.manifest"]) {
	case "type \"partial\"\n":
		if p.Type != "partial" || string(members["from"]) != place+t.version+" "+t.build {
			return readError, nil // the patches do not fit what is installed
		}
	case "type \"complete\"\n":
		if p.Type != "complete" {
			return readError, nil
		}
	}
	is := strings.Fields(strings.TrimPrefix(string(members["application.ini"]), place))
	if len(is) != 2 {
		return readError, nil
	}
	t.version, t.build = is[0], is[1]
	return 0, nil
}

// archive checks signature, channel and version, and reads the members.
func (t *terminal) archive(b []byte) (map[string][]byte, int) {
	u32 := func(at int) int { return int(binary.BigEndian.Uint32(b[at:])) }
	if string(b[:4]) != "MAR1" || u32(12) != len(b) || u32(16) != 1 || u32(20) != 2 || u32(24) != 256 {
		return nil, certVerifyError
	}
	c, err := x509.ParseCertificate(t.cert)
	if err != nil {
		return nil, certVerifyError
	}
	sum := sha512.Sum384(append(bytes.Clone(b[:28]), b[28+256:]...))
	if rsa.VerifyPKCS1v15(c.PublicKey.(*rsa.PublicKey), crypto.SHA384, sum[:], b[28:28+256]) != nil {
		return nil, certVerifyError
	}
	at := 28 + 256
	if u32(at) != 1 || u32(at+8) != 1 {
		return nil, channelMismatch
	}
	info := bytes.Split(b[at+12:at+4+u32(at+4)], []byte{0})
	if !slices.Contains(t.channels, string(info[0])) {
		return nil, channelMismatch
	}
	if older(string(info[1]), t.version) {
		return nil, downgradeError
	}
	members := map[string][]byte{}
	for at := u32(4) + 4; at < len(b); {
		name, _, _ := bytes.Cut(b[at+12:], []byte{0})
		members[string(name)] = b[u32(at) : u32(at)+u32(at+4)]
		at += 13 + len(name)
	}
	return members, 0
}

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
	m, h := newMaker(t, "vendor", now), vendorHistory(now)
	b := newBench(t, func(c *Config) { c.Versions = []string{"115.17.0", "128.1.0", "128.2.0"} })
	c := b.must(m.state(h, []string{"win64 ja"}), nil)
	if v, _, err := b.verify(c, m.anchors()); err != nil || len(v.Withheld) > 0 {
		t.Fatal(v, err)
	}
	l := &ledger{}
	srv, base := b.serve(map[string]feed.View{"all": {Content: c}}, everyone, l)
	start := func(version string) *terminal {
		p, ok := h.find(version)
		if !ok {
			p.build = "20230801120000"
		}
		return &terminal{do: srv.Client().Do, policies: policiesOf(t, b.feed, base), version: version, build: p.build,
			target: "WINNT_x86_64-msvc-x64", locale: "ja", cert: m.anchor.Data, channels: []string{marChannelESR}}
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
			more, err := term.check()
			if err != nil {
				t.Fatalf("%s: %v", x.from, err)
			}
			if !more {
				break
			}
		}
		if !slices.Equal(term.took, x.took) || term.code != 0 {
			t.Errorf("from %s: took %q, code %d, want %q", x.from, term.took, term.code, x.took)
		}
	}
	// A build that the vendor's partial file was not made for takes the complete one.
	other := start("128.2.0")
	other.build = "20200101000000"
	if _, err := other.check(); err != nil || !slices.Equal(other.took, []string{"complete 128.4.0"}) {
		t.Errorf("another build: took %q, %v", other.took, err)
	}
	// Other programs and languages are offered nothing, and told so politely.
	for what, change := range map[string]func(*terminal){
		"language": func(x *terminal) { x.locale = "fr" },
		"platform": func(x *terminal) { x.target = "Darwin_aarch64-gcc3" },
	} {
		x := start("128.2.0")
		change(x)
		if more, err := x.check(); more || err != nil {
			t.Errorf("other %s: %v, %v", what, x.took, err)
		}
	}
	if r := l.terminals["127.0.0.1"]; r == nil || r.Model == "" || len(r.Updates) != 1 || r.Updates["128.4.0esr"].State == "" {
		t.Errorf("the ledger's record: %+v", r)
	}
}

// TestTerminalRefuses: the emulated terminal is as strict as the real one is
// said to be, or it would prove nothing.
func TestTerminalRefuses(t *testing.T) {
	now := time.Now()
	m, h := newMaker(t, "vendor", now), vendorHistory(now)
	b := newBench(t, nil)
	c := b.must(m.state(h, []string{"win64 ja"}), nil)
	srv, base := b.serve(map[string]feed.View{"all": {Content: c}}, everyone, &ledger{})
	full := c.files["thunderbird/releases/128.4.0esr/update/win64/ja/thunderbird-128.4.0esr.complete.mar"]
	genuine := c.blobs[full.Digest]
	p, _ := h.find("128.1.0")
	try := func(body []byte, change func(*terminal)) int {
		c.blobs[full.Digest] = body
		defer func() { c.blobs[full.Digest] = genuine }()
		x := &terminal{do: srv.Client().Do, policies: policiesOf(t, b.feed, base), version: p.version, build: p.build,
			target: "WINNT_x86_64-msvc-x64", locale: "ja", cert: m.anchor.Data, channels: []string{marChannelESR}}
		change(x)
		// The mirror is made to lie about hash and size too.
		do := x.do
		x.do = func(r *http.Request) (*http.Response, error) {
			res, err := do(r)
			if err == nil && strings.HasSuffix(r.URL.Path, "update.xml") {
				doc, _ := io.ReadAll(res.Body)
				res.Body = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(doc, []byte(full.Digest.Hex()), []byte(feed.DigestOf(body).Hex()))))
			}
			return res, err
		}
		if _, err := x.check(); err != nil {
			t.Fatal(err)
		}
		return x.code
	}
	flipped := bytes.Clone(genuine)
	flipped[len(flipped)/2] ^= 1
	old := martest.Signed(t, m.key, marChannelESR, "128.0.0", martest.Member{Name: "updatev3.manifest", Body: bytes.Repeat([]byte("x"), len(genuine)-len(martest.Signed(t, m.key, marChannelESR, "128.0.0", martest.Member{Name: "updatev3.manifest"})))})
	_, foreign := martest.NewKey(t, "foreign")
	same := func(*terminal) {}
	for what, got := range map[string][2]int{
		"genuine":       {try(genuine, same), 0},
		"flipped":       {try(flipped, same), certVerifyError},
		"other key":     {try(genuine, func(x *terminal) { x.cert = foreign }), certVerifyError},
		"other channel": {try(genuine, func(x *terminal) { x.channels = []string{"thunderbird-comm-release"} }), channelMismatch},
		"older":         {try(old, same), downgradeError},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: code %d, want %d", what, got[0], got[1])
		}
	}
}
