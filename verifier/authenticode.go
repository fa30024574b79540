package verifier

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Authenticode ("Windows Authenticode Portable Executable Signature Format",
// 2008; Windows SDK wintrust.h for cabinets): PKCS#7 SignedData over an
// SpcIndirectDataContent that holds the file's digest. Policy:
//
//   - A signature with SHA-256 or better must hold: the first one, or one nested
//     in it. SHA-1 signatures are not looked at: where both are there, the
//     stronger one decides.
//   - The signer is Microsoft Corporation, its certificate is for code signing
//     and leads to a root pinned here.
//   - The chain is judged at the time of an RFC 3161 time stamp that leads to a
//     pinned root too; without one, at Trust.At: an expired certificate then
//     does not hold.
//   - Revocation is by order (feed.Distrust) only: no network.

// Source of all three: Microsoft's list of trusted roots (authroot.stl).
// SHA-256 of the DER:
//
//	2010             DF545BF919A2439C36983B54CDFC903DFA4F37D3996D8D84B4C31EEC6F3C163E
//	2011             847DF6A78497943F27FC72EB93F9A637320A02B561D0A91B09E87A7807ED7C61
//	Time Stamp 2014  65AF95F4BE86847344634282F941B2E605063EF0C8542F014CA088D182109E4F
var (
	//go:embed anchors/microsoft-root-2010.crt
	microsoftRoot2010 []byte
	//go:embed anchors/microsoft-root-2011.crt
	microsoftRoot2011 []byte
	//go:embed anchors/microsoft-timestamp-root-2014.crt
	microsoftStampRoot2014 []byte
)

const useMicrosoft = "x509-microsoft" // root certificates, PEM

// MicrosoftAnchors are the roots pinned in this build.
func MicrosoftAnchors() []feed.Anchor {
	const source = "Microsoft's list of trusted roots (authroot.stl)"
	return []feed.Anchor{
		{Name: "microsoft-root-2010", Use: useMicrosoft, Data: microsoftRoot2010, Source: source},
		{Name: "microsoft-root-2011", Use: useMicrosoft, Data: microsoftRoot2011, Source: source},
		{Name: "microsoft-timestamp-root-2014", Use: useMicrosoft, Data: microsoftStampRoot2014, Source: source},
	}
}

// ErrUnsigned: the file carries no signature at all.
var ErrUnsigned = fmt.Errorf("no Authenticode signature: %w", feed.ErrUntrusted)

var (
	oidSpcIndirect  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidSpcNested    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 4, 1}
	oidSpcTimeStamp = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 3, 3, 1}
	oidTSTInfo      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
)

const (
	microsoftName  = "Microsoft Corporation"
	maxNested      = 8
	maxSignature   = 1 << 20
	maxSignedAttrs = 64
)

type spcIndirect struct {
	Data   asn1.RawValue
	Digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
}

// authenticode checks a file's signature block. digest gives the file's own
// digest by the rules of its container.
func authenticode(der []byte, digest func(crypto.Hash) ([]byte, error), trust feed.Trust) (feed.Evidence, error) {
	roots, anchors, err := x509Roots(trust, useMicrosoft)
	if err != nil {
		return feed.Evidence{}, err
	}
	all, err := signaturesIn(der)
	var why []error
	if err != nil {
		why = append(why, err)
	}
	for _, one := range all {
		s, err := spcSignature(one, digest)
		if err == nil {
			err = s.judge(trust, roots, anchors)
		}
		if err == nil {
			return s.evidence("authenticode"), nil
		}
		why = append(why, err)
	}
	return feed.Evidence{}, fmt.Errorf("%w: %w", errors.Join(why...), feed.ErrUntrusted)
}

// signaturesIn lists the outer signature and those nested in it.
func signaturesIn(der []byte) ([][]byte, error) {
	sd, _, err := signedData(der, oidSpcIndirect)
	if err != nil {
		return nil, err
	}
	out := [][]byte{der}
	for _, a := range unsigned(sd.Signers[0]) {
		if !a.Type.Equal(oidSpcNested) {
			continue
		}
		for raw := a.Values.Bytes; len(raw) > 0 && len(out) <= maxNested; {
			var v asn1.RawValue
			if raw, err = asn1.Unmarshal(raw, &v); err != nil {
				return out, err
			}
			out = append(out, v.FullBytes)
		}
	}
	return out, nil
}

