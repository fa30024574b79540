package packager_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// accepted is the number of the set the inside has accepted.
func (w *world) accepted() uint64 {
	w.t.Helper()
	var a packager.Accepted
	ok(w.t, w.inDB.View(func(tx state.Tx) (err error) { a, _, err = packager.Current(tx); return err }))
	return a.Number
}

// reset gives the world a new, freshly paired inside.
func (w *world) reset() {
	w.t.Helper()
	w.inCAS.Close()
	ok(w.t, os.RemoveAll(string(w.in)))
	w.inDB = state.At(w.in, "test")
	w.pair(1)
}

// Every file of the medium, damaged in every way: refused or named, and no
// wrong byte in the store.
func TestDamageMatrix(t *testing.T) {
	w := newWorldIn(t, memory(t))
	a := w.snapshot("alpha", files{"small": []byte("s"), "large": random(1<<20 + 9)})
	w.now = w.now.Add(time.Hour)
	dir := filepath.Join(memory(t), "medium")
	must(packager.Pack(context.Background(), w.options(dir, a)))(t)
	names := mediumFiles(t, dir)
	attack := func(kind, name string, do func(path string)) {
		t.Run(kind+" "+short(name), func(t *testing.T) {
			bad := filepath.Join(memory(t), "copy")
			ok(t, os.CopyFS(bad, os.DirFS(dir)))
			do(filepath.Join(bad, name))
			w.reset()
			_, damaged, err := w.take(bad)
			named := slices.ContainsFunc(damaged, func(d packager.Damage) bool { return strings.HasSuffix(name, d.File) })
			if err == nil && !named {
				t.Errorf("%s of %s went unnoticed (damaged: %v)", kind, name, damaged)
			}
			if err != nil && !errors.Is(err, feed.ErrDamaged) && !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("not of the right class: %v", err)
			}
			if err != nil && w.accepted() != 0 {
				t.Error("refused and accepted")
			}
			w.sound()
		})
	}
	for i, name := range names {
		size := must(os.Stat(filepath.Join(dir, name)))(t).Size()
		for _, at := range slices.Compact([]int64{0, size / 3, size / 2, size - 1}) {
			if size == 0 {
				break
			}
			for _, bit := range []byte{0x01, 0x20} {
				attack(fmt.Sprintf("flip %d/%#x", at, bit), name, func(p string) {
					b := must(os.ReadFile(p))(t)
					b[at] ^= bit
					ok(t, os.WriteFile(p, b, 0o644))
				})
			}
		}
		if size > 0 {
			attack("truncation", name, func(p string) { ok(t, os.Truncate(p, size-1)) })
		}
		attack("growth", name, func(p string) { ok(t, os.Truncate(p, size+1)) })
		attack("removal", name, func(p string) { ok(t, os.Remove(p)) })
		attack("swap", name, func(p string) {
			ok(t, os.Remove(p))
			ok(t, copyFile(p, filepath.Join(dir, names[(i+1)%len(names)])))
		})
		attack("symlink", name, func(p string) {
			ok(t, os.Rename(p, p+".x"))
			ok(t, os.Symlink(filepath.Base(p)+".x", p))
		})
		attack("directory", name, func(p string) { ok(t, os.Remove(p)); ok(t, os.Mkdir(p, 0o755)) })
	}
}

// Every bit of the small signed files: none is free.
func TestEveryBitOfMetadata(t *testing.T) {
	w := newWorld(t)
	dir, _ := w.pack(w.snapshot("alpha", files{"a": []byte("x")}))
	for _, name := range mediumFiles(t, dir) {
		if !strings.HasPrefix(name, "tuf/") && name != "set.json" {
			continue
		}
		p := filepath.Join(dir, name)
		good := must(os.ReadFile(p))(t)
		step := 61 // all of them take minutes: HASHIKE_EXHAUSTIVE=1
		if os.Getenv("HASHIKE_EXHAUSTIVE") == "1" {
			step = 1
		}
		for i := 0; i < len(good)*8; i += step {
			bad := bytes.Clone(good)
			bad[i/8] ^= 1 << (i % 8)
			ok(t, os.WriteFile(p, bad, 0o644))
			if b, err := w.open(dir); err == nil {
				b.Close()
				t.Errorf("%s: bit %d of byte %d (%q → %q) is free", name, i%8, i/8, good[i/8], bad[i/8])
			}
		}
		ok(t, os.WriteFile(p, good, 0o644))
	}
	b, err := w.open(dir)
	ok(t, err)
	b.Close()
}

