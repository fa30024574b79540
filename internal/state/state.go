// Package state keeps what a side must remember: bbolt, one JSON document a
// key. The database is opened per operation and never held, so that a command
// typed by the operator works beside the running service; the holder leaves
// its pid and command beside the file, so that a wait can be explained.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// Schema is the newest database layout this program knows.
const Schema = 1

// ErrBusy: another process holds the database or a lock for longer than we wait.
var ErrBusy = errors.New("busy")

// wait is how long an operation waits for another to end.
const wait = 15 * time.Second

// DB is one data directory's database.
type DB struct {
	dir     Dir
	command string // shown to whoever waits for us
	actor   Actor
}

// At names the database of dir. command says who we are ("fetch").
func At(dir Dir, command string) *DB { return &DB{dir: dir, command: command} }

// Dir is the data directory.
func (db *DB) Dir() Dir { return db.dir }

// Create makes the database of a new data directory and records its side and site.
func (db *DB) Create(side string, site int) error {
	if _, err := os.Stat(db.dir.DB()); err == nil {
		return fmt.Errorf("%s: already set up", db.dir)
	}
	if err := durable.Mkdir(string(db.dir)); err != nil {
		return err
	}
	// bbolt does not flush the directory of a new file (bbolt#567).
	err := db.open(db.dir.DB(), true, func(b *bolt.DB) error {
		return b.Update(func(tx *bolt.Tx) error {
			t := Tx{tx, db.actor}
			if err := t.Put("meta", "schema", Schema); err != nil {
				return err
			}
			if err := t.Put("meta", "side", side); err != nil {
				return err
			}
			return t.Put("meta", "site", site)
		})
	})
	if err != nil {
		return err
	}
	return durable.SyncDir(string(db.dir))
}

// Identity returns the side ("outside", "inside") and the site number.
func (db *DB) Identity() (side string, site int, err error) {
	err = db.View(func(tx Tx) error {
		if _, err := tx.Get("meta", "side", &side); err != nil {
			return err
		}
		_, err := tx.Get("meta", "site", &site)
		return err
	})
	return side, site, err
}

// View runs a read.
func (db *DB) View(f func(Tx) error) error {
	return db.open(db.dir.DB(), false, func(b *bolt.DB) error {
		return b.View(func(tx *bolt.Tx) error {
			t := Tx{tx, db.actor}
			if err := t.checkSchema(); err != nil {
				return err
			}
			return f(t)
		})
	})
}

// Update runs a change: all of it is durable on return, or nothing happened.
func (db *DB) Update(f func(Tx) error) error {
	durable.Step("before state commit")
	err := db.open(db.dir.DB(), false, func(b *bolt.DB) error {
		return b.Update(func(tx *bolt.Tx) error {
			t := Tx{tx, db.actor}
			if err := t.checkSchema(); err != nil {
				return err
			}
			return f(t)
		})
	})
	durable.Step("after state commit")
	return err
}

func (db *DB) open(path string, create bool, f func(*bolt.DB) error) error {
	if !create {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s is not a data directory (run init): %w: %w", db.dir, err, feed.ErrConfig)
		}
	}
	b, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: wait, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%s is in use by %s: %w", db.dir, holder(path), ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, err, feed.ErrDamaged)
	}
	os.WriteFile(path+".holder", fmt.Appendf(nil, "%d %s\n", os.Getpid(), db.command), 0o600) // a hint; no flush
	err = f(b)
	if cerr := b.Close(); err == nil {
		err = cerr
	}
	return err
}

func holder(path string) string {
	b, err := os.ReadFile(path + ".holder")
	if err != nil {
		return "another process"
	}
	return "process " + strings.TrimSpace(string(b))
}

// Lock holds the named lock while f runs: one import, one fetch of a feed, one
// gc at a time. It fails with ErrBusy at once, naming the holder.
func (db *DB) Lock(ctx context.Context, name string, f func(context.Context) error) error {
	if err := durable.Mkdir(db.dir.join("locks")); err != nil {
		return err
	}
	path := db.dir.join("locks", name+".lock")
	b, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 200 * time.Millisecond, NoSync: true})
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("%s: %s is running (%s): %w", db.dir, name, holder(path), ErrBusy)
	}
	if err != nil {
		// A lock file holds nothing: one torn by a power cut is made anew.
		os.Remove(path)
		if b, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: wait, NoSync: true}); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	defer b.Close()
	os.WriteFile(path+".holder", fmt.Appendf(nil, "%d %s\n", os.Getpid(), db.command), 0o600)
	return f(ctx)
}

// Tx is one transaction. Buckets are made when first written.
type Tx struct {
	tx    *bolt.Tx
	actor Actor
}

func (t Tx) checkSchema() error {
	var n int
	if _, err := t.Get("meta", "schema", &n); err != nil {
		return err
	}
	if n > Schema {
		return fmt.Errorf("this data directory was written by a newer program (schema %d, this one knows %d): install the newer program", n, Schema)
	}
	return nil
}

// Get decodes the document under key into v; false if there is none.
func (t Tx) Get(bucket, key string, v any) (bool, error) {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return false, nil
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, fmt.Errorf("state %s/%s: %w: %w", bucket, key, err, feed.ErrDamaged)
	}
	return true, nil
}

// Put stores v under key.
func (t Tx) Put(bucket, key string, v any) error {
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), raw)
}

// Delete removes a key; a missing one is no error.
func (t Tx) Delete(bucket, key string) error {
	if b := t.tx.Bucket([]byte(bucket)); b != nil {
		return b.Delete([]byte(key))
	}
	return nil
}

// All yields a bucket's keys that begin with prefix, in order, with a decoder for each.
func (t Tx) All(bucket, prefix string) iter.Seq2[string, func(v any) error] {
	return func(yield func(string, func(any) error) bool) {
		b := t.tx.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		c := b.Cursor()
		for k, raw := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, raw = c.Next() {
			if !yield(string(k), func(v any) error { return json.Unmarshal(raw, v) }) {
				return
			}
		}
	}
}
