package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hashike/hashike/internal/config"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

func (a *app) initCommand() *cobra.Command {
	var side, pair, name string
	var site int
	var resume bool
	var last uint64
	var cer ceremony
	c := &cobra.Command{Use: "init --side outside|inside", Short: a.cat.T("cmd.init"), RunE: func(c *cobra.Command, _ []string) error {
		dir, err := filepath.Abs(a.data)
		if err != nil {
			return err
		}
		switch {
		case side == outside && pair == "" && resume == (last > 0):
			if err := a.unused(state.Dir(dir)); err != nil {
				return err
			}
			if cer.to == "" && last == 0 && !packager.HasKeys(state.Dir(dir)) {
				if cer, err = a.askCeremony(cer); err != nil {
					return err
				}
			}
			sheet, err := a.initOutside(state.Dir(dir), site, name, last, cer)
			if err != nil {
				return err
			}
			fmt.Fprint(a.out, sheet)
			return nil
		case side == inside && pair != "" && !resume:
			if err := a.unused(state.Dir(dir)); err != nil {
				return err
			}
			if err := packager.CheckSetup(pair); err != nil { // before anybody types 40 digits
				return err
			}
			fmt.Fprint(a.err, a.cat.T("init.ask"))
			digits, err := a.line()
			if err != nil {
				return err
			}
			return a.initInside(state.Dir(dir), pair, strings.TrimSpace(digits), name)
		}
		return usageError{errors.New(a.cat.T("init.usage"))}
	}}
	c.Flags().StringVar(&side, "side", "", a.cat.T("flag.side"))
	c.Flags().StringVar(&pair, "pair", "", a.cat.T("flag.pair"))
	c.Flags().StringVar(&name, "name", "", a.cat.T("flag.name"))
	c.Flags().IntVar(&site, "site", 1, a.cat.T("flag.site"))
	c.Flags().Uint64Var(&last, "last-bundle", 0, a.cat.T("flag.last"))
	c.Flags().StringVar(&cer.to, "keys-to", "", a.cat.T("flag.initkeys"))
	c.Flags().StringSliceVar(&cer.holders, "holders", nil, a.cat.T("flag.holders"))
	c.Flags().BoolVar(&resume, "resume", false, a.cat.T("flag.resume"))
	return c
}

// askCeremony asks where to write the sheets of the root keys. Nothing means
// later, with "keys init", when the holders are there.
func (a *app) askCeremony(c ceremony) (ceremony, error) {
	fmt.Fprint(a.err, a.cat.T("keys.where"))
	to, err := a.line()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	c.to, c.attended = strings.TrimSpace(to), true
	return c, err
}

// initOutside makes an outside's data directory, its keys and the set-up
// medium for its first inside, and returns the set-up sheet (初期登録票). With
// the number of the last bundle, a rebuilt outside goes on with keys/ and
// trust/ of the lost one, which the operator has put back. Keys that a killed
// run made stay: their sheets were written before.
func (a *app) initOutside(dir state.Dir, site int, name string, last uint64, cer ceremony, blocks ...string) (string, error) {
	if err := a.lay(dir, outside, name, blocks...); err != nil {
		return "", err
	}
	had := packager.HasKeys(dir)
	if last > 0 && !had {
		return "", feed.NewFault(fmt.Errorf("--resume: %s holds no root of trust: %w", dir.Trust(), feed.ErrConfig), "H-203", "dir", dir.Trust())
	}
	if !had && cer.to != "" {
		if err := a.firstKeys(dir, cer); err != nil {
			return "", err
		}
	}
	db := state.At(dir, "init")
	if err := db.Create(outside, 0); err != nil {
		return "", err
	}
	if err := a.born(db, outside, 0); err != nil {
		return "", err
	}
	if last > 0 {
		if err := packager.Resume(db, last, who(), a.clock()); err != nil {
			return "", err
		}
	}
	if !packager.HasKeys(dir) {
		return a.cat.T("init.nokeys"), nil
	}
	if !had {
		if err := a.sheetsDelivered(dir, cer); err != nil {
			return "", err
		}
	}
	return a.setupMedium(dir, site)
}

