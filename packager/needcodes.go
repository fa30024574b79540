package packager

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/text/width"

	"github.com/hashike/hashike/internal/feed"
)

// A need list as QR codes: each holds
//
//	HN.k.n.TEXT
//
// the k-th of n parts of the list's letters without spaces. A scanner types
// them one after the other, in any order, some twice, with or without a line
// end between; full stop and letters are on the same keys of Japanese and
// American keyboards.
const (
	codeLetters = 500 // of one code: 69 modules wide at most, which cheap scanners read
	maxCodes    = 24  // what somebody would scan
)

// Codes are the texts of the list's QR codes; none if it is too long for them.
func (n Need) Codes() []string {
	text := strings.ReplaceAll(n.String(), " ", "")
	parts := (len(text) + codeLetters - 1) / codeLetters
	if parts > maxCodes {
		return nil
	}
	var out []string
	for i := range parts {
		out = append(out, fmt.Sprintf("HN.%d.%d.%s", i+1, parts, text[i*codeLetters:min((i+1)*codeLetters, len(text))]))
	}
	return out
}

// codeHead begins a code. Its full stops are nowhere else.
var codeHead = regexp.MustCompile(`(?i)HN\.([0-9]{1,2})\.([0-9]{1,2})\.`)

// scanned puts the codes in text together; text without any is returned as it
// is. What is missing or contradicts itself is H-622 (ErrConfig).
func scanned(text string) (string, error) {
	text = width.Fold.String(text)
	at := codeHead.FindAllStringSubmatchIndex(text, -1)
	if at == nil {
		return text, nil
	}
	parts := map[int]string{}
	of := 0
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		k, _ := strconv.Atoi(text[m[2]:m[3]])
		n, _ := strconv.Atoi(text[m[4]:m[5]])
		body := strings.ToUpper(strings.Join(strings.Fields(text[m[1]:end]), ""))
		if other, ok := parts[k]; n < 1 || n > maxCodes || k < 1 || k > n || of != 0 && of != n || ok && other != body {
			return "", partsMissing(fmt.Sprintf("%d/%d", k, n))
		}
		parts[k], of = body, n
	}
	var all strings.Builder
	var missing []string
	for k := 1; k <= of; k++ {
		if _, ok := parts[k]; !ok {
			missing = append(missing, fmt.Sprintf("%d/%d", k, of))
		}
		all.WriteString(parts[k])
	}
	if len(missing) > 0 {
		return "", partsMissing(missing...)
	}
	return all.String(), nil
}

func partsMissing(which ...string) error {
	list := strings.Join(which, ", ")
	return feed.NewFault(fmt.Errorf("need list: part %s is missing or does not fit: %w", list, feed.ErrConfig), "H-622", "parts", list)
}
