package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/width"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
)

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: a.cat.T("cmd.audit")}
	var anchors []string
	verify := &cobra.Command{Use: "verify [FILE…]", Short: a.cat.T("cmd.auditverify"), Args: cobra.ArbitraryArgs, RunE: func(_ *cobra.Command, files []string) error {
		if len(files) > 0 { // exported copies need no data directory: the auditor's own PC will do
			return a.verifyCopies(files, anchors)
		}
		return a.with("audit verify", "", func(s *station) error {
			if err := s.db.View(func(tx state.Tx) error { return a.verifyAudit(tx.AuditLog(1), anchors) }); err != nil {
				return err
			}
			if err := state.CheckYears(s.db); err != nil {
				return feed.NewFault(err, "H-703", "record", err.Error())
			}
			return nil
		})
	}}
	verify.Flags().StringSliceVar(&anchors, "anchors", nil, a.cat.T("flag.anchors"))
	var year, to string
	export := &cobra.Command{Use: "export --year YEAR --to DIR", Short: a.cat.T("cmd.auditexport"), RunE: func(*cobra.Command, []string) error {
		if year == "" {
			return a.needs("--year", "flag.year")
		}
		y, err := a.year(year)
		if err != nil {
			return err
		}
		return a.with("audit export", "", func(s *station) error { return s.exportAudit(y, to) })
	}}
	export.Flags().StringVar(&year, "year", "", a.cat.T("flag.year"))
	export.Flags().StringVar(&to, "to", ".", a.cat.T("flag.exportto"))
	var closing string
	closeYear := &cobra.Command{Use: "close [--year YEAR]", Short: a.cat.T("cmd.auditclose"), RunE: func(*cobra.Command, []string) error {
		y := 0
		if closing != "" {
			var err error
			if y, err = a.year(closing); err != nil {
				return err
			}
		}
		return a.with("audit close", "", func(s *station) error {
			n, err := s.closed(y, a.out)
			if err == nil && n == 0 {
				fmt.Fprintln(a.out, a.cat.T("audit.nothing"))
			}
			return err
		})
	}}
	closeYear.Flags().StringVar(&closing, "year", "", a.cat.T("flag.year"))
	c.AddCommand(verify, export, closeYear)
	return c
}

