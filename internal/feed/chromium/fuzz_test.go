package chromium

import (
	"io/fs"
	"iter"
	"net/url"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

func FuzzPath(f *testing.F) {
	f.Add("edge/Stable/x64/137.0.3296.83/MicrosoftEdgeEnterpriseX64.msi")
	f.Add("chrome/x86/137.0.7151.104/googlechromestandaloneenterprise.msi")
	f.Add("extensions/abcdefghijklmnopabcdefghijklmnop/1.10.crx")
	f.Fuzz(func(t *testing.T, p string) {
		n, ok := parsePath(p)
		if !ok {
			return
		}
		v, good := parseVersion(n.version)
		if n.path() != p || !feed.ValidPath(p) || !good || v.order() < 0 {
			t.Errorf("%q is %q, order %d", p, n.path(), v.order())
		}
	})
}

// What vendors answer names files; a name is never more than one of ours.
func FuzzAnswers(f *testing.F) {
	const id = "abcdefghijklmnopabcdefghijklmnop"
	f.Add([]byte(`[{"Product":"Stable","Releases":[{"Platform":"Windows","Architecture":"x64","ProductVersion":"137.0.3296.83","Artifacts":[{"ArtifactName":"msi","Location":"https://x/y.msi","Hash":"00","HashAlgorithm":"SHA256","SizeInBytes":1}]}]}]`))
	f.Add([]byte(`<gupdate xmlns="http://www.google.com/update2/response"><app appid="` + id + `"><updatecheck codebase="https://x/y.crx" version="1.10"/></app></gupdate>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := newestEdge(b, "Stable", "x64"); err == nil {
			if p := (file{product: "edge", channel: "Stable", arch: "x64", version: x.ProductVersion}).path(); !feed.ValidPath(p) {
				t.Errorf("%q", p)
			}
		}
		if v, at, err := updateOf(b, id); err == nil {
			if p := (file{product: "extensions", id: id, version: v}).path(); !feed.ValidPath(p) || at == nil {
				t.Errorf("%q %v", p, at)
			}
		}
	})
}

// Anything may be asked of the update manifest.
func FuzzAsked(f *testing.F) {
	f.Add("x=id%3Dabcdefghijklmnopabcdefghijklmnop%26v%3D1.0%26uc")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		b, err := answers(feed.View{Content: nothing{}}, &url.URL{Scheme: "http", Host: "mirror"}, q)
		if err != nil || !strings.Contains(string(b), "gupdate") || strings.Count(string(b), "<app ") > maxAsked {
			t.Errorf("%q: %v\n%s", query, err, b)
		}
	})
}

// nothing is an empty publication.
type nothing struct{}

func (nothing) Open(string) (fs.File, error)        { return nil, fs.ErrNotExist }
func (nothing) Header() feed.Header                 { return feed.Header{} }
func (nothing) Lookup(string) (feed.Artifact, bool) { return feed.Artifact{}, false }
func (nothing) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(func(feed.Artifact, error) bool) {}
}
