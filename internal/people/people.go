// Package people knows who works with one side: registered persons with their
// roles, OS accounts and PINs, and the approvals they gave. It lives in
// state.db; nothing of it ever travels on a medium.
package people

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Role is one of the four of the municipal rules. A person may have several.
type Role string

const (
	Operator  Role = "operator"   // 担当者
	Approver  Role = "approver"   // 承認者
	Auditor   Role = "auditor"    // 監査担当
	KeyHolder Role = "key-holder" // 鍵保管者
	// Service is not a person's: the account under which "run" works by itself.
	Service Role = state.RoleService
)

// Roles lists what a person can be registered as.
func Roles() []Role { return []Role{Operator, Approver, Auditor, KeyHolder} }

// Person is one registered person. A removed one stays, so that old records
// can be read; its name may be registered again under a new number.
type Person struct {
	Number     uint64    `json:"number"` // neutral: may stand in signed orders, which travel
	Name       string    `json:"name"`
	Department string    `json:"department,omitempty"`
	Roles      []Role    `json:"roles"`
	Accounts   []string  `json:"accounts"`
	PIN        string    `json:"pin,omitempty"` // HashSecret; empty: this person cannot use a shared account
	Wrong      int       `json:"wrong,omitempty"`
	Until      time.Time `json:"until,omitzero"` // the PIN is locked
	Added      time.Time `json:"added"`
	Removed    time.Time `json:"removed,omitzero"`
}

// Has reports whether p has a role.
func (p Person) Has(r Role) bool { return slices.Contains(p.Roles, r) }

// As is p acting under account, in the wanted role if p has it, else in p's first.
func (p Person) As(account string, wanted Role) state.Actor {
	role := p.Roles[0]
	if p.Has(wanted) {
		role = wanted
	}
	return state.Actor{Account: account, Person: p.Name, Role: string(role)}
}

const bucket = "persons" // number → Person

func key(n uint64) string { return fmt.Sprintf("%06d", n) }

// Limits.
const (
	maxPersons = 1000
	maxName    = 60
	MinPIN     = 6 // characters
	maxPIN     = 64
	wrongLimit = 5
	lockFor    = time.Hour
)

// All returns the persons that are registered now, by number.
func All(tx state.Tx) ([]Person, error) {
	var out []Person
	for _, decode := range tx.All(bucket, "") {
		var p Person
		if err := decode(&p); err != nil {
			return nil, fmt.Errorf("registered persons: %w: %w", err, feed.ErrDamaged)
		}
		if p.Removed.IsZero() {
			out = append(out, p)
		}
	}
	return out, nil
}

// Same reports whether two spellings are one name: width, case and spaces do not count.
func Same(a, b string) bool { return state.SameName(a, b) }

// uses reports whether an account is registered for p.
func (p Person) uses(account string) bool {
	return slices.ContainsFunc(p.Accounts, func(a string) bool { return state.SameAccount(a, account) })
}

// Find returns the registered person of a name; false if there is none.
func Find(tx state.Tx, name string) (Person, bool, error) {
	all, err := All(tx)
	if err != nil {
		return Person{}, false, err
	}
	i := slices.IndexFunc(all, func(p Person) bool { return Same(p.Name, name) })
	if i < 0 {
		return Person{}, false, nil
	}
	return all[i], true, nil
}

// OfAccount returns the persons registered for an OS account: one is that
// person; several share it and must say who they are.
func OfAccount(tx state.Tx, account string) ([]Person, error) {
	all, err := All(tx)
	return slices.DeleteFunc(all, func(p Person) bool {
		return !p.uses(account)
	}), err
}

// Holders returns the persons with a role.
func Holders(tx state.Tx, r Role) ([]Person, error) {
	all, err := All(tx)
	return slices.DeleteFunc(all, func(p Person) bool { return !p.Has(r) }), err
}

// ByNumber returns a person by number, removed ones too.
func ByNumber(tx state.Tx, n uint64) (Person, bool, error) {
	var p Person
	ok, err := tx.Get(bucket, key(n), &p)
	return p, ok, err
}

