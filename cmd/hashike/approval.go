package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// consent is what whoever imports says about the approval of a bundle.
type consent struct {
	by        string // --approved-by
	telephone bool
	found     string // --found: how a medium that was lost came back
	waits     error  // what was imported but waits for an approver
}

// admit decides about a bundle before anything of it is stored: one whose
// medium was lost is refused without a person's word; what nobody approved is
// imported and waits.
func (s *station) admit(c *consent) func(mirror.Admission) (func(string) bool, error) {
	return func(a mirror.Admission) (func(string) bool, error) {
		if err := s.returned(c, a); err != nil {
			return nil, err
		}
		if s.cfg.Approval == "key" {
			return s.admitByKey(c, a)
		}
		// A feed without a block here is stored only: nobody needs to approve that.
		none := func(l packager.FeedLine) bool { _, err := s.cfg.Feed(l.Feed); return err != nil }
		a.Changed, a.Own = slices.DeleteFunc(a.Changed, none), slices.DeleteFunc(a.Own, none)
		var desired, own people.Approval
		var blankets []people.Blanket
		err := s.db.View(func(tx state.Tx) (err error) {
			if desired, err = approvalOf(tx, a.Bundle, a.State); err == nil {
				own, err = approvalOf(tx, a.Set.Number, a.ID)
			}
			if err == nil {
				blankets, err = people.Blankets(tx)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		covered := func(name string) bool { return s.covered(blankets, name) > 0 }
		its := func(name string) bool {
			return slices.ContainsFunc(a.Own, func(l packager.FeedLine) bool { return l.Feed == name })
		}
		// An old bundle's approval is about what it states, not about what is desired now.
		granted := func(name string) bool { return covered(name) || desired.Covers(name) || own.Covers(name) && its(name) }
		open := slices.DeleteFunc(slices.Clone(a.Own), func(l packager.FeedLine) bool { return granted(l.Feed) })
		doc := people.Approval{Bundle: a.Set.Number, Set: a.ID, Urgent: a.Set.Urgent, Feeds: a.Set.Only, Operator: s.who(), Account: s.actor.Alone(), Waits: snapshots(open)}
		switch {
		case own.How != "" && own.How != people.ByBlanket || len(a.Own) == 0:
			return granted, nil // nothing new that this bundle's approval is about
		case c.by == "" && len(open) == 0:
			if a.Standing == packager.Older {
				return granted, nil
			}
			doc.How, doc.Blanket = people.ByBlanket, s.covered(blankets, a.Own[0].Feed)
		case c.by == "":
			if c.by, err = s.askApprover(a); err != nil {
				return nil, err
			}
		}
		if c.by != "" {
			doc.By, doc.How = c.by, people.ByPaper
			if c.telephone {
				doc.How = people.ByTelephone
			}
		}
		return s.decide(c, a, doc, granted)
	}
}

// approvalOf is the approval of just this set; one of another set with the
// same number says nothing about it.
func approvalOf(tx state.Tx, bundle uint64, set feed.Digest) (people.Approval, error) {
	a, _, err := people.ApprovalOf(tx, bundle)
	if a.Set != set {
		a = people.Approval{}
	}
	return a, err
}

// decide writes down what was decided, before the bundle is stored: an import
// that is killed and repeated asks nobody twice.
func (s *station) decide(c *consent, a mirror.Admission, doc people.Approval, granted func(string) bool) (func(string) bool, error) {
	err := s.db.Update(func(tx state.Tx) error {
		if doc.How == "" {
			return people.Await(tx, doc, s.clock())
		}
		_, err := people.Approve(tx, doc, s.clock())
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case doc.How == "":
		c.waits = feed.NewFault(fmt.Errorf("bundle %d waits for an approver: %w", doc.Bundle, feed.ErrHeld), "H-646", "number", strconv.FormatUint(doc.Bundle, 10), "feed", "")
		return granted, nil
	case doc.How == people.ByBlanket:
		fmt.Fprintln(s.out, s.cat.T("approval.blanketed", doc.Bundle, doc.Blanket))
		return granted, nil
	}
	// A person's approval is about what the bundle brings, as its sheet lists it.
	return func(name string) bool {
		return granted(name) || slices.ContainsFunc(a.Own, func(l packager.FeedLine) bool { return l.Feed == name })
	}, nil
}

// admitByKey: the bundle's metadata has been verified against the root. If the
// root wants two keys for targets, an approver's signed, and that is the approval.
func (s *station) admitByKey(c *consent, a mirror.Admission) (func(string) bool, error) {
	ok := a.TargetsThreshold >= 2
	if !ok {
		c.waits = feed.NewFault(fmt.Errorf("approval = \"key\", but bundle %d needs one key only: %w", a.Bundle, feed.ErrHeld), "H-646", "number", strconv.FormatUint(a.Bundle, 10), "feed", "")
	}
	return func(string) bool { return ok }, nil
}

// covered is the blanket approval that holds for a feed here; 0 if none does.
// Only feeds of definitions can have one.
func (s *station) covered(all []people.Blanket, name string) uint64 {
	setup, err := s.cfg.Feed(name)
	if err != nil || setup.Prefer != feed.Definition {
		return 0
	}
	for _, b := range all {
		if b.Covers(name, s.now()) {
			return b.Number
		}
	}
	return 0
}

func snapshots(lines []packager.FeedLine) []people.Snapshot {
	var out []people.Snapshot
	for _, l := range lines {
		out = append(out, people.Snapshot{Feed: l.Feed, Serial: l.Serial})
	}
	return out
}

// askApprover shows what the sheet shows, and asks whose seal is on it.
func (s *station) askApprover(a mirror.Admission) (string, error) {
	if !s.typing {
		return "", nil
	}
	fmt.Fprintln(s.err, s.cat.T("import.bundle", a.Set.Number, i18n.Date(a.Set.Created, s.cat.Language())))
	fmt.Fprintln(s.err, "  "+s.cat.T("import.words", setWords(a.ID)))
	for _, l := range a.Changed {
		fmt.Fprintln(s.err, "  "+s.cat.T("approval.changed", l.Feed, l.Serial))
	}
	return s.prompt(s.cat.T("approval.ask"))
}

// returned refuses a bundle whose medium was reported lost, unless a person
// says how it came back and who approved using it.
func (s *station) returned(c *consent, a mirror.Admission) error {
	var void *feed.Order
	err := s.db.View(func(tx state.Tx) error {
		orders, err := tx.Orders()
		for _, o := range orders {
			if o.Kind == feed.OrderVoid && o.Bundle == a.Set.Number {
				void = &o
			}
		}
		return err
	})
	if err != nil || void == nil {
		return err
	}
	number := strconv.FormatUint(void.Bundle, 10)
	refused := feed.NewFault(fmt.Errorf("bundle %s was reported lost: %w", number, feed.ErrHeld), "H-605", "number", number,
		"medium", strings.Join(a.Media, " "), "reported", void.Issued.Format(time.RFC3339), "current", strconv.FormatUint(a.Was.Number, 10))
	if s.typing && c.found == "" {
		s.app.report(refused)
		if c.found, err = s.prompt(s.cat.T("media.askfound")); err != nil {
			return err
		}
		if c.found != "" && c.by == "" {
			if c.by, err = s.prompt(s.cat.T("approval.ask")); err != nil {
				return err
			}
		}
	}
	by := ""
	if c.found != "" && c.by != "" {
		err = s.db.View(func(tx state.Tx) (err error) {
			by, err = people.CheckApprover(tx, c.by, s.who(), s.actor.Alone())
			return err
		})
		if err != nil {
			return err
		}
		refused = nil
	}
	result := error(nil)
	if refused != nil {
		result = refused
	}
	return errors.Join(refused, s.audit("void bundle", result, map[string]string{"bundle": number, "medium": strings.Join(a.Media, " "), "found": c.found, "approver": by}))
}

func (a *app) approvalCommand() *cobra.Command {
	c := &cobra.Command{Use: "approval", Short: a.cat.T("cmd.approval")}
	var by string
	record := &cobra.Command{Use: "record BUNDLE --by NAME", Short: a.cat.T("cmd.approvalrecord"), Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		n, err := a.number(args[0])
		if err != nil {
			return err
		}
		return a.with("approval record", "", func(s *station) error {
			if by == "" && s.typing {
				if by, err = s.prompt(a.cat.T("approval.ask")); err != nil {
					return err
				}
			}
			if err := s.recordSheet(n, by); err != nil || s.side == outside {
				return err
			}
			return s.advance(c.Context(), a.out)
		})
	}}
	record.Flags().StringVar(&by, "by", "", a.cat.T("flag.approver"))
	var b people.Blanket
	var until, reason string
	blanket := &cobra.Command{Use: "blanket --by NAME --reason REASON", Short: a.cat.T("cmd.approvalblanket"), RunE: func(*cobra.Command, []string) error {
		return a.with("approval blanket", "", func(s *station) error {
			if until != "" {
				t, err := a.day("--until", until)
				if err != nil {
					return err
				}
				b.Until = t
			}
			return s.addBlanket(b)
		})
	}}
	blanket.Flags().StringVar(&b.By, "by", "", a.cat.T("flag.approver"))
	blanket.Flags().StringVar(&b.Reason, "reason", "", a.cat.T("flag.reason"))
	blanket.Flags().StringVar(&until, "until", "", a.cat.T("flag.until"))
	blanket.Flags().StringSliceVar(&b.Feeds, "feed", nil, a.cat.T("flag.blanketfeed"))
	end := &cobra.Command{Use: "end NUMBER", Short: a.cat.T("cmd.approvalend"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		n, err := a.number(args[0])
		if err != nil {
			return err
		}
		return a.with("approval end", "", func(s *station) error {
			err := s.db.Update(func(tx state.Tx) error { return people.EndBlanket(tx, n, reason, s.clock()) })
			if err == nil {
				fmt.Fprintln(a.out, a.cat.T("approval.ended", n))
			}
			return err
		})
	}}
	end.Flags().StringVar(&reason, "reason", "", a.cat.T("flag.reason"))
	list := &cobra.Command{Use: "list", Short: a.cat.T("cmd.approvallist"), RunE: func(*cobra.Command, []string) error {
		return a.with("approval list", "", func(s *station) error { return s.listApprovals(a.out) })
	}}
	c.AddCommand(record, blanket, end, list)
	return c
}

// recordSheet records the stamped sheet: outside of a bundle made here, inside
// of one that waits or was approved by telephone.
func (s *station) recordSheet(n uint64, by string) error {
	var known people.Approval
	err := s.db.Update(func(tx state.Tx) error {
		if s.side == outside {
			p, ok, err := packager.PackedAs(tx, n)
			if err != nil {
				return err
			}
			if old, have, err := people.ApprovalOf(tx, n); err != nil {
				return err
			} else if ok && !have {
				if err := people.Await(tx, people.Approval{Bundle: n, Set: p.Set, Urgent: p.Urgent, Operator: p.Operator, Account: p.Account}, s.clock()); err != nil {
					return err
				}
			} else if have && !old.Open() {
				known = old
				return nil
			}
		}
		a, waits, err := people.RecordSheet(tx, n, by, s.clock())
		known = a
		if err != nil {
			return err
		}
		return mirror.Approve(tx, waits)
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("approval.recorded", n, known.By))
	return nil
}

// addBlanket: of feeds of definitions and no others.
func (s *station) addBlanket(b people.Blanket) error {
	for _, name := range b.Feeds {
		setup, err := s.cfg.Feed(name)
		if err != nil {
			return err
		}
		if setup.Prefer != feed.Definition {
			return feed.NewFault(fmt.Errorf("feed %s carries no antivirus definitions: %w", name, feed.ErrConfig), "H-652", "name", name)
		}
	}
	err := s.db.Update(func(tx state.Tx) (err error) { b, err = people.AddBlanket(tx, b, s.actor, s.clock()); return err })
	if err == nil {
		fmt.Fprintln(s.out, s.cat.T("approval.blanket", b.Number, b.By, i18n.Day(b.Until.Add(-time.Second), s.cat.Language())))
	}
	return err
}

func (s *station) listApprovals(out io.Writer) error {
	var all []people.Approval
	var blankets []people.Blanket
	err := s.db.View(func(tx state.Tx) (err error) {
		if all, err = people.Approvals(tx); err != nil {
			return err
		}
		blankets, err = people.Blankets(tx)
		return err
	})
	if err != nil {
		return err
	}
	lang := s.cat.Language()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("approval.head"))
	for _, a := range all {
		how := "approval.how." + a.How
		if a.How == "" {
			how = "approval.how.none"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", a.Bundle, s.cat.T(how), a.By, i18n.Date(a.Recorded, lang), i18n.Date(a.Sheet, lang))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range blankets {
		key := "approval.inforce"
		if !b.Ended.IsZero() || !s.now().Before(b.Until) {
			key = "approval.over"
		}
		fmt.Fprintln(out, s.cat.T(key, b.Number, b.By, i18n.Day(b.Until.Add(-time.Second), lang), b.Reason))
	}
	return nil
}
