package packager

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/typed"
)

// RootKey is a root key outside its envelope: it lives in memory only, and
// nothing in this package ever writes it to a file. On paper it is five lines
// of 24 digits (docs/bundle.md §9).
type RootKey struct {
	Slot int // which of the root's keys, 1 to 3: the number on the envelope
	priv *ecdsa.PrivateKey
	sign signature.Signer
}

const (
	rootLines  = 5
	lineDigits = 24 // line, slot, 20 digits of a uint64, two that check
	rootText   = "hashike-root-key-v1\x00"
)

// NewRootKey makes a key for a slot.
func NewRootKey(slot int) (RootKey, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return RootKey{}, err
	}
	return rootKey(slot, priv)
}

func rootKey(slot int, priv *ecdsa.PrivateKey) (RootKey, error) {
	s, err := signature.LoadSigner(priv, crypto.SHA256)
	return RootKey{slot, priv, s}, err
}

// ID is the key's TUF key id: public.
func (k RootKey) ID() (string, error) {
	_, id, err := tufKey(k.sign)
	return id, err
}

// tag is 64 bits of the public key's SHA-256: lines of two sheets do not make a key.
func (k RootKey) tag() (uint64, error) {
	der, err := x509.MarshalPKIXPublicKey(&k.priv.PublicKey)
	if err != nil {
		return 0, err
	}
	sum := sha256.Sum256(append([]byte(rootText), der...))
	return binary.BigEndian.Uint64(sum[:]), nil
}

// Lines is the key as it is printed, once: line n is n, the slot, 64 bits of
// the private scalar (the fifth: of the public key's hash) and two check digits,
// in groups of four.
func (k RootKey) Lines() ([]string, error) {
	raw, err := k.priv.Bytes()
	if err != nil {
		return nil, err
	}
	tag, err := k.tag()
	if err != nil {
		return nil, err
	}
	raw = binary.BigEndian.AppendUint64(raw, tag)
	var out []string
	for i := range rootLines {
		out = append(out, typed.Groups(withCheck(fmt.Sprintf("%d%d%020d", i+1, k.Slot, binary.BigEndian.Uint64(raw[8*i:])))))
	}
	return out, nil
}

// RootKeyReader puts a key together from the lines that a person types.
type RootKeyReader struct {
	slot  byte
	words []uint64
}

// Next is the number of the line to type, from 1; 0 when all are there.
func (r *RootKeyReader) Next() int {
	if len(r.words) == rootLines {
		return 0
	}
	return len(r.words) + 1
}

// Add takes the next line; full-width digits, spaces and dashes are accepted.
// A line that was mistyped is H-512 (ErrConfig) and is to be typed again.
func (r *RootKeyReader) Add(line string) error {
	n := r.Next()
	wrong := func(why string) error {
		return feed.NewFault(fmt.Errorf("line %d of the root key: %s: %w", n, why, feed.ErrConfig), "H-512", "line", strconv.Itoa(n), "detail", why)
	}
	digits, ok := typed.Digits(line)
	switch {
	case n == 0:
		return wrong("there are no more lines")
	case !ok || len(digits) != lineDigits:
		return wrong(fmt.Sprintf("%d digits are wanted", lineDigits))
	case !checks(digits):
		return wrong("the check digits do not fit")
	case digits[0] != byte('0'+n):
		return wrong("this is line " + digits[:1])
	case n > 1 && digits[1] != r.slot, digits[1] < '1' || digits[1] > '0'+rootKeys:
		return wrong("this is of key " + digits[1:2])
	}
	v, err := strconv.ParseUint(digits[2:22], 10, 64)
	if err != nil {
		return wrong("the check digits do not fit")
	}
	r.slot = digits[1]
	r.words = append(r.words, v)
	return nil
}

// Key is the key after the last line; H-512 if the lines are of two sheets.
func (r *RootKeyReader) Key() (RootKey, error) {
	if r.Next() != 0 {
		return RootKey{}, feed.NewFault(fmt.Errorf("line %d is missing: %w", r.Next(), feed.ErrConfig), "H-512", "line", strconv.Itoa(r.Next()), "detail", "missing")
	}
	var raw []byte
	for _, w := range r.words[:rootLines-1] {
		raw = binary.BigEndian.AppendUint64(raw, w)
	}
	wrong := feed.NewFault(fmt.Errorf("the lines are not of one key: %w", feed.ErrConfig), "H-512", "line", strconv.Itoa(rootLines), "detail", "the lines are not of one sheet")
	priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		return RootKey{}, wrong
	}
	k, err := rootKey(int(r.slot-'0'), priv)
	if err != nil {
		return RootKey{}, err
	}
	if tag, err := k.tag(); err != nil || tag != r.words[rootLines-1] {
		return RootKey{}, errors.Join(wrong, err)
	}
	return k, nil
}

// maxSheet is the most that is read of a sheet kept as a file.
const maxSheet = 64 << 10

// ParseRootKey reads a key from the text of its sheet, or from the bare digits
// of its QR code: the lines that hold 24 digits and nothing else.
func ParseRootKey(text string) (RootKey, error) {
	var r RootKeyReader
	if len(text) > maxSheet {
		return RootKey{}, feed.NewFault(fmt.Errorf("not a root key's sheet: %w", feed.ErrConfig), "H-512", "line", "1", "detail", "not a sheet")
	}
	lines := strings.Split(text, "\n")
	if d, ok := typed.Digits(text); ok && len(d) == rootLines*lineDigits {
		lines = nil
		for i := range rootLines {
			lines = append(lines, d[i*lineDigits:(i+1)*lineDigits])
		}
	}
	for _, l := range lines {
		if d, ok := typed.Digits(l); !ok || len(d) != lineDigits || r.Next() == 0 {
			continue
		}
		if err := r.Add(l); err != nil {
			return RootKey{}, err
		}
	}
	return r.Key()
}
