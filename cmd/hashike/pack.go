package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

func (a *app) packCommand() *cobra.Command {
	var o packOptions
	c := &cobra.Command{Use: "pack --to DIR", Short: a.cat.T("cmd.pack"), RunE: func(c *cobra.Command, _ []string) error {
		if pair, clash := o.clash(); clash {
			return usageError{errors.New(a.cat.T("pack.clash", pair))}
		}
		if o.drop != "" {
			o.to = []string{o.drop}
		}
		if len(o.to) == 0 {
			return a.needs("--to", "flag.to")
		}
		return a.with("pack", outside, func(s *station) error {
			if o.dry {
				return s.pack(c.Context(), o, a.out)
			}
			return s.ontoMedia(o.to, func() error { return s.pack(c.Context(), o, a.out) })
		})
	}}
	c.Flags().StringArrayVar(&o.to, "to", nil, a.cat.T("flag.to"))
	c.Flags().StringVar(&o.size, "volume-size", "", a.cat.T("flag.volume"))
	c.Flags().IntVar(&o.parity, "parity", defaultParity, a.cat.T("flag.parity"))
	c.Flags().BoolVar(&o.dry, "dry-run", false, a.cat.T("flag.packdry"))
	c.Flags().IntVar(&o.rate, "rate", defaultRate, a.cat.T("flag.rate"))
	c.Flags().StringVar(&o.need, "need", "", a.cat.T("flag.need"))
	c.Flags().BoolVar(&o.full, "full", false, a.cat.T("flag.full"))
	c.Flags().Uint64Var(&o.base, "base", 0, a.cat.T("flag.packbase"))
	c.Flags().StringVar(&o.clock, "clock-checked", "", a.cat.T("flag.clock"))
	c.Flags().StringSliceVar(&o.feeds, "feed", nil, a.cat.T("flag.packfeed"))
	c.Flags().BoolVar(&o.urgent, "urgent", false, a.cat.T("flag.urgent"))
	c.Flags().StringArrayVar(&o.media, "medium", nil, a.cat.T("flag.medium"))
	c.Flags().StringVar(&o.lent.Borrower, "borrower", "", a.cat.T("flag.borrower"))
	c.Flags().StringVar(&o.lent.Department, "department", "", a.cat.T("flag.department"))
	c.Flags().StringVar(&o.lent.Purpose, "purpose", "", a.cat.T("flag.purpose"))
	c.Flags().StringVar(&o.found, "found", "", a.cat.T("flag.found"))
	c.Flags().StringVar(&o.drop, "drop", "", a.cat.T("flag.drop"))
	c.Flags().StringVar(&o.dropExt, "drop-ext", "dat", a.cat.T("flag.dropext"))
	c.Flags().IntVar(&o.repeat, "repeat", 1, a.cat.T("flag.repeat"))
	c.Flags().StringVar(&o.piece, "piece-size", "", a.cat.T("flag.piece"))
	c.Flags().BoolVar(&o.iso, "iso", false, a.cat.T("flag.iso"))
	c.Flags().StringVar(&o.noScan, "no-scan-reason", "", a.cat.T("flag.noscan"))
	c.Flags().IntSliceVar(&o.sites, "site", nil, a.cat.T("flag.packsite"))
	c.Flags().BoolVar(&o.allSites, "all-sites", false, a.cat.T("flag.allsites"))
	return c
}

type packOptions struct {
	to       []string
	size     string // of a volume, as typed
	parity   int    // per cent
	dry      bool
	rate     int    // megabytes per second
	need     string // a need list as typed, or the file that holds it
	full     bool
	base     uint64 // a bundle number the inside is known to hold; 0 is the recorded base
	feeds    []string
	urgent   bool
	media    []string // registered numbers, in the order of to
	lent     packager.Loan
	found    string // how a lost medium came back
	sites    []int  // none is the only one there is
	drop     string // a directory for plain files with neutral names
	dropExt  string // their extension
	repeat   int    // how often each is written
	piece    string // largest of them, as typed
	iso      bool   // an image of each volume instead of directories
	noScan   string // why nothing is scanned for malware
	allSites bool
	clock    string // why a clock long after every vendor's signature is right
}

// clash names two flags that exclude each other.
func (o *packOptions) clash() (string, bool) {
	for _, p := range []struct {
		pair string
		both bool
	}{
		{"--drop, --to", o.drop != "" && len(o.to) > 0}, {"--drop, --iso", o.drop != "" && o.iso}, {"--drop, --volume-size", o.drop != "" && o.size != ""},
		{"--site, --all-sites", len(o.sites) > 0 && o.allSites}, {"--full, --base", o.full && o.base != 0},
	} {
		if p.both {
			return p.pair, true
		}
	}
	return "", false
}

