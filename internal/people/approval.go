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

// How an approval was given.
const (
	ByPaper     = "paper"     // 紙承認: the stamped sheet
	ByTelephone = "telephone" // of an urgent bundle; the stamped sheet follows
	ByBlanket   = "blanket"   // 包括承認
	ByKey       = "key"       // an approver's key signed the bundle
	Overtaken   = "overtaken" // a later bundle was approved first: nothing waits for this one
)

// Snapshot is one feed's state that an approval is about.
type Snapshot struct {
	Feed   string `json:"feed"`
	Serial uint64 `json:"serial"`
}

// Approval is what one side knows about the approval of one bundle.
type Approval struct {
	Bundle   uint64      `json:"bundle"`
	Set      feed.Digest `json:"set,omitempty"`
	Urgent   bool        `json:"urgent,omitempty"`
	Feeds    []string    `json:"feeds,omitempty"`    // of a bundle that carries some feeds alone: earlier ones go on waiting for theirs
	Operator string      `json:"operator,omitempty"` // who packed it (outside) or brought it in (inside)
	Account  string      `json:"account,omitempty"`  // his, unless a PIN told him from others who use it (state.Actor.Alone)
	How      string      `json:"how,omitempty"`      // empty: it waits
	By       string      `json:"by,omitempty"`       // the approver
	Blanket  uint64      `json:"blanket,omitempty"`
	Recorded time.Time   `json:"recorded,omitzero"`
	Sheet    time.Time   `json:"sheet,omitzero"` // when the stamped sheet was recorded
	Since    time.Time   `json:"since"`
	Waits    []Snapshot  `json:"waits,omitempty"` // inside: what is not published until then
}

// Covers reports whether a person approved what this bundle brings of a feed.
func (a Approval) Covers(feedName string) bool {
	return a.How != "" && a.How != ByBlanket && a.How != Overtaken && (len(a.Feeds) == 0 || slices.Contains(a.Feeds, feedName))
}

// Open reports whether a person must still act: nobody approved, or only by telephone.
func (a Approval) Open() bool {
	return a.How == "" || a.How == ByTelephone && a.Sheet.IsZero()
}

const (
	approvalBucket = "approvals" // bundle number → Approval
	blanketBucket  = "blankets"  // number → Blanket
)

// ApprovalOf returns what is known of a bundle's approval; false if nothing.
func ApprovalOf(tx state.Tx, bundle uint64) (Approval, bool, error) {
	var a Approval
	ok, err := tx.Get(approvalBucket, key(bundle), &a)
	return a, ok, err
}

// Approvals lists all, by bundle number.
func Approvals(tx state.Tx) ([]Approval, error) {
	var out []Approval
	for _, decode := range tx.All(approvalBucket, "") {
		var a Approval
		if err := decode(&a); err != nil {
			return nil, fmt.Errorf("approvals: %w: %w", err, feed.ErrDamaged)
		}
		out = append(out, a)
	}
	return out, nil
}

// Await notes that a bundle waits for approval; one already approved stays so.
// A number that meant another set before starts anew (after a root rotation).
func Await(tx state.Tx, a Approval, now time.Time) error {
	old, ok, err := ApprovalOf(tx, a.Bundle)
	if err != nil {
		return err
	}
	if ok && old.Set == a.Set {
		if old.How != "" {
			return nil
		}
		a.Since = old.Since
	}
	if a.Since.IsZero() {
		a.Since = now.UTC()
	}
	return tx.Put(approvalBucket, key(a.Bundle), a)
}

