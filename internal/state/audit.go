package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
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

func (r Record) isWhole() bool {
	sum, err := r.sum()
	return err == nil && sum == r.Hash
}

func auditKey(n uint64) string { return fmt.Sprintf("%020d", n) }

// As returns db with an actor: from then on every audit record names it,
// whatever the caller of Tx.Audit wrote.
func (db *DB) As(a Actor) *DB {
	other := *db
	other.actor = a
	return &other
}

// Audit appends r inside the transaction whose effect it records: both happen
// or neither. It numbers the record, and adds actor and floor. Whatever names
// come from others, a record is one line and shows all of itself.
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
	r.What, r.Result, r.Detail = feed.Visible(r.What), feed.Visible(r.Result), maps.Clone(r.Detail)
	for k, v := range r.Detail {
		r.Detail[k] = feed.Visible(v)
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

// ReadAudit is AuditLog for exported copies and year files, in the order of
// their records: JSON Lines, which may begin anywhere. It needs nothing but
// the files. A year file's last line is checked against the records before it.
func ReadAudit(files ...io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var c chain
		for _, f := range files {
			if !c.file(f, yield) {
				return
			}
		}
	}
}

// file goes through one file; false ends all.
func (c *chain) file(f io.Reader, yield func(Record, error) bool) bool {
	lines, h := bufio.NewReaderSize(f, maxRecord), sha256.New()
	var first uint64
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return true
		}
		if err != nil { // too long, unreadable, or cut off: every record ends with a newline
			err = fmt.Errorf("audit record %d: %w: %w", max(c.next, 1), err, feed.ErrDamaged)
			yield(Record{Number: max(c.next, 1)}, err)
			return false
		}
		raw := line[:len(line)-1]
		if bytes.HasPrefix(raw, []byte(`{"format":"`)) {
			err := c.closing(raw, first, h)
			if _, more := lines.Peek(1); err == nil && more != io.EOF {
				err = fmt.Errorf("something follows the closing line: %w", feed.ErrDamaged)
			}
			if err != nil {
				yield(Record{Number: c.prev.Number}, err)
			}
			return err == nil
		}
		r, err := c.take(raw)
		if err != nil && c.next == 0 { // the first of a copy: the one after it says which it was
			var whole Record // only its newline changed
			if json.NewDecoder(bytes.NewReader(raw)).Decode(&whole) == nil && whole.isWhole() {
				r.Number = whole.Number
			} else {
				r.Number = firstGood(lines, r.Number) - 1
			}
			err = fmt.Errorf("audit record %d: %w", r.Number, err)
		}
		if !yield(r, err) || err != nil {
			return false
		}
		if first == 0 {
			first = r.Number
		}
		h.Write(line)
	}
}

// firstGood is the number of the next whole record; without one near, that
// after guess, which is what the damaged one calls itself.
func firstGood(lines *bufio.Reader, guess uint64) uint64 {
	for range 4 {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			break
		}
		if end, err := parseClosing(bytes.TrimSuffix(line, []byte("\n"))); err == nil {
			return end.First + 1
		}
		var r Record
		if json.Unmarshal(line, &r) == nil && r.Number > 1 {
			if r.isWhole() {
				return r.Number
			}
		}
	}
	return max(guess, 1) + 1
}

// closing checks a year file's last line.
func (c *chain) closing(raw []byte, first uint64, h hash.Hash) error {
	end, err := parseClosing(raw)
	if err == nil && (end.Records != feed.DigestFrom(h) || end.First != first || end.Last != c.prev.Number || end.Anchor != c.prev.Anchor()) {
		err = fmt.Errorf("the closing line of year %d does not fit the records before it: %w", end.Year, feed.ErrDamaged)
	}
	return err
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
		if c.next > 0 {
			r.Number = c.next
		}
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
