package cas

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// serving stores one blob and returns the snapshot that names it.
func serving(t *testing.T, s *Store, body []byte) (*Snapshot, feed.Artifact) {
	t.Helper()
	d, _, err := s.Put(context.Background(), bytes.NewReader(body), "")
	if err != nil {
		t.Fatal(err)
	}
	b := s.NewSnapshot()
	if err := b.Add(feed.Artifact{Path: "a", Digest: d, Class: feed.Feature}); err != nil {
		t.Fatal(err)
	}
	snap, err := b.Commit(feed.Header{Feed: "toy-1", Kind: "toy", Serial: 1, Taken: s.clock()})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := snap.Lookup("a")
	return snap, a
}

func readAll(t *testing.T, snap *Snapshot, a feed.Artifact) string {
	t.Helper()
	f, err := snap.OpenArtifact(a)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != a.Size || !st.ModTime().Equal(snap.s.clock()) {
		t.Fatal(st, err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Small blobs from memory and large ones from files that rest read the same,
// however often, also by many at a time and after one stopped half way.
func TestServingReadsTheSameAgain(t *testing.T) {
	for _, n := range []int{0, 100, maxSmall, maxSmall + 1, 100_000} {
		s := newStore(t)
		body := strings.Repeat("0123456789", n/10+1)[:n]
		snap, a := serving(t, s, []byte(body))
		for range 3 {
			if got := readAll(t, snap, a); got != body {
				t.Fatalf("%d bytes: read %d others", n, len(got))
			}
			f, err := snap.OpenArtifact(a)
			if err != nil {
				t.Fatal(err)
			}
			f.Read(make([]byte, n/2))
			f.Close()
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					if readAll(t, snap, a) != body {
						t.Error("other bytes")
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// What is deleted is not kept alive, and files that nobody asks for are closed.
func TestServingLetsGo(t *testing.T) {
	s := newStore(t)
	snap, a := serving(t, s, []byte("small"))
	readAll(t, snap, a)
	if err := s.Delete(a.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := snap.OpenArtifact(a); err == nil {
		t.Error("deleted, but still served from memory")
	}
	s = newStore(t)
	snap, a = serving(t, s, make([]byte, maxSmall*2))
	readAll(t, snap, a)
	if keepsIdle && s.idle.n != 1 {
		t.Errorf("%d files rest, want 1", s.idle.n)
	}
	s.CloseIdle()
	s.CloseIdle()
	if s.idle.n != 0 || len(s.idle.files) != 0 {
		t.Errorf("%d files still open", s.idle.n)
	}
}

// A blob that is not what its digest says is not served, small or large, also
// if it was served before and was changed since.
func TestServingRefusesDamage(t *testing.T) {
	for _, n := range []int{10, maxSmall + 1, 1 << 20} {
		s := newStore(t)
		snap, a := serving(t, s, make([]byte, n))
		if n > maxSmall {
			readAll(t, snap, a)
			s.CloseIdle()
			s.CloseIdle()
		}
		for _, bad := range [][]byte{make([]byte, n-1), append(make([]byte, n-1), 1)} {
			if err := os.WriteFile(s.path(a.Digest), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if f, err := snap.OpenArtifact(a); !errors.Is(err, feed.ErrDamaged) {
				f.Close()
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if err := os.WriteFile(s.path(a.Digest), make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := snap.OpenArtifact(a)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}
