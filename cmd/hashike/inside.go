package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// rings turns the config's lists into networks and host names.
func rings(c config.Rings) (mirror.Rings, error) {
	members := func(list []string) (m mirror.Members, err error) {
		for _, v := range list {
			if _, perr := netip.ParseAddr(v); perr != nil && !strings.Contains(v, "/") {
				m.Hosts = append(m.Hosts, v)
				continue
			}
			nets, err := mirror.ParseNetworks([]string{v})
			if err != nil {
				return m, err
			}
			m.Networks = append(m.Networks, nets...)
		}
		return m, nil
	}
	test, err := members(c.Test)
	if err != nil {
		return mirror.Rings{}, err
	}
	pilot, err := members(c.Pilot)
	return mirror.Rings{Test: test, Pilot: pilot}, err
}

func (s *station) publisher() (*mirror.Publisher, error) {
	r, err := rings(s.cfg.Rings)
	if err != nil {
		return nil, err
	}
	check, err := s.scanPublish()
	if err != nil {
		return nil, err
	}
	return mirror.NewPublisher(mirror.Options{Data: s.dir, DB: s.db, Store: s.store, Feeds: s.cfg.Feeds, Clock: s.now, Rings: r,
		Keep: s.cfg.Rings.Keep, Who: s.who(), Log: s.log, Scan: check}), nil
}

func (a *app) importCommand() *cobra.Command {
	var o consent
	var back bool
	c := &cobra.Command{Use: "import DIR…", Short: a.cat.T("cmd.import"), Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, dirs []string) error {
			if o.telephone && o.by == "" {
				return a.needsWith("--telephone", "--approved-by", "flag.approvedby")
			}
			return a.with("import", inside, func(s *station) error {
				if back && s.cfg.Zone == myNumber { // nothing ever leaves that network on a medium
					return feed.NewFault(fmt.Errorf("--return in the My Number network: %w", feed.ErrHeld), "H-655")
				}
				r, err := s.importDirs(c.Context(), dirs, &o, a.out)
				if back && (err == nil || r.Taken) {
					err = errors.Join(err, s.writeReturn(r))
				}
				if err != nil {
					return err
				}
				return errors.Join(s.advance(c.Context(), a.out), o.waits)
			})
		}}
	c.Flags().StringVar(&o.by, "approved-by", "", a.cat.T("flag.approvedby"))
	c.Flags().BoolVar(&o.telephone, "telephone", false, a.cat.T("flag.telephone"))
	c.Flags().StringVar(&o.found, "found", "", a.cat.T("flag.found"))
	c.Flags().BoolVar(&back, "return", false, a.cat.T("flag.return"))
	return c
}

// writeReturn puts what would be typed outside on the medium that was just
// imported: the receipt code of a complete state, else what lacks. Only a
// medium of the bundle accepted last gets it.
func (s *station) writeReturn(from mirror.ImportReport) error {
	var current packager.Accepted
	if err := s.db.View(func(tx state.Tx) (err error) { current, _, err = packager.Current(tx); return err }); err != nil {
		return err
	}
	if !from.Taken || from.ID != current.Set {
		return feed.NewFault(fmt.Errorf("the medium is not of bundle %d, which was accepted last: %w", current.Number, feed.ErrHeld), "H-657", "number", strconv.FormatUint(current.Number, 10))
	}
	if len(from.Dirs) == 0 {
		return packager.CannotReturn("", errors.New("an image, a drop or an approval alone"))
	}
	var r packager.Return
	n, err := packager.Lacking(s.db, s.store)
	if err != nil {
		return err
	}
	if !n.Empty() {
		r.Need = n.String()
	}
	shown, err := packager.ShowReceipt(s.db, s.missing, s.who(), s.now())
	if err == nil {
		r.Receipt = shown.Code
	} else if !errors.Is(err, feed.ErrHeld) || r.Need == "" {
		return err
	}
	if err := packager.WriteReturn(s.db, from.Dirs[0], r, current.Number, current.Set, s.now()); err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("return.written", current.Number))
	return nil
}

// importDirs imports one bundle from its volumes and says what happened to each feed.
func (s *station) importDirs(ctx context.Context, dirs []string, c *consent, out io.Writer) (mirror.ImportReport, error) {
	bar := s.progress()
	setups := map[string]feed.Setup{}
	for _, f := range s.cfg.Feeds {
		setups[f.Name] = f
	}
	report, err := mirror.Import(ctx, mirror.ImportOptions{Data: s.dir, DB: s.db, Store: s.store, Feeds: setups, Verify: s.verifyInside,
		Clock: s.clock, Log: s.log, Who: s.who(), Admit: s.admit(c),
		Progress: func(p packager.Progress) { bar.step(s.cat.T("stage."+p.Stage), p.Done, p.Total) }}, dirs)
	bar.done()
	s.printImport(report, out)
	if nerr := s.printNeed(report, out); nerr != nil {
		s.app.report(nerr)
	}
	if err != nil { // pages show what went wrong; publishing refreshes them otherwise
		if p, perr := s.publisher(); perr == nil {
			err = errors.Join(err, p.WriteStatus())
		}
	}
	return report, err
}

