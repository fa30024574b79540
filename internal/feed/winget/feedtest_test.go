package winget

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// yamlOf are the three files of one version, as the community repository has them.
func yamlOf(id, version, sha string) map[string][]byte {
	head := func(kind string) string {
		return fmt.Sprintf("# Created by hand\nPackageIdentifier: %s\nPackageVersion: %s\nManifestType: %s\nManifestVersion: 1.10.0\n", id, version, kind)
	}
	return map[string][]byte{
		id + ".yaml":              []byte(head("version") + "DefaultLocale: en-US\n"),
		id + ".locale.en-US.yaml": []byte(head("defaultLocale") + "PackageLocale: en-US\nPublisher: 試験\nPackageName: Tool\nLicense: MIT\nShortDescription: A tool\nMoniker: tool\nTags:\n- 試験\n- tool\n"),
		id + ".installer.yaml": []byte(head("installer") + "InstallerType: nullsoft\nScope: machine\nInstallerSwitches:\n  Silent: /S\nCommands: [tool]\nInstallers:\n" +
			"- Architecture: x64\n  InstallerUrl: https://vendor.example/tool.exe\n  InstallerSha256: " + sha + "\n  ProductCode: Tool 1 (x64)\n"),
	}
}

func folderAt(versions ...string) feedtest.State {
	s := feedtest.State{Files: feedtest.Files{"readme.md": []byte("not a manifest")}}
	for _, v := range versions {
		for n, b := range yamlOf("Hashike.Tool", v, strings.Repeat("AB", 32)) {
			s.Files["manifests/h/Hashike/Tool/"+v+"/"+n] = b
		}
	}
	return s
}

func TestConformance(t *testing.T) {
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Config: "dir = 'drop'\nidentifier = 'Hashike.Test'\nfeeds = ['apps']\n", Dir: "drop",
		Trust: []feed.Anchor{{Name: "none", Use: "none"}},
		Older: folderAt("1.0"), Now: folderAt("1.0", "1.1"), Newer: folderAt("1.1", "1.2"),
		Hostile: func(p string) feedtest.State {
			s := folderAt("1.0")
			for n, b := range yamlOf("Hashike.Tool", `"`+strings.NewReplacer(`\`, `\\`, "\x00", `\0`, "\x7f", `\x7F`).Replace(p)+`"`, strings.Repeat("AB", 32)) {
				s.Files["hostile/"+n] = b
			}
			return s
		},
		Optional: func(p string) bool { return p != indexPath }, // who fills the folder decides
		Requests: []feedtest.Request{
			{Path: "/information", Holds: `"SourceIdentifier":"Hashike.Test"`},
			{Path: "/information", Method: "POST", Status: 405},
			{Path: "/manifestSearch", Method: "POST", Body: `{"FetchAllManifests":true}`, Status: 204}, // no feed has the files
			{Path: "/manifestSearch", Method: "POST", Body: `{`, Status: 400},
			{Path: "/packageManifests/Hashike.Tool", Status: 204},
			{Path: "/packageManifests/", Status: 404},
			{Path: "/installers/" + strings.Repeat("ab", 32) + "/tool.exe", Status: 404},
		},
		Without: map[string]string{
			"key swapped":       "manifests have no signature",
			"upstream tampered": "manifests have no signature: what lies in the folder is what somebody put there",
			"signature removed": "manifests have no signature",
			"orders":            "manifests have no signature: no key to add or to withdraw",
		},
	})
}

func FuzzManifest(f *testing.F) {
	for _, b := range yamlOf("Hashike.Tool", "1.0", strings.Repeat("AB", 32)) {
		f.Add(b)
	}
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("PackageIdentifier: A.B\nPackageVersion: 1\nManifestType: singleton\nInstallers: [{Architecture: x64}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDocument(b)
		if err != nil {
			return
		}
		if !feed.ValidPath(d.path()) || !strings.HasPrefix(d.path(), folder) {
			t.Fatalf("path %q", d.path())
		}
		if m, err := join([]*document{d}); err == nil && m.Default == nil {
			t.Fatal("no default locale")
		}
	})
}

func FuzzSearch(f *testing.F) {
	f.Add([]byte(`{"Query":{"KeyWord":"a*?b","MatchType":"Wildcard"},"Filters":[{"PackageMatchField":"Tag","RequestMatch":{"KeyWord":"x","MatchType":"Exact"}}]}`), "MTph")
	p := &pkg{id: "A.B", versions: []*version{{manifest: manifest{ID: "A.B", Version: "1", Default: map[string]any{"PackageName": "Tool (x64 ja) 1.2"}}}}}
	p.versions[0].gather()
	c := &catalogue{packages: []*pkg{p}}
	f.Fuzz(func(t *testing.T, b []byte, token string) {
		r, err := parseSearch(bytes.Clone(b))
		if err != nil {
			return
		}
		c.page(r, token)
		normalName(string(b))
		normalPublisher(string(b))
	})
}
