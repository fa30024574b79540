package wsus

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

const productDrivers = "05eebf61-148b-43cf-80da-1c99ab0b8699" // "Windows 10 and later drivers"

// driverUpdate adds a driver for some hardware, with its cabinet.
func driverUpdate(t testing.TB, v *vendorServer, by *feedtest.Publisher, n int, hardware ...string) (id identity, path string) {
	t.Helper()
	body := by.Cabinet(t, packed(t, map[string][]byte{"driver.inf": fmt.Appendf(nil, "driver %d", n)}), taken)
	s1, s256 := sha1.Sum(body), sha256.Sum256(body)
	sum := base64.StdEncoding.EncodeToString(s1[:])
	v.files[sum] = body
	var rows strings.Builder
	for _, h := range hardware {
		fmt.Fprintf(&rows, `<d.WindowsDriverMetaData HardwareID="%s" WhqlDriverID="1" Manufacturer="M" Company="C" Provider="P" DriverVerDate="2026-01-01" DriverVerVersion="1.0.0.%d" Class="Net" Model="X" />`, esc(h), n)
	}
	id = v.add(t, compose(fmt.Sprintf(`<UpdateIdentity UpdateID="%08d-0000-4000-8000-0000000000d0" RevisionNumber="1" /><Properties UpdateType="Driver" ExplicitlyDeployable="true" /><Relationships><Prerequisites><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="%s" /></AtLeastOne><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="%s" /></AtLeastOne></Prerequisites></Relationships><ApplicabilityRules><IsInstalled><d.WindowsDriverInstalled /></IsInstalled><IsInstallable><d.WindowsDriverInstallable /></IsInstallable><Metadata>%s</Metadata></ApplicabilityRules>`,
		n, classifications["drivers"], productDrivers, rows.String()),
		fmt.Sprintf(`<ExtendedProperties DefaultPropertiesLanguage="en" Handler="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/WindowsDriver" /><Files><File Digest="%s" DigestAlgorithm="SHA1" FileName="driver.cab" Size="%d"><AdditionalDigest Algorithm="SHA256">%s</AdditionalDigest></File></Files>`,
			sum, len(body), base64.StdEncoding.EncodeToString(s256[:])), nil, ` CreationDate="2026-10-01T00:00:00Z"`, ""))
	return id, file{Name: "driver.cab", SHA1: s1}.path()
}

// TestDriversAreChosen: drivers come when their classification is chosen, of
// the hardware that is named alone, with their ids in the document and their
// cabinet signed.
func TestDriversAreChosen(t *testing.T) {
	v := newVendor(t)
	by := feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken)
	nic, nicFile := driverUpdate(t, v, by, 1, `PCI\VEN_8086&DEV_15F3&SUBSYS_0001`, `PCI\VEN_8086&DEV_15F2`)
	gpu, gpuFile := driverUpdate(t, v, by, 2, `PCI\VEN_10DE&DEV_2204`)
	for _, c := range []struct {
		why      string
		class    string
		hardware []string
		nic, gpu bool
	}{
		{"not chosen", "Security Updates", nil, false, false},
		{"all", "Drivers", nil, true, true},
		{"one vendor, in lower case", "Drivers", []string{`pci\ven_8086&dev_15f3`}, true, false},
		{"two", "Drivers", []string{`PCI\VEN_8086`, `PCI\VEN_10DE&DEV_2204`}, true, true},
	} {
		f := follower(t, v.URL, func(conf *Config) {
			conf.Products, conf.Classifications, conf.Hardware = []string{productDrivers}, []string{classifications["drivers"].String()}, c.hardware
			if c.class != "Drivers" {
				conf.Classifications = []string{classSecurity.String()}
			}
		})
		s, err := follow(f, nil)
		if !c.nic && !c.gpu {
			if !errors.Is(err, feed.ErrTransient) {
				t.Errorf("%s: %v", c.why, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.why, err)
		}
		docs := documentsOf(t, s)
		for _, x := range []struct {
			id   identity
			path string
			want bool
		}{{nic, nicFile, c.nic}, {gpu, gpuFile, c.gpu}} {
			if _, ok := s.Lookup(x.path); ok != x.want || (docs[x.id] != "") != x.want {
				t.Errorf("%s: file of %s here: %v, document: %v", c.why, x.id, ok, docs[x.id] != "")
			}
		}
		if c.nic && !strings.Contains(docs[nic], `HardwareID="PCI\VEN_8086&amp;DEV_15F3&amp;SUBSYS_0001"`) {
			t.Errorf("%s: the document is another: %s", c.why, docs[nic])
		}
		verdict, err := verifier.Run(t.Context(), verifier.Job{
			Setup: feed.Setup{Name: "windows", Kind: Kind(), Feed: f}, Content: s,
			Trust: feed.Trust{Anchors: []feed.Anchor{by.Anchor}, At: taken}, Policy: verifier.Policy{Floors: Kind().Floors},
		})
		if err != nil || len(verdict.Withheld) > 0 {
			t.Errorf("%s: %v, %v", c.why, verdict.Withheld, err)
		}
		if _, err := follow(f, s); !errors.Is(err, feed.ErrUnchanged) {
			t.Errorf("%s, again: %v", c.why, err)
		}
	}
	if _, err := newFeed(func(into any) error { into.(*Config).Hardware = []string{""}; return nil }); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("empty pattern: %v", err)
	}
}

