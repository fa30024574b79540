package winget

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// contractOf loads the published description of one version of the contract.
func contractOf(t *testing.T, version string) routers.Router {
	t.Helper()
	l := openapi3.NewLoader()
	doc, err := l.LoadFromData(testdata(t, "WinGet-"+version+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// An erratum of the descriptions from 1.4 on: "allOf" of two lists of words
	// that share none. No installer would conform, not even their own examples.
	if s := doc.Components.Schemas["InstallerType"].Value; len(s.AllOf) == 2 {
		s.AnyOf, s.AllOf = s.AllOf, nil
	}
	doc.Servers = openapi3.Servers{{URL: "https://hashike.example/winget"}}
	r, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// conform holds a request and its answer against the description.
func conform(t *testing.T, router routers.Router, version, method, path, body string, rec *httptest.ResponseRecorder) {
	t.Helper()
	req := httptest.NewRequest(method, "https://hashike.example/winget"+path, strings.NewReader(body))
	req.Header.Set("Version", version)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	route, params, err := router.FindRoute(req)
	if err != nil {
		t.Fatalf("%s: %s %s: %v", version, method, path, err)
	}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}}
	if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
		t.Errorf("%s: the test's own request: %s %s: %v", version, method, path, err)
	}
	header := rec.Header().Clone()
	if version != "" && rec.Code == http.StatusOK {
		// The description writes the type "application/Json", and means it without regard to case.
		header.Set("Content-Type", "application/Json")
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: rec.Code, Header: header, Body: io.NopCloser(bytes.NewReader(rec.Body.Bytes()))}
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		t.Errorf("%s: %s %s: %v\n%.2000s", version, method, path, err, rec.Body)
	}
}

// TestContracts: every answer, in every version of the contract, against its
// published description and the manifest schema of the same version.
func TestContracts(t *testing.T) {
	w := shop(t)
	w.manifests(dressed()...)
	w.publish("empty", map[string][]byte{"x/tool.zip": []byte("zip"), "x/tool.exe": []byte("tool")}, nil)
	for _, n := range contracts() {
		if testing.Short() && n != 4 {
			continue // the race detector needs one
		}
		version := contractName(n)
		t.Run(version, func(t *testing.T) {
			router := contractOf(t, version)
			schema := schemaOf(t, version)
			get := func(method, path, body string, status int) []byte {
				t.Helper()
				rec := w.ask(method, "hashike.example", path, body, version)
				if rec.Code != status {
					t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
				}
				if status == http.StatusNoContent && method == "GET" {
					return nil // as the reference server answers; its description forgets to say so
				}
				conform(t, router, version, method, path, body, rec)
				return rec.Body.Bytes()
			}
			get("GET", "/information", "", 200)
			get("POST", "/manifestSearch", `{"Query":{"KeyWord":"nobody has this","MatchType":"Substring"}}`, 204)
			get("GET", "/packageManifests/No.Such", "", 204)
			var all struct {
				Data []struct{ PackageIdentifier string }
			}
			if err := json.Unmarshal(get("POST", "/manifestSearch", `{"MaximumResults":50,"Filters":[],"Inclusions":[]}`, 200), &all); err != nil || len(all.Data) < 4 {
				t.Fatalf("%d packages, %v", len(all.Data), err)
			}
			for _, p := range all.Data {
				validManifest(t, schema, version, get("GET", "/packageManifests/"+p.PackageIdentifier, "", 200))
			}
			rec := w.ask("POST", "hashike.example", "/manifestSearch", `{"MaximumResults":"x"}`, version)
			if rec.Code != http.StatusBadRequest {
				t.Errorf("a bad request: %d", rec.Code)
			}
			r := httptest.NewRequest("POST", "https://hashike.example/winget/manifestSearch", nil)
			route, params, _ := router.FindRoute(r)
			in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route}
			if err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: 400, Header: rec.Header(), Body: io.NopCloser(rec.Body)}); err != nil {
				t.Errorf("the error: %v", err)
			}
		})
	}
}

