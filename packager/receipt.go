package packager

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/internal/typed"
)

// A receipt code tells the outside which bundle an inside holds whole. Its 24
// decimal digits cross on paper or by telephone:
//
//	NNNNN R MMMMMMMMMMMMMMMM CC
//
// N is the bundle's number, R the result, M the HMAC-SHA-256 under the site's
// secret of "hashike-receipt-v1", site, set digest, N and R, as a number
// modulo 10^16, and CC the check digits of ISO 7064 MOD 97-10 over all before.
// A code that nobody but this inside could make is the only thing besides an
// operator's explicit word that moves a base, and it moves it forward only.
const (
	receiptDigits = 24
	receiptTag    = "hashike-receipt-v1"
	numberDigits  = 5
	macDigits     = 16
)

// Result says what the inside made of the bundle.
type Result int

// The results that a code can carry. Blobs are whole in both.
const (
	ReceiptComplete Result = 1 // every feed was accepted
	ReceiptPartly   Result = 2 // a feed was refused or is not configured there
)

const (
	bucketReceipts = "receipts" // inside: number → Shown: gc keeps what these name
	bucketEntry    = "entry"    // outside: "wrong" → attempts
	wrongLimit     = 10
	lockFor        = time.Hour
)

// Shown is what an inside remembers of a code it showed: everything the
// bundle's state names stays until the outside's base is at least as new.
type Shown struct {
	Number uint64     `json:"number"`
	Code   string     `json:"code"`
	Shown  time.Time  `json:"shown"`
	Feeds  []FeedLine `json:"feeds"`
}

func receiptCode(secret []byte, site int, set feed.Digest, number uint64, r Result) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(receiptTag))
	var b [4 + 8 + 1]byte
	binary.BigEndian.PutUint32(b[:], uint32(site))
	binary.BigEndian.PutUint64(b[4:], number)
	b[12] = byte(r)
	h.Write(b[:4])
	h.Write(set.Sum())
	h.Write(b[4:])
	m := new(big.Int).SetBytes(h.Sum(nil))
	m.Mod(m, new(big.Int).Exp(big.NewInt(10), big.NewInt(macDigits), nil))
	return withCheck(fmt.Sprintf("%0*d%d%0*s", numberDigits, number, r, macDigits, m.String()))
}

// ShowReceipt makes the code of the bundle this inside accepted last. It is
// ErrHeld (H-613) while anything of that bundle's state is missing: missing
// reports how many blobs are. From then on the state is kept for the outside.
func ShowReceipt(db *state.DB, missing func([]FeedLine) (int64, error), who string, now time.Time) (Shown, error) {
	side, site, err := db.Identity()
	if err != nil {
		return Shown{}, err
	}
	if side != "inside" {
		return Shown{}, feed.NewFault(fmt.Errorf("receipt: %w", feed.ErrWrongSide), "H-201", "side", side)
	}
	a, err := accepted(db)
	if err != nil {
		return Shown{}, err
	}
	if a.Number == 0 {
		return Shown{}, feed.NewFault(fmt.Errorf("no bundle was imported yet: %w", feed.ErrHeld), "H-618")
	}
	lines, err := acceptedFeeds(db.Dir(), a)
	if err != nil {
		return Shown{}, err
	}
	n, err := missing(lines)
	if err != nil {
		return Shown{}, err
	}
	if n > 0 {
		return Shown{}, feed.NewFault(fmt.Errorf("bundle %d lacks %d blobs: %w", a.Number, n, feed.ErrHeld), "H-613",
			"number", strconv.FormatUint(a.Number, 10), "count", strconv.FormatInt(n, 10))
	}
	secret, err := os.ReadFile(filepath.Join(db.Dir().Keys(), "receipt.secret"))
	if err != nil {
		return Shown{}, err
	}
	s := Shown{Number: a.Number, Shown: now.UTC().Truncate(time.Second), Feeds: lines}
	err = db.Update(func(tx state.Tx) error {
		result, err := resultOf(tx, lines)
		if err != nil {
			return err
		}
		s.Code = typed.Groups(receiptCode(secret, site, a.Set, a.Number, result))
		if err := tx.Put(bucketReceipts, numberKey(a.Number), s); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, Who: who, What: "receipt show", Result: "ok", Detail: map[string]string{"bundle": strconv.FormatUint(a.Number, 10)}})
	})
	return s, err
}

// resultOf compares what the bundle wanted with what was accepted here.
func resultOf(tx state.Tx, lines []FeedLine) (Result, error) {
	for _, l := range lines {
		f, err := tx.Feed(l.Feed)
		if err != nil {
			return 0, err
		}
		if f.Serial != l.Serial || f.ID != l.Snapshot {
			return ReceiptPartly, nil
		}
	}
	return ReceiptComplete, nil
}

