package wsus

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

var (
	bareTag   = regexp.MustCompile(`<(/?)([A-Z]\w*)`)
	dottedTag = regexp.MustCompile(`<(/?)([bmd])\.(\w+)`)
)

// compose writes the document that fragments come from: the rules of
// microsoft.md 1.7 backwards, over text instead of tokens. extra are attributes
// and sections that no fragment shows.
func compose(coreText, extendedText string, texts []string, extraProperties, extraRelationships string) []byte {
	namespaced := func(s string) string {
		s = bareTag.ReplaceAllString(s, "<${1}upd:$2")
		return dottedTag.ReplaceAllStringFunc(s, func(t string) string {
			m := dottedTag.FindStringSubmatch(t)
			return "<" + m[1] + map[string]string{"b": "bar", "m": "msi", "d": "drv"}[m[2]] + ":" + m[3]
		})
	}
	// The pieces of the core: identity, properties, then the rest.
	identity, rest, _ := strings.Cut(coreText, "<Properties")
	coreAttrs, rest, _ := strings.Cut(rest, " />")
	// The pieces of the extended: properties with children, then files and handler.
	after := strings.TrimPrefix(extendedText, "<ExtendedProperties")
	var extAttrs, children, tail string
	empty, open := strings.Index(after, " />"), strings.Index(after, ">")
	if empty >= 0 && empty < open {
		extAttrs, tail = after[:empty], after[empty+3:]
	} else {
		extAttrs = after[:open]
		children, tail, _ = strings.Cut(after[open+1:], "</ExtendedProperties>")
	}
	if extraRelationships != "" {
		if strings.Contains(rest, "</Relationships>") {
			rest = strings.Replace(rest, "</Relationships>", extraRelationships+"</Relationships>", 1)
		} else {
			rest = "<Relationships>" + extraRelationships + "</Relationships>" + rest
		}
	}
	tail = strings.Replace(tail, `<HandlerSpecificData type="`, `<HandlerSpecificData xsi:type="`, 1)
	localizedText := ""
	if len(texts) > 0 {
		localizedText = "<LocalizedPropertiesCollection>" + strings.Join(texts, "") + "</LocalizedPropertiesCollection>"
	}
	return []byte(`<upd:Update xmlns:upd="` + nsUpdate + `" xmlns:bar="http://schemas.microsoft.com/msus/2002/12/BaseApplicabilityRules"` +
		` xmlns:msi="http://schemas.microsoft.com/msus/2002/12/MsiApplicabilityRules" xmlns:drv="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/WindowsDriver"` +
		` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
		namespaced(identity+"<Properties"+coreAttrs+" IsPublic=\"true\" PublicationState=\"Published\""+extraProperties+extAttrs+">"+children+"</Properties>"+localizedText+rest+tail) + "</upd:Update>")
}

// fragmentsOf are the fragments of every revision of the real scan, by the vendor's number.
type realRevision struct {
	core, extended string
	texts          []string
	langs          []string
}

func realRevisions(t testing.TB) (map[int]*realRevision, *scan) {
	t.Helper()
	b := sample(t, "microsoft", "msu-kb2999226", "win8.1", "WSUSSCAN.cab")
	out := map[int]*realRevision{}
	s, err := readScan(bytes.NewReader(b), int64(len(b)), func(n int, p part, lang string, body []byte) error {
		r := out[n]
		if r == nil {
			r = &realRevision{}
			out[n] = r
		}
		text := strings.TrimPrefix(string(body), "\uFEFF")
		switch p {
		case core:
			r.core = text
		case extended:
			r.extended = text
		case localized:
			r.texts, r.langs = append(r.texts, text), append(r.langs, lang)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, s
}

// TestDocumentsGiveTheRealFragments: the 765 genuine revisions, put together
// and taken apart again, are what Microsoft's own server made of them.
func TestDocumentsGiveTheRealFragments(t *testing.T) {
	revs, s := realRevisions(t)
	differ := 0
	for n, r := range revs {
		d, err := parseDocument(compose(r.core, r.extended, r.texts, ` CreationDate="2015-09-01T00:00:00Z"`, ""))
		if err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		if d.identity != s.updates[n].identity || fmt.Sprint(d.Prereqs, d.Bundles, d.Files, d.KB) != fmt.Sprint(s.updates[n].Prereqs, s.updates[n].Bundles, s.updates[n].Files, s.updates[n].KB) {
			t.Errorf("%d: %+v, want %+v", n, d.update, s.updates[n])
		}
		if got := string(d.piece(core)); got != r.core {
			if differ++; differ < 4 {
				t.Errorf("core %d:\n%.1500s\nwant\n%.1500s", n, got, r.core)
			}
		}
		if got := string(d.piece(extended)); got != r.extended {
			if differ++; differ < 4 {
				t.Errorf("extended %d:\n%.1500s\nwant\n%.1500s", n, got, r.extended)
			}
		}
		var texts []string
		for _, p := range d.Pieces {
			if p.part == localized {
				texts = append(texts, string(p.body))
			}
		}
		if !slices.Equal(texts, r.texts) {
			if differ++; differ < 4 {
				t.Errorf("texts %d:\n%.700q\nwant\n%.700q", n, texts, r.texts)
			}
		}
	}
	if differ > 0 || len(revs) != 765 {
		t.Errorf("%d of %d differ", differ, len(revs))
	}
}

func TestDocumentOfANativeServer(t *testing.T) {
	d, err := parseDocument(sample(t, "microsoft", "native-wua-captures", "category-dd78b8a1-r202.update.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if d.identity.String() != "dd78b8a1-0b20-45c1-add6-4da72e9364cf.202" || d.Type != "Category" || d.CategoryType != "Product" || d.title("ja") != "OOBE ZDP" || d.Expired || d.Created != "2015-08-25T20:09:50.002Z" {
		t.Errorf("%+v", d)
	}
	const wantCore = `<UpdateIdentity UpdateID="dd78b8a1-0b20-45c1-add6-4da72e9364cf" RevisionNumber="202" /><Properties UpdateType="Category" /><Relationships><Prerequisites><AtLeastOne IsCategory="true"><UpdateIdentity UpdateID="6964aab4-c5b5-43bd-a17d-ffb4346a8e1d" /></AtLeastOne></Prerequisites></Relationships><ApplicabilityRules><IsInstalled><b.WindowsVersion Comparison="GreaterThanOrEqualTo" MajorVersion="6" MinorVersion="3" ProductType="1" /></IsInstalled></ApplicabilityRules>`
	if got := string(d.piece(core)); got != wantCore {
		t.Errorf("core:\n%s\nwant\n%s", got, wantCore)
	}
	const wantExtended = `<ExtendedProperties DefaultPropertiesLanguage="en" Handler="http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/Category" /><HandlerSpecificData type="cat:Category"><CategoryInformation CategoryType="Product" ProhibitsSubcategories="true" ExcludedByDefault="true" /></HandlerSpecificData>`
	if got := string(d.piece(extended)); got != wantExtended {
		t.Errorf("extended:\n%s\nwant\n%s", got, wantExtended)
	}
}

func TestHostileDocuments(t *testing.T) {
	root := `<u:Update xmlns:u="` + nsUpdate + `">`
	for name, doc := range map[string]string{
		"entities":    `<!DOCTYPE x [<!ENTITY a "aaaa">]>` + root + `</u:Update>`,
		"deep":        root + strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100) + `</u:Update>`,
		"unknown":     `<Update/>`,
		"cut":         root + `<u:UpdateIdentity UpdateID="`,
		"no identity": root + `<u:Properties UpdateType="Software"/></u:Update>`,
		"two":         root + `</u:Update>` + root + `</u:Update>`,
		"no language": root + `<u:LocalizedPropertiesCollection><u:LocalizedProperties/></u:LocalizedPropertiesCollection></u:Update>`,
		"large":       root + strings.Repeat(" ", maxDocument) + `</u:Update>`,
	} {
		if _, err := parseDocument([]byte(doc)); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`<u:Update xmlns:u="` + nsUpdate + `"><u:UpdateIdentity UpdateID="dd78b8a1-0b20-45c1-add6-4da72e9364cf" RevisionNumber="202"/><u:Properties UpdateType="Software"/><u:Files><u:File Digest="WH6FexLo3nx830CZKdXdjIsmhKI=" DigestAlgorithm="SHA1" FileName="a.cab" Size="1"/></u:Files></u:Update>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseDocument(b); err != nil && !errors.Is(err, feed.ErrUpstream) {
			t.Fatal(err)
		}
	})
}
