package apt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// sample reads a real vendor file; see the README on HASHIKE_SAMPLES.
func sample(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("HASHIKE_SAMPLES is not set")
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is read before verification must be what the signature covers.
func TestClearTextIsWhatIsSigned(t *testing.T) {
	for _, name := range []string{"bookworm-InRelease", "bookworm-security-InRelease", "bookworm-updates-InRelease"} {
		doc := sample(t, "linux/apt/"+name)
		rough, err := clearText(doc)
		if err != nil {
			t.Fatal(err)
		}
		trust := feed.Trust{Anchors: Kind().Anchors, At: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
		signed, _, err := verifier.OpenPGPClear(doc, trust, trust.For("openpgp", debianKeys))
		if err != nil {
			t.Fatal(name, err)
		}
		a, err := parseRelease(strings.NewReader(rough))
		if err != nil {
			t.Fatal(err)
		}
		b, err := parseRelease(strings.NewReader(string(signed)))
		if err != nil {
			t.Fatal(err)
		}
		if a.codename != b.codename || !a.date.Equal(b.date) || len(a.files) != len(b.files) || len(a.files) < 50 {
			t.Errorf("%s: read %s %s %d files, signed %s %s %d", name, a.codename, a.date, len(a.files), b.codename, b.date, len(b.files))
		}
	}
}

func TestReleaseFitsSuiteAndTime(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 11, d, 12, 0, 0, 0, time.UTC) }
	rel := release{suite: "oldstable-security", codename: "bookworm-security", date: day(20), until: day(27)}
	for _, c := range []struct {
		suite string
		at    time.Time
		ok    bool
	}{
		{"bookworm-security", day(22), true}, {"oldstable-security", day(22), true},
		{"bookworm", day(22), false},          // another suite of the same archive
		{"bookworm-security", day(28), false}, // expired: the upstream is frozen
		{"bookworm-security", day(18), false}, // from the future
	} {
		if err := rel.fits(c.suite, c.at); (err == nil) != c.ok {
			t.Errorf("%s at %s: %v", c.suite, c.at, err)
		}
	}
}

// dpkg is the independent judge of version order.
func TestVersionsAgainstDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("dpkg is not here")
	}
	versions := []string{"1", "1.0", "1.0-1", "1.0~rc1", "1.0~rc1-1", "1:0.9", "1.0-1+b1", "1.0-1+deb12u1", "1.0-10", "1.0-9", "1.0a", "1.0+dfsg-2",
		"2.30.2-1+deb11u2", "0", "1.00", "1.0.0", "1.0-0", "1.0-1~bpo12+1", "1.2.3~~", "1.2.3~", "1.2.3a", "9999", "1.10", "1.9"}
	for _, a := range versions {
		for _, b := range versions {
			op := "eq"
			if c := compareVersions(a, b); c < 0 {
				op = "lt"
			} else if c > 0 {
				op = "gt"
			}
			if err := exec.Command(dpkg, "--compare-versions", a, op, b).Run(); err != nil {
				t.Errorf("%s %s %s: dpkg disagrees", a, op, b)
			}
		}
	}
}

func TestChosenFollowsDependencies(t *testing.T) {
	all := []pkg{
		{name: "app", version: "1", arch: "amd64", depends: "libold | liba (>= 2), mta, missing"},
		{name: "app", version: "2", arch: "amd64", depends: ",liba:any (>= 2) [amd64], virtual-mta"},
		{name: "liba", version: "2", arch: "amd64"},
		{name: "libold", version: "1", arch: "amd64"},
		{name: "postfix", version: "3", arch: "amd64", provides: "mta, virtual-mta (= 1)", depends: "liba"},
		{name: "other", version: "1", arch: "amd64"},
	}
	var got []string
	for _, p := range chosen(all, []string{"app", "not-there"}) {
		got = append(got, p.name+"="+p.version)
	}
	if want := []string{"app=2", "liba=2", "postfix=3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseReleaseRefuses(t *testing.T) {
	ok := "Suite: x\nDate: Fri, 20 Nov 2026 00:12:41 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 5 main/binary-amd64/Packages.xz\n"
	if _, err := parseRelease(strings.NewReader(ok)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no date":        strings.Replace(ok, "Date", "Dote", 1),
		"traversal":      strings.Replace(ok, "main/", "../", 1),
		"absolute":       strings.Replace(ok, "main/", "/main/", 1),
		"negative size":  strings.Replace(ok, " 5 ", " -5 ", 1),
		"bad hash":       strings.Replace(ok, "0000 ", "zzzz ", 1),
		"field twice":    ok + "Suite: y\n",
		"no list":        "Suite: x\nDate: Fri, 20 Nov 2026 00:12:41 UTC\n",
		"empty":          "",
		"valid-until ??": ok + "Valid-Until: tomorrow\n",
	} {
		if _, err := parseRelease(strings.NewReader(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzRelease(f *testing.F) {
	f.Add("Suite: x\nDate: Fri, 20 Nov 2026 00:12:41 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 5 main/binary-amd64/Packages.xz\n")
	f.Fuzz(func(t *testing.T, text string) {
		rel, err := parseRelease(strings.NewReader(text))
		if err == nil {
			for p, e := range rel.files {
				if !feed.ValidPath(p) || e.size < 0 {
					t.Fatalf("accepted %q %d", p, e.size)
				}
			}
		}
		clearText([]byte(text))
	})
}

func FuzzPackages(f *testing.F) {
	f.Add(fmt.Sprintf("Package: a\nVersion: 1\nFilename: pool/a.deb\nSize: 3\nSHA256: %064d\nDepends: b | c, d (>= 1)\nProvides: e\n", 0))
	f.Fuzz(func(t *testing.T, text string) {
		var all []pkg
		if readPackages(strings.NewReader(text), true, func(p pkg) error { all = append(all, p); return nil }) != nil {
			return
		}
		for _, p := range chosen(all, []string{"a", "b"}) {
			if !feed.ValidPath(poolPath(p.file)) || p.size <= 0 {
				t.Fatalf("accepted %q", p.file)
			}
		}
	})
}

func FuzzVersions(f *testing.F) {
	f.Add("1.0-1", "1.0~rc1")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := compareVersions(a, b), compareVersions(b, a)
		if (x < 0) != (y > 0) || (x == 0) != (y == 0) {
			t.Fatalf("%q %q: %d %d", a, b, x, y)
		}
	})
}
