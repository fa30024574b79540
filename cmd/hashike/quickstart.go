package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/apt"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
)

// quickPackages are small packages that security and updates suites often
// carry; those that a suite lacks are passed over.
func quickPackages() []string {
	return []string{"tzdata", "openssl", "libssl3", "curl", "libcurl4", "gzip", "xz-utils", "zlib1g", "libexpat1", "libxml2", "sudo",
		"bind9-host", "libgnutls30", "less", "wget", "rsync", "openssh-client", "ca-certificates", "libc-bin", "7zip"}
}

func (a *app) quickstartCommand() *cobra.Command {
	var once bool
	var dir, listen string
	c := &cobra.Command{Use: "quickstart", Short: a.cat.T("cmd.quickstart"), RunE: func(c *cobra.Command, _ []string) error {
		q := &quick{app: a, once: once, listen: listen}
		if dir == "" {
			tmp, err := os.MkdirTemp("", "hashike-")
			if err != nil {
				return err
			}
			dir = tmp
			if once {
				defer os.RemoveAll(tmp)
			}
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		q.dir = abs
		return q.run(c.Context())
	}}
	c.Flags().BoolVar(&once, "once", false, a.cat.T("flag.once"))
	c.Flags().StringVar(&dir, "dir", "", a.cat.T("flag.dir"))
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", a.cat.T("flag.listen"))
	return c
}

// quick is the whole main job on one machine: both sides in one directory.
type quick struct {
	*app
	dir    string
	once   bool
	listen string
	step   int
	began  time.Time
}

// say announces a step.
func (q *quick) say(key string, args ...any) {
	q.step++
	fmt.Fprintf(q.out, "\n[%d] %s\n", q.step, q.cat.T(key, args...))
	q.began = time.Now()
}

func (q *quick) took() {
	fmt.Fprintln(q.out, "    "+q.cat.T("quick.took", time.Since(q.began).Round(10*time.Millisecond)))
}

// side is the app working on one side's data directory.
func (q *quick) side(name string) *app {
	a := *q.app
	a.data = filepath.Join(q.dir, name)
	return &a
}

func (q *quick) run(ctx context.Context) error {
	feeds, err := q.setUp()
	if err != nil {
		return err
	}
	out, err := q.side(outside).open("quickstart", outside)
	if err != nil {
		return err
	}
	defer out.close()
	q.say("quick.fetch", len(feeds))
	fetchErr := out.fetch(ctx, out.cfg.Feeds, false, q.out)
	if fetchErr != nil {
		q.report(fetchErr) // named; the others go on
	}
	q.took()
	got, err := q.signers(out)
	if err != nil {
		return err
	}
	if len(got) == 0 {
		return errors.Join(fetchErr, errors.New(q.cat.T("quick.nothing")))
	}
	media := filepath.Join(q.dir, "media")
	q.say("quick.pack", media)
	if err := out.pack(ctx, packOptions{to: []string{media}, sites: []int{1}, parity: defaultParity, noScan: q.cat.T("quick.noscan")}, q.out); err != nil {
		return err
	}
	q.took()
	in, err := q.side(inside).open("quickstart", inside)
	if err != nil {
		return err
	}
	defer in.close()
	q.say("quick.import")
	if _, err := in.importDirs(ctx, []string{media}, &consent{by: q.cat.T("quick.approver")}, q.out); err != nil {
		return err
	}
	q.took()
	q.say("quick.publish")
	setups, err := in.chosen(got)
	if err != nil {
		return err
	}
	if _, err := in.publish(ctx, setups, "", mirror.PublishOptions{Now: true, Reason: "quickstart"}, q.out); err != nil {
		return err
	}
	q.took()
	return errors.Join(q.serve(ctx, in, setups), alreadyTold(fetchErr))
}

// alreadyTold keeps an error's class for the exit code without telling it twice.
func alreadyTold(err error) error {
	if err == nil {
		return nil
	}
	return toldError{err}
}

type toldError struct{ error }

func (t toldError) Unwrap() error { return t.error }

// setUp makes both sides, paired as on paper, and returns the feeds' names. A
// directory that was set up before is used as it is.
func (q *quick) setUp() ([]string, error) {
	names, blocks := q.blocks()
	if _, err := os.Stat(state.Dir(filepath.Join(q.dir, outside)).DB()); err == nil {
		q.say("quick.again", q.dir)
		return names, nil
	}
	q.say("quick.outside", filepath.Join(q.dir, outside))
	o := q.side(outside)
	sheet, err := o.initOutside(state.Dir(o.data), 1, q.cat.T("quick.name"), 0, ceremony{to: filepath.Join(q.dir, "envelopes")}, blocks...)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(q.out, indent(sheet))
	if p := aptProxy(); p != "" {
		if err := setKey(state.Dir(o.data).Config(), `proxy = "system"`, fmt.Sprintf("proxy = %q", p)); err != nil {
			return nil, err
		}
	}
	q.say("quick.inside", filepath.Join(q.dir, inside))
	i := q.side(inside)
	medium := filepath.Join(state.Dir(o.data).Outbox(), "setup-1")
	if err := i.initInside(state.Dir(i.data), medium, fingerprintOn(sheet), q.cat.T("quick.name"), blocks...); err != nil {
		return nil, err
	}
	// A trial must not stumble over a port that something else uses.
	return names, setKey(state.Dir(i.data).Config(), `addr = "127.0.0.1:8081"`, `addr = "127.0.0.1:0"`)
}

// fingerprintOn reads the digits off the set-up sheet, as a person would.
func fingerprintOn(sheet string) string {
	for line := range strings.Lines(sheet) {
		line = strings.TrimSpace(line)
		if digits := strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, line); len(digits) == 40 {
			return digits
		}
	}
	return ""
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ") + "\n"
}

