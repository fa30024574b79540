package packager

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Resign changes the set of the medium in dir and signs it again with data's
// own key: what a thief of the bundle key can do. version moves the metadata.
func Resign(t testing.TB, data state.Dir, dir string, change func(*Set), version func(int64) int64) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, nameSet))
	check(err)
	s, err := parseSet(raw)
	check(err)
	old := s.Version
	if version != nil {
		s.Version = version(s.Version)
	}
	if change != nil {
		change(&s)
	}
	raw, _, err = s.encode()
	check(err)
	orders, err := os.ReadFile(filepath.Join(dir, nameOrders))
	check(err)
	s.Orders = Ref{feed.DigestOf(orders), int64(len(orders)), s.Orders.Lines}
	key, err := bundleKey(data)
	check(err)
	meta, err := signBundle(key, s.Version, s.Expires, raw, orders)
	check(err)
	os.Remove(filepath.Join(dir, snapshotName(old)))
	os.Remove(filepath.Join(dir, targetsName(old)))
	meta[nameSet] = raw
	for name, b := range meta {
		check(os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
}

// ResignOrders puts orders on the medium, signed by data's bundle key.
func ResignOrders(t testing.TB, data state.Dir, dir string, orders []feed.Order) {
	t.Helper()
	key, err := bundleKey(data)
	if err != nil {
		t.Fatal(err)
	}
	var sealed []SignedOrder
	for _, o := range orders {
		s, err := sealOrder(o, key)
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, s)
	}
	b, err := ordersBytes(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, nameOrders), b, 0o644); err != nil {
		t.Fatal(err)
	}
	Resign(t, data, dir, func(s *Set) { s.Orders = Ref{feed.DigestOf(b), int64(len(b)), int64(len(orders))} }, nil)
}

// ForgeRoot writes version 2 of the root, its bundle keys replaced by other's,
// signed with the root keys given.
func ForgeRoot(t testing.TB, data, other state.Dir, keys ...RootKey) []byte {
	t.Helper()
	chain, err := roots(data.Trust())
	if err != nil {
		t.Fatal(err)
	}
	root, err := metadata.Root().FromBytes(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundleKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range bundleRoles() {
		root.Signed.RevokeKey(root.Signed.Roles[role].KeyIDs[0], role)
		if err := addKey(root, key, role); err != nil {
			t.Fatal(err)
		}
	}
	root.Signed.Version = 2
	root.ClearSignatures()
	for _, k := range keys {
		if _, err := root.Sign(k.sign); err != nil {
			t.Fatal(err)
		}
	}
	b, err := root.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Warning is the expiry warning for a time left.
func Warning(d time.Duration) int { return warning(d) }

// Small gives o small limits: segments of this many bytes, manifests of this many layers.
func Small(o PackOptions, segment int64, layers int) PackOptions {
	o.limits = limits{segment: segment, layers: layers}
	return o
}

// Tiny gives o volumes of this many bytes and containers small enough for them.
func Tiny(o PackOptions, volume int64) PackOptions {
	o.VolumeSize = volume
	o.limits = limits{segment: blockSize, pack: blockSize, layers: 5, reserve: 200 << 10, volume: 2 << 20, group: 6}
	return o
}

// Layer is one layer of a volume's manifests.
type Layer struct {
	Type, Hex string
	Size      int64
}

// Layers lists the layers of a volume in the order of index and manifests.
func Layers(t testing.TB, dir string) (out []Layer) {
	t.Helper()
	type desc struct {
		MediaType, Digest string
		Size              int64
	}
	read := func(name string, v any) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var index struct{ Manifests []desc }
	read(nameIndex, &index)
	for _, m := range index.Manifests {
		var man struct{ Layers []desc }
		read(blobName(feed.Digest(m.Digest)), &man)
		for _, l := range man.Layers {
			out = append(out, Layer{l.MediaType, feed.Digest(l.Digest).Hex(), l.Size})
		}
	}
	return out
}

// Before lets a test spoil the media between writing and reading back.
func Before(o PackOptions, spoil func(dirs []string)) PackOptions {
	o.written = spoil
	return o
}

// MadeAs reports whether the outside remembers a bundle.
func MadeAs(db *state.DB, number uint64) (found bool, err error) {
	err = db.View(func(tx state.Tx) error { _, found, err = PackedAs(tx, number); return err })
	return found, err
}

// KeyOf is an outside's bundle key.
func KeyOf(t testing.TB, data state.Dir) signature.Signer {
	t.Helper()
	k, err := bundleKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// ForgeApproval signs an approval of the bundle in dir with any key, as only
// its own program refuses to.
func ForgeApproval(t testing.TB, data state.Dir, dir string, key signature.Signer) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, nameSet))
	if err != nil {
		t.Fatal(err)
	}
	set, err := parseSet(raw)
	if err != nil {
		t.Fatal(err)
	}
	m, err := metadata.Targets().FromFile(filepath.Join(dir, targetsName(set.Version)))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := m.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(approval{1, approvalFormat, set.Number, feed.DigestOf(raw), set.Version, sig.KeyID, sig.Signature})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// EditApproval changes fields and keeps the spelling.
func EditApproval(t testing.TB, b []byte, change func(map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	var a approval
	err := json.Unmarshal(b, &m)
	if err == nil {
		change(m)
		b, err = json.Marshal(m)
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil {
		b, err = json.Marshal(a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FieldOf is a field of an approval.
func FieldOf(t testing.TB, b []byte, name string) any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m[name]
}

// SignTargets replaces the signatures of the medium's targets metadata.
func SignTargets(t testing.TB, dir string, keys ...signature.Signer) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "tuf", "*.targets.json"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	m, err := metadata.Targets().FromFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	m.ClearSignatures()
	for _, k := range keys {
		if _, err := m.Sign(k); err != nil {
			t.Fatal(err)
		}
	}
	b, err := m.ToBytes(false)
	if err == nil {
		err = os.WriteFile(names[0], b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// DropSignature leaves a root with one signature.
func DropSignature(t testing.TB, b []byte) []byte {
	t.Helper()
	m, err := metadata.Root().FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	m.Signatures = m.Signatures[:1]
	if b, err = m.ToBytes(false); err != nil {
		t.Fatal(err)
	}
	return b
}

// EditSet changes fields of a set and keeps the spelling. Nobody signs it.
func EditSet(t testing.TB, raw []byte, change func(*Set)) []byte {
	t.Helper()
	s, err := parseSet(raw)
	if err == nil {
		change(&s)
		raw, _, err = s.encode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
