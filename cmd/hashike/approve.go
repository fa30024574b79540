package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// approveCommand signs a bundle or an order with an approver's key. It is done
// outside, by somebody else than who packed or issued (station.approver), and
// after the contents were shown.
func (a *app) approveCommand() *cobra.Command {
	var file string
	var order uint64
	c := &cobra.Command{Use: "approve [MEDIUM…] --key FILE", Short: a.cat.T("cmd.approve"), Args: cobra.ArbitraryArgs, RunE: func(_ *cobra.Command, dirs []string) error {
		return a.with("approve", outside, func(s *station) error {
			if order == 0 && len(dirs) == 0 && file == "" {
				return s.printWaiting()
			}
			if (order == 0) == (len(dirs) == 0) || file == "" {
				return usageError{errors.New(a.cat.T("approve.usage"))}
			}
			if order > 0 {
				return s.approveOrder(order, file)
			}
			return s.approveBundle(dirs, file)
		})
	}}
	c.Flags().StringVar(&file, "key", "", a.cat.T("flag.approvekey"))
	c.Flags().Uint64Var(&order, "order", 0, a.cat.T("flag.approveorder"))
	return c
}

// approver is who approves: a person registered as approver, where anybody is,
// and never who made it (H-644, H-645).
func (s *station) approver(madeBy, account string) (string, error) {
	by := s.who()
	if account != "" && state.SameAccount(account, s.actor.Account) {
		return "", feed.NewFault(fmt.Errorf("account %s made it: %w", account, feed.ErrHeld), "H-644", "name", by)
	}
	return by, s.db.View(func(tx state.Tx) error {
		_, err := people.CheckApprover(tx, by, madeBy, account)
		return err
	})
}

func (s *station) approveBundle(dirs []string, file string) error {
	t, err := packager.LookAtBundle(s.db, dirs)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("approve.bundle", t.Set.Number, i18n.Date(t.Set.Created, s.cat.Language()), t.Packed.Operator))
	fmt.Fprintln(s.out, "  "+s.cat.T("import.words", setWords(t.ID)))
	for _, l := range t.Packed.Feeds {
		fmt.Fprintln(s.out, "  "+s.cat.T("approve.feed", l.Feed, l.Serial))
	}
	for _, o := range t.Orders {
		fmt.Fprintln(s.out, "  "+s.orderLine("approve.order", o))
	}
	key, err := s.approverKey(file)
	if err != nil || key == nil {
		return err
	}
	by, err := s.approver(t.Packed.Operator, t.Packed.Account)
	if err != nil {
		return err
	}
	at, err := packager.Approve(s.db, t, key, by, s.clock())
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("approve.done", t.Set.Number, at))
	return nil
}

func (s *station) approveOrder(number uint64, file string) error {
	if err := s.printWaiting(); err != nil {
		return err
	}
	waiting, err := packager.WaitingOrders(s.db, s.now())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(waiting, func(o feed.Order) bool { return o.Number == number }) {
		return feed.NewFault(fmt.Errorf("order %d does not wait: %w", number, feed.ErrConfig), "H-205", "name", strconv.FormatUint(number, 10))
	}
	key, err := s.approverKey(file)
	if err != nil || key == nil {
		return err
	}
	issuer, err := packager.IssuerOf(s.db, number)
	if err != nil {
		return err
	}
	by, err := s.approver(issuer, issuer) // who issued it unregistered is known by the account
	if err != nil {
		return err
	}
	o, err := packager.ApproveOrder(s.db, number, key, by, s.clock())
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("approve.ordered", o.Number))
	return nil
}

// printWaiting lists the orders that an approver has still to sign.
func (s *station) printWaiting() error {
	waiting, err := packager.WaitingOrders(s.db, s.now())
	if err == nil && len(waiting) == 0 {
		fmt.Fprintln(s.out, s.cat.T("approve.none"))
	}
	if len(waiting) > 0 {
		fmt.Fprintln(s.out, s.cat.T("approve.waiting"))
	}
	for _, o := range waiting {
		fmt.Fprintln(s.out, "  "+s.orderLine("approve.order", o))
	}
	return err
}

// approverKey opens the key with a passphrase that is typed; nil is a person
// who does not approve.
func (s *station) approverKey(file string) (signature.Signer, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, named(file, err)
	}
	if err != nil {
		return nil, feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-514", "detail", err.Error())
	}
	fmt.Fprint(s.err, s.cat.T("approve.pass"))
	pass, err := s.secret()
	if err != nil {
		return nil, err
	}
	if pass == "" {
		fmt.Fprintln(s.out, s.cat.T("approve.not"))
		return nil, nil
	}
	return packager.LoadApproverKey(b, pass)
}

// orderLine says an order in the reader's words.
func (s *station) orderLine(key string, o feed.Order) string {
	reason := o.Reason
	if o.Kind == feed.OrderVoid && reason == feed.LostMedium {
		reason = s.cat.T("order.lost", o.Bundle)
	}
	return s.cat.T(key, o.Number, s.orderKind(o.Kind), o.Feed, reason)
}

func (s *station) orderKind(k feed.OrderKind) string {
	if key := "order.kind." + string(k); s.knows(key) {
		return s.cat.T(key)
	}
	return string(k)
}

// standIn is a person of an order, or in words the role that stands for one.
func (s *station) standIn(name string) string {
	if key := "role.is." + name; s.knows(key) {
		return s.cat.T(key)
	}
	return name
}

// printPending says on the inside that a bundle waits for its approval.
func (s *station) printPending() error {
	if s.side != inside {
		return nil
	}
	return s.db.View(func(tx state.Tx) error {
		p, waits, err := packager.PendingBundle(tx)
		if waits {
			fmt.Fprintln(s.out, s.cat.T("status.pending", p.Number, i18n.Date(p.Created, s.cat.Language()), p.Number))
		}
		return err
	})
}

// exceptions are the lines of exceptions in force, for sheet and card; about
// limits them to one feed and file.
func (s *station) exceptions(about func(feed.Order) bool) ([]string, error) {
	var orders []feed.Order
	if err := s.db.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err }); err != nil {
		return nil, err
	}
	var out []string
	for _, o := range orders {
		if o.Kind != feed.OrderException || !o.InForce(s.now()) || about != nil && !about(o) {
			continue
		}
		subject := strings.TrimSpace(o.Feed + " " + string(o.Digest))
		out = append(out, s.cat.T("exception.line", o.Number, subject+" "+s.cat.T("strength."+o.Strength.String()), i18n.Day(o.Until.Add(-time.Second), s.cat.Language()), o.Reason, s.standIn(o.Approver)))
	}
	return out, nil
}
