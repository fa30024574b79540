package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"strings"

	"rsc.io/qr"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

//go:embed sheet.html
var sheetHTML string

// sheetRow is one line of the carry sheet: a label, and what is known; a blank
// is a box to write in.
type sheetRow struct {
	Label, Value string
	Lines        []string
	Write        bool // to be filled in by hand
}

// sheet is the carry sheet (媒体運搬票): one A4 page that travels with the medium.
type sheet struct {
	Lang, Side, Title, Words, Note string
	Rows                           []sheetRow
	QR                             template.HTML
}

// carrySheet collects what the page says, in the order of municipal forms
// (docs/words.md): numbers, borrower, contents, virus check, words, anchor,
// approval, out and in, result, erasure.
func (s *station) carrySheet(r packager.Report, carries []packager.Carry, scanned checked) (sheet, error) {
	var anchor string
	err := s.db.View(func(tx state.Tx) error {
		for rec, err := range tx.AuditLog(1) {
			if err != nil {
				return err
			}
			anchor = rec.Anchor()
		}
		return nil
	})
	if err != nil {
		return sheet{}, err
	}
	lang := s.cat.Language()
	t := func(key string, args ...any) string { return s.cat.T("sheet."+key, args...) }
	words := i18n.Words(r.Set.Sum())
	contents := contentsOf(carries, t)
	rows := []sheetRow{
		{Label: t("bundle"), Value: t("bundle.is", r.Number, i18n.Date(r.Created, lang), i18n.Date(r.Expires, lang))},
		{Label: t("medium"), Write: true},
		{Label: t("borrower"), Write: true},
		{Label: t("purpose"), Value: t("purpose.is")},
		{Label: t("contents"), Value: t("contents.is", r.Blobs, bytesText(r.BlobBytes)), Lines: contents},
		{Label: t("scan"), Value: scanned.Value, Lines: scanned.Lines},
		{Label: t("scaninside"), Write: true},
		{Label: t("words"), Value: strings.Join(words, "　")},
		{Label: t("anchor"), Value: anchor},
		{Label: t("approval"), Write: true},
		{Label: t("out"), Write: true},
		{Label: t("result"), Write: true},
		{Label: t("erased"), Write: true},
	}
	code, err := qrSVG(fmt.Sprintf("hashike bundle %d %s", r.Number, r.Set))
	return sheet{Lang: lang, Side: s.banner(), Title: t("title"), Words: strings.Join(words, "　"), Note: t("note"), Rows: rows, QR: code}, err
}

// contentsOf lists each feed's version, files and bytes, as the inside will hold them.
func contentsOf(carries []packager.Carry, t func(string, ...any) string) []string {
	var out []string
	for _, c := range carries {
		var files int
		var bytes int64
		for a := range c.Snapshot.Artifacts() {
			files, bytes = files+1, bytes+a.Size
		}
		h := c.Snapshot.Header()
		out = append(out, t("contents.feed", h.Feed, h.Serial, files, bytesText(bytes)))
	}
	return out
}

// qrSVG draws the sheet's small QR code.
func qrSVG(text string) (template.HTML, error) { return qrPicture(text, 0) }

// qrPicture draws a QR code as plain SVG, module pixels a module, or 120 in
// all: it prints in black and white and needs no script. It is for paper and
// pages, never for a console.
func qrPicture(text string, module int) (template.HTML, error) {
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", err
	}
	side := 120
	if module > 0 {
		side = (c.Size + 8) * module
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 %d %d" width="%d" height="%d" role="img" shape-rendering="crispEdges"><path fill="#000" d="`, c.Size+8, c.Size+8, side, side)
	for y := range c.Size {
		for x := range c.Size {
			if c.Black(x, y) {
				fmt.Fprintf(&b, "M%d %dh1v1h-1z", x, y)
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()), nil
}

// writeSheet puts the page beside the outbox as HTML and as text.
func (s *station) writeSheet(sh sheet, number uint64, out io.Writer) error {
	tmpl, err := template.New("sheet").Parse(sheetHTML)
	if err != nil {
		return err
	}
	base := filepath.Join(s.dir.Outbox(), fmt.Sprintf("sheet-%05d", number))
	if err := durable.WriteFrom(base+".html", func(w io.Writer) error { return tmpl.Execute(w, sh) }); err != nil {
		return err
	}
	if err := durable.WriteFile(base+".txt", []byte(sh.text())); err != nil {
		return err
	}
	fmt.Fprintln(out, s.cat.T("sheet.written", base+".html"))
	return nil
}

func (sh sheet) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\r\n%s\r\n\r\n", sh.Side, sh.Title)
	for _, r := range sh.Rows {
		v := r.Value
		if r.Write {
			v = "［　　　　　　　　　　　　］"
		}
		fmt.Fprintf(&b, "%s: %s\r\n", r.Label, v)
		for _, l := range r.Lines {
			fmt.Fprintf(&b, "    %s\r\n", l)
		}
	}
	fmt.Fprintf(&b, "\r\n%s\r\n", sh.Note)
	return b.String()
}

// setWords are the words of an imported set, to compare by reading aloud.
func setWords(set feed.Digest) string { return strings.Join(i18n.Words(set.Sum()), "　") }
