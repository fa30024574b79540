package verifier

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// stamped takes the signature's time from a time stamp among its unsigned
// attributes: an RFC 3161 token, else the older counter-signature (PKCS#9
// §6.6). A stamp that is there and does not hold is an error: nobody but an
// attacker breaks one. A counter-signature with SHA-1 is passed over, as if
// there were none: the time could be forged.
func (s *msSigner) stamped() error {
	attrs, err := unsigned(s.info)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		switch {
		case a.Type.Equal(oidSpcTimeStamp):
			if s.stamp, err = timeStamp(a.Values.Bytes, s.info.Signature); err != nil {
				return fmt.Errorf("time stamp: %w", err)
			}
			s.time = s.stamp.time
			return nil
		case a.Type.Equal(oidCounterSign) && s.stamp == nil:
			if s.stamp, err = s.counterSigned(a.Values.Bytes); err != nil {
				return fmt.Errorf("counter-signature: %w", err)
			}
			if s.stamp != nil {
				s.time = s.stamp.time
			}
		}
	}
	return nil
}

// counterSigned checks a counter-signature: a SignerInfo over the signature's
// value, its certificates among those of the file's signature. nil if it is
// made with a hash that proves nothing.
func (s *msSigner) counterSigned(der []byte) (*msSigner, error) {
	var info cmsSignerInfo
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 || info.Signer.Serial == nil {
		return nil, errors.New("malformed")
	}
	if err := wholeSigner(info); err != nil {
		return nil, err
	}
	if _, err := cmsHash(info.Digest.Algorithm); err != nil {
		return nil, nil
	}
	c, _, err := signerOf(info, s.others, s.info.Signature, oidData)
	if err != nil {
		return nil, err
	}
	for raw := info.Signed.Bytes; len(raw) > 0; {
		var a cmsAttribute
		if raw, err = asn1.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
		if a.Type.Equal(oidSigningTime) {
			_, err := asn1.Unmarshal(a.Values.Bytes, &c.time)
			return c, err
		}
	}
	return nil, errors.New("without a time")
}

// tstInfo is RFC 3161 2.4.2, as far as it matters.
type tstInfo struct {
	Version int
	Policy  asn1.ObjectIdentifier
	Imprint struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	Serial *big.Int
	Time   asn1.RawValue
}

// timeStamp checks an RFC 3161 token over a signature's value.
func timeStamp(der, signature []byte) (*msSigner, error) {
	sd, content, err := signedData(der, oidTSTInfo)
	if err != nil {
		return nil, err
	}
	s, _, err := signerIn(sd, content, oidTSTInfo)
	if err != nil {
		return nil, err
	}
	var seq asn1.RawValue
	if rest, err := asn1.Unmarshal(content, &seq); err != nil || len(rest) > 0 {
		return nil, errors.New("malformed")
	}
	var info tstInfo
	raw := seq.Bytes
	for _, into := range []any{&info.Version, &info.Policy, &info.Imprint, &info.Serial, &info.Time} {
		if raw, err = asn1.Unmarshal(raw, into); err != nil {
			return nil, err
		}
	}
	h, err := cmsHash(info.Imprint.Algorithm.Algorithm)
	if err != nil {
		return nil, err
	}
	d := h.New()
	d.Write(signature)
	if !bytes.Equal(d.Sum(nil), info.Imprint.Digest) {
		return nil, errors.New("of another signature")
	}
	// encoding/asn1 refuses the trailing zeros that a fraction may have.
	s.time, err = time.Parse("20060102150405Z0700", string(info.Time.Bytes))
	if err != nil || info.Time.Tag != asn1.TagGeneralizedTime {
		return nil, fmt.Errorf("time %.40q", info.Time.Bytes)
	}
	return s, nil
}

// StampedAt is the time in the time stamp of a file's strongest signature: zero
// without one. Nothing is judged: it dates a file whose signature was found
// good by Authenticode.
func StampedAt(r io.ReaderAt, size int64) (time.Time, error) {
	c, err := containerOf(r, size)
	if err != nil {
		return time.Time{}, err
	}
	all, err := signaturesIn(c.signature)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
	}
	var latest time.Time
	for _, der := range strongest(all) {
		sd, _, err := signedData(der, oidSpcIndirect)
		if err != nil {
			continue
		}
		certs, err := parseCerts(onlyX509(sd.Certificates.Bytes))
		if err != nil {
			continue
		}
		s := &msSigner{info: sd.Signers[0], cmsSigner: cmsSigner{others: certs}}
		if s.stamped() == nil && s.time.After(latest) {
			latest = s.time
		}
	}
	return latest, nil
}
