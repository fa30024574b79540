package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/scan"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// scanner is the malware scanner that the config names; nil is none.
func (s *station) scanner() (scan.Scanner, error) {
	c := s.cfg.Scan
	network, address, clamd := c.Clamd()
	switch {
	case c.None():
		return nil, nil
	case clamd:
		d := net.Dialer{Timeout: 10 * time.Second}
		return &scan.Clamd{Limit: s.cfg.ScanLimit * 1e6, Silence: s.scanSilence,
			Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }}, nil
	case c.Name == "defender" && runtime.GOOS == "windows":
		return scan.Defender(filepath.Join(os.Getenv("ProgramFiles"), "Windows Defender", "MpCmdRun.exe")), nil
	case c.Name == "defender":
		err := fmt.Errorf("scan = \"defender\" is for Windows: %w", feed.ErrConfig)
		return nil, feed.NewFault(err, "H-202", "file", s.cfg.Path, "detail", err.Error())
	}
	return &scan.Command{Args: c.Args}, nil
}

// scanFiles asks the scanner about every file and turns what must stop the
// step into a message.
func (s *station) scanFiles(ctx context.Context, sc scan.Scanner, subjects iter.Seq2[scan.Subject, error]) (scan.Summary, error) {
	var orders []feed.Order
	if err := s.db.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err }); err != nil {
		return scan.Summary{}, err
	}
	bar := s.progress()
	sum, err := scan.Run(ctx, scan.Job{Scanner: sc, DB: s.db, Store: s.store, Orders: orders, Now: s.now(),
		Stale:    time.Duration(s.cfg.RescanDays) * 24 * time.Hour,
		Progress: func(_ scan.Subject, done int64) { bar.step(s.cat.T("stage.scan"), done, -1) }}, subjects)
	bar.done()
	return sum, s.scanFault(sum, err)
}

// scanFault is the message for a scan that must stop its step.
func (s *station) scanFault(sum scan.Summary, err error) error {
	lang := s.cat.Language()
	step := s.cat.T("scan.step." + s.side)
	scanner := sum.Engine
	if scanner == "" {
		if scanner = s.cfg.Scan.Name; scanner == "" && len(s.cfg.Scan.Args) > 0 {
			scanner = filepath.Base(s.cfg.Scan.Args[0])
		}
	}
	var gone *scan.GoneError
	switch {
	case len(sum.Infected) > 0:
		f := sum.Infected[0]
		found := feed.NewFault(fmt.Errorf("%s finds %s in %s of %s (%s), %d files in all: %w", scanner, f.Name, f.Path, f.Feed, f.Digest, len(sum.Infected), feed.ErrHeld),
			"H-604", "side", s.banner(), "feed", f.Feed, "file", f.Path, "name", f.Name, "scanner", scanner, "date", dateOr(sum.Date, lang), "step", step,
			"digest", string(f.Digest), "count", strconv.Itoa(len(sum.Infected)))
		if err != nil {
			s.log.Error("scan", "error", err)
		}
		return found
	case errors.As(err, &gone):
		return feed.NewFault(err, "H-820", "feed", gone.Feed, "file", gone.Path, "digest", string(gone.Digest))
	case errors.Is(err, scan.ErrUnavailable):
		return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrHeld), "H-603", "scanner", scanner, "detail", err.Error(), "step", step)
	case err != nil:
		return err
	case sum.Over > 0 && s.cfg.OverLimit == config.OverLimitStop:
		f := sum.OverLimit[0]
		return feed.NewFault(fmt.Errorf("%d files are over the scanner's limit (%s), first %s of %s: %w", sum.Over, f.Name, f.Path, f.Feed, feed.ErrHeld),
			"H-620", "feed", f.Feed, "file", f.Path, "limit", f.Name, "count", strconv.FormatInt(sum.Over, 10), "step", step)
	}
	return nil
}

// scanDetail is what the audit log keeps of a scan.
func scanDetail(sum scan.Summary) map[string]string {
	d := map[string]string{"scan": sum.Engine, "scan.definitions": sum.Definitions, "scan.files": strconv.FormatInt(sum.Files, 10),
		"scan.now": strconv.FormatInt(sum.Scanned, 10), "scan.over-limit": strconv.FormatInt(sum.Over, 10), "scan.detected": strconv.Itoa(len(sum.Infected))}
	for key, at := range map[string]time.Time{"scan.date": sum.Date, "scan.oldest": sum.Oldest} {
		if !at.IsZero() {
			d[key] = at.UTC().Format(time.RFC3339)
		}
	}
	name := func(key string, list []scan.Finding) {
		for i, f := range list[:min(len(list), 20)] {
			d[fmt.Sprintf("scan.%s.%d", key, i+1)] = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", f.Digest, f.Feed, f.Path, f.Name))
		}
	}
	name("detected", sum.Infected)
	name("over-limit", sum.OverLimit)
	for _, f := range sum.Released {
		d[fmt.Sprintf("scan.released.%d", f.Order)] = fmt.Sprintf("%s %s", f.Digest, f.Name)
	}
	return d
}

