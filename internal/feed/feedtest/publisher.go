package feedtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/authenticode"
)

// Publisher is a throw-away Authenticode publisher: a root of the test's own,
// and a certificate for code signing in the name of a real organisation.
type Publisher struct {
	Signer authenticode.Signer
	Anchor feed.Anchor // its root
}

// NewPublisher makes one whose certificates hold for ten years around at. use
// is the Use of the anchors that a kind trusts ("x509-microsoft").
func NewPublisher(t testing.TB, use, organisation string, at time.Time) *Publisher {
	t.Helper()
	cert := func(serial int64, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: organisation, Organization: []string{organisation}},
			NotBefore: at.AddDate(-5, 0, 0), NotAfter: at.AddDate(5, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
		if parent == nil {
			c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = "test root", true, true, x509.KeyUsageCertSign, nil
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
		if err == nil {
			c, err = x509.ParseCertificate(der)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	root, rootKey := cert(1, nil, nil)
	leaf, key := cert(2, root, rootKey)
	return &Publisher{authenticode.Signer{Key: key, Chain: []*x509.Certificate{leaf}},
		feed.Anchor{Name: "test-publisher", Use: use, Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), Source: "made for this test"}}
}

// Cabinet signs a cabinet.
func (p *Publisher) Cabinet(t testing.TB, b []byte, at time.Time) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := authenticode.SignCabinet(&out, bytes.NewReader(b), int64(len(b)), p.Signer, at); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Program signs a program (PE/COFF, "Attribute Certificate Table") that is not
// signed yet.
func (p *Publisher) Program(t testing.TB, b []byte, at time.Time) []byte {
	t.Helper()
	le := binary.LittleEndian
	b = bytes.Clone(b)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	pe := int(le.Uint32(b[60:]))
	sum, entry := pe+24+64, pe+24+96+32
	if le.Uint16(b[pe+24:]) == 0x20B {
		entry += 16
	}
	d := sha256.New()
	d.Write(b[:sum])
	d.Write(b[sum+4 : entry])
	d.Write(b[entry+8:])
	sig, err := authenticode.Sign(authenticode.Program, d.Sum(nil), p.Signer, at)
	if err != nil {
		t.Fatal(err)
	}
	for len(sig)%8 != 0 {
		sig = append(sig, 0)
	}
	le.PutUint32(b[entry:], uint32(len(b)))
	le.PutUint32(b[entry+4:], uint32(len(sig)+8))
	b = le.AppendUint32(b, uint32(len(sig)+8))
	b = append(b, 0, 2, 2, 0) // revision 2.0, PKCS#7
	return append(b, sig...)
}

// UnsignedProgram is the smallest program (PE32, or PE32+ for AMD64 and ARM64)
// with a version resource; linked is its TimeDateStamp in Unix seconds; payload follows in its own section.
func UnsignedProgram(version [4]uint16, machine uint16, linked uint32, payload []byte) []byte {
	le := binary.LittleEndian
	fixed := []byte("VS_VERSION_INFO\x00")
	var info []byte
	info = le.AppendUint16(le.AppendUint16(le.AppendUint16(info, 6+32+2+52), 52), 0)
	for _, c := range fixed {
		info = append(info, c, 0)
	}
	info = append(info, 0, 0)
	info = le.AppendUint32(le.AppendUint32(info, 0xFEEF04BD), 0x10000)
	info = le.AppendUint32(info, uint32(version[0])<<16|uint32(version[1]))
	info = le.AppendUint32(info, uint32(version[2])<<16|uint32(version[3]))
	info = append(info, make([]byte, 52-16)...)
	const rva = 0x1000
	var rsrc []byte // type 16 → name 1 → language 1041 → data
	for level, id := range []uint32{16, 1, 1041} {
		rsrc = append(rsrc, make([]byte, 12)...)
		rsrc = le.AppendUint16(le.AppendUint16(rsrc, 0), 1)
		next := uint32((level + 1) * 24)
		if level < 2 {
			next |= 1 << 31
		}
		rsrc = le.AppendUint32(le.AppendUint32(rsrc, id), next)
	}
	rsrc = le.AppendUint32(le.AppendUint32(rsrc, rva+88), uint32(len(info)))
	rsrc = append(append(rsrc, make([]byte, 8)...), info...)
	for len(rsrc)%512 != 0 {
		rsrc = append(rsrc, 0)
	}
	head := make([]byte, 1024)
	copy(head, "MZ")
	le.PutUint32(head[60:], 64)
	copy(head[64:], "PE\x00\x00")
	le.PutUint16(head[68:], machine)
	le.PutUint16(head[70:], 2) // sections
	le.PutUint32(head[72:], linked)
	optional, dirs := 224, 64+24+96
	le.PutUint16(head[88:], 0x10B)
	if machine != 0x14c {
		optional, dirs = 240, dirs+16
		le.PutUint16(head[88:], 0x20B)
	}
	le.PutUint16(head[84:], uint16(optional))
	le.PutUint32(head[dirs-4:], 16)
	le.PutUint32(head[dirs+16:], rva)
	le.PutUint32(head[dirs+20:], uint32(len(rsrc)))
	for i, s := range []struct {
		name    string
		rva, at int
		n       int
	}{{".rsrc", rva, 1024, len(rsrc)}, {".data", 0x100000, 1024 + len(rsrc), len(payload)}} {
		at := head[64+24+optional+40*i:]
		copy(at, s.name)
		le.PutUint32(at[8:], uint32(s.n))
		le.PutUint32(at[12:], uint32(s.rva))
		le.PutUint32(at[16:], uint32(s.n))
		le.PutUint32(at[20:], uint32(s.at))
	}
	return append(append(head, rsrc...), payload...)
}
