package verifier

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/pem"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// The roots to which publishers' certificates for code signing, and the time
// stamps on what they signed, lead. They are those of Microsoft's list of
// trusted roots (authroot.stl) that sell such certificates today or have signed
// what is still distributed, Japanese ones among them. A comment line before
// each holds its name and the SHA-256 of its DER.
//
//go:embed anchors/code-signing-roots.pem
var codeSigningRoots []byte

// CodeSigningAnchors are the roots pinned in this build for publishers other
// than Microsoft, and Microsoft's own, for the given use. Who holds a
// certificate under them is anybody: a kind that uses them pins the publisher.
func CodeSigningAnchors(use string) []feed.Anchor {
	out := MicrosoftAnchors()
	for i := range out {
		out[i].Use = use
	}
	var names []string
	for s := bufio.NewScanner(bytes.NewReader(codeSigningRoots)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 3 && f[0] == "#" {
			names = append(names, f[1])
		}
	}
	rest := codeSigningRoots
	for _, n := range names {
		var p *pem.Block
		if p, rest = pem.Decode(rest); p == nil {
			break
		}
		out = append(out, feed.Anchor{Name: n, Use: use, Data: pem.EncodeToMemory(p), Source: "Microsoft's list of trusted roots (authroot.stl)"})
	}
	return out
}
