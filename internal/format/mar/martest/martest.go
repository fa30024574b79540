// Package martest makes MAR files for tests: small ones, of any layout, signed
// with keys that tests make up.
package martest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"time"
)

const sha384 = 2 // RSA PKCS#1 v1.5 over SHA-384

// Fataler is a test, or a benchmark that is none.
type Fataler interface {
	Helper()
	Fatal(...any)
}

// Member is one file in an archive.
type Member struct {
	Name string
	Body []byte
}

// Info is a product information block as the vendor's old writer makes it.
func Info(channel, version string) []byte {
	b := append([]byte(channel+"\x00"+version+"\x00"), make([]byte, 96)...)[:96]
	return Block(1, b)
}

// Block is an additional block.
func Block(id uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(binary.BigEndian.AppendUint32(b, id), body...)
}

// Make writes an archive with room for signatures of the given lengths
// (algorithm 2), to be filled by Sign.
func Make(signatures []int, blocks [][]byte, members ...Member) []byte {
	u32 := binary.BigEndian.AppendUint32
	b := append([]byte("MAR1"), make([]byte, 12)...)
	b = u32(b, uint32(len(signatures)))
	for _, n := range signatures {
		b = append(u32(u32(b, sha384), uint32(n)), make([]byte, n)...)
	}
	b = u32(b, uint32(len(blocks)))
	for _, x := range blocks {
		b = append(b, x...)
	}
	var index []byte
	for _, m := range members {
		index = u32(u32(u32(index, uint32(len(b))), uint32(len(m.Body))), 0o644)
		index = append(append(index, m.Name...), 0)
		b = append(b, m.Body...)
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)))
	b = append(u32(b, uint32(len(index))), index...)
	binary.BigEndian.PutUint64(b[8:], uint64(len(b)))
	return b
}

// Sign fills the signatures of an archive made by Make, as many as there are
// keys. What was changed in between is signed as it is.
func Sign(t Fataler, b []byte, keys ...*rsa.PrivateKey) []byte {
	t.Helper()
	b = bytes.Clone(b)
	h := sha512.New384()
	at := 20
	h.Write(b[:at])
	var places [][]byte
	for range binary.BigEndian.Uint32(b[16:]) {
		n := int(binary.BigEndian.Uint32(b[at+4:]))
		h.Write(b[at : at+8])
		places = append(places, b[at+8:at+8+n])
		at += 8 + n
	}
	h.Write(b[at:])
	sum := h.Sum(nil)
	for i, k := range keys {
		s, err := rsa.SignPKCS1v15(nil, k, crypto.SHA384, sum)
		if err != nil {
			t.Fatal(err)
		}
		copy(places[i], s)
	}
	return b
}

// Signed is a whole archive with one signature.
func Signed(t Fataler, key *rsa.PrivateKey, channel, version string, members ...Member) []byte {
	t.Helper()
	return Sign(t, Make([]int{key.Size()}, [][]byte{Info(channel, version)}, members...), key)
}

// NewKey makes a key and a certificate of it.
func NewKey(t Fataler, name string) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2017, 3, 13, 12, 0, 0, 0, time.UTC) // dates are not looked at
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: at, NotAfter: at}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}
