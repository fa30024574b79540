package winget

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Names of installed programs carry architecture, language and version, which
// winget takes off before it compares (NameNormalization.cpp, "Initial"). Go's
// expressions have no look-behind, so this is not the same letter for letter;
// it is applied to both sides, and the client judges what it is given again.

type normalizer struct {
	arch, locale, version, brackets *regexp.Regexp
}

// expressions are compiled once; they are constants but for their type.
var expressions = normalizer{
	arch:     regexp.MustCompile(`(?i)(^|[^\p{L}\p{Nd}])(x86[-_]64|x64|amd64|arm64|x86|x32|(64[/\\]32|32[/\\]64|32|64)[-_ ]?bits?)(\s+edition)?`),
	locale:   regexp.MustCompile(`(^|[^A-Za-z])[A-Za-z]{2,3}(-(?i:cans|cyrl|latn|mong))?-[A-Z]{2}($|[^A-Za-z])`),
	version:  regexp.MustCompile(`(?i)(^|[^\p{L}])((v|ver|version|build|release|rc|sp)\P{L}?)?\p{Nd}+([.\-_]\p{Nd}+)+([.\-_]?[\p{L}\p{Nd}]+)*|(^|[^\p{L}])(v|ver|version|build|release|rc|sp)[. ]?\p{Nd}+`),
	brackets: regexp.MustCompile(`\([^()]*\)|\[[^\[\]]*\]`),
}

func legalSuffixes() []string {
	return []string{"ab", "ag", "as", "asa", "bv", "co", "company", "corp", "corporation", "gmbh", "holding", "holdings", "inc", "incorporated", "kg",
		"limited", "llc", "lp", "ltd", "ltda", "nv", "plc", "pty", "pvt", "sa", "sarl", "sl", "spa", "srl", "subsidiary"}
}

const maxName = 512

func normalName(s string) string {
	if len(s) > maxName {
		return ""
	}
	s = strings.TrimSpace(s)
	e := expressions
	s = e.arch.ReplaceAllString(s, "$1")
	s = e.locale.ReplaceAllString(s, "$1$3")
	for range 8 { // brackets within brackets
		before := s
		s = e.version.ReplaceAllString(s, " ")
		s = e.brackets.ReplaceAllString(s, " ")
		if s == before {
			break
		}
	}
	return joined(s, false)
}

func normalPublisher(s string) string {
	if len(s) > maxName {
		return ""
	}
	return joined(expressions.brackets.ReplaceAllString(s, " "), true)
}

// joined drops what is no letter or digit, and legal forms behind the first
// word; in a publisher's name, all that follows them too.
func joined(s string, stop bool) string {
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && (stop || r != '+' && r != '&')
	})
	var b strings.Builder
	for i, w := range words {
		if i > 0 && slices.Contains(legalSuffixes(), w) {
			if stop {
				break
			}
			continue
		}
		b.WriteString(strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) {
				return r
			}
			return -1
		}, w))
	}
	return b.String()
}