// Approve records who approved a bundle and how. A telephone approval is for
// urgent bundles only (H-654). Errors as CheckApprover's.
func Approve(tx state.Tx, a Approval, now time.Time) (Approval, error) {
	if a.How == ByTelephone && !a.Urgent {
		return a, feed.NewFault(fmt.Errorf("bundle %d is not urgent: %w", a.Bundle, feed.ErrHeld), "H-654", "number", strconv.FormatUint(a.Bundle, 10))
	}
	var err error
	if a.How == ByPaper || a.How == ByTelephone {
		if a.By, err = CheckApprover(tx, a.By, a.Operator, a.Account); err != nil {
			return a, err
		}
	}
	if a.Recorded = now.UTC(); a.How == ByPaper {
		a.Sheet = now.UTC()
	}
	if a.Since.IsZero() {
		a.Since = now.UTC()
	}
	a.Waits = nil
	if err := tx.Put(approvalBucket, key(a.Bundle), a); err != nil {
		return a, err
	}
	if a.How != ByBlanket && len(a.Feeds) == 0 {
		if err := overtake(tx, a.Bundle); err != nil {
			return a, err
		}
	}
	detail := map[string]string{"bundle": strconv.FormatUint(a.Bundle, 10), "set": string(a.Set), "how": howText(a.How), "approver": a.By}
	if a.Blanket > 0 {
		detail["blanket"] = strconv.FormatUint(a.Blanket, 10)
	}
	return a, tx.Audit(state.Record{Time: now, What: "approve", Result: "ok", Detail: detail})
}

// overtake closes what earlier bundles waited for: each bundle states all.
func overtake(tx state.Tx, bundle uint64) error {
	all, err := Approvals(tx)
	for _, old := range all {
		if old.Bundle < bundle && old.How == "" {
			old.How = Overtaken
			err = errors.Join(err, tx.Put(approvalBucket, key(old.Bundle), old))
		}
	}
	return err
}

// howText is the word of the rules, for the log.
func howText(how string) string {
	return map[string]string{ByPaper: "紙承認", ByTelephone: "電話承認", ByBlanket: "包括承認", ByKey: "鍵承認"}[how]
}

// RecordSheet records the stamped sheet of a bundle that waits, or that was
// approved by telephone. It returns what the bundle kept waiting.
func RecordSheet(tx state.Tx, bundle uint64, by string, now time.Time) (Approval, []Snapshot, error) {
	a, ok, err := ApprovalOf(tx, bundle)
	switch {
	case err != nil:
		return a, nil, err
	case !ok:
		return a, nil, feed.NewFault(fmt.Errorf("bundle %d: %w: %w", bundle, fs.ErrNotExist, feed.ErrConfig), "H-205", "name", strconv.FormatUint(bundle, 10))
	case !a.Open():
		return a, nil, nil
	}
	waits := a.Waits
	a.How, a.By = ByPaper, by
	a, err = Approve(tx, a, now)
	return a, waits, err
}

// CheckApprover returns the approver's registered name. Where anybody is
// registered as approver it must be one of them (H-645); it is never the
// operator, by name or by account (H-644): account is state.Actor.Alone of his.
func CheckApprover(tx state.Tx, name, operator, account string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || len(name) > maxName*4 || strings.ContainsAny(name, "\r\n\t") {
		return "", feed.NewFault(fmt.Errorf("approver %.60q: %w", name, feed.ErrConfig), "H-645", "name", name, "role", string(Approver))
	}
	own := feed.NewFault(fmt.Errorf("%s cannot approve his own bundle: %w", name, feed.ErrHeld), "H-644", "name", name)
	if operator != "" && Same(name, operator) {
		return "", own
	}
	if p, ok, err := Find(tx, name); err != nil {
		return "", err
	} else if ok && account != "" && p.uses(account) {
		return "", own
	}
	holders, err := Holders(tx, Approver)
	if err != nil || len(holders) == 0 {
		return name, err
	}
	i := slices.IndexFunc(holders, func(p Person) bool { return Same(p.Name, name) })
	if i < 0 {
		return "", feed.NewFault(fmt.Errorf("%s is not registered as an approver: %w", name, feed.ErrHeld), "H-645", "name", name, "role", string(Approver))
	}
	return holders[i].Name, nil
}