// forgetReceipts ends the promise of codes that an accepted set's base has overtaken.
func forgetReceipts(tx state.Tx, base uint64) error {
	var done []string
	for k, decode := range tx.All(bucketReceipts, "") {
		var s Shown
		if err := decode(&s); err != nil {
			return err
		}
		if s.Number < base {
			done = append(done, k)
		}
	}
	for _, k := range done {
		if err := tx.Delete(bucketReceipts, k); err != nil {
			return err
		}
	}
	return nil
}

// Received is what a code said.
type Received struct {
	Site   int
	Number uint64
	Result Result
	Moved  bool // the site's base moved to Number
}

type wrongEntries struct {
	Count int       `json:"count"`
	Until time.Time `json:"until,omitzero"` // locked
}

// EnterReceipt takes a code that a person typed. Errors: H-602 (ErrConfig) for
// a slip of the finger, H-614 (ErrUntrusted) for a code that no inside made,
// H-615 (ErrHeld) while entry is locked: ten wrong ones lock it for an hour.
func EnterReceipt(db *state.DB, code, who string, now time.Time) (Received, error) {
	side, _, err := db.Identity()
	if err != nil {
		return Received{}, err
	}
	if side != "outside" {
		return Received{}, feed.NewFault(fmt.Errorf("receipt: %w", feed.ErrWrongSide), "H-201", "side", side)
	}
	digits, ok := typed.Digits(code)
	if !ok || len(digits) != receiptDigits || !checks(digits) {
		err := feed.NewFault(fmt.Errorf("the code is %d digits and was mistyped: %w", receiptDigits, feed.ErrConfig), "H-602")
		return Received{}, errors.Join(err, db.Update(func(tx state.Tx) error { return auditRefusal(tx, err, who, now) }))
	}
	var r Received
	var refusal error
	err = db.Update(func(tx state.Tx) error {
		var w wrongEntries
		if _, err := tx.Get(bucketEntry, "wrong", &w); err != nil {
			return err
		}
		if now.Before(w.Until) {
			refusal = feed.NewFault(fmt.Errorf("entry is locked after %d wrong codes: %w", wrongLimit, feed.ErrHeld), "H-615", "until", w.Until.Format(time.RFC3339))
			return auditRefusal(tx, refusal, who, now)
		}
		r, err = matchReceipt(tx, db.Dir(), digits)
		if errors.Is(err, fs.ErrNotExist) {
			refusal = feed.NewFault(fmt.Errorf("no inside of this outside made this code: %w", feed.ErrUntrusted), "H-614")
			if w.Count++; w.Count >= wrongLimit {
				w = wrongEntries{Until: now.Add(lockFor).UTC()}
			}
			if err := tx.Put(bucketEntry, "wrong", w); err != nil {
				return err
			}
			return auditRefusal(tx, refusal, who, now)
		}
		if err != nil {
			return err
		}
		return takeReceipt(tx, &r, who, now)
	})
	if err == nil {
		err = refusal
	}
	return r, err
}

// auditRefusal records a code that was not taken, but not the code.
func auditRefusal(tx state.Tx, why error, who string, now time.Time) error {
	return tx.Audit(state.Record{Time: now, Who: who, What: "receipt enter", Result: why.Error()})
}

// takeReceipt moves the site's base, forward only.
func takeReceipt(tx state.Tx, r *Received, who string, now time.Time) error {
	var base uint64
	if _, err := tx.Get(bucketBases, strconv.Itoa(r.Site), &base); err != nil {
		return err
	}
	if r.Moved = r.Number > base; r.Moved {
		if err := tx.Put(bucketBases, strconv.Itoa(r.Site), r.Number); err != nil {
			return err
		}
	}
	if err := tx.Delete(bucketEntry, "wrong"); err != nil {
		return err
	}
	return tx.Audit(state.Record{Time: now, Who: who, What: "receipt enter", Result: "ok", Detail: map[string]string{
		"site": strconv.Itoa(r.Site), "bundle": strconv.FormatUint(r.Number, 10), "result": strconv.Itoa(int(r.Result)), "moved": strconv.FormatBool(r.Moved),
	}})
}

// matchReceipt finds the site whose secret makes this code; fs.ErrNotExist if none does.
func matchReceipt(tx state.Tx, data state.Dir, digits string) (Received, error) {
	number, err := strconv.ParseUint(digits[:numberDigits], 10, 64)
	if err != nil {
		return Received{}, err
	}
	result := Result(digits[numberDigits] - '0')
	p, ok, err := PackedAs(tx, number)
	if err != nil || !ok || result != ReceiptComplete && result != ReceiptPartly {
		return Received{}, errors.Join(err, fs.ErrNotExist)
	}
	for _, site := range slices.Sorted(slices.Values(p.Sites)) {
		s, err := readSetup(secretPath(data, site))
		if errors.Is(err, fs.ErrNotExist) {
			continue // packed for a site that was never paired
		}
		if err != nil {
			return Received{}, err
		}
		want := strings.ReplaceAll(receiptCode(s.Secret, site, p.Set, number, result), " ", "")
		if hmac.Equal([]byte(want), []byte(digits)) {
			return Received{Site: site, Number: number, Result: result}, nil
		}
	}
	return Received{}, fs.ErrNotExist
}