// Add registers a person, or gives a registered one a new department, roles
// and accounts; its PIN stays unless p brings one. by is who does it: once
// anybody is registered, only a registered person may (H-651), and nobody
// makes himself an approver.
func Add(tx state.Tx, p Person, by state.Actor, now time.Time) (Person, error) {
	if err := mayChange(tx, by); err != nil {
		return p, err
	}
	return add(tx, p, by, "person add", now)
}

// Recover is Add for a side whose registered persons can no longer be asked
// (a new PC, new accounts): anybody who may write the data directory can do
// it, and the log says so with the reason.
func Recover(tx state.Tx, p Person, by state.Actor, reason string, now time.Time) (Person, error) {
	if strings.TrimSpace(reason) == "" {
		return p, fmt.Errorf("a reason is required: %w", feed.ErrConfig)
	}
	return add(tx, p, by, "person recover: "+shortened(reason), now)
}

func add(tx state.Tx, p Person, by state.Actor, what string, now time.Time) (Person, error) {
	if err := p.check(); err != nil {
		return p, err
	}
	old, known, err := Find(tx, p.Name)
	if err != nil {
		return p, err
	}
	if known {
		p.Number, p.Added = old.Number, old.Added
		if p.PIN == "" {
			p.PIN, p.Wrong, p.Until = old.PIN, old.Wrong, old.Until
		}
	} else {
		for _, decode := range tx.All(bucket, "") {
			var q Person
			if err := decode(&q); err != nil {
				return p, err
			}
			p.Number = max(p.Number, q.Number)
		}
		if p.Number++; p.Number > maxPersons {
			return p, fmt.Errorf("%d persons are registered: %w", maxPersons, feed.ErrConfig)
		}
		p.Added = now.UTC()
	}
	if p.Has(Approver) && !old.Has(Approver) && by.Person != "" && Same(by.Person, p.Name) {
		return p, feed.NewFault(fmt.Errorf("%s cannot make himself an approver: %w", p.Name, feed.ErrHeld), "H-651", "name", p.Name)
	}
	if err := tx.Put(bucket, key(p.Number), p); err != nil {
		return p, err
	}
	return p, audit(tx, what, p, now)
}

// mayChange refuses changes by somebody unregistered where anybody is registered.
func mayChange(tx state.Tx, by state.Actor) error {
	all, err := All(tx)
	if err == nil && len(all) > 0 && by.Person == "" {
		err = feed.NewFault(fmt.Errorf("account %s belongs to no registered person: %w", by.Account, feed.ErrHeld), "H-651", "name", by.Account)
	}
	return err
}

func (p *Person) check() error {
	p.Name, p.Department = strings.TrimSpace(p.Name), strings.TrimSpace(p.Department)
	bad := func(what string) error { return fmt.Errorf("person %.60q: %s: %w", p.Name, what, feed.ErrConfig) }
	switch {
	case p.Name == "" || len(p.Name) > maxName*4 || strings.ContainsAny(p.Name+p.Department, "\r\n\t") || len(p.Department) > maxName*4:
		return bad("a name and department in one line of at most 60 characters")
	case len(p.Roles) == 0:
		return bad("at least one role")
	case len(p.Accounts) > 50 || slices.Contains(p.Accounts, ""):
		return bad("accounts")
	}
	for _, r := range p.Roles {
		if !slices.Contains(Roles(), r) {
			return bad(fmt.Sprintf("role %q is none of %v", r, Roles()))
		}
	}
	return nil
}

func audit(tx state.Tx, what string, p Person, now time.Time) error {
	roles := make([]string, len(p.Roles))
	for i, r := range p.Roles {
		roles[i] = string(r)
	}
	return tx.Audit(state.Record{Time: now, What: what, Result: "ok", Detail: map[string]string{
		"number": strconv.FormatUint(p.Number, 10), "name": p.Name, "roles": strings.Join(roles, ","), "accounts": strings.Join(p.Accounts, ","),
	}})
}

