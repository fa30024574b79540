package wsus

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/verifier"
)

const productDefender = "8c3fcc84-7410-4a95-8b89-a166a0190486"

// smallVendor offers KB2999226 and what it builds on, of the genuine revisions.
func smallVendor(t testing.TB) *vendorServer {
	v := newVendor(t)
	revs, s := realRevisions(t)
	byGUID := map[guid][]int{}
	for n, u := range s.updates {
		byGUID[u.Update] = append(byGUID[u.Update], n)
	}
	done := map[int]bool{}
	todo := slices.Concat(byGUID[mustGUID(update81)], byGUID[classCritical], byGUID[classSecurity])
	for ; len(todo) > 0; todo = todo[1:] {
		n := todo[0]
		if done[n] {
			continue
		}
		done[n] = true
		r, u := revs[n], s.updates[n]
		v.add(t, compose(r.core, r.extended, r.texts, ` CreationDate="2015-09-01T00:00:00Z"`, ""))
		for _, g := range slices.Concat(u.Prereqs...) {
			todo = append(todo, byGUID[g]...)
		}
		for _, id := range slices.Concat(u.Bundles...) {
			todo = append(todo, byGUID[id.Update]...)
		}
	}
	v.files["WH6FexLo3nx830CZKdXdjIsmhKI="] = sample(t, "microsoft", "msu-kb2999226", "win8.1", payloadFile81)
	return v
}

// definition makes the n-th definition update of a day as Microsoft does: a
// bundle that supersedes all before it, and a member with a file. Neither
// shares an UpdateID with another.
func definition(t testing.TB, v *vendorServer, by *feedtest.Publisher, n int) (bundle identity, path string) {
	t.Helper()
	id := func(kind, n int) string { return fmt.Sprintf("%08x-0000-4000-8000-00000000000%d", n, kind) }
	body := by.Cabinet(t, packed(t, map[string][]byte{"mpasdlta.vdm": fmt.Appendf(nil, "definitions %d", n)}), taken)
	s1, s256 := sha1.Sum(body), sha256.Sum256(body)
	sum := base64.StdEncoding.EncodeToString(s1[:])
	v.files[sum] = body
	f := file{Name: "am_delta.cab", SHA1: s1}
	var over strings.Builder
	for i := 1; i < n; i++ {
		fmt.Fprintf(&over, `<UpdateIdentity UpdateID="%s" />`, id(1, i))
	}
	when := fmt.Sprintf(` CreationDate="2026-11-%02dT%02d:00:00Z"`, 1+n/24, n%24)
	v.add(t, compose(fmt.Sprintf(`<UpdateIdentity UpdateID="%s" RevisionNumber="200" /><Properties UpdateType="Software" />`, id(2, n)),
		fmt.Sprintf(`<ExtendedProperties DefaultPropertiesLanguage="en" /><Files><File Digest="%s" DigestAlgorithm="SHA1" FileName="am_delta.cab" Size="%d"><AdditionalDigest Algorithm="SHA256">%s</AdditionalDigest></File></Files>`,
			sum, len(body), base64.StdEncoding.EncodeToString(s256[:])), nil, when, ""))
	relations := `<Prerequisites><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="` + classDefinition.String() + `" /></AtLeastOne><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="` + productDefender + `" /></AtLeastOne></Prerequisites>` +
		`<BundledUpdates><UpdateIdentity UpdateID="` + id(2, n) + `" RevisionNumber="200" /></BundledUpdates>`
	if n > 1 {
		relations = `<SupersededUpdates>` + over.String() + `</SupersededUpdates>` + relations
	}
	title := fmt.Sprintf(`<LocalizedProperties><Language>en</Language><Title>Security Intelligence Update - KB2267602 (Version 1.441.%d.0)</Title></LocalizedProperties>`, n)
	bundle = v.add(t, compose(fmt.Sprintf(`<UpdateIdentity UpdateID="%s" RevisionNumber="200" /><Properties UpdateType="Software" ExplicitlyDeployable="true" /><Relationships>%s</Relationships>`, id(1, n), relations),
		`<ExtendedProperties DefaultPropertiesLanguage="en"><KBArticleID>2267602</KBArticleID></ExtendedProperties>`, []string{title}, when, ""))
	return bundle, f.path()
}

