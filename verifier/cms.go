package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// CMS SignedData (RFC 5652), as much of it as detached signatures over a file
// use: one signer, signed attributes, certificates embedded, DER throughout.

const maxCMSCerts = 16

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
)

type cmsContentInfo struct {
	Raw     asn1.RawContent
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type cmsSignedData struct {
	Raw     asn1.RawContent
	Version int
	Digests []pkix.AlgorithmIdentifier `asn1:"set"`
	Content struct {
		Raw  asn1.RawContent
		Type asn1.ObjectIdentifier
		Data asn1.RawValue `asn1:"explicit,optional,tag:0"`
	}
	Certificates asn1.RawValue   `asn1:"optional,tag:0"`
	CRLs         asn1.RawValue   `asn1:"optional,tag:1"`
	Signers      []cmsSignerInfo `asn1:"set"`
}

type cmsSignerInfo struct {
	Raw     asn1.RawContent
	Version int
	Signer  struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	Digest    pkix.AlgorithmIdentifier
	Signed    asn1.RawValue `asn1:"optional,tag:0"`
	Algorithm pkix.AlgorithmIdentifier
	Signature []byte
	Unsigned  asn1.RawValue `asn1:"optional,tag:1"`
}

type cmsAttribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue `asn1:"set"`
}

// cmsSigner is a signer whose signature holds; its chain is not checked yet.
type cmsSigner struct {
	leaf   *x509.Certificate
	others []*x509.Certificate
	time   time.Time // as the signature says; zero if it does not
	anchor feed.Anchor
}

// cmsDetached checks the one signature in der over content known by its hash.
func cmsDetached(der []byte, hash func(crypto.Hash) ([]byte, error)) (cmsSigner, error) {
	sd, err := parseCMS(der)
	if err != nil {
		return cmsSigner{}, fmt.Errorf("PKCS#7: %w", err)
	}
	certs, err := parseCerts(sd.Certificates.Bytes)
	if err != nil {
		return cmsSigner{}, fmt.Errorf("PKCS#7: %w", err)
	}
	si := sd.Signers[0]
	s := cmsSigner{others: certs}
	for _, c := range certs {
		if bytes.Equal(c.RawIssuer, si.Signer.Issuer.FullBytes) && c.SerialNumber.Cmp(si.Signer.Serial) == 0 {
			s.leaf = c
		}
	}
	if s.leaf == nil {
		return cmsSigner{}, errors.New("PKCS#7: the signer's certificate is missing")
	}
	err = s.check(si, hash)
	return s, err
}

func parseCMS(der []byte) (cmsSignedData, error) {
	var ci cmsContentInfo
	var sd cmsSignedData
	rest, err := asn1.Unmarshal(der, &ci)
	if err != nil || len(rest) > 0 || !ci.Type.Equal(oidSignedData) {
		return sd, fmt.Errorf("not one SignedData: %w", errors.Join(err, errors.New("wrong type or length")))
	}
	rest, err = asn1.Unmarshal(ci.Content.Bytes, &sd)
	switch {
	case err != nil:
		return sd, err
	case len(rest) > 0:
		return sd, errors.New("bytes after the SignedData")
	case !sd.Content.Type.Equal(oidData) || len(sd.Content.Data.FullBytes) > 0:
		return sd, errors.New("not a detached signature over data")
	case len(sd.Signers) != 1 || sd.Signers[0].Signer.Serial == nil:
		return sd, fmt.Errorf("%d signers", len(sd.Signers))
	}
	return sd, nil
}

func parseCerts(raw []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(raw) > 0 {
		var one asn1.RawValue
		rest, err := asn1.Unmarshal(raw, &one)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(one.FullBytes)
		if err != nil {
			return nil, err
		}
		if out = append(out, c); len(out) > maxCMSCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCMSCerts)
		}
		raw = rest
	}
	return out, nil
}

// check verifies the signature over the attributes and the digest among them.
func (s *cmsSigner) check(si cmsSignerInfo, hash func(crypto.Hash) ([]byte, error)) error {
	h, err := cmsHash(si.Digest.Algorithm)
	if err != nil {
		return err
	}
	want, err := hash(h)
	if err != nil {
		return fmt.Errorf("PKCS#7: %w", err)
	}
	digest, err := s.attributes(si.Signed.Bytes)
	if err != nil {
		return fmt.Errorf("PKCS#7 attributes: %w", err)
	}
	if !bytes.Equal(digest, want) {
		return errors.New("PKCS#7: signature of another file")
	}
	// What is signed is the SET itself, not its [0] in the message (§5.4).
	set := bytes.Clone(si.Signed.FullBytes)
	set[0] = asn1.TagSet | 0x20
	d := h.New()
	d.Write(set)
	if err := verifySum(s.leaf.PublicKey, h, d.Sum(nil), si.Signature); err != nil {
		return fmt.Errorf("PKCS#7 signature of %s: %w", s.leaf.Subject.CommonName, err)
	}
	return nil
}

