package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/mirror"
)

// terminalsCommand shows what terminals report. It reads the copy that serve
// leaves of its ledger and needs no server.
func (a *app) terminalsCommand() *cobra.Command {
	var asJSON, asCSV, mask bool
	days := mirror.StaleAfter
	c := &cobra.Command{Use: "terminals", Short: a.cat.T("cmd.terminals"), Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if asJSON && asCSV {
			return usageError{errors.New(a.cat.T("pack.clash", "--json --csv"))}
		}
		if days < 1 || days > 400 {
			return usageError{errors.New("--stale-days: 1-400")}
		}
		return a.with("terminals", inside, func(s *station) error {
			list, err := mirror.Terminals(s.dir)
			if err != nil {
				return err
			}
			c := mirror.Comply(list, days, s.now())
			if mask {
				if err := c.Mask(s.dir); err != nil {
					return err
				}
			}
			if err := mirror.Titles(s.dir, s.cfg.Feeds, &c); err != nil {
				return err
			}
			switch {
			case asJSON:
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				return e.Encode(c)
			case asCSV:
				return s.terminalsCSV(c, a.out)
			}
			return s.printTerminals(c, a.out)
		})
	}}
	c.Flags().BoolVar(&asJSON, "json", false, a.cat.T("flag.json"))
	c.Flags().BoolVar(&asCSV, "csv", false, a.cat.T("flag.csv"))
	c.Flags().BoolVar(&mask, "mask", false, a.cat.T("flag.mask"))
	c.Flags().IntVar(&days, "stale-days", days, a.cat.T("flag.stale"))
	return c
}

func (s *station) printTerminals(c mirror.Compliance, out io.Writer) error {
	if len(c.Terminals) == 0 {
		fmt.Fprintln(out, s.cat.T("terminals.none"))
		return nil
	}
	lang := s.cat.Language()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("terminals.groups", c.StaleDays))
	for _, g := range c.Groups {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", g.Feed, printable(g.Group), g.Terminals, g.Current, g.Behind, g.Failed, g.Pending, g.Stale, g.Unknown, g.Cloned)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(w, s.cat.T("terminals.updates"))
	for _, u := range c.Updates {
		if u.Needed+u.Failed+u.Pending > 0 {
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", u.ID, u.Needed, u.Failed, u.Pending, u.Installed, printable(u.Title.In(lang)))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(w, s.cat.T("terminals.stragglers"))
	for _, t := range c.Stragglers() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", printable(t.Name), printable(t.Group), s.standing(t), dateOr(t.Reported, lang), t.Needed, t.Failed, dateOr(t.Contact, lang), t.ID)
	}
	return w.Flush()
}

func (s *station) standing(t mirror.Standing) string {
	out := s.cat.T("terminal." + t.Standing)
	if t.Cloned {
		out += s.cat.T("list.comma") + s.cat.T("terminal.cloned")
	}
	return out
}

// printable is a text that a terminal chose, as a screen may show it.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
	if s == "" {
		return i18n.Dash
	}
	return s
}

// terminalsCSV writes one line for each terminal: UTF-8 with a mark, as Excel
// wants it, and nothing that Excel takes for a formula.
func (s *station) terminalsCSV(c mirror.Compliance, out io.Writer) error {
	if _, err := io.WriteString(out, "\xEF\xBB\xBF"); err != nil {
		return err
	}
	w := csv.NewWriter(out)
	w.UseCRLF = true
	if err := w.Write(strings.Split(s.cat.T("terminals.csv"), ",")); err != nil {
		return err
	}
	lang := s.cat.Language()
	for _, t := range c.Terminals {
		row := []string{t.Feed, t.Group, t.Name, t.ID, t.System, t.Model, s.standing(t), fmt.Sprint(t.Needed), fmt.Sprint(t.Failed), fmt.Sprint(t.Pending), fmt.Sprint(t.Installed),
			dateOr(t.Registered, lang), dateOr(t.Contact, lang), dateOr(t.Reported, lang)}
		for i := range row {
			if row[i] = strings.TrimSpace(row[i]); row[i] != "" && strings.ContainsRune("=+-@\t\r", rune(row[i][0])) {
				row[i] = "'" + row[i]
			}
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