// signedData reads one SignedData with one signer and content of the given
// type. The content returned is what its digest covers: the inner element
// without tag and length (PKCS#7 1.5 §9.3, CMS §5.4).
func signedData(der []byte, content asn1.ObjectIdentifier) (cmsSignedData, []byte, error) {
	var ci cmsContentInfo
	var sd cmsSignedData
	rest, err := asn1.Unmarshal(der, &ci)
	if err != nil {
		return sd, nil, fmt.Errorf("PKCS#7: %w", err)
	}
	if len(rest) > 7 || len(bytes.Trim(rest, "\x00")) > 0 || !ci.Type.Equal(oidSignedData) { // padded to 8 bytes
		return sd, nil, errors.New("PKCS#7: not one SignedData")
	}
	if rest, err = asn1.Unmarshal(ci.Content.Bytes, &sd); err != nil || len(rest) > 0 {
		return sd, nil, fmt.Errorf("PKCS#7: SignedData: %w", errors.Join(err, errors.New("malformed")))
	}
	if !sd.Content.Type.Equal(content) || len(sd.Signers) != 1 || sd.Signers[0].Signer.Serial == nil {
		return sd, nil, fmt.Errorf("PKCS#7: content %s, %d signers", sd.Content.Type, len(sd.Signers))
	}
	var inner asn1.RawValue
	if rest, err = asn1.Unmarshal(sd.Content.Data.Bytes, &inner); err != nil || len(rest) > 0 {
		return sd, nil, errors.New("PKCS#7: content is not one value")
	}
	return sd, inner.Bytes, nil
}

// unsigned lists the attributes outside the signature.
func unsigned(si cmsSignerInfo) []cmsAttribute {
	var out []cmsAttribute
	for raw := si.Unsigned.Bytes; len(raw) > 0 && len(out) < maxSignedAttrs; {
		var a cmsAttribute
		rest, err := asn1.Unmarshal(raw, &a)
		if err != nil {
			return out
		}
		out, raw = append(out, a), rest
	}
	return out
}

// msSigner is a signature that holds; who made it is not judged yet.
type msSigner struct {
	cmsSigner
	info  cmsSignerInfo
	stamp *msSigner // with the time; nil without one
}

// spcSignature checks one signature over the file.
func spcSignature(der []byte, digest func(crypto.Hash) ([]byte, error)) (*msSigner, error) {
	sd, content, err := signedData(der, oidSpcIndirect)
	if err != nil {
		return nil, err
	}
	s, h, err := signerOf(sd, content, oidSpcIndirect)
	if err != nil {
		return nil, err
	}
	// content lacks its own tag; the two members follow each other.
	var spc spcIndirect
	rest, err := asn1.Unmarshal(content, &spc.Data)
	if err == nil {
		rest, err = asn1.Unmarshal(rest, &spc.Digest)
	}
	if err != nil || len(rest) > 0 {
		return nil, errors.New("Authenticode: malformed content")
	}
	if of, err := cmsHash(spc.Digest.Algorithm.Algorithm); err != nil || of != h {
		return nil, errors.New("Authenticode: two hash algorithms")
	}
	want, err := digest(h)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(want, spc.Digest.Digest) {
		return nil, errors.New("Authenticode: signature of another file")
	}
	for _, a := range unsigned(s.info) {
		if a.Type.Equal(oidSpcTimeStamp) {
			if s.stamp, err = timeStamp(a.Values.Bytes, s.info.Signature); err != nil {
				return nil, fmt.Errorf("time stamp: %w", err)
			}
			s.time = s.stamp.time
			break
		}
	}
	return s, nil
}

// signerOf checks the signature over the attributes and the digest of content among them.
func signerOf(sd cmsSignedData, content []byte, kind asn1.ObjectIdentifier) (*msSigner, crypto.Hash, error) {
	certs, err := parseCerts(onlyX509(sd.Certificates.Bytes))
	if err != nil {
		return nil, 0, fmt.Errorf("PKCS#7: %w", err)
	}
	s := &msSigner{info: sd.Signers[0], cmsSigner: cmsSigner{others: certs}}
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, s.info.Signer.Issuer.FullBytes) && c.SerialNumber.Cmp(s.info.Signer.Serial) == 0
	})
	if i < 0 {
		return nil, 0, errors.New("PKCS#7: the signer's certificate is missing")
	}
	s.leaf = certs[i]
	h, err := cmsHash(s.info.Digest.Algorithm)
	if err != nil {
		return nil, 0, err
	}
	digest, err := signedAttributes(s.info.Signed.Bytes, kind)
	if err != nil {
		return nil, 0, err
	}
	d := h.New()
	d.Write(content)
	if !bytes.Equal(digest, d.Sum(nil)) {
		return nil, 0, errors.New("PKCS#7: signature of other content")
	}
	set := bytes.Clone(s.info.Signed.FullBytes)
	set[0] = asn1.TagSet | 0x20
	d.Reset()
	d.Write(set)
	if err := verifySum(s.leaf.PublicKey, h, d.Sum(nil), s.info.Signature); err != nil {
		return nil, 0, fmt.Errorf("PKCS#7 signature of %s: %w", s.leaf.Subject.CommonName, err)
	}
	return s, h, nil
}

