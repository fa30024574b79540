package clamav

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// terminal is a real freshclam with a database directory of its own.
type terminal struct {
	t    *testing.T
	dir  string
	conf string
}

func program(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed")
	}
	return p
}

// newTerminal is configured with what Settings hands to administrators, and
// nothing but its own directories besides.
func newTerminal(t *testing.T, set feed.Setting) *terminal {
	t.Helper()
	dir := t.TempDir()
	// freshclam becomes DatabaseOwner when root starts it.
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "db")
	if err := os.Mkdir(db, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "freshclam.conf")
	text := fmt.Sprintf("DatabaseDirectory %s\nDatabaseOwner %s\nMaxAttempts 1\n%s", db, u.Username, set.Body)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return &terminal{t, db, conf}
}

func (c *terminal) update(m *mirror) (out string, asked []string) {
	c.t.Helper()
	m.asked()
	b, err := exec.CommandContext(c.t.Context(), program(c.t, "freshclam"), "--no-dns", "--config-file="+c.conf, "--stdout").CombinedOutput()
	if err != nil {
		c.t.Fatalf("freshclam: %v\n%s\nasked %v", err, b, m.asked())
	}
	return string(b), m.asked()
}

// version asks ClamAV's own tool what the terminal has and whether it holds.
func (c *terminal) version(ext string) string {
	c.t.Helper()
	out, err := exec.Command(program(c.t, "sigtool"), "--info="+filepath.Join(c.dir, "test"+ext)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Verification OK") && ext == ".cvd" {
		c.t.Fatalf("sigtool: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "Version: "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// scans has clamscan load the terminal's databases and scan.
func (c *terminal) scans() {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "clean.txt")
	if err := os.WriteFile(file, []byte("nothing here\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
	out, err := exec.Command(program(c.t, "clamscan"), "--database="+c.dir, file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "clean.txt: OK") || strings.Contains(string(out), "Known viruses: 0\n") {
		c.t.Errorf("clamscan: %v\n%s", err, out)
	}
}

// TestRealFreshclam: the unmodified client takes from our handler what the
// vendor signed: from nothing, by patches over two publications, and over a gap.
func TestRealFreshclam(t *testing.T) {
	program(t, "freshclam")
	f := newKind(t, nil)
	m := newMirror(t, f)
	publish := func(from, n int) {
		t.Helper()
		s := published(t, f, from, n, false)
		if _, err := judge(t, f, s, testTrust(t), nil); err != nil {
			t.Fatal(err)
		}
		m.publish(s)
	}
	publish(2, 3)
	view, _ := m.current()
	settings, err := f.(feed.ClientSettings).Settings(view, m.base())
	if err != nil {
		t.Fatal(err)
	}

	c := newTerminal(t, settings[0])
	out, asked := c.update(m)
	saw := func(name string) bool { return slices.Contains(asked, "/"+name) }
	if c.version(".cvd") != "3" {
		t.Fatalf("from nothing: %s", out)
	}
	c.scans()
	if out, asked = c.update(m); !strings.Contains(out, "up-to-date") || len(asked) != 1 {
		t.Errorf("nothing new: asked %v\n%s", asked, out)
	}

	publish(2, 5)
	if out, asked = c.update(m); c.version(".cld") != "5" || !saw("test-4.cdiff") || !saw("test-5.cdiff") {
		t.Fatalf("by patches: asked %v\n%s", asked, out)
	}
	publish(2, 6)
	if out, asked = c.update(m); c.version(".cld") != "6" || !saw("test-6.cdiff") || saw("test-5.cdiff") {
		t.Fatalf("by the next patch: asked %v\n%s", asked, out)
	}
	c.scans()

	// A terminal that was away too long: its first patch is no longer carried.
	m.forget()
	publish(4, 6)
	far := newTerminal(t, settings[0])
	if err := os.WriteFile(filepath.Join(far.dir, "test.cvd"), clamFile(t, "test-1.cvd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, asked = far.update(m); far.version(".cvd") != "6" || !saw("test-2.cdiff") || saw("test-4.cdiff") {
		t.Errorf("over a gap: asked %v\n%s", asked, out)
	}
	far.scans()

	// Exactly one behind, and that patch is not there: with 404 it would never move again.
	m.forget()
	publish(7, 6)
	one := newTerminal(t, settings[0])
	if err := os.WriteFile(filepath.Join(one.dir, "test.cvd"), clamFile(t, "test-5.cvd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, asked = one.update(m); one.version(".cvd") != "6" {
		t.Errorf("one behind: asked %v\n%s", asked, out)
	}

	// Whole files, as the second setting says.
	private := newTerminal(t, settings[1])
	if out, asked = private.update(m); private.version(".cvd") != "6" {
		t.Errorf("PrivateMirror: asked %v\n%s", asked, out)
	}
}

// sigtool agrees with our verdict on what is genuine.
func TestSigtoolAgrees(t *testing.T) {
	sigtool := program(t, "sigtool")
	f := newKind(t, nil)
	flip := func(at int) []byte {
		b := clamFile(t, "test-6.cvd")
		b[at] ^= 1
		return b
	}
	for name, b := range map[string][]byte{"genuine": clamFile(t, "test-6.cvd"), "body": flip(3000), "signature": flip(120)} {
		file := filepath.Join(t.TempDir(), "test.cvd")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(sigtool, "--info="+file).CombinedOutput()
		theirs := err == nil && strings.Contains(string(out), "Verification OK")
		s := published(t, f, 7, 6, false)
		replace(s, "test.cvd", b)
		_, ours := judge(t, f, s, testTrust(t), nil)
		if theirs != (ours == nil) {
			t.Errorf("%s: ours %v, sigtool %v\n%s", name, ours, theirs, out)
		}
	}
}
