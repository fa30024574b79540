package mirror_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// A crossing is an outside, an inside and what lies between, with a feed kind
// of one rule: the file "signature" holds the word "genuine".
type crossing struct {
	t       testing.TB
	now     time.Time
	out, in state.Dir
	outDB   *state.DB
	inDB    *state.DB
	outCAS  *cas.Store
	inCAS   *cas.Store
	serial  uint64
	feeds   []string // configured inside
	keys    []packager.RootKey
	proofs  int // vendor verifications so far
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCrossing(t testing.TB, dir string) *crossing {
	t.Helper()
	x := &crossing{t: t, now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), feeds: []string{"alpha", "beta"},
		out: state.Dir(filepath.Join(dir, "outside")), in: state.Dir(filepath.Join(dir, "inside"))}
	x.outDB, x.inDB = state.At(x.out, "test"), state.At(x.in, "test")
	ok(t, x.outDB.Create("outside", 0))
	ok(t, packager.CreateKeys(x.out, []string{"課長", "会計管理者", "副市町村長"}, x.now, func(k []packager.RootKey) error { x.keys = k; return nil }))
	var err error
	x.outCAS, err = cas.Open(string(x.out), x.clock)
	ok(t, err)
	file := filepath.Join(dir, packager.SetupName)
	print, err := packager.WriteSetup(x.out, 1, file, x.now)
	ok(t, err)
	ok(t, packager.Pair(x.in, file, print))
	x.inCAS, err = cas.Open(string(x.in), x.clock)
	ok(t, err)
	t.Cleanup(func() { x.outCAS.Close(); x.inCAS.Close() })
	return x
}

func (x *crossing) clock() time.Time { return x.now }

func (x *crossing) snapshot(name string, files map[string][]byte) packager.Carry {
	x.t.Helper()
	b := x.outCAS.NewSnapshot()
	for p, c := range files {
		d, _, err := x.outCAS.Put(context.Background(), bytes.NewReader(c), "")
		ok(x.t, err)
		ok(x.t, b.Add(feed.Artifact{Path: p, Digest: d, Class: feed.Security}))
	}
	x.serial++
	s, err := b.Commit(feed.Header{Feed: name, Kind: "tiny", Serial: x.serial, Taken: x.now})
	ok(x.t, err)
	return packager.Carry{Snapshot: s}
}

