package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// Sampled byte flips over a bundle and over what an inside serves from. Each is
// detected before a byte is served, or lies where it provably does not matter:
//
//   - in a snapshot document (snapshots/*.jsonl.zst) while the index beside it
//     is good: serving reads the index, which has a checksum of its own;
//   - in an index: it is derived, and made again from the document;
//   - in published/status.json: what pages and the status command show.
//
// Of these the test shows that what is served is still right. A blob over
// 512 MiB is not hashed before it is served (internal/cas/prove.go).
//
//	HASHIKE_FLIPS=1000000 HASHIKE_SEED=1 go test ./mirror -run TestFlips
//
// makes a million (bench/run flips); half of them over the bundle, half over
// the store. Files with many bytes get one flip each at a time, all at once.
func flips() (n int, rnd *rand.Rand) {
	n = setting("HASHIKE_FLIPS", 4000)
	if os.Getenv("HASHIKE_CI") == "1" && !testing.Short() {
		n = setting("HASHIKE_FLIPS", 20_000)
	}
	return n / 2, rand.New(rand.NewPCG(uint64(setting("HASHIKE_SEED", 1)), 7))
}

// flipped changes one byte of the file between from and to and returns how to
// put it back.
func flipped(t testing.TB, rnd *rand.Rand, name string, from, to int64) (at int64, undo func()) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	ok(t, err)
	at = from + rnd.Int64N(to-from)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	ok(t, err)
	was := bytes.Clone(b)
	b[0] ^= byte(1 + rnd.IntN(255))
	_, err = f.WriteAt(b, at)
	ok(t, err)
	return at, func() {
		_, err := f.WriteAt(was, at)
		ok(t, errors.Join(err, f.Close()))
	}
}

func sizeOf(t testing.TB, name string) int64 {
	t.Helper()
	st, err := os.Stat(name)
	ok(t, err)
	return st.Size()
}

// filesOf lists the files below dir that hold anything.
func filesOf(t testing.TB, dir string) (names []string) {
	t.Helper()
	ok(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && sizeOf(t, p) > 0 {
			names = append(names, p)
		}
		return err
	}))
	return names
}

func TestFlipsOverABundle(t *testing.T) {
	n, rnd := flips()
	x := newCrossing(t, memory(t))
	files := map[string][]byte{"signature": []byte("genuine")}
	for i := range 5 {
		files[fmt.Sprint("large", i)] = random(1<<20 + i)
	}
	small := map[feed.Digest][]byte{feed.DigestOf(files["signature"]): files["signature"]}
	for i := range 500 {
		c := append([]byte(fmt.Sprintf("%06d", i)), random(100+i)...)
		files[fmt.Sprint("small", i)], small[feed.DigestOf(c)] = c, c
	}
	dir, _ := x.pack(filepath.Join(memory(t), "m"), nil, x.snapshot("alpha", files))
	all := filesOf(t, dir)
	var large []string
	var pack string
	members := map[feed.Digest]int64{} // where each lies in the pack
	for _, name := range all {
		if b, err := os.ReadFile(name); err == nil && bytes.HasPrefix(b[min(len(b), 257):], []byte("ustar")) {
			pack = name
			for d, c := range small {
				members[d] = int64(bytes.Index(b, c))
			}
		} else if len(b) >= 1<<20 {
			large = append(large, name)
		}
	}
	if pack == "" || len(large) != 5 {
		t.Fatalf("pack %q, %d large containers of %d files", pack, len(large), len(all))
	}
	done, refused, named := 0, 0, 0
	absorb := func() ([]packager.Damage, error) {
		b, err := packager.Open(context.Background(), []string{dir}, packager.OpenOptions{Data: x.in, DB: x.inDB, Clock: x.clock})
		if err != nil {
			return nil, err
		}
		defer b.Close()
		_, err = b.Absorb(context.Background(), x.inCAS)
		return b.Damaged(), err
	}
	isNamed := func(damaged []packager.Damage, name string) bool {
		return slices.ContainsFunc(damaged, func(d packager.Damage) bool { return strings.HasSuffix(filepath.ToSlash(name), d.File) })
	}
	// One in every large container and in every member of the pack, at once.
	for done < n*19/20 {
		var undo []func()
		for _, name := range large {
			_, u := flipped(t, rnd, name, 0, sizeOf(t, name))
			undo = append(undo, u)
		}
		for d, at := range members {
			_, u := flipped(t, rnd, pack, at, at+int64(len(small[d])))
			undo = append(undo, u)
		}
		damaged, err := absorb()
		ok(t, err)
		for _, name := range append(large, pack) {
			if !isNamed(damaged, name) {
				t.Fatalf("%s: damage was not named", name)
			}
		}
		ok(t, x.inCAS.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
			return fmt.Errorf("%s came from a medium on which every blob is damaged", d)
		}))
		for _, u := range undo {
			u()
		}
		done += len(large) + len(members)
		named += len(large) + len(members)
	}
	// One alone, anywhere: in any file of the medium with the same probability.
	for ; done < n; done++ {
		name := all[rnd.IntN(len(all))]
		at, undo := flipped(t, rnd, name, 0, sizeOf(t, name))
		damaged, err := absorb()
		undo()
		switch {
		case errors.Is(err, feed.ErrUntrusted), errors.Is(err, feed.ErrDamaged):
			refused++
		case err == nil && isNamed(damaged, name):
			named++
		default:
			t.Fatalf("byte %d of %s: %v, damaged %v", at, name, err, damaged)
		}
	}
	for _, c := range files {
		if _, have := x.inCAS.Stat(feed.DigestOf(c)); have {
			ok(t, x.inCAS.Verify(context.Background(), feed.DigestOf(c)))
		}
	}
	t.Logf("%d flips over the bundle: %d refused the bundle, %d named, 0 unnoticed", done, refused, named)
	_, err := x.take(dir) // it is still good
	ok(t, err)
}