// TestDeclinedAtFetch: files of what rules decline for everyone are not
// fetched; one group that may have it is enough to fetch them.
func TestDeclinedAtFetch(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	v := smallVendor(t)
	class := "28bc880e-0592-4cbf-8f95-c79b17911d5f"
	for _, g := range slices.Concat(mustParse(t, v.docs[identityOfText(t, update81, 501)]).Prereqs...) {
		for _, c := range classifications {
			if c == g {
				class = g.String()
			}
		}
	}
	for _, c := range []struct {
		why   string
		rules []Rule
		want  bool
	}{
		{"no rules", nil, true},
		{"declined", []Rule{{Classification: class, Action: "decline"}}, false},
		{"declined by product", []Rule{{Product: "windows", Action: "decline"}}, false},
		{"another classification", []Rule{{Classification: "Drivers", Action: "decline"}}, true},
		{"first an approval", []Rule{{Classification: class, Action: "install"}, {Action: "decline"}}, true},
		{"one group may have it", []Rule{{Action: "decline"}, {Group: "Shiken", Action: "install"}}, true},
		{"one group may not", []Rule{{Group: "Shiken", Action: "decline"}}, true},
		{"nobody may", []Rule{{Group: "Shiken", Action: "decline"}, {Action: "decline"}}, false},
	} {
		s, err := follow(follower(t, v.URL, func(conf *Config) { conf.Rules = c.rules }), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := s.Lookup(payload81); ok != c.want {
			t.Errorf("%s: fetched %v", c.why, ok)
		}
		if documentsOf(t, s)[identityOfText(t, update81, 501)] == "" {
			t.Errorf("%s: the document is gone", c.why)
		}
	}
}

func mustParse(t testing.TB, b []byte) *document {
	t.Helper()
	d, err := parseDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// strict is an upstream that holds every request to its bounds.
type strict struct {
	*netOutside
	t       *testing.T
	running atomic.Int32
	calls   atomic.Int32
}

func (s *strict) Do(ctx context.Context, r feed.Request) (*feed.Response, error) {
	defer s.running.Add(-1)
	if n := s.running.Add(1); n > 1 {
		s.t.Errorf("%d requests at once", n)
	}
	s.calls.Add(1)
	if r.Limit <= 0 || r.Limit > maxAnswer {
		s.t.Errorf("%s may answer %d bytes", r.URL, r.Limit)
	}
	if n := strings.Count(string(r.Body), "<RevisionNumber>"); n > 70 { // as the server said
		s.t.Errorf("%d revisions in one request", n)
	}
	if r.Method != http.MethodPost || len(r.Body) > 64<<10 {
		s.t.Errorf("%s with %d bytes", r.Method, len(r.Body))
	}
	return s.netOutside.Do(ctx, r)
}

func (s *strict) Load(ctx context.Context, r feed.Request, w feed.Want) (feed.Blob, error) {
	if w.Digest == "" || w.Size <= 0 || w.SHA1 == "" || r.Limit > maxPayload {
		s.t.Errorf("%s is loaded with %+v", r.URL, w)
	}
	return s.netOutside.Load(ctx, r, w)
}

// TestClientIsBounded: one request at a time, each with a limit to its answer
// and no more revisions than the server allows; files only by both digests.
func TestClientIsBounded(t *testing.T) {
	v := newVendor(t)
	for i := range 300 {
		v.add(t, plain(numbered(i), 1, "Detectoid", ""))
	}
	definition(t, v, feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken), 1)
	o := &strict{t: t, netOutside: &netOutside{&outside{nil, windows(nil)}}}
	if _, err := follower(t, v.URL, func(c *Config) {
		c.Products, c.Classifications = []string{productDefender}, []string{classDefinition.String()}
	}).Fetch(t.Context(), o, nil, o); err != nil {
		t.Fatal(err)
	}
	if n := o.calls.Load(); n < 10 {
		t.Errorf("%d requests: the test shows nothing", n)
	}
}
