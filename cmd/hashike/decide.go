package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/mirror"
)

// decideCommand is a person's word on single updates. Inside it holds at once;
// outside it is an order that travels with the next bundle.
func (a *app) decideCommand() *cobra.Command {
	var w feed.Decision
	var deadline, ring, approver string
	var asJSON bool
	c := &cobra.Command{Use: "decide FEED [install|optional|detect|decline|uninstall|rule UPDATE…]", Short: a.cat.T("cmd.decide"), Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			name := "decide"
			if len(args) == 1 {
				name = "decide list"
			}
			return a.with(name, "", func(s *station) error {
				f, err := s.cfg.Feed(args[0])
				if err != nil {
					return err
				}
				if err := a.ring(ring); err != nil {
					return err
				}
				if len(args) == 1 {
					d, err := s.decidable(c.Context(), f, ring)
					if err != nil {
						return err
					}
					return s.printDecidable(d, asJSON, a.out)
				}
				if len(args) < 3 || strings.TrimSpace(w.Reason) == "" || !a.knows("action."+args[1]) {
					return usageError{errors.New(a.cat.T("decide.usage"))}
				}
				if deadline != "" {
					t, err := a.day("--deadline", deadline)
					if err != nil {
						return err
					}
					w.Deadline = t.UTC()
				}
				w.Action, w.By = args[1], s.who()
				words, err := s.wordsOn(c.Context(), f, ring, w, args[2:])
				if err != nil {
					return err
				}
				if s.side == outside {
					return s.decideOutside(f, words, approver)
				}
				p, err := s.publisher()
				if err != nil {
					return err
				}
				gens, err := p.Decide(c.Context(), f.Name, words)
				if err != nil {
					return err
				}
				for _, x := range words {
					fmt.Fprintln(a.out, a.cat.T("decide.done", f.Name, x.Subject, s.action(x.Action), s.groupName(x.Group)))
				}
				s.printGenerations(gens, a.out)
				return nil
			})
		}}
	c.Flags().StringVar(&w.Group, "group", "", a.cat.T("flag.decide.group"))
	c.Flags().StringVar(&deadline, "deadline", "", a.cat.T("flag.decide.deadline"))
	c.Flags().StringVar(&w.Reason, "reason", "", a.cat.T("flag.reason"))
	c.Flags().StringVar(&ring, "ring", "all", a.cat.T("flag.ring"))
	c.Flags().StringVar(&approver, "approver", "", a.cat.T("flag.approver"))
	c.Flags().BoolVar(&asJSON, "json", false, a.cat.T("flag.json"))
	return c
}

// decidable is what can be decided about: what a ring of the inside sees, or
// what the outside fetched last.
func (s *station) decidable(ctx context.Context, f feed.Setup, ring string) (mirror.Decidable, error) {
	if s.side == outside {
		return mirror.Preview(ctx, s.db, s.store, f, s.clock())
	}
	return mirror.Decidables(s.dir, s.store, f, ring)
}

// wordsOn finds the updates that a person means by id, by name ("KB5031234": all
// of that name) or by their whole title in either language. What is not there
// cannot be decided about, but a word on it can be taken back.
func (s *station) wordsOn(ctx context.Context, f feed.Setup, ring string, w feed.Decision, names []string) ([]feed.Decision, error) {
	if err := mirror.CheckDecisions(f, []feed.Decision{{Subject: "x", Action: w.Action}}); err != nil {
		return nil, err
	}
	d, err := s.decidable(ctx, f, ring)
	if err != nil {
		return nil, err
	}
	var out []feed.Decision
	for _, n := range names {
		var ids []string
		if w.Action == mirror.Undecided && slices.ContainsFunc(d.Decisions, func(x feed.Decision) bool { return strings.EqualFold(x.Subject, n) }) {
			ids = append(ids, strings.ToLower(n))
		}
		for _, u := range d.Updates {
			if meant(u, n) && !slices.Contains(ids, u.ID) {
				ids = append(ids, u.ID)
			}
		}
		if len(ids) == 0 {
			return nil, feed.NewFault(fmt.Errorf("%s has no update %.100q: %w", f.Name, n, feed.ErrConfig), "H-205", "name", n)
		}
		for _, id := range ids {
			x := w
			x.Subject = id
			out = append(out, x)
		}
	}
	return out, nil
}

// meant reports whether a person's text names an update.
func meant(u feed.Update, text string) bool {
	for _, name := range []string{u.ID, u.Name, u.Title.JA, u.Title.EN} {
		if name != "" && strings.EqualFold(name, strings.TrimSpace(text)) {
			return true
		}
	}
	return false
}

// decideOutside issues one order for each word.
func (s *station) decideOutside(f feed.Setup, words []feed.Decision, approver string) error {
	for _, x := range words {
		x.Subject = strings.ToLower(x.Subject)
		if err := mirror.CheckDecisions(f, []feed.Decision{x}); err != nil {
			return err
		}
		reason := x.Reason
		x.Reason, x.By = "", "" // the order says them
		o := feed.Order{Schema: 1, Kind: feed.OrderDecide, Feed: f.Name, Decision: &x, Reason: reason, Operator: s.who(), Approver: approver, Issued: s.now()}
		if err := s.issue(o, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *station) action(a string) string {
	if t := s.cat.T("action." + a); t != "action."+a {
		return t
	}
	return a
}

func (s *station) groupName(g string) string {
	if g == "" {
		return s.cat.T("ring.all")
	}
	return printable(g)
}

func (s *station) printDecidable(d mirror.Decidable, asJSON bool, out io.Writer) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(d)
	}
	lang := s.cat.Language()
	said := map[string][]string{}
	for _, x := range d.Decisions {
		said[x.Subject] = append(said[x.Subject], s.decision(x))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("decide.head"))
	for _, u := range d.Updates {
		words := said[u.ID]
		if len(words) == 0 {
			words = said["*"]
		}
		if len(words) == 0 {
			words = []string{s.action("install")}
		}
		if !u.Complete {
			words = append(words, s.cat.T("decide.incomplete"))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.ID, printable(u.Name), printable(u.Class.In(lang)), bytesText(u.Size), strings.Join(words, " / "), printable(u.Title.In(lang)))
	}
	return w.Flush()
}

// decision says one decision in a few words.
func (s *station) decision(x feed.Decision) string {
	lang := s.cat.Language()
	out := s.groupName(x.Group) + ": " + s.action(x.Action) + " (" + s.cat.T("decide.by."+x.Source)
	if x.From.After(s.now()) {
		out += s.cat.T("list.comma") + s.cat.T("decide.from", dateOr(x.From, lang))
	}
	if !x.Deadline.IsZero() {
		out += s.cat.T("list.comma") + s.cat.T("decide.deadline", dateOr(x.Deadline.Add(-time.Second), lang))
	}
	if x.Next {
		out += s.cat.T("list.comma") + s.cat.T("decide.next")
	}
	return out + ")"
}