func schemaOf(t *testing.T, version string) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(testdata(t, "manifest.singleton."+version+".json")))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validManifest holds an answer's versions, written as manifests of one file,
// against the manifest schema.
func validManifest(t *testing.T, schema *jsonschema.Schema, version string, body []byte) {
	t.Helper()
	var m struct {
		Data struct {
			PackageIdentifier string
			Versions          []map[string]any
		}
	}
	if err := json.Unmarshal(body, &m); err != nil || len(m.Data.Versions) == 0 {
		t.Fatalf("manifest: %v", err)
	}
	for _, v := range m.Data.Versions {
		one := map[string]any{"PackageIdentifier": m.Data.PackageIdentifier, "PackageVersion": v["PackageVersion"], "ManifestType": "singleton", "ManifestVersion": version}
		for k, x := range v["DefaultLocale"].(map[string]any) {
			one[k] = x
		}
		// The schema of one file permits a single installer.
		for _, i := range v["Installers"].([]any) {
			one["Installers"] = []any{i}
			b, _ := json.Marshal(one)
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(doc); err != nil {
				t.Errorf("%s: %s %v: %v", version, m.Data.PackageIdentifier, v["PackageVersion"], err)
			}
		}
	}
}

// dressed are manifests that use what each contract has: for the files tool.zip
// and tool.exe.
func dressed() [][]byte {
	head := "PackageIdentifier: Hashike.Tool\nPackageVersion: \"2.10\"\nManifestVersion: 1.10.0\n"
	return [][]byte{
		[]byte(head + "ManifestType: version\nDefaultLocale: en-US\n"),
		[]byte(head + "ManifestType: defaultLocale\nPackageLocale: en-US\nPublisher: Hashike\nPackageName: Tool\nLicense: MIT\nShortDescription: A tool\nMoniker: tool\nTags: [one, two]\nReleaseNotes: |-\n  first\n  second\nDocumentations:\n- DocumentLabel: Guide\n  DocumentUrl: https://hashike.example/guide\nIcons:\n- IconUrl: https://evil.example/x\n"),
		[]byte(head + "ManifestType: locale\nPackageLocale: ja-JP\nPackageName: 道具\nPublisher: 艀\nLicense: MIT\nShortDescription: 道具です\n"),
		[]byte(head + fmt.Sprintf(`ManifestType: installer
InstallerType: exe
Scope: machine
InstallModes: [silent, silentWithProgress]
InstallerSwitches:
  Silent: /quiet
  SilentWithProgress: /passive
  Repair: /repair
InstallerSuccessCodes: [5]
ExpectedReturnCodes:
- InstallerReturnCode: 1602
  ReturnResponse: cancelledByUser
- InstallerReturnCode: 1639
  ReturnResponse: invalidParameter
  ReturnResponseUrl: https://hashike.example/1639
UpgradeBehavior: install
ReleaseDate: 2026-11-01
Installers:
- Architecture: x64
  InstallerUrl: https://vendor.example/tool.exe
  InstallerSha256: %s
  ProductCode: Tool
  InstallerSwitches:
    Silent: /verysilent
  AppsAndFeaturesEntries:
  - DisplayName: Tool 2.10
    DisplayVersion: 2.10.0
    UpgradeCode: '{AAAAAAAA-5945-32F2-A35E-EE94C99C7CF4}'
- Architecture: x86
  InstallerType: zip
  NestedInstallerType: portable
  NestedInstallerFiles:
  - RelativeFilePath: tool.exe
    PortableCommandAlias: tool
  InstallerUrl: https://vendor.example/tool.zip
  InstallerSha256: %s
- Architecture: arm64
  InstallerUrl: https://vendor.example/arm.exe
  InstallerSha256: %s
`, digestUpper("tool"), strings.ToLower(digestUpper("zip")), digestUpper("not published here"))),
	}
}
