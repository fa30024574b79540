package wsus

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
)

// A document is an update as servers exchange it (MS-WSUSSS 3.1.1.1): upd:Update
// with its namespaces. Terminals get pieces of it, without a root and without
// namespaces (MS-WUSP 3.1.1.1 "Fragments"; the rules as measured on a real
// server are in the comments below).

const (
	nsUpdate   = "http://schemas.microsoft.com/msus/2002/12/Update"
	nsAssembly = "urn:schemas-microsoft-com:asm.v3"
)

const (
	maxDocument      = 4 << 20
	maxDocumentDepth = 64
	maxDocumentTexts = 2000 // fragments by language; real ones have some 80
)

// Prefixes that names keep, as text, in a fragment.
var fragmentPrefixes = map[string]string{
	"http://schemas.microsoft.com/msus/2002/12/BaseApplicabilityRules":       "b.",
	"http://schemas.microsoft.com/msus/2002/12/MsiApplicabilityRules":        "m.",
	"http://schemas.microsoft.com/msus/2002/12/UpdateHandlers/WindowsDriver": "d.",
}

// Attributes of Properties: the core fragment has only the first ones, and
// those only if they are not the default; the extended fragment has neither
// the first nor the second ones.
var (
	coreProperties  = []string{"UpdateType", "ExplicitlyDeployable", "AutoSelectOnWebSites", "OSUpgrade", "EulaID"}
	ownerProperties = []string{"PublicationState", "PublisherID", "CreationDate", "IsPublic", "LegacyName", "DetectoidType", "PerUser"}
)

// piece is one fragment of a document.
type piece struct {
	part part
	lang string // of localized and eula, lower case
	body []byte
}

// document is a document taken apart.
type document struct {
	update
	Pieces       []piece
	CategoryType string // Company, Product, ProductFamily, UpdateClassification; of categories
	Expired      bool
	Superseded   []guid // SupersededUpdates
}

// piece returns the body of the first fragment of a kind.
func (d *document) piece(p part) []byte {
	if i := slices.IndexFunc(d.Pieces, func(x piece) bool { return x.part == p }); i >= 0 {
		return d.Pieces[i].body
	}
	return nil
}

// title is the update's name in the first of the languages that it has.
func (d *document) title(langs ...string) string {
	for _, l := range append(langs, "en", "") {
		for _, p := range d.Pieces {
			if p.part == localized && (l == "" || p.lang == l) {
				return elementText(p.body, "Title")
			}
		}
	}
	return ""
}

// elementText is the text of the first element of that name.
func elementText(body []byte, name string) string {
	d := fragment(body)
	for {
		t, err := d.Token()
		if err != nil {
			return ""
		}
		if t, ok := t.(xml.StartElement); ok && t.Name.Local == name {
			var s string
			if d.DecodeElement(&s, &t) != nil {
				return ""
			}
			return strings.TrimSpace(s)
		}
	}
}

// parseDocument takes a document apart. ErrUpstream unless it is one.
func parseDocument(b []byte) (*document, error) {
	if len(b) > maxDocument {
		return nil, upstream("update of %d bytes", len(b))
	}
	x := &dissector{d: xml.NewDecoder(bytes.NewReader(b)), doc: &document{}}
	// SOAP has carried the text already, whatever the document says of itself.
	x.d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	if err := x.run(); err != nil {
		return nil, upstream("update document: %w", err)
	}
	u, err := parseCore(x.doc.piece(core))
	if err != nil {
		return nil, err
	}
	if u.Files, u.KB, err = parseExtended(x.doc.piece(extended)); err != nil {
		return nil, err
	}
	u.Created, u.Category = x.doc.Created, x.doc.CategoryType
	x.doc.update = u
	return x.doc, nil
}

// dissector writes fragments while it reads.
type dissector struct {
	d                    *xml.Decoder
	doc                  *document
	depth                int
	core, extended, more bytes.Buffer
}

// next is the next token that means something; a document type does not.
func (x *dissector) next() (xml.Token, error) {
	for {
		t, err := x.d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if x.depth++; x.depth > maxDocumentDepth {
				return nil, errors.New("too deep")
			}
			return t, nil
		case xml.EndElement:
			x.depth--
			return t, nil
		case xml.CharData:
			return t, nil
		case xml.Directive:
			return nil, errors.New("a document type")
		}
	}
}

func (x *dissector) run() error {
	for { // to the root
		t, err := x.next()
		if err != nil {
			return err
		}
		if t, ok := t.(xml.StartElement); ok {
			if t.Name != (xml.Name{Space: nsUpdate, Local: "Update"}) {
				return errors.New("no upd:Update")
			}
			break
		}
	}
	for {
		t, err := x.next()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if err := x.section(t); err != nil {
				return err
			}
		case xml.EndElement:
			x.extended.Write(x.more.Bytes())
			x.doc.Pieces = append(x.doc.Pieces, piece{part: core, body: x.core.Bytes()}, piece{part: extended, body: x.extended.Bytes()})
			return x.ended()
		}
	}
}

// ended makes sure that nothing but white space follows the root.
func (x *dissector) ended() error {
	for {
		t, err := x.next()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if text, ok := t.(xml.CharData); err != nil || !ok || len(bytes.TrimSpace(text)) > 0 {
			return errors.New("something behind the update")
		}
	}
}

// section writes one child of the root where it belongs.
func (x *dissector) section(t xml.StartElement) error {
	switch t.Name.Local {
	case "UpdateIdentity":
		return x.copy(&x.core, t)
	case "Properties":
		return x.properties(t)
	case "Relationships":
		return x.relationships(t)
	case "ApplicabilityRules":
		return x.copy(&x.core, t)
	case "Files":
		return x.copy(&x.extended, t)
	case "HandlerSpecificData":
		var info handlerInfo
		err := x.copyInto(&x.more, t, &info)
		x.doc.CategoryType = info.category
		return err
	case "LocalizedPropertiesCollection", "EulaCollection":
		return x.collection(t)
	}
	return x.skip()
}

