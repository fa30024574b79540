package defender

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/pe"
	"github.com/hashike/hashike/verifier"
)

var taken = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

// vendor signs programs as Microsoft does, but for the time stamp.
type vendor struct {
	t testing.TB
	*feedtest.Publisher
}

func newVendor(t testing.TB) vendor {
	return vendor{t, feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken)}
}

// mpam is a definition program of the n-th hour.
func (v vendor) mpam(n int, machine uint16) []byte {
	return v.Program(v.t, feedtest.UnsignedProgram([4]uint16{1, 441, uint16(n), 0}, machine, uint32(hour(n).Unix()), bytes.Repeat(fmt.Appendf(nil, "definitions %d ", n), 500)), taken)
}

func hour(n int) time.Time { return taken.Add(time.Duration(n-100) * time.Hour) }

func (v vendor) state(n int) feedtest.State {
	return feedtest.State{Files: feedtest.Files{"share/x64/mpam-fe.exe": v.mpam(n, pe.MachineAMD64), "share/x86/mpam-fe.exe": v.mpam(n, pe.MachineI386),
		"share/x64/nis_full.exe": v.Program(v.t, feedtest.UnsignedProgram([4]uint16{119, 0, uint16(n), 0}, pe.MachineAMD64, uint32(hour(n).Unix()), []byte("nis")), taken),
		"share/x86/nis_full.exe": v.Program(v.t, feedtest.UnsignedProgram([4]uint16{119, 0, uint16(n), 0}, pe.MachineI386, uint32(hour(n).Unix()), []byte("nis")), taken)}}
}

// bare takes the signature off a program.
func bare(b []byte) []byte {
	le := binary.LittleEndian
	b = bytes.Clone(b)
	p := int(le.Uint32(b[60:]))
	entry := p + 24 + 96 + 32
	if le.Uint16(b[p+24:]) == 0x20B {
		entry += 16
	}
	at := le.Uint32(b[entry:])
	copy(b[entry:], make([]byte, 8))
	return b[:at]
}

func TestConformance(t *testing.T) {
	v := newVendor(t)
	// One file from the server: platforms are published each for itself, so a
	// fetch of several may well meet two states. All four from a directory.
	for name, config := range map[string]string{"server": "url = '{url}/share'\n", "directory": "url = ''\nplatforms = ['windows/x64', 'windows/x86']\nnis = true\n"} {
		t.Run(name, func(t *testing.T) {
			if name == "directory" && testing.Short() {
				t.Skip("the race detector has the server")
			}
			c := feedtest.Case{
				Kind: Kind(), Trust: []feed.Anchor{v.Anchor}, Time: taken,
				Config: config,
				Older:  v.state(90), Now: v.state(91), Newer: v.state(92), Forged: newVendor(t).state(91),
				Unsigned: map[string]func(feedtest.Files){"certificate table": func(f feedtest.Files) {
					for p, b := range f {
						f[p] = bare(b)
					}
				}},
				Optional: func(string) bool { return true }, // each platform for itself
				Huge:     func(string) bool { return true },
				Quiet:    2, // head and signature
				Requests: []feedtest.Request{{Path: "/x64/mpam-fe.exe"}, {Path: "/arm64/mpam-fe.exe", Status: 404}, {Path: "/x64/", Status: 404}, {Path: "/", Status: 404}},
				Without:  map[string]string{"hostile index": "there is no index: the paths are this program's own"},
			}
			if name == "directory" {
				c.Dir = "drop"
				for _, s := range []*feedtest.State{&c.Older, &c.Now, &c.Newer, &c.Forged} {
					files := feedtest.Files{}
					for p, b := range s.Files {
						files[strings.TrimPrefix(p, "share/")] = b
					}
					s.Files = files
				}
			}
			feedtest.Run(t, c)
		})
	}
}

// content is a snapshot in memory, and what a fetch needs.
type content struct {
	*feedtest.Memory
	answers map[string][]byte // by URL
	asked   []string
	drop    fs.FS
	peer    string
}

func (s *content) Dir(string) (fs.FS, error) { return s.drop, nil }
func (s *content) Do(_ context.Context, r feed.Request) (*feed.Response, error) {
	s.asked = append(s.asked, r.URL)
	b, ok := s.answers[r.URL]
	if !ok {
		return nil, fmt.Errorf("%s: %w", r.URL, feed.ErrTransient)
	}
	var from, to int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
		b = b[from:min(to+1, len(b))]
	}
	return &feed.Response{Status: 200, Body: b}, nil
}
func (s *content) Load(ctx context.Context, r feed.Request, w feed.Want) (feed.Blob, error) {
	if b, ok := s.Blobs[w.Digest]; ok {
		return feedtest.Blob(b), nil
	}
	res, err := s.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.Keep(res.Body), nil
}
func (s *content) Add(a feed.Artifact) error {
	a.Origin.Peer = s.peer
	if strings.HasSuffix(a.Path, "manifest.json") {
		a.Origin.Peer = ""
	}
	return s.Memory.Add(a)
}

