package packager_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

const passphrase = "correct horse battery"

// enrol makes an approver's key and enrols it, beside others if given.
func (w *world) enrol(others ...packager.Approver) (signature.Signer, packager.Approver) {
	w.t.Helper()
	priv, pub, err := packager.NewApproverKey(passphrase)
	ok(w.t, err)
	a := packager.Approver{Name: "課長", Public: pub}
	w.rotate(packager.Change{SetApprovers: true, Approvers: append(others, a)}, 1, 2)
	return must(packager.LoadApproverKey(priv, passphrase))(w.t), a
}

// approve signs the bundle in dir; the file comes back.
func (w *world) approve(dir string, key signature.Signer) []byte {
	w.t.Helper()
	t := must(packager.LookAtBundle(w.outDB, []string{dir}))(w.t)
	at := must(packager.Approve(w.outDB, t, key, "approver", w.now))(w.t)
	return must(os.ReadFile(at))(w.t)
}

// onto puts an approval of this number on a medium of its own.
func onto(t testing.TB, number uint64, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "approval-"+strconv.FormatUint(number, 10)+".json"), b, 0o644))
	return dir
}

func (w *world) pending() (p packager.Pending, waits bool) {
	ok(w.t, w.inDB.View(func(tx state.Tx) (err error) { p, waits, err = packager.PendingBundle(tx); return err }))
	return p, waits
}

