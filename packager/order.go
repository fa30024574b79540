package packager

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// OrderType is the DSSE payload type of an order: its JSON as package feed has it.
const OrderType = "application/vnd.hashike.order.v1+json"

// bucketIssued of state.db, outside: order number → who issued it. The order
// itself travels and names nobody.
const bucketIssued = "issued"

// IssuerOf is who issued an order, as this outside remembers.
func IssuerOf(db *state.DB, number uint64) (who string, err error) {
	err = db.View(func(tx state.Tx) error { _, err := tx.Get(bucketIssued, numberKey(number), &who); return err })
	return who, err
}

// bucketEnvelopes of state.db, outside: order number "/" root version → DSSE
// envelope, signed under that root.
const bucketEnvelopes = "envelopes"

// SignedOrder is an order and the DSSE envelope it travels in (docs/bundle.md §4).
type SignedOrder struct {
	feed.Order
	env dsse.Envelope
}

// NeedsRoot reports whether an order needs the root keys' holders where no
// approver is enrolled: it widens what is believed.
func NeedsRoot(k feed.OrderKind) bool { return k == feed.OrderTrust || k == feed.OrderFloor }

// openOrder reads the order in an envelope. Both have one spelling only.
func openOrder(env dsse.Envelope) (SignedOrder, error) {
	o := SignedOrder{env: env}
	if env.PayloadType != OrderType {
		return o, fmt.Errorf("order of type %.60q: %w", env.PayloadType, feed.ErrDamaged)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(env.Payload)
	if err != nil || base64.StdEncoding.EncodeToString(b) != env.Payload {
		return o, fmt.Errorf("order is not base64: %w", errors.Join(err, feed.ErrDamaged))
	}
	if err := strict(b, &o.Order); err != nil {
		return o, fmt.Errorf("order: %w", err)
	}
	return o, o.Order.Check()
}

// sealOrder puts an order into an envelope and signs it.
func sealOrder(o feed.Order, signers ...signature.Signer) (SignedOrder, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return SignedOrder{}, err
	}
	s := SignedOrder{o, dsse.Envelope{PayloadType: OrderType, Payload: base64.StdEncoding.EncodeToString(b)}}
	for _, k := range signers {
		if err := s.add(k); err != nil {
			return s, err
		}
	}
	return s, nil
}

