package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

func (a *app) keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: a.cat.T("cmd.keys"), RunE: func(*cobra.Command, []string) error {
		return a.with("keys", "", func(s *station) error { return s.printKeys(a.out) })
	}}
	c.AddCommand(a.keysInit(), a.keysRotate(), a.keysProtect(), a.keysApprover(), a.keysBook(), a.keysLogin())
	return c
}

func (a *app) keysLogin() *cobra.Command {
	return &cobra.Command{Use: "login NAME", Short: a.cat.T("cmd.login"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		return a.with("keys login", inside, func(s *station) error {
			fmt.Fprint(a.err, a.cat.T("login.ask", args[0]))
			password, err := a.secret()
			if err != nil {
				return err
			}
			line, err := mirror.HashPassword(args[0], password)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, line)
			return nil
		})
	}}
}

// ceremony is how an outside's first root keys get to their holders.
type ceremony struct {
	to       string   // directory for the sheets; empty is not now
	attended bool     // ask for the word that they are printed, then wipe them
	holders  []string // nil is the usual three offices
	operator string   // who acts, and so holds none; empty is the account
}

// offices are the holders of root keys: as named, or as usual.
func (a *app) offices(named []string, operator string) ([]string, error) {
	if operator == "" {
		operator = who()
	}
	if len(named) == 0 {
		for slot := 1; slot <= 3; slot++ {
			named = append(named, a.cat.T(fmt.Sprintf("keys.holder.%d", slot)))
		}
	}
	return named, packager.CheckHolders(named, operator)
}

// firstKeys makes the keys of an outside and delivers the sheets.
func (a *app) firstKeys(dir state.Dir, c ceremony) error {
	holders, err := a.offices(c.holders, c.operator)
	if err != nil {
		return err
	}
	to, err := sheetsTo(dir, c.to)
	if err != nil {
		return err
	}
	err = packager.CreateKeys(dir, holders, a.clock(), func(k []packager.RootKey) error { return a.writeKeySheets(to, k, holders) })
	if err != nil {
		return err
	}
	return a.writeKeyBook(dir)
}

// sheetsTo is an empty place for the sheets of new root keys.
func sheetsTo(data state.Dir, dir string) (string, error) {
	to, err := elsewhere(data, dir)
	if err == nil {
		err = noSheets(to)
	}
	return to, err
}

// sheetsDelivered ends a ceremony: the sheets are printed and wiped, or the
// screen says loudly that they are not.
func (a *app) sheetsDelivered(dir state.Dir, c ceremony) error {
	to, err := elsewhere(dir, c.to)
	if err != nil {
		return err
	}
	if c.attended {
		return a.printed(to)
	}
	fmt.Fprintln(a.err, a.cat.T("keys.left", to))
	return nil
}

func (a *app) keysInit() *cobra.Command {
	var cer ceremony
	var site int
	c := &cobra.Command{Use: "init --to DIR", Short: a.cat.T("cmd.keysinit"), RunE: func(*cobra.Command, []string) error {
		return a.with("keys init", outside, func(s *station) error {
			if cer.to == "" {
				return usageError{errors.New(a.cat.T("keys.to"))}
			}
			cer.attended, cer.operator = true, s.who()
			if err := s.ceremony(cer); err != nil {
				return err
			}
			sheet, err := a.setupMedium(s.dir, site)
			if err == nil {
				fmt.Fprint(a.out, sheet)
			}
			return err
		})
	}}
	c.Flags().StringVar(&cer.to, "to", "", a.cat.T("flag.keysto"))
	c.Flags().StringSliceVar(&cer.holders, "holders", nil, a.cat.T("flag.holders"))
	c.Flags().IntVar(&site, "site", 1, a.cat.T("flag.site"))
	return c
}

// ceremony makes the first keys and asks whether they are on paper. Where the
// word was not said the last time, it only asks again.
func (s *station) ceremony(c ceremony) error {
	if packager.HasKeys(s.dir) {
		return s.app.again(s.dir, c)
	}
	err := s.firstKeys(s.dir, c)
	if aerr := s.audit("make keys", err, nil); err == nil {
		err = aerr
	}
	if err != nil {
		return err
	}
	return s.sheetsDelivered(s.dir, c)
}

// again asks once more about sheets that still lie somewhere. Other keys are
// not made: that is a rotation.
func (a *app) again(dir state.Dir, c ceremony) error {
	to, err := elsewhere(dir, c.to)
	if err != nil {
		return err
	}
	if len(sheetsIn(to)) == 0 {
		return feed.NewFault(fmt.Errorf("this outside has keys already: %w", feed.ErrConfig), "H-221", "dir", to)
	}
	return a.printed(to)
}

func (a *app) keysBook() *cobra.Command {
	return &cobra.Command{Use: "book", Short: a.cat.T("cmd.keysbook"), RunE: func(*cobra.Command, []string) error {
		return a.with("keys book", outside, func(s *station) error { return a.writeKeyBook(s.dir) })
	}}
}