func configured(t testing.TB, c Config) *definitions {
	t.Helper()
	f, err := newFeed(func(into any) error { *into.(*Config) = c; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return f.(*definitions)
}

func (s *content) fetch(t testing.TB, f *definitions, prev *content) (*content, error) {
	t.Helper()
	out := &content{Memory: feedtest.NewMemory(feed.Header{Feed: "defender", Kind: "defender", Taken: taken}), answers: s.answers, drop: s.drop, peer: s.peer}
	out.Time = taken
	var p feed.Content
	if prev != nil {
		p, out.Blobs = prev, prev.Blobs
	}
	_, err := f.Fetch(t.Context(), out, p, out)
	s.asked = out.asked
	return out, err
}

func judge(f feed.Feed, c feed.Content, marks map[string]int64, anchors ...feed.Anchor) (verifier.Verdict, error) {
	return verifier.Run(context.Background(), verifier.Job{Setup: feed.Setup{Name: "defender", Kind: Kind(), Feed: f}, Content: c, Marks: marks,
		Trust: feed.Trust{Anchors: anchors, At: taken}, Policy: verifier.Policy{Floors: Kind().Floors}})
}

// A genuine program of Microsoft's that is no definition update is not served as one.
func TestGenuineButSomethingElse(t *testing.T) {
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("HASHIKE_SAMPLES is not set")
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	b, err := os.ReadFile(filepath.Join(samples, "windows", "pe", "ms_signtool.exe"))
	if err != nil {
		t.Fatal(err)
	}
	f := configured(t, Config{Platforms: []string{"windows/x64"}, URL: links})
	w := &content{answers: map[string][]byte{links + "?LinkID=121721&arch=x64": b}}
	c, err := w.fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := c.Named["x64/mpam-fe.exe"]
	if _, err := judge(f, c, nil, verifier.MicrosoftAnchors()...); !errors.Is(err, feed.ErrUntrusted) || !strings.Contains(err.Error(), "no definition update") {
		t.Error(err)
	}
	if a.Time.Year() < 2019 || a.Version != "10.0.19041.1" { // from Microsoft's own time stamp
		t.Errorf("%+v", a)
	}
}

func pack(t testing.TB, text string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "mpavbase.vdm", Method: zip.Deflate, Modified: hour(90)})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestLinux follows Microsoft's links: the information document names the
// version, the package comes once for each, and is worth what its connection is.
func TestLinux(t *testing.T) {
	f := configured(t, Config{Platforms: []string{"linux/x86_64", "linux/arm64"}, URL: links})
	info := func(n int) []byte {
		return fmt.Appendf(nil, `<?xml version="1.0"?><versions><engine>1.1.24090.11</engine><platform>4.18</platform><signatures date="2026-11-21">1.441.%d.0</signatures></versions>`, n)
	}
	w := &content{peer: "CN=go.microsoft.com; sha256:00", answers: map[string][]byte{}}
	for _, q := range []string{"linkid=2144709", "linkid=2144709&arch=arm64"} {
		w.answers[links+"?"+q+"&action=info"], w.answers[links+"?"+q] = info(7), pack(t, q)
	}
	a, err := w.fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"linux/production/arch_arm64/manifest.json", "linux/production/arch_arm64/updates.zip", "linux/production/arch_x86_64/manifest.json", "linux/production/arch_x86_64/updates.zip"}
	if got := slices.Sorted(maps.Keys(a.Named)); !slices.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	if got := string(a.Body(want[2])); got != "{\n  \"EngineVersion\": \"1.1.24090.11\",\n  \"DefinitionVersion\": \"1.441.7.0\"\n}\n" {
		t.Errorf("manifest %s", got)
	}
	v, err := judge(f, a, nil, verifier.MicrosoftAnchors()...)
	if err != nil || len(v.Withheld) > 0 || v.Weakest != feed.Attested {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := judge(f, a, map[string]int64{want[3]: pe.Version{1, 441, 8, 0}.Order()}, verifier.MicrosoftAnchors()...); !errors.Is(err, feed.ErrRollback) {
		t.Errorf("an older version: %v", err)
	}
	w.asked = nil
	if _, err := w.fetch(t, f, a); !errors.Is(err, feed.ErrUnchanged) || len(w.asked) != 2 {
		t.Errorf("nothing new: %v, %v", err, w.asked)
	}
	w.peer = "" // over http
	b, err := w.fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := judge(f, b, nil, verifier.MicrosoftAnchors()...); err == nil && len(v.Withheld) != 4 || err != nil && !errors.Is(err, feed.ErrHeld) {
		t.Errorf("not over TLS: %v, %v", v.Withheld, err)
	}
	set, err := f.Settings(a, &url.URL{Scheme: "http", Host: "mirror.example", Path: "/defender/"})
	if err != nil || len(set) != 1 || !strings.Contains(set[0].Body, `"offlineDefinitionUpdateUrl": "http://mirror.example/defender/linux/production/"`) {
		t.Errorf("%+v, %v", set, err)
	}
	for _, key := range []string{"offlineDefinitionUpdate", "offlineDefinitionUpdateFallbackToCloud", "offlineDefinitionUpdateVerifySig", "automaticDefinitionUpdateEnabled", "definitionUpdatesInterval"} {
		if !strings.Contains(set[0].Body, `"`+key+`"`) {
			t.Errorf("settings without %s", key)
		}
	}
}

// Packages and manifests that are damaged or not of each other are withheld.
func TestPackagesAreWhole(t *testing.T) {
	f := configured(t, Config{Platforms: []string{"mac/x86_64"}, URL: "https://mirror.example/wdav"})
	const at = "https://mirror.example/wdav/mac/production/arch_x86_64/"
	w := &content{peer: "CN=mirror.example; sha256:00", answers: map[string][]byte{at + "manifest.json": []byte(`{"EngineVersion":"1.1.2.3","DefinitionVersion":"1.441.7.0","more":1}`), at + "updates.zip": pack(t, "definitions")}}
	good, err := w.fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := judge(f, good, nil, verifier.MicrosoftAnchors()...); err != nil || len(v.Withheld) > 0 {
		t.Fatalf("%v, %v", v.Withheld, err)
	}
	const z = "mac/production/arch_x86_64/updates.zip"
	for why, change := range map[string]func(c *content){
		"torn": func(c *content) {
			b := bytes.Clone(c.Body(z))
			b[bytes.Index(b, []byte("PK\x07\x08"))-8] ^= 1 // before the data descriptor
			c.set(z, b)
		},
		"no zip":           func(c *content) { c.set(z, []byte("hello")) },
		"another version":  func(c *content) { a := c.Named[z]; a.Version = "1.442.0.0"; c.Named[z] = a },
		"another time":     func(c *content) { a := c.Named[z]; a.Time = taken; c.Named[z] = a },
		"without manifest": func(c *content) { delete(c.Named, "mac/production/arch_x86_64/manifest.json") },
		"another manifest": func(c *content) {
			c.set("mac/production/arch_x86_64/manifest.json", []byte(`{"EngineVersion":"1.1.2.3","DefinitionVersion":"1.999.7.0"}`))
		},
	} {
		c := &content{Memory: good.Clone()}
		change(c)
		v, err := judge(f, c, nil, verifier.MicrosoftAnchors()...)
		// Nothing else is in this snapshot, so the engine may refuse it whole.
		if _, held := v.Withheld[z]; !held && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v, %v", why, v.Withheld, err)
		}
		if why == "another manifest" && v.Marks[z] != 0 {
			t.Errorf("%s: and its version is believed: %v", why, v.Marks)
		}
	}
	// What is read before it is stored.
	for why, body := range map[string]string{"no json": "x", "no versions": "{}", "letters": `{"EngineVersion":"1.1.2.3","DefinitionVersion":"../../x"}`, "more behind": `{"EngineVersion":"1.1.2.3","DefinitionVersion":"1.1.2.3"}{}`} {
		w.answers[at+"manifest.json"] = []byte(body)
		if _, err := w.fetch(t, f, nil); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", why, err)
		}
	}
}

