package chromium

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// vendors are Google and Microsoft, each with its own key under one test root's use.
type vendors struct {
	t                 *testing.T
	google, microsoft *feedtest.Publisher
	made              map[string][]byte
}

func newVendors(t *testing.T, at time.Time) vendors {
	return vendors{t, feedtest.NewPublisher(t, use, "Google LLC", at), feedtest.NewPublisher(t, use, "Microsoft Corporation", at), map[string][]byte{}}
}

// msi is a signed package; a vendor's package for a version never changes.
func (v vendors) msi(by *feedtest.Publisher, product, version, template string) []byte {
	key := fmt.Sprint(product, version, template, by == v.google)
	if b, ok := v.made[key]; ok {
		return b
	}
	n := strings.Split(version, ".")
	b := by.Installer(v.t, map[string]string{"ProductName": product, "Manufacturer": "Vendor", "ProductVersion": n[0] + "." + n[2] + "." + n[3], "ALLUSERS": "1",
		"ProductCode": fmt.Sprintf("{8A69D345-D564-463C-AFF1-A69D9%07s}", strings.ReplaceAll(version, ".", "")[:7]), "UpgradeCode": "{C1DFDF69-5945-32F2-A35E-EE94C99C7CF4}"},
		map[int]string{3: product, 4: "Vendor", 6: version + " Copyright Vendor", 7: template})
	v.made[key] = b
	return b
}

func (v vendors) state(chrome, edge string) feedtest.State { return v.listed(chrome, edge, edge) }

// listed is the state with Edge's list saying another version.
func (v vendors) listed(chrome, edge, says string) feedtest.State {
	b := v.msi(v.microsoft, "Microsoft Edge", edge, "x64;1033")
	s := feedtest.State{Files: feedtest.Files{
		"chrome/googlechromestandaloneenterprise64.msi":    v.msi(v.google, "Google Chrome", chrome, "x64;1033"),
		"edge/" + edge + "/MicrosoftEdgeEnterpriseX64.msi": b,
	}}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/products" {
			http.NotFound(w, r)
			return
		}
		one := func(platform, version string, artifacts ...map[string]any) map[string]any {
			return map[string]any{"ReleaseId": 1, "Platform": platform, "Architecture": "x64", "ProductVersion": version, "Artifacts": artifacts}
		}
		_ = json.NewEncoder(w).Encode([]map[string]any{
			{"Product": "Beta", "Releases": []any{one("Windows", "999.0.0.1")}},
			{"Product": "Stable", "Releases": []any{one("MacOS", "999.0.0.1"), one("Windows", says, map[string]any{"ArtifactName": "msi", "Location": "../edge/" + edge + "/MicrosoftEdgeEnterpriseX64.msi",
				"Hash": strings.ToUpper(feed.DigestOf(b).Hex()), "HashAlgorithm": "SHA256", "SizeInBytes": len(b)})}},
		})
	})
	return s
}

func TestConformance(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	v, other := newVendors(t, now), newVendors(t, now)
	trust := []feed.Anchor{v.google.Anchor, v.microsoft.Anchor}
	trust[1].Name = "second"
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Trust: trust, Time: now,
		Config: "chrome = ['x64']\nedge = ['x64']\nchrome_url = '{url}/chrome'\nedge_url = '{url}/api/products'\n",
		Older:  v.state("136.0.7103.93", "136.0.3240.50"), Now: v.state("137.0.7151.41", "137.0.3296.52"), Newer: v.state("137.0.7151.104", "137.0.3296.83"),
		Forged:   other.state("137.0.7151.41", "137.0.3296.52"),
		Optional: func(string) bool { return true }, // each package stands alone
		Huge:     func(string) bool { return true },
		Loose: func(p string, at int) bool {
			version := []string{"137.0.7151.41", "137.0.3296.52"}
			if f, ok := parsePath(p); ok {
				version = []string{f.version, f.version}
			}
			b := v.made[fmt.Sprint("Google Chrome", version[0], "x64;1033", true)]
			if strings.HasPrefix(p, "edge/") {
				b = v.made[fmt.Sprint("Microsoft Edge", version[1], "x64;1033", false)]
			}
			return feedtest.Slack(t, b, at)
		},
		Hostile: func(p string) feedtest.State { return v.listed("137.0.7151.104", "137.0.3296.83", p) },
		Falls:   func(wrong, p string) bool { return strings.HasPrefix(wrong, "edge/") && strings.HasPrefix(p, "edge/") },
		Without: map[string]string{"mixed": "a version's package never changes: no path has other bytes"},
		Unsigned: map[string]func(feedtest.Files){"signature damaged": func(f feedtest.Files) {
			for p, b := range f {
				if i := strings.Index(string(b), "Google LLC1"); strings.HasPrefix(p, "chrome") && i > 0 {
					b = []byte(string(b))
					b[i+200] ^= 1
					f[p] = b
				}
			}
		}},
		Requests: []feedtest.Request{{Path: "/chrome/x64/137.0.7151.104/googlechromestandaloneenterprise64.msi"}, {Path: "/chrome/x64/1.2.3.4/googlechromestandaloneenterprise64.msi", Status: 404},
			{Path: "/extensions/update.xml", Holds: "gupdate"}, {Path: "/extensions/update.xml?x=id%3Dabcdefghijklmnopabcdefghijklmnop%26v%3D1", Holds: "noupdate"}},
	})
}
