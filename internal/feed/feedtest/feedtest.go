// Package feedtest is the conformance suite of feed kinds: Run gives each the
// same vendor on a good day, on a bad day, and in the hands of an attacker, so
// that no author of a kind can forget one of them. It drives the real engines
// (fetcher, verifier, cas, state, config); only the vendor is recorded.
//
// What a kind must bring is in Case. Attacks are derived from what the kind
// itself fetched: a case names only what cannot be derived, such as a second
// key. A check that cannot apply is named in Case.Without with its reason;
// leaving out its input otherwise fails.
package feedtest

import (
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Files are contents by slash-separated path.
type Files map[string][]byte

// State is one recorded state of a vendor's upstream.
type State struct {
	Files   Files        // answered below {url}, or laid into the directory Case.Dir
	Handler http.Handler // what is no file (SOAP, queries); asked where Files has nothing; paths as below {url}
}

// Request is one thing a terminal asks, and what it must be told.
type Request struct {
	Method string // "" is GET
	Path   string // below the mount point, with query
	Header http.Header
	Body   string
	Status int    // 0 is 200
	Holds  string // the body must contain it
}

// Case is one kind against one recorded vendor.
type Case struct {
	Kind   feed.Kind
	Config string        // the feed's block without kind; {url} is the upstream's address
	Dir    string        // the kind reads the directory dirs.<Dir>; "" is the server at {url}
	Trust  []feed.Anchor // in place of the kind's own
	Time   time.Time     // when Newer is fetched; zero is the present

	Older, Now, Newer State
	Forged            State                    // Now, signed in full by a key that Trust does not have
	Hostile           func(name string) State  // an upstream whose index, rightly signed, gives a file this name
	Unsigned          map[string]func(f Files) // further ways to take a signature from a snapshot's files, beyond the built-in

	Optional func(path string) bool             // a snapshot may lack this artifact
	Loose    func(path string, offset int) bool // a byte that no signature covers and nothing reads (armor headers)
	Address  func(path string) string           // where terminals ask for an artifact: nil is "/" and the path, "" is nowhere
	Falls    func(wrong, path string) bool      // though of another group, path has no other proof than wrong
	Gone     func(path string) bool             // of Older, rightly absent once Newer is published
	Requests []Request                          // to a server that has Newer
	Quiet    int64                              // most requests of a fetch with nothing new; 0 is 6
	Except   bool                               // nothing of the vendor's can be proved: an exception order for "none" is in force throughout
	Huge     func(path string) bool             // upstream files whose cap is beyond what a test can send (64 MiB)
	Without  map[string]string                  // subtest → why it does not apply
}

// name is the feed's name in every test.
const name = "conformance"

// Run runs every check as a subtest.
func Run(t *testing.T, c Case) {
	t.Helper()
	c.defaults()
	t.Run("config", c.testConfig)
	h := c.history(t)
	for _, s := range []struct {
		name string
		need bool // its input is there
		f    func(*testing.T, *history)
	}{
		{"unchanged", true, testUnchanged},
		{"hosts", true, testHosts},
		{"evidence", true, testEvidence},
		{"pure", true, testPure},
		{"tampered", true, testTampered},
		{"labels", true, testLabels},
		{"signature removed", true, testUnsigned},
		{"mixed", true, testMixed},
		{"key swapped", c.Forged.Files != nil || c.Forged.Handler != nil, testForged},
		{"orders", true, testOrders},
		{"rollback", true, testRollback},
		{"exception", true, testException},
		{"hostile index", c.Hostile != nil, testHostile},
		{"upstream tampered", true, testUpstreamTampered},
		{"upstream faults", true, testFaults},
		{"upstream moves", true, testMoving},
		{"oversize", true, testOversize},
		{"cancelled", true, testCancelled},
		{"serve", true, testServe},
		{"publish", true, testPublish},
		{"requests", true, testRequests},
		{"settings", true, testSettings},
		{"probe", true, testProbe},
	} {
		t.Run(s.name, func(t *testing.T) {
			if why, out := c.Without[s.name]; out {
				t.Skip("does not apply: " + why)
			}
			if !s.need {
				t.Fatal("the case has no input for this and does not say in Without why")
			}
			s.f(t, h)
		})
	}
}

func (c *Case) defaults() {
	no := func(string) bool { return false }
	if c.Time.IsZero() {
		c.Time = time.Now()
	}
	c.Time = c.Time.UTC().Truncate(time.Second)
	if c.Optional == nil {
		c.Optional = no
	}
	if c.Gone == nil {
		c.Gone = no
	}
	if c.Falls == nil {
		c.Falls = func(string, string) bool { return false }
	}
	if c.Huge == nil {
		c.Huge = no
	}
	if c.Loose == nil {
		c.Loose = func(string, int) bool { return false }
	}
	if c.Address == nil {
		c.Address = func(p string) string { return "/" + p }
	}
	if c.Quiet == 0 {
		c.Quiet = 6
	}
	c.Kind.Anchors = c.Trust
	c.Kind.Terms = feed.Terms{} // accepting them is a person's part: the fetcher has its own test
}

// isSignature: by its name, a file holds nothing but a signature.
func isSignature(p string) bool {
	switch path.Ext(p) {
	case ".asc", ".sig", ".gpg", ".sign", ".p7s", ".p7b", ".minisig":
		return true
	}
	return false
}

const (
	clearBegin = "-----BEGIN PGP SIGNED MESSAGE-----\n"
	sigBegin   = "-----BEGIN PGP SIGNATURE-----"
)

// clearSigned takes the text out of a clear-signed document.
func clearSigned(b []byte) (text string, ok bool) {
	s, ok := strings.CutPrefix(string(b), clearBegin)
	if !ok {
		return "", false
	}
	if _, s, ok = strings.Cut(s, "\n\n"); !ok {
		return "", false
	}
	s, _, ok = strings.Cut(s, sigBegin)
	return s, ok
}
