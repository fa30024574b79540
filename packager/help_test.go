package packager_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// day0 is when every test's outside is set up.
var day0 = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// world is an outside, an inside and a medium between them.
type world struct {
	t       *testing.T
	now     time.Time
	out, in state.Dir
	outDB   *state.DB
	inDB    *state.DB
	outCAS  *cas.Store
	inCAS   *cas.Store
	serial  uint64
	keys    []packager.RootKey // the root keys, as in their envelopes
}

// holders of the root keys.
func holders() []string { return []string{"課長", "会計管理者", "副市町村長"} }

// keep is the envelope that root keys are put into.
func keep(into *[]packager.RootKey) func([]packager.RootKey) error {
	return func(k []packager.RootKey) error { *into = append(*into, k...); return nil }
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir())
}

// memory is a directory in which flushing costs nothing, where there is one:
// for tests that make hundreds of imports.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "hashike-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newWorldIn(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{t: t, now: day0, out: state.Dir(filepath.Join(dir, "outside")), in: state.Dir(filepath.Join(dir, "inside"))}
	w.outDB, w.inDB = state.At(w.out, "test"), state.At(w.in, "test")
	ok(t, w.outDB.Create("outside", 0))
	ok(t, packager.CreateKeys(w.out, holders(), w.now, keep(&w.keys)))
	w.outCAS = must(cas.Open(string(w.out), w.clock))(t)
	w.pair(1)
	t.Cleanup(func() { w.outCAS.Close(); w.inCAS.Close() })
	return w
}

func (w *world) clock() time.Time { return w.now }

func (w *world) pair(site int) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), packager.SetupName)
	print := must(packager.WriteSetup(w.out, site, file, w.now))(w.t)
	ok(w.t, packager.Pair(w.in, file, print))
	w.inCAS = must(cas.Open(string(w.in), w.clock))(w.t)
}

// files are artifacts by path.
type files map[string][]byte

// snapshot stores one state of a feed outside.
func (w *world) snapshot(name string, f files) packager.Carry {
	w.t.Helper()
	b := w.outCAS.NewSnapshot()
	for p, c := range f {
		d, _, err := w.outCAS.Put(context.Background(), bytes.NewReader(c), "")
		ok(w.t, err)
		ok(w.t, b.Add(feed.Artifact{Path: p, Digest: d, Class: feed.Security}))
	}
	w.serial++
	s := must(b.Commit(feed.Header{Feed: name, Kind: "tiny", Serial: w.serial, Taken: w.now}))(w.t)
	ev := w.out.Evidence(name, w.serial, "outside")
	ok(w.t, durable.Mkdir(filepath.Dir(ev)))
	ok(w.t, durable.WriteFile(ev, []byte("evidence of "+name+fmt.Sprint(w.serial))))
	return packager.Carry{Snapshot: s, Evidence: ev}
}

func (w *world) options(to string, feeds ...packager.Carry) packager.PackOptions {
	return packager.PackOptions{Data: w.out, DB: w.outDB, Store: w.outCAS, Feeds: feeds, Sites: []int{1}, To: to, Now: w.now, Who: "tester"}
}

// pack makes a complete bundle on a new medium.
func (w *world) pack(feeds ...packager.Carry) (string, packager.Report) {
	w.t.Helper()
	to := filepath.Join(w.t.TempDir(), "medium")
	w.now = w.now.Add(time.Hour)
	return to, must(packager.Pack(context.Background(), w.options(to, feeds...)))(w.t)
}

func (w *world) open(dirs ...string) (*packager.Bundle, error) {
	return packager.Open(context.Background(), dirs, packager.OpenOptions{Data: w.in, DB: w.inDB, Clock: w.clock})
}

// take opens, absorbs and accepts.
func (w *world) take(dirs ...string) (packager.Absorbed, []packager.Damage, error) {
	b, err := w.open(dirs...)
	if err != nil {
		return packager.Absorbed{}, nil, err
	}
	defer b.Close()
	a, err := b.Absorb(context.Background(), w.inCAS)
	if err == nil {
		err = b.Accept(w.inDB, "tester")
	}
	return a, b.Damaged(), err
}

// holds fails unless the inside has the snapshot with every byte right.
func (w *world) holds(c packager.Carry) {
	w.t.Helper()
	h := c.Snapshot.Header()
	s := must(w.inCAS.Snapshot(h.Feed, h.Serial))(w.t)
	if s.ID() != c.Snapshot.ID() {
		w.t.Fatalf("snapshot %s is %s, want %s", h.Feed, s.ID(), c.Snapshot.ID())
	}
	for a, err := range s.Artifacts() {
		ok(w.t, err)
		if err := w.inCAS.Verify(context.Background(), a.Digest); err != nil {
			w.t.Errorf("%s: %v", a.Path, err)
		}
	}
	got, want := must(os.ReadFile(w.in.Evidence(h.Feed, h.Serial, "outside")))(w.t), must(os.ReadFile(c.Evidence))(w.t)
	if !bytes.Equal(got, want) {
		w.t.Errorf("evidence of %s differs", h.Feed)
	}
}

// sound fails if the store holds a blob under a name that is not its digest.
func (w *world) sound() {
	w.t.Helper()
	err := w.inCAS.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
		return w.inCAS.Verify(context.Background(), d)
	})
	ok(w.t, err)
}

func code(err error) string {
	var f *feed.Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

func wantCode(t testing.TB, err error, want string) {
	t.Helper()
	if code(err) != want {
		t.Fatalf("error %v, want code %s", err, want)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// sample is one small, one empty, one large file and a shared one.
func sample(tag string) files {
	return files{
		"a/small.txt": []byte("small " + tag), "a/empty": nil, "b/large.bin": random(3<<20 + 17),
		"b/edge.bin": random(1 << 20), "b/below.bin": random(1<<20 - 1), "shared": []byte("the same everywhere"),
	}
}

// copyTree copies a medium, so that it can be damaged.
func copyTree(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	ok(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// mediumFiles lists every file of a medium.
func mediumFiles(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	ok(t, fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, p)
		}
		return err
	}))
	return out
}

func copyFile(to, from string) error {
	s, err := os.Open(from)
	if err != nil {
		return err
	}
	defer s.Close()
	d, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(d, s)
	return errors.Join(err, d.Close())
}

func short(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 && len(name)-i > 20 {
		return name[:i+9]
	}
	return name
}

// sessions takes one directory after the other, each in a session of its own.
func (w *world) sessions(dirs ...string) (last packager.Absorbed) {
	w.t.Helper()
	for _, d := range dirs {
		got, damaged, err := w.take(d)
		ok(w.t, err)
		if len(damaged) != 0 {
			w.t.Fatalf("%s: damaged %v", d, damaged)
		}
		last = got
	}
	return last
}
