package appxtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/hashike/hashike/internal/format/authenticode"
)

// Publisher signs packages.
type Publisher struct {
	Root []byte // PEM
	Name string // as manifests have it
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
}

// NewPublisher makes a root and a certificate for code signing that is valid
// two days before and after now.
func NewPublisher(organisation string, now time.Time) *Publisher {
	make := func(name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
		c := &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{organisation}, Country: []string{"JP"}},
			NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(48 * time.Hour), BasicConstraintsValid: true,
		}
		if parent == nil {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
			parent, by = c, key
		} else {
			c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			panic(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return out, key
	}
	root, rootKey := make(organisation+" root", nil, nil)
	p := &Publisher{Root: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), Name: "CN=" + organisation + ", O=" + organisation + ", C=JP"}
	p.now = now
	p.leaf, p.key = make(organisation, root, rootKey)
	return p
}

func oid(n ...int) asn1.ObjectIdentifier { return n }

// signedData is PKCS#7 over an SpcIndirectDataContent with the given digest.
func (p *Publisher) signedData(digest []byte, bundle bool) []byte {
	uuid := []byte{0x4B, 0xDF, 0xC5, 0x0A, 0x07, 0xCE, 0xE2, 0x4D, 0xB7, 0x6E, 0x23, 0xC8, 0x39, 0xA0, 0x9F, 0xD1}
	if bundle {
		uuid = []byte{0xB3, 0x58, 0x5F, 0x0F, 0xDE, 0xAA, 0x9A, 0x4B, 0xA4, 0x34, 0x95, 0x74, 0x2D, 0x92, 0xEC, 0xEB}
	}
	type sip struct {
		A             int
		UUID          []byte
		B, C, D, E, F int
	}
	type data struct {
		Type  asn1.ObjectIdentifier
		Value sip
	}
	sha := pkix.AlgorithmIdentifier{Algorithm: oid(2, 16, 840, 1, 101, 3, 4, 2, 1), Parameters: asn1.NullRawValue}
	type digestInfo struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	spcID := oid(1, 3, 6, 1, 4, 1, 311, 2, 1, 4)
	content := must(struct {
		Data   data
		Digest digestInfo
	}{data{oid(1, 3, 6, 1, 4, 1, 311, 2, 1, 30), sip{A: 0x01010000, UUID: uuid}}, digestInfo{sha, digest}})
	b, err := authenticode.SignContent(spcID, content, authenticode.Signer{Key: p.key, Chain: []*x509.Certificate{p.leaf}}, p.now)
	if err != nil {
		panic(err)
	}
	return b
}

func must(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
