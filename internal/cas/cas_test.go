package cas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), func() time.Time { return time.Unix(1_800_000_000, 0) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestPutReadVerify(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	rnd := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 5*chunk + 17} {
		b := make([]byte, n)
		rnd.Read(b)
		d, got, err := s.Put(ctx, iotest.OneByteReader(bytes.NewReader(b[:min(n, 100)])), "")
		if err != nil || got != int64(min(n, 100)) {
			t.Fatal(err)
		}
		d, got, err = s.Put(ctx, bytes.NewReader(b), feed.DigestOf(b))
		if err != nil || got != int64(n) || d != feed.DigestOf(b) {
			t.Fatalf("%d: %s %d %v", n, d, got, err)
		}
		if err := s.Verify(ctx, d); err != nil {
			t.Fatal(err)
		}
		f, err := s.File(d)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := f.Stat()
		back, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(back, b) || st.ModTime().Unix() != 1_800_000_000 {
			t.Fatalf("%d bytes read, time %s, %v", len(back), st.ModTime(), err)
		}
	}
}

func TestWrongBytesLeaveNothing(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	want := feed.DigestOf([]byte("right"))
	if _, _, err := s.Put(ctx, bytes.NewReader([]byte("wrong")), want); !errors.Is(err, feed.ErrUntrusted) {
		t.Error(err)
	}
	g := s.Group()
	if _, _, err := g.Put(ctx, bytes.NewReader([]byte("wrong")), want); !errors.Is(err, feed.ErrUntrusted) {
		t.Error(err)
	}
	if _, _, err := s.Put(ctx, iotest.ErrReader(io.ErrClosedPipe), ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	big := io.MultiReader(bytes.NewReader(make([]byte, 3*chunk)), iotest.ErrReader(io.ErrClosedPipe))
	if _, _, err := s.Put(ctx, big, ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	g.Close()
	if n := files(t, s); n != 0 {
		t.Errorf("%d files left", n)
	}
}

func files(t *testing.T, s *Store) int {
	t.Helper()
	n := 0
	filepath.WalkDir(s.blobs, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

func TestGroupIsInvisibleUntilFlushed(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	g := s.Group()
	var all []feed.Digest
	for i := range groupFiles + 5 {
		d, _, err := g.Put(ctx, bytes.NewReader(fmt.Append(nil, i)), "")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
		g.Put(ctx, bytes.NewReader(fmt.Append(nil, i)), d) // twice is once
	}
	if _, ok := s.Stat(all[0]); !ok {
		t.Error("a full group must flush itself")
	}
	if _, ok := s.Stat(all[len(all)-1]); ok {
		t.Error("visible before the flush")
	}
	if err := g.Flush(); err != nil {
		t.Fatal(err)
	}
	g.Close()
	for _, d := range all {
		if err := s.Verify(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(t, s); n != len(all) {
		t.Errorf("%d files, want %d", n, len(all))
	}
}

func TestDamageIsSeen(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	d, _, _ := s.Put(ctx, bytes.NewReader([]byte("content")), "")
	if err := os.WriteFile(s.path(d), []byte("Content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, d); !errors.Is(err, feed.ErrDamaged) {
		t.Error(err)
	}
}

func TestSnapshotsInAnyOrderSpillAndComeBack(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	d, n, err := s.Put(ctx, bytes.NewReader([]byte("x")), "")
	if err != nil {
		t.Fatal(err)
	}
	b := s.NewSnapshot()
	total := 2*runLength + 10
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(total) {
		if err := b.Add(feed.Artifact{Path: fmt.Sprintf("p/%07d", i), Digest: d, Class: feed.Feature}); err != nil {
			t.Fatal(err)
		}
	}
	h := feed.Header{Feed: "toy-1", Kind: "toy", Serial: 5, Taken: time.Unix(1e9, 0)}
	snap, err := b.Commit(h)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Len() != total {
		t.Fatalf("%d artifacts", snap.Len())
	}
	i := 0
	for a := range snap.Artifacts() {
		if want := fmt.Sprintf("p/%07d", i); a.Path != want || a.Size != n {
			t.Fatalf("%d: %+v", i, a)
		}
		i++
	}
	// A lost or damaged index is built again and says the same.
	if err := os.WriteFile(s.indexPath("toy-1", 5), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := s.Snapshot("toy-1", 5)
	if err != nil || again.ID() != snap.ID() || again.Len() != total {
		t.Fatal(err)
	}
	// Across the gap: the same document, stored by its identity.
	doc, err := os.ReadFile(s.SnapshotPath("toy-1", 5))
	if err != nil {
		t.Fatal(err)
	}
	in := newStore(t)
	if _, err := in.PutSnapshot(ctx, bytes.NewReader(doc), feed.DigestOf(nil)); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("other identity: %v", err)
	}
	got, err := in.PutSnapshot(ctx, bytes.NewReader(doc), snap.ID())
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for range got.Missing() {
		missing++
	}
	if missing != total {
		t.Errorf("%d missing", missing)
	}
	in.Put(ctx, bytes.NewReader([]byte("x")), d)
	for a := range got.Missing() {
		t.Fatalf("%s is still missing", a.Path)
	}
	if ents, _ := filepath.Glob(filepath.Join(s.snapshotDir(""), ".tmp-*")); len(ents) > 0 {
		t.Errorf("temporary files left: %v", ents)
	}
}

func TestBuilderRefuses(t *testing.T) {
	s := newStore(t)
	d, _, _ := s.Put(context.Background(), bytes.NewReader([]byte("x")), "")
	b := s.NewSnapshot()
	defer b.Discard()
	for name, a := range map[string]feed.Artifact{
		"unknown blob": {Path: "a", Digest: feed.DigestOf([]byte("y")), Class: feed.Feature},
		"wrong size":   {Path: "a", Digest: d, Size: 2, Class: feed.Feature},
		"path":         {Path: "../a", Digest: d, Class: feed.Feature},
	} {
		if err := b.Add(a); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for range 2 {
		if err := b.Add(feed.Artifact{Path: "a", Digest: d, Class: feed.Feature}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Commit(feed.Header{Feed: "toy-1", Kind: "toy", Serial: 1}); !errors.Is(err, feed.ErrUpstream) {
		t.Errorf("one path twice: %v", err)
	}
}