func (x *dissector) properties(t xml.StartElement) error {
	x.doc.Expired = attr(t, "PublicationState") == "Expired"
	x.doc.Created = attr(t, "CreationDate")
	c, e := t, t
	c.Attr, e.Attr = nil, nil
	for _, a := range t.Attr {
		switch {
		case a.Name.Space != "" || a.Name.Local == "xmlns":
		case slices.Contains(coreProperties, a.Name.Local):
			if a.Value != "false" {
				c.Attr = append(c.Attr, a)
			}
		case !slices.Contains(ownerProperties, a.Name.Local):
			e.Attr = append(e.Attr, a)
		}
	}
	e.Name.Local = "ExtendedProperties"
	open(&x.core, c)
	x.core.WriteString(" />")
	return x.copy(&x.extended, e)
}

// relationships notes what is superseded on the way.
func (x *dissector) relationships(t xml.StartElement) error {
	var info handlerInfo
	err := x.copyInto(&x.core, t, &info)
	x.doc.Superseded = info.superseded
	return err
}

// collection makes one fragment of each child, by its language.
func (x *dissector) collection(t xml.StartElement) error {
	p := localized
	if t.Name.Local == "EulaCollection" {
		p = eula
	}
	for {
		t, err := x.next()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			var body bytes.Buffer
			if err := x.copy(&body, t); err != nil {
				return err
			}
			lang := elementText(body.Bytes(), "Language")
			if lang == "" || len(lang) > 35 || len(x.doc.Pieces) >= maxDocumentTexts {
				return errors.New("text without a language")
			}
			x.doc.Pieces = append(x.doc.Pieces, piece{p, strings.ToLower(lang), body.Bytes()})
		case xml.EndElement:
			return nil
		}
	}
}

func (x *dissector) skip() error {
	for depth := x.depth; x.depth >= depth; {
		if _, err := x.next(); err != nil {
			return err
		}
	}
	return nil
}

// handlerInfo is what is noted while an element is copied.
type handlerInfo struct {
	category   string
	superseded []guid
	in         []string
}

func (h *handlerInfo) start(t xml.StartElement) error {
	if h == nil {
		return nil
	}
	h.in = append(h.in, t.Name.Local)
	if t.Name.Local == "CategoryInformation" {
		h.category = attr(t, "CategoryType")
	}
	if t.Name.Local == "UpdateIdentity" && slices.Contains(h.in, "SupersededUpdates") {
		g, err := parseGUID(attr(t, "UpdateID"))
		if err != nil || len(h.superseded) >= maxClauses {
			return errors.Join(err, errors.New("superseded updates"))
		}
		h.superseded = append(h.superseded, g)
	}
	return nil
}

func (h *handlerInfo) end() {
	if h != nil && len(h.in) > 0 {
		h.in = h.in[:len(h.in)-1]
	}
}

func (x *dissector) copy(w *bytes.Buffer, t xml.StartElement) error { return x.copyInto(w, t, nil) }

// copyInto writes an element and all it holds as a fragment has it.
func (x *dissector) copyInto(w *bytes.Buffer, t xml.StartElement, info *handlerInfo) error {
	if err := info.start(t); err != nil {
		return err
	}
	pending := true // the start tag may become an empty element
	open(w, t)
	names := []string{bareName(t.Name)}
	for len(names) > 0 {
		t, err := x.next()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if pending {
				w.WriteByte('>')
			}
			if err := info.start(t); err != nil {
				return err
			}
			open(w, t)
			pending = true
			names = append(names, bareName(t.Name))
		case xml.CharData:
			if len(bytes.TrimSpace(t)) == 0 && pending {
				continue // between elements
			}
			if pending {
				w.WriteByte('>')
				pending = false
			}
			writeText(w, string(t), false)
		case xml.EndElement:
			info.end()
			if pending {
				w.WriteString(" />")
			} else {
				w.WriteString("</" + names[len(names)-1] + ">")
			}
			pending = false
			names = names[:len(names)-1]
		}
	}
	return nil
}

// open writes a start tag up to its bracket. Namespaces go, but for the
// assembly of a component's own applicability, which stays as it is.
func open(w *bytes.Buffer, t xml.StartElement) {
	w.WriteString("<" + bareName(t.Name))
	if t.Name.Space == nsAssembly && t.Name.Local == "assembly" {
		w.WriteString(` xmlns="` + nsAssembly + `"`)
	}
	for _, a := range t.Attr {
		if a.Name.Space == "xmlns" || a.Name.Local == "xmlns" && a.Name.Space == "" {
			continue
		}
		w.WriteString(" " + a.Name.Local + `="`)
		writeText(w, a.Value, true)
		w.WriteByte('"')
	}
}

func bareName(n xml.Name) string { return fragmentPrefixes[n.Space] + n.Local }

// writeText escapes what must be escaped and nothing else.
func writeText(w *bytes.Buffer, s string, quoted bool) {
	last := 0
	for i := 0; i < len(s); i++ {
		var with string
		switch c := s[i]; {
		case c == '&':
			with = "&amp;"
		case c == '<':
			with = "&lt;"
		case c == '>':
			with = "&gt;"
		case c == '\r':
			with = "&#xD;"
		case c == '"' && quoted:
			with = "&quot;"
		case c == '\n' && quoted:
			with = "&#xA;"
		case c == '\t' && quoted:
			with = "&#x9;"
		default:
			continue
		}
		w.WriteString(s[last:i])
		w.WriteString(with)
		last = i + 1
	}
	w.WriteString(s[last:])
}
