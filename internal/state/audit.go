package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Record is one line of the audit log: who did what, when, with what result.
// Each names the hash of the one before, so that no byte of any can change
// unnoticed.
type Record struct {
	Number uint64            `json:"n"`
	Time   time.Time         `json:"time"`             // the machine's clock
	Floor  time.Time         `json:"floor,omitzero"`   // newest signed time known then
	Who    string            `json:"who"`              // OS account
	Person string            `json:"person,omitempty"` // registered name of who used it
	Role   string            `json:"role,omitempty"`   // in which role (package people)
	What   string            `json:"what"`             // "import", "publish", …
	Result string            `json:"result"`           // "ok", or the message code and text
	Detail map[string]string `json:"detail,omitempty"` // feed, serial, digest, bundle, …
	Prev   string            `json:"prev"`             // hash of the record before, hex
	Hash   string            `json:"hash,omitempty"`   // SHA-256 of this record without this field, hex
}

const auditBucket = "audit"

func (r Record) sum() (string, error) {
	r.Hash = ""
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:]), nil
}

func auditKey(n uint64) string { return fmt.Sprintf("%020d", n) }

// Actor is who acts: the OS account, and the registered person and role behind
// it where one is known. It is found out, never typed as a flag.
type Actor struct {
	Account string
	Person  string
	Role    string
}

// String is the person where one is known, else the account: for documents
// other than the audit log ("by").
func (a Actor) String() string {
	if a.Person != "" {
		return a.Person
	}
	return a.Account
}

// As returns db with an actor: from then on every audit record names it,
// whatever the caller of Tx.Audit wrote.
func (db *DB) As(a Actor) *DB {
	other := *db
	other.actor = a
	return &other
}

// Audit appends r inside the transaction whose effect it records: both happen
// or neither. It numbers the record, and adds actor and floor.
func (t Tx) Audit(r Record) error {
	last, _, err := t.LastRecord()
	if err != nil {
		return err
	}
	if t.actor.Account != "" {
		r.Who, r.Person, r.Role = t.actor.Account, t.actor.Person, t.actor.Role
	}
	if r.Floor.IsZero() {
		if r.Floor, err = t.Floor(); err != nil {
			return err
		}
	}
	r.Number, r.Prev = last.Number+1, last.Hash
	r.Time = r.Time.UTC().Truncate(time.Millisecond)
	if r.Hash, err = r.sum(); err != nil {
		return err
	}
	return t.Put(auditBucket, auditKey(r.Number), r)
}

// LastRecord is the newest record; false if there is none yet.
func (t Tx) LastRecord() (Record, bool, error) {
	var last Record
	b := t.tx.Bucket([]byte(auditBucket))
	if b == nil {
		return last, false, nil
	}
	_, raw := b.Cursor().Last()
	if raw == nil {
		return last, false, nil
	}
	if err := json.Unmarshal(raw, &last); err != nil {
		return last, false, fmt.Errorf("audit log: %w: %w", err, feed.ErrDamaged)
	}
	return last, true, nil
}

// AuditLog yields the records from number from on. A record that does not fit
// the one before ends the sequence with ErrDamaged naming its number.
func (t Tx) AuditLog(from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var c chain
		if c.next = max(from, 1); c.next > 1 {
			c.known, _ = t.Get(auditBucket, auditKey(c.next-1), &c.prev)
		} else {
			c.known = true
		}
		b := t.tx.Bucket([]byte(auditBucket))
		if b == nil {
			return
		}
		cur := b.Cursor()
		for k, raw := cur.Seek([]byte(auditKey(c.next))); k != nil; k, raw = cur.Next() {
			if r, err := c.take(raw); !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// ReadAudit is AuditLog for an exported copy: JSON Lines, which may begin
// anywhere. It needs nothing but the file.
func ReadAudit(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var c chain
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 64<<10), maxRecord)
		for lines.Scan() {
			if r, err := c.take(lines.Bytes()); !yield(r, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Record{}, fmt.Errorf("audit record after %d: %w: %w", c.prev.Number, err, feed.ErrDamaged))
		}
	}
}

// maxRecord bounds one line of an exported log.
const maxRecord = 1 << 20

// chain checks records one after the other.
type chain struct {
	prev  Record
	known bool   // prev is the one before the next
	next  uint64 // its number; 0 is any
}

func (c *chain) take(raw []byte) (Record, error) {
	var r Record
	err := json.Unmarshal(raw, &r)
	// The bytes must be the ones we write: JSON has many spellings of one record.
	var sum string
	var same []byte
	if err == nil {
		sum, err = r.sum()
	}
	if err == nil {
		same, err = json.Marshal(r)
	}
	if err != nil || sum != r.Hash || !bytes.Equal(same, raw) || c.next != 0 && r.Number != c.next || c.known && r.Prev != c.prev.Hash {
		return r, fmt.Errorf("audit record %d does not follow from the one before: %w", max(c.next, 1), errors.Join(err, feed.ErrDamaged))
	}
	c.prev, c.known, c.next = r, true, r.Number+1
	return r, nil
}

// Anchor is a record's number and 14 digits of its hash (two of them check
// digits, ISO 7064 MOD 97-10): printed on paper, it fixes the log up to there.
func (r Record) Anchor() string {
	h, _ := hex.DecodeString(r.Hash)
	n := new(big.Int).SetBytes(h)
	n.Mod(n, big.NewInt(1_000_000_000_000))
	digits := fmt.Sprintf("%012d", n)
	c, _ := new(big.Int).SetString(digits+"00", 10)
	digits += fmt.Sprintf("%02d", 98-c.Mod(c, big.NewInt(97)).Int64())
	return fmt.Sprintf("%d-%s-%s-%s", r.Number, digits[:4], digits[4:8], digits[8:])
}

// AnchorNumber is the record that an anchor is about; false if it is mistyped.
func AnchorNumber(anchor string) (uint64, bool) {
	number, digits, ok := strings.Cut(anchor, "-")
	digits = strings.ReplaceAll(digits, "-", "")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || len(digits) != 14 {
		return 0, false
	}
	c, ok := new(big.Int).SetString(digits, 10)
	return n, ok && c.Mod(c, big.NewInt(97)).Int64() == 1
}
