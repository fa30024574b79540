package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

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
	if err := wholeData(ci, sd); err != nil {
		return sd, nil, fmt.Errorf("PKCS#7: %w", err)
	}
	var inner asn1.RawValue
	if rest, err = asn1.Unmarshal(sd.Content.Data.Bytes, &inner); err != nil || len(rest) > 0 {
		return sd, nil, errors.New("PKCS#7: content is not one value")
	}
	// The digest leaves this tag out.
	if octets := content.Equal(oidTSTInfo); inner.Class != asn1.ClassUniversal || inner.IsCompound == octets ||
		octets != (inner.Tag == asn1.TagOctetString) || !octets && inner.Tag != asn1.TagSequence {
		return sd, nil, errors.New("PKCS#7: content of another type")
	}
	return sd, inner.Bytes, nil
}

// wholeData refuses what encoding/asn1 lets pass: elements after those of a
// structure, and a list of digests without the signer's.
func wholeData(ci cmsContentInfo, sd cmsSignedData) error {
	optional := 0
	for _, v := range []asn1.RawValue{sd.Certificates, sd.CRLs} {
		if len(v.FullBytes) > 0 {
			optional++
		}
	}
	if !has(ci.Raw, 2) || !has(sd.Raw, 4+optional) || !has(sd.Content.Raw, 2) {
		return errors.New("more in it than belongs there")
	}
	si := sd.Signers[0]
	version := 1
	if sd.Content.Type.Equal(oidTSTInfo) { // RFC 5652 §5.1: content that is not "data"; PKCS#7 1.5 knew no other than 1
		version = 3
	}
	if sd.Version != version || si.Version != 1 || !sd.Certificates.IsCompound {
		return errors.New("not in the form that signing tools write")
	}
	for _, a := range append(slices.Clone(sd.Digests), si.Digest) {
		if !bare(a) {
			return errors.New("a hash with parameters")
		}
	}
	if !slices.ContainsFunc(sd.Digests, func(a pkix.AlgorithmIdentifier) bool { return a.Algorithm.Equal(si.Digest.Algorithm) }) {
		return errors.New("the signer's hash is not announced")
	}
	return wholeSigner(si)
}

// has reports that a structure has exactly n elements.
func has(raw asn1.RawContent, n int) bool {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(raw, &outer); err != nil || len(rest) > 0 {
		return false
	}
	for in := outer.Bytes; len(in) > 0; n-- {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(in, &v)
		if err != nil {
			return false
		}
		in = rest
	}
	return n == 0
}

// bare reports whether an algorithm has no parameters, in either spelling.
func bare(a pkix.AlgorithmIdentifier) bool {
	p := a.Parameters.FullBytes
	return len(p) == 0 || bytes.Equal(p, asn1.NullBytes)
}

// namesKey reports whether a signature's algorithm fits the key that it is
// checked with: RSA with PKCS#1 v1.5 (RFC 3279 §2.3.1, RFC 4055 §5) or ECDSA
// (RFC 5758 §3.2).
func namesKey(a pkix.AlgorithmIdentifier, key any) bool {
	arc := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1} // rsaEncryption 1, SHA-1 5, SHA-256 to 512 11 to 13
	last := []int{1, 5, 11, 12, 13}
	if _, ok := key.(*ecdsa.PublicKey); ok {
		arc, last = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3}, []int{2, 3, 4}
	}
	n := len(a.Algorithm) - 1
	return n == len(arc) && a.Algorithm[:n].Equal(arc) && slices.Contains(last, a.Algorithm[n]) && bare(a)
}

// signerIn is signerOf for the one signer of a SignedData.
func signerIn(sd cmsSignedData, content []byte, kind asn1.ObjectIdentifier) (*msSigner, crypto.Hash, error) {
	certs, err := parseCerts(onlyX509(sd.Certificates.Bytes))
	if err != nil {
		return nil, 0, fmt.Errorf("PKCS#7: %w", err)
	}
	return signerOf(sd.Signers[0], certs, content, kind)
}

// signerOf checks the signature over the attributes and the digest of content among them.
func signerOf(info cmsSignerInfo, certs []*x509.Certificate, content []byte, kind asn1.ObjectIdentifier) (*msSigner, crypto.Hash, error) {
	s := &msSigner{info: info, cmsSigner: cmsSigner{others: certs}}
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, s.info.Signer.Issuer.FullBytes) && c.SerialNumber.Cmp(s.info.Signer.Serial) == 0
	})
	if i < 0 {
		return nil, 0, errors.New("PKCS#7: the signer's certificate is missing")
	}
	s.leaf = certs[i]
	if !namesKey(s.info.Algorithm, s.leaf.PublicKey) {
		return nil, 0, errors.New("PKCS#7: a signature of another algorithm than its key")
	}
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
