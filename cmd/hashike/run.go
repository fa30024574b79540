package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Intervals of the daemon.
const (
	advanceEvery = time.Minute
	tellAgain    = 6 * time.Hour // the same trouble
	scrubEvery   = 24 * time.Hour
	closeEvery   = 6 * time.Hour // on or after 1 April the year that is over gets its file
	inboxStill   = 20 * time.Second
)

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{Use: "run", Short: a.cat.T("cmd.run"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("run", "", func(s *station) error {
			var err error
			if s.side == outside {
				err = s.runOutside(c.Context())
			} else {
				err = s.runInside(c.Context())
			}
			if errors.Is(err, context.Canceled) {
				return nil // asked to stop
			}
			return err
		})
	}}
}

// runOutside fetches each feed on its schedule; a second one beside it would
// ask every vendor twice.
func (s *station) runOutside(ctx context.Context) error {
	err := s.db.Lock(ctx, "run", s.scheduled)
	if errors.Is(err, state.ErrBusy) {
		return feed.NewFault(err, "H-226")
	}
	return err
}

func (s *station) scheduled(ctx context.Context) error {
	f, err := s.fetcher(nil)
	if err != nil {
		return err
	}
	defer f.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.Schedule(ctx, s.cfg.Feeds) })
	if s.cfg.Diode.To != "" {
		g.Go(func() error { s.sending(ctx); return nil })
	}
	g.Go(func() error { s.closing(ctx); return nil })
	return g.Wait()
}

// runInside serves, watches the inbox, publishes what is due and rereads the store.
func (s *station) runInside(ctx context.Context) error {
	if err := durable.Mkdir(s.dir.Inbox()); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx, nil, nil) })
	if s.cfg.Diode.Listen != "" {
		g.Go(func() error { s.hearing(ctx); return nil })
	}
	g.Go(func() error { s.closing(ctx); return nil })
	g.Go(func() error { s.watchInbox(ctx, inboxStill); return nil })
	g.Go(func() error { s.every(ctx, advanceEvery, func() error { return s.advance(ctx, s.out) }); return nil })
	g.Go(func() error {
		s.every(ctx, scrubEvery, func() error { return s.scrub(ctx, scrubShare, s.out) })
		return nil
	})
	return g.Wait()
}

// hearing receives from the diode: terminals are served whatever becomes of
// the line.
func (s *station) hearing(ctx context.Context) {
	s.again(ctx, func() error { return s.diodeReceive(ctx, s.cfg.Diode, func() {}) })
}

// sending empties the outbox into the diode: the vendors are asked whatever
// becomes of the line.
func (s *station) sending(ctx context.Context) {
	s.again(ctx, func() error {
		l, err := s.openLine(s.cfg.Diode)
		if err != nil {
			return err
		}
		defer l.close()
		return s.diodeOutbox(ctx, l, boxStill)
	})
}

// again does f until the context ends; what ends it is told, and it starts anew.
func (s *station) again(ctx context.Context, f func() error) {
	for ctx.Err() == nil {
		if err := f(); err != nil && ctx.Err() == nil {
			s.app.report(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(30 * time.Second):
		}
	}
}

// closing closes fiscal years that are over, now and from time to time.
func (s *station) closing(ctx context.Context) {
	f := func() error { return s.closeYears(0, s.out) }
	if err := f(); err != nil {
		s.app.report(err)
	}
	s.every(ctx, closeEvery, f)
}

// every repeats f; what it meets is told, and does not end the service.
func (s *station) every(ctx context.Context, d time.Duration, f func() error) {
	t := time.NewTicker(d)
	defer t.Stop()
	var told string
	var when time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			err := f()
			if err == nil {
				told = ""
			} else if ctx.Err() == nil && (err.Error() != told || time.Since(when) >= tellAgain) {
				s.app.report(err) // the same again every minute would bury everything else
				told, when = err.Error(), time.Now()
			}
		}
	}
}