func TestFlipsOverAStore(t *testing.T) {
	n, rnd := flips()
	x := newCrossing(t, memory(t))
	files := map[string][]byte{"signature": []byte("genuine")}
	for i := range 300 {
		files[fmt.Sprint("f", i)] = random(50 + 40*i) // to 12 kB: from memory and from files
	}
	x.feeds = []string{"alpha"}
	dir, _ := x.pack(filepath.Join(memory(t), "m"), nil, x.snapshot("alpha", files))
	_, err := x.take(dir)
	ok(t, err)
	setups := []feed.Setup{{Name: "alpha", Kind: feed.Kind{Name: "tiny"}, Feed: plain{}, Mount: "/alpha/"}}
	pub := mirror.NewPublisher(mirror.Options{Data: x.in, DB: x.inDB, Store: x.inCAS, Feeds: setups, Clock: x.clock, Who: "tester"})
	_, err = pub.Publish(context.Background(), "alpha", "", mirror.PublishOptions{Now: true, By: "tester"})
	ok(t, err)
	// ask starts a server and asks for everything: 200 means the right bytes.
	ask := func() (right, refused int) {
		t.Helper()
		store, err := cas.Open(string(x.in), x.clock)
		ok(t, err)
		defer store.Close()
		s, err := mirror.NewServer(mirror.ServerOptions{Data: x.in, Store: store, Feeds: setups, Listen: []mirror.Listen{{Addr: "127.0.0.1:0"}}, Clock: x.clock})
		if err != nil {
			return 0, len(files)
		}
		defer s.Close()
		for name, c := range files {
			w := httptest.NewRecorder()
			s.Handler(0).ServeHTTP(w, httptest.NewRequest("GET", "/alpha/"+name, nil))
			switch {
			case w.Code != 200:
				refused++
			case bytes.Equal(w.Body.Bytes(), c):
				right++
			default:
				t.Fatalf("%s was served with other bytes", name)
			}
		}
		return right, refused
	}
	if right, _ := ask(); right != len(files) {
		t.Fatalf("%d of %d are served", right, len(files))
	}
	blob := func(c []byte) string {
		h := feed.DigestOf(c).Hex()
		return filepath.Join(string(x.in), "store", "sha256", h[:2], h)
	}
	done := 0
	for done < n*49/50 { // one in every blob, at once
		var undo []func()
		for _, c := range files {
			_, u := flipped(t, rnd, blob(c), 0, int64(len(c)))
			undo = append(undo, u)
		}
		if right, refused := ask(); right != 0 || refused != len(files) {
			t.Fatalf("all are damaged, %d were served", right)
		}
		for _, u := range undo {
			u()
		}
		done += len(files)
	}
	var documents []string
	for _, sub := range []string{"snapshots", "published"} {
		documents = append(documents, filesOf(t, filepath.Join(string(x.in), sub))...)
	}
	index := slices.IndexFunc(documents, func(d string) bool { return strings.HasSuffix(d, ".idx") })
	if index < 0 || len(documents) < 3 {
		t.Fatalf("documents %v", documents)
	}
	harmless, refused := map[string]int{}, 0
	for ; done < n; done++ { // one alone, in what says which blob is which
		name := documents[rnd.IntN(len(documents))]
		b, err := os.ReadFile(documents[index])
		ok(t, err)
		_, undo := flipped(t, rnd, name, 0, sizeOf(t, name))
		if strings.HasSuffix(name, ".zst") && rnd.IntN(2) == 0 {
			ok(t, os.Remove(documents[index])) // so that the document itself is read
		}
		if _, no := ask(); no == 0 {
			harmless[filepath.Base(name)]++
		} else {
			refused++
		}
		undo()
		ok(t, os.WriteFile(documents[index], b, 0o600)) // an index is made again; put the first one back
	}
	t.Logf("%d flips over the store: blobs never served; documents: %d refused, %v served right all the same", done, refused, harmless)
	if right, _ := ask(); right != len(files) {
		t.Errorf("afterwards %d of %d are served", right, len(files))
	}
	for _, c := range files { // what nobody asks for, the scrubber finds
		_, undo := flipped(t, rnd, blob(c), 0, int64(len(c)))
		defer undo()
	}
	r, err := pub.Scrub(context.Background(), 1)
	if len(r.Damaged) != len(files) {
		t.Errorf("the scrubber found %d of %d: %v", len(r.Damaged), len(files), err)
	}
}
