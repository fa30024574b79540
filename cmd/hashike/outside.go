package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/fetcher"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// fetcher builds the fetch engine of an outside.
func (s *station) fetcher(progress func(fetcher.Event)) (*fetcher.Fetcher, error) {
	n := fetcher.Network{Proxy: s.cfg.Network.Proxy, Allow: s.cfg.Network.Allow, PerHost: s.cfg.Network.PerHost,
		RatePerHost: s.cfg.Network.Rate, UserAgent: "Hashike/" + version()}
	for _, p := range s.cfg.Network.ExtraRoots {
		pem, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		n.ExtraRoots = append(n.ExtraRoots, pem)
	}
	return fetcher.New(fetcher.Options{Data: s.dir, DB: s.db, Store: s.store, Network: n, Clock: s.clock, Log: s.log, Progress: progress, Who: s.who(),
		Verify: func(ctx context.Context, setup feed.Setup, c feed.Content, prev state.FeedState) (fetcher.Verdict, error) {
			v, err := s.verify(ctx, setup, c, prev)
			return fetcher.Verdict{Marks: v.Marks, Withheld: v.Withheld, Weakest: v.Weakest}, err
		}})
}

// chosen resolves feed names given on the command line; none is all.
func (s *station) chosen(names []string) ([]feed.Setup, error) {
	if len(names) == 0 {
		return s.cfg.Feeds, nil
	}
	var out []feed.Setup
	for _, n := range names {
		f, err := s.cfg.Feed(n)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (a *app) fetchCommand() *cobra.Command {
	var now bool
	c := &cobra.Command{Use: "fetch [FEED…]", Short: a.cat.T("cmd.fetch"), Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, names []string) error {
			return a.with("fetch", outside, func(s *station) error {
				setups, err := s.chosen(names)
				if err != nil {
					return err
				}
				return s.fetch(c.Context(), setups, now, a.out)
			})
		}}
	c.Flags().BoolVar(&now, "now", false, a.cat.T("flag.fetchnow"))
	return c
}

// fetch runs the feeds once and prints a line for each. now forgets how long a
// vendor that refused us is to be left alone; waits it asked for itself stay.
func (s *station) fetch(ctx context.Context, setups []feed.Setup, now bool, out io.Writer) error {
	if len(setups) == 0 {
		fmt.Fprintln(out, s.cat.T("fetch.nofeeds", s.cfg.Path))
		return nil
	}
	bar := s.progress()
	f, err := s.fetcher(bar.fetch)
	if err != nil {
		return err
	}
	defer f.Close()
	if now {
		if err := f.Forgive(); err != nil {
			return err
		}
	}
	results := f.RunAll(ctx, setups)
	bar.done()
	var errs []error
	for _, r := range results {
		switch {
		case r.Err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", r.Feed, r.Err))
			fmt.Fprintln(out, s.cat.T("fetch.failed", r.Feed))
		case r.Unchanged:
			fmt.Fprintln(out, s.cat.T("fetch.unchanged", r.Feed, r.Serial))
		default:
			fmt.Fprintln(out, s.cat.T("fetch.done", r.Feed, r.Serial, r.Artifacts, bytesText(r.Bytes), r.Withheld))
		}
	}
	if err := s.printNotices(out); err != nil {
		return err
	}
	return errors.Join(errs...)
}

func (a *app) checkCommand() *cobra.Command {
	var hosts bool
	c := &cobra.Command{Use: "check", Short: a.cat.T("cmd.check"), RunE: func(*cobra.Command, []string) error {
		return a.with("check", "", func(s *station) error {
			if hosts {
				if s.side != outside {
					return feed.NewFault(feed.ErrWrongSide, "H-201", "command", "check --hosts", "side", a.cat.T("side."+s.side), "other", a.cat.T("side.outside"))
				}
				return s.printHosts(a.out)
			}
			if err := s.checkAnchors(); err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, a.cat.T("check.head"))
			for _, f := range s.cfg.Feeds {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, f.Kind.Name, f.Every, f.Mount)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			fmt.Fprintln(a.out, a.cat.T("check.ok", s.cfg.Path))
			return s.printGuard(a.out)
		})
	}}
	c.Flags().BoolVar(&hosts, "hosts", false, a.cat.T("flag.hosts"))
	return c
}