// A damaged pack gives its good members.
func TestDamagedPackGivesGoodMembers(t *testing.T) {
	w := newWorld(t)
	f := files{}
	for i := range 50 {
		f[strconv.Itoa(i)] = bytes.Repeat([]byte{byte(i)}, 2000)
	}
	dir, _ := w.pack(w.snapshot("alpha", f))
	for _, name := range mediumFiles(t, dir) {
		p := filepath.Join(dir, name)
		b := must(os.ReadFile(p))(t)
		if strings.HasPrefix(name, "blobs/") && len(b) > 100_000 {
			b[60_000] ^= 1
			ok(t, os.WriteFile(p, b, 0o644))
		}
	}
	got, damaged, err := w.take(dir)
	ok(t, err)
	if got.Blobs < 49 || len(damaged) != 1 {
		t.Errorf("absorbed %+v, damaged %v", got, damaged)
	}
	w.sound()
}

func TestRollbackIsRefused(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	must2(t)(w.take(d2))
	b := must(w.open(d1))(t)
	defer b.Close()
	if b.Info().Standing != packager.Older {
		t.Fatal("not older")
	}
	got, err := b.Absorb(context.Background(), w.inCAS)
	ok(t, err)
	if got.Blobs != 0 {
		t.Errorf("%d blobs of an older set nobody lacks", got.Blobs)
	}
	ok(t, b.Accept(w.inDB, "tester"))
	wantCode(t, b.Useless(), "H-503")
	if w.accepted() != 2 {
		t.Error("state went back")
	}
}

func must2(t testing.TB) func(packager.Absorbed, []packager.Damage, error) {
	return func(_ packager.Absorbed, _ []packager.Damage, err error) { t.Helper(); ok(t, err) }
}

func TestMixAndMatch(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	for _, pair := range [][2]string{{d1, d2}, {d2, d1}} {
		for _, name := range []string{"set.json", "tuf/timestamp.json", "tables/feeds.jsonl.zst", "tables/blobs.jsonl.zst", "tables/volumes.jsonl"} {
			bad := copyTree(t, pair[0])
			ok(t, copyFile(filepath.Join(bad, name), filepath.Join(pair[1], name)))
			if b, err := w.open(bad); err == nil {
				b.Close()
				t.Errorf("%s of another bundle was taken", name)
			}
		}
	}
}

func TestExpiredAndFreeze(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	d2, r2 := w.pack(w.snapshot("alpha", sample("2")))
	must2(t)(w.take(d1))
	// The freeze: the accepted one again, after its time.
	w.now = w.now.Add(46 * 24 * time.Hour)
	b := must(w.open(d1))(t)
	defer b.Close()
	wantCode(t, b.Useless(), "H-504")
	// Newer but expired: imported and held.
	b2 := must(w.open(d2))(t)
	defer b2.Close()
	if b2.Info().Held != packager.HeldExpired {
		t.Fatalf("held %q", b2.Info().Held)
	}
	must(b2.Absorb(context.Background(), w.inCAS))(t)
	ok(t, b2.Accept(w.inDB, "tester"))
	held := func() (a packager.Accepted) {
		ok(t, w.inDB.View(func(tx state.Tx) (err error) { a, _, err = packager.BundleOf(tx, r2.Number); return err }))
		return a
	}
	if held().Held != packager.HeldExpired {
		t.Error("not held")
	}
	if err := packager.Release(w.inDB, r2.Number, " ", "tester", w.now); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("released without a reason: %v", err)
	}
	ok(t, packager.Release(w.inDB, r2.Number, "the disc came late", "tester", w.now))
	if held().Held != "" {
		t.Error("still held")
	}
}

// A clock set back does not make an expired set fresh: the floor counts.
func TestFloorJudgesExpiry(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	w.now = w.now.Add(60 * 24 * time.Hour)
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	must2(t)(w.take(d2))
	w.now = w.now.AddDate(-10, 0, 0)
	b := must(w.open(d1))(t)
	defer b.Close()
	i := b.Info()
	if !i.Expired {
		t.Error("an old set is fresh again")
	}
	if len(i.Warnings) != 1 || code(i.Warnings[0]) != "H-802" {
		t.Errorf("warnings %v", i.Warnings)
	}
}

