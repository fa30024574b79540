package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/diode"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

func (a *app) diodeCommand() *cobra.Command {
	c := &cobra.Command{Use: "diode", Short: a.cat.T("cmd.diode")}
	c.AddCommand(a.diodeSendCommand(), a.diodeReceiveCommand(), a.diodeNeedCommand(), a.diodeTestCommand())
	return c
}

// diodeFlags stand above the configuration's [diode] block.
type diodeFlags struct{ d config.Diode }

func (f *diodeFlags) sender(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.d.To, "to", "", a.cat.T("flag.diodeto"))
	c.Flags().StringVar(&f.d.Rate, "rate", "", a.cat.T("flag.dioderate"))
	c.Flags().StringVar(&f.d.Profile, "profile", "", a.cat.T("flag.diodeprofile"))
	c.Flags().IntVar(&f.d.Passes, "passes", -1, a.cat.T("flag.diodepasses"))
	c.Flags().IntVar(&f.d.MTU, "mtu", 0, a.cat.T("flag.diodemtu"))
	c.Flags().IntVar(&f.d.Site, "site", 0, a.cat.T("flag.diodesite"))
}

func (f *diodeFlags) receiver(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.d.Listen, "listen", "", a.cat.T("flag.diodelisten"))
	c.Flags().StringVar(&f.d.Interface, "interface", "", a.cat.T("flag.diodeinterface"))
}

// over returns the configuration with what was typed.
func (f *diodeFlags) over(d config.Diode) config.Diode {
	for to, v := range map[*string]string{&d.To: f.d.To, &d.Rate: f.d.Rate, &d.Profile: f.d.Profile, &d.Listen: f.d.Listen, &d.Interface: f.d.Interface} {
		if v != "" {
			*to = v
		}
	}
	if f.d.Passes >= 0 {
		d.Passes = f.d.Passes
	}
	if f.d.MTU > 0 {
		d.MTU = f.d.MTU
	}
	if f.d.Site > 0 {
		d.Site = f.d.Site
	}
	return d
}

func (a *app) diodeSendCommand() *cobra.Command {
	var f diodeFlags
	var need string
	var priority int
	c := &cobra.Command{Use: "send [DIR...]", Short: a.cat.T("cmd.diode.send"), Args: cobra.ArbitraryArgs, RunE: func(c *cobra.Command, dirs []string) error {
		return a.with("diode send", outside, func(s *station) error {
			return s.diodeSend(c.Context(), f.over(s.cfg.Diode), dirs, need, priority)
		})
	}}
	f.sender(a, c)
	c.Flags().StringVar(&need, "need", "", a.cat.T("flag.diodeneed"))
	c.Flags().IntVar(&priority, "priority", 0, a.cat.T("flag.diodepriority"))
	return c
}

// lineKey is the key of the line between this side and the other.
func (s *station) lineKey(site int) (diode.Key, error) {
	if s.side == outside && site == 0 {
		paired, err := packager.PairedSites(s.dir)
		if err != nil {
			return diode.Key{}, err
		}
		if len(paired) != 1 {
			return diode.Key{}, usageError{errors.New(s.cat.T("diode.whichsite", fmt.Sprint(paired)))}
		}
		site = paired[0]
	}
	secret, err := packager.LineSecret(s.dir, s.side, site)
	if err != nil {
		return diode.Key{}, err
	}
	return diode.LineKey(secret), nil
}

// line is the outside's end, opened.
type line struct {
	d       config.Diode
	profile diode.Profile
	wire    diode.Wire
	close   func() error
	o       diode.SendOptions
}

// openLine checks the settings and opens the wire. Without a rate it refuses.
func (s *station) openLine(d config.Diode) (*line, error) {
	if d.Rate == "" || d.To == "" {
		return nil, feed.NewFault(fmt.Errorf("[diode] to %q, rate %q: %w", d.To, d.Rate, feed.ErrConfig), "H-227")
	}
	rate, err := config.Bits(d.Rate)
	if err != nil {
		return nil, usageError{err}
	}
	k, p, err := config.Shards(d.Profile)
	if err != nil {
		return nil, usageError{err}
	}
	to, err := net.ResolveUDPAddr("udp", d.To)
	if err != nil {
		return nil, usageError{err}
	}
	key, err := s.lineKey(d.Site)
	if err != nil {
		return nil, err
	}
	v6 := to.IP.To4() == nil
	shard := diode.ShardFor(d.MTU, v6)
	l := &line{d: d, profile: diode.Profile{Data: k, Parity: p, Shard: shard, Interleave: diode.InterleaveFor(k, p, shard)}}
	if err := l.profile.Check(); err != nil {
		return nil, usageError{err}
	}
	l.o = diode.SendOptions{Rate: rate, Key: key, Frame: diode.Frame, Report: func(err error) { s.app.report(s.diodeFault(err)) }}
	if v6 {
		l.o.Frame = diode.Frame6
	}
	if l.wire, l.close, err = diode.Dial(d.To, diode.Segments); err != nil {
		return nil, s.diodeFault(err)
	}
	return l, nil
}

