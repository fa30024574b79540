package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/feed/apt"
)

// aptBlocks are feeds of this machine's own archive: real vendor, real keys.
func aptBlocks(t testing.TB) (blocks string, names []string) {
	t.Helper()
	sources, own := quickSources()
	if !own {
		missing(t, "this machine has no Debian apt sources")
	}
	for _, s := range sources {
		name := "debian" + s.suite[strings.LastIndexByte(s.suite, '-'):]
		cfg := apt.Kind().Config().(*apt.Config)
		cfg.URL, cfg.Suites, cfg.Architectures, cfg.Packages = s.url, []string{s.suite}, []string{debArch()}, quickPackages()
		blocks += config.FeedBlock(name, apt.Kind(), cfg) + "\n"
		names = append(names, name)
	}
	return blocks, names
}

// aptRoot is a private apt: nothing of the machine's configuration, lists or
// cache, but its installed packages (so that dependencies resolve) and the
// stock keyring that the printed settings name.
type aptRoot struct {
	t   testing.TB
	dir string
}

func newAptRoot(t testing.TB, sources string) *aptRoot {
	t.Helper()
	r := &aptRoot{t, t.TempDir()}
	for _, d := range []string{"etc/sources.list.d", "etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "lists/partial", "cache/archives/partial", "state"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, "etc/sources.list.d/hashike.sources"), []byte(sources), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"etc/apt.conf", "etc/sources.list"} {
		if err := os.WriteFile(filepath.Join(r.dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *aptRoot) get(args ...string) (string, error) {
	opts := []string{
		"-o", "Dir::Etc=" + r.dir + "/etc",
		"-o", "Dir::State=" + r.dir + "/state", "-o", "Dir::State::lists=" + r.dir + "/lists", "-o", "Dir::State::status=/var/lib/dpkg/status",
		"-o", "Dir::Cache=" + r.dir + "/cache", "-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Proxy=DIRECT",
		// Images for CI often switch these off; here they must count.
		"-o", "Acquire::Check-Valid-Until=true", "-o", "Acquire::Check-Date=true", "-o", "Acquire::AllowInsecureRepositories=false", "-o", "Acquire::Retries=0",
	}
	cmd := exec.Command("apt-get", append(opts, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "APT_CONFIG="+filepath.Join(r.dir, "etc/apt.conf"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// sourcesOf is what "hashike client" tells the operator to put on a terminal.
func sourcesOf(w *world, base string, names []string) string {
	var b strings.Builder
	for _, n := range names {
		out := w.inside("client", n, "--base", base)
		_, body, _ := strings.Cut(out, "\n\n")
		body, _, _ = strings.Cut(body, "\n\n")
		b.WriteString(body + "\n\n")
	}
	return b.String()
}

// The main line with a client we did not write: Debian's own archive, over a
// bundle, to stock apt with the stock keyring.
func TestAptGetUpdatesFromTheMirror(t *testing.T) {
	need(t, "apt-get")
	blocks, names := aptBlocks(t)
	w := newWorld(t, blocks)
	w.carry()
	base := w.serve()
	sources := sourcesOf(w, base, names)
	for _, bad := range []string{"trusted", "allow-insecure"} {
		if strings.Contains(strings.ToLower(sources), bad) {
			t.Fatalf("the settings switch checks off:\n%s", sources)
		}
	}
	if n := strings.Count(sources, "Check-Valid-Until: no"); n != 1 {
		t.Errorf("%d of the sources are exempt from Valid-Until, want only the security suite's:\n%s", n, sources)
	}
	r := newAptRoot(t, sources)
	if out, err := r.get("update"); err != nil || strings.Contains(out, "W:") || strings.Contains(out, "E:") {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	deb := anyDeb(t, w, names)
	for _, file := range []string{"InRelease", "Packages.xz", ".deb"} { // provenance of every class of file
		if out := w.inside("origin", fileLike(w, names[0], file)); !strings.Contains(out, "取得日時: ") || !strings.Contains(out, "取得元: http") {
			t.Errorf("%s: the origin card lacks where and when:\n%s", file, out)
		}
	}
	out, err := r.get("install", "--download-only", "--reinstall", "-y", "--no-install-recommends", deb)
	if err != nil {
		t.Fatalf("apt-get install %s: %v\n%s", deb, err, out)
	}
	got, _ := filepath.Glob(filepath.Join(r.dir, "cache/archives/*.deb"))
	if len(got) == 0 {
		t.Fatalf("nothing was downloaded:\n%s", out)
	}
	// apt itself must be the judge: the same root refuses a tampered mirror.
	t.Run("tampered", func(t *testing.T) { refusesTampered(t, w, sources) })
}

// anyDeb names a package of a feed that the machine can install by itself.
func anyDeb(t testing.TB, w *world, names []string) string {
	t.Helper()
	for _, n := range []string{"tzdata", "ca-certificates", "openssl", "gzip", "curl"} {
		for _, name := range names {
			if _, _, code := w.run("", "--data", w.path(inside), "origin", name+":"+poolOf(w, name, n)); code == 0 {
				return n
			}
		}
	}
	t.Fatal("none of the expected packages was carried")
	return ""
}

// poolOf finds the pool path of a package through the store's snapshot.
func poolOf(w *world, feedName, pkg string) string {
	a := testApp(w.t, w.path(inside), discard())
	s, err := a.open("test", inside)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.close()
	c, err := s.published(feedName)
	if err != nil {
		w.t.Fatal(err)
	}
	for art := range c.Artifacts() {
		if strings.HasPrefix(art.Version, pkg+" ") {
			return art.Path
		}
	}
	return "not/there"
}

// fileLike finds a published file by the end of its path.
func fileLike(w *world, feedName, end string) string {
	a := testApp(w.t, w.path(inside), discard())
	s, err := a.open("test", inside)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.close()
	c, err := s.published(feedName)
	if err != nil {
		w.t.Fatal(err)
	}
	for art := range c.Artifacts() {
		if strings.HasSuffix(art.Path, end) {
			return feedName + ":" + art.Path
		}
	}
	w.t.Fatalf("%s has no %s", feedName, end)
	return ""
}

// refusesTampered flips one byte of the InRelease that the mirror holds.
func refusesTampered(t *testing.T, w *world, sources string) {
	matches, err := filepath.Glob(w.path(inside, "store/sha256/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for _, p := range matches {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.Index(string(b), "\nSHA256:"); strings.HasPrefix(string(b), "-----BEGIN PGP SIGNED") && i > 0 {
			b[i+12] ^= 1
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
			flipped++
		}
	}
	if flipped == 0 {
		t.Fatal("no InRelease found")
	}
	r := newAptRoot(t, sources)
	if out, err := r.get("update"); err == nil && !strings.Contains(out, "not valid") && !strings.Contains(out, "BADSIG") {
		t.Errorf("apt took a flipped InRelease:\n%s", out)
	}
	if out := w.fails(exitDamaged, "H-702", "--data", w.path(inside), "scrub", "--all"); !strings.Contains(out, "InRelease") {
		t.Errorf("the scrub does not name the file:\n%s", out)
	}
}

// A quickstart with a fresh directory is the README's first command.
func TestQuickstartOnce(t *testing.T) {
	if _, own := quickSources(); !own {
		missing(t, "this machine has no Debian apt sources")
	}
	dir := t.TempDir()
	w := &world{t: t, dir: dir}
	for range 2 { // a second run goes on with the same directory
		out := w.ok("", "quickstart", "--once", "--dir", dir)
		if !strings.Contains(out, "Debian") || !strings.Contains(out, "GET /debian-") {
			t.Errorf("quickstart said:\n%s", out)
		}
	}
	if w.serial(inside, "debian-security") == 0 || w.serial(inside, "debian-security") != w.serial(outside, "debian-security") {
		t.Error("the sides do not agree")
	}
	w.fails(exitConfig, "H-201", "--data", w.path(inside), "fetch")
	w.fails(exitConfig, "H-201", "--data", w.path(outside), "import", w.path("media"))
	if out := w.outside("check", "--hosts"); !strings.Contains(out, "debian-security") {
		t.Errorf("hosts:\n%s", out)
	}
}
