package msix

import (
	"bytes"
	"encoding/xml"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
	"github.com/hashike/hashike/internal/format/appx/appxtest"
)

// folderOf is a snapshot of packages.
type folderOf struct {
	fstest.MapFS
	arts []feed.Artifact
}

func snapshot(t *testing.T, packages ...[]byte) folderOf {
	t.Helper()
	c := folderOf{MapFS: fstest.MapFS{}}
	for _, b := range packages {
		k, err := describe(bytes.NewReader(b), int64(len(b)), ".msix")
		if err != nil {
			t.Fatal(err)
		}
		c.MapFS[k.path] = &fstest.MapFile{Data: b}
		c.arts = append(c.arts, feed.Artifact{Path: k.path, Digest: feed.DigestOf(b), Size: int64(len(b)), Class: feed.Feature, Group: k.path, Version: k.Version, Time: k.packed})
	}
	slices.SortFunc(c.arts, func(a, b feed.Artifact) int { return strings.Compare(a.Path, b.Path) })
	return c
}

func (c folderOf) Header() feed.Header { return feed.Header{Feed: "apps", Kind: "msix"} }
func (c folderOf) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for _, a := range c.arts {
			if !yield(a, nil) {
				return
			}
		}
	}
}

func (c folderOf) Lookup(p string) (feed.Artifact, bool) {
	i := slices.IndexFunc(c.arts, func(a feed.Artifact) bool { return a.Path == p })
	if i < 0 {
		return feed.Artifact{}, false
	}
	return c.arts[i], true
}

// said is what Verify says.
type said struct {
	c     folderOf
	list  []feed.Evidence
	marks map[string]int64
}

func (s *said) Evidence(e feed.Evidence) error        { s.list = append(s.list, e); return nil }
func (s *said) Mark(stream string, order int64) error { s.marks[stream] = order; return nil }
func (s *said) refused(path string) (why string) {
	return s.about(path, func(e feed.Evidence) string { return e.Refused })
}
func (s *said) note(path string) (why string) {
	return s.about(path, func(e feed.Evidence) string { return e.Note })
}
func (s *said) about(path string, f func(feed.Evidence) string) (out string) {
	for _, e := range s.list {
		if e.Path == path {
			out += f(e)
		}
	}
	return out
}

func (s *said) Once(a feed.Artifact, method string, f func(io.ReaderAt, int64) (feed.Evidence, error)) error {
	b, err := fs.ReadFile(s.c, a.Path)
	if err != nil {
		return err
	}
	e, err := f(bytes.NewReader(b), a.Size)
	if err != nil {
		e.Refused = err.Error()
	}
	e.Path = a.Path
	return s.Evidence(e)
}

