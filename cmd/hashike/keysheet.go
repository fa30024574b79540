package main

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

//go:embed keysheet.html
var keySheetHTML string

//go:embed keybook.html
var keyBookHTML string

// keySheet is the one page that goes into a sealed envelope.
type keySheet struct {
	Lang, Side, Title string
	Rows              []sheetRow
	Key               []string
	QR                template.HTML
	Notes             []string
}

// sheetsOf are the files of one key's sheet, in a directory that is none of ours.
func sheetsOf(dir string, slot int) []string {
	base := filepath.Join(dir, fmt.Sprintf("root-key-%d", slot))
	return []string{base + ".html", base + ".txt"}
}

// writeKeySheets writes the sheets of new root keys: the only place where they
// ever are, until somebody prints them.
func (a *app) writeKeySheets(dir string, keys []packager.RootKey, holders []string) error {
	tmpl, err := template.New("key").Parse(keySheetHTML)
	if err != nil {
		return err
	}
	for _, k := range keys {
		sh, err := a.keySheet(k, holders[k.Slot-1])
		if err != nil {
			return err
		}
		files := sheetsOf(dir, k.Slot)
		if err := durable.WriteFrom(files[0], func(w io.Writer) error { return tmpl.Execute(w, sh) }); err != nil {
			return err
		}
		if err := durable.WriteFile(files[1], []byte(sh.text())); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) keySheet(k packager.RootKey, holder string) (keySheet, error) {
	lines, err := k.Lines()
	if err != nil {
		return keySheet{}, err
	}
	id, err := k.ID()
	if err != nil {
		return keySheet{}, err
	}
	code, err := qrSVG(strings.ReplaceAll(strings.Join(lines, ""), " ", ""))
	t := func(key string, args ...any) string { return a.cat.T("keysheet."+key, args...) }
	return keySheet{Lang: a.cat.Language(), Side: a.cat.T("side.outside"), Title: t("title", k.Slot), Key: lines, QR: code, Rows: []sheetRow{
		{Label: t("holder"), Value: holder}, {Label: t("id"), Value: id[:keyShown]}, {Label: t("made"), Value: i18n.Date(a.clock(), a.cat.Language())},
		{Label: t("seal"), Write: true}, {Label: t("place"), Write: true}, {Label: t("witness"), Write: true},
	}, Notes: []string{t("note.typing"), t("note.secret"), t("note.use")}}, err
}

// keyShown is how much of a key id people compare.
const keyShown = 16

func (s keySheet) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\r\n%s\r\n\r\n", s.Side, s.Title)
	for _, r := range s.Rows {
		v := r.Value
		if r.Write {
			v = "［　　　　　　　　　　　　］"
		}
		fmt.Fprintf(&b, "%s: %s\r\n", r.Label, v)
	}
	fmt.Fprint(&b, "\r\n")
	for _, l := range s.Key {
		fmt.Fprintf(&b, "%s\r\n", l)
	}
	fmt.Fprintf(&b, "\r\n%s\r\n", strings.Join(s.Notes, "\r\n"))
	return b.String()
}

// elsewhere makes the directory for the sheets and refuses one within the data
// directory: backups of that would hold root keys. A refusal makes nothing.
func elsewhere(data state.Dir, dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real := resolved(abs)
	if rel, err := filepath.Rel(resolved(string(data)), real); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", feed.NewFault(fmt.Errorf("%s lies within %s: %w", abs, data, feed.ErrConfig), "H-517", "dir", abs)
	}
	if err := durable.Mkdir(real); err != nil {
		return "", fmt.Errorf("%w: %w", err, feed.ErrConfig)
	}
	return real, nil
}

// resolved follows the links of a path as far as it exists.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent, name := filepath.Split(filepath.Clean(path))
	if parent = filepath.Clean(parent); name == "" || parent == path {
		return path
	}
	return filepath.Join(resolved(parent), name)
}

// noSheets refuses a directory that holds sheets of root keys: written over,
// or wiped as if they had been printed, those keys would be gone for ever.
func noSheets(dir string) error {
	if files := sheetsIn(dir); len(files) > 0 {
		return feed.NewFault(fmt.Errorf("%s is there already: %w", files[0], feed.ErrConfig), "H-220", "dir", dir, "file", filepath.Base(files[0]))
	}
	return nil
}

// sheetsIn lists the sheets of root keys that lie in a directory.
func sheetsIn(dir string) (files []string) {
	for slot := 1; slot <= 3; slot++ {
		for _, f := range sheetsOf(dir, slot) {
			if _, err := os.Lstat(f); err == nil {
				files = append(files, f)
			}
		}
	}
	return files
}

// printed asks whether every sheet is on paper, and wipes the files on a plain
// yes. Without one they stay, and that is an error which says where.
func (a *app) printed(dir string) error {
	files := sheetsIn(dir)
	if len(files) == 0 {
		return nil
	}
	fmt.Fprintln(a.err, a.cat.T("keys.print"))
	for _, f := range files {
		fmt.Fprintln(a.err, "  "+f)
	}
	word := a.cat.T("keys.word")
	fmt.Fprint(a.err, a.cat.T("keys.confirm", word))
	line, err := a.line()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != word {
		return feed.NewFault(fmt.Errorf("the sheets of root keys still lie in %s: %w", dir, feed.ErrHeld), "H-518", "dir", dir)
	}
	for _, f := range files {
		if err := packager.Wipe(f); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.out, a.cat.T("keys.wiped", len(files)))
	return nil
}

// keyBook is the custody book (鍵管理簿), to be kept on paper.
type keyBook struct {
	Lang, Side, Title, Root string
	Head                    []string
	Lines                   [][]string
	Notes                   []string
}

// writeKeyBook writes the custody book to the outbox: it holds nothing secret.
func (a *app) writeKeyBook(dir state.Dir) error {
	holders, version, ends, err := packager.Custody(dir)
	if err != nil {
		return err
	}
	t := func(key string, args ...any) string { return a.cat.T("keybook."+key, args...) }
	lang := a.cat.Language()
	b := keyBook{Lang: lang, Side: a.cat.T("side.outside"), Title: t("title"), Root: t("root", version, i18n.Date(ends, lang)),
		Head: []string{t("key"), t("id"), t("holder"), t("seal"), t("place"), t("made"), t("check"), t("april")}, Notes: []string{t("note.check"), t("note.april"), t("note.lost")}}
	for _, h := range holders {
		name := t("rootkey", h.Slot)
		if h.Slot == 0 {
			name = t("approverkey")
		}
		made := i18n.Date(h.Made, lang)
		if h.Ended {
			made += " " + t("ended")
		}
		b.Lines = append(b.Lines, []string{name, h.Key[:min(keyShown, len(h.Key))], h.Name, "", "", made, "", ""})
	}
	tmpl, err := template.New("book").Parse(keyBookHTML)
	if err != nil {
		return err
	}
	base := filepath.Join(dir.Outbox(), "key-book")
	if err := durable.WriteFrom(base+".html", func(w io.Writer) error { return tmpl.Execute(w, b) }); err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s\r\n%s\r\n%s\r\n\r\n", b.Side, b.Title, b.Root)
	for _, l := range append([][]string{b.Head}, b.Lines...) {
		fmt.Fprintf(&text, "%s\r\n", strings.Join(l, " | "))
	}
	fmt.Fprintf(&text, "\r\n%s\r\n", strings.Join(b.Notes, "\r\n"))
	if err := durable.WriteFile(base+".txt", []byte(text.String())); err != nil {
		return err
	}
	fmt.Fprintln(a.out, a.cat.T("keybook.written", base+".html"))
	return nil
}
