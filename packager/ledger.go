package packager

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Loan is who took a medium out and what for. It stays in the ledger and on
// paper; nothing of it is written on the medium.
type Loan struct {
	Borrower   string `json:"borrower,omitempty"`
	Department string `json:"department,omitempty"`
	Purpose    string `json:"purpose,omitempty"`
}

// Where a medium is.
const (
	MediumIn       = "in"
	MediumOut      = "out"
	MediumLost     = "lost"
	MediumDisposed = "disposed"
)

// Medium is one line of the media ledger (媒体管理簿), which the outside keeps.
type Medium struct {
	Number    string    `json:"number"` // ValidMedium
	Product   string    `json:"product,omitempty"`
	Encrypted bool      `json:"encrypted,omitempty"`
	Status    string    `json:"status"`
	Bundle    uint64    `json:"bundle,omitempty"` // on it since the last pack
	Erased    time.Time `json:"erased,omitzero"`  // what was on it before, or all by hand
	Out       time.Time `json:"out,omitzero"`
	In        time.Time `json:"in,omitzero"`
	Loan
	Witness string    `json:"witness,omitempty"` // of the disposal
	Added   time.Time `json:"added"`
}

const bucketMedia = "media" // number → Medium

// Media lists the ledger, by number.
func Media(tx state.Tx) ([]Medium, error) {
	var out []Medium
	for _, decode := range tx.All(bucketMedia, "") {
		var m Medium
		if err := decode(&m); err != nil {
			return nil, fmt.Errorf("media ledger: %w: %w", err, feed.ErrDamaged)
		}
		out = append(out, m)
	}
	return out, nil
}

// MediumOf returns one medium; H-647 if it is not registered.
func MediumOf(tx state.Tx, number string) (Medium, error) {
	var m Medium
	ok, err := tx.Get(bucketMedia, number, &m)
	if err == nil && !ok {
		err = feed.NewFault(fmt.Errorf("medium %.20q is not in the ledger: %w: %w", number, fs.ErrNotExist, feed.ErrConfig), "H-647", "medium", number)
	}
	return m, err
}

func (m Medium) put(tx state.Tx, what string, now time.Time, detail map[string]string) error {
	if err := tx.Put(bucketMedia, m.Number, m); err != nil {
		return err
	}
	detail["medium"] = m.Number
	for k, v := range detail {
		if v == "" || v == "0" {
			delete(detail, k)
		}
	}
	return tx.Audit(state.Record{Time: now, What: what, Result: "ok", Detail: detail})
}

// AddMedium registers a medium. Its number is neutral (ValidMedium), because
// it is written on the medium; one that was used before is refused.
func AddMedium(tx state.Tx, m Medium, now time.Time) error {
	if !ValidMedium(m.Number) {
		return feed.NewFault(fmt.Errorf("medium number %.20q: up to three letters and a number: %w", m.Number, feed.ErrConfig), "H-647", "medium", m.Number)
	}
	var old Medium
	if ok, err := tx.Get(bucketMedia, m.Number, &old); err != nil || ok {
		if err == nil {
			err = feed.NewFault(fmt.Errorf("medium %s is in the ledger already: %w", m.Number, feed.ErrConfig), "H-666", "medium", m.Number, "state", old.Status)
		}
		return err
	}
	m.Status, m.Added = MediumIn, now.UTC()
	return m.put(tx, "media add", now, map[string]string{"product": m.Product, "encrypted": strconv.FormatBool(m.Encrypted)})
}

// MayWrite refuses a medium that is disposed of, and one that is reported lost
// unless found says how it came back (H-648).
func MayWrite(tx state.Tx, number, found string) (Medium, error) {
	m, err := MediumOf(tx, number)
	if err != nil {
		return m, err
	}
	if m.Status == MediumDisposed || m.Status == MediumLost && strings.TrimSpace(found) == "" {
		return m, feed.NewFault(fmt.Errorf("medium %s is %s: %w", number, m.Status, feed.ErrHeld), "H-648", "medium", number, "state", m.Status)
	}
	return m, nil
}