// checkAnchors looks for the vendor keys that the configuration names.
func (s *station) checkAnchors() error {
	var orders []feed.Order
	if err := s.db.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err }); err != nil {
		return err
	}
	var errs []error
	for _, f := range s.cfg.Feeds {
		errs = append(errs, f.KnowsAnchors(orders, s.now()))
	}
	return errors.Join(errs...)
}

// unnamed puts registry numbers for the persons in an order, which travels: a
// medium names nobody. names are for the log.
func (s *station) unnamed(o feed.Order) (feed.Order, map[string]string, error) {
	var names map[string]string
	err := s.db.View(func(tx state.Tx) (err error) {
		if o.Approver != "" {
			if o.Approver, err = people.CheckApprover(tx, o.Approver, s.who(), s.actor.Alone()); err != nil {
				return err
			}
		}
		names = map[string]string{"approver": o.Approver, "operator": o.Operator}
		if o.Operator, err = neutral(tx, o.Operator, people.Operator); err != nil {
			return err
		}
		if o.Approver != "" {
			o.Approver, err = neutral(tx, o.Approver, people.Approver)
		}
		return err
	})
	return o, names, err
}

// printHosts prints the permission request for the security cloud.
func (s *station) printHosts(out io.Writer) error {
	fmt.Fprintln(out, s.cat.T("hosts.title"))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("hosts.head"))
	for _, p := range fetcher.Hosts(s.cfg.Feeds) {
		fmt.Fprintf(w, "%s\t%v\t%s\n", p.Host, p.Port, p.Feed)
	}
	for _, h := range s.cfg.Network.Allow {
		fmt.Fprintf(w, "%s\t443\t%s\n", h, s.cat.T("hosts.allow"))
	}
	return w.Flush()
}

// orderCommand issues signed instructions (docs/design.md §5). They travel with
// every bundle from now on.
func (a *app) orderCommand() *cobra.Command {
	var o feed.Order
	var strength, until, anchorFile, use, keyID, floor, issuer, signedAfter string
	var rootKeys []string
	c := &cobra.Command{Use: "order trust|distrust|exception|allow-rollback|pull-back|floor", Short: a.cat.T("cmd.order"), Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with("order", outside, func(s *station) error {
				o.Schema, o.Kind, o.Operator, o.Issued = 1, feed.OrderKind(args[0]), s.who(), s.now()
				if strength != "" {
					if err := o.Strength.UnmarshalText([]byte(strength)); err != nil {
						return usageError{errors.New(a.cat.T("usage.strength", strength))}
					}
				}
				if until != "" {
					t, err := a.day("--until", until)
					if err != nil {
						return err
					}
					o.Until = t
				}
				if keyID != "" || o.Kind == feed.OrderDistrust {
					o.Distrust = &feed.Distrust{KeyID: strings.ToUpper(keyID), Digest: o.Digest, Reason: o.Reason}
				}
				var after time.Time
				if signedAfter != "" {
					t, err := a.day("--after", signedAfter)
					if err != nil {
						return err
					}
					after = t.AddDate(0, 0, -1).UTC() // its beginning
				}
				if anchorFile != "" {
					b, err := os.ReadFile(anchorFile)
					if err != nil {
						return named(anchorFile, err)
					}
					o.Anchor = &feed.NewAnchor{Name: filepath.Base(anchorFile), Use: use, Data: b, Source: filepath.Base(anchorFile)}
				}
				if floor != "" {
					t, err := time.Parse(time.RFC3339, floor)
					if err != nil {
						return usageError{errors.New(a.cat.T("usage.time", floor))}
					}
					o.Time = t
				}
				if issuer != "" || !after.IsZero() {
					if o.Distrust == nil {
						return usageError{errors.New(a.cat.T("order.issuer"))}
					}
					o.Distrust.Issuer, o.Distrust.After = issuer, after
				}
				if err := s.complete(o); err != nil {
					return err
				}
				return s.issue(o, rootKeys)
			})
		}}
	f := c.Flags()
	f.StringVar(&o.Feed, "feed", "", a.cat.T("flag.order.feed"))
	f.StringVar((*string)(&o.Digest), "digest", "", a.cat.T("flag.order.digest"))
	f.StringVar(&strength, "strength", "", a.cat.T("flag.order.strength"))
	f.StringVar(&o.Detection, "detection", "", a.cat.T("flag.order.detection"))
	f.StringVar(&o.Reason, "reason", "", a.cat.T("flag.reason"))
	f.StringVar(&o.Approver, "approver", "", a.cat.T("flag.approver"))
	f.StringVar(&until, "until", "", a.cat.T("flag.until"))
	f.StringVar(&anchorFile, "anchor", "", a.cat.T("flag.anchor"))
	f.StringVar(&use, "use", "openpgp", a.cat.T("flag.use"))
	f.StringVar(&keyID, "key", "", a.cat.T("flag.key"))
	f.StringVar(&issuer, "issuer", "", a.cat.T("flag.issuer"))
	f.StringVar(&signedAfter, "after", "", a.cat.T("flag.after"))
	f.StringVar(&floor, "time", "", a.cat.T("flag.time"))
	f.Uint64Var(&o.Serial, "serial", 0, a.cat.T("flag.serial"))
	f.StringSliceVar(&rootKeys, "root-key", nil, a.cat.T("flag.rootkey"))
	return c
}