func genuine(extra ...string) map[string][]byte {
	f := map[string][]byte{"signature": []byte("genuine"), "large": random(1<<20 + 3)}
	for _, e := range extra {
		f[e] = []byte("content of " + e)
	}
	return f
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (x *crossing) pack(dir string, base *packager.Packed, feeds ...packager.Carry) (string, packager.Report) {
	x.t.Helper()
	x.now = x.now.Add(time.Hour)
	r, err := packager.Pack(context.Background(), packager.PackOptions{Data: x.out, DB: x.outDB, Store: x.outCAS, Feeds: feeds,
		Sites: []int{1}, Base: base, To: dir, Now: x.now, Who: "tester"})
	ok(x.t, err)
	return dir, r
}

func (x *crossing) options() mirror.ImportOptions {
	set := map[string]feed.Setup{}
	for _, f := range x.feeds {
		set[f] = feed.Setup{Name: f, Kind: feed.Kind{Name: "tiny"}}
	}
	return mirror.ImportOptions{Data: x.in, DB: x.inDB, Store: x.inCAS, Feeds: set, Clock: x.clock, Who: "tester",
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Verify: x.verify}
}

func (x *crossing) verify(_ context.Context, _ feed.Setup, c feed.Content, _ state.FeedState) (mirror.Verdict, error) {
	x.proofs++
	b, err := fs.ReadFile(c, "signature")
	if err != nil {
		return mirror.Verdict{}, err
	}
	if !strings.HasPrefix(string(b), "genuine") {
		return mirror.Verdict{}, fmt.Errorf("signature says %q: %w", b, feed.ErrUntrusted)
	}
	return mirror.Verdict{Weakest: feed.Signed, Marks: map[string]int64{"m": int64(c.Header().Serial)}, Withheld: map[string]string{"x": "y"}}, nil
}

func (x *crossing) take(dirs ...string) (mirror.ImportReport, error) {
	return mirror.Import(context.Background(), x.options(), dirs)
}

func (x *crossing) state(name string) (f state.FeedState) {
	x.t.Helper()
	ok(x.t, x.inDB.View(func(tx state.Tx) (err error) { f, err = tx.Feed(name); return err }))
	return f
}

// whole fails unless the accepted state of a feed is there byte for byte.
func (x *crossing) whole(name string) {
	x.t.Helper()
	f := x.state(name)
	s, err := x.inCAS.Snapshot(name, f.Serial)
	ok(x.t, err)
	if s.ID() != f.ID {
		x.t.Errorf("%s: snapshot %s, accepted %s", name, s.ID(), f.ID)
	}
	for a, err := range s.Artifacts() {
		ok(x.t, err)
		if err := x.inCAS.Verify(context.Background(), a.Digest); err != nil {
			x.t.Errorf("%s %s: %v", name, a.Path, err)
		}
	}
}

func code(err error) string {
	var f *feed.Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

func outcomes(r mirror.ImportReport) string {
	var s []string
	for _, f := range r.Feeds {
		s = append(s, f.Feed+":"+string(f.Outcome))
	}
	return strings.Join(s, " ")
}

func TestImport(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	a, b, c := x.snapshot("alpha", genuine("1")), x.snapshot("beta", genuine("2")), x.snapshot("gamma", genuine("3"))
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, a, b, c)
	r, err := x.take(dir)
	ok(t, err)
	if outcomes(r) != "alpha:accepted beta:accepted gamma:unconfigured" || r.Blobs != 7 {
		t.Errorf("%s, %d blobs", outcomes(r), r.Blobs)
	}
	if got := r.Feeds[2].Config; !strings.Contains(got, "# [feed.gamma]\n# kind = \"tiny\"") {
		t.Errorf("block to copy: %q", got)
	}
	f := x.state("alpha")
	if f.Serial != 1 || f.ID != a.Snapshot.ID() || f.Bundle != 1 || f.Marks["m"] != 1 || f.Withheld["x"] != "y" || f.Weakest != feed.Signed {
		t.Errorf("state %+v", f)
	}
	if x.state("gamma").Serial != 0 {
		t.Error("an unconfigured feed was accepted")
	}
	x.whole("alpha")
	// Once more: a success without effect.
	n := x.proofs
	if r, err = x.take(dir); err != nil || r.Blobs != 0 || x.proofs != n || outcomes(r) != "alpha:unchanged beta:unchanged gamma:unconfigured" {
		t.Errorf("again: %s %v", outcomes(r), err)
	}
	// The block was pasted: the same medium is enough, even after its time.
	x.feeds = append(x.feeds, "gamma")
	x.now = x.now.Add(100 * 24 * time.Hour)
	if r, err = x.take(dir); err != nil || x.state("gamma").Serial != 3 {
		t.Errorf("after pasting: %s %v", outcomes(r), err)
	}
	if _, err = x.take(dir); code(err) != "H-504" {
		t.Errorf("the freeze: %v", err)
	}
	ok(t, x.inDB.View(func(tx state.Tx) error {
		records := 0
		for _, err := range tx.AuditLog(1) {
			ok(t, err)
			records++
		}
		if records < 8 {
			t.Errorf("%d audit records", records)
		}
		return nil
	}))
}

func TestRefusedFeedKeepsItsState(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	d1, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("1")), x.snapshot("beta", genuine("1")))
	_, err := x.take(d1)
	ok(t, err)
	was := x.state("alpha")
	bad := genuine("2")
	bad["signature"] = []byte("forged")
	d2, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", bad), x.snapshot("beta", genuine("2")))
	r, err := x.take(d2)
	if code(err) != "H-502" || !errors.Is(err, feed.ErrUntrusted) || outcomes(r) != "alpha:refused beta:accepted" {
		t.Fatalf("%s %v", outcomes(r), err)
	}
	f := x.state("alpha")
	if f.Serial != was.Serial || f.ID != was.ID || f.Code != "H-502" || f.Problem == "" || f.Since.IsZero() {
		t.Errorf("state %+v", f)
	}
	// The next good one clears the problem.
	d3, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("3")))
	_, err = x.take(d3)
	ok(t, err)
	if f := x.state("alpha"); f.Problem != "" || f.Serial != 5 {
		t.Errorf("state %+v", f)
	}
}