// onlyX509 leaves out the other choices of CMS 10.2.2: Microsoft's time stamps
// carry an attribute certificate.
func onlyX509(raw []byte) []byte {
	var out []byte
	for len(raw) > 0 {
		var one asn1.RawValue
		rest, err := asn1.Unmarshal(raw, &one)
		if err != nil {
			return append(out, raw...) // for the caller to stumble over
		}
		if one.Class == asn1.ClassUniversal {
			out = append(out, one.FullBytes...)
		}
		raw = rest
	}
	return out
}

// signedAttributes returns the signed digest; the content type must be kind.
func signedAttributes(raw []byte, kind asn1.ObjectIdentifier) (digest []byte, err error) {
	typed := false
	for n := 0; len(raw) > 0; n++ {
		var a cmsAttribute
		if raw, err = asn1.Unmarshal(raw, &a); err != nil || n > maxSignedAttrs {
			return nil, errors.New("PKCS#7: malformed attributes")
		}
		var rest []byte
		switch {
		case a.Type.Equal(oidMessageDigest) && digest == nil:
			rest, err = asn1.Unmarshal(a.Values.Bytes, &digest)
		case a.Type.Equal(oidContentType) && !typed:
			var t asn1.ObjectIdentifier
			rest, err = asn1.Unmarshal(a.Values.Bytes, &t)
			typed = t.Equal(kind)
		case a.Type.Equal(oidMessageDigest), a.Type.Equal(oidContentType):
			err = errors.New("twice")
		}
		if err != nil || len(rest) > 0 {
			return nil, fmt.Errorf("PKCS#7: attribute %s: not one value", a.Type)
		}
	}
	if len(digest) == 0 || !typed {
		return nil, errors.New("PKCS#7: attributes without digest or content type")
	}
	return digest, nil
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
	s, _, err := signerOf(sd, content, oidTSTInfo)
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

// judge leads signer and time stamp to pinned roots.
func (s *msSigner) judge(trust feed.Trust, roots *x509.CertPool, anchors map[string]feed.Anchor) error {
	at := trust.At
	if s.stamp != nil {
		at = s.stamp.time
		if at.After(trust.At.Add(clockAllowance)) {
			return fmt.Errorf("stamped in the future, %s", at.Format(time.RFC3339))
		}
		if err := s.stamp.leads(at, trust, roots, anchors, x509.ExtKeyUsageTimeStamping); err != nil {
			return fmt.Errorf("time stamp: %w", err)
		}
	}
	if !slices.Equal(s.leaf.Subject.Organization, []string{microsoftName}) {
		return fmt.Errorf("signed by %.200q, not by %s", s.leaf.Subject, microsoftName)
	}
	return s.leads(at, trust, roots, anchors, x509.ExtKeyUsageCodeSigning)
}

func (s *msSigner) leads(at time.Time, trust feed.Trust, roots *x509.CertPool, anchors map[string]feed.Anchor, usage x509.ExtKeyUsage) error {
	inter := x509.NewCertPool()
	for _, c := range s.others {
		inter.AddCert(c)
	}
	chains, err := s.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", s.leaf.Subject.CommonName, err)
	}
	why := error(nil)
	for _, chain := range chains {
		if why = trustedChain(trust, chain, s.time); why == nil {
			s.anchor = anchors[string(chain[len(chain)-1].Raw)]
			return nil
		}
	}
	return why
}

// digestOf hashes ranges of a file.
func digestOf(h crypto.Hash, r io.ReaderAt, ranges ...[2]int64) ([]byte, error) {
	d := h.New()
	for _, x := range ranges {
		if _, err := io.Copy(d, io.NewSectionReader(r, x[0], x[1]-x[0])); err != nil {
			return nil, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
		}
	}
	return d.Sum(nil), nil
}
