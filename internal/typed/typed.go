// Package typed is for what a person copies from a screen or from paper:
// letters and digits in groups of four, read back however they were typed.
package typed

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"strings"

	"golang.org/x/text/width"
)

// ErrMistyped is a text that is not what was shown.
var ErrMistyped = errors.New("mistyped")

const tag = 4 // bytes of the SHA-256 behind what letters say

// Letters writes b and 4 bytes of its SHA-256 in Crockford's base 32 (no I, L,
// O, U; no padding) in groups of four.
func Letters(b []byte) string {
	sum := sha256.Sum256(b)
	return Groups(crockford().EncodeToString(append(b[:len(b):len(b)], sum[:tag]...)))
}

// ParseLetters reads what Letters wrote, at most limit bytes without the sum.
// Case and width do not matter, dashes and white space anywhere neither; O is
// 0, I and L are 1. ErrMistyped for all else.
func ParseLetters(text string, limit int) ([]byte, error) {
	// A byte takes 1.6 letters, a full-width letter 3 bytes, each group a space.
	if len(text) > 8*(limit+tag) {
		return nil, ErrMistyped
	}
	clean := strings.Map(func(c rune) rune {
		switch {
		case separates(c):
			return -1
		case c == 'O':
			return '0'
		case c == 'I' || c == 'L':
			return '1'
		}
		return c
	}, strings.ToUpper(width.Fold.String(text)))
	b, err := crockford().DecodeString(clean)
	// The last letter holds bits that mean nothing: they too must be as written.
	if err != nil || crockford().EncodeToString(b) != clean || len(b) < tag || len(b) > limit+tag {
		return nil, ErrMistyped
	}
	b, sum := b[:len(b)-tag], b[len(b)-tag:]
	if want := sha256.Sum256(b); subtle.ConstantTimeCompare(want[:tag], sum) != 1 {
		return nil, ErrMistyped
	}
	return b, nil
}

// Digits reads decimal digits of any width; dashes and white space anywhere do
// not matter. False for all else, and for over 1 KiB.
func Digits(text string) (string, bool) {
	if len(text) > 1024 {
		return "", false
	}
	var b strings.Builder
	for _, c := range width.Fold.String(text) {
		switch {
		case c >= '0' && c <= '9':
			b.WriteRune(c)
		case !separates(c):
			return "", false
		}
	}
	return b.String(), true
}

// Groups writes ASCII text in groups of four.
func Groups(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// separates reports whether c only parts what was typed: a dash of any kind
// that a Japanese keyboard makes, white space, a byte order mark.
func separates(c rune) bool {
	return strings.ContainsRune("-‐‑‒–—―−ーｰ－_ \t\r\n\u3000\u00a0\ufeff", c)
}

func crockford() *base32.Encoding {
	return base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)
}
