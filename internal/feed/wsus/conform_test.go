package wsus

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

// vendorOf is a drop directory as the suite lays it out.
func vendorOf(t *testing.T, names ...string) feedtest.State {
	s := feedtest.State{Files: feedtest.Files{}}
	for n, f := range dropOf(t, names...) {
		s.Files[n] = f.Data
	}
	return s
}

func TestConformance(t *testing.T) {
	now := vendorOf(t, "win8.1")
	newer := vendorOf(t, "win8.1", "win6.1")
	older := feedtest.State{Files: maps.Clone(vendorOf(t, "win6.1").Files)}
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Trust: verifier.MicrosoftAnchors(), Dir: "drop", Time: taken,
		Older: older, Now: now, Newer: newer,
		Optional: func(p string) bool { return p != revisionsPath },
		Huge:     func(string) bool { return true },
		Address: func(p string) string {
			if strings.HasPrefix(p, "Content/") {
				return "/" + p
			}
			return "" // terminals get fragments
		},
		Requests: []feedtest.Request{
			{Path: "/" + payload81, Status: 200},
			{Path: "/" + strings.ToLower(payload81), Status: 200},
			{Path: "/ClientWebService/client.asmx", Status: 405},
			{Method: http.MethodPost, Path: "/ClientWebService/client.asmx", Body: "x", Status: 400},
			{Path: "/SelfUpdate/wuident.cab", Status: 404},
		},
		Without: map[string]string{
			"key swapped":       "the signed files are Microsoft's own; package verifier tests other roots and orders against keys",
			"orders":            "without a key metadata is still attested; its payload is withheld alone",
			"signature removed": "package verifier takes signatures from these cabinets",
			"rollback":          "a drop directory is what its operator puts there: no order of the vendor's is in it",
			"probe":             "comes with the reporting services",
			"hostile index":     "file names of the metadata never become paths",
		},
	})
}
