package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/text/width"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

func (a *app) mediaCommand() *cobra.Command {
	c := &cobra.Command{Use: "media", Short: a.cat.T("cmd.media")}
	// act is one change of the ledger, said in one line.
	act := func(use, name, done string, f func(s *station, tx state.Tx, number string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: a.cat.T("cmd.media" + name), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return a.with("media "+name, outside, func(s *station) error {
				number := mediumTyped(args[0])
				err := s.db.Update(func(tx state.Tx) error { return f(s, tx, number) })
				if err == nil {
					fmt.Fprintln(a.out, a.cat.T(done, number))
				}
				return err
			})
		}}
	}
	var m packager.Medium
	add := act("add NUMBER", "add", "media.added", func(s *station, tx state.Tx, number string) error {
		m.Number = number
		return packager.AddMedium(tx, m, s.clock())
	})
	add.Flags().StringVar(&m.Product, "product", "", a.cat.T("flag.product"))
	add.Flags().BoolVar(&m.Encrypted, "encrypted", false, a.cat.T("flag.encrypted"))
	var l packager.Loan
	out := act("out NUMBER --borrower NAME", "out", "media.out", func(s *station, tx state.Tx, number string) error {
		return packager.LendMedium(tx, number, s.loan(tx, l), 0, false, "", s.clock())
	})
	loanFlags(a, out, &l)
	var found, witness, reason string
	in := act("in NUMBER", "in", "media.in", func(s *station, tx state.Tx, number string) error {
		return packager.ReturnMedium(tx, number, found, s.clock())
	})
	in.Flags().StringVar(&found, "found", "", a.cat.T("flag.found"))
	wiped := act("wiped NUMBER", "wiped", "media.wiped", func(s *station, tx state.Tx, number string) error {
		return packager.WipeMedium(tx, number, s.clock())
	})
	disposed := act("disposed NUMBER --witness NAME", "disposed", "media.disposed", func(s *station, tx state.Tx, number string) error {
		return packager.DisposeMedium(tx, number, witness, s.actor, s.clock())
	})
	disposed.Flags().StringVar(&witness, "witness", "", a.cat.T("flag.witness"))
	lost := &cobra.Command{Use: "lost NUMBER --reason REASON", Short: a.cat.T("cmd.medialost"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		if strings.TrimSpace(reason) == "" {
			return a.needs("--reason", "flag.reason")
		}
		return a.with("media lost", outside, func(s *station) error { return s.loseMedium(mediumTyped(args[0]), reason, a.out) })
	}}
	lost.Flags().StringVar(&reason, "reason", "", a.cat.T("flag.reason"))
	list := &cobra.Command{Use: "list", Short: a.cat.T("cmd.medialist"), RunE: func(*cobra.Command, []string) error {
		return a.with("media list", outside, func(s *station) error { return s.listMedia(a.out) })
	}}
	c.AddCommand(add, list, out, in, lost, wiped, disposed)
	return c
}

func loanFlags(a *app, c *cobra.Command, l *packager.Loan) {
	c.Flags().StringVar(&l.Borrower, "borrower", "", a.cat.T("flag.borrower"))
	c.Flags().StringVar(&l.Department, "department", "", a.cat.T("flag.department"))
	c.Flags().StringVar(&l.Purpose, "purpose", "", a.cat.T("flag.purpose"))
}

// mediumTyped is a number as typed: width and case do not count.
func mediumTyped(s string) string { return strings.ToUpper(strings.TrimSpace(width.Narrow.String(s))) }

// loan fills what nobody typed: whoever is registered and takes it out himself.
func (s *station) loan(tx state.Tx, l packager.Loan) packager.Loan {
	if l.Borrower == "" {
		l.Borrower = s.actor.Person
	}
	if p, ok, err := people.Find(tx, l.Borrower); err == nil && ok && l.Department == "" {
		l.Department = p.Department
	}
	return l
}

// neutral is what stands for a person in a signed order, which travels: a
// number of the registry, else the role's own word. The log has the name.
func neutral(tx state.Tx, name string, role people.Role) (string, error) {
	p, ok, err := people.Find(tx, name)
	if err != nil || !ok {
		return string(role), err
	}
	return fmt.Sprintf("P%d", p.Number), nil
}

// loseMedium voids what was on the medium and says what a finder learns.
func (s *station) loseMedium(number, reason string, out io.Writer) error {
	var m packager.Medium
	var o *feed.Order
	var p packager.Packed
	err := s.db.Update(func(tx state.Tx) error {
		tag, err := neutral(tx, s.actor.Person, people.Operator)
		if err != nil {
			return err
		}
		if m, o, err = packager.LoseMedium(tx, number, reason, tag, s.now()); err != nil {
			return err
		}
		p, _, err = packager.PackedAs(tx, m.Bundle)
		return err
	})
	if err != nil {
		return err
	}
	lang := s.cat.Language()
	fmt.Fprintln(out, s.cat.T("media.lost", number))
	if o == nil {
		fmt.Fprintln(out, s.cat.T("media.lostempty"))
		return nil
	}
	fmt.Fprintln(out, s.cat.T("media.void", m.Bundle, o.Number))
	fmt.Fprintln(out, s.cat.T("media.finder", i18n.Date(p.Created, lang), bytesText(p.Bytes)))
	for _, l := range p.Feeds {
		fmt.Fprintln(out, "  "+s.cat.T("media.learns", l.Feed, l.Kind, l.Serial))
	}
	key := "media.plain"
	if m.Encrypted {
		key = "media.encrypted"
	}
	fmt.Fprintln(out, s.cat.T(key))
	fmt.Fprintln(out, s.cat.T("media.again"))
	return nil
}