// rootKeysFrom reads root keys from files, or asks for two to be typed: a line
// that was mistyped is said at once and asked for again.
func (a *app) rootKeysFrom(files []string) ([]packager.RootKey, error) {
	var out []packager.RootKey
	for _, f := range files {
		st, err := os.Stat(f)
		if err == nil && (!st.Mode().IsRegular() || st.Size() > 1<<20) {
			err = errors.New("not a sheet of a root key")
		}
		var b []byte
		if err == nil {
			b, err = os.ReadFile(f)
		}
		if err != nil {
			return nil, named(f, fmt.Errorf("%w: %w", err, feed.ErrConfig))
		}
		k, err := packager.ParseRootKey(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out = append(out, k)
	}
	for n := 1; len(files) == 0 && n <= 2; n++ {
		fmt.Fprintln(a.err, a.cat.T("keys.type", n))
		k, err := a.typeRootKey()
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// maxSlips is how often one key's lines may be mistyped.
const maxSlips = 20

func (a *app) typeRootKey() (packager.RootKey, error) {
	var r packager.RootKeyReader
	slips := 0
	for r.Next() != 0 {
		fmt.Fprint(a.err, a.cat.T("keys.line", r.Next()))
		l, rerr := a.rawLine()
		if strings.TrimSpace(l) == "" && rerr != nil {
			return packager.RootKey{}, feed.NewFault(fmt.Errorf("two root keys are needed: %w", feed.ErrConfig), "H-513", "slot", "-", "given", "0", "count", "2")
		}
		if err := r.Add(l); err != nil {
			if slips++; slips > maxSlips || rerr != nil {
				return packager.RootKey{}, err
			}
			fmt.Fprintln(a.err, a.cat.T("keys.again", r.Next()))
		}
	}
	return r.Key()
}

func (a *app) keysRotate() *cobra.Command {
	var ch packager.Change
	var files, approvers []string
	var to string
	var none bool
	c := &cobra.Command{Use: "rotate bundle|root|approver", Short: a.cat.T("cmd.keysrotate"), Args: cobra.ExactArgs(1), ValidArgs: []string{"bundle", "root", "approver"},
		RunE: func(_ *cobra.Command, args []string) error {
			return a.with("keys rotate", outside, func(s *station) error {
				switch {
				case args[0] == "bundle" && len(ch.Replace)+len(approvers) == 0 && !none:
					ch.Bundle = true
				case args[0] == "root" && ch.Plugin == "" && len(approvers) == 0 && !none:
				case args[0] == "approver" && ch.Plugin == "" && len(ch.Replace) == 0 && none == (len(approvers) == 0):
					ch.SetApprovers = true
				default:
					return usageError{errors.New(a.cat.T("keys.rotate.usage"))}
				}
				var err error
				if ch.Approvers, err = a.readApprovers(approvers); err != nil {
					return err
				}
				return s.rotate(ch, files, to)
			})
		}}
	c.Flags().StringSliceVar(&files, "root-key", nil, a.cat.T("flag.rootkey"))
	c.Flags().IntSliceVar(&ch.Replace, "replace", nil, a.cat.T("flag.replace"))
	c.Flags().StringSliceVar(&ch.Holders, "holders", nil, a.cat.T("flag.holders"))
	c.Flags().StringVar(&to, "to", "", a.cat.T("flag.keysto"))
	c.Flags().StringVar(&ch.Plugin, "plugin", "", a.cat.T("flag.plugin"))
	c.Flags().StringSliceVar(&approvers, "approver", nil, a.cat.T("flag.approverkey"))
	c.Flags().BoolVar(&none, "none", false, a.cat.T("flag.noapprover"))
	return c
}

// readApprovers reads NAME=FILE pairs.
func (a *app) readApprovers(pairs []string) ([]packager.Approver, error) {
	var out []packager.Approver
	for _, p := range pairs {
		name, file, ok := strings.Cut(p, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("--approver %s: %s", p, a.cat.T("flag.approverkey"))}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, named(file, fmt.Errorf("%w: %w", err, feed.ErrConfig))
		}
		out = append(out, packager.Approver{Name: strings.TrimSpace(name), Public: b})
	}
	return out, nil
}

func (s *station) rotate(ch packager.Change, files []string, to string) error {
	cer := ceremony{to: to, attended: true}
	if len(ch.Replace) > 0 && to == "" {
		return usageError{errors.New(s.cat.T("keys.to"))}
	}
	if len(ch.Holders) > 0 {
		if err := packager.CheckHolders(ch.Holders, s.who()); err != nil {
			return err
		}
	}
	if len(ch.Replace) > 0 { // said before anybody types 240 digits
		if _, err := sheetsTo(s.dir, to); err != nil {
			return err
		}
	}
	keys, err := s.rootKeysFrom(files)
	if err != nil {
		return err
	}
	version, err := packager.Rotate(s.db, keys, ch, func(made []packager.RootKey) error {
		dir, err := elsewhere(s.dir, to)
		if err != nil {
			return err
		}
		return s.writeKeySheets(dir, made, s.keepers(ch.Holders))
	}, s.who(), s.clock())
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("keys.rotated", version))
	if err := s.writeKeyBook(s.dir); err != nil {
		return err
	}
	if len(ch.Replace) > 0 {
		return s.sheetsDelivered(s.dir, cer)
	}
	if g, _, _, err := packager.BundleGuard(s.dir); ch.Bundle && err == nil {
		fmt.Fprintln(s.out, s.guardText(g))
	}
	return nil
}

// keepers are the offices for new sheets: as named now, as the custody book
// has them, or as usual.
func (s *station) keepers(named []string) []string {
	out, _ := s.offices(nil, s.who())
	if held, _, _, err := packager.Custody(s.dir); err == nil {
		for _, h := range held {
			if h.Slot >= 1 && h.Slot <= len(out) {
				out[h.Slot-1] = h.Name
			}
		}
	}
	for i := range min(len(named), len(out)) {
		out[i] = named[i]
	}
	return out
}

func (a *app) keysProtect() *cobra.Command {
	var file string
	c := &cobra.Command{Use: "protect credential|dpapi|passphrase|file", Short: a.cat.T("cmd.keysprotect"), Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.with("keys protect", outside, func(s *station) error {
				if file != "" {
					abs, err := filepath.Abs(file)
					if err != nil {
						return err
					}
					file = abs
				}
				err := packager.Protect(s.dir, packager.Guard(args[0]), file)
				if aerr := s.audit("protect bundle key", err, map[string]string{"guard": args[0]}); err == nil {
					err = aerr
				}
				if err == nil {
					fmt.Fprintln(a.out, s.guardText(packager.Guard(args[0])))
				}
				return err
			})
		}}
	c.Flags().StringVar(&file, "passphrase-file", "", a.cat.T("flag.passfile"))
	return c
}

