package winget

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
)

// community are manifests of winget-pkgs as they are there, and the SHA-256 of
// the installer that each test publishes under.
func community(t *testing.T, replace map[string]string, names ...string) [][]byte {
	t.Helper()
	var out [][]byte
	for _, n := range names {
		b := sample(t, append([]string{"winget"}, strings.Split(n, "/")...)...)
		for old, new := range replace {
			b = bytes.ReplaceAll(b, []byte(old), []byte(new))
		}
		out = append(out, b)
	}
	return out
}

func thunderbird(t *testing.T, sha string) [][]byte {
	const at = "manifests/m/Mozilla/Thunderbird/ESR/ja/140.12.0/Mozilla.Thunderbird.ESR.ja"
	return community(t, map[string]string{"1B552A720FF53211B9AAB37654FB4ACC5874446F0A3C6ED6EEBA0CD2140CD321": sha}, at+".yaml", at+".locale.en-US.yaml", at+".installer.yaml")
}

func acrobat(t *testing.T) [][]byte {
	const at = "manifests/a/Adobe/Acrobat/Reader/64-bit/25.001.20577/Adobe.Acrobat.Reader.64-bit"
	return community(t, nil, at+".yaml", at+".locale.en-US.yaml", at+".installer.yaml")
}

// TestCommunityManifest: a genuine manifest dresses the file that is published
// here with the same SHA-256, and no other.
func TestCommunityManifest(t *testing.T) {
	w := shop(t)
	w.manifests(append(thunderbird(t, digestUpper("thunderbird")), acrobat(t)...)...)
	if got := w.ids(`{}`); got != "Google.Chrome Hashike.App Mozilla.Thunderbird.ESR.ja" { // no Acrobat: its file is not here
		t.Errorf("%q", got)
	}
	if got := w.ids(`{"Query":{"KeyWord":"thunderbird-esr","MatchType":"Exact"}}`); got != "Mozilla.Thunderbird.ESR.ja" {
		t.Errorf("moniker: %q", got)
	}
	var m struct {
		Data struct {
			Versions []struct {
				DefaultLocale map[string]any
				Installers    []map[string]any
			}
		}
	}
	body := w.ask("GET", "hashike.example", "/packageManifests/mozilla.thunderbird.esr.JA", "", "1.10.0").Body.Bytes()
	if err := json.Unmarshal(body, &m); err != nil || len(m.Data.Versions) != 1 || len(m.Data.Versions[0].Installers) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	i, l := m.Data.Versions[0].Installers[0], m.Data.Versions[0].DefaultLocale
	if i["Architecture"] != "x64" || i["Scope"] != "machine" || i["InstallerType"] != "nullsoft" || i["ProductCode"] != "Mozilla Thunderbird 140.12.0 (x64 ja)" || i["UpgradeBehavior"] != "install" || i["ReleaseDate"] != "2026-06-16" {
		t.Errorf("%v", i)
	}
	if s := i["InstallerSwitches"].(map[string]any)["Silent"]; s != "/S /PreventRebootRequired=true" {
		t.Errorf("%v", s)
	}
	if u := i["InstallerUrl"].(string); u != "https://hashike.example/winget/installers/"+strings.ToLower(digestUpper("thunderbird"))+"/Thunderbird_Setup_140.12.0esr.exe" {
		t.Errorf("%v", u)
	}
	if l["Moniker"] != "thunderbird-esr" || l["License"] != "MPL-2.0" || bytes.Contains(body, []byte("download-installer")) {
		t.Errorf("%s", body)
	}
	for _, n := range contracts() {
		if testing.Short() && n != 10 {
			continue
		}
		version := contractName(n)
		router, schema := contractOf(t, version), schemaOf(t, version)
		path := "/packageManifests/Mozilla.Thunderbird.ESR.ja"
		rec := w.ask("GET", "hashike.example", path, "", version)
		conform(t, router, version, "GET", path, "", rec)
		validManifest(t, schema, version, rec.Body.Bytes())
	}
	// Another file under the same name is not what the manifest means.
	w.manifests(thunderbird(t, digestUpper("other"))...)
	if body := w.ask("GET", "hashike.example", "/packageManifests/Mozilla.Thunderbird.ESR.ja", "", "1.10.0").Body.String(); strings.Contains(body, "thunderbird-esr") || !strings.Contains(body, "Thunderbird_Setup") {
		t.Errorf("%s", body)
	}
}