func TestApproval(t *testing.T) {
	w := newWorld(t)
	a1 := w.snapshot("alpha", sample("1"))
	d1, _ := w.pack(a1)
	must2(t)(w.take(d1))
	key, _ := w.enrol()
	a2 := w.snapshot("alpha", sample("2"))
	d2, r2 := w.pack(a2)
	if !r2.Approval {
		t.Error("pack does not say that an approver must sign")
	}
	bare := copyTree(t, d2)

	// Unapproved it waits: nothing of it is in force.
	_, _, err := w.take(bare)
	wantCode(t, err, "H-661")
	if !errors.Is(err, feed.ErrHeld) || w.accepted() != 1 {
		t.Fatalf("%v, accepted %d", err, w.accepted())
	}
	if _, err := w.inCAS.Snapshot("alpha", 2); err == nil {
		t.Error("a snapshot of an unapproved bundle is in the store")
	}
	if p, waits := w.pending(); !waits || p.Number != 2 {
		t.Errorf("pending %+v", p)
	}
	// The approval alone, on another medium, is enough: the blobs came before.
	doc := w.approve(d2, key)
	other := onto(t, 2, doc)
	must2(t)(w.take(other))
	if w.accepted() != 2 {
		t.Fatalf("accepted %d", w.accepted())
	}
	w.holds(a2)
	if _, waits := w.pending(); waits {
		t.Error("still waits")
	}
	if left, _ := filepath.Glob(filepath.Join(w.in.Trust(), "pending-*")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	// The same medium again, without its approval, is still the accepted bundle.
	must2(t)(w.take(bare))
	_, _, err = w.take(other)
	wantCode(t, err, "H-662")

	// Beside the set, and from a second medium together with the first.
	a3 := w.snapshot("alpha", sample("3"))
	d3, _ := w.pack(a3)
	w.approve(d3, key)
	must2(t)(w.take(d3))
	a4 := w.snapshot("alpha", sample("4"))
	d4, _ := w.pack(a4)
	bare = copyTree(t, d4)
	must2(t)(w.take(onto(t, 4, w.approve(d4, key)), bare))
	w.holds(a4)
	// An older approved one still brings blobs, without its approval at hand.
	b := must(w.open(bare))(t)
	b.Close()
}

// The next bundle, approved, overtakes one that waits.
func TestApprovalOvertaken(t *testing.T) {
	w := newWorld(t)
	key, _ := w.enrol()
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	_, _, err := w.take(d1)
	wantCode(t, err, "H-661")
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	w.approve(d2, key)
	must2(t)(w.take(d2))
	if _, waits := w.pending(); waits || w.accepted() != 2 {
		t.Error("the older one still waits")
	}
	_, _, err = w.take(copyTree(t, d1))
	wantCode(t, err, "H-661")
}

func TestForgedApprovals(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	must2(t)(w.take(d1))
	key, approver := w.enrol()
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	for2 := w.approve(d2, key)
	d3, _ := w.pack(w.snapshot("alpha", sample("3")))
	plain := copyTree(t, d3)
	good := w.approve(d3, key)
	stranger, _, err := packager.NewApproverKey(passphrase)
	ok(t, err)
	strange := must(packager.LoadApproverKey(stranger, passphrase))(t)
	edit := func(b []byte, change func(m map[string]any)) []byte {
		return packager.EditApproval(t, b, change)
	}
	for name, b := range map[string][]byte{
		"of another set":                       for2,
		"of another set under this number":     edit(for2, func(m map[string]any) { m["number"] = 3.0 }),
		"another set's signature":              edit(good, func(m map[string]any) { m["signature"] = packager.FieldOf(t, for2, "signature") }),
		"by the bundle key itself":             packager.ForgeApproval(t, w.out, plain, packager.KeyOf(t, w.out)),
		"by a key that nobody enrolled":        packager.ForgeApproval(t, w.out, plain, strange),
		"by a stranger in the approver's name": edit(packager.ForgeApproval(t, w.out, plain, strange), func(m map[string]any) { m["key"] = packager.FieldOf(t, good, "key") }),
		"empty":                                {},
		"not JSON":                             []byte("approved"),
	} {
		t.Run(name, func(t *testing.T) {
			for where, dirs := range map[string][]string{"beside": {copyTree(t, plain)}, "apart": {onto(t, 3, b), plain}} {
				if where == "beside" {
					ok(t, os.WriteFile(filepath.Join(dirs[0], "approval-3.json"), b, 0o644))
				}
				_, err := w.open(dirs...)
				wantCode(t, err, "H-515")
				if !errors.Is(err, feed.ErrUntrusted) {
					t.Errorf("%s: %v", where, err)
				}
			}
		})
	}
	for i := range good {
		b := []byte(string(good))
		b[i] ^= 1 << (i % 8)
		if _, err := w.open(onto(t, 3, b), plain); code(err) != "H-515" {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	if w.accepted() != 1 {
		t.Fatal("accepted a forgery")
	}
	// Two approvers without the bundle key are no bundle.
	second, _ := w.enrol(approver)
	d4, _ := w.pack(w.snapshot("alpha", sample("4")))
	packager.SignTargets(t, d4, key, second)
	_, err = w.open(d4)
	wantCode(t, err, "H-501")
	// With all of it in order it goes through.
	ok(t, os.WriteFile(filepath.Join(plain, "approval-3.json"), good, 0o644))
	must2(t)(w.take(plain))
}

func TestApproverRules(t *testing.T) {
	w := newWorld(t)
	key, _ := w.enrol()
	d, _ := w.pack(w.snapshot("alpha", sample("1")))
	look := must(packager.LookAtBundle(w.outDB, []string{d}))(t)
	_, err := packager.Approve(w.outDB, look, key, "tester", w.now)
	wantCode(t, err, "H-644") // who packed it
	_, err = packager.Approve(w.outDB, look, packager.KeyOf(t, w.out), "approver", w.now)
	wantCode(t, err, "H-515")
	// A medium that was changed after packing is not approved.
	bad := copyTree(t, d)
	raw := must(os.ReadFile(filepath.Join(bad, "set.json")))(t)
	ok(t, os.WriteFile(filepath.Join(bad, "set.json"), []byte(strings.Replace(string(raw), `"number":1`, `"number":2`, 1)), 0o644))
	_, err = packager.LookAtBundle(w.outDB, []string{bad})
	wantCode(t, err, "H-501")
	if _, err := packager.LoadApproverKey([]byte("x"), passphrase); code(err) != "H-514" {
		t.Error(err)
	}
	priv, _, err := packager.NewApproverKey(passphrase)
	ok(t, err)
	if _, err := packager.LoadApproverKey(priv, passphrase+"!"); code(err) != "H-514" {
		t.Error(err)
	}
	// An order waits for the approver, who did not issue it.
	o, waits, err := packager.Issue(w.outDB, feed.Order{Schema: 1, Kind: feed.OrderPullBack, Feed: "alpha", Reason: "r", Operator: "tester", Issued: w.now}, nil, "tester", nil, w.now)
	ok(t, err)
	if !waits {
		t.Error("does not wait")
	}
	trust, waits, err := packager.Issue(w.outDB, feed.Order{Schema: 1, Kind: feed.OrderTrust, Feed: "alpha", Reason: "r", Operator: "tester", Issued: w.now,
		Anchor: &feed.NewAnchor{Name: "n", Use: "openpgp", Data: []byte("k")}}, nil, "tester", nil, w.now)
	ok(t, err)
	if !waits {
		t.Error("a trust order does not wait")
	}
	d, r := w.pack(w.snapshot("alpha", sample("2")))
	if len(r.Waiting) != 2 {
		t.Errorf("waiting %v", r.Waiting)
	}
	_, err = packager.ApproveOrder(w.outDB, o.Number, key, "tester", w.now)
	wantCode(t, err, "H-644")
	must(packager.ApproveOrder(w.outDB, o.Number, key, "approver", w.now))(t)
	must(packager.ApproveOrder(w.outDB, trust.Number, key, "approver", w.now))(t)
	d, r = w.pack(w.snapshot("alpha", sample("3")))
	if len(r.Waiting) != 0 {
		t.Errorf("waiting %v", r.Waiting)
	}
	w.approve(d, key)
	must2(t)(w.take(d))
	var have []feed.Order
	ok(t, w.inDB.View(func(tx state.Tx) (err error) { have, err = tx.Orders(); return err }))
	if len(have) != 2 {
		t.Errorf("orders inside: %v", have)
	}
	// The bundle key alone gives no order where an approver is enrolled, even in
	// an approved bundle.
	d, _ = w.pack(w.snapshot("alpha", sample("4")))
	packager.ResignOrders(t, w.out, d, []feed.Order{{Schema: 1, Number: 9, Kind: feed.OrderPullBack, Feed: "alpha", Reason: "r", Operator: "o", Issued: w.now}})
	b := packager.ForgeApproval(t, w.out, d, key)
	ok(t, os.WriteFile(filepath.Join(d, "approval-4.json"), b, 0o644))
	_, err = w.open(d)
	wantCode(t, err, "H-501")
}

// A root of another time: replayed, too few signatures, a gap, expired ones.
func TestRotations(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	must2(t)(w.take(d1))

	// A lost root key is replaced by the two others; the lost one is nothing then.
	lost := w.keys[1]
	w.rotate(packager.Change{Replace: []int{2}}, 1, 3)
	if _, err := packager.Rotate(w.outDB, []packager.RootKey{lost, w.keys[0]}, packager.Change{}, nil, "t", w.now); code(err) != "H-513" {
		t.Errorf("the lost key signs: %v", err)
	}
	// All three at once: signed by two old and the new.
	w.rotate(packager.Change{Replace: []int{1, 2, 3}}, 2, 3)
	w.rotate(packager.Change{Bundle: true}, 1, 2)
	a2 := w.snapshot("alpha", sample("2"))
	d2, _ := w.pack(a2)
	must2(t)(w.take(d2))
	w.holds(a2)

	// After everything expired, six years on: renewed, with a new bundle key, and
	// the inside follows although what it holds has ended long ago.
	w.now = w.now.AddDate(6, 0, 0)
	if _, err := packager.Preflight(t.Context(), w.options(t.TempDir(), a2)); err != nil {
		t.Errorf("preflight: %v", err)
	}
	if _, err := packager.Pack(t.Context(), w.options(filepath.Join(t.TempDir(), "m"), w.snapshot("alpha", sample("3")))); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("packed under an expired root: %v", err)
	}
	w.rotate(packager.Change{Bundle: true}, 3, 1)
	a4 := w.snapshot("alpha", sample("4"))
	d4, r4 := w.pack(a4)
	must2(t)(w.take(d4))
	w.holds(a4)
	if w.accepted() != r4.Number {
		t.Errorf("accepted %d", w.accepted())
	}
	k := must(packager.Expiry(w.in, w.inDB, w.now))(t)
	if k.Warning != 0 {
		t.Errorf("the inside still warns: %+v", k)
	}
	// A fresh inside follows the whole chain from the first root.
	x := *w
	x.in = state.Dir(filepath.Join(t.TempDir(), "inside2"))
	x.inDB = state.At(x.in, "test")
	x.pair(1)
	defer x.inCAS.Close()
	must2(t)(x.take(d4))
	x.holds(a4)

	// A root replayed under a later number, a gap, and one signature too few.
	d5, _ := w.pack(w.snapshot("alpha", sample("5")))
	version := 1
	for ; ; version++ {
		if _, err := os.Stat(filepath.Join(d5, "tuf", strconv.Itoa(version+1)+".root.json")); err != nil {
			break
		}
	}
	if version != 5 {
		t.Fatalf("the chain has %d roots", version)
	}
	root := func(dir string, v int) string { return filepath.Join(dir, "tuf", strconv.Itoa(v)+".root.json") }
	for name, spoil := range map[string]func(dir string) error{
		"an older root replayed as the next":   func(dir string) error { return copyFile(root(dir, version+1), root(dir, 2)) },
		"an older root in a newer one's place": func(dir string) error { return copyFile(root(dir, version), root(dir, 1)) },
		"a gap":                                func(dir string) error { return os.Remove(root(dir, 3)) },
		"too few signatures": func(dir string) error {
			return os.WriteFile(root(dir, version), packager.DropSignature(t, must(os.ReadFile(root(dir, version)))(t)), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := copyTree(t, d5)
			ok(t, spoil(bad))
			if b, err := w.open(bad); code(err) != "H-501" && (name != "a gap" || code(err) != "H-701") { // a file lacks that the set says is there
				if err == nil {
					b.Close()
				}
				t.Errorf("%v", err)
			}
			y := *w
			y.in = state.Dir(filepath.Join(t.TempDir(), "inside"))
			y.inDB = state.At(y.in, "test")
			y.pair(1)
			defer y.inCAS.Close()
			if b, err := y.open(bad); err == nil {
				b.Close()
				t.Error("a fresh inside believes it")
			}
		})
	}
	must2(t)(w.take(d5))
}

// Where an approver left, an older bundle is not news again.
func TestEndOfApprovalForgetsNothing(t *testing.T) {
	w := newWorld(t)
	d1, _ := w.pack(w.snapshot("alpha", sample("1")))
	must2(t)(w.take(d1))
	key, _ := w.enrol()
	d2, _ := w.pack(w.snapshot("alpha", sample("2")))
	w.approve(d2, key)
	must2(t)(w.take(d2))
	w.rotate(packager.Change{SetApprovers: true}, 1, 3)
	w.now = w.now.Add(time.Minute)
	d3, _ := w.pack(w.snapshot("alpha", sample("3")))
	must2(t)(w.take(d3))
	b := must(w.open(d1))(t)
	defer b.Close()
	if b.Info().Standing != packager.Older {
		t.Errorf("standing %s", b.Info().Standing)
	}
	var doc struct{ Keys []packager.Holder }
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(w.out.Keys(), "custody.json")))(t), &doc))
	if len(doc.Keys) != 4 {
		t.Errorf("custody book %+v", doc)
	}
}