func (s *content) set(p string, b []byte) {
	a := s.Named[p]
	a.Digest, a.Size = feed.DigestOf(b), int64(len(b))
	s.Named[p], s.Blobs[a.Digest] = a, b
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{}, {Platforms: []string{"windows/ia64"}}, {Platforms: []string{"windows/x64", "windows/x64"}}, {Platforms: []string{"windows/x64"}, URL: "ftp://x"}, {Platforms: []string{"windows/x64"}, URL: "https://u:p@x/"}} {
		if _, err := newFeed(func(into any) error { *into.(*Config) = c; return nil }); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if f := configured(t, Config{Platforms: []string{"windows/x64"}, URL: links}); !slices.Contains(f.Reaches(), "https://go.microsoft.com") || len(f.want) != 1 {
		t.Error(f.Reaches(), f.want)
	}
}

func FuzzInfo(f *testing.F) {
	f.Add([]byte(`<v><engine>1.1.2.3</engine><signatures date="x">1.2.3.4</signatures></v>`))
	f.Add([]byte(`{"EngineVersion":"1.1.2.3","DefinitionVersion":"1.2.3.4"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseInfo(b); err == nil {
			if again, err := parseManifest(m.encode()); err != nil || again != m {
				t.Fatalf("%+v: %v", m, err)
			}
		}
		if m, err := parseManifest(b); err == nil && m.check() != nil {
			t.Fatalf("%+v", m)
		}
	})
}

func FuzzZip(f *testing.F) {
	f.Add(pack(f, "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1<<16 {
			_ = checkZip(bytes.NewReader(b), int64(len(b)))
		}
	})
}
