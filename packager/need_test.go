package packager_test

import (
	"context"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/packager"
)

// Beyond the guarantee the need list names exactly what lacks, and the repair
// bundle carries exactly that and completes the inside.
func TestNeedListIsExactAndRepairs(t *testing.T) {
	rnd := mrand.New(mrand.NewPCG(3, 4))
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("HASHIKE_PATTERNS")); err == nil { // bench/run damage
		rounds = n
	}
	for i := range rounds {
		t.Run(strconv.Itoa(i), func(t *testing.T) { needRound(t, rnd, i) }) // each gives back what it took
	}
}

func needRound(t *testing.T, rnd *mrand.Rand, i int) {
	w := newWorldIn(t, memory(t))
	a, b := w.snapshot("alpha", large("a", 4, 5<<18)), w.snapshot("beta", large("b", 3, 3<<19))
	r := w.volumes(filepath.Join(memory(t), "m"), 6<<20, 10, a, b)
	data, parity := streams(t, r.Dirs)
	for range 3 + rnd.IntN(4) {
		data.damage(rnd.Int64N(data.size), 1+rnd.Int64N(2<<20))
		parity.damage(rnd.Int64N(parity.size), 1)
	}
	if i == 0 { // documents too: nothing says any more what is in it
		data.damage(0, data.size)
		parity.damage(0, parity.size)
	}
	got, _, err := w.take(r.Dirs...)
	ok(t, err)
	lacking := map[string]bool{}
	for _, c := range []packager.Carry{a, b} {
		h := c.Snapshot.Header()
		_, serr := w.inCAS.Snapshot(h.Feed, h.Serial) // without it nobody inside knows what belongs to the feed
		for art, err := range c.Snapshot.Artifacts() {
			ok(t, err)
			if _, have := w.inCAS.Stat(art.Digest); !have || serr != nil {
				lacking[string(art.Digest)] = true
			}
		}
	}
	n := must(packager.Lacking(w.inDB, w.inCAS))(t)
	if n.Empty() != (len(lacking) == 0 && got.Left == 0) {
		t.Fatalf("round %d: empty %v, %d lack", i, n.Empty(), len(lacking))
	}
	if n.Empty() {
		return
	}
	text := n.String()
	if i > 0 && len(text) > 200 {
		t.Errorf("a list of %d characters: %s", len(text), text)
	}
	back, err := packager.ParseNeed("　" + strings.ToLower(strings.ReplaceAll(text, " ", "－")) + "\r\n")
	if err != nil || back.String() != text {
		t.Fatalf("%s is read as %v, %v", text, back, err)
	}
	w.now = w.now.Add(time.Hour)
	o := w.options(filepath.Join(memory(t), "repair"))
	o.Need, o.Sites = &back, nil
	rr := must(packager.Pack(context.Background(), o))(t)
	if rr.Blobs != int64(len(lacking)) {
		t.Errorf("round %d: %d blobs lack, the repair bundle carries %d", i, len(lacking), rr.Blobs)
	}
	got, damaged, err := w.take(o.To)
	if err != nil || got.Left != 0 || len(damaged) != 0 {
		t.Fatalf("round %d: %+v %v %v", i, got, damaged, err)
	}
	w.holds(a)
	w.holds(b)
	if n = must(packager.Lacking(w.inDB, w.inCAS))(t); !n.Empty() {
		t.Errorf("round %d: still lacking %s", i, n)
	}
}

// A list mistyped by one character is noticed, one of another outside refused.
func TestNeedListMistyped(t *testing.T) {
	w := newWorldIn(t, memory(t))
	r := w.volumes(filepath.Join(memory(t), "m"), 6<<20, 0, w.snapshot("alpha", large("a", 5, 3<<19)))
	if _, _, err := w.take(r.Dirs[0]); err != nil {
		t.Fatal(err)
	}
	text := must(packager.Lacking(w.inDB, w.inCAS))(t).String()
	for i := range text {
		for _, c := range "0Z7" {
			typed := text[:i] + string(c) + text[i+1:]
			if typed == text || text[i] == ' ' {
				continue
			}
			if _, err := packager.ParseNeed(typed); code(err) != "H-222" {
				t.Fatalf("%s for %s: %v", typed, text, err)
			}
		}
	}
	other := newWorldIn(t, memory(t))
	n := must(packager.ParseNeed(text))(t)
	o := other.options(filepath.Join(memory(t), "m"))
	o.Need = &n
	if _, err := packager.Pack(context.Background(), o); code(err) != "H-205" {
		t.Errorf("another outside: %v", err)
	}
}

func FuzzParseNeed(f *testing.F) {
	f.Add("")
	f.Add("040G-0000")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := packager.ParseNeed(text)
		if err != nil {
			return
		}
		if again, err := packager.ParseNeed(n.String()); err != nil || again.String() != n.String() {
			t.Errorf("%q: %v", text, err)
		}
	})
}
