package packager

import (
	"math/big"
	"strings"

	"golang.org/x/text/width"
)

// Numbers that people copy from paper are decimal digits in groups of four
// with two check digits at the end, ISO 7064 MOD 97-10: every wrong digit and
// every swap of neighbours is noticed.

// withCheck appends the two check digits.
func withCheck(digits string) string {
	n, _ := new(big.Int).SetString(digits+"00", 10)
	r := 98 - int(n.Mod(n, big.NewInt(97)).Int64())
	return digits + string([]byte{byte('0' + r/10), byte('0' + r%10)})
}

// checks reports whether the last two digits fit the others.
func checks(digits string) bool {
	n, ok := new(big.Int).SetString(digits, 10)
	return ok && n.Mod(n, big.NewInt(97)).Int64() == 1
}

// grouped writes digits in groups of four.
func grouped(digits string) string {
	var b strings.Builder
	for i, c := range digits {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// plainDigits reads what a person typed: full-width digits, any dash and any
// space are accepted. False if anything else is in it.
func plainDigits(s string) (string, bool) {
	if len(s) > 1024 {
		return "", false
	}
	var b strings.Builder
	for _, c := range width.Fold.String(s) {
		switch {
		case c >= '0' && c <= '9':
			b.WriteRune(c)
		case strings.ContainsRune("-‐‑‒–—―−ーｰ－_ \t\r\n\u3000\u00a0", c):
		default:
			return "", false
		}
	}
	return b.String(), true
}