// pack writes one bundle of everything accepted on this outside.
func (s *station) pack(ctx context.Context, o packOptions, out io.Writer) error {
	p, to, err := s.prepare(&o)
	if err != nil {
		return err
	}
	if o.dry {
		return s.estimate(ctx, p, o, out)
	}
	if s.onMedia(o) {
		if err := s.numbered(&o, to); err != nil {
			return err
		}
	}
	p.Media = o.media
	if err := s.rulesTravel(); err != nil {
		return err
	}
	if o.iso {
		if err := s.isoFits(ctx, p, o.to[0]); err != nil {
			return err
		}
	}
	scanned, err := s.scanPack(&p, o.noScan)
	if err != nil {
		return err
	}
	if err := s.keepReturns(append([]string{p.To}, p.More...), out); err != nil {
		return err
	}
	bar := s.progress()
	p.Progress = func(e packager.Progress) { bar.step(s.cat.T("stage."+e.Stage), e.Done, e.Total) }
	r, err := packager.Pack(ctx, p)
	bar.done()
	if err != nil {
		return err
	}
	to, dropped, err := s.deliver(ctx, &r, o, to)
	if err != nil {
		return err
	}
	s.printPacked(r, to, out)
	if err := s.lend(&o, to, r); err != nil {
		return err
	}
	if o.urgent {
		if err := s.awaitApproval(r, out); err != nil {
			return err
		}
	}
	return s.packPapers(r, p.Feeds, o, *scanned, dropped, out)
}

// deliver makes a drop or images of what was packed in a directory beside. A
// bundle that got no further was logged as made: its failure is logged too.
func (s *station) deliver(ctx context.Context, r *packager.Report, o packOptions, to []string) (at []string, dropped []packager.DropFile, err error) {
	switch {
	case o.drop != "":
		to = o.to
		dropped, err = s.toDrop(ctx, *r, o)
	case o.iso:
		to, err = s.images(ctx, r, o.to[0])
	}
	if err != nil {
		err = errors.Join(err, s.audit("pack", err, map[string]string{"bundle": strconv.FormatUint(r.Number, 10), "at": o.to[0]}))
	}
	return to, dropped, err
}

