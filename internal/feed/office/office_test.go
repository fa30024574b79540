package office

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

// sample is one of the vendor's own files.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	b, err := os.ReadFile(filepath.Join(dir, "microsoft", "office-c2r", name))
	if dir == "" || err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatalf("HASHIKE_SAMPLES: %v", err)
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	return b
}

// The genuine version cabinets of two channels: signature, build, and one bit
// of each changed.
func TestGenuineVersionCabinets(t *testing.T) {
	trust := feed.Trust{At: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Anchors: verifier.MicrosoftAnchors()}
	for _, folder := range []string{"492350F6-3A01-4F97-B9C0-C7C6DDF67D60", "7FFBC6BF-BC32-4F92-8982-F9DD17FD3114"} {
		b := sample(t, folder+"/v64.cab")
		got, made, err := readVersion(bytes.NewReader(b), int64(len(b)))
		if err != nil || made.Year() < 2020 {
			t.Fatalf("%s: %v, made %s", folder, err, made)
		}
		// The descriptor beside it was unpacked by another tool.
		if plain := string(sample(t, folder+"/VersionDescriptor.xml")); !strings.Contains(plain, `<Available Build="`+got.String()+`"`) {
			t.Errorf("%s: build %s is not the descriptor's", folder, got)
		}
		ev, err := verifier.Authenticode(bytes.NewReader(b), int64(len(b)), verifier.Microsoft(), trust)
		if err != nil || ev.Signer == "" || ev.SignedAt.IsZero() {
			t.Fatalf("%s: %+v %v", folder, ev, err)
		}
		for _, at := range []int{100, len(b) / 2, len(b) - 100} {
			m := bytes.Clone(b)
			m[at] ^= 1
			if _, err := verifier.Authenticode(bytes.NewReader(m), int64(len(m)), verifier.Microsoft(), trust); !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s: byte %d changed: %v", folder, at, err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, p := range []string{"SemiAnnual/office/data/v64.cab", "Current/office/data/v32_16.0.17928.20336.cab", "Current/office/data/16.0.1.2/i640.cab",
		"Current/office/data/16.0.1.2/i320.cab.cat", "Current/office/data/16.0.1.2/a640_exp.cab", "Current/office/data/16.0.1.2/stream.x86.ja-jp.dat"} {
		f, ok := parsePath(p)
		if !ok || f.path() != p {
			t.Errorf("%s: %+v, %v, %s", p, f, ok, f.path())
		}
	}
	for _, p := range []string{"", "SemiAnnual/office/data/v64_16.0.1.cab", "Elsewhere/office/data/v64.cab", "Current/office/data/16.0.01.2/i640.cab",
		"Current/office/data/16.0.1.2/../i640.cab", "Current/office/data/16.0.1.2/I640.cab", "Current/office/data/16.0.1.2/setup.exe", "Current/office/data/16.0.1.2/stream.x64.ja-jp.dat.exe"} {
		if f, ok := parsePath(p); ok {
			t.Errorf("%s taken as %+v", p, f)
		}
	}
	if a, _ := parseBuild("16.0.9999.20000"); a.order() >= (build{16, 0, 10000, 1}).order() {
		t.Error("order of builds")
	}
}

// What hash files look like is not known; these forms are taken, all else is
// passed over.
func TestHashForms(t *testing.T) {
	d := feed.DigestOf([]byte("x"))
	utf16 := []byte{0xff, 0xfe}
	for _, c := range d.Hex() {
		utf16 = append(utf16, byte(c), 0)
	}
	for _, raw := range [][]byte{[]byte(d.Hex()), []byte(strings.ToUpper(d.Hex()) + "\r\n"), utf16} {
		if got, ok := parseHash(raw); !ok || got != d {
			t.Errorf("%q: %s %v", raw, got, ok)
		}
	}
	for _, raw := range []string{"", "E711C762D0E9856D0699B236EDAD2DF5", d.Hex() + " stream", strings.Repeat("ab", 33)} {
		if got, ok := parseHash([]byte(raw)); ok {
			t.Errorf("%q read as %s", raw, got)
		}
	}
}

func TestWithheldBuildIsNotOffered(t *testing.T) {
	names := []string{"v64.cab", "v64_16.0.2.1.cab", "16.0.2.1/i640.cab", "16.0.2.1/a640_exp.cab", "v64_16.0.1.1.cab", "16.0.1.1/i640.cab"}
	c := feedtest.NewMemory(feed.Header{Feed: "office"})
	for _, n := range names {
		p := "Current/office/data/" + n
		c.Named[p] = feed.Artifact{Path: p, Version: "16.0.2.1"}
	}
	for _, x := range []struct{ withheld, want string }{
		{"16.0.2.1/i640.cab", "v64_16.0.1.1.cab"}, {"16.0.2.1/a640_exp.cab", "v64.cab"}, {"16.0.1.1/i640.cab", "v64.cab"},
	} {
		v := feed.View{Content: c, Withheld: map[string]string{"Current/office/data/" + x.withheld: "test"}}
		if got := offered(v, file{channel: "Current", arch: "x64", role: newest}); got != "Current/office/data/"+x.want {
			t.Errorf("%s withheld: offered is %s", x.withheld, got)
		}
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add([]byte(descriptor("16.0.17928.20336")))
	f.Add([]byte(`<Version><Available/></Version>`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := parseDescriptor(raw); err == nil {
			if again, ok := parseBuild(b.String()); !ok || again != b {
				t.Errorf("%v", b)
			}
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("SemiAnnual/office/data/16.0.17928.20336/stream.x64.ja-jp.dat.cat")
	f.Fuzz(func(t *testing.T, p string) {
		if n, ok := parsePath(p); ok && (n.path() != p || !feed.ValidPath(p)) {
			t.Errorf("%q is %q", p, n.path())
		}
	})
}

func FuzzVersionCabinet(f *testing.F) {
	f.Add([]byte("MSCF"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _, _ = readVersion(bytes.NewReader(raw), int64(len(raw)))
		_, _ = parseHash(raw)
	})
}