func newPackages(t *testing.T, change func(*Config)) *packages {
	t.Helper()
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.Dir, c.Publishers = "drop", []string{organisation}
		change(c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f.(*packages)
}

func verify(t *testing.T, p *packages, v vendor, c folderOf) *said {
	t.Helper()
	s := &said{c: c, marks: map[string]int64{}}
	trust := feed.Trust{At: time.Now(), Anchors: []feed.Anchor{{Name: "town", Use: use, Data: v.Root}}}
	if err := p.Verify(t.Context(), c, trust, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDependencies(t *testing.T) {
	v := vendor{appxtest.NewPublisher(organisation, time.Now())}
	need := appx.Dependency{Name: "Hashike.Framework", Publisher: v.Name, Min: "2.0.0.0"}
	app := v.pack("Hashike.App", "1.0.0.0", "x64", need)
	for _, x := range []struct {
		name      string
		framework []byte
		lacking   bool
	}{
		{"none", nil, true},
		{"too old", v.framework("1.9.0.0"), true},
		{"there", v.framework("2.0.0.1"), false},
	} {
		files := [][]byte{app}
		if x.framework != nil {
			files = append(files, x.framework)
		}
		c := snapshot(t, files...)
		path := c.arts[0].Path
		for _, require := range []bool{false, true} {
			p := newPackages(t, func(c *Config) { c.Require = require })
			s := verify(t, p, v, c)
			if got := strings.Contains(s.note(path)+s.refused(path), "Hashike.Framework 2.0.0.0"); got != x.lacking {
				t.Errorf("%s: said %v: %+v", x.name, got, s.list)
			}
			if got := s.refused(path) != ""; got != (x.lacking && require) {
				t.Errorf("%s, required %v: refused %q", x.name, require, s.refused(path))
			}
		}
	}
	// A framework that does not hold is none.
	bad := bytes.Clone(v.framework("2.0.0.1"))
	bad[40] ^= 1
	c := snapshot(t, app)
	broken := snapshot(t, v.framework("2.0.0.1"))
	path := broken.arts[0].Path
	c.MapFS[path], c.arts = &fstest.MapFile{Data: bad}, append(c.arts, broken.arts[0])
	if s := verify(t, newPackages(t, func(*Config) {}), v, c); s.refused(path) == "" || !strings.Contains(s.note(c.arts[0].Path), "Hashike.Framework") {
		t.Errorf("a broken framework: %+v", s.list)
	}
}

func TestMarksAndStrangers(t *testing.T) {
	v, other := vendor{appxtest.NewPublisher(organisation, time.Now())}, vendor{appxtest.NewPublisher("Somebody Else", time.Now())}
	c := snapshot(t, v.pack("Hashike.App", "1.0.0.0", "x64"), v.pack("Hashike.App", "1.10.0.0", "x64"), v.bundle("Hashike.Both", "3.0.0.0"), other.pack("Hashike.App", "9.0.0.0", "x64"))
	s := verify(t, newPackages(t, func(*Config) {}), v, c)
	id := appx.PublisherID(v.Name)
	want := map[string]int64{"Hashike.App_" + id + "/x64/": order("1.10.0.0"), "Hashike.Both_" + id + "/bundle/": order("3.0.0.0")}
	if d := cmp.Diff(want, s.marks); d != "" {
		t.Error(d)
	}
	for _, a := range c.arts {
		if strange := strings.Contains(a.Path, "_9.0.0.0_"); (s.refused(a.Path) != "") != strange {
			t.Errorf("%s: refused %q", a.Path, s.refused(a.Path))
		}
	}
	// The other's root does not help: the publisher is pinned.
	trust := feed.Trust{At: time.Now(), Anchors: []feed.Anchor{{Name: "town", Use: use, Data: v.Root}, {Name: "other", Use: use, Data: other.Root}}}
	s = &said{c: c, marks: map[string]int64{}}
	if err := newPackages(t, func(*Config) {}).Verify(t.Context(), c, trust, s); err != nil {
		t.Fatal(err)
	}
	for _, a := range c.arts {
		if strange := strings.Contains(a.Path, "_9.0.0.0_"); (s.refused(a.Path) != "") != strange {
			t.Errorf("with the other's root, %s: refused %q", a.Path, s.refused(a.Path))
		}
	}
}

func TestOffered(t *testing.T) {
	v := vendor{appxtest.NewPublisher(organisation, time.Now())}
	c := snapshot(t, v.pack("Hashike.App", "1.0.0.0", "x64"), v.pack("Hashike.App", "1.10.0.0", "x64"), v.pack("Hashike.App", "1.9.0.0", "x86"), v.bundle("Hashike.Both", "3.0.0.0"), v.framework("2.0.0.0"))
	base, _ := url.Parse("https://hashike.example/msix/")
	for pin, want := range map[string]string{"": "1.10.0.0", "1.9.9.9": "1.0.0.0"} {
		p := newPackages(t, func(c *Config) {
			c.Downgrade = true
			if pin != "" {
				c.Pin = map[string]string{"Hashike.App": pin}
			}
		})
		s, err := p.shelf(feed.View{Content: c})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.docs["hashike.app.appinstaller"].Version; got != want {
			t.Errorf("pinned to %q: offers %s, not %s", pin, got, want)
		}
		if s.docs["hashike.app_x86.appinstaller"].Version != "1.9.0.0" {
			t.Errorf("x86: %+v", s.docs)
		}
		var d struct {
			XMLName xml.Name
			Version string `xml:"Version,attr"`
			Main    struct {
				URI  string `xml:"Uri,attr"`
				Arch string `xml:"ProcessorArchitecture,attr"`
			} `xml:"MainPackage"`
			Update struct {
				OnLaunch struct {
					Hours int `xml:"HoursBetweenUpdateChecks,attr"`
				}
				AutomaticBackgroundTask   *struct{}
				ForceUpdateFromAnyVersion bool
			} `xml:"UpdateSettings"`
		}
		if err := xml.Unmarshal(p.document(s, s.docs["hashike.app.appinstaller"], "Hashike.App.appinstaller", base), &d); err != nil {
			t.Fatal(err)
		}
		if d.XMLName.Space != "http://schemas.microsoft.com/appx/appinstaller/2018" || d.Version != want || d.Main.Arch != "x64" || !strings.HasPrefix(d.Main.URI, base.String()+"packages/Hashike.App_"+want) ||
			d.Update.OnLaunch.Hours != 12 || d.Update.AutomaticBackgroundTask == nil || !d.Update.ForceUpdateFromAnyVersion {
			t.Errorf("%+v", d)
		}
	}
	list, err := feed.Installers(newPackages(t, func(*Config) {}), feed.View{Content: c, Withheld: map[string]string{c.arts[0].Path: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range list {
		got = append(got, i.ID+" "+i.Version+" "+i.Arch+" "+i.Type)
		if i.FamilyName != i.ID+"_"+appx.PublisherID(v.Name) || i.Signature == "" || i.Digest == "" || i.Size == 0 || i.Publisher != organisation {
			t.Errorf("%+v", i)
		}
	}
	want := []string{"Hashike.App 1.10.0.0 x64 msix", "Hashike.App 1.9.0.0 x86 msix", "Hashike.Both 3.0.0.0 arm64 msix", "Hashike.Both 3.0.0.0 x64 msix"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestPublisherID: names that are in every Windows.
func TestPublisherID(t *testing.T) {
	for name, want := range map[string]string{
		"CN=Microsoft Corporation, O=Microsoft Corporation, L=Redmond, S=Washington, C=US":                                      "8wekyb3d8bbwe",
		"CN=Microsoft Windows, O=Microsoft Corporation, L=Redmond, S=Washington, C=US":                                          "cw5n1h2txyewy",
		"CN=Mozilla Corporation, OU=Firefox Engineering Operations, O=Mozilla Corporation, L=San Francisco, S=California, C=US": "",
	} {
		if got := appx.PublisherID(name); want != "" && got != want || len(got) != 13 {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}