// printNeed shows what to bring if no volume that is still to come holds it.
func (s *station) printNeed(r mirror.ImportReport, out io.Writer) error {
	if r.Set.Number == 0 || r.Left == 0 && len(r.Feeds) > 0 && !slices.ContainsFunc(r.Feeds, func(f mirror.FeedResult) bool { return f.Outcome == mirror.FeedIncomplete }) || len(r.Needed) > 0 || r.Set.Partial() {
		return nil
	}
	n, err := packager.Lacking(s.db, s.store)
	if err == nil && !n.Empty() {
		fmt.Fprintln(out, s.needHead(n))
		fmt.Fprintln(out, "  "+n.String())
		fmt.Fprintln(out, s.cat.T("need.how"))
		err = s.needPage(n, out)
	}
	return err
}

// needHead says what a need list is about: files, or everything of feeds whose
// own list is lacking.
func (s *station) needHead(n packager.Need) string {
	if n.Blobs == 0 {
		return s.cat.T("need.headfeeds", n.Number)
	}
	return s.cat.T("need.head", n.Number, n.Blobs)
}

// needCommand shows the need list again, and writes it to a file if asked.
func (a *app) needCommand() *cobra.Command {
	var file string
	c := &cobra.Command{Use: "need", Short: a.cat.T("cmd.need"), Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return a.with("need", inside, func(s *station) error {
			n, err := packager.Lacking(s.db, s.store)
			if err != nil {
				return err
			}
			if n.Empty() {
				fmt.Fprintln(a.out, a.cat.T("need.none"))
				return nil
			}
			fmt.Fprintln(a.out, s.needHead(n))
			fmt.Fprintln(a.out, "  "+n.String())
			fmt.Fprintln(a.out, a.cat.T("need.how"))
			if err := s.needPage(n, a.out); err != nil {
				return err
			}
			if file != "" {
				return os.WriteFile(file, []byte(n.String()+"\r\n"), 0o644)
			}
			return nil
		})
	}}
	c.Flags().StringVar(&file, "file", "", a.cat.T("flag.needfile"))
	return c
}

// maxShown is how many missing files a screen names; the report has them all.
const maxShown = 20

// verifyInside is verify in the words of the import engine.
func (s *station) verifyInside(ctx context.Context, setup feed.Setup, c feed.Content, prev state.FeedState) (mirror.Verdict, error) {
	v, err := s.verify(ctx, setup, c, prev)
	return mirror.Verdict{Withheld: v.Withheld, Marks: v.Marks, Weakest: v.Weakest}, err
}

func (s *station) printImport(r mirror.ImportReport, out io.Writer) {
	if r.Set.Number == 0 {
		return
	}
	lang := s.cat.Language()
	fmt.Fprintln(out, s.cat.T("import.bundle", r.Set.Number, i18n.Date(r.Set.Created, lang)))
	fmt.Fprintln(out, "  "+s.cat.T("import.words", setWords(r.ID)))
	for _, f := range r.Feeds {
		fmt.Fprintln(out, "  "+s.cat.T("import."+string(f.Outcome), f.Feed, f.Serial))
		if f.Outcome == mirror.FeedIncomplete && (len(r.Needed) > 0 || r.Set.Partial()) {
			continue // its files are on the volumes named below
		}
		for i, name := range f.Names {
			if i == maxShown {
				break
			}
			fmt.Fprintln(out, "    "+s.cat.T("import.missing", name))
		}
		if f.Missing > maxShown && len(f.Names) > 0 {
			fmt.Fprintln(out, "    "+s.cat.T("import.more", f.Missing-maxShown))
		}
		if f.Config != "" {
			fmt.Fprintln(out, s.cat.T("import.copy", f.Feed, s.cfg.Path))
			fmt.Fprintln(out, f.Config)
		}
	}
	if r.Blocks > 0 {
		fmt.Fprintln(out, s.cat.T("import.repaired", r.Blocks))
	}
	worn := "import.worn"
	if slices.ContainsFunc(r.Feeds, func(f mirror.FeedResult) bool { return f.Outcome == mirror.FeedIncomplete }) ||
		slices.ContainsFunc(r.Damaged, func(d packager.Damage) bool { return !d.Repaired }) { // not all of it is here
		worn = "import.damaged"
	}
	for _, d := range r.Damaged {
		if d.Repaired {
			fmt.Fprintln(out, "  "+s.cat.T(worn, d.Volume, d.File))
		}
	}
	for _, dir := range r.Other {
		fmt.Fprintln(out, "  "+s.cat.T("import.other", dir))
	}
	for _, w := range r.Refused {
		s.app.report(w)
	}
	if len(r.Needed) > 0 {
		var names []string
		for _, n := range r.Needed {
			names = append(names, s.cat.T("volume.of", n, r.Of))
		}
		fmt.Fprintln(out, s.cat.T("import.needed", strings.Join(names, s.cat.T("list.comma"))))
	}
	for _, name := range r.Foreign {
		fmt.Fprintln(out, "  "+s.cat.T("import.foreign", name))
	}
	for _, w := range r.Warnings {
		s.app.report(w)
	}
}
