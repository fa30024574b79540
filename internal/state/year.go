package state

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// A year file is the audit log of one fiscal year (1 April to 31 March, JST),
// closed and signed: the records as audit export writes them, then one line,
// the Closing. The records stay in state.db too; nothing removes either.

// Closing is the last line of a year file. Its signature (ECDSA P-256, ASN.1)
// is over "hashike-audit-year-v1", LF and its JSON without Signature.
type Closing struct {
	Format    string      `json:"format"` // "hashike-audit-year"
	Schema    int         `json:"schema"`
	Side      string      `json:"side"`
	Site      int         `json:"site"`
	Year      int         `json:"year"`
	First     uint64      `json:"first"`
	Last      uint64      `json:"last"`
	Anchor    string      `json:"anchor"`  // of the last record
	Records   feed.Digest `json:"records"` // of all bytes before this line
	Closed    time.Time   `json:"closed"`
	Key       []byte      `json:"key"` // SubjectPublicKeyInfo of this side's audit key
	Signature []byte      `json:"signature,omitempty"`
}

const (
	closingFormat = "hashike-audit-year"
	closingTag    = "hashike-audit-year-v1\n"
)

// Fingerprint is the key's, to compare between years: 16 hex digits.
func (c Closing) Fingerprint() string {
	s := sha256.Sum256(c.Key)
	return hex.EncodeToString(s[:8])
}

func (c Closing) signed() ([32]byte, error) {
	c.Signature = nil
	b, err := json.Marshal(c)
	return sha256.Sum256(append([]byte(closingTag), b...)), err
}

// parseClosing reads the last line of a year file and checks its signature by
// the key it names: whose that is, the log itself says.
func parseClosing(line []byte) (Closing, error) {
	var c Closing
	err := json.Unmarshal(line, &c)
	if err == nil && (c.Format != closingFormat || c.Schema != 1 || c.First == 0 || c.Last < c.First) {
		err = fmt.Errorf("schema %d of %.40q", c.Schema, c.Format)
	}
	if err == nil {
		var same []byte
		if same, err = json.Marshal(c); err == nil && !bytes.Equal(same, line) {
			err = errors.New("not as we write it")
		}
	}
	var pub *ecdsa.PublicKey
	if err == nil {
		var k any
		k, err = x509.ParsePKIXPublicKey(c.Key)
		if p, ok := k.(*ecdsa.PublicKey); ok {
			pub = p
		} else if err == nil {
			err = errors.New("no ECDSA key")
		}
	}
	if err == nil {
		var sum [32]byte
		if sum, err = c.signed(); err == nil && !ecdsa.VerifyASN1(pub, sum[:], c.Signature) {
			err = errors.New("the signature does not hold")
		}
	}
	if err != nil {
		return c, fmt.Errorf("closing line of the year file: %w: %w", err, feed.ErrDamaged)
	}
	return c, nil
}

// FiscalYear is the year in which the fiscal year of t began, JST.
func FiscalYear(t time.Time) int {
	j := t.In(feed.JST())
	if j.Month() < time.April {
		return j.Year() - 1
	}
	return j.Year()
}

func yearEnd(year int) time.Time { return time.Date(year+1, time.April, 1, 0, 0, 0, 0, feed.JST()) }

// YearFile is where a closed year lies.
func (d Dir) YearFile(side string, year int) string {
	return d.join("audit", "audit-"+side+"-"+strconv.Itoa(year)+".jsonl")
}

// YearFiles lists the closed years, oldest first.
func (d Dir) YearFiles() ([]string, error) {
	names, err := filepath.Glob(d.join("audit", "audit-*side-[0-9][0-9][0-9][0-9].jsonl"))
	slices.Sort(names)
	return names, err
}

// ErrOpenYear: a year that is not over cannot be closed.
var ErrOpenYear = errors.New("the fiscal year is not over")

// CloseYears closes every fiscal year that is over at now and not closed yet,
// oldest first; with a year, up to that one. It returns what it closed.
// Killed anywhere, the next call goes on.
func CloseYears(db *DB, upTo int, now time.Time) ([]Closing, error) {
	if upTo == 0 {
		upTo = FiscalYear(now) - 1
	}
	if now.Before(yearEnd(upTo)) {
		return nil, fmt.Errorf("%d: %w: %w", upTo, ErrOpenYear, feed.ErrConfig)
	}
	side, site, err := db.Identity()
	if err != nil {
		return nil, err
	}
	var out []Closing
	for {
		first, prev, err := nextOpen(db)
		if err != nil || first.Number == 0 {
			return out, err
		}
		year := max(FiscalYear(first.Time), prev+1)
		if year > upTo {
			return out, nil
		}
		c, err := closeYear(db, Closing{Format: closingFormat, Schema: 1, Side: side, Site: site, Year: year, First: first.Number, Closed: now.UTC().Truncate(time.Second)})
		if err != nil {
			return out, err
		}
		out = append(out, c)
	}
}

