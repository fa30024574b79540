package intake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/encoding/japanese"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

// forge writes a descriptor that Encode would refuse.
func forge(t testing.TB, d Descriptor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(d); err != nil {
		t.Fatal(err)
	}
	return append([]byte(head+string(feed.DigestOf(b.Bytes()))+"\n"), b.Bytes()...)
}

// content is a snapshot in memory.
type content struct {
	fstest.MapFS
	arts  []feed.Artifact
	state string
}

func (c content) Header() feed.Header {
	return feed.Header{Schema: 1, Feed: "just", Kind: "intake", Serial: 1, Taken: time.Now(), State: "x " + c.state}
}
func (c content) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for _, a := range c.arts {
			if !yield(a, nil) {
				return
			}
		}
	}
}
func (c content) Lookup(p string) (feed.Artifact, bool) {
	i := slices.IndexFunc(c.arts, func(a feed.Artifact) bool { return a.Path == p })
	if i < 0 {
		return feed.Artifact{}, false
	}
	return c.arts[i], true
}

// snapshot labels a folder's files as Fetch does.
func snapshot(t testing.TB, files feedtest.Files) content {
	t.Helper()
	c := content{MapFS: fstest.MapFS{}}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		e, ok := parsePath(p)
		if !ok {
			continue
		}
		c.MapFS[p] = &fstest.MapFile{Data: files[p]}
		a := feed.Artifact{Path: p, Digest: feed.DigestOf(files[p]), Size: int64(len(files[p])), Class: feed.Metadata, Version: e.version, Group: e.group()}
		if e.kind == isFile {
			a.Class = feed.Security
		}
		d, err := ParseDescriptor(files[e.product+"/"+e.version+"/"+e.file+".toml"])
		if err != nil {
			t.Fatal(err)
		}
		a.Time = d.time()
		c.arts = append(c.arts, a)
	}
	c.state = stateOf(c.arts)
	return c
}

func newIntake(t testing.TB, change func(*Config)) *Intake {
	t.Helper()
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.Dir, c.Publishers = "drop", map[string]string{"ichitaro2026": organisation, "atok2026": organisation}
		change(c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f.(*Intake)
}

func withheld(t *testing.T, x *Intake, c feed.Content, anchors ...feed.Anchor) []string {
	t.Helper()
	v, err := verifier.Run(context.Background(), verifier.Job{Setup: feed.Setup{Name: "just", Kind: Kind(), Feed: x}, Content: c,
		Trust: feed.Trust{Anchors: anchors, At: time.Now()}, Policy: verifier.Policy{Floors: Kind().Floors}, Evidence: io.Discard, Side: "inside"})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(v.Withheld))
}

// TestPinnedAndWithdrawn: what the configuration no longer offers is withheld
// alone, on either side, and comes back when it says so.
func TestPinnedAndWithdrawn(t *testing.T) {
	v := newVendor(t, organisation, time.Now())
	files := v.state("2026.1", 1).Files
	maps.Copy(files, v.state("2026.2", 2).Files)
	c := snapshot(t, files)
	ichitaro := func(version string) []string {
		p := "ichitaro2026/" + version + "/tar2026up.exe"
		return []string{p, p + ".toml"}
	}
	atok := func(version string) []string {
		p := "atok2026/" + version + "/ATOK 2026 更新.exe"
		return []string{p, p + ".toml"}
	}
	for name, x := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"all":                 {func(*Config) {}, nil},
		"a version withdrawn": {func(c *Config) { c.Withdrawn = []string{"ichitaro2026@2026.2"} }, ichitaro("2026.2")},
		"a product withdrawn": {func(c *Config) { c.Withdrawn = []string{"atok2026"} }, append(atok("2026.1"), atok("2026.2")...)},
		"pinned":              {func(c *Config) { c.Pin = map[string]string{"ichitaro2026": "2026.1"} }, ichitaro("2026.2")},
		"not named":           {func(c *Config) { delete(c.Publishers, "atok2026") }, append(atok("2026.1"), atok("2026.2")...)},
		"another publisher":   {func(c *Config) { c.Publishers["atok2026"] = "Somebody Else" }, append(atok("2026.1"), atok("2026.2")...)},
	} {
		in := newIntake(t, x.change)
		got := withheld(t, in, c, v.by.Anchor)
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		held := map[string]string{}
		for _, p := range got {
			held[p] = "held"
		}
		list, err := feed.Installers(in, feed.View{Content: c, Withheld: held})
		if err != nil || len(list) != 4-len(got)/2 {
			t.Errorf("%s: %d installers, %v", name, len(list), err)
		}
		for _, i := range list {
			if i.ID != "JustSystems.Ichitaro2026" || i.Silent != "/s" || i.Publisher != "株式会社ジャストシステム" {
				t.Errorf("%+v", i)
			}
		}
	}
}