// verifyCopies reads exported copies and year files as one log, oldest first.
func (a *app) verifyCopies(names []string, anchors []string) error {
	var files []io.Reader
	for _, name := range slices.Sorted(slices.Values(names)) {
		switch strings.ToLower(filepath.Ext(name)) { // what an export writes for people, beside the copy
		case ".csv", ".html":
			fmt.Fprintln(a.out, a.cat.T("audit.table", name))
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return named(name, err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if len(files) == 0 {
		return usageError{errors.New(a.cat.T("audit.nocopy"))}
	}
	return a.verifyAudit(state.ReadAudit(files...), anchors)
}

// closeYears closes what is over: one signed file for each fiscal year.
func (s *station) closeYears(year int, out io.Writer) error {
	_, err := s.closed(year, out)
	return err
}

func (s *station) closed(year int, out io.Writer) (int, error) {
	closed, err := state.CloseYears(s.db, year, s.now())
	if errors.Is(err, state.ErrOpenYear) {
		return 0, feed.NewFault(err, "H-650", "year", i18n.FiscalYear(time.Date(year, time.April, 1, 0, 0, 0, 0, i18n.JST()), s.cat.Language()))
	}
	for _, c := range closed {
		fmt.Fprintln(out, s.cat.T("audit.closed", c.Year, c.Year-2018, s.dir.YearFile(c.Side, c.Year), c.Last-c.First+1, c.Anchor, c.Fingerprint()))
	}
	return len(closed), err
}

// verifyAudit walks the chain and holds it against anchors from paper: a
// removed tail, a rewritten chain and a restored old database all show.
func (a *app) verifyAudit(log func(func(state.Record, error) bool), anchors []string) error {
	want := map[uint64]string{}
	for _, v := range anchors {
		v = strings.TrimSpace(width.Narrow.String(v))
		n, ok := state.AnchorNumber(v)
		if !ok {
			return usageError{errors.New(a.cat.T("usage.anchor", v))}
		}
		want[n] = v
	}
	var last state.Record
	var count int
	for r, err := range log {
		if err != nil {
			return feed.NewFault(err, "H-703", "record", fmt.Sprint(r.Number))
		}
		if v, ok := want[r.Number]; ok {
			if v != r.Anchor() {
				return feed.NewFault(fmt.Errorf("record %d is not the one whose anchor was written down: %w", r.Number, feed.ErrDamaged), "H-703", "record", fmt.Sprint(r.Number))
			}
			delete(want, r.Number)
		}
		last, count = r, count+1
	}
	for _, n := range slices.Sorted(maps.Keys(want)) {
		return feed.NewFault(fmt.Errorf("record %d, whose anchor was written down, is not in the log: %w", n, feed.ErrDamaged), "H-703", "record", fmt.Sprint(n))
	}
	if count == 0 {
		fmt.Fprintln(a.out, a.cat.T("audit.empty"))
		return nil
	}
	fmt.Fprintln(a.out, a.cat.T("audit.good", count, last.Anchor()))
	return nil
}

func (a *app) year(s string) (int, error) {
	y, err := fiscalYear(s)
	if err != nil {
		return 0, usageError{errors.New(a.cat.T("usage.year", s))}
	}
	return y, nil
}

// fiscalYear reads 令和8, R8 or 2026: the year that begins on 1 April.
func fiscalYear(s string) (int, error) {
	t := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(width.Narrow.String(s)), "度"), "年")
	era := 0
	for _, name := range []string{"令和", "R", "r"} {
		if rest, ok := strings.CutPrefix(t, name); ok {
			t, era = rest, 2018
			break
		}
	}
	if t == "元" {
		t = "1"
	}
	n, err := strconv.Atoi(t)
	if err != nil || n+era < 2019 || n+era > 9999 {
		return 0, fmt.Errorf("year %.40q: %w", s, feed.ErrConfig)
	}
	return n + era, nil
}

// exportAudit writes one fiscal year: the records themselves (what audit
// verify reads), and the same as tables for people.
func (s *station) exportAudit(year int, to string) error {
	records, err := s.yearRecords(year)
	if err != nil {
		return err
	}
	if err := durable.Mkdir(to); err != nil {
		return err
	}
	base := filepath.Join(to, fmt.Sprintf("audit-%s-%d", s.side, year))
	for ext, write := range map[string]func(io.Writer) error{
		".jsonl": func(w io.Writer) error { return s.auditCopy(w, year, records) },
		".csv": func(w io.Writer) error {
			if _, err := w.Write([]byte("\ufeff")); err != nil { // Excel opens UTF-8 only with a BOM
				return err
			}
			return s.auditTable(w, records)
		},
		"-sjis.csv": func(w io.Writer) error {
			// A character that Shift_JIS lacks becomes a reference, never a loss of the rest.
			enc := encoding.HTMLEscapeUnsupported(japanese.ShiftJIS.NewEncoder()).Writer(w)
			return s.auditTable(enc, records)
		},
		".html": func(w io.Writer) error { return s.auditPage(w, year, records) },
	} {
		if err := durable.WriteFrom(base+ext, write); err != nil {
			return err
		}
		fmt.Fprintln(s.out, base+ext)
	}
	return s.audit("audit export", nil, map[string]string{"year": fmt.Sprint(year), "records": fmt.Sprint(len(records))})
}

// yearRecords are the records of a fiscal year: those of its year file once it
// is closed, else from the first to the last with its date. Records between
// them whose clock was wrong belong to them, so that the chain has no gap.
func (s *station) yearRecords(year int) ([]state.Record, error) {
	var records []state.Record
	if f, err := os.Open(s.dir.YearFile(s.side, year)); err == nil {
		defer f.Close()
		for r, err := range state.ReadAudit(f) {
			if err != nil {
				return nil, feed.NewFault(err, "H-703", "record", fmt.Sprint(r.Number))
			}
			records = append(records, r)
		}
		return records, nil
	}
	err := s.db.View(func(tx state.Tx) error {
		end := 0
		for r, err := range tx.AuditLog(1) {
			if err != nil {
				return feed.NewFault(err, "H-703", "record", fmt.Sprint(r.Number))
			}
			if state.FiscalYear(r.Time) == year {
				end = len(records) + 1
			}
			if end > 0 {
				records = append(records, r)
			}
		}
		records = records[:end]
		return nil
	})
	return records, err
}

// auditCopy is the signed year file, or the records of a year that is still open.
func (s *station) auditCopy(w io.Writer, year int, records []state.Record) error {
	b, err := os.ReadFile(s.dir.YearFile(s.side, year))
	if errors.Is(err, fs.ErrNotExist) {
		return auditLines(w, records)
	}
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func auditLines(w io.Writer, records []state.Record) error {
	for _, r := range records {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

func (s *station) auditRow(r state.Record) []string {
	var detail []string
	for _, k := range slices.Sorted(maps.Keys(r.Detail)) {
		if r.Detail[k] != "" {
			detail = append(detail, k+"="+r.Detail[k])
		}
	}
	who := r.Who
	if r.Person != "" || r.Role != "" {
		role := ""
		if r.Role != "" {
			role = s.cat.T("role.is." + r.Role)
		}
		who = fmt.Sprintf("%s %s（%s）", r.Who, r.Person, role)
	}
	return []string{fmt.Sprint(r.Number), i18n.Date(r.Time, s.cat.Language()), i18n.Date(r.Floor, s.cat.Language()), who, r.What, r.Result, strings.Join(detail, " "), r.Anchor()}
}

func (s *station) auditTable(w io.Writer, records []state.Record) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	if err := c.Write(strings.Split(s.cat.T("audit.head"), "\t")); err != nil {
		return err
	}
	for _, r := range records {
		row := s.auditRow(r)
		for i, v := range row { // a cell must not become a formula
			if v != "" && strings.ContainsRune("=+-@\t\r", rune(v[0])) {
				row[i] = "'" + v
			}
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

const auditHTML = `<!DOCTYPE html>
<html lang="{{.Lang}}"><head><meta charset="utf-8"><title>{{.Title}}</title>
<style>body{font:10.5pt/1.5 "Noto Sans CJK JP","Yu Gothic UI",Meiryo,sans-serif}table{border-collapse:collapse;width:100%}th,td{border:1px solid #888;padding:.15rem .3rem;vertical-align:top;text-align:left;font-size:8.5pt;overflow-wrap:anywhere}thead{display:table-header-group}tr{break-inside:avoid}@page{size:A4 landscape;margin:12mm}</style>
</head><body><p>{{.Side}}</p><h1>{{.Title}}</h1>
<table><thead><tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr></thead><tbody>
{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>
{{end}}</tbody></table></body></html>
`

func (s *station) auditPage(w io.Writer, year int, records []state.Record) error {
	t, err := template.New("audit").Parse(auditHTML)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, r := range records {
		rows = append(rows, s.auditRow(r))
	}
	return t.Execute(w, map[string]any{"Lang": s.cat.Language(), "Side": s.banner(), "Title": s.cat.T("audit.title", year, year-2018),
		"Head": strings.Split(s.cat.T("audit.head"), "\t"), "Rows": rows})
}
