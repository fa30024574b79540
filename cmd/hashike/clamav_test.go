package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// clamavFiles is a directory with the vendor-signed test databases: the
// project's samples, or what .ci/test took from Debian's source package.
func clamavFiles(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{filepath.Join(os.Getenv("HASHIKE_SAMPLES"), "clamav/freshclam_testfiles"), os.Getenv("HASHIKE_CLAMAV_TESTFILES")} {
		if _, err := os.Stat(filepath.Join(dir, "test-6.cvd")); err == nil {
			return dir
		}
	}
	missing(t, "neither HASHIKE_SAMPLES nor HASHIKE_CLAMAV_TESTFILES has the test databases")
	return ""
}

// spoolTo fills a spool directory as cvdupdate would: the CVD of version n and
// the patches from first on.
func spoolTo(t testing.TB, from, spool string, first, n int) {
	t.Helper()
	if err := os.MkdirAll(spool, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(src, dst string) {
		b, err := os.ReadFile(filepath.Join(from, src))
		if os.IsNotExist(err) && strings.HasSuffix(src, ".sign") {
			return // the source package has none
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(spool, dst), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(fmt.Sprintf("test-%d.cvd", n), "test.cvd")
	for i := max(first, 2); i <= n; i++ {
		put(fmt.Sprintf("test-%d.cdiff", i), fmt.Sprintf("test-%d.cdiff", i))
	}
}

func clamavBlock(spool string) string {
	return fmt.Sprintf("[feed.clamav-test]\nkind = \"clamav\"\ndatabases = [\"test\"]\nmount = \"/clamav/\"\ndirs = { spool = %q }\n", filepath.ToSlash(spool))
}

// freshclam runs the real client with the settings that "hashike client" prints.
type freshclam struct {
	t    testing.TB
	dir  string
	conf string
}

func newFreshclam(t testing.TB, w *world, base string) *freshclam {
	t.Helper()
	need(t, "freshclam")
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &freshclam{t, filepath.Join(dir, "db"), filepath.Join(dir, "freshclam.conf")}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(w.inside("client", "clamav-test", "--base", base), "\n\n")
	var conf strings.Builder
	fmt.Fprintf(&conf, "DatabaseDirectory %s\nDatabaseOwner %s\nMaxAttempts 1\n", c.dir, u.Username)
	for line := range strings.Lines(body) { // the printed file ends where the note begins
		if strings.TrimSpace(line) == "" {
			break
		}
		conf.WriteString(line)
	}
	if err := os.WriteFile(c.conf, []byte(conf.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *freshclam) update() string {
	c.t.Helper()
	return must(c.t, exec.Command("freshclam", "--no-dns", "--config-file="+c.conf, "--stdout"))
}

// version is what ClamAV's own tool says of the terminal's database.
func (c *freshclam) version() (kind, version string) {
	c.t.Helper()
	for _, ext := range []string{".cvd", ".cld"} {
		if _, err := os.Stat(filepath.Join(c.dir, "test"+ext)); err == nil {
			out := must(c.t, exec.Command("sigtool", "--info="+filepath.Join(c.dir, "test"+ext)))
			for line := range strings.Lines(out) {
				if v, ok := strings.CutPrefix(line, "Version: "); ok {
					return ext, strings.TrimSpace(v)
				}
			}
		}
	}
	c.t.Fatal("the terminal has no database")
	return "", ""
}

func (c *freshclam) want(kind, version string) {
	c.t.Helper()
	if k, v := c.version(); k != kind || v != version {
		c.t.Fatalf("the terminal has test%s version %s, want test%s version %s", k, v, kind, version)
	}
}

// The main line with the vendor's own client: genuine vendor-signed databases,
// over bundles, to the real freshclam: from nothing, by patches across two
// publications, and over a gap; clamscan loads the result.
func TestFreshclamUpdatesFromTheMirror(t *testing.T) {
	need(t, "freshclam")
	files := clamavFiles(t)
	spool := t.TempDir()
	spoolTo(t, files, spool, 2, 2)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	base := w.serve()
	c := newFreshclam(t, w, base)
	c.update()
	c.want(".cvd", "2")
	for n := 3; n <= 4; n++ { // two publications, each by patches
		spoolTo(t, files, spool, 2, n)
		w.carry()
		w.waitGeneration("clamav-test", base+"/clamav/test.cvd", n)
		c.update()
		c.want(".cld", fmt.Sprint(n))
	}
	// A gap: the spool starts anew with version 6 and no patch to 5.
	if err := os.RemoveAll(spool); err != nil {
		t.Fatal(err)
	}
	late := newFreshclam(t, w, base) // a terminal at 4, as a whole CVD
	late.update()
	late.want(".cvd", "4")
	gap := t.TempDir()
	spoolTo(t, files, gap, 6, 6)
	v := newWorld(t, clamavBlock(gap))
	v.carry()
	base = v.serve()
	if res, body := get(t, base+"/clamav/test-5.cdiff"); res.StatusCode != http.StatusOK || len(body) != 0 {
		t.Errorf("a gap is answered with %s and %d bytes, want 200 and none", res.Status, len(body))
	}
	setLine(t, late.conf, w.addr, base)
	late.update()
	late.want(".cvd", "6")
	clean := filepath.Join(t.TempDir(), "clean.txt")
	if err := os.WriteFile(clean, []byte("nothing here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, term := range []*freshclam{c, late} {
		if out := must(t, exec.Command("clamscan", "--database="+term.dir, clean)); !strings.Contains(out, "clean.txt: OK") {
			t.Errorf("clamscan:\n%s", out)
		}
	}
}

func get(t testing.TB, url string) (*http.Response, []byte) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

// A vendor file altered outside after the fetch: the outside's own check has
// passed, the bundle's signature is valid, and still the inside must refuse.
func TestInsideRefusesWhatTheOutsideWasMadeToSign(t *testing.T) {
	files := clamavFiles(t)
	spool := t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.carry()
	before := w.serial(inside, "clamav-test")
	// A compromised outside: its verifier is gone, its keys are not.
	spoolTo(t, files, spool, 2, 4)
	flipHeader(t, filepath.Join(spool, "test.cvd"))
	forgeFetch(t, w.path(outside))
	w.pack()
	errs := w.fails(exitUntrusted, "H-502", "--data", w.path(inside), "import", w.path("media"))
	if !strings.Contains(errs, "test.cvd") {
		t.Errorf("the file is not named:\n%s", errs)
	}
	if got := w.serial(inside, "clamav-test"); got != before {
		t.Errorf("serial %d, was %d", got, before)
	}
	if _, _, code := w.run("", "--data", w.path(inside), "publish", "--now"); code != 0 {
		t.Errorf("what was published before cannot be published again: exit %d", code)
	}
	if n := w.generations("clamav-test"); n != 1 {
		t.Errorf("%d generations", n)
	}
}

// flipHeader changes the builder's name in a CVD's header, which only the
// vendor's signed .info contradicts.
func flipHeader(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[strings.LastIndex(string(b[:512]), ":")-1] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
