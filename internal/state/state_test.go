package state

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hashike/hashike/internal/feed"
)

func newDB(t *testing.T) *DB {
	t.Helper()
	db := At(Dir(t.TempDir()+"/data"), "test")
	if err := db.Create("inside", 3); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestIdentityAndFeeds(t *testing.T) {
	db := newDB(t)
	if err := db.Create("outside", 1); err == nil {
		t.Error("set up twice")
	}
	side, site, err := db.Identity()
	if err != nil || side != "inside" || site != 3 {
		t.Fatal(side, site, err)
	}
	err = db.Update(func(tx Tx) error {
		return tx.PutFeed("a", FeedState{Serial: 9, Marks: map[string]int64{"m": 1}})
	})
	if err != nil {
		t.Fatal(err)
	}
	db.View(func(tx Tx) error {
		all, err := tx.Feeds()
		if err != nil || len(all) != 1 || all["a"].Serial != 9 {
			t.Error(all, err)
		}
		return nil
	})
	if err := At(Dir(t.TempDir()), "x").View(func(Tx) error { return nil }); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("no data directory: %v", err)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	db := newDB(t)
	db.Update(func(tx Tx) error { return tx.Put("meta", "schema", Schema+1) })
	if err := db.View(func(Tx) error { return nil }); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Error(err)
	}
}

func TestAFailedUpdateChangesNothing(t *testing.T) {
	db := newDB(t)
	boom := errors.New("boom")
	err := db.Update(func(tx Tx) error {
		tx.PutFeed("a", FeedState{Serial: 1})
		tx.Audit(Record{What: "x"})
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	db.View(func(tx Tx) error {
		if f, _ := tx.Feed("a"); f.Serial != 0 {
			t.Error("half an update stayed")
		}
		for r := range tx.AuditLog(1) {
			t.Errorf("record %+v stayed", r)
		}
		return nil
	})
}

func TestLockNamesTheHolder(t *testing.T) {
	db := newDB(t)
	other := At(db.Dir(), "other")
	err := db.Lock(context.Background(), "import", func(ctx context.Context) error {
		err := other.Lock(ctx, "import", func(context.Context) error { return nil })
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "test") {
			t.Errorf("second holder: %v", err)
		}
		return other.Lock(ctx, "gc", func(context.Context) error { return nil })
	})
	if err != nil {
		t.Error(err)
	}
	// A lock file torn by a power cut is no obstacle.
	os.WriteFile(string(db.Dir())+"/locks/import.lock", []byte("torn"), 0o600)
	if err := db.Lock(context.Background(), "import", func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

// A name that somebody else chose makes no line of its own in the log.
func TestAuditRecordsAreVisible(t *testing.T) {
	db := newDB(t)
	detail := map[string]string{"file": "a\x1b[2J\nb"}
	err := db.Update(func(tx Tx) error {
		return tx.Audit(Record{Time: time.Unix(1e9, 0), Who: "yamada", What: "import", Result: "x\r\n\u202ey", Detail: detail})
	})
	var r Record
	if err == nil {
		err = db.View(func(tx Tx) (err error) { r, _, err = tx.LastRecord(); return err })
	}
	if err != nil || r.Result != `x\r\n\u202ey` || r.Detail["file"] != `a\x1b[2J\nb` || detail["file"] != "a\x1b[2J\nb" {
		t.Errorf("%+v %v", r, err)
	}
}

// Changing any byte of any record must be named with that record's number.
func TestAuditChain(t *testing.T) {
	db := newDB(t)
	const n = 5
	for i := range n {
		err := db.Update(func(tx Tx) error {
			return tx.Audit(Record{Time: time.Unix(int64(1e9+i), 0), Who: "yamada", What: "import", Result: "ok", Detail: map[string]string{"feed": "a"}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func() (good uint64, err error) {
		db.View(func(tx Tx) error {
			for r, e := range tx.AuditLog(1) {
				if e != nil {
					err = e
					return nil
				}
				good = r.Number
			}
			return nil
		})
		return good, err
	}
	if good, err := check(); good != n || err != nil {
		t.Fatal(good, err)
	}
	b, err := bolt.Open(db.dir.DB(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var third []byte
	b.View(func(tx *bolt.Tx) error {
		third = append(third, tx.Bucket([]byte(auditBucket)).Get([]byte(auditKey(3)))...)
		return nil
	})
	b.Close()
	put := func(v []byte) {
		b, err := bolt.Open(db.dir.DB(), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(auditBucket)).Put([]byte(auditKey(3)), v) }); err != nil {
			t.Fatal(err)
		}
	}
	for i := range third {
		bad := append([]byte(nil), third...)
		bad[i] ^= 1 << (i % 8)
		put(bad)
		if good, err := check(); !errors.Is(err, feed.ErrDamaged) || good != 2 {
			t.Fatalf("byte %d (%q): good up to %d, %v", i, third[i], good, err)
		}
	}
}