// add signs the order with one more key; one that signed already changes nothing.
func (s *SignedOrder) add(k signature.Signer) error {
	pub, err := k.PublicKey()
	if err != nil {
		return err
	}
	id, err := dsse.SHA256KeyID(pub)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(s.env.Signatures, func(x dsse.Signature) bool { return x.KeyID == id }) {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(s.env.Payload)
	if err != nil {
		return err
	}
	sig, err := k.SignMessage(bytes.NewReader(dsse.PAE(OrderType, b)))
	if err != nil {
		return err
	}
	s.env.Signatures = append(s.env.Signatures, dsse.Signature{KeyID: id, Sig: base64.StdEncoding.EncodeToString(sig)})
	return nil
}

// allowed refuses an order unless enough keys of the root signed it: as many
// root keys as a root needs; or as many of the targets role as that needs, the
// bundle key among them, which for NeedsRoot kinds must be more than one. Every
// signature must hold: no bit of an envelope is free.
func (s SignedOrder) allowed(root *metadata.Metadata[metadata.RootType]) error {
	b, err := base64.StdEncoding.Strict().DecodeString(s.env.Payload)
	if err != nil {
		return fmt.Errorf("order %d: %w: %w", s.Number, err, feed.ErrUntrusted)
	}
	text, ids := dsse.PAE(s.env.PayloadType, b), dsseIDs(root)
	seen := map[string]bool{}
	var roots, targets, bundle int
	for _, sig := range s.env.Signatures {
		raw, err := base64.StdEncoding.Strict().DecodeString(sig.Sig)
		if err != nil || base64.StdEncoding.EncodeToString(raw) != sig.Sig || seen[sig.KeyID] || !verifiedBy(root.Signed.Keys[ids[sig.KeyID]], raw, text) {
			return fmt.Errorf("order %d (%s): a signature of key %.12q does not hold under root %d: %w", s.Number, s.Kind, sig.KeyID, root.Signed.Version, feed.ErrUntrusted)
		}
		seen[sig.KeyID] = true
		for role, n := range map[string]*int{metadata.ROOT: &roots, metadata.TARGETS: &targets, metadata.TIMESTAMP: &bundle} {
			if slices.Contains(root.Signed.Roles[role].KeyIDs, ids[sig.KeyID]) {
				*n++
			}
		}
	}
	need := root.Signed.Roles[metadata.TARGETS].Threshold
	switch {
	case roots >= root.Signed.Roles[metadata.ROOT].Threshold:
		return nil
	case targets >= need && bundle > 0 && (need > 1 || !NeedsRoot(s.Kind)):
		return nil
	}
	return fmt.Errorf("order %d (%s) is signed by %d root keys and %d of %d target keys: %w", s.Number, s.Kind, roots, targets, need, feed.ErrUntrusted)
}

// dsseIDs maps the key ids of DSSE (as sigstore forms them) to TUF's.
func dsseIDs(root *metadata.Metadata[metadata.RootType]) map[string]string {
	out := map[string]string{}
	for id, k := range root.Signed.Keys {
		if pub, err := k.ToPublicKey(); err == nil {
			if d, err := dsse.SHA256KeyID(pub); err == nil {
				out[d] = id
			}
		}
	}
	return out
}

func verifiedBy(k *metadata.Key, sig, text []byte) bool {
	if k == nil {
		return false
	}
	pub, err := k.ToPublicKey()
	if err != nil {
		return false
	}
	v, err := signature.LoadDefaultVerifier(pub)
	return err == nil && v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(text)) == nil
}

