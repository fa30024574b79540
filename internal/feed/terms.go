package feed

import "strings"

// Terms are what a vendor attaches to the use or the carrying of its files. A
// feed with terms is not fetched until a person has accepted just this text
// (state.Acceptance); a new text must be accepted anew.
type Terms struct {
	Text Text   // what is asked, in our own words: the vendor's text is the vendor's
	URL  string // where the vendor's text is
}

// None reports whether there are no terms.
func (t Terms) None() bool { return t == Terms{} }

// Digest identifies the text: SHA-256 over the Japanese, the English and the
// address, each with a line end.
func (t Terms) Digest() Digest {
	return DigestOf([]byte(strings.Join([]string{t.Text.JA, t.Text.EN, t.URL, ""}, "\n")))
}

// With adds what a configuration says.
func (t Terms) With(more string) Terms {
	if more = strings.TrimSpace(more); more != "" {
		t.Text.JA = strings.TrimSpace(t.Text.JA + "\n" + more)
		t.Text.EN = strings.TrimSpace(t.Text.EN + "\n" + more)
	}
	return t
}
