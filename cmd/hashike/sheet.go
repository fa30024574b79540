package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"rsc.io/qr"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
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
	Boxes        []string // each to be filled in or stamped by hand
	Write        bool     // to be filled in by hand
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
func (s *station) carrySheet(r packager.Report, carries []packager.Carry, o packOptions, scanned checked) (sheet, error) {
	var anchor string
	var media []packager.Medium
	var blankets []people.Blanket
	err := s.db.View(func(tx state.Tx) error {
		last, _, err := tx.LastRecord()
		if err != nil {
			return err
		}
		anchor = last.Anchor()
		for _, number := range o.media {
			m, err := packager.MediumOf(tx, number)
			if err != nil {
				return err
			}
			media = append(media, m)
		}
		blankets, err = people.Blankets(tx)
		return err
	})
	if err != nil {
		return sheet{}, err
	}
	lang := s.cat.Language()
	t := func(key string, args ...any) string { return s.cat.T("sheet."+key, args...) }
	words := i18n.Words(r.Set.Sum())
	exceptions, err := s.exceptions(nil)
	if err != nil {
		return sheet{}, err
	}
	excepted := sheetRow{Label: t("exceptions"), Lines: exceptions}
	if len(exceptions) == 0 {
		excepted.Value = t("exceptions.none")
	}
	contents := s.contentsOf(carries, t)
	approval := sheetRow{Label: t("approval"), Boxes: []string{t("box.operator"), t("box.approver"), t("box.inside")}}
	if n := s.blanketFor(r, blankets); n > 0 {
		approval.Value = t("approval.blanket", n)
	}
	if r.Urgent {
		approval.Value = t("approval.urgent")
	}
	purpose := o.lent.Purpose
	if purpose == "" {
		purpose = t("purpose.is")
	}
	borrower := strings.TrimSpace(o.lent.Department + "　" + o.lent.Borrower)
	rows := []sheetRow{
		{Label: t("bundle"), Value: t("bundle.is", r.Number, i18n.Date(r.Created, lang), i18n.Date(r.Expires, lang))},
		{Label: t("medium"), Lines: s.mediaLines(media, t), Write: len(media) == 0},
		{Label: t("borrower"), Value: borrower, Write: borrower == ""},
		{Label: t("purpose"), Value: purpose},
		{Label: t("contents"), Value: t("contents.is", r.Blobs, bytesText(r.BlobBytes)), Lines: contents},
		excepted,
		{Label: t("scan"), Value: scanned.Value, Lines: scanned.Lines},
		{Label: t("scaninside"), Write: true},
		{Label: t("words"), Value: strings.Join(words, "　")},
		{Label: t("anchor"), Value: anchor},
		approval,
		{Label: t("out"), Boxes: []string{t("box.out"), t("box.in")}},
		{Label: t("result"), Write: true},
		{Label: t("erased"), Value: s.erasedText(r, t), Boxes: []string{t("box.erased"), t("box.when"), t("box.checked")}},
	}
	code, err := qrSVG(fmt.Sprintf("hashike bundle %d %s", r.Number, r.Set))
	return sheet{Lang: lang, Side: s.banner(), Title: t("title"), Words: strings.Join(words, "　"), Note: t("note"), Rows: rows, QR: code}, err
}

// maxContents keeps the sheet on one page: the rest is counted.
const maxContents = 12

// mediaLines describes each registered medium.
func (s *station) mediaLines(media []packager.Medium, t func(string, ...any) string) []string {
	var out []string
	for _, m := range media {
		key := "medium.plain"
		if m.Encrypted {
			key = "medium.encrypted"
		}
		out = append(out, t(key, m.Number, m.Product))
	}
	return out
}

// erasedText says what was on the media before this bundle was written.
func (s *station) erasedText(r packager.Report, t func(string, ...any) string) string {
	if len(r.Erased) == 0 {
		return t("erased.no")
	}
	var out []string
	for _, e := range r.Erased {
		out = append(out, t("erased.yes", e.Bundle, e.Files))
	}
	return strings.Join(out, "　")
}

// blanketFor is the blanket approval that covers all that is new in a bundle:
// what differs from its base is antivirus definitions only. 0 if none does.
func (s *station) blanketFor(r packager.Report, all []people.Blanket) uint64 {
	var base packager.Packed
	if err := s.db.View(func(tx state.Tx) (err error) { base, _, err = packager.PackedAs(tx, r.Base); return err }); err != nil {
		return 0
	}
	number := uint64(0)
	for _, l := range r.Feeds {
		if slices.ContainsFunc(base.Feeds, func(b packager.FeedLine) bool { return b.Feed == l.Feed && b.Snapshot == l.Snapshot }) {
			continue
		}
		if number = s.covered(all, l.Feed); number == 0 {
			return 0
		}
	}
	return number
}

// contentsOf lists each feed's version, files and bytes, as the inside will hold them.
func (s *station) contentsOf(carries []packager.Carry, t func(string, ...any) string) []string {
	var out []string
	for _, c := range carries {
		var files int
		var bytes int64
		for a := range c.Snapshot.Artifacts() {
			files, bytes = files+1, bytes+a.Size
		}
		h := c.Snapshot.Header()
		vendor := h.Kind
		if setup, err := s.cfg.Feed(h.Feed); err == nil {
			if vendor = setup.Kind.Title.EN; s.cat.Language() == "ja" {
				vendor = setup.Kind.Title.JA
			}
		}
		out = append(out, t("contents.feed", vendor, h.Feed, h.Serial, files, bytesText(bytes)))
	}
	slices.Sort(out) // by vendor
	if more := len(out) - maxContents; more > 0 {
		out = append(out[:maxContents], t("contents.more", more))
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
		for _, box := range r.Boxes {
			v += "　" + box + "［　　　　　　］"
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