// nextOpen is the first record that no year file has, and the last closed year.
func nextOpen(db *DB) (first Record, closed int, err error) {
	files, err := db.dir.YearFiles()
	if err != nil {
		return first, 0, err
	}
	next := uint64(1)
	for _, f := range files {
		c, err := closingOf(f)
		if err != nil {
			return first, 0, err
		}
		next, closed = max(next, c.Last+1), max(closed, c.Year)
	}
	err = db.View(func(tx Tx) error {
		_, err := tx.Get(auditBucket, auditKey(next), &first)
		return err
	})
	return first, closed, err
}

// closingOf reads a year file's last line.
func closingOf(path string) (Closing, error) {
	f, err := os.Open(path)
	if err != nil {
		return Closing{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Closing{}, err
	}
	const most = 8 << 10
	buf := make([]byte, min(most, st.Size()))
	if _, err := f.ReadAt(buf, st.Size()-int64(len(buf))); err != nil {
		return Closing{}, err
	}
	if i := bytes.LastIndexByte(bytes.TrimSuffix(buf, []byte("\n")), '\n'); i >= 0 {
		buf = buf[i+1:]
	}
	c, err := parseClosing(bytes.TrimSuffix(buf, []byte("\n")))
	if err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return c, nil
}

// closeYear writes one year file, then says so in the log.
func closeYear(db *DB, c Closing) (Closing, error) {
	key, err := auditSigner(db.dir)
	if err != nil {
		return c, err
	}
	if c.Key, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return c, err
	}
	if err := durable.Mkdir(db.dir.join("audit")); err != nil {
		return c, err
	}
	err = db.View(func(tx Tx) error { // which records: up to the last one of the year by its own clock
		for r, err := range tx.AuditLog(c.First) {
			if err != nil {
				return err
			}
			if r.Time.Before(yearEnd(c.Year)) {
				c.Last, c.Anchor = r.Number, r.Anchor()
			}
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	path := db.dir.YearFile(c.Side, c.Year)
	err = durable.WriteFrom(path, func(w io.Writer) error {
		h := sha256.New()
		if err := writeRecords(db, io.MultiWriter(w, h), c.First, c.Last); err != nil {
			return err
		}
		c.Records = feed.DigestFrom(h)
		sum, err := c.signed()
		if err != nil {
			return err
		}
		if c.Signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			return err
		}
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		_, err = w.Write(append(line, '\n'))
		return err
	})
	if err != nil {
		return c, err
	}
	durable.Step("after year file")
	return c, db.Update(func(tx Tx) error {
		return tx.Audit(Record{Time: c.Closed, What: "close year", Result: "ok", Detail: map[string]string{"year": strconv.Itoa(c.Year),
			"first": strconv.FormatUint(c.First, 10), "last": strconv.FormatUint(c.Last, 10), "anchor": c.Anchor, "records": string(c.Records), "key": c.Fingerprint()}})
	})
}

// writeRecords writes records as JSON Lines.
func writeRecords(db *DB, w io.Writer, first, last uint64) error {
	return db.View(func(tx Tx) error {
		for r, err := range tx.AuditLog(first) {
			if err != nil {
				return err
			}
			if r.Number > last {
				return nil
			}
			b, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if _, err := w.Write(append(b, '\n')); err != nil {
				return err
			}
		}
		return nil
	})
}

// auditSigner is this side's own key for year files, made when it is first
// needed. It proves that a year file was closed by whoever holds the data
// directory; its fingerprint stands in the log.
func auditSigner(d Dir) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(d.Keys(), "audit.pem")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		if err := durable.Mkdir(d.Keys()); err != nil {
			return nil, err
		}
		return k, durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("keys/audit.pem: %w", feed.ErrDamaged)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("keys/audit.pem: %w: %w", err, feed.ErrDamaged)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("keys/audit.pem: no ECDSA key: %w", feed.ErrDamaged)
	}
	return key, nil
}

// CheckYears holds the year files beside the log: each that the log says was
// closed is there, whole, signed by the key it says, and has the log's records.
func CheckYears(db *DB) error {
	side, _, err := db.Identity()
	if err != nil {
		return err
	}
	return db.View(func(tx Tx) error {
		for r, err := range tx.AuditLog(1) {
			if err != nil {
				return err
			}
			if r.What != "close year" || r.Result != "ok" {
				continue
			}
			year, _ := strconv.Atoi(r.Detail["year"])
			if err := checkYear(db.dir.YearFile(side, year), r.Detail); err != nil {
				return fmt.Errorf("year file %d: %w", year, errors.Join(err, feed.ErrDamaged))
			}
		}
		return nil
	})
}

func checkYear(path string, said map[string]string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var last Record
	for r, err := range ReadAudit(f) {
		if err != nil {
			return err
		}
		last = r
	}
	c, err := closingOf(path)
	if err == nil && (c.Fingerprint() != said["key"] || string(c.Records) != said["records"] || last.Anchor() != said["anchor"]) {
		err = errors.New("is not the one that was closed")
	}
	return err
}
