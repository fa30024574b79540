package feedtest

import (
	"bytes"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
)

// Signer is a throw-away OpenPGP key of a generated vendor.
type Signer struct {
	entity *openpgp.Entity
	Anchor feed.Anchor // its public half
}

// NewSigner makes a key that is a day older than at.
func NewSigner(t testing.TB, name string, at time.Time) *Signer {
	t.Helper()
	made := at.Add(-24 * time.Hour)
	e, err := openpgp.NewEntity(name, "", name+"@vendor.example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }})
	if err != nil {
		t.Fatal(err)
	}
	var pub bytes.Buffer
	if err := e.Serialize(&pub); err != nil {
		t.Fatal(err)
	}
	return &Signer{e, feed.Anchor{Name: name, Use: "openpgp", Data: pub.Bytes(), Source: "made for this test"}}
}

func signedAt(at time.Time) *packet.Config {
	return &packet.Config{Time: func() time.Time { return at }}
}

// Detached signs b at a time; armored or not.
func (s *Signer) Detached(t testing.TB, b []byte, at time.Time, armored bool) []byte {
	t.Helper()
	sign := openpgp.DetachSign
	if armored {
		sign = openpgp.ArmoredDetachSign
	}
	var out bytes.Buffer
	if err := sign(&out, s.entity, bytes.NewReader(b), signedAt(at)); err != nil {
		t.Fatal(err)
	}
	if armored {
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// Clear signs text in itself (RFC 9580 §7).
func (s *Signer) Clear(t testing.TB, text []byte, at time.Time) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, s.entity.PrivateKey, signedAt(at))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}