// A file proved by the vendor's OpenPGP signature beside it.
func TestOpenPGP(t *testing.T) {
	key := feedtest.NewSigner(t, "Vendor", time.Now())
	body := []byte("PK\x03\x04 an archive")
	d := describe("hanako2026", "2026.1", "hanako.zip", body)
	d.Type, d.Publisher = "zip", "vendor.asc"
	text, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	anchor := feed.Anchor{Name: "vendor.asc", Use: "openpgp", Data: key.Anchor.Data, Source: "test"}
	in := newIntake(t, func(c *Config) { c.Publishers, c.Keys = nil, map[string]string{"hanako2026": "vendor.asc"} })
	files := feedtest.Files{d.path(): body, d.path() + ".toml": text, d.path() + ".asc": key.Detached(t, body, time.Now(), true)}
	if got := withheld(t, in, snapshot(t, files), anchor); len(got) > 0 {
		t.Errorf("withheld %v", got)
	}
	for name, sig := range map[string][]byte{"of another file": key.Detached(t, []byte("other"), time.Now(), true), "none": nil} {
		f := maps.Clone(files)
		if f[d.path()+".asc"] = sig; sig == nil {
			delete(f, d.path()+".asc")
		}
		_, err := verifier.Run(context.Background(), verifier.Job{Setup: feed.Setup{Name: "just", Kind: Kind(), Feed: in}, Content: snapshot(t, f),
			Trust: feed.Trust{Anchors: []feed.Anchor{anchor}, At: time.Now()}, Policy: verifier.Policy{Floors: Kind().Floors}, Evidence: io.Discard, Side: "inside"})
		if !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("signature %s: %v", name, err)
		}
	}
}

func TestTitles(t *testing.T) {
	page := "<html><head><title>セキュリティ更新</title></head><body><script>セキュリティ更新</script><table><tr><td>2026/03/15<td><a href=x>一太郎2026&nbsp;セキュリティ更新</a></tr><tr><td>ATOK アップデートモジュール</tr><li>ほか</table>"
	want := []string{"一太郎2026 セキュリティ更新", "ATOK アップデートモジュール"}
	words := []string{"アップデートモジュール", "セキュリティ更新"}
	sjis, err := japanese.ShiftJIS.NewEncoder().String(page)
	if err != nil {
		t.Fatal(err)
	}
	euc, err := japanese.EUCJP.NewEncoder().String(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{page, sjis, euc} {
		if diff := cmp.Diff(want, titles([]byte(s), words)); diff != "" {
			t.Error(diff)
		}
	}
	if got := titles([]byte("a<br>b<p>a"), nil); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("every line: %q", got)
	}
}

func TestDescriptor(t *testing.T) {
	good := describe("ichitaro2026", "2026.1", "a.exe", []byte("x"))
	b, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDescriptor(b)
	if err != nil || !cmp.Equal(got, good) {
		t.Errorf("%v\n%s", err, cmp.Diff(good, got))
	}
	for name, change := range map[string]func(*Descriptor){
		"version": func(d *Descriptor) { d.Version = "2026.01" }, "five numbers": func(d *Descriptor) { d.Version = "1.2.3.4.5" }, "large": func(d *Descriptor) { d.Version = "70000" },
		"file": func(d *Descriptor) { d.File = "../a.exe" }, "device": func(d *Descriptor) { d.File = "com1.exe" }, "no program": func(d *Descriptor) { d.File = "a.txt" },
		"product": func(d *Descriptor) { d.Product = "watch" }, "type": func(d *Descriptor) { d.Type = "jar" }, "date": func(d *Descriptor) { d.Released = "yesterday" },
		"digest": func(d *Descriptor) { d.SHA256 = "sha256:12" }, "line": func(d *Descriptor) { d.Silent = "/s\nformat" }, "by": func(d *Descriptor) { d.By = "a\x00" },
	} {
		d := good
		change(&d)
		if _, err := ParseDescriptor(forge(t, d)); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseDescriptor(append(bytes.Clone(b), "silent2 = 1\n"...)); !errors.Is(err, feed.ErrUpstream) {
		t.Errorf("changed by hand: %v", err)
	}
	for in, want := range map[string]string{"2026.03.15": "2026.3.15", "2026/3/1": "2026.3.1", " 1.0 ": "1.0", "00": "0"} {
		if got, ok := Normal(in); !ok || got != want {
			t.Errorf("%q: %q %v", in, got, ok)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no folder": func(c *Config) { c.Dir = "" }, "nobody": func(c *Config) { c.Publishers = nil }, "product": func(c *Config) { c.Publishers["Ichi Taro"] = "x" },
		"both": func(c *Config) { c.Keys = map[string]string{"atok2026": "k"} }, "pin": func(c *Config) { c.Pin = map[string]string{"atok2026": "x"} },
		"withdrawn": func(c *Config) { c.Withdrawn = []string{"hanako"} }, "watch": func(c *Config) { c.Watch = map[string]string{"a": "file:///x"} }, "class": func(c *Config) { c.Class = "other" },
	} {
		_, err := newFeed(func(into any) error {
			c := into.(*Config)
			c.Dir, c.Publishers = "drop", map[string]string{"atok2026": organisation}
			change(c)
			return nil
		})
		if !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseDescriptor(f *testing.F) {
	d := describe("ichitaro2026", "2026.1", "a.exe", []byte("x"))
	b, err := d.Encode()
	if err != nil {
		f.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("\n"))
	f.Add(rest)
	f.Fuzz(func(t *testing.T, rest []byte) {
		d, err := ParseDescriptor(append([]byte(head+string(feed.DigestOf(rest))+"\n"), rest...))
		if err != nil {
			return
		}
		if e, ok := parsePath(d.path()); !ok || e.kind != isFile || !fs.ValidPath(d.path()) {
			t.Errorf("%q", d.path())
		}
	})
}

func FuzzTitles(f *testing.F) {
	f.Add([]byte("<a>セキュリティ更新</a>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := titles(b, nil)
		if len(out) > maxLines || slices.ContainsFunc(out, func(s string) bool { return s == "" || strings.ContainsAny(s, "\n\r\x00") }) {
			t.Errorf("%q", out)
		}
	})
}