// keepReturns saves what came back on the media and nobody took: packing removes it.
func (s *station) keepReturns(to []string, out io.Writer) error {
	for _, dir := range to {
		kept, err := packager.KeepReturns(s.db, dir)
		for _, at := range kept {
			fmt.Fprintln(out, s.cat.T("pack.return", dir, at))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// onMedia reports whether what is written lies on something that a person
// carries and the ledger may know: a drop goes to an appliance, what is below
// the outbox to a diode.
func (s *station) onMedia(o packOptions) bool {
	if len(o.media) > 0 || o.iso {
		return true
	}
	return o.drop == "" && slices.ContainsFunc(o.to, func(dir string) bool {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return true
		}
		rel, err := filepath.Rel(s.dir.Outbox(), abs)
		return err != nil || rel == "." || !filepath.IsLocal(rel)
	})
}

// prepare reads the flags: what is packed, and where it is written. An image
// and a drop are made from a directory beside.
func (s *station) prepare(o *packOptions) (p packager.PackOptions, to []string, err error) {
	if to, err = directories(o.to, o.dry); err != nil {
		return p, nil, err
	}
	size, err := volumeSize(o.size)
	if err != nil {
		return p, nil, usageError{fmt.Errorf("--volume-size %s: %s", o.size, s.cat.T("flag.volume"))}
	}
	if o.sites, err = s.sites(*o); err != nil {
		return p, nil, err
	}
	if o.iso {
		if to[0], size, err = s.isoStage(*o, size); err != nil {
			return p, nil, err
		}
	}
	if o.drop != "" {
		if to[0], err = s.dropStage(*o); err != nil {
			return p, nil, err
		}
	}
	p = packager.PackOptions{Data: s.dir, DB: s.db, Store: s.store, Sites: o.sites, To: to[0], More: to[1:], VolumeSize: size, Parity: o.parity, Now: s.clock(), Who: s.who(), Account: s.actor.Alone(), ClockChecked: o.clock,
		Validity: time.Duration(s.cfg.Bundle.ExpiryDays) * 24 * time.Hour}
	if o.piece != "" {
		if p.PieceSize, err = pieceSize(o.piece); err != nil {
			return p, nil, usageError{fmt.Errorf("--piece-size %s: %s", o.piece, s.cat.T("flag.piece"))}
		}
	}
	return p, to, s.choose(&p, o)
}

// printPacked says what was written.
func (s *station) printPacked(r packager.Report, to []string, out io.Writer) {
	if len(r.Sites) > 1 {
		fmt.Fprintln(out, s.cat.T("pack.sites", strings.Trim(fmt.Sprint(r.Sites), "[]")))
	}
	fmt.Fprintln(out, s.cat.T("pack.done", r.Number, strings.Join(to, s.cat.T("list.comma")), r.Blobs, bytesText(r.BlobBytes), r.Known))
	if r.Volumes > 1 {
		fmt.Fprintln(out, s.cat.T("pack.volumes", r.Volumes))
		for i, dir := range r.Dirs {
			fmt.Fprintf(out, "  %s  %s\n", s.cat.T("volume.of", i+1, r.Volumes), dir)
		}
	}
	s.printCover(r.Cover, r.Volumes, out)
	fmt.Fprintln(out, s.cat.T("pack.expires", i18n.Date(r.Expires, s.cat.Language())))
	if r.Approval {
		fmt.Fprintln(out, s.cat.T("pack.approval"))
	}
	for _, n := range r.Waiting {
		fmt.Fprintln(out, s.cat.T("pack.waiting", n))
	}
}

// awaitApproval keeps an urgent bundle red until its stamped sheet is recorded.
func (s *station) awaitApproval(r packager.Report, out io.Writer) error {
	err := s.db.Update(func(tx state.Tx) error {
		return people.Await(tx, people.Approval{Bundle: r.Number, Set: r.Set, Urgent: true, Operator: r.Operator, Account: r.Account}, s.clock())
	})
	if err == nil {
		fmt.Fprintln(out, s.cat.T("pack.urgent", r.Number))
	}
	return err
}

// packPapers prints the carry sheet, and the hash sheet of a drop.
func (s *station) packPapers(r packager.Report, feeds []packager.Carry, o packOptions, v checked, dropped []packager.DropFile, out io.Writer) error {
	fmt.Fprintln(out, s.cat.T("pack.scan", v.Value))
	for _, l := range v.Lines {
		fmt.Fprintln(out, "  "+l)
	}
	sh, err := s.carrySheet(r, feeds, o, v)
	if err != nil {
		return err
	}
	if err := s.writeSheet(sh, r.Number, out); err != nil {
		return err
	}
	if o.drop != "" {
		if err := s.hashSheet(sh, r, dropped, out); err != nil {
			return err
		}
	}
	if r.RootWarns != 0 {
		fmt.Fprintln(out, s.cat.T("keys.expiry", s.cat.T("keys.root"), i18n.Date(r.RootEnds, s.cat.Language())))
	}
	return nil
}

const (
	defaultParity = 10 // per cent
	defaultRate   = 20 // megabytes per second: an ordinary USB stick, written and read
)

// estimate says what pack would do.
func (s *station) estimate(ctx context.Context, p packager.PackOptions, o packOptions, out io.Writer) error {
	e, err := packager.Preflight(ctx, p)
	if e.Volumes > 0 {
		fmt.Fprintln(out, s.cat.T("pack.dry", e.Volumes, bytesText(e.Bytes), e.Blobs, e.Known))
		for i, n := range e.PerVolume {
			fmt.Fprintf(out, "  %s  %s\n", s.cat.T("volume.of", i+1, e.Volumes), bytesText(n))
		}
		fmt.Fprintln(out, s.cat.T("pack.minutes", e.Minutes(int64(o.rate)*1e6), o.rate))
		fmt.Fprintln(out, s.cat.T("pack.inside", bytesText(e.Inside)))
		s.printCover(e.Cover, e.Volumes, out)
	}
	return err
}

// printCover says whether a volume may be lost.
func (s *station) printCover(c packager.Cover, volumes int, out io.Writer) {
	switch {
	case volumes < 2:
	case c.Covered:
		fmt.Fprintln(out, s.cat.T("pack.covered", volumes))
	case c.CoverPercent > 0:
		fmt.Fprintln(out, s.cat.T("pack.cover", c.CoverVolumes, c.CoverPercent))
	default:
		fmt.Fprintln(out, s.cat.T("pack.uncovered"))
	}
}

// directories makes the named directories, which may be mount points; a dry run
// makes none.
func directories(names []string, dry bool) ([]string, error) {
	var out []string
	for _, name := range names {
		dir, err := filepath.Abs(name)
		if err == nil && !dry {
			err = durable.Mkdir(dir)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, dir)
	}
	return out, nil
}

// volumeSize reads the size of a volume: a kind of medium, or a number with a
// unit. Optical sizes leave what a file system takes (crossing.md §4.1).
func volumeSize(text string) (int64, error) {
	switch strings.ToLower(text) {
	case "":
		return 0, nil
	case "usb":
		return packager.WholeMedium, nil
	case "fat32":
		return 32_000 << 20, nil // the largest that Windows formats; files stay below 4 GiB anyway
	case "dvd":
		return 4480 << 20, nil
	case "bd25":
		return 23_000 << 20, nil
	}
	for unit, n := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "MB": 1e6, "GB": 1e9, "TB": 1e12} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			v, err := strconv.ParseInt(digits, 10, 32)
			if err == nil && v > 0 && v <= 2e12/n && v*n >= 100e6 && v*n <= 1100e9 {
				return v * n, nil
			}
		}
	}
	return 0, strconv.ErrSyntax
}