// complete says in the reader's words what an order still lacks; feed.Order.Check
// has the last word.
func (s *station) complete(o feed.Order) error {
	exception := o.Kind == feed.OrderException
	switch {
	case !s.knows("order.kind."+string(o.Kind)) || o.Kind == feed.OrderVoid || o.Kind == feed.OrderDecide || o.Kind == feed.OrderRules:
		return usageError{errors.New(s.cat.T("order.kinds", string(o.Kind)))}
	case strings.TrimSpace(o.Reason) == "":
		return s.needs("--reason", "flag.reason")
	case exception && o.Detection != "" && o.Digest == "":
		return s.needsWith("--detection", "--digest", "flag.order.digest")
	case exception && o.Digest == "" && o.Feed == "", (o.Kind == feed.OrderRollback || o.Kind == feed.OrderPullBack) && o.Feed == "":
		return s.needs("--feed", "flag.order.feed")
	case exception && strings.TrimSpace(o.Approver) == "":
		return s.needs("--approver", "flag.approver")
	case exception && o.Approver == o.Operator:
		return usageError{errors.New(s.cat.T("order.self", o.Approver))}
	case exception && o.Until.IsZero():
		return s.needs("--until", "flag.until")
	case exception && o.Until.After(feed.FiscalYearEnd(o.Issued)):
		return usageError{errors.New(s.cat.T("order.until", i18n.Day(feed.FiscalYearEnd(o.Issued).Add(-time.Second), s.cat.Language())))}
	case o.Kind == feed.OrderTrust && o.Anchor == nil:
		return s.needs("--anchor", "flag.anchor")
	case o.Kind == feed.OrderDistrust && o.Distrust.KeyID == "" && o.Distrust.Digest == "":
		return s.needs("--key", "flag.key")
	case o.Kind == feed.OrderFloor && o.Time.IsZero():
		return s.needs("--time", "flag.time")
	}
	return nil
}

// issue numbers an order, signs and keeps it; it travels from the next bundle
// on. What neither bundle key nor approver may order is signed with root keys,
// from files or as typed.
func (s *station) issue(o feed.Order, files []string) error {
	if o.Digest != "" {
		if _, err := feed.ParseDigest(string(o.Digest)); err != nil {
			return fmt.Errorf("%w: %w", err, feed.ErrConfig)
		}
	}
	draft := o // said before anybody types 240 digits
	draft.Number = 1
	if err := draft.Check(); err != nil {
		return err
	}
	approver, err := packager.ApproverEnrolled(s.dir)
	if err != nil {
		return err
	}
	var keys []packager.RootKey
	if len(files) > 0 || packager.NeedsRoot(o.Kind) && !approver {
		if keys, err = s.rootKeysFrom(files); err != nil {
			return err
		}
	}
	var names map[string]string
	if o, names, err = s.unnamed(o); err != nil {
		return err
	}
	o, waits, err := packager.Issue(s.db, o, keys, s.who(), names, s.clock())
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("order.issued", o.Number, s.orderKind(o.Kind)))
	if waits {
		fmt.Fprintln(s.out, s.cat.T("order.waits", o.Number))
	}
	if o.Kind == feed.OrderTrust {
		fmt.Fprintf(s.out, "%s %s\n", o.Anchor.Name, feed.DigestOf(o.Anchor.Data))
	}
	return nil
}