// TestDefinitionsAreKeptToThree follows definition updates that come one by
// one, beside an update that stays: never more than three are in a snapshot,
// documents and files, also where a batch holds others; each passes Verify.
func TestDefinitionsAreKeptToThree(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	v := smallVendor(t)
	by := feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken)
	f := follower(t, v.URL, func(c *Config) {
		c.Products = []string{"Windows", productDefender}
		c.Classifications = append(c.Classifications, classDefinition.String())
	})
	var bundles []identity
	var paths []string
	publish := func(n int) {
		b, p := definition(t, v, by, n)
		bundles, paths = append(bundles, b), append(paths, p)
	}
	for n := 1; n <= 6; n++ { // a first fetch meets several at once
		publish(n)
	}
	var prev *snapshot
	for n := 6; n <= 14; n++ {
		if n > 6 {
			v.now++
			publish(n)
		}
		s, err := follow(f, prev)
		if err != nil {
			t.Fatal(err)
		}
		docs, definitions := documentsOf(t, s), 0
		for id := range docs {
			if strings.HasSuffix(id.Update.String(), "0000-4000-8000-000000000001") || strings.HasSuffix(id.Update.String(), "0000-4000-8000-000000000002") {
				definitions++
			}
		}
		var have []string
		for i, p := range paths {
			if _, ok := s.Lookup(p); ok {
				have = append(have, p)
			}
			if _, ok := docs[bundles[i]]; ok != (i >= n-3) {
				t.Fatalf("at %d: document of %d: %v", n, i+1, ok)
			}
		}
		want := paths[max(n-3, 5):] // of the first six only the newest was worth fetching
		if definitions != 6 || !slices.Equal(have, want) {
			t.Fatalf("at %d: %d documents, files %v, want %v", n, definitions, have, want)
		}
		if _, ok := s.Lookup(payload81); !ok || docs[identityOfText(t, update81, 501)] == "" {
			t.Fatalf("at %d: what is no definition is gone", n)
		}
		prev = s
	}
	verdict, err := verifier.Run(t.Context(), verifier.Job{
		Setup: feed.Setup{Name: "windows", Kind: Kind(), Feed: f}, Content: prev,
		Trust: feed.Trust{Anchors: append(verifier.MicrosoftAnchors(), by.Anchor), At: taken}, Policy: verifier.Policy{Floors: Kind().Floors},
	})
	if err != nil || len(verdict.Withheld) > 0 {
		t.Fatalf("%v, %v", verdict.Withheld, err)
	}
	if a := prev.Named[paths[13]]; a.Class != feed.Definition || a.Version != "KB2267602" {
		t.Errorf("%+v", a)
	}
}

// Definition updates are approved by themselves; a rule can say otherwise.
func TestDefinitionsAreApproved(t *testing.T) {
	kind := func(c Config) *updates {
		f, err := newFeed(func(into any) error { *into.(*Config) = c; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return f.(*updates)
	}
	v := newVendor(t)
	by := feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken)
	b, _ := definition(t, v, by, 1)
	s, err := follow(follower(t, v.URL, func(c *Config) {
		c.Products = []string{productDefender}
		c.Classifications = []string{classDefinition.String()}
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why  string
		conf Config
		want string
	}{
		{"others wait for a person", Config{Others: "detect"}, "install"},
		{"a rule for everything", Config{Others: "detect", Rules: []Rule{{Action: "decline"}}}, "decline"},
		{"a rule for another classification", Config{Others: "decline", Rules: []Rule{{Classification: "Drivers", Action: "decline"}}}, "install"},
	} {
		f := kind(c.conf)
		w := newSite(t, f)
		w.publish(s, feed.View{}, "all")
		out, err := f.Decide(w.views["all"], "all", nil, true, taken)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, d := range out {
			got[d.Subject] = d.Action
		}
		if got[b.Update.String()] != c.want {
			t.Errorf("%s: %v", c.why, got)
		}
	}
}

// What is superseded or expired is not fetched; a document that nothing needs
// any more leaves with its file, and superseded = true keeps it.
func TestSupersededAtFetch(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	v := smallVendor(t)
	old := identityOfText(t, update81, 501)
	fetchedFiles := func(change func(*Config)) bool {
		t.Helper()
		s, err := follow(follower(t, v.URL, change), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, ok := s.Lookup(payload81)
		if documentsOf(t, s)[old] == "" {
			t.Fatal("the document is gone")
		}
		return ok
	}
	doc := bytes.Clone(v.docs[old])
	expired := bytes.Replace(doc, []byte(`PublicationState="Published"`), []byte(`PublicationState="Expired"`), 1)
	if bytes.Equal(doc, expired) {
		t.Fatal("nothing to change")
	}
	if !fetchedFiles(nil) {
		t.Fatal("not fetched at all")
	}
	v.docs[old] = expired
	if clear(v.parsed); fetchedFiles(func(c *Config) { c.Superseded = true }) {
		t.Error("expired, and its file fetched")
	}
	v.docs[old] = doc
	clear(v.parsed)
	// Another update of the same kind that supersedes it and has no file.
	newer := bytes.ReplaceAll(doc, []byte(`UpdateID="`+update81+`" RevisionNumber="501"`), []byte(`UpdateID="00000000-0000-4000-8000-0000000000aa" RevisionNumber="1"`))
	newer = bytes.Replace(newer, []byte("<upd:Relationships>"), []byte(`<upd:Relationships><upd:SupersededUpdates><upd:UpdateIdentity UpdateID="`+update81+`" /></upd:SupersededUpdates>`), 1)
	i, j := bytes.Index(newer, []byte("<upd:BundledUpdates>")), bytes.Index(newer, []byte("</upd:BundledUpdates>"))
	newer = slices.Concat(newer[:i], newer[j+len("</upd:BundledUpdates>"):])
	if id := v.add(t, newer); len(v.docs[id]) == 0 {
		t.Fatal("no document")
	}
	if fetchedFiles(nil) {
		t.Error("superseded, and its file fetched")
	}
	if !fetchedFiles(func(c *Config) { c.Superseded = true }) {
		t.Error("superseded = true, and its file not fetched")
	}
}
