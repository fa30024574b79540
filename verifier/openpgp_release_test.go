package verifier

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
)

// TestOpenPGPRelease: a vendor with one primary key and a signing subkey every
// two years, as Mozilla. What a subkey signed in its time stays good when it
// has expired, and not when it was revoked.
func TestOpenPGPRelease(t *testing.T) {
	began := time.Date(2023, 5, 5, 0, 0, 0, 0, time.UTC)
	at := func(when time.Time) *packet.Config {
		return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return when }}
	}
	e, err := openpgp.NewEntity("vendor", "", "v@vendor.example", at(began))
	if err != nil {
		t.Fatal(err)
	}
	two := at(began)
	two.KeyLifetimeSecs = 2 * 365 * 24 * 3600
	if err := e.AddSigningSubkey(two); err != nil {
		t.Fatal(err)
	}
	sub := &e.Subkeys[len(e.Subkeys)-1]
	text := []byte("list")
	// sign uses the subkey even when it should not.
	sign := func(when time.Time) []byte {
		s := &packet.Signature{Version: 4, SigType: packet.SigTypeBinary, PubKeyAlgo: sub.PublicKey.PubKeyAlgo, Hash: at(when).Hash(), CreationTime: when, IssuerKeyId: &sub.PublicKey.KeyId}
		h := s.Hash.New()
		h.Write(text)
		if err := s.Sign(h, sub.PrivateKey, at(when)); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := s.Serialize(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	anchor := func() feed.Anchor {
		var b bytes.Buffer
		if err := e.Serialize(&b); err != nil {
			t.Fatal(err)
		}
		return feed.Anchor{Name: "vendor", Use: "openpgp", Data: b.Bytes()}
	}
	then, late, now := began.AddDate(1, 0, 0), began.AddDate(2, 6, 0), began.AddDate(3, 0, 0)
	trust := feed.Trust{Anchors: []feed.Anchor{anchor()}, At: now}
	if _, err := OpenPGPDetached(bytes.NewReader(text), sign(then), trust, trust.Anchors); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("an index under an expired key: %v", err)
	}
	if ev, err := OpenPGPRelease(bytes.NewReader(text), sign(then), trust, trust.Anchors); err != nil || ev.KeyID != fingerprint(sub.PublicKey) {
		t.Errorf("a release signed in its time: %+v, %v", ev, err)
	}
	if _, err := OpenPGPRelease(bytes.NewReader(text), sign(late), trust, trust.Anchors); !errors.Is(err, feed.ErrUntrusted) || errors.Is(err, ErrRevoked) {
		t.Errorf("signed after the key's end: %v", err)
	}
	if _, err := OpenPGPRelease(bytes.NewReader([]byte("lisp")), sign(then), trust, trust.Anchors); !errors.Is(err, feed.ErrUntrusted) || errors.Is(err, ErrRevoked) {
		t.Errorf("another text: %v", err)
	}
	if err := e.RevokeSubkey(sub, packet.KeyCompromised, "no longer trusted", at(now)); err != nil {
		t.Fatal(err)
	}
	trust.Anchors = append(trust.Anchors, anchor()) // beside the older copy
	if _, err := OpenPGPRelease(bytes.NewReader(text), sign(then), trust, trust.Anchors[:1]); !errors.Is(err, ErrRevoked) || !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("a revoked key, by way of an older copy: %v", err)
	}
}
