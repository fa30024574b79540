package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/all"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/mirror/web"
	"github.com/hashike/hashike/packager"
)

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
			_, err := s.importDirs(ctx, []string{dir}, &c, s.out)
			if machine(err) { // a full disk, another operation: once more after a while
				seen[dir] = sight{stamp: seen[dir].stamp, since: time.Now().Add(machineRests)}
			}
			if err == nil || superseded(err) {
				err = errors.Join(err, s.imported(dir))
			}
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

// machineRests is how long a folder waits whose import met this machine's limits.
const machineRests = 5 * time.Minute

// machine reports whether an error is this machine's and may pass.
func machine(err error) bool {
	if err == nil {
		return false
	}
	exit, _ := class(err)
	return exit == exitMachine
}

// superseded reports whether a bundle was refused only because newer ones were
// imported: of its files those were kept that still lacked.
func superseded(err error) bool {
	f := faults(err)
	return len(f) == 1 && f[0].Code == "H-503"
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
