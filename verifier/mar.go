package verifier

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/mar"
)

// UseMAR is the use of anchors that sign update archives of Firefox and
// Thunderbird: X.509 certificates (DER) of which only the key counts. The
// vendor's updater does not look at their dates either.
const UseMAR = "mar"

// MARIdentity is what a MAR file must say of itself: the updater compares both.
type MARIdentity struct {
	Channel  string   // "thunderbird-comm-esr": one of the terminal's ACCEPTED_MAR_CHANNEL_IDS
	Versions []string // one of these; the vendor's version without or with its suffix
}

// MAR checks an update archive as the vendor's updater does before it applies
// one: exactly one signature, RSA PKCS#1 v1.5 over SHA-384, by a pinned key;
// then its product information. It is stricter in the layout (format/mar) and
// takes only the versions asked for. SHA-1 signatures, which updaters took
// until 2017, are refused. The evidence lacks Path and Subject.
//
// A signature has no date: that a file is not older than another is for the
// caller to see to.
func MAR(r io.ReaderAt, size int64, want MARIdentity, trust feed.Trust) (feed.Evidence, error) {
	f, err := mar.Read(r, size)
	if err != nil {
		return feed.Evidence{}, marFault(err)
	}
	if err := marSigned(f); err != nil {
		return feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
	}
	keys, err := marKeys(trust)
	if err != nil {
		return feed.Evidence{}, err
	}
	h := sha512.New384()
	if err := f.Signed(h, r); err != nil {
		return feed.Evidence{}, marFault(err)
	}
	sum := h.Sum(nil)
	i := slices.IndexFunc(keys, func(k marKey) bool {
		return rsa.VerifyPKCS1v15(k.pub, crypto.SHA384, sum, f.Signatures[0].Data) == nil
	})
	if i < 0 {
		return feed.Evidence{}, fmt.Errorf("MAR signature by none of %d pinned keys: %w", len(keys), feed.ErrUntrusted)
	}
	k := keys[i]
	if d, ok := trust.Distrusted(k.id, time.Time{}); ok {
		return feed.Evidence{}, fmt.Errorf("MAR key %s is distrusted by order: %s: %w", k.name, d.Reason, feed.ErrUntrusted)
	}
	if d, ok := trust.Distrusted(string(k.anchor.SHA256()), time.Time{}); ok {
		return feed.Evidence{}, fmt.Errorf("MAR key %s is distrusted by order: %s: %w", k.name, d.Reason, feed.ErrUntrusted)
	}
	switch {
	case !f.Informed:
		return feed.Evidence{}, fmt.Errorf("MAR without product information: %w", feed.ErrUntrusted)
	case f.Channel != want.Channel:
		return feed.Evidence{}, fmt.Errorf("MAR of channel %q, not %q: %w", f.Channel, want.Channel, feed.ErrUntrusted)
	case !slices.Contains(want.Versions, f.Version):
		return feed.Evidence{}, fmt.Errorf("MAR of version %q, not %q: %w", f.Version, want.Versions, feed.ErrUntrusted)
	}
	return feed.Evidence{Method: "mar", Strength: feed.Signed, Signer: k.name, KeyID: k.id, Anchor: k.anchor.Name}, nil
}

// marFault keeps apart what is wrong with the file and with reading it.
func marFault(err error) error {
	if errors.Is(err, mar.ErrFormat) {
		return fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
	}
	return fmt.Errorf("%w: %w", err, feed.ErrDamaged)
}

// marSigned: the updater wants as many signatures as it offers keys at a time,
// which is one.
func marSigned(f *mar.File) error {
	switch {
	case len(f.Signatures) == 0:
		return errors.New("MAR without a signature")
	case len(f.Signatures) > 1:
		return fmt.Errorf("MAR with %d signatures", len(f.Signatures))
	case f.Signatures[0].Algorithm == mar.SHA1:
		return errors.New("MAR signed with SHA-1 alone")
	case f.Signatures[0].Algorithm != mar.SHA384:
		return fmt.Errorf("MAR signature algorithm %d", f.Signatures[0].Algorithm)
	}
	return nil
}

type marKey struct {
	pub      *rsa.PublicKey
	name, id string
	anchor   feed.Anchor
}

// marKeys reads the pinned certificates. ErrConfig for one that is none.
func marKeys(trust feed.Trust) ([]marKey, error) {
	var out []marKey
	for _, a := range trust.For(UseMAR) {
		c, err := x509.ParseCertificate(a.Data)
		if err != nil {
			return nil, fmt.Errorf("anchor %s: %w: %w", a.Name, err, feed.ErrConfig)
		}
		pub, ok := c.PublicKey.(*rsa.PublicKey)
		if !ok || pub.N.BitLen() < 2048 {
			return nil, fmt.Errorf("anchor %s has no RSA key of 2048 bits or more: %w", a.Name, feed.ErrConfig)
		}
		id := a.SHA256().Sum()
		out = append(out, marKey{pub, c.Subject.CommonName, strings.ToUpper(hex.EncodeToString(id)), a})
	}
	return out, nil
}
