package feedtest

import (
	"crypto/sha256"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/format/authenticode"
)

// Catalog is a signed catalogue (.cat) that lists the SHA-256 of each of these
// files. Its form is that of wincrypt.h's CTL_INFO as catalogues use it.
func (p *Publisher) Catalog(t testing.TB, at time.Time, files ...[]byte) []byte {
	t.Helper()
	marshal := func(v any) []byte {
		b, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	type algorithm struct {
		ID   asn1.ObjectIdentifier
		Null asn1.RawValue
	}
	type member struct {
		ID    []byte
		Attrs asn1.RawValue
	}
	sha := algorithm{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.RawValue{Tag: asn1.TagNull}}
	var members []member
	for _, f := range files {
		sum := sha256.Sum256(f)
		spc := marshal(struct {
			Data struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			Digest struct {
				Algorithm algorithm
				Digest    []byte
			}
		}{Data: struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 25}, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, IsCompound: true, Bytes: marshal(asn1.RawValue{Class: asn1.ClassContextSpecific})}},
			Digest: struct {
				Algorithm algorithm
				Digest    []byte
			}{sha, sum[:]}})
		attr := marshal(struct {
			Type   asn1.ObjectIdentifier
			Values []asn1.RawValue `asn1:"set"`
		}{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}, []asn1.RawValue{{FullBytes: spc}}})
		members = append(members, member{sum[:], asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: attr}})
	}
	list := marshal(struct {
		Use       []asn1.ObjectIdentifier
		ID        []byte
		Made      time.Time
		Algorithm algorithm
		Members   []member
	}{[]asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 12, 1, 1}}, []byte("catalogue"), at.UTC(),
		algorithm{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 12, 1, 3}, asn1.RawValue{Tag: asn1.TagNull}}, members})
	b, err := authenticode.SignContent(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 10, 1}, list, p.Signer, at)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
