package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
)

// Commands that nobody needs to be asked for: reading ones, the service, and
// jobs that a timer may start.
func unasked(command string) bool {
	return slices.Contains([]string{"check", "status", "origin", "client", "need", "keys", "serve", "run", "quickstart", "terminals", "decide list",
		"audit verify", "terms show", "person list", "media list", "approval list"}, command)
}

func isJob(command string) bool {
	return slices.Contains([]string{"fetch", "gc", "scrub"}, command)
}

// roleOf is the role in which a command is used.
func roleOf(command string) people.Role {
	first, _, _ := strings.Cut(command, " ")
	switch first {
	case "approval", "approve":
		return people.Approver
	case "audit":
		return people.Auditor
	case "keys":
		return people.KeyHolder
	}
	return people.Operator
}

// identify finds out who acts: never from a flag. An OS account registered to
// one person is that person; one that several share is asked for name and PIN;
// any other is recorded as itself.
func (s *station) identify(command string) error {
	account := who()
	s.actor = state.Actor{Account: account}
	defer func() { s.db = s.db.As(s.actor) }()
	if command == "run" || command == "serve" {
		s.actor.Role = string(people.Service)
		return nil
	}
	var mine, all []people.Person
	err := s.db.View(func(tx state.Tx) (err error) {
		if all, err = people.All(tx); err != nil {
			return err
		}
		mine, err = people.OfAccount(tx, account)
		return err
	})
	changesPeople := strings.HasPrefix(command, "person ") && len(all) > 0
	switch {
	case err != nil:
		return err
	case len(mine) == 1:
		s.actor = mine[0].As(account, roleOf(command))
	case unasked(command):
	case len(mine) > 1 || changesPeople && s.typing:
		if !s.typing && isJob(command) {
			s.actor.Role = string(people.Service)
			return nil
		}
		return s.ask(command, account)
	default:
		fmt.Fprintln(s.err, s.cat.T("person.unknown", account))
	}
	return nil
}

// ask asks who it is. Only a person at a terminal can answer.
func (s *station) ask(command, account string) error {
	if !s.typing {
		return feed.NewFault(fmt.Errorf("account %s is shared by several registered persons and nobody is at the terminal: %w", account, feed.ErrHeld), "H-641", "name", account)
	}
	name, err := s.prompt(s.cat.T("person.askname"))
	if err != nil {
		return err
	}
	fmt.Fprint(s.err, s.cat.T("person.askpin"))
	pin, err := s.secret()
	if err != nil {
		return err
	}
	p, err := people.Identify(s.db, account, name, pin, s.clock())
	if err == nil {
		s.actor = p.As(account, roleOf(command))
		s.actor.PIN = true
	}
	return err
}

// who names the actor in documents other than the audit log.
func (s *station) who() string { return s.actor.String() }

// prompt asks one line on the terminal.
func (a *app) prompt(question string) (string, error) {
	fmt.Fprint(a.err, question)
	return a.line()
}

// line reads one line; several questions share what was read ahead.
func (a *app) line() (string, error) {
	line, err := a.rawLine()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return line, err
}

// rawLine is line that tells the end of what was typed: io.EOF.
func (a *app) rawLine() (string, error) {
	if a.lines == nil {
		a.lines = bufio.NewReader(a.in)
	}
	line, err := a.lines.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// isTerminal reports whether a person types into in.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) personCommand() *cobra.Command {
	c := &cobra.Command{Use: "person", Short: a.cat.T("cmd.person")}
	var p people.Person
	var roles []string
	var recover string
	add := &cobra.Command{Use: "add NAME --role ROLE", Short: a.cat.T("cmd.personadd"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		p.Name = args[0]
		var err error
		if p.Roles, err = parseRoles(a, roles); err != nil {
			return err
		}
		command := "person add"
		if recover != "" {
			command = "recover" // the registered persons cannot be asked
		}
		return a.with(command, "", func(s *station) error { return s.addPerson(p, recover) })
	}}
	add.Flags().StringSliceVar(&roles, "role", nil, a.cat.T("flag.role"))
	add.Flags().StringVar(&p.Department, "department", "", a.cat.T("flag.department"))
	add.Flags().StringArrayVar(&p.Accounts, "account", nil, a.cat.T("flag.account"))
	add.Flags().StringVar(&recover, "recover", "", a.cat.T("flag.recover"))
	list := &cobra.Command{Use: "list", Short: a.cat.T("cmd.personlist"), Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return a.with("person list", "", func(s *station) error { return s.listPersons(a.out) })
	}}
	remove := &cobra.Command{Use: "remove NAME", Short: a.cat.T("cmd.personremove"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		return a.with("person remove", "", func(s *station) error {
			err := s.db.Update(func(tx state.Tx) error { return people.Remove(tx, args[0], s.actor, s.clock()) })
			if err == nil {
				fmt.Fprintln(a.out, a.cat.T("person.removed", args[0]))
			}
			return err
		})
	}}
	pin := &cobra.Command{Use: "pin NAME", Short: a.cat.T("cmd.personpin"), Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		return a.with("person pin", "", func(s *station) error { return s.setPIN(args[0]) })
	}}
	c.AddCommand(add, list, remove, pin)
	return c
}

