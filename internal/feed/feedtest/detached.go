package feedtest

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"
)

// Detached is a detached CMS signature (RFC 5652, DER) over b, with signed
// attributes, as "openssl cms -sign -binary -outform DER" makes it.
func (p *Publisher) Detached(t testing.TB, b []byte, at time.Time) []byte {
	t.Helper()
	marshal := func(v any) []byte {
		out, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	type algorithm struct{ ID asn1.ObjectIdentifier }
	type attribute struct {
		Type   asn1.ObjectIdentifier
		Values []any `asn1:"set"`
	}
	type signer struct {
		Version int
		Issuer  struct {
			Name   asn1.RawValue
			Serial *big.Int
		}
		Digest    algorithm
		Signed    asn1.RawValue
		Algorithm algorithm
		Signature []byte
	}
	pkcs9 := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, n} }
	data := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	sha := algorithm{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}}
	sum := sha256.Sum256(b)
	var attrs []byte
	for _, a := range []attribute{{pkcs9(3), []any{data}}, {pkcs9(5), []any{at.UTC()}}, {pkcs9(4), []any{sum[:]}}} {
		attrs = append(attrs, marshal(a)...)
	}
	digest := sha256.Sum256(marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: attrs}))
	sig, err := p.Signer.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	leaf := p.Signer.Chain[0]
	s := signer{Version: 1, Digest: sha, Signature: sig, Algorithm: algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		Signed: asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: attrs}}
	s.Issuer.Name, s.Issuer.Serial = asn1.RawValue{FullBytes: leaf.RawIssuer}, leaf.SerialNumber
	body := marshal(struct {
		Version int
		Digests []algorithm `asn1:"set"`
		Content struct{ Type asn1.ObjectIdentifier }
		Certs   asn1.RawValue
		Signers []signer `asn1:"set"`
	}{1, []algorithm{sha}, struct{ Type asn1.ObjectIdentifier }{data},
		asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: leaf.Raw}, []signer{s}})
	return marshal(struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: body}})
}