// job scans a directory. Urgent bundles go first, then those of some feeds
// only (virus definitions), then complete ones.
func (s *station) diodeJob(dir string, l *line, priority int) (*diode.Job, error) {
	set, _ := os.ReadFile(filepath.Join(volumesOf(dir)[0], "set.json"))
	var about struct {
		Number uint64   `json:"number"`
		Urgent bool     `json:"urgent"`
		Only   []string `json:"only"`
	}
	name := filepath.Base(dir)
	if json.Unmarshal(set, &about) == nil && about.Number > 0 { // whoever receives it judges the set; here it only names it
		name = fmt.Sprint(about.Number)
	}
	t, err := diode.Scan(dir, name, l.profile)
	if err != nil {
		return nil, err
	}
	j, err := diode.NewJob(dir, t)
	if err != nil {
		return nil, err
	}
	j.Passes, j.Priority = l.d.Passes, priority
	switch {
	case priority != 0:
	case about.Urgent:
		j.Priority = 20
	case len(about.Only) > 0:
		j.Priority = 10
	}
	return j, nil
}

// volumesOf is the directory, or the volumes in it.
func volumesOf(dir string) []string {
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		if list, _ := filepath.Glob(filepath.Join(dir, "volume-*")); len(list) > 0 {
			slices.Sort(list)
			return list
		}
	}
	return []string{dir}
}

// diodeFault is what the line met, as a message.
func (s *station) diodeFault(err error) error {
	return feed.NewFault(err, "H-811")
}

// diodeSend sends directories, answers a need list, or, without either,
// watches the outbox until it is stopped.
func (s *station) diodeSend(ctx context.Context, d config.Diode, dirs []string, need string, priority int) error {
	l, err := s.openLine(d)
	if err != nil {
		return err
	}
	defer l.close()
	if len(dirs) == 0 && need == "" {
		return s.diodeOutbox(ctx, l, boxStill)
	}
	unlock, err := s.lockLine()
	if need != "" && err != nil { // the service has the line: it takes the list from the outbox
		return s.handNeed(need)
	}
	if err != nil {
		return err
	}
	defer unlock()
	jobs, err := s.diodeJobs(l, dirs, need, priority)
	if err != nil {
		return err
	}
	start := s.clock()
	l.o.Done = func(j *diode.Job, pass int) {
		fmt.Fprintln(s.out, s.cat.T("diode.pass", j.Table.Name, pass, bytesText(j.Table.Bytes)))
	}
	snd, err := diode.NewSender(l.wire, l.o)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		snd.Add(j)
	}
	if err = snd.Run(ctx, false); err != nil && ctx.Err() == nil {
		err = s.diodeFault(err)
	}
	fmt.Fprintln(s.out, s.cat.T("diode.sent", snd.Packets, bytesText(snd.Bytes), s.clock().Sub(start).Round(time.Second).String()))
	detail := map[string]string{"packets": fmt.Sprint(snd.Packets), "to": d.To}
	return errors.Join(err, s.audit("diode send", err, detail))
}