func TestFutureSetIsHeldAndMovesNoFloor(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("1"))
	w.now = w.now.AddDate(3, 0, 0)
	dir, r := w.pack(a)
	w.now = day0.Add(time.Hour)
	must2(t)(w.take(dir))
	floor := func() (f time.Time) {
		ok(t, w.inDB.View(func(tx state.Tx) (err error) { f, err = tx.Floor(); return err }))
		return f
	}
	if f := floor(); f.After(day0.Add(24 * time.Hour)) {
		t.Errorf("the floor rose to %s", f)
	}
	ok(t, packager.Release(w.inDB, r.Number, "the clock was wrong", "tester", w.now))
	if f := floor(); !f.Equal(r.Created) {
		t.Errorf("the floor is %s after release", f)
	}
}

func TestForks(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	must2(t)(w.take(d1))
	t.Run("number with another set", func(t *testing.T) {
		bad := copyTree(t, d1)
		packager.Resign(t, w.out, bad, nil, func(v int64) int64 { return v + 60 })
		_, err := w.open(bad)
		wantCode(t, err, "H-506")
	})
	t.Run("version with other bytes", func(t *testing.T) {
		bad := copyTree(t, d1)
		packager.Resign(t, w.out, bad, nil, nil)
		_, err := w.open(bad)
		wantCode(t, err, "H-506")
	})
	t.Run("number gone back", func(t *testing.T) {
		d2, _ := w.pack(w.snapshot("alpha", sample("2")))
		must2(t)(w.take(d2))
		d3, _ := w.pack(w.snapshot("alpha", sample("3")))
		packager.Resign(t, w.out, d3, func(s *packager.Set) { s.Number = 2 }, nil)
		_, err := w.open(d3)
		wantCode(t, err, "H-506")
	})
	t.Run("order number", func(t *testing.T) {
		order := feed.Order{Schema: 1, Number: 7, Kind: feed.OrderPullBack, Feed: "alpha", Reason: "bad", Operator: "o", Issued: day0}
		d4, _ := w.pack(w.snapshot("alpha", sample("4")))
		packager.ResignOrders(t, w.out, d4, []feed.Order{order})
		must2(t)(w.take(d4))
		var have []feed.Order
		ok(t, w.inDB.View(func(tx state.Tx) (err error) { have, err = tx.Orders(); return err }))
		if len(have) != 1 || have[0].Reason != "bad" {
			t.Errorf("orders %v", have)
		}
		order.Reason = "worse"
		d5, _ := w.pack(w.snapshot("alpha", sample("5")))
		packager.ResignOrders(t, w.out, d5, []feed.Order{order})
		_, err := w.open(d5)
		wantCode(t, err, "H-506")
	})
	t.Run("trust order by the bundle key alone", func(t *testing.T) {
		d6, _ := w.pack(w.snapshot("alpha", sample("6")))
		packager.ResignOrders(t, w.out, d6, []feed.Order{{Schema: 1, Number: 8, Kind: feed.OrderTrust, Reason: "r", Operator: "o", Issued: day0,
			Anchor: &feed.NewAnchor{Name: "n", Use: "openpgp", Data: []byte("k")}}})
		_, err := w.open(d6)
		wantCode(t, err, "H-501")
	})
}

func TestFastForward(t *testing.T) {
	w := newWorld(t)
	dir, _ := w.pack(w.snapshot("alpha", sample("1")))
	packager.Resign(t, w.out, dir, nil, func(v int64) int64 { return v + 2*24*3600 })
	_, err := w.open(dir)
	wantCode(t, err, "H-509")
	// Within a day it is a clock's matter.
	packager.Resign(t, w.out, dir, nil, func(v int64) int64 { return v - 2*24*3600 + 3600 })
	b := must(w.open(dir))(t)
	b.Close()
}

func TestWrongSiteAndOtherKey(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("1"))
	o := w.options(filepath.Join(t.TempDir(), "m"), a)
	o.Sites = []int{2, 3}
	must(packager.Pack(context.Background(), o))(t)
	_, err := w.open(o.To)
	wantCode(t, err, "H-507")

	x := newWorld(t)
	other, _ := x.pack(x.snapshot("alpha", sample("1")))
	_, err = w.open(other)
	wantCode(t, err, "H-501")
	// With our first root put in front of their metadata.
	good, _ := w.pack(a)
	ok(t, copyFile(filepath.Join(other, "tuf/1.root.json"), filepath.Join(good, "tuf/1.root.json")))
	_, err = w.open(other)
	wantCode(t, err, "H-501")

	_, err = packager.Open(context.Background(), []string{good}, packager.OpenOptions{Data: w.out, DB: w.outDB, Clock: w.clock})
	wantCode(t, err, "H-201")
	o = w.options(filepath.Join(t.TempDir(), "m"), a)
	o.DB = w.inDB
	_, err = packager.Pack(context.Background(), o)
	wantCode(t, err, "H-201")
}

