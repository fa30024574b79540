package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/packager"
)

func (a *app) receiptCommand() *cobra.Command {
	c := &cobra.Command{Use: "receipt", Short: a.cat.T("cmd.receipt")}
	var asJSON bool
	show := &cobra.Command{Use: "show", Short: a.cat.T("cmd.receiptshow"), RunE: func(*cobra.Command, []string) error {
		return a.with("receipt show", inside, func(s *station) error {
			r, err := packager.ShowReceipt(s.db, s.missing, who(), s.now())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.out).Encode(map[string]any{"code": strings.ReplaceAll(r.Code, " ", ""), "bundle": r.Number})
			}
			fmt.Fprintln(a.out, a.cat.T("receipt.code", r.Number, r.Code))
			return s.receiptPage(r, a.out)
		})
	}}
	show.Flags().BoolVar(&asJSON, "json", false, a.cat.T("flag.json"))
	enter := &cobra.Command{Use: "enter CODE", Short: a.cat.T("cmd.receiptenter"), Args: cobra.MinimumNArgs(1), RunE: func(_ *cobra.Command, typed []string) error {
		return a.with("receipt enter", outside, func(s *station) error {
			r, err := enterAt(s, strings.Join(typed, ""))
			if err != nil {
				return err
			}
			key := "receipt.entered"
			if !r.Moved {
				key = "receipt.known"
			}
			fmt.Fprintln(a.out, a.cat.T(key, r.Site, r.Number))
			if r.Result == packager.ReceiptPartly {
				fmt.Fprintln(a.out, a.cat.T("receipt.partly"))
			}
			return nil
		})
	}}
	c.AddCommand(show, enter)
	return c
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
			if err := packager.SetBase(s.db, site, number, who(), s.now()); err != nil {
				return err
			}
			fmt.Fprintln(a.out, a.cat.T("base.set", site, number))
			return nil
		})
	}}
	set.Flags().IntVar(&site, "site", 1, a.cat.T("flag.site"))
	set.Flags().Uint64Var(&number, "bundle", 0, a.cat.T("flag.packbase"))
	c.AddCommand(set)
	return c
}

// enterAt is "receipt enter" at this station's clock.
func enterAt(s *station, typed string) (packager.Received, error) {
	return packager.EnterReceipt(s.db, typed, who(), s.now())
}
