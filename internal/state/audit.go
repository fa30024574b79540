package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
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

// Audit appends r inside the transaction whose effect it records: both happen or neither.
func (t Tx) Audit(r Record) error {
	var last Record
	if b := t.tx.Bucket([]byte(auditBucket)); b != nil {
		if _, raw := b.Cursor().Last(); raw != nil {
			if err := json.Unmarshal(raw, &last); err != nil {
				return fmt.Errorf("audit log: %w: %w", err, feed.ErrDamaged)
			}
		}
	}
	r.Number, r.Prev = last.Number+1, last.Hash
	r.Time = r.Time.UTC().Truncate(time.Millisecond)
	var err error
	if r.Hash, err = r.sum(); err != nil {
		return err
	}
	return t.Put(auditBucket, auditKey(r.Number), r)
}

// AuditLog yields the records from number from on. A record that does not fit
// the one before ends the sequence with ErrDamaged naming its number.
func (t Tx) AuditLog(from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var prev Record
		known := from <= 1
		if !known {
			known, _ = t.Get(auditBucket, auditKey(from-1), &prev)
		}
		next := max(from, 1)
		b := t.tx.Bucket([]byte(auditBucket))
		if b == nil {
			return
		}
		c := b.Cursor()
		for k, raw := c.Seek([]byte(auditKey(next))); k != nil; k, raw = c.Next() {
			var r Record
			err := json.Unmarshal(raw, &r)
			// The stored bytes must be the ones we write: JSON has many spellings of one record.
			var sum string
			var same []byte
			if err == nil {
				sum, err = r.sum()
			}
			if err == nil {
				same, err = json.Marshal(r)
			}
			if err != nil || sum != r.Hash || !bytes.Equal(same, raw) || r.Number != next || (known && r.Prev != prev.Hash) {
				yield(r, fmt.Errorf("audit record %d does not follow from the one before: %w", next, errors.Join(err, feed.ErrDamaged)))
				return
			}
			if !yield(r, nil) {
				return
			}
			prev, known, next = r, true, next+1
		}
	}
}