func (s *station) diodeJobs(l *line, dirs []string, need string, priority int) ([]*diode.Job, error) {
	var jobs []*diode.Job
	if need != "" {
		n, err := s.readDiodeNeed(need)
		if err != nil {
			return nil, err
		}
		if len(dirs) == 0 {
			dirs = bundlesIn(s.diodeBox())
		}
		j, err := s.answer(l, n, dirs)
		return append(jobs, j), err
	}
	for _, dir := range dirs {
		j, err := s.diodeJob(dir, l, priority)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

func (a *app) diodeReceiveCommand() *cobra.Command {
	var f diodeFlags
	var count int
	c := &cobra.Command{Use: "receive", Short: a.cat.T("cmd.diode.receive"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("diode receive", inside, func(s *station) error {
			ctx, cancel := context.WithCancel(c.Context())
			defer cancel()
			err := s.diodeReceive(ctx, f.over(s.cfg.Diode), func() {
				if count--; count == 0 {
					cancel()
				}
			})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		})
	}}
	f.receiver(a, c)
	c.Flags().IntVar(&count, "count", 0, a.cat.T("flag.diodecount"))
	return c
}

func (a *app) diodeNeedCommand() *cobra.Command {
	return &cobra.Command{Use: "need", Short: a.cat.T("cmd.diode.need"), RunE: func(*cobra.Command, []string) error {
		return a.with("diode need", inside, func(s *station) error { return s.diodeNeed() })
	}}
}

// openInlet listens, and says loudly when the kernel gives too small a buffer.
func (s *station) openInlet(d config.Diode) (diode.Inlet, diode.Buffer, error) {
	if d.Listen == "" {
		return nil, diode.Buffer{}, feed.NewFault(fmt.Errorf("[diode] listen: %w", feed.ErrConfig), "H-228")
	}
	in, b, err := diode.Listen(d.Listen, d.Interface)
	if err != nil {
		return nil, b, feed.NewFault(err, "H-811")
	}
	if b.Short() {
		fix := "sysctl -w net.core.rmem_max=" + fmt.Sprint(2*b.Wanted)
		if runtime.GOOS == "windows" {
			fix = "-"
		}
		s.app.report(feed.NewFault(fmt.Errorf("receive buffer %d of %d bytes", b.Got, b.Wanted), "H-810", "got", bytesText(int64(b.Got)), "wanted", bytesText(int64(b.Wanted)), "fix", fix))
	}
	return in, b, nil
}

func (s *station) diodeDir() string { return filepath.Join(string(s.dir), "diode") }

// diodeReceive puts what arrives together until the context ends. Each whole
// bundle appears in the inbox, from where run imports it.
func (s *station) diodeReceive(ctx context.Context, d config.Diode, arrived func()) error {
	key, err := s.lineKey(0)
	if err != nil {
		return err
	}
	in, b, err := s.openInlet(d)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := diode.NewReceiver(diode.ReceiveOptions{Dir: s.diodeDir(), Inbox: s.dir.Inbox(), Key: key, Clock: s.clock,
		Report: func(err error) { s.app.report(s.diodeFault(err)) },
		Arrived: func(f diode.Finished, dir string) {
			fmt.Fprintln(s.out, s.cat.T("diode.arrived", f.Name, bytesText(f.Bytes), dir))
			arrived()
		}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.watchSilence(ctx, r)
	return r.Run(ctx, in, b)
}

// watchSilence tells once when the line falls silent, and when it is back.
func (s *station) watchSilence(ctx context.Context, r *diode.Receiver) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	silent := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		since := r.Status().Silent(s.clock())
		if !since.IsZero() && !silent {
			s.app.report(feed.NewFault(fmt.Errorf("nothing since %s", since.Format(time.RFC3339)), "H-812", "since", since.UTC().Format(time.RFC3339)))
		}
		if since.IsZero() && silent {
			fmt.Fprintln(s.out, s.cat.T("diode.back"))
		}
		silent = !since.IsZero()
	}
}

func (a *app) diodeTestCommand() *cobra.Command {
	var f diodeFlags
	var seconds int
	c := &cobra.Command{Use: "test", Short: a.cat.T("cmd.diode.test"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("diode test", "", func(s *station) error {
			d := time.Duration(max(seconds, 1)) * time.Second
			if s.side == outside {
				return s.diodeTestSend(c.Context(), f.over(s.cfg.Diode), d)
			}
			return s.diodeTestReceive(c.Context(), f.over(s.cfg.Diode), d)
		})
	}}
	f.sender(a, c)
	f.receiver(a, c)
	c.Flags().IntVar(&seconds, "seconds", 30, a.cat.T("flag.diodeseconds"))
	return c
}

func (s *station) diodeTestSend(ctx context.Context, d config.Diode, t time.Duration) error {
	l, err := s.openLine(d)
	if err != nil {
		return err
	}
	defer l.close()
	unlock, err := s.lockLine()
	if err != nil {
		return err
	}
	defer unlock()
	snd, err := diode.NewSender(l.wire, l.o)
	if err != nil {
		return err
	}
	if err := snd.Pad(ctx, t, l.profile.Shard); err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("diode.sent", snd.Packets, bytesText(snd.Bytes), t.String()))
	return nil
}

func (s *station) diodeTestReceive(ctx context.Context, d config.Diode, t time.Duration) error {
	key, err := s.lineKey(0)
	if err != nil {
		return err
	}
	in, _, err := s.openInlet(d)
	if err != nil {
		return err
	}
	defer in.Close()
	fmt.Fprintln(s.out, s.cat.T("diode.test.waits"))
	// The sender may start a little later, and ends by itself.
	m, err := diode.Measure(ctx, in, key, t)
	if err != nil {
		return err
	}
	if m.Packets == 0 {
		return feed.NewFault(fmt.Errorf("no packet of the outside, %d of others", m.Foreign), "H-812", "since", s.clock().UTC().Format(time.RFC3339))
	}
	p := diode.Choose(m.Loss())
	fmt.Fprintln(s.out, s.cat.T("diode.test.result", m.Packets, m.Lost, fmt.Sprintf("%.4f%%", m.Loss()*100), m.Longest, m.Late, m.Foreign, m.Drops, fmt.Sprintf("%.1f", m.Rate/1e6)))
	fmt.Fprintln(s.out, s.cat.T("diode.test.profile", fmt.Sprintf("%d+%d", p.Data, p.Parity)))
	if m.Drops > 0 {
		fmt.Fprintln(s.out, s.cat.T("diode.test.drops"))
	}
	if m.Longest > int64(p.Parity*p.Interleave/2) {
		fmt.Fprintln(s.out, s.cat.T("diode.test.burst"))
	}
	return nil
}
