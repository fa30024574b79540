// Package nuptest makes modules in ESET's envelope under a key of the test's own.
package nuptest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Signer signs modules.
type Signer struct {
	key         *rsa.PrivateKey
	Certificate []byte
	Fingerprint string
	id          uint64
}

// New makes a signer with a fresh RSA-2048 key.
func New(t testing.TB, at time.Time) *Signer {
	t.Helper()
	e, err := openpgp.NewEntity("Test Update Signing Certificate", "", "", &packet.Config{RSABits: 2048, Algorithm: packet.PubKeyAlgoRSA, Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	e.Subkeys = nil
	var cert bytes.Buffer
	if err := e.Serialize(&cert); err != nil {
		t.Fatal(err)
	}
	return &Signer{e.PrivateKey.PrivateKey.(*rsa.PrivateKey), cert.Bytes(), fmt.Sprintf("%X", e.PrimaryKey.Fingerprint), e.PrimaryKey.KeyId}
}

// Other is the key id of the second signer, whose key nobody has.
const Other = 0xC8FCA002067B03C9

// Module is a module file. info are the lines of [update_info]; data is its
// payload. old is the packet format of the literal; the new one comes in pieces.
func (s *Signer) Module(t testing.TB, info []string, data []byte, at time.Time, old bool) []byte {
	t.Helper()
	be := binary.BigEndian
	body := append([]byte("\r\n[update_info]\r\n"+strings.Join(info, "\r\n")+"\r\n[update_data]\r\n"), data...)
	out := be.AppendUint16([]byte{0xBD}, uint16(len(s.Certificate)+1))
	out = append(append(out, 1), s.Certificate...)
	onePass := func(hash, algorithm byte, id uint64, last byte) {
		out = append(be.AppendUint64(append(out, 0x90, 13, 3, 0, hash, algorithm), id), last)
	}
	onePass(10, 1, s.id, 0)
	onePass(2, 17, Other, 1)
	head := append(be.AppendUint32([]byte("b\x0fem005_32_l0.nup"), uint32(at.Unix())), body...)
	if old {
		out = append(be.AppendUint32(append(out, 0xAE), uint32(len(head))), head...)
	} else {
		out = append(out, 0xCB, 224+9)
		out = append(out, head[:512]...)
		out = append(be.AppendUint32(append(out, 255), uint32(len(head)-512)), head[512:]...)
	}
	trailer := be.AppendUint32([]byte{0}, uint32(at.Unix()))
	sum := sha512.Sum512(append(bytes.Clone(body), trailer...))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA512, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	weak := sha1.Sum(append(bytes.Clone(body), trailer...))
	packet3 := func(id uint64, algorithm, hash byte, tag []byte, numbers ...[]byte) {
		p := append(be.AppendUint64(append([]byte{3, 5}, trailer...), id), algorithm, hash, tag[0], tag[1])
		for _, n := range numbers {
			n = bytes.TrimLeft(n, "\x00")
			bits := len(n) * 8
			for c := n[0]; c < 0x80; c <<= 1 {
				bits--
			}
			p = append(be.AppendUint16(p, uint16(bits)), n...)
		}
		out = append(be.AppendUint16(append(out, 0x89), uint16(len(p))), p...)
	}
	packet3(s.id, 1, 10, sum[:], sig)
	packet3(Other, 17, 2, weak[:], bytes.Repeat([]byte{0x5A}, 20), bytes.Repeat([]byte{0x77}, 20))
	return out
}
