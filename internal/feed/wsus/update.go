package wsus

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// guid is an UpdateID.
type guid [16]byte

func parseGUID(s string) (guid, error) {
	var g guid
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%.60q is not a GUID: %w", s, feed.ErrUpstream)
	}
	if _, err := hex.Decode(g[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil {
		return g, fmt.Errorf("%.60q is not a GUID: %w", s, feed.ErrUpstream)
	}
	return g, nil
}

func (g guid) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// identity is one revision of one update.
type identity struct {
	Update guid
	Number int32 // RevisionNumber
}

func (i identity) String() string { return fmt.Sprintf("%s.%d", i.Update, i.Number) }

// file is one payload as the metadata names it.
type file struct {
	Name   string
	Size   int64
	SHA1   [20]byte
	SHA256 feed.Digest // empty: only SHA-1 is named, so it cannot be carried
}

// path is where the file lies in a snapshot and under a WSUS (MS-WUSP 3.1.5.9:
// the directory is the last byte of the SHA-1).
func (f file) path() string {
	h := strings.ToUpper(hex.EncodeToString(f.SHA1[:]))
	return "Content/" + h[38:] + "/" + h + f.ext()
}

// ext is the file's extension, of letters and digits only.
func (f file) ext() string {
	e := strings.ToLower(path.Ext(f.Name))
	if len(e) < 2 || len(e) > 8 || strings.ContainsFunc(e[1:], func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
		return ".bin"
	}
	return e
}

// update is what a mirror must know of one revision; the rest stays in its fragments.
type update struct {
	identity
	Type     string // Software, Driver, Category, Detectoid
	Explicit bool   // ExplicitlyDeployable
	Prereqs  [][]guid
	Bundles  [][]identity
	KB       string // KBArticleID
	Files    []file

	Supersedes []guid
	Created    string // CreationDate as a document has it; fragments have none
	Category   string // of categories, as a document has it: Product, UpdateClassification, …
}

// Limits on one update; real ones stay far below.
const (
	maxClauses = 4096
	maxFiles   = 20_000
)

func upstream(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, feed.ErrUpstream)...)
}

// fragment decodes the elements of a fragment, which has no root. Names have
// lost their namespaces (MS-WUSP 3.1.1.1 "Fragments").
func fragment(b []byte) *xml.Decoder {
	b = bytes.TrimPrefix(b, []byte("\xEF\xBB\xBF"))
	return xml.NewDecoder(io.MultiReader(strings.NewReader("<fragment>"), bytes.NewReader(b), strings.NewReader("</fragment>")))
}

// parseCore reads identity, properties and relationships of a core fragment.
// It stops there: the rules are the terminal's to read.
func parseCore(b []byte) (update, error) {
	var u update
	d := fragment(b)
	seen := false
	for depth := 0; ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u, upstream("core fragment: %w", err)
		}
		switch t := t.(type) {
		case xml.EndElement:
			depth--
			continue
		case xml.StartElement:
			if depth++; depth != 2 {
				continue
			}
			switch t.Name.Local {
			case "UpdateIdentity":
				if u.identity, err = identityOf(t); err != nil {
					return u, upstream("core fragment: %w", err)
				}
				if seen {
					return u, upstream("core fragment: two identities")
				}
				seen = true
			case "Properties":
				u.Type, u.Explicit = attr(t, "UpdateType"), attr(t, "ExplicitlyDeployable") == "true"
			case "Relationships":
				if err := u.relationships(d); err != nil {
					return u, upstream("core fragment of %s: %w", u.identity, err)
				}
				depth--
			case "ApplicabilityRules":
				if !seen {
					return u, upstream("core fragment without identity")
				}
				return u, u.check()
			}
		}
	}
	if !seen {
		return u, upstream("core fragment without identity")
	}
	return u, u.check()
}

func (u *update) check() error {
	switch u.Type {
	case "Software", "Driver", "Category", "Detectoid":
		return nil
	}
	return upstream("%s has type %.40q", u.identity, u.Type)
}

