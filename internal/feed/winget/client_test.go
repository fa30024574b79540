package winget

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// client acts as the Windows Package Manager: written from its documentation
// and its reader (winget-cli, src/AppInstallerRepositoryCore/Rest and
// CompositeSource.cpp), not from our server. It refuses what that refuses.
type client struct {
	t      *testing.T
	h      func(*http.Request) *httptest.ResponseRecorder
	base   string
	knows  []string // contract versions
	speaks string
}

var errNone = errors.New("no package found")

func (c *client) call(method, path, body string) ([]byte, error) {
	r := httptest.NewRequest(method, c.base+path, strings.NewReader(body))
	if c.speaks != "" {
		r.Header.Set("Version", c.speaks)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	rec := c.h(r)
	switch rec.Code {
	case http.StatusOK:
		if !strings.HasPrefix(rec.Header().Get("Content-Type"), "application/json") {
			return nil, fmt.Errorf("type %q", rec.Header().Get("Content-Type"))
		}
		return rec.Body.Bytes(), nil
	case http.StatusNoContent:
		return nil, errNone
	}
	return nil, fmt.Errorf("status %d", rec.Code)
}

// open asks for the information and takes the highest version that both know.
func (c *client) open() error {
	b, err := c.call("GET", "/information", "")
	if err != nil {
		return err
	}
	var info struct {
		Data struct {
			SourceIdentifier        string
			ServerSupportedVersions []string
		}
	}
	if err := json.Unmarshal(b, &info); err != nil || info.Data.SourceIdentifier == "" {
		return fmt.Errorf("information: %v", err)
	}
	for _, v := range c.knows {
		if slices.Contains(info.Data.ServerSupportedVersions, v) {
			c.speaks = v
		}
	}
	if c.speaks == "" {
		return errors.New("no common contract version")
	}
	return nil
}

// installed is an entry of Add/Remove Programs, or an app package.
type installed struct{ name, version, product, upgrade, family string }

type foundVersion struct {
	PackageVersion                                                               string
	ProductCodes, UpgradeCodes, PackageFamilyNames, AppsAndFeaturesEntryVersions []string
}

// available finds the package of an installed program, with its versions.
func (c *client) available(i installed) (id string, versions []foundVersion, err error) {
	var inc []map[string]any
	add := func(field, word string) {
		if word != "" {
			inc = append(inc, map[string]any{"PackageMatchField": field, "RequestMatch": map[string]string{"KeyWord": word, "MatchType": "Exact"}})
		}
	}
	add("PackageFamilyName", strings.ToLower(i.family)) // folded
	add("ProductCode", strings.ToLower(i.product))
	if c.speaks != "1.0.0" && c.speaks != "1.1.0" {
		add("UpgradeCode", strings.ToLower(i.upgrade))
	}
	if i.family == "" {
		add("NormalizedPackageNameAndPublisher", i.name)
	}
	body, _ := json.Marshal(map[string]any{"Inclusions": inc})
	b, err := c.call("POST", "/manifestSearch", string(body))
	if err != nil {
		return "", nil, err
	}
	var got struct {
		Data []struct {
			PackageIdentifier, PackageName, Publisher string
			Versions                                  []foundVersion
		}
	}
	if err := json.Unmarshal(b, &got); err != nil || len(got.Data) != 1 || len(got.Data[0].Versions) == 0 || got.Data[0].PackageName == "" {
		return "", nil, fmt.Errorf("search: %d packages, %v", len(got.Data), err)
	}
	return got.Data[0].PackageIdentifier, got.Data[0].Versions, nil
}

// install gets one version's manifest, downloads its installer for the
// architecture and compares the hash. It returns what would be run.
func (c *client) install(id, version, arch string) (file []byte, args string, err error) {
	at := "/packageManifests/" + url.PathEscape(id)
	if version != "" {
		at += "?Version=" + url.QueryEscape(version)
	}
	b, err := c.call("GET", at, "")
	if err != nil {
		return nil, "", err
	}
	var m struct {
		Data struct {
			PackageIdentifier string
			Versions          []struct {
				PackageVersion string
				DefaultLocale  struct{ PackageLocale, PackageName, Publisher, ShortDescription string }
				Installers     []struct {
					Architecture, InstallerType, InstallerUrl, InstallerSha256, ProductCode, PackageFamilyName, Scope string
					SignatureSha256                                                                                   *string
					InstallerSwitches                                                                                 struct{ Silent string }
				}
			}
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, "", err
	}
	for _, v := range m.Data.Versions {
		d := v.DefaultLocale
		if d.PackageLocale == "" || d.PackageName == "" || d.Publisher == "" || d.ShortDescription == "" || len(v.Installers) == 0 || v.PackageVersion == "" {
			return nil, "", fmt.Errorf("RESTSOURCE_INVALID_DATA: %+v", v)
		}
		for _, i := range v.Installers {
			switch {
			case i.Architecture == "" || i.InstallerType == "" || len(i.InstallerSha256) != 64 || i.SignatureSha256 != nil && len(*i.SignatureSha256) != 64:
				return nil, "", fmt.Errorf("RESTSOURCE_INVALID_DATA: %+v", i)
			case i.PackageFamilyName != "" && i.InstallerType != "msix" && i.InstallerType != "appx", i.ProductCode != "" && (i.InstallerType == "msix" || i.InstallerType == "appx"):
				return nil, "", fmt.Errorf("field of another installer type: %+v", i)
			case version != "" && v.PackageVersion != version || i.Architecture != arch && i.Architecture != "neutral":
				continue
			}
			if !strings.HasPrefix(i.InstallerUrl, "https://") {
				return nil, "", fmt.Errorf("installer at %s", i.InstallerUrl)
			}
			rec := c.h(httptest.NewRequest("GET", i.InstallerUrl, nil))
			if rec.Code != http.StatusOK || !strings.EqualFold(feed.DigestOf(rec.Body.Bytes()).Hex(), i.InstallerSha256) {
				return nil, "", fmt.Errorf("%s: %d, hash mismatch", i.InstallerUrl, rec.Code)
			}
			return rec.Body.Bytes(), i.InstallerSwitches.Silent, nil
		}
	}
	return nil, "", errNone
}

func (w *world) client(host string, knows ...string) *client {
	w.t.Helper()
	if len(knows) == 0 {
		knows = []string{"1.0.0", "1.1.0", "1.4.0", "1.5.0", "1.6.0", "1.7.0", "1.9.0", "1.10.0", "1.12.0", "1.28.0"}
	}
	c := &client{t: w.t, base: "https://" + host + "/winget", knows: knows, h: func(r *http.Request) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		w.h.ServeHTTP(rec, r)
		return rec
	}}
	if err := c.open(); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// TestClient: winget list, upgrade and install, for an MSI, an app package and
// a program with an installer of its own, in every version of the contract.
func TestClient(t *testing.T) {
	w := shop(t)
	for _, knows := range [][]string{nil, {"1.0.0"}, {"1.0.0", "1.1.0"}, {"1.4.0"}, {"1.5.0", "1.6.0"}, {"1.7.0"}, {"1.9.0"}} {
		c := w.client("hashike.example", knows...)
		for _, x := range []struct {
			installed
			id, newest, arch, body, args string
		}{
			{installed{"Google Chrome", "137.0.1.1", "{11111111-5144-3E8C-A7B1-4B3BC607535E}", "{C1DFDF69-5945-32F2-A35E-EE94C99C7CF4}", ""}, "Google.Chrome", "138.0.7204.50", "x64", "chrome 138", "/qn"},
			{installed{"業務アプリ", "1.2.0.0", "", "", "Hashike.App_8wekyb3d8bbwe"}, "Hashike.App", "1.3.0.0", "arm64", "bundle", ""},
			{installed{"Mozilla Thunderbird (x64 ja)", "128.5.0", "Mozilla Thunderbird 128.5.0 (x64 ja)", "", ""}, "Mozilla.Thunderbird.ESR.ja", "140.12.0", "x64", "thunderbird", "/S /PreventRebootRequired=true"},
		} {
			id, versions, err := c.available(x.installed)
			if err != nil || id != x.id || versions[0].PackageVersion != x.newest {
				t.Errorf("%s: %s: %s %+v, %v", c.speaks, x.name, id, versions, err)
				continue
			}
			file, args, err := c.install(id, x.newest, x.arch)
			if err != nil || string(file) != x.body || args != x.args {
				t.Errorf("%s: %s: %q %q, %v", c.speaks, id, file, args, err)
			}
		}
		// The newest is asked for by name alone, and older ones stay to be had.
		if file, _, err := c.install("google.chrome", "137.0.1.1", "x64"); err != nil || string(file) != "chrome 137" {
			t.Errorf("the older version: %q, %v", file, err)
		}
		for _, none := range [][2]string{{"No.Such", ""}, {"Google.Chrome", "1.0"}, {"Adobe.Patch", ""}, {"Just.Ichitaro", ""}} {
			if _, _, err := c.install(none[0], none[1], "x64"); !errors.Is(err, errNone) {
				t.Errorf("%s %s: %v", none[0], none[1], err)
			}
		}
	}
	if err := (&client{t: t, base: "https://hashike.example/winget", knows: []string{"0.9.0"}, h: w.client("hashike.example").h}).open(); err == nil {
		t.Error("a client without a common version")
	}
}

// TestComingAndGoing: a package is there while it is published, per ring, and
// a download that began with an older publication ends.
func TestComingAndGoing(t *testing.T) {
	w := newWorld(t, "apps")
	c := func(host string) *client { return w.client(host) }
	w.serve()
	if _, _, err := c("hashike.example").install("Hashike.App", "", "x64"); !errors.Is(err, errNone) {
		t.Errorf("before any publication: %v", err)
	}
	record := func(version string) []feed.Installer {
		return []feed.Installer{{Path: version + ".msi", ID: "Hashike.App", Name: "App", Publisher: "Hashike", Version: version, Arch: "x64", Type: "msi", Silent: "/qn"}}
	}
	w.publish("apps", map[string][]byte{"1.0.msi": []byte("one")}, record("1.0"))
	w.publish("apps", map[string][]byte{"2.0.msi": []byte("two")}, record("2.0"), "test")
	for host, want := range map[string]string{"hashike.example": "one", "test.hashike.example": "two", "pilot.hashike.example": "one"} {
		if file, _, err := c(host).install("Hashike.App", "", "x64"); err != nil || string(file) != want {
			t.Errorf("%s: %q, %v", host, file, err)
		}
	}
	// A file of the publication before is still to be had by its digest in the ring that saw it.
	old := "/installers/" + feed.DigestOf([]byte("one")).Hex() + "/1.0.msi"
	if rec := w.ask("GET", "test.hashike.example", old, "", ""); rec.Code != http.StatusOK || rec.Body.String() != "one" {
		t.Errorf("a download across a publication: %d", rec.Code)
	}
	if rec := w.ask("GET", "hashike.example", "/installers/"+feed.DigestOf([]byte("two")).Hex()+"/2.0.msi", "", ""); rec.Code != http.StatusNotFound {
		t.Errorf("a file of the ring before: %d", rec.Code)
	}
	if rec := w.ask("GET", "test.hashike.example", old, "", "", "Range", "bytes=1-"); rec.Code != http.StatusPartialContent || rec.Body.String() != "ne" {
		t.Errorf("a part: %d %q", rec.Code, rec.Body)
	}
	// Withheld: gone from lists and by digest.
	p := w.peers["apps"]["test"]
	p.View.Withheld = map[string]string{"2.0.msi": "held"}
	w.peers["apps"]["test"] = p
	w.serve()
	if _, _, err := c("test.hashike.example").install("Hashike.App", "", "x64"); !errors.Is(err, errNone) {
		t.Errorf("withheld: %v", err)
	}
	if rec := w.ask("GET", "test.hashike.example", "/installers/"+feed.DigestOf([]byte("two")).Hex()+"/2.0.msi", "", ""); rec.Code != http.StatusNotFound {
		t.Errorf("withheld, by digest: %d", rec.Code)
	}
	delete(w.peers["apps"], "test")
	w.serve()
	if got := w.ids(`{}`); got != "Hashike.App" {
		t.Errorf("ring all: %q", got)
	}
}

// TestBrokenPeer: records that are invalid take that feed's packages away, not
// the others'.
func TestBrokenPeer(t *testing.T) {
	w := shop(t)
	w.publish("empty", map[string][]byte{"x.msi": []byte("x")}, []feed.Installer{{Path: "x.msi", ID: "no id"}})
	if got := w.ids(`{}`); got != "Google.Chrome Hashike.App Mozilla.Thunderbird.ESR.ja" {
		t.Errorf("%q", got)
	}
}