// parseRoles reads roles in English or as the rules write them.
func parseRoles(a *app, typed []string) ([]people.Role, error) {
	var out []people.Role
	for _, v := range typed {
		i := slices.IndexFunc(people.Roles(), func(r people.Role) bool {
			return v == string(r) || v == a.cat.T("role.is."+string(r)) || v == map[people.Role]string{people.Operator: "担当者",
				people.Approver: "承認者", people.Auditor: "監査担当", people.KeyHolder: "鍵保管者"}[r]
		})
		if i < 0 {
			return nil, usageError{fmt.Errorf("--role %s: %s", v, a.cat.T("flag.role"))}
		}
		if r := people.Roles()[i]; !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, a.needs("--role", "flag.role")
	}
	return out, nil
}

// addPerson registers somebody; without --account, for the account that types.
func (s *station) addPerson(p people.Person, recover string) error {
	err := s.db.Update(func(tx state.Tx) error {
		if len(p.Accounts) == 0 {
			old, known, err := people.Find(tx, p.Name)
			if err != nil {
				return err
			}
			if p.Accounts = []string{s.actor.Account}; known {
				p.Accounts = old.Accounts
			}
		}
		var err error
		if recover != "" {
			p, err = people.Recover(tx, p, s.actor, recover, s.clock())
		} else {
			p, err = people.Add(tx, p, s.actor, s.clock())
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, s.cat.T("person.added", p.Name, s.rolesText(p), strings.Join(p.Accounts, s.cat.T("list.comma"))))
	return s.warnShared(p)
}

// warnShared says that a shared account asks for PINs from now on.
func (s *station) warnShared(p people.Person) error {
	return s.db.View(func(tx state.Tx) error {
		for _, account := range p.Accounts {
			sharing, err := people.OfAccount(tx, account)
			if err != nil {
				return err
			}
			if len(sharing) < 2 {
				continue
			}
			fmt.Fprintln(s.out, s.cat.T("person.shared", account))
			for _, q := range sharing {
				if q.PIN == "" {
					fmt.Fprintln(s.out, "  "+s.cat.T("person.nopin", q.Name))
				}
			}
		}
		return nil
	})
}

func (s *station) rolesText(p people.Person) string {
	var out []string
	for _, r := range p.Roles {
		out = append(out, s.cat.T("role.is."+string(r)))
	}
	return strings.Join(out, s.cat.T("list.comma"))
}

func (s *station) listPersons(out io.Writer) error {
	var all []people.Person
	if err := s.db.View(func(tx state.Tx) (err error) { all, err = people.All(tx); return err }); err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(out, s.cat.T("person.none"))
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, s.cat.T("person.head"))
	for _, p := range all {
		pin := s.cat.T("unknown")
		if p.PIN != "" {
			pin = s.cat.T("yes")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Number, p.Name, p.Department, s.rolesText(p), strings.Join(p.Accounts, " "), pin, i18n.Day(p.Added, s.cat.Language()))
	}
	return w.Flush()
}

// setPIN asks for a new PIN twice.
func (s *station) setPIN(name string) error {
	var pins [2]string
	for i, question := range []string{"person.newpin", "person.again"} {
		fmt.Fprint(s.err, s.cat.T(question, name))
		var err error
		if pins[i], err = s.secret(); err != nil {
			return err
		}
	}
	if pins[0] != pins[1] {
		return feed.NewFault(fmt.Errorf("the two PINs differ: %w", feed.ErrConfig), "H-653")
	}
	err := s.db.Update(func(tx state.Tx) error { return people.SetPIN(tx, name, pins[0], s.actor, s.clock()) })
	if err == nil {
		fmt.Fprintln(s.out, s.cat.T("person.pinset", name))
	}
	return err
}
