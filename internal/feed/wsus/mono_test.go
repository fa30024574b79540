package wsus

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
)

// monoDriver builds testdata/driver.cs with the proxies of the published WSDLs.
func monoDriver(t *testing.T) func(args ...string) string {
	t.Helper()
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	for _, tool := range []string{"wsdl", "mcs", "mono"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" (Debian: mono-complete) is not here")
		}
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	source, err := filepath.Abs(filepath.Join("testdata", "driver.cs"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-nowarn:0618,0219", "-r:System.Web.Services", "-out:driver.exe", source}
	for _, w := range []string{"Client", "SimpleAuth", "Reporting", "ServerSync", "DssAuth"} {
		run("wsdl", "-language:CS", "-namespace:WSUS."+w, "-out:"+w+".cs", filepath.Join(samples, "microsoft", "wsdl", w+".wsdl"))
		args = append(args, w+".cs")
	}
	run("mcs", args...)
	return func(args ...string) string { return run("mono", append([]string{"driver.exe"}, args...)...) }
}

// TestMono lets an independent SOAP stack play a terminal and a downstream
// server over the genuine revisions.
func TestMono(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has the other tests of the same handlers")
	}
	drive := monoDriver(t)
	v := realVendor(t)
	f := follower(t, v.URL, nil)
	c, err := follow(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, f)
	s.publish(c, feed.View{}, "all")
	rec := &recorder{h: s.h}
	s.h = rec
	const windows, critical = "6964aab4-c5b5-43bd-a17d-ffb4346a8e1d", "0fa1201d-4330-4fa8-8ae9-b877473b6441"
	lines := func(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
	config := 0
	for _, body := range documentsOf(t, c) {
		if d, err := parseDocument([]byte(body)); err != nil {
			t.Fatal(err)
		} else if d.Type == "Category" || d.Type == "Detectoid" {
			config++
		}
	}
	if d := cmp.Diff([]string{
		"GetConfig registration=True plugin=SimpleTargeting properties=MaxExtendedUpdatesPerRequest=50,ProtocolVersion=3.2,IsInventoryRequired=0,ClientReportingLevel=2",
		"GetCookie hour=True",
		"RegisterComputer ok",
		"StartCategoryScan preferred=1 errors=0",
		"SyncUpdates revisions=5 install=Install True",
		"GetExtendedUpdateInfo fragments=4 files=1",
		"Content bytes=826607 sha1=True",
		"RefreshCache results=1 action=Install",
		"GetFileLocations files=1 same=True",
		"ReportEventBatch True",
		"fault forged=InvalidCookie",
		"fault many=InvalidParameters",
	}, lines(drive(s.URL, "terminal", windows))); d != "" {
		t.Errorf("a terminal: %s", d)
	}
	if d := cmp.Diff([]string{
		"GetAuthConfig DssTargeting",
		"GetConfigData catalogOnly=False max=100 languages=3",
		fmt.Sprintf("config listed=%d brought=%[1]d some=True", config),
		"updates listed=2 files=1 first=" + member81,
		"nothing new=0",
		"Content sha1=True",
		"GetDeployments groups=2 deployments=0",
		"GetRelatedRevisionsForUpdates 1",
		"fault missing=FileDigestsMissing",
		"fault unknown=InternalServerError",
	}, lines(drive(s.URL, "server", windows, critical))); d != "" {
		t.Errorf("a downstream server: %s", d)
	}
	rec.validate(t, 20)
	if seen := s.ledger.seen; len(seen) == 0 || !slices.ContainsFunc(seen, func(x feed.Sighting) bool { return x.Event == "installed" && x.Name == "pc0001.city.example" }) {
		t.Errorf("the report is not in the ledger: %+v", seen)
	}
}

// recorder keeps what the handler answers.
type recorder struct {
	h       http.Handler
	mu      sync.Mutex
	answers [][]byte
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.HasSuffix(strings.ToLower(req.URL.Path), ".asmx") {
		r.h.ServeHTTP(w, req)
		return
	}
	rec := httptest.NewRecorder()
	r.h.ServeHTTP(rec, req)
	r.mu.Lock()
	r.answers = append(r.answers, rec.Body.Bytes())
	r.mu.Unlock()
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes())
}

// validate holds every answer but faults against Microsoft's published schemas.
func (r *recorder) validate(t *testing.T, least int) {
	t.Helper()
	tool, err := exec.LookPath("xmllint")
	if err != nil {
		missing(t, "xmllint is not here")
	}
	dir := filepath.Join(os.Getenv("HASHIKE_SAMPLES"), "microsoft", "examples", "schema")
	file := filepath.Join(t.TempDir(), "m.xml")
	checked := 0
	for _, m := range r.answers {
		_, body, _ := bytes.Cut(m, []byte("<s:Body>"))
		body, _, _ = bytes.Cut(body, []byte("</s:Body>"))
		if bytes.HasPrefix(body, []byte("<s:Fault>")) {
			continue
		}
		var why []string
		for _, schema := range []string{"Client-0", "SimpleAuth-0", "Reporting-0", "ServerSync-0", "DssAuth-0"} {
			if err := os.WriteFile(file, body, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(tool, "--noout", "--schema", filepath.Join(dir, schema+".xsd"), file).CombinedOutput()
			if err == nil {
				checked++
				why = nil
				break
			}
			why = append(why, fmt.Sprintf("%s: %.400s", schema, out))
		}
		if why != nil {
			t.Errorf("%.400s\n%s", body, strings.Join(why, "\n"))
		}
	}
	if checked < least {
		t.Errorf("%d answers checked", checked)
	}
}
