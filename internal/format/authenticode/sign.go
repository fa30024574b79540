// Package authenticode makes Authenticode signatures ("Windows Authenticode
// Portable Executable Signature Format", 2008): PKCS#7 SignedData over an
// SpcIndirectDataContent with a file's SHA-256. It reads nothing from outside;
// package verifier judges signatures.
package authenticode

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Subject says what kind of file a signature is of.
type Subject int

const (
	Program Subject = iota // PE: .exe, .dll
	Cabinet                // .cab
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidECDSASHA256   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidSpcIndirect   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidSpcOpus       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 12}
	oidSpcStatement  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 11}
	oidSpcIndividual = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 21}
	oidSpcPE         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
	oidSpcCabinet    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 25}
)

// Signer is a key with its certificate and those that lead to its root, the
// root itself excepted or not.
type Signer struct {
	Key   crypto.Signer
	Chain []*x509.Certificate // the key's own first
}

// Check refuses what Windows would refuse later: another key's certificate, an
// algorithm that is not made here, a certificate that is not for code signing.
func (s Signer) Check() error {
	if s.Key == nil || len(s.Chain) == 0 {
		return errors.New("signing needs a key and its certificate")
	}
	c := s.Chain[0]
	if p, ok := s.Key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(c.PublicKey) {
		return errors.New("the certificate is of another key")
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("RSA key of %d bits, at least 2048 are needed", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
	default:
		return fmt.Errorf("keys of type %T are not used for Authenticode", k)
	}
	if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) {
		return errors.New("the certificate is not for code signing (extended key usage 1.3.6.1.5.5.7.3.3)")
	}
	return nil
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

type issuerSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type signerInfo struct {
	Version   int
	Issuer    issuerSerial
	Digest    pkix.AlgorithmIdentifier
	Signed    asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature []byte
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue
}

type signedData struct {
	Version int
	Digests []pkix.AlgorithmIdentifier `asn1:"set"`
	Content contentInfo
	Certs   asn1.RawValue
	Signers []signerInfo `asn1:"set"`
}

type indirect struct {
	Data struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	Digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
}

var (
	null   = asn1.RawValue{Tag: asn1.TagNull}
	sha    = pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: null}
	random = rand.Reader
)

// Sign makes a signature over a file whose Authenticode digest (SHA-256) is
// given: a DER SignedData. at is the signer's word for the time; there is no
// time stamp of an authority, so it proves nothing and the certificate must be
// valid whenever the file is checked.
func Sign(of Subject, digest []byte, by Signer, at time.Time) ([]byte, error) {
	if err := by.Check(); err != nil {
		return nil, err
	}
	if len(digest) != sha256.Size {
		return nil, fmt.Errorf("digest of %d bytes", len(digest))
	}
	content, err := indirectOf(of, digest)
	if err != nil {
		return nil, err
	}
	return SignContent(oidSpcIndirect, content, by, at)
}

// SignContent makes a SignedData over any DER content of the given type, as
// catalogues are signed.
func SignContent(kind asn1.ObjectIdentifier, content []byte, by Signer, at time.Time) ([]byte, error) {
	if err := by.Check(); err != nil {
		return nil, err
	}
	var inner asn1.RawValue
	if _, err := asn1.Unmarshal(content, &inner); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(inner.Bytes) // without tag and length (PKCS#7 1.5 §9.3)
	attrs, err := attributes(kind, sum[:], at)
	if err != nil {
		return nil, err
	}
	set, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: attrs})
	if err != nil {
		return nil, err
	}
	toSign := sha256.Sum256(set)
	sig, err := by.Key.Sign(random, toSign[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	leaf := by.Chain[0]
	var certs []byte
	for _, c := range by.Chain {
		certs = append(certs, c.Raw...)
	}
	sd := signedData{
		Version: 1, Digests: []pkix.AlgorithmIdentifier{sha},
		Content: contentInfo{kind, explicit(0, content)},
		Certs:   asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: certs},
		Signers: []signerInfo{{
			Version: 1, Issuer: issuerSerial{asn1.RawValue{FullBytes: leaf.RawIssuer}, leaf.SerialNumber}, Digest: sha,
			Signed:    asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: attrs},
			Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: null}, Signature: sig,
		}},
	}
	if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); ok {
		sd.Signers[0].Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidECDSASHA256}
	}
	body, err := asn1.Marshal(sd)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSignedData, explicit(0, body)})
}

func explicit(tag int, der []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: der}
}

// obsolete is the SpcLink that every signing tool writes: [2] [0] "<<<Obsolete>>>" in UTF-16BE.
func obsolete() (asn1.RawValue, error) {
	var text []byte
	for _, c := range []byte("<<<Obsolete>>>") {
		text = append(text, 0, c)
	}
	b, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: text})
	return explicit(2, b), err
}

// indirectOf is the SpcIndirectDataContent.
func indirectOf(of Subject, digest []byte) ([]byte, error) {
	link, err := obsolete()
	if err != nil {
		return nil, err
	}
	var x indirect
	x.Data.Type, x.Data.Value = oidSpcCabinet, link
	if of == Program { // SpcPeImageData: no flags, the file by link
		x.Data.Type = oidSpcPE
		file, err := asn1.Marshal(link)
		if err != nil {
			return nil, err
		}
		image, err := asn1.Marshal(struct {
			Flags asn1.BitString
			File  asn1.RawValue
		}{asn1.BitString{}, explicit(0, file)})
		if err != nil {
			return nil, err
		}
		x.Data.Value = asn1.RawValue{FullBytes: image}
	}
	x.Digest.Algorithm, x.Digest.Digest = sha, digest
	return asn1.Marshal(x)
}

// attributes are the signed attributes, as DER orders a set: by their bytes.
func attributes(kind asn1.ObjectIdentifier, digest []byte, at time.Time) ([]byte, error) {
	statement, err := asn1.Marshal([]asn1.ObjectIdentifier{oidSpcIndividual})
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for _, a := range []struct {
		id    asn1.ObjectIdentifier
		value any
	}{
		{oidContentType, kind}, {oidSigningTime, at.UTC()}, {oidMessageDigest, digest},
		{oidSpcStatement, asn1.RawValue{FullBytes: statement}}, {oidSpcOpus, struct{}{}},
	} {
		v, err := asn1.Marshal(a.value)
		if err != nil {
			return nil, err
		}
		b, err := asn1.Marshal(attribute{a.id, []asn1.RawValue{{FullBytes: v}}})
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	slices.SortFunc(list, bytes.Compare)
	return slices.Concat(list...), nil
}
