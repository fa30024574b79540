package adobe

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// shop is a vendor and a store in memory; as content it is what was added.
type shop struct {
	fstest.MapFS
	files feedtest.Files // by address
	asked []string
	arts  []feed.Artifact
}

type blob struct {
	*bytes.Reader
	digest feed.Digest
}

func (b blob) Digest() feed.Digest { return b.digest }

func (s *shop) Do(_ context.Context, r feed.Request) (*feed.Response, error) {
	s.asked = append(s.asked, r.URL)
	b, ok := s.files[strings.TrimPrefix(r.URL, "http://a.example/")]
	if !ok {
		return nil, &feed.StatusError{URL: r.URL, Status: 404}
	}
	return &feed.Response{Status: 200, Body: b}, nil
}
func (s *shop) Dir(string) (fs.FS, error) { return nil, fs.ErrNotExist }
func (s *shop) Load(ctx context.Context, r feed.Request, want feed.Want) (feed.Blob, error) {
	res, err := s.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	if sum := sha1.Sum(res.Body); want.SHA1 != "" && want.SHA1 != fmt.Sprintf("%x", sum) {
		return nil, feed.ErrUntrusted
	}
	d := feed.DigestOf(res.Body)
	s.MapFS[string(d)] = &fstest.MapFile{Data: res.Body}
	return blob{bytes.NewReader(res.Body), d}, nil
}
func (s *shop) Put(context.Context, string, io.Reader) (feed.Blob, error) {
	return nil, errors.New("not here")
}
func (s *shop) Add(a feed.Artifact) error {
	s.arts = append(s.arts, a)
	return nil
}
func (s *shop) Header() feed.Header { return feed.Header{} }
func (s *shop) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for _, a := range s.arts {
			if !yield(a, nil) {
				return
			}
		}
	}
}
func (s *shop) Lookup(p string) (feed.Artifact, bool) {
	i := slices.IndexFunc(s.arts, func(a feed.Artifact) bool { return a.Path == p })
	if i < 0 {
		return feed.Artifact{}, false
	}
	a := s.arts[i]
	a.Size = int64(len(s.MapFS[string(a.Digest)].Data))
	return a, true
}
func (s *shop) Open(p string) (fs.File, error) {
	a, ok := s.Lookup(p)
	if !ok {
		return nil, fs.ErrNotExist
	}
	return s.MapFS.Open(string(a.Digest))
}

// fetched runs one fetch and returns what was added, by the ends of its paths.
func fetched(t *testing.T, prev *shop, files feedtest.Files, change func(*Config)) (*shop, []string, error) {
	t.Helper()
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.Oracle, c.Catalogue, c.Archive = "http://a.example/arm", "http://a.example/scup", "http://a.example/pub"
		change(c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{MapFS: fstest.MapFS{}, files: files}
	var held feed.Content
	if prev != nil {
		held = prev
		for p, b := range prev.MapFS {
			s.MapFS[p] = b
		}
	}
	_, err = f.Fetch(t.Context(), s, held, s)
	var names []string
	for _, a := range s.arts {
		names = append(names, a.Path[strings.LastIndexByte(a.Path, '/')+1:])
	}
	return s, names, err
}

// TestChain: the quarterly patch that the newest needs comes by itself and
// stays; where the vendor no longer has it, the route says which is missing;
// the catalogue is believed over an older text, and its digests are held to.
func TestChain(t *testing.T) {
	v := newVendor(t, time.Now())
	same := func(*Config) {}
	files := v.state("25.001.20428", "25.001.20531").Files
	first, names, err := fetched(t, nil, files, same)
	const exe, quarterly = "AcroRdrDCx642500120428_MUI.exe", "AcroRdrDCx64Upd2500120428_MUI.msp"
	if want := []string{exe, quarterly, "AcroRdrDCx64Upd2500120531_MUI.msp"}; err != nil || !slices.Equal(names, want) {
		t.Fatalf("%v %v", names, err)
	}
	if _, _, err := fetched(t, first, files, same); !errors.Is(err, feed.ErrUnchanged) {
		t.Errorf("again: %v", err)
	}
	// The text is behind, the catalogue is not; keep = 1, and yet the quarterly patch stays.
	newer := v.state("25.001.20428", "25.001.20531", "25.001.20577").Files
	newest := newer["pub/"+name("msp", "25.001.20577")]
	newer["arm/win/AcrobatDC/reader/current_version.txt"] = []byte("25.001.20570")
	newer["scup/ReaderCatalog-DC.cab"] = catalogue(t, map[string][]byte{"AcroRdrDCx64Upd2500120577_MUI.msp": newest})
	second, names, err := fetched(t, first, newer, func(c *Config) { c.Keep = 1 })
	if want := []string{exe, quarterly, "AcroRdrDCx64Upd2500120577_MUI.msp"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v %v", names, err)
	}
	p, _ := parseProduct("reader-x64")
	all, err := patches(second, nil, p, "MUI")
	if r := PatchRoute(ver("24.005.20320"), all); err != nil || len(r.Steps) != 2 || r.Missing != (Version{}) {
		t.Errorf("%+v %v", r, err)
	}
	newer["scup/ReaderCatalog-DC.cab"] = catalogue(t, map[string][]byte{"AcroRdrDCx64Upd2500120577_MUI.msp": []byte("other")})
	if _, names, err := fetched(t, first, newer, same); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("not the catalogue's digest: %v %v", names, err)
	}
	// The quarterly patch is gone at the vendor.
	lost := v.state("25.001.20428", "25.001.20531").Files
	delete(lost, "pub/"+name("msp", "25.001.20428"))
	third, names, err := fetched(t, nil, lost, same)
	if err != nil || slices.Contains(names, quarterly) {
		t.Errorf("%v %v", names, err)
	}
	if all, err = patches(third, nil, p, "MUI"); err != nil {
		t.Fatal(err)
	}
	if r := PatchRoute(ver("24.005.20320"), all); len(r.Steps) != 0 || r.Missing != ver("25.001.20428") {
		t.Errorf("%+v", r)
	}
	// Withheld is as absent.
	if all, err = patches(first, map[string]string{name("msp", "25.001.20428"): "test"}, p, "MUI"); err != nil || len(all) != 1 {
		t.Errorf("%v %v", all, err)
	}
	// A pin asks nobody.
	pinned, names, err := fetched(t, nil, v.state("25.001.20428", "25.001.20531").Files, func(c *Config) { c.Pin = map[string]string{"reader-x64": "25.001.20428"} })
	if err != nil || !slices.Equal(names, []string{exe, quarterly}) || slices.ContainsFunc(pinned.asked, func(u string) bool { return strings.Contains(u, "current_version") }) {
		t.Errorf("%v %v %v", names, pinned.asked, err)
	}
	for _, i := range must(t, first) {
		if i.Type == "msp" && (!slices.Equal(i.Targets, []string{productCode}) || (i.Version == "25.001.20531") != (i.After == "25.001.20428")) || i.Check() != nil {
			t.Errorf("%+v %v", i, i.Check())
		}
	}
}

func must(t *testing.T, s *shop) []feed.Installer {
	t.Helper()
	list, err := (&acrobat{}).Installers(s)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d installers, %v", len(list), err)
	}
	return list
}