func attr(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func identityOf(t xml.StartElement) (identity, error) {
	g, err := parseGUID(attr(t, "UpdateID"))
	if err != nil {
		return identity{}, err
	}
	n, err := strconv.ParseInt(attr(t, "RevisionNumber"), 10, 32)
	if err != nil || n < 0 {
		return identity{}, fmt.Errorf("revision number %.20q", attr(t, "RevisionNumber"))
	}
	return identity{g, int32(n)}, nil
}

// relationships reads the clauses: a plain identity stands alone, AtLeastOne is
// a choice. What supersedence means for a machine is left to the terminal.
func (u *update) relationships(d *xml.Decoder) error {
	section, open := "", false
	for depth := 1; depth > 0; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.EndElement:
			depth--
			if t.Name.Local == "AtLeastOne" {
				open = false
			}
		case xml.StartElement:
			depth++
			switch {
			case depth == 2:
				section = t.Name.Local
			case t.Name.Local == "AtLeastOne":
				open = true
				u.clause(section)
			case t.Name.Local == "UpdateIdentity":
				if !open {
					u.clause(section)
				}
				if err := u.member(section, t); err != nil {
					return err
				}
			}
		}
		if len(u.Prereqs)+len(u.Bundles)+len(u.Supersedes) > maxClauses {
			return errors.New("too many relationships")
		}
	}
	return nil
}

func (u *update) clause(section string) {
	switch section {
	case "Prerequisites":
		u.Prereqs = append(u.Prereqs, nil)
	case "BundledUpdates":
		u.Bundles = append(u.Bundles, nil)
	}
}

func (u *update) member(section string, t xml.StartElement) error {
	switch section {
	case "Prerequisites":
		g, err := parseGUID(attr(t, "UpdateID"))
		if err != nil {
			return err
		}
		last := &u.Prereqs[len(u.Prereqs)-1]
		*last = append(*last, g)
	case "BundledUpdates":
		id, err := identityOf(t)
		if err != nil {
			return err
		}
		last := &u.Bundles[len(u.Bundles)-1]
		*last = append(*last, id)
	case "SupersededUpdates":
		g, err := parseGUID(attr(t, "UpdateID"))
		if err != nil {
			return err
		}
		u.Supersedes = append(u.Supersedes, g)
	}
	return nil
}

// Where an extended fragment has what is read of it.
var (
	pathFile   = []string{"fragment", "Files", "File"}
	pathDigest = []string{"fragment", "Files", "File", "AdditionalDigest"}
	pathKB     = []string{"fragment", "ExtendedProperties", "KBArticleID"}
)

// parseExtended reads the files and the KB number of an extended fragment.
func parseExtended(b []byte) (files []file, kb string, err error) {
	d := fragment(b)
	var in []string
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return files, kb, nil
		}
		if err != nil {
			return nil, "", upstream("extended fragment: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			in = append(in, t.Name.Local)
			switch {
			case slices.Equal(in, pathFile):
				f, err := fileOf(t)
				if err != nil {
					return nil, "", upstream("extended fragment: %w", err)
				}
				if len(files) >= maxFiles {
					return nil, "", upstream("extended fragment: over %d files", maxFiles)
				}
				files = append(files, f)
			case slices.Equal(in, pathDigest):
				if attr(t, "Algorithm") != "SHA256" {
					continue
				}
				var text string
				if err := d.DecodeElement(&text, &t); err != nil {
					return nil, "", upstream("extended fragment: %w", err)
				}
				in = in[:len(in)-1]
				sum, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
				if err != nil || len(sum) != 32 {
					return nil, "", upstream("extended fragment: SHA-256 %.80q", text)
				}
				files[len(files)-1].SHA256 = feed.DigestFromSum(sum)
			}
		case xml.CharData:
			if slices.Equal(in, pathKB) && len(t) < 20 {
				kb = strings.TrimSpace(string(t))
			}
		case xml.EndElement:
			in = in[:len(in)-1]
		}
		if len(in) > 64 {
			return nil, "", upstream("extended fragment: too deep")
		}
	}
}

func fileOf(t xml.StartElement) (file, error) {
	f := file{Name: attr(t, "FileName")}
	sum, err := base64.StdEncoding.DecodeString(attr(t, "Digest"))
	if err != nil || len(sum) != 20 || attr(t, "DigestAlgorithm") != "SHA1" {
		return f, fmt.Errorf("digest %.80q", attr(t, "Digest"))
	}
	f.SHA1 = [20]byte(sum)
	f.Size, err = strconv.ParseInt(attr(t, "Size"), 10, 64)
	if err != nil || f.Size < 0 {
		return f, fmt.Errorf("size %.40q", attr(t, "Size"))
	}
	return f, nil
}

// categoryType reads what kind of category an extended fragment is of.
func categoryType(b []byte) string {
	if !bytes.Contains(b, []byte("CategoryInformation")) {
		return ""
	}
	d := fragment(b)
	for {
		t, err := d.Token()
		if err != nil {
			return ""
		}
		if t, ok := t.(xml.StartElement); ok && t.Name.Local == "CategoryInformation" {
			if c := attr(t, "CategoryType"); len(c) < 40 {
				return c
			}
			return ""
		}
	}
}
