package packager

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Orders that add a vendor key or reset the time floor need more than the
// bundle key (DESIGN §5): signatures of as many root keys as the root's own
// threshold, over
//
//	"hashike-order-v1" LF <the order's JSON without its signatures>

func orderText(o feed.Order) ([]byte, error) {
	o.Signatures = nil
	b, err := json.Marshal(o)
	return append([]byte("hashike-order-v1\n"), b...), err
}

// NeedsRoot reports whether an order needs the root keys' holders.
func NeedsRoot(k feed.OrderKind) bool { return k == feed.OrderTrust || k == feed.OrderFloor }

// SignOrder adds the signatures of offline root keys, given as PEM: two or
// three of the newest root's. ErrConfig if they are not its keys or too few.
func SignOrder(data state.Dir, o feed.Order, offline [][]byte) (feed.Order, error) {
	chain, err := roots(data.Trust())
	if err != nil {
		return o, err
	}
	root, err := metadata.Root().FromBytes(chain[len(chain)-1])
	if err != nil {
		return o, err
	}
	signers, err := rootSigners(root, offline)
	if err != nil {
		return o, err
	}
	text, err := orderText(o)
	if err != nil {
		return o, err
	}
	o.Signatures = nil
	for _, s := range signers {
		_, id, err := tufKey(s)
		if err != nil {
			return o, err
		}
		sig, err := s.SignMessage(bytes.NewReader(text))
		if err != nil {
			return o, err
		}
		o.Signatures = append(o.Signatures, feed.OrderSignature{Key: id, Signature: sig})
	}
	return o, nil
}

// orderAllowed refuses an order of a kind that needs the root unless enough
// keys of the newest root of the chain signed it.
func orderAllowed(o feed.Order, chain [][]byte) error {
	if !NeedsRoot(o.Kind) {
		return nil
	}
	root, err := metadata.Root().FromBytes(chain[len(chain)-1])
	if err != nil {
		return err
	}
	text, err := orderText(o)
	if err != nil {
		return err
	}
	role := root.Signed.Roles[metadata.ROOT]
	good := map[string]bool{}
	for _, s := range o.Signatures {
		for _, id := range role.KeyIDs {
			if id == s.Key && verifiedBy(root.Signed.Keys[id], s.Signature, text) {
				good[id] = true
			}
		}
	}
	if len(good) < role.Threshold {
		return fmt.Errorf("order %d (%s) has %d good root signatures, %d are needed: %w", o.Number, o.Kind, len(good), role.Threshold, feed.ErrUntrusted)
	}
	return nil
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