func TestSerialsNeverGoBackWithoutAnOrder(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	old, newer := x.snapshot("alpha", genuine("1")), x.snapshot("alpha", genuine("2"))
	d, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, newer)
	_, err := x.take(d)
	ok(t, err)
	d, _ = x.pack(filepath.Join(t.TempDir(), "m"), nil, old)
	if _, err = x.take(d); code(err) != "H-505" || !errors.Is(err, feed.ErrRollback) {
		t.Fatal(err)
	}
	ok(t, x.inDB.Update(func(tx state.Tx) error {
		return tx.PutOrder(feed.Order{Schema: 1, Number: 1, Kind: feed.OrderRollback, Feed: "alpha", Serial: 1, Reason: "r", Operator: "o", Issued: x.now})
	}))
	_, err = x.take(d)
	ok(t, err)
	if x.state("alpha").Serial != 1 {
		t.Error("the order had no effect")
	}
}

// A bundle whose base never arrived: the report names exactly what is missing,
// nothing is accepted, and the lost bundle completes it.
func TestIncompleteFeedNamesWhatIsMissing(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	first := genuine("1")
	d1, r1 := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", first))
	first["new"] = []byte("new")
	other := genuine("b")
	other["signature"] = []byte("genuine, and not in the base")
	d2, _ := x.pack(filepath.Join(t.TempDir(), "m"), &r1.Packed, x.snapshot("alpha", first), x.snapshot("beta", other))
	r, err := x.take(d2)
	if code(err) != "H-701" || outcomes(r) != "alpha:incomplete beta:accepted" {
		t.Fatalf("%s %v", outcomes(r), err)
	}
	if got := strings.Join(r.Feeds[0].Names, " "); got != "1 large signature" || r.Feeds[0].Missing != 3 {
		t.Errorf("missing %q", got)
	}
	if x.state("alpha").Serial != 0 {
		t.Error("an incomplete feed was accepted")
	}
	r, err = x.take(d1)
	ok(t, err)
	if x.state("alpha").Serial != 2 || r.Standing != packager.Older {
		t.Errorf("after the lost one: %s, %s", outcomes(r), r.Standing)
	}
	x.whole("alpha")
	if _, err = x.take(d1); code(err) != "H-503" {
		t.Errorf("an older bundle that brings nothing: %v", err)
	}
}

// Damage in one feed's payload costs that feed only, and is an error.
func TestDamagedMedium(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("1")), x.snapshot("beta", genuine("2")))
	ents, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	ok(t, err)
	for _, e := range ents {
		p := filepath.Join(dir, "blobs/sha256", e.Name())
		b, err := os.ReadFile(p)
		ok(t, err)
		if bytes.Contains(b, []byte("content of 1")) {
			i := bytes.Index(b, []byte("content of 1"))
			b[i] ^= 1
			ok(t, os.WriteFile(p, b, 0o644))
		}
	}
	r, err := x.take(dir)
	if code(err) != "H-701" || len(r.Damaged) != 1 || outcomes(r) != "alpha:incomplete beta:accepted" {
		t.Fatalf("%s %v %v", outcomes(r), r.Damaged, err)
	}
	if strings.Join(r.Feeds[0].Names, " ") != "1" {
		t.Errorf("missing %v", r.Feeds[0].Names)
	}
}

func TestTwoImportsAtOnce(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("1")))
	ok(t, x.inDB.Lock(context.Background(), "import", func(context.Context) error {
		if _, err := x.take(dir); code(err) != "H-804" {
			t.Errorf("a second import: %v", err)
		}
		return nil
	}))
}

// cannot skips what this machine does not let a test do; CI must let it.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// tmpfs mounts a small file system, or skips.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		cannot(t, "needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		cannot(t, "cannot mount a tmpfs: "+string(out))
	}
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

