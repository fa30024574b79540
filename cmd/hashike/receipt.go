package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

func (a *app) receiptCommand() *cobra.Command {
	c := &cobra.Command{Use: "receipt", Short: a.cat.T("cmd.receipt")}
	var asJSON bool
	show := &cobra.Command{Use: "show", Short: a.cat.T("cmd.receiptshow"), RunE: func(*cobra.Command, []string) error {
		return a.with("receipt show", inside, func(s *station) error {
			r, err := packager.ShowReceipt(s.db, s.missing, s.who(), s.now())
			if err != nil {
				return err
			}
			line := s.lineStatus()
			if asJSON {
				doc := map[string]any{"code": strings.ReplaceAll(r.Code, " ", ""), "bundle": r.Number}
				if line != nil {
					doc["line"] = lineJSON(line)
				}
				return json.NewEncoder(a.out).Encode(doc)
			}
			fmt.Fprintln(a.out, a.cat.T("receipt.code", r.Number, r.Code))
			for _, words := range s.lineWords(line) {
				fmt.Fprintln(a.out, words)
			}
			return s.receiptPage(r, a.out)
		})
	}}
	show.Flags().BoolVar(&asJSON, "json", false, a.cat.T("flag.json"))
	var from string
	enter := &cobra.Command{Use: "enter CODE", Short: a.cat.T("cmd.receiptenter"), Args: cobra.ArbitraryArgs, RunE: func(_ *cobra.Command, typed []string) error {
		if (from == "") == (len(typed) == 0) {
			return usageError{errors.New(a.cat.T("usage.args", "hashike receipt enter CODE, hashike receipt enter --from DIR"))}
		}
		return a.with("receipt enter", outside, func(s *station) error {
			if from != "" {
				return s.takeReturn(from)
			}
			return s.enter(strings.Join(typed, ""))
		})
	}}
	enter.Flags().StringVar(&from, "from", "", a.cat.T("flag.returnfrom"))
	c.AddCommand(show, enter)
	return c
}

// lineJSON is the diode's state for programs; the counters count since the
// receiver's start, kernel_drops is -1 where the kernel does not say.
func lineJSON(l *mirror.Line) map[string]any {
	doc := map[string]any{"packets": l.Packets, "lost": l.Lost, "loss_last_minute": l.Loss, "bits_per_second": l.Rate, "kernel_drops": l.Drops,
		"blocks_rebuilt": l.Rebuilt, "silent": !l.Silent.IsZero()}
	if !l.Last.IsZero() {
		doc["last_packet"] = l.Last.UTC().Format(time.RFC3339)
	}
	return doc
}

// missing counts the blobs that a state lacks here.
func (s *station) missing(lines []packager.FeedLine) (int64, error) {
	var n int64
	for _, l := range lines {
		snap, err := s.store.Snapshot(l.Feed, l.Serial)
		if errors.Is(err, fs.ErrNotExist) {
			n++
			continue
		}
		if err != nil {
			return n, err
		}
		for range snap.Missing() {
			n++
		}
	}
	return n, nil
}

// baseCommand moves a base by an operator's explicit word.
func (a *app) baseCommand() *cobra.Command {
	c := &cobra.Command{Use: "base", Short: a.cat.T("cmd.base")}
	var site int
	var number uint64
	set := &cobra.Command{Use: "set", Short: a.cat.T("cmd.baseset"), RunE: func(*cobra.Command, []string) error {
		return a.with("base set", outside, func(s *station) error {
			if site == 0 {
				only, err := s.sites(packOptions{})
				if err != nil {
					return err
				}
				if len(only) == 1 {
					site = only[0]
				}
			}
			if err := packager.SetBase(s.db, site, number, s.who(), s.now()); err != nil {
				return err
			}
			fmt.Fprintln(a.out, a.cat.T("base.set", site, number))
			return nil
		})
	}}
	set.Flags().IntVar(&site, "site", 0, a.cat.T("flag.site"))
	set.Flags().Uint64Var(&number, "bundle", 0, a.cat.T("flag.packbase"))
	c.AddCommand(set)
	return c
}

// enter takes one code and says what it meant.
func (s *station) enter(code string) error {
	r, err := packager.EnterReceipt(s.db, code, s.who(), s.now())
	if err != nil {
		return err
	}
	key := "receipt.entered"
	if !r.Moved {
		key = "receipt.known"
	}
	fmt.Fprintln(s.out, s.cat.T(key, r.Site, r.Number))
	if r.Result == packager.ReceiptPartly {
		fmt.Fprintln(s.out, s.cat.T("receipt.partly"))
	}
	return nil
}

// takeReturn takes what an inside wrote on a medium that came back.
func (s *station) takeReturn(dir string) error {
	r, err := packager.ReadReturn(dir)
	if err != nil {
		return err
	}
	if r.Receipt != "" {
		if err := s.enter(r.Receipt); err != nil {
			return err
		}
	}
	if r.Need != "" {
		if err := s.takeNeed(r.Need); err != nil {
			return err
		}
	}
	return s.db.Update(func(tx state.Tx) error { return packager.NoteTaken(tx, r, s.now()) })
}

// takeNeed keeps a need list for the repair bundle.
func (s *station) takeNeed(text string) error {
	n, err := packager.ParseNeed(text)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir.Outbox(), fmt.Sprintf("need-%05d.txt", n.Number))
	if err := durable.WriteFile(path, []byte(n.String()+"\r\n")); err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("return.need", n.Number, path))
	return s.audit("return need", nil, map[string]string{"bundle": fmt.Sprint(n.Number)})
}