// ordersUnder returns the orders that this outside issued, with the envelopes
// that hold under the root of a version.
func ordersUnder(tx state.Tx, version int64) ([]SignedOrder, error) {
	orders, err := tx.Orders()
	if err != nil {
		return nil, err
	}
	var out []SignedOrder
	for _, o := range orders {
		s, err := sealOrder(o) // unsigned: one that a lost medium made
		if err != nil {
			return nil, err
		}
		for key, decode := range tx.All(bucketEnvelopes, numberKey(o.Number)+"/") {
			if key > envelopeKey(o.Number, version) {
				break // for a root that was never finished
			}
			s.env = dsse.Envelope{}
			if err := decode(&s.env); err != nil {
				return nil, fmt.Errorf("order %d: %w: %w", o.Number, err, feed.ErrDamaged)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func envelopeKey(number uint64, version int64) string {
	return fmt.Sprintf("%s/%06d", numberKey(number), version)
}

// put keeps an order and its envelope under the root of a version.
func (s SignedOrder) put(tx state.Tx, version int64) error {
	if err := tx.PutOrder(s.Order); err != nil {
		return err
	}
	return tx.Put(bucketEnvelopes, envelopeKey(s.Number, version), s.env)
}

// Issue numbers an order, signs it and keeps it: from the next bundle on it
// travels. It is signed by the root keys given (two or three of this root's),
// else by the bundle key. waits is true if an approver must sign it before it
// travels (ApproveOrder). ErrConfig if the order says too little, the keys are
// not this root's or too few, or the kind needs them (NeedsRoot) and no
// approver is enrolled. detail goes into the audit record: names that the order
// does not say.
func Issue(db *state.DB, o feed.Order, keys []RootKey, who string, detail map[string]string, now time.Time) (issued feed.Order, waits bool, err error) {
	root, err := newestRoot(db.Dir())
	if err != nil {
		return o, false, err
	}
	approver := root.Signed.Roles[metadata.TARGETS].Threshold > 1
	var signers []signature.Signer
	switch {
	case len(keys) > 0:
		signers, err = rootSigners(root, keys)
	case NeedsRoot(o.Kind) && !approver:
		err = fmt.Errorf("%s orders need %d root keys: %w", o.Kind, root.Signed.Roles[metadata.ROOT].Threshold, feed.ErrConfig)
	default:
		var k signature.Signer
		k, err = bundleKey(db.Dir())
		signers, waits = []signature.Signer{k}, approver
	}
	if err != nil {
		return o, false, err
	}
	err = db.Update(func(tx state.Tx) error {
		orders, err := tx.Orders()
		if err != nil {
			return err
		}
		o.Number = 1
		if n := len(orders); n > 0 {
			o.Number = orders[n-1].Number + 1
		}
		if err := o.Check(); err != nil {
			return err
		}
		s, err := sealOrder(o, signers...)
		if err != nil {
			return err
		}
		if err := s.put(tx, root.Signed.Version); err != nil {
			return err
		}
		if err := tx.Put(bucketIssued, numberKey(o.Number), who); err != nil {
			return err
		}
		all := map[string]string{"order": strconv.FormatUint(o.Number, 10), "kind": string(o.Kind), "feed": o.Feed, "reason": o.Reason, "approver": o.Approver}
		maps.Copy(all, detail)
		return tx.Audit(state.Record{Time: now, Who: who, What: "order", Result: "ok", Detail: all})
	})
	return o, waits, err
}

// ApproverEnrolled reports whether bundles and orders of this outside need an
// approver's key.
func ApproverEnrolled(data state.Dir) (bool, error) {
	root, err := newestRoot(data)
	if err != nil {
		return false, err
	}
	return root.Signed.Roles[metadata.TARGETS].Threshold > 1, nil
}

// rootSigners checks that the keys are this root's and enough.
func rootSigners(root *metadata.Metadata[metadata.RootType], keys []RootKey) ([]signature.Signer, error) {
	seen := map[string]bool{}
	var out []signature.Signer
	for _, k := range keys {
		id, err := k.ID()
		if err != nil {
			return nil, err
		}
		if !slices.Contains(root.Signed.Roles[metadata.ROOT].KeyIDs, id) {
			return nil, feed.NewFault(fmt.Errorf("root key %d is not one of root %d's: %w", k.Slot, root.Signed.Version, feed.ErrConfig), "H-513",
				"slot", strconv.Itoa(k.Slot), "given", strconv.Itoa(len(keys)), "count", strconv.Itoa(root.Signed.Roles[metadata.ROOT].Threshold))
		}
		if !seen[id] {
			out = append(out, k.sign)
		}
		seen[id] = true
	}
	if n := root.Signed.Roles[metadata.ROOT].Threshold; len(out) < n {
		return nil, feed.NewFault(fmt.Errorf("%d root keys given, %d are needed: %w", len(out), n, feed.ErrConfig), "H-513",
			"slot", "-", "given", strconv.Itoa(len(out)), "count", strconv.Itoa(n))
	}
	return out, nil
}

// signNew signs orders that carry no signature yet, where the bundle key may.
func signNew(data state.Dir, orders []SignedOrder) error {
	for i := range orders {
		if len(orders[i].env.Signatures) > 0 || NeedsRoot(orders[i].Kind) {
			continue
		}
		k, err := bundleKey(data)
		if err == nil {
			err = orders[i].add(k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// travelling divides orders into those that go into a bundle now and the
// numbers of those that wait for an approver's signature. What has ended stays
// at home: inside it has ended as well.
func travelling(orders []SignedOrder, root *metadata.Metadata[metadata.RootType], now time.Time) (carried []SignedOrder, waiting []uint64) {
	for _, o := range orders {
		switch {
		case !o.InForce(now):
		case o.allowed(root) != nil:
			waiting = append(waiting, o.Number)
		default:
			carried = append(carried, o)
		}
	}
	return carried, waiting
}
