package all

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// Every product of the survey's table is on the board, nothing is blank, and
// every kind of the build that carries a vendor's updates is named.
func TestCoverage(t *testing.T) {
	survey := []string{"Windows", "macOS", "Linux", "Symantec", "Trend Micro", "McAfee", "ESET", "Kaspersky", "Sophos", "F-Secure", "ClamAV", "Microsoft Office", "JustSystems", "Adobe", "Google", "Mozilla", "Store apps"}
	board := Coverage()
	for _, want := range survey {
		if !slices.ContainsFunc(board, func(c feed.Coverage) bool { return strings.Contains(c.Product.EN, want) }) {
			t.Errorf("%s is not on the board", want)
		}
	}
	named := map[string]bool{"tree": true, "winget": true} // carry what the operator chooses
	for _, c := range board {
		if c.Product.JA == "" || c.Product.EN == "" || c.Group.JA == "" || c.Note.JA == "" || c.Note.EN == "" {
			t.Errorf("blank: %+v", c)
		}
		if (c.Carried == feed.Missing || c.Carried == feed.Excluded) != (len(c.Kinds) == 0) && c.Carried != feed.Excluded {
			t.Errorf("%s is %s with the kinds %v", c.Product.EN, c.Carried, c.Kinds)
		}
		for _, k := range c.Kinds {
			named[k] = true
		}
	}
	for _, k := range Kinds() {
		if !named[k.Name] && k.Name != "tooldir" {
			t.Errorf("kind %s is on no line of the board", k.Name)
		}
	}
}
