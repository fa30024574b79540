package winget

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// TestSearch: (Query or any inclusion) and all filters, and how each field and
// match type compares.
func TestSearch(t *testing.T) {
	w := shop(t)
	w.publish("empty", map[string][]byte{"x/tool.zip": []byte("zip"), "x/tool.exe": []byte("tool")}, nil)
	w.manifests(dressed()...)
	const all = "Google.Chrome Hashike.App Hashike.Tool Mozilla.Thunderbird.ESR.ja"
	for body, want := range map[string]string{
		`{}`:                         all,
		`{"FetchAllManifests":true}`: all,
		`{"FetchAllManifests":true,"Filters":[{"PackageMatchField":"Moniker","RequestMatch":{"KeyWord":"none","MatchType":"Exact"}}]}`: all,
		`{"Query":{"KeyWord":"CHROME","MatchType":"Substring"}}`:                                                                       "Google.Chrome",
		`{"Query":{"KeyWord":"mozilla","MatchType":"CaseInsensitive"}}`:                                                                "Mozilla.Thunderbird.ESR.ja", // the publisher
		`{"Query":{"KeyWord":"tool","MatchType":"Exact"}}`:                                                                             "Hashike.Tool",               // moniker
		`{"Query":{"KeyWord":"Tool","MatchType":"Exact"}}`:                                                                             "Hashike.Tool",               // name
		`{"Query":{"KeyWord":"tOOL","MatchType":"Exact"}}`:                                                                             "",
		`{"Query":{"KeyWord":"two","MatchType":"Exact"}}`:                                                                              "Hashike.Tool", // tag
		`{"Query":{"KeyWord":"google.","MatchType":"StartsWith"}}`:                                                                     "Google.Chrome",
		`{"Query":{"KeyWord":"chrome","MatchType":"StartsWith"}}`:                                                                      "",
		`{"Query":{"KeyWord":"*chr?me","MatchType":"Wildcard"}}`:                                                                       "Google.Chrome",
		`{"Query":{"KeyWord":"chr","MatchType":"Wildcard"}}`:                                                                           "Google.Chrome",
		`{"Query":{"KeyWord":"*chr?m","MatchType":"Wildcard"}}`:                                                                        "",
		`{"Query":{"KeyWord":"GoogleChrome","MatchType":"Fuzzy"}}`:                                                                     "Google.Chrome",
		`{"Query":{"KeyWord":"業務","MatchType":"Substring"}}`:                                                                           "Hashike.App",
		`{"Query":{"KeyWord":"chrome","MatchType":"Substring"},"Inclusions":[{"PackageMatchField":"PackageFamilyName","RequestMatch":{"KeyWord":"hashike.app_8wekyb3d8bbwe","MatchType":"Exact"}}]}`:                                                     "Google.Chrome Hashike.App",
		`{"Inclusions":[{"PackageMatchField":"ProductCode","RequestMatch":{"KeyWord":"{630c6d4e-5144-3e8c-a7b1-4b3bc607535e}","MatchType":"Exact"}}]}`:                                                                                                   "Google.Chrome",
		`{"Inclusions":[{"PackageMatchField":"ProductCode","RequestMatch":{"KeyWord":"{11111111-5144-3e8c-a7b1-4b3bc607535e}","MatchType":"Exact"}}]}`:                                                                                                   "Google.Chrome", // the older version's
		`{"Inclusions":[{"PackageMatchField":"UpgradeCode","RequestMatch":{"KeyWord":"{c1dfdf69-5945-32f2-a35e-ee94c99c7cf4}","MatchType":"Exact"}}]}`:                                                                                                   "Google.Chrome",
		`{"Inclusions":[{"PackageMatchField":"NormalizedPackageNameAndPublisher","RequestMatch":{"KeyWord":"Mozilla Thunderbird (x64 ja)","MatchType":"Exact"}}]}`:                                                                                       "Mozilla.Thunderbird.ESR.ja",
		`{"Inclusions":[{"PackageMatchField":"NormalizedPackageNameAndPublisher","RequestMatch":{"KeyWord":"mozillathunderbird","MatchType":"Exact"}}]}`:                                                                                                 "Mozilla.Thunderbird.ESR.ja",
		`{"Inclusions":[{"PackageMatchField":"NormalizedPackageNameAndPublisher","RequestMatch":{"KeyWord":"Tool 2.9.1 (64-bit)","MatchType":"Exact"}}]}`:                                                                                                "Hashike.Tool",
		`{"Inclusions":[{"PackageMatchField":"NormalizedPackageNameAndPublisher","RequestMatch":{"KeyWord":"()","MatchType":"Exact"}}]}`:                                                                                                                 "",
		`{"Inclusions":[{"PackageMatchField":"Nonsense","RequestMatch":{"KeyWord":"x","MatchType":"Exact"}}]}`:                                                                                                                                           "",
		`{"Filters":[{"PackageMatchField":"PackageIdentifier","RequestMatch":{"KeyWord":"google.chrome","MatchType":"CaseInsensitive"}}]}`:                                                                                                               "Google.Chrome",
		`{"Filters":[{"PackageMatchField":"PackageIdentifier","RequestMatch":{"KeyWord":"google.chrome","MatchType":"Exact"}}]}`:                                                                                                                         "",
		`{"Filters":[{"PackageMatchField":"Market","RequestMatch":{"KeyWord":"JP","MatchType":"CaseInsensitive"}}]}`:                                                                                                                                     all,
		`{"Filters":[{"PackageMatchField":"HasInstallerType","RequestMatch":{"KeyWord":"msix","MatchType":"Exact"}}]}`:                                                                                                                                   "Hashike.App",
		`{"Query":{"KeyWord":"e","MatchType":"Substring"},"Filters":[{"PackageMatchField":"PackageName","RequestMatch":{"KeyWord":"google","MatchType":"Substring"}},{"PackageMatchField":"Tag","RequestMatch":{"KeyWord":"one","MatchType":"Exact"}}]}`: "",
		`{"Query":{"KeyWord":"o","MatchType":"Substring"},"Filters":[{"PackageMatchField":"Tag","RequestMatch":{"KeyWord":"one","MatchType":"Exact"}}]}`:                                                                                                 "Hashike.Tool",
		`{"MaximumResults":2}`: all, // the client goes on by the token until it has enough
	} {
		if got := w.ids(body); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	rec := w.ask("POST", "hashike.example", "/manifestSearch", `{"Filters":[{"PackageMatchField":"Colour","RequestMatch":{"KeyWord":"red","MatchType":"Exact"}}]}`, "1.10.0")
	if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), `"UnsupportedPackageMatchFields":["Colour"]`) || !strings.Contains(rec.Body.String(), `"Data":[]`) {
		t.Errorf("an unknown filter: %d %s", rec.Code, rec.Body)
	}
	for name, body := range map[string]string{
		"empty": "", "no JSON": "<a/>", "a list": "[]", "another type": `{"Query":{"KeyWord":"a","MatchType":"Sounds"}}`, "negative": `{"MaximumResults":-1}`,
		"long word": `{"Query":{"KeyWord":"` + strings.Repeat("a", maxWord+1) + `","MatchType":"Exact"}}`, "long": strings.Repeat(" ", maxBody+1) + "{}",
		"many conditions": `{"Inclusions":[` + strings.Repeat(`{},`, maxConditions) + `{}]}`, "deep": strings.Repeat(`{"Query":`, 100_000),
	} {
		if rec := w.ask("POST", "hashike.example", "/manifestSearch", body, "1.10.0"); rec.Code != http.StatusBadRequest || !json.Valid(rec.Body.Bytes()) {
			t.Errorf("%s: %d %.200s", name, rec.Code, rec.Body)
		}
	}
	for _, token := range []string{"x", "!!!", strings.Repeat("A", 2000)} {
		if rec := w.ask("POST", "hashike.example", "/manifestSearch", `{}`, "1.10.0", "ContinuationToken", token); rec.Code != http.StatusBadRequest {
			t.Errorf("token %.20q: %d", token, rec.Code)
		}
	}
}