// attributes returns the signed digest. Each attribute may occur once (§5.3).
func (s *cmsSigner) attributes(raw []byte) (digest []byte, err error) {
	var typed bool
	var seen []asn1.ObjectIdentifier
	for len(raw) > 0 {
		var a cmsAttribute
		if raw, err = asn1.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(seen, a.Type.Equal) {
			return nil, fmt.Errorf("%s twice", a.Type)
		}
		seen = append(seen, a.Type)
		var rest []byte
		switch {
		case a.Type.Equal(oidMessageDigest):
			rest, err = asn1.Unmarshal(a.Values.Bytes, &digest)
		case a.Type.Equal(oidSigningTime):
			rest, err = asn1.Unmarshal(a.Values.Bytes, &s.time)
		case a.Type.Equal(oidContentType):
			var t asn1.ObjectIdentifier
			rest, err = asn1.Unmarshal(a.Values.Bytes, &t)
			typed = t.Equal(oidData)
		}
		if err != nil || len(rest) > 0 {
			return nil, fmt.Errorf("%s: %w", a.Type, errors.Join(err, errors.New("not one value")))
		}
	}
	if len(digest) == 0 || !typed {
		return nil, errors.New("without digest or content type")
	}
	return digest, nil
}

func cmsHash(oid asn1.ObjectIdentifier) (crypto.Hash, error) {
	switch oid.String() {
	case "2.16.840.1.101.3.4.2.1":
		return crypto.SHA256, nil
	case "2.16.840.1.101.3.4.2.2":
		return crypto.SHA384, nil
	case "2.16.840.1.101.3.4.2.3":
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("PKCS#7: hash %s is not accepted", oid)
}

func verifySum(key crypto.PublicKey, h crypto.Hash, sum, sig []byte) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("RSA key of %d bits", k.N.BitLen())
		}
		return rsa.VerifyPKCS1v15(k, h, sum, sig)
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(k, sum, sig) {
			return errors.New("does not hold")
		}
		return nil
	}
	return fmt.Errorf("key of type %T", key)
}

// chain leads the signer to a pinned root at trust.At, and refuses
// certificates that an order withdraws.
func (s *cmsSigner) chain(trust feed.Trust, roots *x509.CertPool, anchors map[string]feed.Anchor, usage x509.ExtKeyUsage) error {
	if s.time.After(trust.At.Add(clockAllowance)) {
		return fmt.Errorf("signed in the future, %s", s.time.Format(time.RFC3339))
	}
	inter := x509.NewCertPool()
	for _, c := range s.others {
		inter.AddCert(c)
	}
	chains, err := s.leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: trust.At, KeyUsages: []x509.ExtKeyUsage{usage},
	})
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

// trustedChain refuses a chain with a certificate distrusted by order, named by
// its SHA-256 or by serial number and issuer.
func trustedChain(trust feed.Trust, chain []*x509.Certificate, signed time.Time) error {
	for _, c := range chain {
		fp, serial := certFingerprint(c), strings.ToUpper(c.SerialNumber.Text(16))
		for _, d := range trust.Distrust {
			named := strings.EqualFold(d.KeyID, fp) || d.KeyID == string(feed.DigestOf(c.Raw)) ||
				d.Issuer != "" && strings.EqualFold(strings.TrimLeft(d.KeyID, "0"), strings.TrimLeft(serial, "0")) &&
					(d.Issuer == c.Issuer.CommonName || d.Issuer == c.Issuer.String())
			if named && (d.After.IsZero() || signed.IsZero() || signed.After(d.After)) {
				return fmt.Errorf("certificate of %s is distrusted by order: %s", c.Subject.CommonName, d.Reason)
			}
		}
	}
	return nil
}

func certFingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func (s *cmsSigner) evidence(method string) feed.Evidence {
	return feed.Evidence{
		Method: method, Strength: feed.Signed, Signer: s.leaf.Subject.CommonName,
		KeyID: certFingerprint(s.leaf), Anchor: s.anchor.Name, SignedAt: s.time.UTC(),
	}
}