// TestOtherManifests: the forms that lie in such folders.
func TestOtherManifests(t *testing.T) {
	for name, want := range map[string]string{
		"rewinged-packages/minimal-example.yml":                                "singleton",
		"rewinged-packages/Terraform/1.4.0/Hashicorp.Terraform.installer.yaml": "installer",
		"rewinged-packages/conemu/Maximus5.ConEmu.locale.en-US.yaml":           "defaultLocale",
	} {
		d, err := parseDocument(community(t, nil, name)[0])
		if err != nil || d.Type != want {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	if _, err := parseDocument(community(t, nil, "rewinged-packages/bottom.yml")[0]); err == nil {
		t.Error("two documents in one file are accepted")
	}
	d, err := parseDocument(community(t, nil, "rewinged-packages/Terraform/1.4.0/Hashicorp.Terraform.installer.yaml")[0])
	if err != nil {
		t.Fatal(err)
	}
	i := flat(d.root, list(d.root, "Installers")[0].(map[string]any))
	if text(i, "InstallerType") != "zip" || text(i, "NestedInstallerType") != "portable" || text(i, "InstallerLocale") != "en-US" || !usable(i) {
		t.Errorf("%v", i)
	}
}

// TestManifestsRefused: what no verified file makes good.
func TestManifestsRefused(t *testing.T) {
	good := "PackageIdentifier: A.B\nPackageVersion: 1.10\nManifestType: singleton\nManifestVersion: 1.10.0\nPackageLocale: en-US\nPublisher: AA\nPackageName: BB\nLicense: MIT\nShortDescription: BBB\nInstallers:\n- Architecture: x64\n  InstallerType: exe\n  InstallerSha256: " + digestUpper("x") + "\n  InstallerSwitches: {Silent: \"/S\"}\n"
	d, err := parseDocument([]byte(good))
	if err != nil || d.Version != "1.10" || d.path() != "manifests/a.b/1.10/singleton.yaml" {
		t.Fatalf("%+v, %v", d, err)
	}
	for name, change := range map[string][2]string{
		"a transform from elsewhere": {`"/S"`, `"TRANSFORMS=\\\\evil\\x.mst"`},
		"an address":                 {`"/S"`, `"/config=https://evil.example"`},
		"a share":                    {`"/S"`, `'/d \\evil\c$'`},
		"a second command":           {`"/S"`, `"/S & calc.exe"`},
		"a line break":               {`"/S"`, `"/S\nx"`},
		"a file elsewhere":           {"MIT", "MIT\nNestedInstallerFiles: [{RelativeFilePath: '..\\..\\x.exe'}]"},
		"a file from the root":       {"MIT", "MIT\nNestedInstallerFiles: [{RelativeFilePath: 'C:\\x.exe'}]"},
		"no identifier":              {"A.B", "A"},
		"an identifier that leaves":  {"A.B", "A.B/../C"},
		"a version that leaves":      {"1.10", ".."},
		"a version with a slash":     {"1.10", "1/2"},
		"an alias":                   {"MIT", "&a MIT\nX: *a"},
		"a field twice":              {"License: MIT", "License: MIT\nLicense: GPL"},
		"another type":               {"singleton", "program"},
		"two documents":              {"ManifestVersion: 1.10.0", "ManifestVersion: 1.10.0\n---\nx: 1"},
		"deep":                       {"MIT", strings.Repeat("[", 50) + strings.Repeat("]", 50)},
		"long":                       {"MIT", strings.Repeat("x", maxManifest)},
		"no text":                    {"MIT", "\xff\xfe"},
	} {
		if d, err := parseDocument([]byte(strings.Replace(good, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: accepted: %+v", name, d)
		}
	}
	for name, change := range map[string][2]string{
		"no publisher": {"Publisher: AA\n", ""}, "no installers": {"Installers:", "Installer:"}, "a name too short": {"BB\n", "B\n"},
	} {
		d, err := parseDocument([]byte(strings.Replace(good, change[0], change[1], 1)))
		if err != nil {
			t.Fatal(name, err)
		}
		if m, err := join([]*document{d}); err == nil {
			t.Errorf("%s: accepted: %+v", name, m)
		}
	}
	d, err = parseDocument([]byte(strings.Replace(good, "  InstallerSwitches: {Silent: \"/S\"}\n", "  InstallerSwitches: {Silent: \"/S\", Colour: red, Log: [1]}\n  Commands: one\n  Scope: [user]\n  ReleaseDate: {a: b}\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if i := flat(d.root, list(d.root, "Installers")[0].(map[string]any)); len(i["InstallerSwitches"].(map[string]any)) != 1 || i["Commands"] != nil || i["Scope"] != nil || i["ReleaseDate"] != nil || text(i, "Architecture") != "x64" {
		t.Errorf("fields of wrong types: %v", i)
	}
	// Whatever is declared, only what the client can run without a person is offered.
	for name, change := range map[string]string{"no arguments": "  InstallerSwitches: {Silent: \"/S\"}\n", "no architecture": "Architecture: x64\n  "} {
		w := newWorld(t, "apps")
		w.publish("apps", map[string][]byte{"x.exe": []byte("x")}, nil)
		w.manifests([]byte(strings.Replace(good, change, "", 1)))
		if got := w.ids(`{}`); got != "" {
			t.Errorf("%s: %q", name, got)
		}
		w.manifests([]byte(good))
		if got := w.ids(`{}`); got != "A.B" {
			t.Errorf("%s, put right: %q", name, got)
		}
	}
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	for _, base := range []string{"https://hashike.example/winget/", "http://hashike.example:8080/winget/"} {
		u := mustURL(base)
		list, err := w.src.Settings(content{}, u)
		if err != nil || len(list) != 3 {
			t.Fatal(list, err)
		}
		policy := list[1].Body
		i, j := strings.Index(policy, `"1"="`), strings.LastIndex(policy, `"`)
		var v struct{ Name, Arg, Type, Identifier string }
		value := strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(policy[i+len(`"1"="`) : j])
		if err := json.Unmarshal([]byte(value), &v); err != nil || v.Arg != strings.TrimSuffix(base, "/") || v.Type != "Microsoft.Rest" || v.Identifier != "Hashike.Test" {
			t.Errorf("%s: %+v, %v", value, v, err)
		}
		if warned := strings.Contains(list[0].Note.JA, "httpsの配信元だけ"); warned != strings.HasPrefix(base, "http:") {
			t.Errorf("%s: warned %v", base, warned)
		}
		if !strings.Contains(list[2].Body, "Register-ScheduledTask") || !strings.Contains(list[2].Body, "upgrade --all --source hashike --silent") {
			t.Error(list[2].Body)
		}
	}
}

// TestProbe: with packages, every answer that is changed is noticed.
func TestProbe(t *testing.T) {
	w := shop(t)
	told, err := w.src.Probe(t.Context(), w.do(), content{}, mustURL("https://hashike.example/winget/"))
	if err != nil || len(told) != 4 {
		t.Fatal(told, err)
	}
	for _, spoil := range []string{"/information", "/installers/"} {
		if told, err := w.src.Probe(t.Context(), w.spoil(spoil), content{}, mustURL("https://hashike.example/winget/")); err == nil {
			t.Errorf("%s is changed, and the probe says %q", spoil, told)
		}
	}
}

// TestRoots: of a copy of the community repository only the wanted packages'
// folders are walked.
func TestRoots(t *testing.T) {
	dir := fstest.MapFS{
		"manifests/m/Mozilla/Thunderbird/ESR/ja/140.12.0/x.yaml": {}, "manifests/g/Google/Chrome/138/x.yaml": {}, "a/A/B/1/x.yaml": {}, "C/D/1/x.yaml": {}, "E.F/x.yaml": {},
	}
	s := &source{Config{Packages: []string{"Mozilla.Thunderbird.ESR.ja", "A.B", "C.D", "E.F", "No.Such"}}}
	if got := strings.Join(s.roots(dir), " "); got != "manifests/m/Mozilla/Thunderbird/ESR/ja a/A/B C/D E.F" {
		t.Errorf("%q", got)
	}
}