// TestPages: every package once, also when packages come and go between pages.
func TestPages(t *testing.T) {
	w := newWorld(t, "many")
	fill := func(from, to int) {
		files, records := map[string][]byte{}, []feed.Installer(nil)
		for n := from; n < to; n++ {
			p := fmt.Sprintf("p%04d.msi", n)
			files[p] = []byte(p)
			records = append(records, feed.Installer{Path: p, ID: fmt.Sprintf("Many.P%04d", n), Name: "Program " + p, Publisher: "Many", Version: "1.0", Arch: "x64", Type: "msi", Silent: "/qn"})
		}
		w.publish("many", files, records)
	}
	fill(0, 250)
	if got := strings.Fields(w.ids(`{}`)); len(got) != 250 || got[0] != "Many.P0000" || got[249] != "Many.P0249" {
		t.Errorf("%d packages: %v", len(got), got[:min(len(got), 3)])
	}
	var page struct {
		Data              []struct{ PackageIdentifier string }
		ContinuationToken string
	}
	json.Unmarshal(w.ask("POST", "hashike.example", "/manifestSearch", `{}`, "1.0.0").Body.Bytes(), &page)
	if len(page.Data) != pageSize || page.ContinuationToken == "" {
		t.Fatalf("first page: %d, token %q", len(page.Data), page.ContinuationToken)
	}
	fill(50, 260) // some already sent vanish, others come at the end
	rest := 0
	for token := page.ContinuationToken; token != ""; {
		page.Data, page.ContinuationToken = nil, ""
		json.Unmarshal(w.ask("POST", "hashike.example", "/manifestSearch", `{}`, "1.0.0", "ContinuationToken", token).Body.Bytes(), &page)
		rest, token = rest+len(page.Data), page.ContinuationToken
	}
	if rest != 160 {
		t.Errorf("%d packages after the first page, 160 are there", rest)
	}
}

