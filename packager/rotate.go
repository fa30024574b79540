package packager

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Approver is a person whose key must sign every bundle beside the bundle key.
type Approver struct {
	Name   string // for the custody book: 課長
	Public []byte // PEM, as NewApproverKey gives it
}

// Change is what a new root says differently. A Change of nothing renews it.
type Change struct {
	Bundle    bool       // a new bundle key
	Plugin    string     // with Bundle: the token that holds the new one, NAME://REFERENCE
	Replace   []int      // root keys to replace, by slot: lost, or their time is over
	Holders   []string   // of the three root keys; nil is as before
	Approvers []Approver // with SetApprovers: these and no others; none ends approval by key
	// SetApprovers enrols or ends approvers: the targets role then needs the
	// bundle key and one of them.
	SetApprovers bool
}

// Rotate makes the next root, signed with root keys (two or three of the
// newest root's; a lost one is not needed), whatever has expired: the inside
// follows the chain of roots by signatures alone. New root keys go to deliver,
// as in CreateKeys. Orders are signed anew by the root keys, so that an inside
// that meets them later believes them under the new root. It returns the new
// root's version. ErrConfig if keys or change do not make sense.
func Rotate(db *state.DB, keys []RootKey, ch Change, deliver func([]RootKey) error, who string, now time.Time) (int64, error) {
	data := db.Dir()
	root, err := newestRoot(data)
	if err != nil {
		return 0, err
	}
	signers, err := rootSigners(root, keys)
	if err != nil {
		return 0, err
	}
	book, err := readCustody(data)
	if err != nil {
		return 0, err
	}
	before, err := newestRoot(data) // orders allowed now are allowed under the next root
	if err != nil {
		return 0, err
	}
	made, held, err := replaceRootKeys(root, book, ch, now)
	if err != nil {
		return 0, err
	}
	if len(made) > 0 {
		if err := deliver(made); err != nil {
			return 0, err
		}
	}
	if ch.SetApprovers {
		more, err := setApprovers(root, ch.Approvers, now)
		if err != nil {
			return 0, err
		}
		held = append(held, more...)
	}
	if ch.Bundle {
		if err := replaceBundleKey(data, root, ch.Plugin); err != nil {
			return 0, err
		}
	}
	if len(held) > 0 {
		if err := book.keep(data, held...); err != nil {
			return 0, err
		}
	}
	root.Signed.Version++
	root.Signed.Expires = now.UTC().Truncate(time.Second).AddDate(rootYears, 0, 0)
	if err := resign(db, before, root, slices.Concat(keys, made)); err != nil {
		return 0, err
	}
	// Keys first: killed before the root is there, the old one stands, pack says
	// if the bundle key does not fit it, and a second run mends that.
	if err := writeRoot(rootPath(data.Trust(), root.Signed.Version), root, slices.Concat(signers, signersOf(made))); err != nil {
		return 0, err
	}
	if ch.Bundle {
		if err := wipeOthers(data); err != nil {
			return root.Signed.Version, err
		}
	}
	return root.Signed.Version, db.Update(func(tx state.Tx) error {
		return tx.Audit(state.Record{Time: now, Who: who, What: "rotate keys", Result: "ok", Detail: map[string]string{
			"root": strconv.FormatInt(root.Signed.Version, 10), "bundle": strconv.FormatBool(ch.Bundle), "replaced": fmt.Sprint(ch.Replace), "approvers": strconv.Itoa(len(root.Signed.Roles[metadata.TARGETS].KeyIDs) - 1),
		}})
	})
}

// replaceRootKeys takes the old keys of the slots out of the root and puts new
// ones in.
func replaceRootKeys(root *metadata.Metadata[metadata.RootType], book custody, ch Change, now time.Time) (made []RootKey, held []Holder, err error) {
	for _, slot := range slices.Compact(slices.Sorted(slices.Values(ch.Replace))) {
		i := slices.IndexFunc(book.Keys, func(h Holder) bool {
			return h.Slot == slot && slices.Contains(root.Signed.Roles[metadata.ROOT].KeyIDs, h.Key)
		})
		if i < 0 {
			return nil, nil, fmt.Errorf("the custody book has no root key %d of root %d: %w", slot, root.Signed.Version, feed.ErrConfig)
		}
		k, err := NewRootKey(slot)
		if err != nil {
			return nil, nil, err
		}
		h := Holder{Slot: slot, Name: book.Keys[i].Name, Made: now.UTC().Truncate(time.Second)}
		if len(ch.Holders) == rootKeys {
			h.Name = ch.Holders[slot-1]
		}
		if h.Key, err = k.ID(); err != nil {
			return nil, nil, err
		}
		if err := root.Signed.RevokeKey(book.Keys[i].Key, metadata.ROOT); err != nil {
			return nil, nil, err
		}
		if err := addKey(root, k.sign, metadata.ROOT); err != nil {
			return nil, nil, err
		}
		made, held = append(made, k), append(held, h)
	}
	return made, held, nil
}

