package packager

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// An order that adds a vendor key holds only under two different root keys of
// this root, over exactly this order.
func TestRootSignedOrders(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	dirs := [2]state.Dir{state.Dir(t.TempDir()), state.Dir(t.TempDir())}
	var keys [2][][]byte
	for i, d := range dirs {
		for _, p := range []string{d.Keys(), d.Trust()} {
			if err := os.MkdirAll(p, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := CreateKeys(d, now); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(OfflineDir(d), "*"))
		if err != nil || len(files) != 3 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			keys[i] = append(keys[i], b)
		}
	}
	chain, err := roots(dirs[0].Trust())
	if err != nil {
		t.Fatal(err)
	}
	o := feed.Order{Schema: 1, Number: 3, Kind: feed.OrderTrust, Feed: "tools", Reason: "r", Operator: "a", Approver: "b", Issued: now,
		Anchor: &feed.NewAnchor{Name: "n", Use: "openpgp", Data: []byte("key"), Source: "s"}}
	if orderAllowed(o, chain) == nil {
		t.Error("an unsigned trust order was allowed")
	}
	signed, err := SignOrder(dirs[0], o, keys[0][:2])
	if err != nil {
		t.Fatal(err)
	}
	if err := orderAllowed(signed, chain); err != nil {
		t.Fatal(err)
	}
	for name, few := range map[string][][]byte{"one key": keys[0][:1], "the same key twice": {keys[0][0], keys[0][0]}, "another root's keys": keys[1][:2], "no key": nil} {
		if _, err := SignOrder(dirs[0], o, few); err == nil {
			t.Errorf("%s signed", name)
		}
	}
	foreign, err := SignOrder(dirs[1], o, keys[1][:2])
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*feed.Order){
		"other key data":      func(o *feed.Order) { a := *o.Anchor; a.Data = []byte("kez"); o.Anchor = &a },
		"other feed":          func(o *feed.Order) { o.Feed = "" },
		"other number":        func(o *feed.Order) { o.Number++ },
		"one signature":       func(o *feed.Order) { o.Signatures = o.Signatures[:1] },
		"one signature twice": func(o *feed.Order) { o.Signatures = []feed.OrderSignature{o.Signatures[0], o.Signatures[0]} },
		"swapped": func(o *feed.Order) {
			s := o.Signatures
			o.Signatures = []feed.OrderSignature{{Key: s[0].Key, Signature: s[1].Signature}, {Key: s[1].Key, Signature: s[0].Signature}}
		},
		"another root": func(o *feed.Order) { o.Signatures = foreign.Signatures },
	} {
		bad := signed
		change(&bad)
		if orderAllowed(bad, chain) == nil {
			t.Errorf("%s was allowed", name)
		}
	}
}
