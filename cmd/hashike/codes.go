package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"strings"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/packager"
)

//go:embed codes.html
var codesHTML string

// codePage is a page to print: what else would be typed, as text and as QR
// codes for a scanner that types. QR codes are for paper and pages, never for
// a console.
type codePage struct {
	Lang, Side, Title, Head, Text, How string
	Codes                              []pageCode
	Notes                              []string // below the codes
}

type pageCode struct {
	Label   string
	Picture template.HTML
}

// modulePixels makes one module about half a millimetre on paper: what a
// hand-held scanner reads easily.
const modulePixels = 2

// writeCodes puts the page into the outbox.
func (s *station) writeCodes(p codePage, codes []string, name string, out io.Writer) error {
	for i, text := range codes {
		svg, err := qrPicture(text, modulePixels)
		if err != nil {
			return err
		}
		label := ""
		if len(codes) > 1 {
			label = s.cat.T("code.of", i+1, len(codes))
		}
		p.Codes = append(p.Codes, pageCode{label, svg})
	}
	p.Lang, p.Side = s.cat.Language(), s.banner()
	tmpl, err := template.New("codes").Parse(codesHTML)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir.Outbox(), name)
	if err := durable.WriteFrom(path, func(w io.Writer) error { return tmpl.Execute(w, p) }); err != nil {
		return err
	}
	fmt.Fprintln(out, s.cat.T("code.written", p.Title, path))
	return nil
}

// needPage prints the need list (補充依頼票).
func (s *station) needPage(n packager.Need, out io.Writer) error {
	codes := n.Codes()
	how := s.cat.T("need.scan")
	if len(codes) == 0 {
		how = s.cat.T("need.large")
	}
	return s.writeCodes(codePage{Title: s.cat.T("need.title"), Head: s.cat.T("need.head", n.Number, n.Blobs), Text: shortened(n.String()), How: how},
		codes, fmt.Sprintf("need-%05d.html", n.Number), out)
}

// shortened cuts what nobody would type: a page is not for that.
func shortened(text string) string {
	const most = 4000
	if len(text) <= most {
		return text
	}
	return text[:most] + " …"
}

// receiptPage prints the receipt code.
func (s *station) receiptPage(r packager.Shown, out io.Writer) error {
	return s.writeCodes(codePage{Title: s.cat.T("receipt.title"), Head: s.cat.T("receipt.head", r.Number), Text: r.Code, How: s.cat.T("receipt.scan"), Notes: s.lineWords(s.lineStatus())},
		[]string{strings.ReplaceAll(r.Code, " ", "")}, fmt.Sprintf("receipt-%05d.html", r.Number), out)
}
