package packager

import "math/big"

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
