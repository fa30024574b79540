package feed

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Decisions: what terminals are to do with single updates, for kinds whose
// protocol has approvals (wsus). The engine keeps them, orders them and records
// them; what an action means and what the rules are, the kind knows.

// Who decided, the strongest first: a person's word inside is above a person's
// outside, that above the clean-up of superseded updates, that above a rule of
// the inside's configuration, that above a rule of the outside's.
const (
	ByInside     = "inside" // also the empty one
	ByOutside    = "outside"
	BySuperseded = "superseded"
	ByRule       = "rule"

	ByOutsideRule = "outside-rule" // a rule that an order brought
)

// Decision is the word on one update for one group of terminals.
type Decision struct {
	Subject  string    `json:"subject"`         // the kind's own id; "*" is every update that nothing else names
	Group    string    `json:"group,omitempty"` // target group or ring; empty is all
	Action   string    `json:"action"`          // the kind's own word: "install", "decline"
	Deadline time.Time `json:"deadline,omitzero"`
	Source   string    `json:"source,omitempty"` // By…
	Since    time.Time `json:"since,omitzero"`   // when it was made
	From     time.Time `json:"from,omitzero"`    // a rule's wait: until then the update is not offered
	Next     bool      `json:"next,omitempty"`   // holds from the next newer publication on
	By       string    `json:"by,omitempty"`     // who, or which rule or update
	Reason   string    `json:"reason,omitempty"`
}

// Key is what can have one decision only, within one source.
func (d Decision) Key() string { return strings.ToLower(d.Subject + "\x00" + d.Group) }

// SortDecisions puts them into the order in which documents hold them.
func SortDecisions(list []Decision) {
	slices.SortFunc(list, func(a, b Decision) int { return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key(), b.Key())) })
}

// OutsideRules are rules of approval that an order brought.
type OutsideRules struct {
	Body json.RawMessage
	By   string // "order 12"
}

const maxDecisionText = 400

// Check refuses what no person could mean; the kind knows the actions.
func (d Decision) Check() error {
	for _, s := range []string{d.Subject, d.Group, d.Action, d.By, d.Reason} {
		if len(s) > maxDecisionText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("decision on %.80q: a text is too long or has control characters: %w", d.Subject, ErrConfig)
		}
	}
	if d.Subject == "" || d.Action == "" {
		return fmt.Errorf("decision on %.80q: subject and action are required: %w", d.Subject, ErrConfig)
	}
	return nil
}

// Update is one thing to decide about.
type Update struct {
	ID         string    `json:"id"`
	Title      Text      `json:"title"`
	Name       string    `json:"name,omitempty"` // a short one: "KB2999226"
	Class      Text      `json:"class"`
	Products   []Text    `json:"products,omitempty"`
	Created    time.Time `json:"created,omitzero"` // by the vendor
	Size       int64     `json:"size"`
	Complete   bool      `json:"complete"`             // all its files are here
	Superseded []string  `json:"superseded,omitempty"` // ids of the updates that supersede it
}

// Decider is an optional ability of kinds whose updates are approved one by one.
type Decider interface {
	// Updates lists what can be decided about, in the kind's own order.
	Updates(v View) ([]Update, error)
	// Titles names updates by id; those it does not know are left out.
	Titles(derived fs.FS, ids []string) (map[string]Text, error)
	// Actions are the words that a person may use.
	Actions() []string
	// Rules are the configured rules in JSON, for another program of this kind;
	// nil if there are none. They hold no secret and name no person.
	Rules() json.RawMessage
	// CheckRules refuses rules of an outside that this program does not understand.
	CheckRules(json.RawMessage) error
	// Policy is a fingerprint of the configured rules and the outside's: when it changes, rules are applied anew.
	Policy(outside json.RawMessage) string
	// Decide applies rules and clean-up for one ring at now. v.Decisions are the
	// persons' words, v.Rules the outside's; prev is what Decide returned for the ring's last
	// publication, which newer says was of an older snapshot.
	Decide(v View, ring string, prev []Decision, newer bool, now time.Time) ([]Decision, error)
}