func TestNormalName(t *testing.T) {
	for in, want := range map[string]string{
		"Mozilla Thunderbird (x64 ja)":                                "mozillathunderbird",
		"Mozilla Firefox 140.0.1 (x64 en-US)":                         "mozillafirefox",
		"Google Chrome":                                               "googlechrome",
		"7-Zip 24.08 (x64 edition)":                                   "7zip",
		"Adobe Acrobat (64-bit)":                                      "adobeacrobat",
		"Microsoft Visual C++ 2010  x86 Redistributable - 10.0.40219": "microsoftvisualc2010redistributable",
		"一太郎 2026":                                                    "一太郎2026",
		"(x64)":                                                       "",
		"":                                                            "",
	} {
		if got := normalName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"Google LLC": "google", "Mozilla": "mozilla", "株式会社ジャストシステム": "株式会社ジャストシステム", "Adobe Systems Incorporated": "adobesystems", "Micro Co., Ltd. Japan": "micro"} {
		if got := normalPublisher(in); got != want {
			t.Errorf("publisher %q: %q, want %q", in, got, want)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	for _, x := range [][2]string{{"1.9", "1.10"}, {"137.0.1.1", "138.0.7204.50"}, {"25.001.20577", "25.001.20630"}, {"1.0-beta", "1.0"}, {"1.0", "1.0.1"}, {"140.12.0", "140.12.1"}, {"9", "10"}} {
		if compareVersions(x[0], x[1]) >= 0 || compareVersions(x[1], x[0]) <= 0 || compareVersions(x[0], x[0]) != 0 {
			t.Errorf("%s is not before %s", x[0], x[1])
		}
	}
	if compareVersions("1.0", "1.0.0") != 0 || compareVersions("v1.2", "1.2") != 0 {
		t.Error("the same version in two spellings")
	}
}

func TestContract(t *testing.T) {
	for header, want := range map[string]int{"": 10, "1.0.0": 0, "1.1.0": 1, "1.3.0": 1, "1.9.0": 9, "1.10.0": 10, "1.12.0": 10, "1.28.0": 10, "2.0.0": 10, "1": 0} {
		if got, ok := contract(header); !ok || got != want {
			t.Errorf("%q: 1.%d.0, %v", header, got, ok)
		}
	}
	for _, bad := range []string{"0.9", "x", "-1.0", "1.x", "99999999999.1"} {
		if _, ok := contract(bad); ok {
			t.Errorf("%q is accepted", bad)
		}
	}
}
