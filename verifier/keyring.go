package verifier

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
)

// signingKey is one primary key or subkey of a pinned keyring.
type signingKey struct {
	pub         *packet.PublicKey
	binding     *packet.Signature // of a subkey; nil for the primary key
	entity      *openpgp.Entity
	anchor      feed.Anchor
	revocations []*packet.Signature // of this key and of its primary key, from every pinned copy
}

type ring []signingKey

// readRing reads the keyrings. A key that one pinned copy says is revoked is
// revoked in all: an old copy must not bring a stolen key back.
func readRing(trust feed.Trust, anchors []feed.Anchor) (ring, error) {
	var keys ring
	gone := map[string][]*packet.Signature{}
	seen := map[feed.Digest]bool{}
	read := func(a feed.Anchor, use bool) error {
		if a.Use != "openpgp" {
			return fmt.Errorf("anchor %s is for %q, not openpgp: %w", a.Name, a.Use, feed.ErrConfig)
		}
		entities, err := readKeyring(a.Data)
		if err != nil {
			return fmt.Errorf("keyring %s: %w: %w", a.Name, err, feed.ErrConfig)
		}
		for _, e := range entities {
			fp := string(e.PrimaryKey.Fingerprint)
			gone[fp] = append(gone[fp], e.Revocations...)
			if use {
				keys = append(keys, signingKey{pub: e.PrimaryKey, entity: e, anchor: a})
			}
			for _, sub := range e.Subkeys {
				fp := string(sub.PublicKey.Fingerprint)
				gone[fp] = append(gone[fp], sub.Revocations...)
				if use {
					keys = append(keys, signingKey{pub: sub.PublicKey, binding: sub.Sig, entity: e, anchor: a})
				}
			}
		}
		return nil
	}
	for _, a := range anchors {
		seen[a.SHA256()] = true
		if err := read(a, true); err != nil {
			return nil, err
		}
	}
	for _, a := range trust.For("openpgp") {
		if !seen[a.SHA256()] {
			if err := read(a, false); err != nil {
				return nil, err
			}
		}
	}
	for i, k := range keys {
		keys[i].revocations = append(keys[i].revocations, gone[string(k.pub.Fingerprint)]...)
		if k.binding != nil {
			keys[i].revocations = append(keys[i].revocations, gone[string(k.entity.PrimaryKey.Fingerprint)]...)
		}
	}
	return keys, nil
}

func readKeyring(b []byte) (openpgp.EntityList, error) {
	if bytes.Contains(b, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		return openpgp.ReadArmoredKeyRing(bytes.NewReader(b))
	}
	return openpgp.ReadKeyRing(bytes.NewReader(b))
}

func (r ring) find(s *packet.Signature) []signingKey {
	var out []signingKey
	for _, k := range r {
		if s.CheckKeyIdOrFingerprint(k.pub) {
			out = append(out, k)
		}
	}
	return out
}

// usable says whether the key may vouch for something signed at the given time.
//
// Expiry is judged at the given time: trust.At, as apt does, or the signature's. A key revoked without a reason or
// as compromised (RFC 9580 §5.2.3.31) counts for nothing, whatever date its
// signatures claim; one superseded or retired counts for what it signed before.
func (k signingKey) usable(signed, at time.Time, trust feed.Trust) error {
	primary := k.entity.PrimaryKey
	self, _ := k.entity.PrimarySelfSignature()
	switch {
	case self == nil:
		return errors.New("the key has no self-signature")
	case k.binding == nil && self.FlagsValid && !self.FlagSign,
		// Only a binding that states this carries the subkey's own consent (§5.2.1.8).
		k.binding != nil && !(k.binding.FlagsValid && k.binding.FlagSign):
		return errors.New("the key is not for signing")
	case signed.Before(k.pub.CreationTime):
		return errors.New("the signature is older than its key")
	case primary.KeyExpired(self, at), self.SigExpired(at),
		k.binding != nil && (k.pub.KeyExpired(k.binding, at) || k.binding.SigExpired(at)):
		return errors.New("the key has expired")
	}
	for _, r := range k.revocations {
		soft := r.RevocationReason != nil &&
			(*r.RevocationReason == packet.KeySuperseded || *r.RevocationReason == packet.KeyRetired)
		if !soft || !signed.Before(r.CreationTime) {
			return fmt.Errorf("%w on %s", ErrRevoked, r.CreationTime.UTC().Format(time.DateOnly))
		}
	}
	for _, id := range []string{k.fingerprint(), fingerprint(primary), string(k.anchor.SHA256())} {
		if d, ok := trust.Distrusted(id, signed); ok {
			return fmt.Errorf("the key is distrusted by order: %s", d.Reason)
		}
	}
	for _, pub := range []*packet.PublicKey{k.pub, primary} {
		if err := strong(pub); err != nil {
			return err
		}
	}
	return nil
}

func strong(pub *packet.PublicKey) error {
	switch pub.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		if n, err := pub.BitLength(); err != nil || n < 2048 {
			return fmt.Errorf("RSA key of %d bits", n)
		}
		return nil
	case packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEdDSA, packet.PubKeyAlgoEd25519, packet.PubKeyAlgoEd448:
		return nil
	}
	return fmt.Errorf("key algorithm %d", pub.PubKeyAlgo)
}

func (k signingKey) fingerprint() string { return fingerprint(k.pub) }

func (k signingKey) userID() string {
	if id := k.entity.PrimaryIdentity(); id != nil {
		return id.Name
	}
	return ""
}

func fingerprint(pub *packet.PublicKey) string {
	return strings.ToUpper(hex.EncodeToString(pub.Fingerprint))
}

func issuer(s *packet.Signature) string {
	switch {
	case s.IssuerFingerprint != nil:
		return strings.ToUpper(hex.EncodeToString(s.IssuerFingerprint))
	case s.IssuerKeyId != nil:
		return fmt.Sprintf("%016X", *s.IssuerKeyId)
	}
	return "unnamed"
}