// Blanket is an approval in advance (包括承認): of antivirus definitions only,
// until 31 March at the latest.
type Blanket struct {
	Number uint64    `json:"number"`
	Feeds  []string  `json:"feeds,omitempty"` // empty: every feed of definitions
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Ended  time.Time `json:"ended,omitzero"`
}

// Covers reports whether b holds for a feed of definitions at t.
func (b Blanket) Covers(feedName string, t time.Time) bool {
	return b.Ended.IsZero() && !t.Before(b.From) && t.Before(b.Until) && (len(b.Feeds) == 0 || slices.Contains(b.Feeds, feedName))
}

// Blankets lists all, ended ones too.
func Blankets(tx state.Tx) ([]Blanket, error) {
	var out []Blanket
	for _, decode := range tx.All(blanketBucket, "") {
		var b Blanket
		if err := decode(&b); err != nil {
			return nil, fmt.Errorf("blanket approvals: %w: %w", err, feed.ErrDamaged)
		}
		out = append(out, b)
	}
	return out, nil
}

// AddBlanket records a blanket approval. The caller has checked that its feeds
// carry definitions. Until zero is the end of the fiscal year; later is H-652.
func AddBlanket(tx state.Tx, b Blanket, by state.Actor, now time.Time) (Blanket, error) {
	if b.Until.IsZero() {
		b.Until = feed.FiscalYearEnd(now)
	}
	if strings.TrimSpace(b.Reason) == "" || b.Until.After(feed.FiscalYearEnd(now)) || !b.Until.After(now) {
		return b, feed.NewFault(fmt.Errorf("a blanket approval has a reason and ends by 31 March: %w", feed.ErrConfig), "H-652", "name", strings.Join(b.Feeds, " "))
	}
	who, err := recorder(tx, by)
	if err != nil {
		return b, err
	}
	account := ""
	if who != "" {
		account = by.Alone()
	}
	if b.By, err = CheckApprover(tx, b.By, who, account); err != nil {
		return b, err
	}
	all, err := Blankets(tx)
	if err != nil {
		return b, err
	}
	b.Number = 1
	for _, old := range all {
		b.Number = max(b.Number, old.Number+1)
	}
	b.From, b.Until, b.Ended = now.UTC(), b.Until.UTC(), time.Time{}
	if err := tx.Put(blanketBucket, key(b.Number), b); err != nil {
		return b, err
	}
	return b, tx.Audit(state.Record{Time: now, What: "approval blanket", Result: "ok", Detail: map[string]string{
		"blanket": strconv.FormatUint(b.Number, 10), "approver": b.By, "reason": b.Reason, "feeds": strings.Join(b.Feeds, ","), "until": b.Until.Format(time.RFC3339),
	}})
}

// recorder is who must differ from the approver: whoever types, unless that is
// an approver who does no operator's work.
func recorder(tx state.Tx, by state.Actor) (string, error) {
	p, ok, err := Find(tx, by.Person)
	if err != nil || ok && p.Has(Approver) && !p.Has(Operator) {
		return "", err
	}
	return by.String(), nil
}

// EndBlanket ends one before its time.
func EndBlanket(tx state.Tx, number uint64, reason string, now time.Time) error {
	var b Blanket
	ok, err := tx.Get(blanketBucket, key(number), &b)
	if err == nil && (!ok || !b.Ended.IsZero()) {
		err = feed.NewFault(fmt.Errorf("blanket approval %d: %w: %w", number, fs.ErrNotExist, feed.ErrConfig), "H-205", "name", strconv.FormatUint(number, 10))
	}
	if err != nil {
		return err
	}
	b.Ended = now.UTC()
	return errors.Join(tx.Put(blanketBucket, key(number), b), tx.Audit(state.Record{Time: now, What: "approval end", Result: "ok",
		Detail: map[string]string{"blanket": strconv.FormatUint(number, 10), "reason": reason}}))
}