// LendMedium records that a medium goes out: with a bundle that was just
// written, or as it is (bundle 0). erased: an older bundle was removed from it.
// found is as for MayWrite: one that is lost does not go out without a word.
func LendMedium(tx state.Tx, number string, l Loan, bundle uint64, erased bool, found string, now time.Time) error {
	m, err := MayWrite(tx, number, found)
	if err != nil {
		return err
	}
	m.Status, m.Loan, m.Out, m.In = MediumOut, l, now.UTC(), time.Time{}
	if bundle > 0 {
		m.Bundle = bundle
	}
	if erased {
		m.Erased = now.UTC()
	}
	return m.put(tx, "media out", now, map[string]string{"bundle": strconv.FormatUint(m.Bundle, 10), "borrower": l.Borrower, "department": l.Department,
		"purpose": l.Purpose, "erased": strconv.FormatBool(erased)})
}

// ReturnMedium records that a medium is back. One that was reported lost needs
// a word on how it was found (H-648).
func ReturnMedium(tx state.Tx, number, found string, now time.Time) error {
	m, err := MayWrite(tx, number, found)
	if err != nil {
		return err
	}
	m.Status, m.In = MediumIn, now.UTC()
	return m.put(tx, "media in", now, map[string]string{"bundle": strconv.FormatUint(m.Bundle, 10), "found": found})
}

// WipeMedium records that a medium was erased by hand.
func WipeMedium(tx state.Tx, number string, now time.Time) error {
	m, err := MayWrite(tx, number, "")
	if err != nil {
		return err
	}
	was := m.Bundle
	m.Erased, m.Bundle = now.UTC(), 0
	return m.put(tx, "media wiped", now, map[string]string{"bundle": strconv.FormatUint(was, 10)})
}

// DisposeMedium records that a medium was destroyed before a witness, who is
// somebody else.
func DisposeMedium(tx state.Tx, number, witness string, by state.Actor, now time.Time) error {
	m, err := MediumOf(tx, number)
	if err != nil {
		return err
	}
	witness = strings.TrimSpace(witness)
	if witness == "" || state.SameName(witness, by.String()) || state.SameName(witness, by.Account) || m.Status == MediumDisposed {
		return feed.NewFault(fmt.Errorf("medium %s: disposal needs a witness who is somebody else: %w", number, feed.ErrConfig), "H-648", "medium", number, "state", m.Status)
	}
	m.Status, m.Witness, m.Bundle = MediumDisposed, witness, 0
	return m.put(tx, "media disposed", now, map[string]string{"witness": witness})
}

// LoseMedium records that a medium is lost and voids the bundle on it: the
// order travels with the next bundle, and no inside takes a void one without a
// person's word. The order is nil if there was no bundle on it.
func LoseMedium(tx state.Tx, number, reason, operator string, now time.Time) (Medium, *feed.Order, error) {
	m, err := MayWrite(tx, number, "")
	if err != nil {
		return m, nil, err
	}
	m.Status = MediumLost
	o, err := voidBundle(tx, m.Bundle, operator, now)
	if err != nil {
		return m, nil, err
	}
	detail := map[string]string{"bundle": strconv.FormatUint(m.Bundle, 10), "reason": reason, "encrypted": strconv.FormatBool(m.Encrypted)}
	if o != nil {
		detail["order"] = strconv.FormatUint(o.Number, 10)
	}
	return m, o, m.put(tx, "media lost", now, detail)
}

// voidBundle issues the order, once. It travels: the reason somebody gave stays in the log.
func voidBundle(tx state.Tx, bundle uint64, operator string, now time.Time) (*feed.Order, error) {
	orders, err := tx.Orders()
	if err != nil || bundle == 0 {
		return nil, err
	}
	o := feed.Order{Schema: 1, Kind: feed.OrderVoid, Bundle: bundle, Reason: feed.LostMedium, Operator: operator, Issued: now.UTC().Truncate(time.Second)}
	for _, old := range orders {
		if old.Kind == feed.OrderVoid && old.Bundle == bundle {
			return &old, nil
		}
		o.Number = max(o.Number, old.Number)
	}
	o.Number++
	if err := o.Check(); err != nil {
		return nil, err
	}
	return &o, tx.PutOrder(o)
}

// Void reports whether a bundle's medium was reported lost.
func Void(tx state.Tx, bundle uint64) (bool, error) {
	orders, err := tx.Orders()
	for _, o := range orders {
		if o.Kind == feed.OrderVoid && o.Bundle == bundle {
			return true, err
		}
	}
	return false, err
}