// scanText is a scan in one line for people: what was checked, and no more.
func (s *station) scanText(sum scan.Summary) string {
	lang := s.cat.Language()
	date := s.cat.T("unknown")
	if !sum.Date.IsZero() {
		date = i18n.Date(sum.Date, lang)
	}
	found := s.cat.T("scan.nothing")
	if n := len(sum.Released); n > 0 {
		found = s.cat.T("scan.allowed", n)
	}
	if n := len(sum.Infected); n > 0 {
		found = s.cat.T("scan.some", n)
	}
	// What is over a limit was asked about now, but not scanned.
	text := s.cat.T("scan.is", sum.Engine, date, found, sum.Files-sum.Over, sum.Scanned-sum.Over, sum.Remembered)
	if !sum.Oldest.IsZero() && sum.Oldest.Before(sum.Date) {
		text += s.cat.T("scan.oldest", i18n.Date(sum.Oldest, lang))
	}
	return text
}

// scanLines are what a sheet must not leave out.
func (s *station) scanLines(sum scan.Summary) []string {
	var out []string
	if sum.Over > 0 {
		out = append(out, s.cat.T("scan.over", sum.Over))
		for i, f := range sum.OverLimit {
			if i == maxOverShown {
				out = append(out, s.cat.T("import.more", sum.Over-maxOverShown))
				break
			}
			out = append(out, fmt.Sprintf("%s %s %s", f.Feed, feed.Visible(f.Path), bytesText(f.Size)))
		}
	}
	for _, f := range sum.Released {
		out = append(out, s.cat.T("scan.released", f.Order, f.Feed, f.Path, f.Name))
	}
	return out
}

// maxOverShown is how many files that were not checked a sheet names.
const maxOverShown = 5

// checked is the malware scan as a carry sheet shows it.
type checked struct {
	Value string
	Lines []string
}

// scanPack makes pack scan what it carries, or have a reason why not. The
// result is filled in by then.
func (s *station) scanPack(p *packager.PackOptions, reason string) (*checked, error) {
	c := new(checked)
	sc, err := s.scanner()
	if err != nil {
		return nil, err
	}
	if sc == nil {
		if reason, err = s.noScan(reason); err != nil {
			return nil, err
		}
		c.Value = s.cat.T("scan.none", reason)
		p.Scan = func(context.Context, iter.Seq2[packager.Item, error]) (map[string]string, error) {
			return map[string]string{"scan": "not done", "scan.reason": reason}, nil
		}
		return c, nil
	}
	p.Scan = func(ctx context.Context, files iter.Seq2[packager.Item, error]) (map[string]string, error) {
		sum, err := s.scanFiles(ctx, sc, func(yield func(scan.Subject, error) bool) {
			for f, err := range files {
				if !yield(scan.Subject{Feed: f.Feed, Path: f.Path, Digest: f.Digest, Size: f.Size}, err) {
					return
				}
			}
		})
		if err != nil {
			return nil, errors.Join(err, s.audit("scan", err, scanDetail(sum)))
		}
		c.Value, c.Lines = s.scanText(sum), s.scanLines(sum)
		return scanDetail(sum), nil
	}
	return c, nil
}

// noScan is the reason for which a bundle goes without a scan: the flag's, the
// config's, or typed by whoever packs. Without one it is H-621.
func (s *station) noScan(flag string) (string, error) {
	for _, text := range []string{flag, s.cfg.ScanReason} {
		if text = strings.TrimSpace(text); text != "" {
			return text, nil
		}
	}
	fmt.Fprint(s.err, s.cat.T("scan.ask"))
	line, err := bufio.NewReader(io.LimitReader(s.in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		fmt.Fprintln(s.err)
		return "", feed.NewFault(fmt.Errorf("no scanner is configured and no reason was given: %w", feed.ErrHeld), "H-621", "file", s.cfg.Path)
	}
	return line, nil
}

// scanPublish is the hook of publishing. Without a scanner it records that.
func (s *station) scanPublish() (func(context.Context, feed.Setup, mirror.Accepted, iter.Seq2[feed.Artifact, error]) error, error) {
	sc, err := s.scanner()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, f feed.Setup, a mirror.Accepted, files iter.Seq2[feed.Artifact, error]) error {
		detail, err := map[string]string{"scan": "not done", "scan.now": "0"}, error(nil)
		if sc != nil {
			var sum scan.Summary
			sum, err = s.scanFiles(ctx, sc, artifactsOf(f.Name, files))
			detail = scanDetail(sum)
		}
		detail["feed"], detail["serial"], detail["bundle"] = f.Name, strconv.FormatUint(a.Serial, 10), strconv.FormatUint(a.Bundle, 10)
		return errors.Join(err, s.auditScan(f.Name, detail, err))
	}, nil
}