func TestRootRotation(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	must2(t)(w.take(d1))
	stolen := copyTree(t, string(w.out)) // keys and counter as they are
	if _, err := packager.Rotate(w.outDB, []packager.RootKey{w.keys[0], w.keys[0]}, packager.Change{Bundle: true}, nil, "tester", w.now); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("rotated with one key given twice: %v", err)
	}
	// The thief fast-forwards as far as the rules let him, and is accepted once.
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	packager.Resign(t, state.Dir(stolen), d2, func(s *packager.Set) { s.Number = 90_000 }, func(v int64) int64 { return v + 80_000 })
	must2(t)(w.take(d2))
	w.rotate(packager.Change{Bundle: true}, 3, 1)
	a3 := w.snapshot("alpha", sample("3"))
	d3, _ := w.pack(a3)
	must2(t)(w.take(d3))
	w.holds(a3)
	if n := w.accepted(); n != 3 {
		t.Errorf("accepted %d: the thief's numbers still bind", n)
	}
	// What the old key signed is believed no more, newer or older.
	for _, d := range []string{d1, d2} {
		_, err := w.open(d)
		wantCode(t, err, "H-501")
	}
	d4, _ := w.pack(w.snapshot("alpha", sample("4")))
	packager.Resign(t, state.Dir(stolen), d4, nil, func(v int64) int64 { return v + 9 })
	_, err := w.open(d4)
	wantCode(t, err, "H-501")
}

func TestRootRotationBelowThreshold(t *testing.T) {
	w, thief := newWorld(t), newWorld(t)
	d, _ := w.pack(w.snapshot("alpha", sample("1")))
	good := packager.ForgeRoot(t, w.out, thief.out, w.keys[0], w.keys[1])
	bad := packager.ForgeRoot(t, w.out, thief.out, w.keys[1])
	ok(t, os.WriteFile(filepath.Join(d, "tuf/2.root.json"), bad, 0o644))
	_, err := w.open(d)
	wantCode(t, err, "H-501")
	// Signed by two it is a rotation: the old key's bundle no longer counts.
	ok(t, os.WriteFile(filepath.Join(d, "tuf/2.root.json"), good, 0o644))
	_, err = w.open(d)
	wantCode(t, err, "H-501")
	// A gap in the chain is not crossed.
	ok(t, os.Rename(filepath.Join(d, "tuf/2.root.json"), filepath.Join(d, "tuf/3.root.json")))
	b := must(w.open(d))(t)
	defer b.Close()
	if b.Info().Foreigns != 1 {
		t.Error("3.root.json is not foreign")
	}
}

// Names within a pack are never used: a pack of hostile names is just bytes.
func TestTarNamesMeanNothing(t *testing.T) {
	w := newWorld(t)
	f := files{"a": []byte("first"), "b": []byte("second")}
	dir, _ := w.pack(w.snapshot("alpha", f))
	for _, name := range mediumFiles(t, dir) {
		b := must(os.ReadFile(filepath.Join(dir, name)))(t)
		if h, err := tar.NewReader(bytes.NewReader(b)).Next(); err == nil {
			evil := bytes.Clone(b)
			copy(evil, append([]byte("../../../../"+string(w.in)+"/evil"), 0))
			_ = h
			ok(t, os.WriteFile(filepath.Join(dir, name), evil, 0o644))
		}
	}
	got, damaged, err := w.take(dir)
	ok(t, err)
	if got.Blobs != 2 || len(damaged) != 1 {
		t.Errorf("absorbed %+v, damaged %v", got, damaged)
	}
	if _, err := os.Stat(filepath.Join(string(w.in), "evil")); err == nil {
		t.Error("a file outside the store")
	}
	w.sound()
}

