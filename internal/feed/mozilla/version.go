package mozilla

import (
	"cmp"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Versions as the vendor's clients compare them (Toolkit version format;
// xpcom/glue/nsVersionComparator.cpp): parts between dots, each a number, a
// text, a number and a text. A missing part is 0; no text comes after any text,
// so that 1.0pre1 < 1.0.

const maxVersionText = 32

// compare orders two versions: negative if a is older.
func compare(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		if c := comparePart(x, y); c != 0 {
			return c
		}
	}
	return 0
}

type part struct {
	num   int64
	text  string
	num2  int64
	text2 string
}

func comparePart(a, b string) int {
	x, y := parsePart(a), parsePart(b)
	return cmp.Or(cmp.Compare(x.num, y.num), compareText(x.text, y.text), cmp.Compare(x.num2, y.num2), compareText(x.text2, y.text2))
}

func compareText(a, b string) int {
	if (a == "") != (b == "") {
		return cmp.Compare(len(b), len(a))
	}
	return strings.Compare(a, b)
}

func parsePart(s string) part {
	var p part
	if s == "*" {
		return part{num: math.MaxInt32}
	}
	p.num, s = leadingNumber(s)
	if strings.HasPrefix(s, "+") {
		return part{num: p.num + 1, text: "pre"}
	}
	i := strings.IndexAny(s, "0123456789+-")
	if i < 0 {
		p.text = s
		return p
	}
	p.text = s[:i]
	p.num2, p.text2 = leadingNumber(s[i:])
	return p
}

// leadingNumber is strtol: 0 if there is none, the greatest if it is too great.
func leadingNumber(s string) (int64, string) {
	i := 0
	if s != "" && (s[0] == '-' || s[0] == '+') {
		i = 1
	}
	from := i
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i == from {
		return 0, s
	}
	n, _ := strconv.ParseInt(s[:i], 10, 32) // out of range: the bound
	return n, s[i:]
}

var (
	releaseVersion = regexp.MustCompile(`^[1-9][0-9]{0,3}(\.(0|[1-9][0-9]{0,3})){1,3}$`)
	buildID        = regexp.MustCompile(`^20[0-9]{12}$`)
)

// order is a release's place in the vendor's order, for marks: four parts of
// four digits.
func order(version string) int64 {
	n := int64(0)
	parts := strings.Split(version, ".")
	for i := range 4 {
		n *= 10000
		if i < len(parts) {
			v, _ := strconv.ParseInt(parts[i], 10, 64) // four digits: releaseVersion
			n += v
		}
	}
	return n
}