func artifactsOf(name string, files iter.Seq2[feed.Artifact, error]) iter.Seq2[scan.Subject, error] {
	return func(yield func(scan.Subject, error) bool) {
		for f, err := range files {
			if !yield(scan.Subject{Feed: name, Path: f.Path, Digest: f.Digest, Size: f.Size}, err) {
				return
			}
		}
	}
}

// auditScan records a scan before publishing, but not the same outcome again
// and again: the service tries once a minute.
func (s *station) auditScan(name string, detail map[string]string, result error) error {
	text := "ok"
	if result != nil {
		text = result.Error()
	}
	return s.db.Update(func(tx state.Tx) error {
		var last string
		now := text + " " + detail["serial"] + " " + detail["scan"] + " " + detail["scan.definitions"]
		if _, err := tx.Get("scanlast", name, &last); err != nil {
			return err
		}
		if last == now && detail["scan.now"] == "0" {
			return nil
		}
		if err := tx.Put("scanlast", name, now); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: s.clock(), Floor: s.floor, Who: who(), What: "scan", Result: text, Detail: detail})
	})
}

// scanCommand scans everything that is desired now, or tries the scanner.
func (a *app) scanCommand() *cobra.Command {
	var try bool
	c := &cobra.Command{Use: "scan", Short: a.cat.T("cmd.scan"), RunE: func(c *cobra.Command, _ []string) error {
		return a.with("scan", "", func(s *station) error {
			sc, err := s.scanner()
			if err == nil && sc == nil {
				err = feed.NewFault(fmt.Errorf("no scanner is configured: %w", feed.ErrConfig), "H-218", "file", s.cfg.Path)
			}
			if err != nil {
				return err
			}
			if try {
				return s.tryScanner(c.Context(), sc)
			}
			return s.scanAll(c.Context(), sc)
		})
	}}
	c.Flags().BoolVar(&try, "test", false, a.cat.T("flag.scantest"))
	return c
}

// tryScanner gives the scanner the test file that every product must detect.
func (s *station) tryScanner(ctx context.Context, sc scan.Scanner) error {
	id, err := sc.Identify(ctx)
	if err == nil {
		var v scan.Verdict
		var taken bool
		v, taken, err = scan.Try(ctx, sc, s.dir.Outbox())
		switch {
		case taken:
			fmt.Fprintln(s.out, s.cat.T("scan.try.taken", id.Engine))
		case err == nil && v.Result == scan.Infected:
			fmt.Fprintln(s.out, s.cat.T("scan.try.found", id.Engine, dateOr(id.Date, s.cat.Language()), v.Name))
		case err == nil:
			err = fmt.Errorf("%w: it does not detect the EICAR test file (%s)", scan.ErrUnavailable, v.Result)
		}
	}
	return s.scanFault(scan.Summary{Identity: id}, err)
}

// scanAll scans every file of the accepted state.
func (s *station) scanAll(ctx context.Context, sc scan.Scanner) error {
	var feeds map[string]state.FeedState
	if err := s.db.View(func(tx state.Tx) (err error) { feeds, err = tx.Feeds(); return err }); err != nil {
		return err
	}
	sum, err := s.scanFiles(ctx, sc, func(yield func(scan.Subject, error) bool) {
		for _, f := range s.cfg.Feeds {
			snap, err := s.store.Snapshot(f.Name, feeds[f.Name].Serial)
			if errors.Is(err, fs.ErrNotExist) {
				continue // nothing accepted yet
			}
			if err != nil {
				yield(scan.Subject{}, err)
				return
			}
			for sub, err := range artifactsOf(f.Name, snap.Artifacts()) {
				if !yield(sub, err) || err != nil {
					return
				}
			}
		}
	})
	if sum.Engine != "" {
		fmt.Fprintln(s.out, s.scanText(sum))
		for _, l := range s.scanLines(sum) {
			fmt.Fprintln(s.out, "  "+l)
		}
	}
	for _, f := range sum.Infected {
		fmt.Fprintln(s.out, "  "+s.cat.T("scan.detected", f.Feed, f.Path, f.Name, string(f.Digest)))
	}
	return errors.Join(err, s.audit("scan", err, scanDetail(sum)))
}
