package feed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest is the identity of a blob: "sha256:" and 64 lower-case hex digits
// (OCI image-spec, descriptor.md, "Digests"). The zero value means unknown.
type Digest string

const digestPrefix = "sha256:"

// ParseDigest returns s as a Digest, or an error if it is not in canonical form.
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(h) != 2*sha256.Size {
		return "", fmt.Errorf("digest %.80q is not sha256 and 64 hex digits", s)
	}
	for _, c := range []byte(h) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("digest %.80q is not sha256 and 64 hex digits", s)
		}
	}
	return Digest(s), nil
}

// DigestOf is the digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return DigestFromSum(sum[:])
}

// DigestFrom is the digest that the SHA-256 state h has reached.
func DigestFrom(h hash.Hash) Digest { return DigestFromSum(h.Sum(nil)) }

// DigestFromSum names a raw 32-byte SHA-256.
func DigestFromSum(sum []byte) Digest { return Digest(digestPrefix + hex.EncodeToString(sum)) }

// DigestFromHex names a SHA-256 that a vendor's list gives in hex of either case.
func DigestFromHex(h string) (Digest, error) {
	return ParseDigest(digestPrefix + strings.ToLower(h))
}

// Hex is the digest without its algorithm: the blob's file name.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), digestPrefix) }

// Sum is the raw digest; nil if d is not valid.
func (d Digest) Sum() []byte {
	if _, err := ParseDigest(string(d)); err != nil {
		return nil
	}
	b, _ := hex.DecodeString(d.Hex())
	return b
}

// UnmarshalText refuses every form but the canonical one; empty stays unknown.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = ""
		return nil
	}
	v, err := ParseDigest(string(b))
	*d = v
	return err
}