// Remove ends a registration. The last person may go: then nobody is registered.
func Remove(tx state.Tx, name string, by state.Actor, now time.Time) error {
	if err := mayChange(tx, by); err != nil {
		return err
	}
	p, ok, err := Find(tx, name)
	if err != nil {
		return err
	}
	if !ok {
		return notFound(name)
	}
	p.Removed, p.PIN, p.Accounts = now.UTC(), "", nil
	if err := tx.Put(bucket, key(p.Number), p); err != nil {
		return err
	}
	return audit(tx, "person remove", p, now)
}

func notFound(name string) error {
	return feed.NewFault(fmt.Errorf("person %.60q: %w: %w", name, fs.ErrNotExist, feed.ErrConfig), "H-205", "name", name)
}

// SetPIN gives a person a new PIN and opens a locked one. Another registered
// person may do it (the name then stands in the log), or the person himself.
func SetPIN(tx state.Tx, name, pin string, by state.Actor, now time.Time) error {
	if err := mayChange(tx, by); err != nil {
		return err
	}
	if n := len([]rune(pin)); n < MinPIN || len(pin) > maxPIN {
		return feed.NewFault(fmt.Errorf("a PIN has %d to %d characters: %w", MinPIN, maxPIN, feed.ErrConfig), "H-653")
	}
	p, ok, err := Find(tx, name)
	if err != nil {
		return err
	}
	if !ok {
		return notFound(name)
	}
	p.PIN, p.Wrong, p.Until = HashSecret(pin), 0, time.Time{}
	if err := tx.Put(bucket, key(p.Number), p); err != nil {
		return err
	}
	return audit(tx, "person pin", p, now)
}

// Identify finds which of the persons who share an account this is. Errors:
// H-642 (ErrHeld) for a name or PIN that does not fit, H-643 while the PIN is
// locked: five wrong ones lock it for an hour, or until another registered
// person sets a new one. Every wrong try is in the log.
func Identify(db *state.DB, account, name, pin string, now time.Time) (Person, error) {
	var who Person
	var refusal error
	err := db.Update(func(tx state.Tx) error {
		sharing, err := OfAccount(tx, account)
		if err != nil {
			return err
		}
		if len(sharing) == 0 { // an account of nobody: any person may say who it is
			if sharing, err = All(tx); err != nil {
				return err
			}
		}
		i := slices.IndexFunc(sharing, func(p Person) bool { return Same(p.Name, name) })
		secret := NoSecret()
		if i >= 0 {
			who = sharing[i]
			if now.Before(who.Until) {
				refusal = feed.NewFault(fmt.Errorf("the PIN of %s is locked: %w", who.Name, feed.ErrHeld), "H-643",
					"name", who.Name, "until", who.Until.Format(time.RFC3339))
				return nil
			}
			if stored, err := ParseSecret(who.PIN); err == nil {
				secret = stored
			}
		}
		if secret.Is(pin) && i >= 0 && pin != "" {
			if who.Wrong == 0 && who.Until.IsZero() {
				return nil
			}
			who.Wrong, who.Until = 0, time.Time{}
			return tx.Put(bucket, key(who.Number), who)
		}
		refusal = feed.NewFault(fmt.Errorf("name or PIN is not the registered one: %w", feed.ErrHeld), "H-642", "name", name)
		if i >= 0 {
			if who.Wrong++; who.Wrong >= wrongLimit {
				who.Wrong, who.Until = 0, now.Add(lockFor).UTC()
			}
			if err := tx.Put(bucket, key(who.Number), who); err != nil {
				return err
			}
		}
		return tx.Audit(state.Record{Time: now, Who: account, What: "identify", Result: refusal.Error(), Detail: map[string]string{"name": shortened(name)}})
	})
	if err = errors.Join(err, refusal); err != nil {
		return Person{}, err
	}
	return who, nil
}

// shortened keeps what somebody typed from filling the log.
func shortened(s string) string {
	if r := []rune(s); len(r) > maxName {
		return string(r[:maxName])
	}
	return s
}
