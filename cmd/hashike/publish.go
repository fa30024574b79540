package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// advance publishes what is due by the rings' waits.
func (s *station) advance(ctx context.Context, out io.Writer) error {
	_, err := s.due(ctx, out)
	return err
}

// due is advance, and how much there was to do.
func (s *station) due(ctx context.Context, out io.Writer) (int, error) {
	p, err := s.publisher()
	if err != nil {
		return 0, err
	}
	gens, err := p.Advance(ctx, s.now())
	s.printGenerations(gens, out)
	return len(gens), err
}

func (s *station) printGenerations(gens []mirror.Generation, out io.Writer) {
	for _, g := range gens {
		ring := s.cat.T("ring." + g.Ring)
		if g.Stopped {
			fmt.Fprintln(out, s.cat.T("publish.stopped", g.Feed, ring, g.Number))
			continue
		}
		fmt.Fprintln(out, s.cat.T("publish.done", g.Feed, g.Serial, ring, g.Number))
	}
}

func (a *app) publishCommand() *cobra.Command {
	var o mirror.PublishOptions
	var ring string
	c := &cobra.Command{Use: "publish [FEED…]", Short: a.cat.T("cmd.publish"), Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, names []string) error {
			return a.with("publish", inside, func(s *station) error {
				if ring != "" {
					if err := a.ring(ring); err != nil {
						return err
					}
				}
				var n int
				var err error
				if len(names) == 0 && !o.Now && o.Late == "" {
					n, err = s.due(c.Context(), a.out)
				} else if setups, cerr := s.chosen(names); cerr != nil {
					return cerr
				} else {
					n, err = s.publish(c.Context(), setups, ring, o, a.out)
				}
				if err == nil && n == 0 {
					fmt.Fprintln(a.out, a.cat.T("publish.nothing"))
				}
				return err
			})
		}}
	c.Flags().BoolVar(&o.Now, "now", false, a.cat.T("flag.now"))
	c.Flags().StringVar(&o.Late, "late", "", a.cat.T("flag.late"))
	c.Flags().StringVar(&o.Reason, "reason", "", a.cat.T("flag.reason"))
	c.Flags().StringVar(&ring, "ring", "", a.cat.T("flag.ring"))
	c.Flags().Uint64Var(&o.Serial, "serial", 0, a.cat.T("flag.serial"))
	return c
}

func (s *station) publish(ctx context.Context, setups []feed.Setup, ring string, o mirror.PublishOptions, out io.Writer) (done int, err error) {
	p, err := s.publisher()
	if err != nil {
		return 0, err
	}
	o.By = s.who()
	var errs []error
	for _, f := range setups {
		gens, err := p.Publish(ctx, f.Name, ring, o)
		s.printGenerations(gens, out)
		done += len(gens)
		errs = append(errs, err)
	}
	if o.Late != "" && errors.Join(errs...) == nil {
		errs = append(errs, s.release(setups, o.Late))
	}
	return done, errors.Join(errs...)
}

// release ends the hold of the bundles that brought these feeds late.
func (s *station) release(setups []feed.Setup, reason string) error {
	var feeds map[string]state.FeedState
	if err := s.db.View(func(tx state.Tx) (err error) { feeds, err = tx.Feeds(); return err }); err != nil {
		return err
	}
	done := map[uint64]bool{}
	for _, f := range setups {
		n := feeds[f.Name].Bundle
		if n == 0 || done[n] {
			continue
		}
		done[n] = true
		if err := packager.Release(s.db, n, reason, s.who(), s.clock()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (a *app) rollbackCommand() *cobra.Command {
	var serial uint64
	var reason string
	c := &cobra.Command{Use: "rollback FEED", Short: a.cat.T("cmd.rollback"), Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with("rollback", inside, func(s *station) error {
				if _, err := s.cfg.Feed(args[0]); err != nil {
					return err
				}
				p, err := s.publisher()
				if err != nil {
					return err
				}
				gens, err := p.Rollback(c.Context(), args[0], serial, s.who(), reason)
				s.printGenerations(gens, a.out)
				return err
			})
		}}
	c.Flags().Uint64Var(&serial, "serial", 0, a.cat.T("flag.serial"))
	c.Flags().StringVar(&reason, "reason", "", a.cat.T("flag.reason"))
	return c
}

func (a *app) withdrawCommand() *cobra.Command {
	var reason, file string
	c := &cobra.Command{Use: "withdraw FEED", Short: a.cat.T("cmd.withdraw"), Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with("withdraw", inside, func(s *station) error {
				if _, err := s.cfg.Feed(args[0]); err != nil {
					return err
				}
				p, err := s.publisher()
				if err != nil {
					return err
				}
				gens, took, err := p.Withdraw(c.Context(), args[0], file, s.who(), reason)
				if file == "" {
					s.printGenerations(gens, a.out)
				}
				if err == nil && file != "" {
					fmt.Fprintln(a.out, a.cat.T("withdraw.file", args[0], file))
				}
				if err == nil {
					fmt.Fprintln(a.out, a.cat.T("withdraw.took", len(took)))
				}
				for _, t := range took {
					fmt.Fprintf(a.out, "  %s  %s  %s\n", i18n.Date(t.Time, a.cat.Language()), t.Terminal, t.Path)
				}
				return err
			})
		}}
	c.Flags().StringVar(&reason, "reason", "", a.cat.T("flag.reason"))
	c.Flags().StringVar(&file, "file", "", a.cat.T("flag.file"))
	return c
}
