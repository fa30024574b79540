package state

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

func act(t *testing.T, db *DB, at time.Time, what string) {
	t.Helper()
	err := db.Update(func(tx Tx) error {
		return tx.Audit(Record{Time: at, Who: "yamada", What: what, Result: "ok", Detail: map[string]string{"feed": "a<&>\r\n"}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(files ...[]byte) (n int, last Record, err error) {
	var rs []io.Reader
	for _, f := range files {
		rs = append(rs, bytes.NewReader(f))
	}
	for r, e := range ReadAudit(rs...) {
		if last = r; e != nil {
			return n, r, e
		}
		n++
	}
	return n, last, nil
}

// Years are closed by themselves once they are over; the files join into one
// chain, hold alone, and no byte of any record or closing line can change.
func TestYearFiles(t *testing.T) {
	db := newDB(t)
	jst := feed.JST()
	for _, d := range []time.Time{
		time.Date(2025, 5, 1, 9, 0, 0, 0, jst), time.Date(2026, 3, 31, 23, 59, 0, 0, jst),
		time.Date(2016, 1, 1, 0, 0, 0, 0, jst), // a wrong clock in between
		time.Date(2026, 4, 1, 0, 1, 0, 0, jst), time.Date(2027, 1, 10, 9, 0, 0, 0, jst), time.Date(2027, 4, 2, 9, 0, 0, 0, jst),
	} {
		act(t, db, d, "import")
	}
	if _, err := CloseYears(db, 2027, time.Date(2027, 4, 3, 0, 0, 0, 0, jst)); !errors.Is(err, ErrOpenYear) {
		t.Errorf("an open year was closed: %v", err)
	}
	now := time.Date(2027, 4, 3, 0, 0, 0, 0, jst)
	closed, err := CloseYears(db, 0, now)
	if err != nil || len(closed) != 2 || closed[0].Year != 2025 || closed[0].Last != 3 || closed[1].Year != 2026 || closed[1].First != 4 || closed[1].Last != 5 {
		t.Fatalf("%+v %v", closed, err)
	}
	if again, err := CloseYears(db, 0, now); err != nil || len(again) != 0 {
		t.Errorf("closed twice: %+v %v", again, err)
	}
	if err := CheckYears(db); err != nil {
		t.Error(err)
	}
	one, err := os.ReadFile(db.dir.YearFile("inside", 2025))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(db.dir.YearFile("inside", 2026))
	if err != nil {
		t.Fatal(err)
	}
	if n, last, err := read(one, two); n != 5 || last.Number != 5 || err != nil {
		t.Errorf("both years: %d records, last %d, %v", n, last.Number, err)
	}
	if n, _, err := read(two); n != 2 || err != nil {
		t.Errorf("one year alone: %d, %v", n, err)
	}
	if _, r, err := read(one[:bytes.LastIndexByte(one[:len(one)-1], '\n')+1], two[bytes.IndexByte(two, '\n')+1:]); err == nil || r.Number != 4 {
		t.Errorf("a removed record is named %d: %v", r.Number, err)
	}
	lines := bytes.SplitAfter(two, []byte("\n"))
	at := 0
	for i, line := range lines[:len(lines)-1] {
		want := uint64(4 + i)
		for j := range line {
			for _, v := range []byte{line[j] ^ 1, line[j] ^ 0x20, line[j] ^ 0x80, '\r', '\n', ' ', 0} {
				if v == line[j] {
					continue
				}
				bad := bytes.Clone(two)
				bad[at+j] = v
				if _, r, err := read(bad); !errors.Is(err, feed.ErrDamaged) || i < 2 && r.Number != want {
					t.Fatalf("line %d byte %d (%q as %q): record %d named, want %d: %v", i, j, line[j], v, r.Number, want, err)
				}
			}
		}
		at += len(line)
	}
	// A file that is exchanged, cut or gone shows.
	for name, content := range map[string][]byte{"other": one, "cut": two[:len(two)/2], "without its end": bytes.Join(lines[:2], nil)} {
		if err := os.WriteFile(db.dir.YearFile("inside", 2026), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := CheckYears(db); !errors.Is(err, feed.ErrDamaged) || !strings.Contains(err.Error(), "2026") {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.Remove(db.dir.YearFile("inside", 2026))
	if err := CheckYears(db); !errors.Is(err, feed.ErrDamaged) {
		t.Error("a year file that is gone was not missed")
	}
}

func FuzzReadAudit(f *testing.F) {
	f.Add([]byte(`{"n":1,"time":"2026-01-01T00:00:00Z","who":"a","what":"b","result":"ok","prev":""}` + "\n"))
	f.Add([]byte(`{"format":"hashike-audit-year","schema":1}` + "\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { read(b) })
}
