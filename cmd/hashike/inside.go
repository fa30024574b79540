package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/all"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/mirror/web"
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
				return usageError{fmt.Errorf("--telephone: %s", a.cat.T("flag.telephone"))}
			}
			return a.with("import", inside, func(s *station) error {
				if back && s.cfg.Zone == "mynumber" { // nothing ever leaves that network on a medium
					return feed.NewFault(fmt.Errorf("--return in the My Number network: %w", feed.ErrHeld), "H-655")
				}
				err := s.importDirs(c.Context(), dirs, &o, a.out)
				if back {
					err = errors.Join(err, s.writeReturn(dirs[0]))
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

// writeReturn puts what would be typed outside on the medium: the receipt code
// of a complete state, else what lacks.
func (s *station) writeReturn(dir string) error {
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
	var current packager.Accepted
	if err := s.db.View(func(tx state.Tx) (err error) { current, _, err = packager.Current(tx); return err }); err != nil {
		return err
	}
	if err := packager.WriteReturn(s.db, dir, r, current.Number, current.Set, s.now()); err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("return.written", current.Number))
	return nil
}

// importDirs imports one bundle from its volumes and says what happened to each feed.
func (s *station) importDirs(ctx context.Context, dirs []string, c *consent, out io.Writer) error {
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
	return err
}

// printNeed shows what to bring if no volume that is still to come holds it.
func (s *station) printNeed(r mirror.ImportReport, out io.Writer) error {
	if r.Set.Number == 0 || r.Left == 0 && len(r.Feeds) > 0 && !slices.ContainsFunc(r.Feeds, func(f mirror.FeedResult) bool { return f.Outcome == mirror.FeedIncomplete }) || len(r.Needed) > 0 || r.Set.Partial() {
		return nil
	}
	n, err := packager.Lacking(s.db, s.store)
	if err == nil && !n.Empty() {
		fmt.Fprintln(out, s.cat.T("need.head", n.Number, n.Blobs))
		fmt.Fprintln(out, "  "+n.String())
		fmt.Fprintln(out, s.cat.T("need.how"))
		err = s.needPage(n, out)
	}
	return err
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
			fmt.Fprintln(a.out, a.cat.T("need.head", n.Number, n.Blobs))
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
			fmt.Fprintln(out, s.cat.T("import.paste", s.cfg.Path))
			fmt.Fprintln(out, f.Config)
		}
	}
	if r.Blocks > 0 {
		fmt.Fprintln(out, s.cat.T("import.repaired", r.Blocks))
	}
	for _, d := range r.Damaged {
		if d.Repaired {
			fmt.Fprintln(out, "  "+s.cat.T("import.worn", d.Volume, d.File))
		}
	}
	for _, dir := range r.Other {
		fmt.Fprintln(out, "  "+s.cat.T("import.other", dir))
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

// advance publishes what is due by the rings' waits.
func (s *station) advance(ctx context.Context, out io.Writer) error {
	p, err := s.publisher()
	if err != nil {
		return err
	}
	gens, err := p.Advance(ctx, s.now())
	s.printGenerations(gens, out)
	return err
}

func (s *station) printGenerations(gens []mirror.Generation, out io.Writer) {
	for _, g := range gens {
		fmt.Fprintln(out, s.cat.T("publish.done", g.Feed, g.Serial, s.cat.T("ring."+g.Ring), g.Number))
	}
}

func (a *app) publishCommand() *cobra.Command {
	var o mirror.PublishOptions
	var ring string
	c := &cobra.Command{Use: "publish [FEED…]", Short: a.cat.T("cmd.publish"), Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, names []string) error {
			return a.with("publish", inside, func(s *station) error {
				if len(names) == 0 && !o.Now && o.Late == "" {
					return s.advance(c.Context(), a.out)
				}
				setups, err := s.chosen(names)
				if err != nil {
					return err
				}
				return s.publish(c.Context(), setups, ring, o, a.out)
			})
		}}
	c.Flags().BoolVar(&o.Now, "now", false, a.cat.T("flag.now"))
	c.Flags().StringVar(&o.Late, "late", "", a.cat.T("flag.late"))
	c.Flags().StringVar(&o.Reason, "reason", "", a.cat.T("flag.reason"))
	c.Flags().StringVar(&ring, "ring", "", a.cat.T("flag.ring"))
	c.Flags().Uint64Var(&o.Serial, "serial", 0, a.cat.T("flag.serial"))
	return c
}

func (s *station) publish(ctx context.Context, setups []feed.Setup, ring string, o mirror.PublishOptions, out io.Writer) error {
	p, err := s.publisher()
	if err != nil {
		return err
	}
	o.By = s.who()
	var errs []error
	for _, f := range setups {
		gens, err := p.Publish(ctx, f.Name, ring, o)
		s.printGenerations(gens, out)
		errs = append(errs, err)
	}
	if o.Late != "" && errors.Join(errs...) == nil {
		errs = append(errs, s.release(setups, o.Late))
	}
	return errors.Join(errs...)
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
				s.printGenerations(gens, a.out)
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

func (a *app) serveCommand() *cobra.Command {
	var listen []string
	c := &cobra.Command{Use: "serve", Short: a.cat.T("cmd.serve"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("serve", inside, func(s *station) error {
			return s.serve(c.Context(), listen, nil)
		})
	}}
	c.Flags().StringSliceVar(&listen, "listen", nil, a.cat.T("flag.listen"))
	return c
}

// server builds the read path. addrs, if given, replace the config's terminal listeners.
func (s *station) server(addrs []string) (*mirror.Server, error) {
	r, err := rings(s.cfg.Rings)
	if err != nil {
		return nil, err
	}
	o := mirror.ServerOptions{Data: s.dir, Store: s.store, Feeds: s.cfg.Feeds, Rings: r, Base: s.cfg.Base, Clock: s.now, Log: s.log,
		Side: feed.Text{JA: s.sideIn("ja"), EN: s.sideIn("en")}, Contact: contact(s.cfg.Contact), Coverage: all.Coverage(), Pages: web.Pages, Line: s.lineStatus}
	for _, l := range s.cfg.Listen {
		o.Hosts = append(o.Hosts, l.Names...)
		if len(addrs) > 0 && !l.Admin {
			continue
		}
		o.Listen = append(o.Listen, mirror.Listen{Addr: l.Addr, Admin: l.Admin, TLS: l.TLS, Cert: l.Cert, Key: l.Key, Feeds: l.Feeds, Page: l.Page, Passwords: l.Login})
	}
	for i, addr := range addrs {
		o.Listen = slices.Insert(o.Listen, i, mirror.Listen{Addr: addr, Page: true})
	}
	return mirror.NewServer(o)
}

func (s *station) sideIn(lang string) string {
	c, err := i18n.Load(lang, s.cfg.Contact)
	if err != nil {
		return s.side
	}
	other := *s
	app := *s.app
	app.cat, other.app = c, &app
	return other.banner()
}

func contact(c i18n.Contact) map[string]string {
	return map[string]string{"info": c.Info, "approver": c.Approver, "incident": c.Incident, "cloud": c.Cloud, "maintainer": c.Maintainer}
}

// serve answers terminals until the context ends. ready gets the addresses.
func (s *station) serve(ctx context.Context, addrs []string, ready func([]net.Addr)) error {
	srv, err := s.server(addrs)
	if err != nil {
		return err
	}
	return srv.Run(ctx, func(at []net.Addr) {
		for _, a := range at {
			fmt.Fprintln(s.err, s.cat.T("serve.at", a.String()))
		}
		if ready != nil {
			ready(at)
		}
	})
}

// watchInbox imports every complete bundle that appears in the inbox: a folder
// that a gateway or a person fills. A folder is looked at when it has been
// still for a while; it is never changed.
func (s *station) watchInbox(ctx context.Context, still time.Duration) {
	seen := map[string]sight{}
	for {
		for _, dir := range s.inboxReady(seen, still) {
			var c consent // nobody is there to ask: what no blanket approval covers waits
			err := s.importDirs(ctx, []string{dir}, &c, s.out)
			if err == nil {
				err = errors.Join(s.advance(ctx, s.out), c.waits)
			}
			if f := faults(err); len(f) == 1 && f[0].Code == "H-623" { // not a fault yet: the rest is on its way
				fmt.Fprintln(s.out, s.cat.T("drop.waiting", f[0].Args["number"], f[0].Args["count"], f[0].Args["file"]))
				continue
			}
			if err != nil && ctx.Err() == nil {
				s.app.report(err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(still / 4):
		}
	}
}

// sight is what a folder of the inbox looked like, and since when.
type sight struct {
	stamp string
	since time.Time
	taken bool // imported in this state
}

// inboxReady lists the folders whose content has not changed for a while and
// was not yet imported in this state. seen remembers both. The files' own times
// do not say how long ago they came: copying keeps them, and the clock of the
// outside or of a medium (FAT has local time) may be ahead of ours.
func (s *station) inboxReady(seen map[string]sight, still time.Duration) []string {
	ents, err := os.ReadDir(s.dir.Inbox())
	if err != nil {
		return nil
	}
	dirs := []string{s.dir.Inbox()} // a gateway may put its files there directly
	for _, e := range ents {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(s.dir.Inbox(), e.Name()))
		}
	}
	var out []string
	for _, dir := range dirs {
		before, stamp := seen[dir], treeStamp(dir)
		if before.stamp != stamp {
			seen[dir] = sight{stamp: stamp, since: time.Now()}
			continue
		}
		approvals, _ := filepath.Glob(filepath.Join(dir, "approval-*.json"))
		if before.taken || time.Since(before.since) < still || len(approvals) == 0 && !bundleIn(dir) {
			continue
		}
		before.taken = true
		seen[dir] = before
		out = append(out, dir)
	}
	return out
}

// bundleIn reports whether a folder holds a volume, or a drop in any state.
func bundleIn(dir string) bool {
	_, err := os.Stat(filepath.Join(volumesOf(dir)[0], "index.json"))
	return err == nil || packager.IsDrop(dir)
}

// treeStamp says what is in a folder: enough to see that it changed.
func treeStamp(dir string) string {
	var files, bytes int64
	var newest time.Time
	filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if st, err := d.Info(); err == nil {
			files, bytes = files+1, bytes+st.Size()
			if st.ModTime().After(newest) {
				newest = st.ModTime()
			}
		}
		return nil
	})
	return fmt.Sprintf("%d %d %d", files, bytes, newest.UnixNano())
}

// probe acts as a terminal against a running server.
func probe(ctx context.Context, setup feed.Setup, c feed.Content, base string) ([]string, error) {
	p, ok := setup.Feed.(feed.Prober)
	if !ok {
		return nil, nil
	}
	u, err := baseURL(base, setup)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	return p.Probe(ctx, client.Do, c, u)
}