func TestDiskFull(t *testing.T) {
	small := tmpfs(t, "80m")
	x := newCrossing(t, t.TempDir())
	x.inCAS.Close()
	in := filepath.Join(small, "inside")
	ok(t, os.CopyFS(in, os.DirFS(string(x.in))))
	x.in, x.inDB = state.Dir(in), state.At(state.Dir(in), "test")
	var err error
	x.inCAS, err = cas.Open(in, x.clock)
	ok(t, err)
	d1, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("1")))
	_, err = x.take(d1)
	ok(t, err)
	big := genuine("2")
	big["big"] = random(30 << 20)
	d2, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", big))
	_, err = x.take(d2)
	if code(err) != "H-801" {
		t.Fatalf("it cannot fit, but: %v", err)
	}
	var f *feed.Fault
	errors.As(err, &f)
	if f.Args["need"] == "" || f.Args["free"] == "" {
		t.Errorf("the message lacks numbers: %v", f.Args)
	}
	x.whole("alpha")
	if x.state("alpha").Serial != 1 {
		t.Error("state moved")
	}
	// Space is freed (the file system grows): it goes on.
	if out, err := exec.Command("mount", "-o", "remount,size=300m", small).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	_, err = x.take(d2)
	ok(t, err)
	x.whole("alpha")
}

// The file system fills up in mid-import, after the plan.
func TestDiskFullInMidImport(t *testing.T) {
	small := tmpfs(t, "150m")
	x := newCrossing(t, t.TempDir())
	x.inCAS.Close()
	in := filepath.Join(small, "inside")
	ok(t, os.CopyFS(in, os.DirFS(string(x.in))))
	x.in, x.inDB = state.Dir(in), state.At(state.Dir(in), "test")
	var err error
	x.inCAS, err = cas.Open(in, x.clock)
	ok(t, err)
	big := genuine("2")
	for i := range 6 {
		big[fmt.Sprint("big", i)] = random(8 << 20)
	}
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", big))
	o := x.options()
	ballast := filepath.Join(small, "ballast")
	o.Progress = func(p packager.Progress) {
		if p.Stage == "absorb" && p.Done > 20<<20 {
			if _, err := os.Stat(ballast); err != nil {
				f, err := os.Create(ballast)
				for err == nil {
					_, err = f.Write(make([]byte, 1<<20))
				}
				f.Close()
			}
		}
	}
	if _, err := mirror.Import(context.Background(), o, []string{dir}); code(err) != "H-801" {
		t.Fatalf("the disk filled up, but: %v", err)
	}
	if x.state("alpha").Serial != 0 {
		t.Error("accepted")
	}
	ok(t, os.Remove(ballast))
	_, err = x.take(dir)
	ok(t, err)
	x.whole("alpha")
}

// The medium is the same bit for bit afterwards, on a bind mount that cannot
// be written.
func TestReadOnlyMount(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		cannot(t, "needs root to mount read-only")
	}
	x := newCrossing(t, t.TempDir())
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("1")))
	ro := t.TempDir()
	if out, err := exec.Command("mount", "--bind", dir, ro).CombinedOutput(); err != nil {
		cannot(t, "cannot bind-mount: "+string(out))
	}
	t.Cleanup(func() { exec.Command("umount", "-l", ro).Run() })
	if out, err := exec.Command("mount", "-o", "remount,bind,ro", ro).CombinedOutput(); err != nil {
		cannot(t, "cannot remount read-only: "+string(out))
	}
	if err := os.WriteFile(filepath.Join(ro, "x"), nil, 0o644); err == nil {
		t.Fatal("the mount can be written")
	}
	_, err := x.take(ro)
	ok(t, err)
	x.whole("alpha")
}

// A blob that another program takes as soon as it is stored is reported as
// that, not as damage of the medium; the same medium brings it again.
func TestImportLosesABlobToAnotherProgram(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	beta := genuine("wanted")
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("a")), x.snapshot("beta", beta))
	o := x.options()
	o.Verify = func(ctx context.Context, s feed.Setup, c feed.Content, prev state.FeedState) (mirror.Verdict, error) {
		if s.Name == "alpha" {
			ok(t, x.inCAS.Delete(feed.DigestOf(beta["wanted"])))
		}
		return x.verify(ctx, s, c, prev)
	}
	r, err := mirror.Import(context.Background(), o, []string{dir})
	var f *feed.Fault
	if !errors.As(err, &f) || f.Code != "H-820" || errors.Is(err, feed.ErrDamaged) || f.Args["file"] != "wanted" {
		t.Errorf("%v", err)
	}
	if len(r.Damaged) != 0 || r.Feeds[1].Outcome != mirror.FeedIncomplete || x.state("alpha").Serial == 0 {
		t.Errorf("%+v", r.Feeds)
	}
	_, err = x.take(dir)
	ok(t, err)
	x.whole("beta")
}
