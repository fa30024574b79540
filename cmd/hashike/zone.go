package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

const (
	lgwan    = "lgwan"
	myNumber = "mynumber"
)

// zones are the network that state.db keeps for this inside, "" before the
// first use, and the one that hashike.toml asks for. The My Number network lets
// nothing out on a medium: an edited line alone does not end that.
type zones struct{ kept, asked string }

func (z zones) leaves() bool { return z.kept == myNumber && z.asked != myNumber }

// readZone finds both; while only the file says that the site left the My
// Number network, it is still in it.
func (s *station) readZone() error {
	if s.side != inside {
		return nil
	}
	s.zone.asked = cmp.Or(s.cfg.Zone, lgwan)
	err := s.db.View(func(tx state.Tx) (err error) { s.zone.kept, err = tx.Zone(); return err })
	if s.zone.leaves() {
		s.cfg.Zone = myNumber
	}
	return err
}

// settleZone keeps a new zone, or refuses to leave the My Number network
// (H-664). What reads, serves or runs by itself goes on, and says it.
func (s *station) settleZone(command string) error {
	switch {
	case s.side != inside || s.zone.kept == s.zone.asked || command == "zone":
		return nil
	case s.zone.leaves():
		err := feed.NewFault(fmt.Errorf("zone %s in hashike.toml, the site is registered as %s: %w", s.zone.asked, s.zone.kept, feed.ErrHeld), "H-664")
		if unasked(command) || isJob(command) {
			s.app.report(err)
			return nil
		}
		return err
	case unasked(command):
		return nil // reading writes nothing
	}
	return s.changeZone("")
}

// changeZone keeps what hashike.toml asks for; all but the first is logged.
func (s *station) changeZone(reason string) error {
	return s.db.Update(func(tx state.Tx) error {
		if err := tx.SetZone(s.zone.asked); err != nil || s.zone.kept == "" {
			return err
		}
		detail := map[string]string{"from": s.zone.kept, "to": s.zone.asked}
		if reason != "" {
			detail["reason"] = reason
		}
		return tx.Audit(state.Record{Time: s.clock(), Floor: s.floor, Who: s.who(), What: "zone", Result: "ok", Detail: detail})
	})
}

// zoneCommand shows the network of an inside, and takes over what hashike.toml
// says on a person's word.
func (a *app) zoneCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "zone [--reason REASON]", Short: a.cat.T("cmd.zone"), Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return a.with("zone", inside, func(s *station) error {
			if s.zone.kept != s.zone.asked {
				if reason = strings.TrimSpace(reason); reason == "" && s.zone.leaves() {
					return usageError{errors.New("--reason: " + a.cat.T("flag.reason"))}
				}
				if err := s.changeZone(reason); err != nil {
					return err
				}
			}
			key := "side.inside"
			if s.zone.asked == myNumber {
				key = "side.mynumber"
			}
			fmt.Fprintln(a.out, a.cat.T("zone.is", a.cat.T(key)))
			return nil
		})
	}}
	c.Flags().StringVar(&reason, "reason", "", a.cat.T("flag.reason"))
	return c
}
