package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// vendor is a vendor of our own who releases again and again.
type vendor struct {
	t       testing.TB
	dir     string
	keyFile string
	key     *openpgp.Entity
}

func newVendor(t testing.TB) *vendor {
	t.Helper()
	v := &vendor{t: t, dir: t.TempDir(), keyFile: filepath.Join(t.TempDir(), "vendor.asc")}
	var err error
	if v.key, err = openpgp.NewEntity("Example Vendor", "", "vendor@vendor.example", &packet.Config{RSABits: 2048}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(v.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := armor.Encode(f, openpgp.PublicKeyType, nil)
	if err == nil {
		err = v.key.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// release replaces what the vendor offers.
func (v *vendor) release(files map[string]string) {
	v.t.Helper()
	old, err := filepath.Glob(filepath.Join(v.dir, "*"))
	if err != nil {
		v.t.Fatal(err)
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil {
			v.t.Fatal(err)
		}
	}
	var sums strings.Builder
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(v.dir, name), []byte(text), 0o644); err != nil {
			v.t.Fatal(err)
		}
		fmt.Fprintf(&sums, "%s  %s\n", feed.DigestOf([]byte(text)).Hex(), name)
	}
	if err := os.WriteFile(filepath.Join(v.dir, "SHA256SUMS"), []byte(sums.String()), 0o644); err != nil {
		v.t.Fatal(err)
	}
	sig, err := os.Create(filepath.Join(v.dir, "SHA256SUMS.asc"))
	if err != nil {
		v.t.Fatal(err)
	}
	defer sig.Close()
	if err := openpgp.ArmoredDetachSign(sig, v.key, strings.NewReader(sums.String()), nil); err != nil {
		v.t.Fatal(err)
	}
}

// another sets up one more inside of the same outside.
func (w *world) another(site int, blocks string) *world {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := os.Symlink(w.path(outside), filepath.Join(dir, outside)); err != nil {
		w.t.Fatal(err)
	}
	n := &world{t: w.t, dir: dir, now: w.now}
	sheet := w.outside("setup-medium", "--site", strconv.Itoa(site))
	w.ok(fingerprintOn(sheet)+"\n", "--data", n.path(inside), "init", "--side", inside, "--name", "試験町", "--pair", w.path(outside, "outbox", "setup-"+strconv.Itoa(site)))
	n.configure(inside, blocks)
	return n
}

// bases are the outside's, by site.
func (w *world) bases() map[string]uint64 {
	w.t.Helper()
	out := map[string]uint64{}
	err := state.At(state.Dir(w.path(outside)), "test").View(func(tx state.Tx) error {
		for site, decode := range tx.All("bases", "") {
			var n uint64
			if err := decode(&n); err != nil {
				return err
			}
			out[site] = n
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// One bundle serves two insides at different bases; it is computed from the
// oldest, a code moves its own site's base only, and a file that one of them
// no longer holds is carried.
func TestSeveralSites(t *testing.T) {
	v := newVendor(t)
	v.release(map[string]string{"a": "file a", "b": "file b"})
	one := newWorld(t, treeBlock(v.dir))
	one.trustTree(v.keyFile)
	two := one.another(2, treeBlock(v.dir))
	pack := func(args ...string) string {
		t.Helper()
		one.outside("fetch")
		return one.outside(append([]string{"pack", "--to", one.path("media"), "--clock-checked", "test"}, args...)...)
	}
	carried := func(out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	take := func(w *world) string { t.Helper(); return w.inside("import", one.path("media")) }
	enter := func(w *world) { t.Helper(); one.outside("receipt", "enter", w.code()) }
	bases := func(want map[string]uint64) {
		t.Helper()
		if got := fmt.Sprint(one.bases()); got != fmt.Sprint(want) {
			t.Errorf("bases %s, want %v", got, want)
		}
	}

	one.outside("fetch")
	if _, errs, code := one.run("", "--data", one.path(outside), "pack", "--to", one.path("media"), "--clock-checked", "test"); code != exitConfig || !strings.Contains(errs, "--all-sites") {
		t.Errorf("with two sites, for which? exit %d\n%s", code, errs)
	}
	one.fails(exitConfig, "H-205", "--data", one.path(outside), "pack", "--to", one.path("media"), "--site", "1,3")
	carried(pack("--all-sites"), "届け先の拠点: 1 2") // bundle 1, complete
	take(one)
	take(two)
	enter(one)
	bases(map[string]uint64{"1": 1})
	carried(pack("--site", "1,2"), "省いたもの 0件") // bundle 2: site 2 has no base yet
	take(two)
	enter(two)
	bases(map[string]uint64{"1": 1, "2": 2})

	v.release(map[string]string{"a": "file a", "b": "file b", "c": "file c"})
	carried(pack("--site", "1"), "省いたもの 2件") // bundle 3, for site 1 alone
	two.fails(exitUntrusted, "H-507", "--data", two.path(inside), "import", one.path("media"))
	take(one)
	enter(one)
	bases(map[string]uint64{"1": 3, "2": 2})

	v.release(map[string]string{"a": "file a", "b": "file b", "c": "file c", "d": "file d"})
	out := pack("--site", "1,2") // bundle 4, from 2: carries c, d and the two lists
	carried(out, "（4件")
	carried(out, "省いたもの 2件")
	for _, w := range []*world{one, two} {
		if out := take(w); strings.Contains(out, "不足") || w.serial(inside, "tools") != one.serial(outside, "tools") {
			t.Errorf("%s did not reach the state:\n%s", w.dir, out)
		}
	}
	enter(two)
	bases(map[string]uint64{"1": 3, "2": 4})
	enter(one)

	// "a" goes and comes back; site 2 was told to forget it, site 1 was not.
	v.release(map[string]string{"b": "file b", "c": "file c", "d": "file d"})
	pack("--site", "2") // bundle 5
	take(two)
	enter(two)
	bases(map[string]uint64{"1": 4, "2": 5})
	hex := feed.DigestOf([]byte("file a")).Hex()
	if err := os.Remove(two.path(inside, "store/sha256", hex[:2], hex)); err != nil { // as a clean-up may
		t.Fatal(err)
	}
	v.release(map[string]string{"a": "file a", "b": "file b", "c": "file c", "d": "file d", "e": "file e"})
	pack("--all-sites") // bundle 6, from 4, which holds "a"
	for _, w := range []*world{one, two} {
		if out := take(w); strings.Contains(out, "不足") || w.serial(inside, "tools") != one.serial(outside, "tools") {
			t.Errorf("%s did not reach the state:\n%s", w.dir, out)
		}
	}
	// A need list of one site is answered for both of the bundle's sites.
	if out := two.inside("need"); !strings.Contains(out, "不足はありません") {
		t.Errorf("need says\n%s", out)
	}
}

// A base is a bundle that was for its site, and the site is one of ours.
func TestABaseIsOfItsOwnSite(t *testing.T) {
	v := newVendor(t)
	v.release(map[string]string{"a": "file a"})
	w := newWorld(t, treeBlock(v.dir))
	w.trustTree(v.keyFile)
	w.another(2, treeBlock(v.dir))
	w.outside("fetch")
	data := []string{"--data", w.path(outside)}
	w.outside("pack", "--to", w.path("media"), "--site", "1", "--clock-checked", "test")
	w.fails(exitConfig, "--site", append(data, "base", "set", "--bundle", "1")...) // which?
	w.fails(exitConfig, "H-205", append(data, "base", "set", "--bundle", "1", "--site", "77")...)
	w.fails(exitConfig, "H-663", append(data, "base", "set", "--bundle", "1", "--site", "2")...)
	if got := w.bases(); len(got) != 0 {
		t.Errorf("bases %v", got)
	}
	for _, to := range [][]string{{"--site", "2"}, {"--site", "1,2"}, {"--all-sites"}} {
		w.fails(exitConfig, "H-663", append(append(data, "pack", "--to", w.path("media"), "--clock-checked", "test", "--base", "1"), to...)...)
	}
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test", "--base", "1", "--site", "1")
	w.outside("base", "set", "--bundle", "1", "--site", "1")
	if got := w.bases(); got["1"] != 1 {
		t.Errorf("bases %v", got)
	}
}