// setupMediumCommand writes the set-up medium of a site again: for a further
// inside, or one that was lost.
func (a *app) setupMediumCommand() *cobra.Command {
	var site int
	c := &cobra.Command{Use: "setup-medium", Short: a.cat.T("cmd.setup"), RunE: func(*cobra.Command, []string) error {
		return a.with("setup-medium", outside, func(s *station) error {
			sheet, err := a.setupMedium(s.dir, site)
			if err != nil {
				return err
			}
			fmt.Fprint(a.out, sheet)
			return s.audit("setup-medium", nil, map[string]string{"site": fmt.Sprint(site)})
		})
	}}
	c.Flags().IntVar(&site, "site", 1, a.cat.T("flag.site"))
	return c
}

// setupMedium writes outbox/setup-SITE: program, set-up file and sheet.
func (a *app) setupMedium(dir state.Dir, site int) (string, error) {
	medium := filepath.Join(dir.Outbox(), fmt.Sprintf("setup-%d", site))
	if err := durable.Mkdir(medium); err != nil {
		return "", err
	}
	at := filepath.Join(medium, packager.SetupName)
	print, err := packager.WriteSetup(dir, site, at, a.clock())
	if err != nil {
		return "", err
	}
	if err := copyProgram(medium); err != nil {
		return "", err
	}
	return a.cat.T("init.sheet", i18n.Date(a.clock(), a.cat.Language()), site, medium, print), nil
}

// copyProgram puts this program on the set-up medium: the inside has no other source.
func copyProgram(medium string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open(exe)
	if err != nil {
		return err
	}
	defer f.Close()
	to := filepath.Join(medium, "hashike"+filepath.Ext(exe))
	if err := durable.WriteFrom(to, func(w io.Writer) error { _, err := io.Copy(w, f); return err }); err != nil {
		return err
	}
	return os.Chmod(to, 0o755)
}

// initInside makes an inside's data directory from the set-up medium, whose
// fingerprint a person reads off the paper sheet. The database comes last, so
// that a refused or interrupted set-up leaves nothing that another command
// would take for an inside.
func (a *app) initInside(dir state.Dir, setup, fingerprint, name string, blocks ...string) error {
	if err := a.lay(dir, inside, name, blocks...); err != nil {
		return err
	}
	if err := packager.Pair(dir, setup, fingerprint); err != nil {
		return err
	}
	db := state.At(dir, "init")
	_, site, err := db.Identity()
	if err != nil {
		return err
	}
	fmt.Fprintln(a.err, a.cat.T("init.inside", site, string(dir)))
	return a.born(db, inside, site)
}

// lay makes the directories and the commented configuration. A directory that
// is set up already is refused.
func (a *app) lay(dir state.Dir, side, name string, blocks ...string) error {
	if err := a.unused(dir); err != nil {
		return err
	}
	for _, d := range []string{string(dir), dir.Keys(), dir.Trust(), dir.Inbox(), dir.Outbox(), dir.Logs(), dir.Quarantine()} {
		if err := durable.Mkdir(d); err != nil {
			return err
		}
		if d == string(dir) {
			if err := durable.Private(d); err != nil {
				return fmt.Errorf("%s: %w: %w", d, err, feed.ErrConfig)
			}
		}
	}
	if _, err := os.Stat(dir.Config()); errors.Is(err, fs.ErrNotExist) {
		return durable.WriteFile(dir.Config(), []byte(config.Template(side, name, a.kinds, blocks...)))
	}
	return nil
}

// unused refuses a directory that was set up before.
func (a *app) unused(dir state.Dir) error {
	if _, err := os.Stat(dir.DB()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	side, _, err := state.At(dir, "init").Identity()
	if err != nil {
		return err
	}
	return feed.NewFault(fmt.Errorf("%s is already set up: %w", dir, feed.ErrConfig), "H-210", "dir", string(dir), "side", a.cat.T("side."+side))
}

// born begins the audit log.
func (a *app) born(db *state.DB, side string, site int) error {
	return db.Update(func(tx state.Tx) error {
		return tx.Audit(state.Record{Time: a.clock(), Who: who(), What: "init", Result: "ok", Detail: map[string]string{"side": side, "site": fmt.Sprint(site)}})
	})
}

// secret reads a line without showing it, where there is a terminal.
func (a *app) secret() (string, error) {
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.err)
		return string(b), err
	}
	return a.line()
}

// goSum turns go.sum's "h1:<base64>" into hex.
func goSum(s string) (string, bool) {
	b64, ok := strings.CutPrefix(s, "h1:")
	if !ok {
		return "", false
	}
	b, err := base64.StdEncoding.DecodeString(b64)
	return hex.EncodeToString(b), err == nil
}