// guardText says how the bundle key is kept.
func (s *station) guardText(g packager.Guard) string {
	return s.cat.T("keys.guard", s.cat.T("guard."+string(g)))
}

// printGuard says how the bundle key is kept, and what is wrong with that.
func (s *station) printGuard(out io.Writer) error {
	if s.side != outside {
		return nil
	}
	if !packager.HasKeys(s.dir) {
		fmt.Fprintln(out, s.cat.T("keys.none"))
		return nil
	}
	g, ref, left, err := packager.BundleGuard(s.dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, s.guardText(g))
	if ref != "" {
		fmt.Fprintln(out, "  "+ref)
	}
	if g == packager.GuardFile {
		fmt.Fprintln(out, "  "+s.cat.T("keys.plain"))
	}
	if left {
		fmt.Fprintln(out, "  "+s.cat.T("keys.copy"))
	}
	return nil
}

// keysApprover makes an approver's key. It touches no data directory: the
// approver keeps it, on a stick or in an account of their own.
func (a *app) keysApprover() *cobra.Command {
	var to string
	c := &cobra.Command{Use: "approver --to FILE", Short: a.cat.T("cmd.keysapprover"), RunE: func(*cobra.Command, []string) error {
		if to == "" {
			return usageError{errors.New(a.cat.T("keys.approver.usage"))}
		}
		for _, f := range []string{to, to + ".pub"} {
			if _, err := os.Lstat(f); err == nil {
				return feed.NewFault(fmt.Errorf("%s is there already: %w", f, feed.ErrConfig), "H-209", "file", f)
			}
		}
		fmt.Fprint(a.err, a.cat.T("keys.newpass"))
		pass, err := a.secret()
		if err != nil {
			return err
		}
		fmt.Fprint(a.err, a.cat.T("keys.newpass2"))
		second, err := a.secret()
		if err == nil && second != pass {
			err = feed.NewFault(fmt.Errorf("the two passphrases differ: %w", feed.ErrConfig), "H-514", "detail", a.cat.T("keys.differ"))
		}
		if err != nil {
			return err
		}
		priv, pub, err := packager.NewApproverKey(pass)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(to, priv); err != nil {
			return err
		}
		if err := durable.WriteFile(to+".pub", pub); err != nil {
			return err
		}
		fmt.Fprintln(a.out, a.cat.T("keys.approver.made", to, to+".pub"))
		return nil
	}}
	c.Flags().StringVar(&to, "to", "", a.cat.T("flag.approverto"))
	return c
}

// printKeys lists what is trusted and until when: pinned vendor keys of the
// configured kinds, and the bundle's own keys.
func (s *station) printKeys(out io.Writer) error {
	e, err := packager.Expiry(s.dir, s.db, s.now())
	if err != nil {
		return err
	}
	lang := s.cat.Language()
	fmt.Fprintln(out, s.cat.T("keys.expiry", s.cat.T("keys.root"), i18n.Date(e.Root, lang)))
	switch {
	case e.Warning < 0:
		fmt.Fprintln(out, "  "+s.cat.T("keys.ended"))
	case e.Warning > 0:
		fmt.Fprintln(out, "  "+s.cat.T("keys.warn", e.Warning))
	}
	if err := s.printGuard(out); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, f := range s.cfg.Feeds {
		for _, a := range f.Kind.Anchors {
			if seen[a.Name] {
				continue
			}
			seen[a.Name] = true
			fmt.Fprintf(out, "%s  %s  %s\n  %s\n", f.Kind.Name, a.Name, a.SHA256(), a.Source)
		}
	}
	return nil
}
