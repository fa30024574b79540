package feed

import (
	"fmt"
	"slices"
	"time"
)

// Strength is how far a chain of evidence reaches. Higher is stronger.
type Strength int

const (
	None     Strength = iota // nothing that can be checked
	Attested                 // our outside saw it over pinned TLS, or made it
	Listed                   // named by an unsigned vendor list
	Signed                   // leads to a vendor signature under a pinned key
)

var strengthNames = [...]string{"none", "attested", "listed", "signed"}

func (s Strength) String() string {
	if s < 0 || int(s) >= len(strengthNames) {
		return fmt.Sprintf("strength(%d)", int(s))
	}
	return strengthNames[s]
}

// MarshalText writes the word used in config, evidence and pages.
func (s Strength) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads none, attested, listed or signed.
func (s *Strength) UnmarshalText(b []byte) error {
	i := slices.Index(strengthNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("strength %.40q is none of none, attested, listed, signed: %w", b, ErrConfig)
	}
	*s = Strength(i)
	return nil
}

// Evidence is one reason to believe one artifact, or the reason not to.
//
// With Via set it is a link: the document Via (an artifact of the same
// snapshot, already proved) names Subject, and the chain is as strong as Via,
// at most Strength. Without Via it is the far end of a chain. With Via equal to
// Subject it proves nothing more: it adds its Note to the card of a file that
// something before has proved.
type Evidence struct {
	Path     string    `json:"path"`             // the artifact's path: names are bound, not only bytes
	Subject  Digest    `json:"subject"`          // what was proved
	Method   string    `json:"method"`           // "openpgp", "clamav-info", "sha256-list", …
	Strength Strength  `json:"strength"`         // of this link
	Via      Digest    `json:"via,omitempty"`    // the proved document that lists Subject
	Signer   string    `json:"signer,omitempty"` // for people: "Debian Security Archive … <…>"
	KeyID    string    `json:"key,omitempty"`    // fingerprint or serial, upper-case hex
	Anchor   string    `json:"anchor,omitempty"` // name of the pinned key or root
	SignedAt time.Time `json:"signed,omitzero"`  // as the signature says
	Note     string    `json:"note,omitempty"`   // what a reader of the origin card should know
	Refused  string    `json:"refused,omitempty"`
}

// Anchor is one pinned public key or root certificate.
type Anchor struct {
	Name   string // "debian-archive-keyring", as shown on cards
	Use    string // the format that reads it: "openpgp", "clamav", "x509"
	Data   []byte
	Source string // where it was taken from
}

// SHA256 identifies the anchor's bytes in orders and logs.
func (a Anchor) SHA256() Digest { return DigestOf(a.Data) }

// Distrust withdraws belief, by order.
type Distrust struct {
	KeyID  string    `json:"key,omitempty"`    // fingerprint, serial or anchor digest, upper-case hex or Digest form
	Issuer string    `json:"issuer,omitempty"` // with KeyID as serial, for certificates
	Digest Digest    `json:"digest,omitempty"` // one file
	After  time.Time `json:"after,omitzero"`   // only what was signed after this; zero is everything
	Reason string    `json:"reason,omitempty"`
}

// Trust is all that one verification may believe. It is a value: Verify cannot widen it.
type Trust struct {
	Anchors  []Anchor
	Distrust []Distrust
	At       time.Time // expiry is judged here: the snapshot's taken time, on both sides
	Epoch    string    // digest of the above but At; remembered verdicts hold within one epoch
}

// For returns the anchors of one use, in a fixed order; names, if given, choose among them.
func (t Trust) For(use string, names ...string) []Anchor {
	var out []Anchor
	for _, a := range t.Anchors {
		if a.Use == use && (len(names) == 0 || slices.Contains(names, a.Name)) {
			out = append(out, a)
		}
	}
	return out
}

// Distrusted reports whether an order withdraws the key for something signed at the given time.
func (t Trust) Distrusted(keyID string, signed time.Time) (Distrust, bool) {
	for _, d := range t.Distrust {
		if d.KeyID != "" && d.KeyID == keyID && (d.After.IsZero() || signed.IsZero() || signed.After(d.After)) {
			return d, true
		}
	}
	return Distrust{}, false
}
