package packager

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	sdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

func trustOrder(now time.Time) feed.Order {
	return feed.Order{Schema: 1, Number: 3, Kind: feed.OrderTrust, Feed: "tools", Reason: "r", Operator: "a", Approver: "b", Issued: now,
		Anchor: &feed.NewAnchor{Name: "n", Use: "openpgp", Data: []byte("key"), Source: "s"}}
}

// newOutside is an outside with its root keys in hand.
func newOutside(t *testing.T, now time.Time) (*state.DB, []RootKey, *metadata.Metadata[metadata.RootType]) {
	t.Helper()
	dir := state.Dir(filepath.Join(t.TempDir(), "outside"))
	db := state.At(dir, "test")
	var keys []RootKey
	if err := db.Create("outside", 0); err != nil {
		t.Fatal(err)
	}
	if err := CreateKeys(dir, []string{"課長", "会計管理者", "副市町村長"}, now, func(k []RootKey) error { keys = k; return nil }); err != nil {
		t.Fatal(err)
	}
	root, err := newestRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return db, keys, root
}

// An order that adds a vendor key holds only under two different root keys of
// this root, over exactly this order; one flipped bit anywhere in an envelope
// is refused.
func TestOrderSignatures(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	db, keys, root := newOutside(t, now)
	_, foreign, _ := newOutside(t, now)
	bundle, err := bundleKey(db.Dir())
	if err != nil {
		t.Fatal(err)
	}
	o := trustOrder(now)
	seal := func(o feed.Order, k ...signature.Signer) SignedOrder {
		s, err := sealOrder(o, k...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := seal(o, keys[0].sign, keys[2].sign)
	if err := good.allowed(root); err != nil {
		t.Fatal(err)
	}
	pull := o
	pull.Kind, pull.Anchor = feed.OrderPullBack, nil
	if err := seal(pull, bundle).allowed(root); err != nil {
		t.Errorf("a pull-back by the bundle key: %v", err)
	}
	twice := seal(o, keys[0].sign)
	twice.env.Signatures = append(twice.env.Signatures, twice.env.Signatures[0])
	swapped := seal(o, keys[0].sign, keys[2].sign)
	s := swapped.env.Signatures
	s[0].Sig, s[1].Sig = s[1].Sig, s[0].Sig
	moved := seal(o, keys[0].sign, keys[2].sign)
	moved.env.Payload = seal(func() feed.Order { x := o; x.Feed = ""; return x }()).env.Payload
	typed := seal(o, keys[0].sign, keys[2].sign)
	typed.env.PayloadType = "application/vnd.in-toto+json"
	for name, bad := range map[string]SignedOrder{
		"unsigned": seal(o), "one root key": seal(o, keys[1].sign), "the bundle key": seal(o, bundle), "one root key and the bundle key": seal(o, keys[1].sign, bundle),
		"another root's keys": seal(o, foreign[0].sign, foreign[1].sign), "a foreign signature beside good ones": seal(o, keys[0].sign, keys[2].sign, foreign[0].sign),
		"one signature twice": twice, "swapped": swapped, "another order": moved, "another type": typed, "pull-back by one root key": seal(pull, keys[0].sign),
	} {
		if bad.allowed(root) == nil {
			t.Errorf("%s: allowed", name)
		}
	}
	raw, err := ordersBytes([]SignedOrder{good})
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		flipped := []byte(string(raw))
		flipped[i] ^= 1 << (i % 7)
		list, err := readOrders(strings.NewReader(string(flipped)), 1)
		if err == nil && len(list) == 1 {
			err = list[0].allowed(root)
		}
		if err == nil {
			t.Fatalf("byte %d flipped: still an order", i)
		}
	}
}

// sigstore's own DSSE reader agrees about our envelopes.
func TestOrdersAreDSSE(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	_, keys, _ := newOutside(t, now)
	s, err := sealOrder(trustOrder(now), keys[0].sign, keys[1].sign)
	if err != nil {
		t.Fatal(err)
	}
	var all []signature.Verifier
	for _, k := range keys {
		v, err := signature.LoadDefaultVerifier(&k.priv.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	raw, err := json.Marshal(s.env)
	if err != nil {
		t.Fatal(err)
	}
	if err := sdsse.WrapMultiVerifier(OrderType, 2, all...).VerifySignature(strings.NewReader(string(raw)), nil); err != nil {
		t.Error(err)
	}
	if sdsse.WrapMultiVerifier(OrderType, 3, all...).VerifySignature(strings.NewReader(string(raw)), nil) == nil {
		t.Error("two signatures are three")
	}
	b, err := base64.StdEncoding.DecodeString(s.env.Payload)
	if err != nil || !strings.HasPrefix(string(dsse.PAE(OrderType, b)), "DSSEv1 37 "+OrderType+" ") {
		t.Errorf("%v %.80s", err, dsse.PAE(OrderType, b))
	}
}

// Issued orders survive rotations: signed by the root under the new one, unless
// they still waited for the approver.
func TestOrdersAcrossRotations(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	db, keys, _ := newOutside(t, now)
	none := func([]RootKey) error { t.Error("root keys made"); return nil }
	pull := feed.Order{Schema: 1, Kind: feed.OrderPullBack, Feed: "av", Reason: "r", Operator: "o", Issued: now}
	issue := func(o feed.Order, keys ...RootKey) bool {
		t.Helper()
		_, waits, err := Issue(db, o, keys, "tester", nil, now)
		if err != nil {
			t.Fatal(err)
		}
		return waits
	}
	if _, _, err := Issue(db, trustOrder(now), nil, "tester", nil, now); err == nil {
		t.Error("a trust order without root keys")
	}
	if issue(pull) || issue(trustOrder(now), keys[0], keys[2]) {
		t.Error("waits although no approver is enrolled")
	}
	_, pub, err := NewApproverKey("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(ch Change, into func([]RootKey) error, keys ...RootKey) {
		t.Helper()
		if _, err := Rotate(db, keys, ch, into, "tester", now); err != nil {
			t.Fatal(err)
		}
	}
	rotate(Change{SetApprovers: true, Approvers: []Approver{{"課長", pub}}}, none, keys[0], keys[1])
	if !issue(pull) {
		t.Error("does not wait for the approver")
	}
	rotate(Change{Bundle: true}, none, keys[2], keys[1])
	var fresh []RootKey
	rotate(Change{Replace: []int{1, 2, 3}}, func(k []RootKey) error { fresh = k; return nil }, keys[2], keys[1])
	if len(fresh) != 3 {
		t.Fatalf("%d new root keys", len(fresh))
	}
	root, err := newestRoot(db.Dir())
	if err != nil {
		t.Fatal(err)
	}
	var carried []SignedOrder
	var waiting []uint64
	if err := db.View(func(tx state.Tx) error {
		all, err := ordersUnder(tx, root.Signed.Version)
		carried, waiting = travelling(all, root, now)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(carried) != 2 || carried[0].Number != 1 || carried[1].Number != 2 || len(waiting) != 1 || waiting[0] != 3 {
		t.Errorf("carried %v, waiting %v", carried, waiting)
	}
	if _, err := Rotate(db, keys, Change{}, none, "tester", now); err == nil {
		t.Error("the old root keys still rotate")
	}
}
