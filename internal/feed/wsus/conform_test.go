package wsus

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
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
			"probe":             "nobody signs what SOAP answers say, so one wrong byte in a number goes unnoticed; TestProbe has what is noticed",
			"hostile index":     "file names of the metadata never become paths",
		},
	})
}

// recordedVendor is an upstream server in one state: answers by the handler,
// payloads as files, so that the suite can cut and change them.
func recordedVendor(t *testing.T, change func(v *vendorServer)) feedtest.State {
	v := realVendor(t)
	v.root = "/vendor"
	change(v)
	s := feedtest.State{Files: feedtest.Files{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.serve(t, w, r) })}
	for sum, b := range v.files {
		s.Files[fileName(sum)] = b
	}
	return s
}

// TestServerConformance: the suite against an upstream server.
func TestServerConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has the suite with the drop directory")
	}
	bundle := identityOfText(t, "433942af-c579-4917-921b-c580f5ac230b", 501)
	revise := func(v *vendorServer, n int) {
		v.now = n
		const own = `UpdateID="433942af-c579-4917-921b-c580f5ac230b" RevisionNumber="%d"`
		v.add(t, bytes.ReplaceAll(v.docs[bundle], fmt.Appendf(nil, own, 501), fmt.Appendf(nil, own, 500+n)))
	}
	older := recordedVendor(t, func(*vendorServer) {})
	now := recordedVendor(t, func(v *vendorServer) { revise(v, 2) })
	newer := recordedVendor(t, func(v *vendorServer) { revise(v, 2); revise(v, 3) })
	kind := Kind()
	kind.New = func(d feed.Decode) (feed.Feed, error) {
		f, err := newFeed(d)
		if u, ok := f.(*updates); ok {
			u.epoch = func() epoch { return epoch{1} } // else no two snapshots are alike
		}
		return f, err
	}
	feedtest.Run(t, feedtest.Case{
		Kind: kind, Trust: verifier.MicrosoftAnchors(), Time: taken,
		Config: "upstream = \"{url}\"\nproducts = [\"Windows\"]\nclassifications = [\"Critical Updates\", \"Security Updates\"]\n",
		Older:  older, Now: now, Newer: newer,
		Optional: func(p string) bool { return p != revisionsPath },
		Huge:     func(p string) bool { return strings.HasPrefix(p, "files/") },
		Gone:     func(p string) bool { return strings.HasPrefix(p, batchPrefix) },
		Falls: func(wrong, p string) bool {
			return strings.HasPrefix(wrong, batchPrefix) && strings.HasPrefix(p, "Content/")
		},
		Address: func(p string) string {
			if strings.HasPrefix(p, "Content/") {
				return "/" + p
			}
			return "" // terminals get fragments, servers get documents
		},
		Quiet: 6,
		Requests: []feedtest.Request{
			{Path: "/" + payload81, Status: 200},
			{Path: pathServerSync, Status: 405},
			{Method: http.MethodPost, Path: pathServerSync, Body: "x", Status: 400},
			{Method: http.MethodPost, Path: pathServerSync, Status: 200, Holds: "DssTargeting", Body: xmlHead + `<GetAuthConfig xmlns="` + nsServer + `"/></s:Body></s:Envelope>`},
		},
		Without: map[string]string{
			"key swapped":       "nobody signs the metadata; package verifier tests other roots for the payload",
			"orders":            "without a key metadata is still attested; its payload is withheld alone",
			"signature removed": "package verifier takes signatures from these cabinets",
			"rollback":          "a server signs no order of its revisions; the mark of the map stops an older one",
			"probe":             "nobody signs what SOAP answers say, so one wrong byte in a number goes unnoticed; TestProbe has what is noticed",
			"hostile index":     "file names of the metadata never become paths",
		},
	})
}
