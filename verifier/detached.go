package verifier

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Antivirus vendors sign files with detached CMS SignedData (RFC 5652) under
// roots of their own, which they do not publish: a site takes the root from its
// installed product and adds it by a trust order.

// MaxDetached is the most bytes of one detached signature.
const MaxDetached = 1 << 20

// Detached checks a detached signature, DER or PEM, over a file. Its chain must
// end at an anchor of this Use; any purpose of the certificate will do, as the
// vendors' own clients and their users' gateways have it.
//
// signed is when the content was made if the content itself says so, else
// zero. Certificates are judged at that time or at the signature's own, and
// never after trust.At: vendors leave old files as they are. The evidence lacks
// Path and Subject. Errors are ErrUntrusted, or ErrConfig for an unreadable anchor.
func Detached(r io.ReaderAt, size int64, sig []byte, use string, signed time.Time, trust feed.Trust) (feed.Evidence, error) {
	if len(sig) > MaxDetached {
		return feed.Evidence{}, fmt.Errorf("signature of %d bytes: %w", len(sig), feed.ErrUntrusted)
	}
	roots, anchors, err := x509Roots(trust, use)
	if err != nil {
		return feed.Evidence{}, untrusted(err)
	}
	s, err := cmsDetached(der(sig), func(h crypto.Hash) ([]byte, error) {
		d := h.New()
		_, err := io.Copy(d, io.NewSectionReader(r, 0, size))
		return d.Sum(nil), err
	})
	if err != nil {
		return feed.Evidence{}, untrusted(err)
	}
	if s.time.IsZero() {
		s.time = signed
	}
	at := trust
	if !s.time.IsZero() && s.time.Before(at.At) {
		at.At = s.time
	}
	if s.time.After(trust.At.Add(clockAllowance)) {
		return feed.Evidence{}, fmt.Errorf("signed in the future, %s: %w", s.time.Format(time.RFC3339), feed.ErrUntrusted)
	}
	if err := s.chain(at, roots, anchors, x509.ExtKeyUsageAny); err != nil {
		return feed.Evidence{}, untrusted(err)
	}
	ev := s.evidence("cms-detached")
	if s.leaf.NotAfter.Before(trust.At) {
		ev.Note = "the signer's certificate ended " + s.leaf.NotAfter.UTC().Format(time.DateOnly) + "; judged at the time of signing"
	}
	return ev, nil
}

// DetachedTime is when a detached signature says that it was made; zero if it
// does not. Nothing is checked.
func DetachedTime(sig []byte) time.Time {
	sd, err := parseCMS(der(sig))
	if err != nil {
		return time.Time{}
	}
	var s cmsSigner
	if _, err := s.attributes(sd.Signers[0].Signed.Bytes); err != nil {
		return time.Time{}
	}
	return s.time.UTC()
}

// der takes the armor off. What is behind one SignedData is parseCMS's to refuse.
func der(b []byte) []byte {
	if len(b) > 0 && b[0] == asn1.TagSequence|0x20 {
		return b
	}
	if p, _ := pem.Decode(b); p != nil {
		return p.Bytes
	}
	return b
}