func TestPulledMedium(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("1"))
	dir, _ := w.pack(a)
	b, err := packager.Open(context.Background(), []string{dir}, packager.OpenOptions{Data: w.in, DB: w.inDB, Clock: w.clock, Progress: func(p packager.Progress) {
		if p.Stage == "absorb" && p.Done == p.Total { // an empty mount point remains
			ents, _ := os.ReadDir(dir)
			for _, e := range ents {
				os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	}})
	ok(t, err)
	defer b.Close()
	_, err = b.Absorb(context.Background(), w.inCAS)
	wantCode(t, err, "H-803")
	w.sound()
}

func TestPackRefusesContradictedClock(t *testing.T) {
	w := newWorld(t)
	o := w.options(filepath.Join(t.TempDir(), "m"), w.snapshot("alpha", sample("1")))
	for _, signed := range []time.Time{w.now.Add(time.Minute), w.now.Add(-31 * 24 * time.Hour)} {
		o.NewestSigned = signed
		_, err := packager.Pack(context.Background(), o)
		wantCode(t, err, "H-802")
	}
	o.NewestSigned = w.now.Add(-29 * 24 * time.Hour)
	must(packager.Pack(context.Background(), o))(t)
}

func TestPackNoticesDamagedStore(t *testing.T) {
	for _, size := range []int{100, 2 << 20} {
		w := newWorld(t)
		c := random(size)
		a := w.snapshot("alpha", files{"x": c})
		h := feed.DigestOf(c).Hex()
		c[50] ^= 1
		ok(t, os.WriteFile(filepath.Join(string(w.out), "store/sha256", h[:2], h), c, 0o600))
		o := w.options(filepath.Join(t.TempDir(), "m"), a)
		_, err := packager.Pack(context.Background(), o)
		wantCode(t, err, "H-702")
		_, err = w.open(o.To)
		wantCode(t, err, "H-701")
	}
}

// A rebuilt outside goes on above the last number on paper.
func TestResume(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	must2(t)(w.take(d1))
	ok(t, os.Remove(w.out.DB()))
	ok(t, w.outDB.Create("outside", 0))
	ok(t, packager.Resume(w.outDB, 41, "tester", w.now))
	d2, r := w.pack(w.snapshot("alpha", sample("2")))
	if r.Number != 42 {
		t.Errorf("number %d", r.Number)
	}
	must2(t)(w.take(d2))
}

func TestPairing(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, packager.SetupName)
	print := must(packager.WriteSetup(w.out, 2, file, w.now))(t)
	again := must(packager.WriteSetup(w.out, 2, file, w.now.Add(time.Hour)))(t)
	if print != again {
		t.Error("a second sheet for a site differs")
	}
	in := state.Dir(filepath.Join(t.TempDir(), "in"))
	// Every single wrong digit and every swap of neighbours is a slip, not an attack.
	digits := strings.ReplaceAll(print, " ", "")
	for i := range digits {
		b := []byte(digits)
		b[i] = '0' + (b[i]-'0'+1)%10
		wantCode(t, packager.Pair(in, file, string(b)), "H-508")
	}
	good := must(os.ReadFile(file))(t)
	for _, change := range [][2]string{{`"site":2`, `"site":1`}, {`"created":"2026-11-01`, `"created":"2016-11-01`}, {`"secret":"`, `"secret":"AAAA`}, {`"root":"ey`, `"root":"fy`}} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if change[0] == `"secret":"` { // keep the length
			i := strings.Index(bad, "AAAA")
			bad = bad[:i+4] + bad[i+8:]
		}
		if bad == string(good) {
			t.Fatalf("%s not found", change[0])
		}
		ok(t, os.WriteFile(file, []byte(bad), 0o600))
		if err := packager.Pair(in, file, print); err == nil {
			t.Errorf("%s was exchanged", change[0])
		}
	}
	ok(t, os.WriteFile(file, good, 0o600))
	full := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r - '0' + '０'
		}
		return 'ー'
	}, print)
	ok(t, packager.Pair(in, dir, full))
	if err := packager.Pair(in, dir, full); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("paired twice: %v", err)
	}
	side, site, err := state.At(in, "test").Identity()
	if side != "inside" || site != 2 || err != nil {
		t.Errorf("identity %s %d %v", side, site, err)
	}
	if err := packager.CreateKeys(w.out, holders(), w.now, keep(&w.keys)); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("keys made twice: %v", err)
	}
}

func TestKeyExpiryWarnings(t *testing.T) {
	for days, want := range map[int]int{200: 0, 180: 180, 91: 180, 90: 90, 30: 30, 1: 30, -1: -1} {
		if got := packager.Warning(time.Duration(days) * 24 * time.Hour); got != want {
			t.Errorf("%d days left: %d, want %d", days, got, want)
		}
	}
	w := newWorld(t)
	for _, x := range []struct {
		d  state.Dir
		db *state.DB
	}{{w.out, w.outDB}, {w.in, w.inDB}} {
		k := must(packager.Expiry(x.d, x.db, w.now.AddDate(4, 9, 15)))(t)
		if !k.Root.Equal(day0.AddDate(5, 0, 0)) || k.Warning != 90 {
			t.Errorf("%+v", k)
		}
	}
}
