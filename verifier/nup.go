package verifier

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/nup"
)

// UseESET is the Use of anchors whose Data is the fingerprint of a key that
// signs ESET's modules: 40 hex digits, blanks do not matter. The key itself is
// in every module.
const UseESET = "eset-update"

// ESETAnchors is the key found in 560 modules of three years (2016, 2017, 2021).
// It rests on public collections, not on ESET's word: a feed believes it only
// after its operator has confirmed it.
func ESETAnchors() []feed.Anchor {
	return []feed.Anchor{{Name: "eset-update-signing", Use: UseESET, Data: []byte("A9EBA18B69CA83765FBD72139BD8A6AFB8C9B029"),
		Source: "observed in ESET modules of 2016, 2017 and 2021; to be confirmed by the operator"}}
}

// ESETModule checks a module (.nup): its RSA signature, version 3 with SHA-512,
// by a key with a pinned fingerprint among those that the operator confirmed.
// It returns the signed [update_info]. nup.ErrEnvelope is among the errors if
// the file has another form than the known one, which is for the caller to
// weigh; all errors are ErrUntrusted.
//
// Not covered by that signature, and so not proved: the literal packet's name
// and date, the user name and the certifications in the certificate, and the
// second signature (DSA with SHA-1) but for its announced hash: its key is not
// public. None of it reaches what a terminal installs.
func ESETModule(r io.ReaderAt, size int64, confirmed []string, trust feed.Trust) (info []byte, ev feed.Evidence, err error) {
	bad := func(why string) ([]byte, feed.Evidence, error) {
		return nil, feed.Evidence{}, fmt.Errorf("ESET module: %s: %w", why, feed.ErrUntrusted)
	}
	f, err := nup.Read(r, size)
	if err != nil {
		return nil, feed.Evidence{}, fmt.Errorf("ESET module: %w: %w", err, feed.ErrUntrusted)
	}
	a, ok := esetAnchor(f.Fingerprint, confirmed, trust)
	if !ok {
		return bad("key " + f.Fingerprint + " is not pinned, or not confirmed (keys)")
	}
	if f.Key.N.BitLen() < 2048 {
		return bad("weak key")
	}
	var signed *nup.Signature
	for i, s := range f.Signatures {
		strong, weak := s.Algorithm == 1 && s.Hash == 10, s.Algorithm == 17 && s.Hash == 2
		h := sha512.New()
		if weak {
			h = sha1.New()
		}
		if s.Type != 0 || !strong && !weak || strong && (s.KeyID != f.KeyID || signed != nil) {
			return bad("a signature of another kind")
		}
		if err := f.Hash(h, s); err != nil {
			return nil, feed.Evidence{}, err
		}
		sum := h.Sum(nil)
		if sum[0] != s.Tag[0] || sum[1] != s.Tag[1] {
			return bad("its content is not what was signed")
		}
		if !strong {
			continue
		}
		value := make([]byte, f.Key.Size())
		if len(s.Value) > len(value) {
			return bad("a signature too long")
		}
		copy(value[len(value)-len(s.Value):], s.Value)
		if rsa.VerifyPKCS1v15(f.Key, crypto.SHA512, sum, value) != nil {
			return bad("the signature does not hold")
		}
		signed = &f.Signatures[i]
	}
	switch {
	case signed == nil:
		return bad("no signature by its own key")
	case signed.Created.After(trust.At.Add(clockAllowance)):
		return bad("signed in the future, " + signed.Created.Format(time.RFC3339))
	}
	for _, id := range []string{f.Fingerprint, string(a.SHA256())} {
		if d, ok := trust.Distrusted(id, signed.Created); ok {
			return bad("the key is distrusted by order: " + d.Reason)
		}
	}
	return f.Info, feed.Evidence{Method: "eset-nup", Strength: feed.Signed, Signer: f.UserID, KeyID: f.Fingerprint, Anchor: a.Name, SignedAt: signed.Created,
		Note: "tier A': the key was observed in real modules and confirmed by the operator"}, nil
}

func esetAnchor(fingerprint string, confirmed []string, trust feed.Trust) (feed.Anchor, bool) {
	for _, a := range trust.For(UseESET) {
		pin := strings.ToUpper(strings.Join(strings.Fields(string(a.Data)), ""))
		for _, c := range confirmed {
			if pin == fingerprint && strings.EqualFold(c, pin) {
				return a, true
			}
		}
	}
	return feed.Anchor{}, false
}

// IsESETEnvelope reports whether an error of ESETModule says that the file has
// not the known form.
func IsESETEnvelope(err error) bool { return errors.Is(err, nup.ErrEnvelope) }