// replaceBundleKey makes a new bundle key the root's.
func replaceBundleKey(data state.Dir, root *metadata.Metadata[metadata.RootType], plugin string) error {
	old := slices.Clone(root.Signed.Roles[metadata.TIMESTAMP].KeyIDs)
	bundle, err := newBundleKey(data, plugin)
	if err != nil {
		return err
	}
	_, id, err := tufKey(bundle)
	if err != nil {
		return err
	}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if slices.Contains(root.Signed.Roles[role].KeyIDs, id) {
			return fmt.Errorf("the new bundle key is in the root already: %w", feed.ErrConfig)
		}
	}
	for _, role := range bundleRoles() {
		for _, k := range old {
			if err := root.Signed.RevokeKey(k, role); err != nil {
				return err
			}
		}
		if err := addKey(root, bundle, role); err != nil {
			return err
		}
	}
	return nil
}

// setApprovers makes the targets role the bundle key and these approvers.
func setApprovers(root *metadata.Metadata[metadata.RootType], list []Approver, now time.Time) ([]Holder, error) {
	targets := root.Signed.Roles[metadata.TARGETS]
	bundle := root.Signed.Roles[metadata.TIMESTAMP].KeyIDs
	for _, id := range slices.Clone(targets.KeyIDs) {
		if !slices.Contains(bundle, id) {
			if err := root.Signed.RevokeKey(id, metadata.TARGETS); err != nil {
				return nil, err
			}
		}
	}
	var out []Holder
	for _, a := range list {
		pub, err := cryptoutils.UnmarshalPEMToPublicKey(a.Public)
		if err != nil {
			return nil, fmt.Errorf("key of approver %q: %w: %w", a.Name, err, feed.ErrConfig)
		}
		k, err := metadata.KeyFromPublicKey(pub)
		if err != nil {
			return nil, fmt.Errorf("key of approver %q: %w: %w", a.Name, err, feed.ErrConfig)
		}
		id, err := k.ID()
		if err == nil && root.Signed.Keys[id] != nil {
			err = fmt.Errorf("key of approver %q is another role's, or named twice: %w", a.Name, feed.ErrConfig)
		}
		if err == nil && a.Name == "" {
			err = fmt.Errorf("an approver's key without a name: %w", feed.ErrConfig)
		}
		if err != nil {
			return nil, err
		}
		if err := root.Signed.AddKey(k, metadata.TARGETS); err != nil {
			return nil, err
		}
		out = append(out, Holder{Name: a.Name, Key: id, Made: now.UTC().Truncate(time.Second)})
	}
	targets.Threshold = 1
	if len(list) > 0 {
		targets.Threshold = 2
	}
	return out, nil
}

// resign signs every order for the next root, beside the envelopes in use: by
// the root keys, or by the bundle key alone if it still waits for an approver.
func resign(db *state.DB, before, next *metadata.Metadata[metadata.RootType], keys []RootKey) error {
	var valid []RootKey
	for _, k := range keys {
		id, err := k.ID()
		if err != nil {
			return err
		}
		if slices.Contains(next.Signed.Roles[metadata.ROOT].KeyIDs, id) {
			valid = append(valid, k)
		}
	}
	return db.Update(func(tx state.Tx) error {
		orders, err := ordersUnder(tx, before.Signed.Version)
		if err != nil {
			return err
		}
		for _, old := range orders {
			signers := signersOf(valid)
			if old.allowed(before) != nil {
				k, err := bundleKey(db.Dir())
				if err != nil {
					return err
				}
				signers = []signature.Signer{k}
			}
			s, err := sealOrder(old.Order, signers...)
			if err == nil {
				err = s.put(tx, next.Signed.Version)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
