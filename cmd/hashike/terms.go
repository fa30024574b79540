package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
)

// maxTerms is the most bytes of a vendor's text.
const maxTerms = 16 << 20

// termsCommand: what vendors attach to their files, and who accepted it.
func (a *app) termsCommand() *cobra.Command {
	c := &cobra.Command{Use: "terms", Short: a.cat.T("cmd.terms")}
	show := &cobra.Command{Use: "show FEED", Short: a.cat.T("cmd.termsshow"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		return a.with("terms show", outside, func(s *station) error {
			setup, err := s.cfg.Feed(args[0])
			if err != nil {
				return err
			}
			return s.showTerms(setup, a.out)
		})
	}}
	var text string
	var yes bool
	accept := &cobra.Command{Use: "accept FEED", Short: a.cat.T("cmd.termsaccept"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		return a.with("terms accept", outside, func(s *station) error {
			setup, err := s.cfg.Feed(args[0])
			if err != nil {
				return err
			}
			return s.acceptTerms(setup, text, yes)
		})
	}}
	accept.Flags().StringVar(&text, "text", "", a.cat.T("flag.termstext"))
	accept.Flags().BoolVar(&yes, "yes", false, a.cat.T("flag.termsyes"))
	c.AddCommand(show, accept)
	return c
}

// showTerms prints the text, and how it stands.
func (s *station) showTerms(setup feed.Setup, out io.Writer) error {
	t, lang := setup.Terms, s.cat.Language()
	if t.None() {
		fmt.Fprintln(out, s.cat.T("terms.none", setup.Name))
		return nil
	}
	var a state.Acceptance
	if err := s.db.View(func(tx state.Tx) (err error) { a, err = tx.Accepted(setup.Name); return err }); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n\n", s.cat.T("terms.of", setup.Name))
	for line := range strings.Lines(t.Text.In(lang)) {
		fmt.Fprintln(out, printable(strings.TrimRight(line, "\r\n")))
	}
	fmt.Fprintln(out)
	if t.URL != "" {
		fmt.Fprintln(out, s.cat.T("terms.at", t.URL))
	}
	fmt.Fprintln(out, s.cat.T("terms.digest", string(t.Digest())))
	switch a.Text {
	case t.Digest():
		fmt.Fprintln(out, s.cat.T("terms.accepted", i18n.Date(a.Time, lang), a.Who))
	case "":
		fmt.Fprintln(out, s.cat.T("terms.open"))
	default:
		fmt.Fprintln(out, s.cat.T("terms.changed", i18n.Date(a.Time, lang), a.Who))
	}
	return nil
}

// acceptTerms shows the text, asks, and records the answer.
func (s *station) acceptTerms(setup feed.Setup, copyOf string, yes bool) error {
	if err := s.showTerms(setup, s.out); err != nil || setup.Terms.None() {
		return err
	}
	a := state.Acceptance{Feed: setup.Name, Text: setup.Terms.Digest(), Who: s.who(), Time: s.now()}
	if copyOf != "" {
		f, err := os.Open(copyOf)
		if err != nil {
			return named(copyOf, fmt.Errorf("--text: %w: %w", err, feed.ErrConfig))
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxTerms+1))
		if err == nil && len(b) > maxTerms {
			err = fmt.Errorf("over %d bytes", maxTerms)
		}
		if err != nil {
			return fmt.Errorf("--text %s: %w: %w", copyOf, err, feed.ErrConfig)
		}
		a.Vendor = feed.DigestOf(b)
	}
	if !yes {
		if !s.typing {
			return s.needs("--yes", "flag.termsyes")
		}
		word, err := s.prompt(s.cat.T("terms.ask"))
		if err != nil {
			return err
		}
		if word != "yes" && word != s.cat.T("yes") && word != "はい" {
			fmt.Fprintln(s.out, s.cat.T("terms.notaccepted"))
			return nil
		}
	}
	if err := s.db.Update(func(tx state.Tx) error { return tx.Accept(a) }); err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("terms.done", setup.Name, string(a.Text)))
	return nil
}