// setKey changes one line of a fresh configuration.
func setKey(path, old, line string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(strings.Replace(string(b), old, line, 1)))
}

// blocks are the feeds of this machine's own apt sources.
func (q *quick) blocks() (names, blocks []string) {
	sources, own := quickSources()
	if !own {
		fmt.Fprintln(q.out, q.cat.T("quick.public", sources[0].url))
	}
	kinds := slices.IndexFunc(q.kinds, func(k feed.Kind) bool { return k.Name == "apt" })
	for _, s := range sources {
		name := "debian" + s.suite[strings.LastIndexByte(s.suite, '-'):]
		cfg := apt.Kind().Config().(*apt.Config)
		cfg.URL, cfg.Suites, cfg.Architectures, cfg.Packages = s.url, []string{s.suite}, []string{debArch()}, quickPackages()
		names = append(names, name)
		blocks = append(blocks, config.FeedBlock(name, q.kinds[kinds], cfg))
	}
	return names, blocks
}

// signers says who signed what was fetched, and returns the accepted feeds.
func (q *quick) signers(s *station) ([]string, error) {
	var feeds map[string]state.FeedState
	if err := s.db.View(func(tx state.Tx) (err error) { feeds, err = tx.Feeds(); return err }); err != nil {
		return nil, err
	}
	var got []string
	for name, f := range feeds {
		if f.Serial == 0 {
			continue
		}
		got = append(got, name)
		for e, err := range evidence(s.dir.Evidence(name, f.Serial, outside)) {
			if err != nil {
				return nil, err
			}
			if e.Signer != "" {
				fmt.Fprintln(q.out, "    "+q.cat.T("quick.signer", e.Path, e.Signer, i18n.Date(e.SignedAt, q.cat.Language())))
			}
		}
	}
	slices.Sort(got)
	return got, nil
}

// serve starts the mirror, acts as a terminal against it, and with --once stops.
func (q *quick) serve(ctx context.Context, in *station, setups []feed.Setup) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	q.say("quick.serve")
	addrs := make(chan []net.Addr, 1)
	done := make(chan error, 1)
	go func() { done <- in.serve(ctx, []string{q.listen}, func(a []net.Addr) { addrs <- a }) }()
	var base string
	select {
	case err := <-done:
		return err
	case at := <-addrs:
		base = "http://" + at[0].String()
	}
	q.say("quick.probe", base)
	for _, f := range setups {
		c, err := in.published(f.Name)
		if err != nil {
			return err
		}
		said, err := probe(ctx, f, c, base)
		for _, line := range said {
			fmt.Fprintln(q.out, "    "+line)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		fmt.Fprintln(q.out, "    "+q.cat.T("quick.proved", f.Name))
	}
	q.took()
	if q.once {
		stop()
		err := <-done
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		if err == nil {
			fmt.Fprintln(q.out, "\n"+q.cat.T("quick.ok"))
		}
		return err
	}
	q.tell(in, setups, base, q.out)
	err := <-done
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// tell prints what to type on a client, and where everything is.
func (q *quick) tell(in *station, setups []feed.Setup, base string, out io.Writer) {
	fmt.Fprintln(out)
	for _, f := range setups {
		if err := in.printClient(f, base, out); err != nil {
			q.report(err)
		}
	}
	fmt.Fprintln(out, q.cat.T("quick.where", q.dir, base))
}