func (s *station) listMedia(out io.Writer) error {
	var all []packager.Medium
	if err := s.db.View(func(tx state.Tx) (err error) { all, err = packager.Media(tx); return err }); err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(out, s.cat.T("media.none"))
		return nil
	}
	lang := s.cat.Language()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("media.head"))
	for _, m := range all {
		encrypted := s.cat.T("unknown")
		if m.Encrypted {
			encrypted = s.cat.T("yes")
		}
		bundle := s.cat.T("unknown")
		if m.Bundle > 0 {
			bundle = fmt.Sprint(m.Bundle)
		}
		who := strings.TrimSpace(m.Department + " " + m.Borrower)
		if m.Status == packager.MediumDisposed {
			who = m.Witness
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Number, m.Product, encrypted, s.cat.T("media.is."+m.Status), bundle, who,
			i18n.Date(m.Out, lang), i18n.Date(m.In, lang), i18n.Date(m.Erased, lang))
	}
	return w.Flush()
}

// numbered finds the registered number of every medium that pack will write:
// as typed, else as the medium itself says, else by asking. A town that
// registers no media is not asked.
func (s *station) numbered(o *packOptions, to []string) error {
	var ledger []packager.Medium
	if err := s.db.View(func(tx state.Tx) (err error) { ledger, err = packager.Media(tx); return err }); err != nil {
		return err
	}
	for i, dir := range to {
		on, err := packager.LookAt(dir)
		if err != nil {
			return err
		}
		if i >= len(o.media) {
			number := on.Medium
			if !slices.ContainsFunc(ledger, func(m packager.Medium) bool { return m.Number == number }) {
				number = ""
			}
			if number == "" && len(ledger) > 0 && s.typing {
				if number, err = s.whichMedium(dir, ledger); err != nil {
					return err
				}
			}
			if number == "" && len(ledger) > 0 {
				return feed.NewFault(fmt.Errorf("%s: which medium is it? %w", dir, feed.ErrConfig), "H-647", "medium", dir)
			}
			if number == "" {
				return s.cameBack(o, "", on)
			}
			o.media = append(o.media, number)
		}
		if o.media[i] = mediumTyped(o.media[i]); !packager.ValidMedium(o.media[i]) {
			return feed.NewFault(fmt.Errorf("medium number %.20q: %w", o.media[i], feed.ErrConfig), "H-647", "medium", o.media[i])
		}
		if number := o.media[i]; on.Medium != "" && on.Medium != number {
			return feed.NewFault(fmt.Errorf("%s says that it is %s, not %s: %w", dir, on.Medium, number, feed.ErrConfig), "H-665", "medium", number, "found", on.Medium, "dir", dir)
		}
		if err := s.cameBack(o, o.media[i], on); err != nil {
			return err
		}
	}
	return nil
}

// whichMedium asks for the number on the label until it is a registered one; an
// empty line ends it.
func (s *station) whichMedium(dir string, ledger []packager.Medium) (string, error) {
	for {
		typed, err := s.prompt(s.cat.T("media.ask", dir))
		number := mediumTyped(typed)
		if err != nil || number == "" || slices.ContainsFunc(ledger, func(m packager.Medium) bool { return m.Number == number }) {
			return number, err
		}
		s.app.report(feed.NewFault(fmt.Errorf("%s: no such medium: %w", number, feed.ErrConfig), "H-647", "medium", typed))
	}
}

// lost reports whether an error says that a medium was reported lost.
func lost(err error) bool {
	f, ok := errors.AsType[*feed.Fault](err)
	return ok && f.Code == "H-648" && f.Args["state"] == packager.MediumLost
}

// cameBack asks about a medium that was reported lost, before it is written again.
func (s *station) cameBack(o *packOptions, number string, on packager.OnMedium) error {
	check := func(tx state.Tx) error {
		if number != "" {
			if _, err := packager.MayWrite(tx, number, o.found); err != nil {
				return err
			}
		}
		void, err := packager.Void(tx, on.Bundle)
		if err == nil && void && o.found == "" {
			err = feed.NewFault(fmt.Errorf("the medium holds bundle %d, which was reported lost: %w", on.Bundle, feed.ErrHeld), "H-648", "medium", number, "state", packager.MediumLost)
		}
		return err
	}
	err := s.db.View(check)
	if lost(err) && s.typing && o.found == "" {
		s.app.report(err)
		if o.found, err = s.prompt(s.cat.T("media.askfound")); err == nil {
			err = s.db.View(check)
		}
	}
	if err != nil || o.found == "" || number == "" {
		return err
	}
	return s.db.Update(func(tx state.Tx) error { return packager.ReturnMedium(tx, number, o.found, s.clock()) })
}

// lend records what pack wrote on which medium, and who takes it.
func (s *station) lend(o *packOptions, to []string, r packager.Report) error {
	return s.db.Update(func(tx state.Tx) error {
		o.lent = s.loan(tx, o.lent)
		if o.lent.Purpose == "" {
			o.lent.Purpose = s.cat.T("sheet.purpose.is")
		}
		for i, number := range o.media {
			erased := slices.ContainsFunc(r.Erased, func(e packager.Erased) bool { return i < len(to) && e.Dir == to[i] })
			if err := packager.LendMedium(tx, number, o.lent, r.Number, erased, o.found, s.clock()); err != nil {
				return err
			}
		}
		return nil
	})
}
