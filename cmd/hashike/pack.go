package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

func (a *app) packCommand() *cobra.Command {
	var o packOptions
	c := &cobra.Command{Use: "pack --to DIR", Short: a.cat.T("cmd.pack"), RunE: func(c *cobra.Command, _ []string) error {
		if o.to == "" {
			return usageError{fmt.Errorf("--to: %s", a.cat.T("flag.to"))}
		}
		return a.with("pack", outside, func(s *station) error { return s.pack(c.Context(), o, a.out) })
	}}
	c.Flags().StringVar(&o.to, "to", "", a.cat.T("flag.to"))
	c.Flags().BoolVar(&o.full, "full", false, a.cat.T("flag.full"))
	c.Flags().Uint64Var(&o.base, "base", 0, a.cat.T("flag.packbase"))
	c.Flags().StringVar(&o.clock, "clock-checked", "", a.cat.T("flag.clock"))
	c.Flags().IntVar(&o.site, "site", 1, a.cat.T("flag.site"))
	return c
}

type packOptions struct {
	to    string
	full  bool
	base  uint64 // a bundle number the inside is known to hold; 0 is the recorded base
	site  int
	clock string // why a clock long after every vendor's signature is right
}

// pack writes one bundle of everything accepted on this outside.
func (s *station) pack(ctx context.Context, o packOptions, out io.Writer) error {
	to, err := filepath.Abs(o.to)
	if err != nil {
		return err
	}
	if err := durable.Mkdir(to); err != nil {
		return err
	}
	p := packager.PackOptions{Data: s.dir, DB: s.db, Store: s.store, Sites: []int{o.site}, To: to, Now: s.clock(), Who: who(), ClockChecked: o.clock,
		Validity: time.Duration(s.cfg.Bundle.ExpiryDays) * 24 * time.Hour}
	if p.Feeds, p.NewestSigned, err = s.carries(); err != nil {
		return err
	}
	err = s.db.View(func(tx state.Tx) error {
		var err error
		if p.Orders, err = tx.Orders(); err != nil {
			return err
		}
		if o.full {
			return nil
		}
		p.Base, err = base(tx, o)
		return err
	})
	if err != nil {
		return err
	}
	bar := s.progress()
	p.Progress = func(e packager.Progress) { bar.step(s.cat.T("stage."+e.Stage), e.Done, e.Total) }
	r, err := packager.Pack(ctx, p)
	bar.done()
	if err != nil {
		return err
	}
	lang := s.cat.Language()
	fmt.Fprintln(out, s.cat.T("pack.done", r.Number, to, r.Blobs, bytesText(r.BlobBytes), r.Known))
	fmt.Fprintln(out, s.cat.T("pack.expires", i18n.Date(r.Expires, lang)))
	sh, err := s.carrySheet(r, p.Feeds)
	if err != nil {
		return err
	}
	if err := s.writeSheet(sh, r.Number, out); err != nil {
		return err
	}
	if r.RootWarns != 0 {
		fmt.Fprintln(out, s.cat.T("keys.expiry", s.cat.T("keys.root"), i18n.Date(r.RootEnds, lang)))
	}
	return nil
}

// base is what the next bundle is computed from: the bundle named, else the
// site's recorded base; nil is a complete bundle.
func base(tx state.Tx, o packOptions) (*packager.Packed, error) {
	if o.base != 0 {
		p, ok, err := packager.PackedAs(tx, o.base)
		if err == nil && !ok {
			err = feed.NewFault(fmt.Errorf("bundle %d: %w", o.base, feed.ErrConfig), "H-205", "name", fmt.Sprint(o.base))
		}
		return &p, err
	}
	p, ok, err := packager.Base(tx, []int{o.site})
	if err != nil || !ok {
		return nil, err
	}
	return &p, nil
}

// carries lists what was accepted, and the newest time a vendor's signature
// among it proves: an outside whose clock contradicts that must not sign.
func (s *station) carries() (out []packager.Carry, newest time.Time, err error) {
	var feeds map[string]state.FeedState
	if err := s.db.View(func(tx state.Tx) (err error) { feeds, err = tx.Feeds(); return err }); err != nil {
		return nil, newest, err
	}
	names := make([]string, 0, len(feeds))
	for n, f := range feeds {
		if f.Serial != 0 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if _, err := s.cfg.Feed(n); err != nil {
			continue // no longer configured: no longer desired
		}
		snap, err := s.store.Snapshot(n, feeds[n].Serial)
		if err != nil {
			return nil, newest, fmt.Errorf("feed %s: %w", n, err)
		}
		at := s.dir.Evidence(n, feeds[n].Serial, outside)
		out = append(out, packager.Carry{Snapshot: snap, Evidence: at})
		signed, err := newestSigned(at)
		if err != nil {
			return nil, newest, fmt.Errorf("feed %s: %w", n, err)
		}
		if signed.After(newest) {
			newest = signed
		}
	}
	return out, newest, nil
}

// newestSigned is the newest signing time in an evidence document.
func newestSigned(path string) (time.Time, error) {
	var newest time.Time
	for e, err := range evidence(path) {
		if err != nil {
			return newest, err
		}
		if e.SignedAt.After(newest) {
			newest = e.SignedAt
		}
	}
	return newest, nil
}
