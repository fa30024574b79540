package packager

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Accepted is what the inside keeps of a set it accepted.
type Accepted struct {
	Dir      string      `json:"dir"` // below trust/
	Number   uint64      `json:"number"`
	Version  int64       `json:"version"`
	Set      feed.Digest `json:"set"`
	Created  time.Time   `json:"created"`
	Expires  time.Time   `json:"expires"` // the earliest of the metadata's
	Accepted time.Time   `json:"accepted"`
	Held     string      `json:"held,omitempty"` // HeldExpired, HeldFuture: publishing waits for a person
	Released string      `json:"released,omitempty"`
}

// Why a set that was imported is not published by itself.
const (
	HeldExpired = "expired" // newer, but its expiry had passed
	HeldFuture  = "future"  // created more than 400 days after the floor
)

// Buckets of state.db that belong to this package.
const (
	bucketBundle = "bundle" // inside: "accepted"; outside: "packed"
	bucketSets   = "sets"   // inside: number → Accepted; forks are seen here
	bucketPacked = "packed" // outside: number → Packed
	bucketBases  = "bases"  // outside: site → number of the base
)

// firstTrust is the trust directory that pairing makes.
const firstTrust = "accepted-0"

func numberKey(n uint64) string { return fmt.Sprintf("%010d", n) }

// Current returns the set accepted last; false before the first.
func Current(tx state.Tx) (Accepted, bool, error) {
	var a Accepted
	ok, err := tx.Get(bucketBundle, "accepted", &a)
	return a, ok, err
}

// Bundle returns what is known of an accepted set by its number. A feed whose
// FeedState.Bundle is a number with Held set must not be published by itself.
func BundleOf(tx state.Tx, number uint64) (Accepted, bool, error) {
	var a Accepted
	ok, err := tx.Get(bucketSets, numberKey(number), &a)
	return a, ok, err
}

// accepted is Current with the directory of pairing for an empty one.
func accepted(db *state.DB) (Accepted, error) {
	var a Accepted
	err := db.View(func(tx state.Tx) error {
		var err error
		a, _, err = Current(tx)
		return err
	})
	if a.Dir == "" {
		a.Dir = firstTrust
	}
	return a, err
}

// loadTrusted reads the metadata that an accepted set left.
func loadTrusted(data state.Dir, a Accepted) (trusted, error) {
	dir := filepath.Join(data.Trust(), a.Dir)
	var t trusted
	var err error
	if t.roots, err = roots(dir); err != nil {
		return t, err
	}
	if a.Number == 0 {
		return t, nil
	}
	for name, into := range map[string]*[]byte{"timestamp.json": &t.timestamp, "snapshot.json": &t.snapshot, "targets.json": &t.targets} {
		if *into, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return t, fmt.Errorf("accepted metadata: %w: %w", err, feed.ErrDamaged)
		}
	}
	return t, nil
}

// Accept makes a newer set the accepted one: metadata, orders and tables first
// in a directory of their own, then pointer, floor, orders and audit record in
// one transaction. A set that is not newer changes nothing. Repeating it after
// a kill is safe at any point. A set that lacks its approval is kept aside, and
// that is H-661 (ErrHeld).
func (b *Bundle) Accept(db *state.DB, who string) error {
	if b.standing != Newer {
		return nil
	}
	if b.judged.unapproved {
		return b.keepPending(db, who)
	}
	a := Accepted{
		Dir: "accepted-" + strconv.FormatInt(b.judged.version, 10), Number: b.set.Number, Version: b.judged.version,
		Set: b.id, Created: b.set.Created, Expires: b.expires, Accepted: b.now, Held: b.held,
	}
	if err := b.writeTrust(a.Dir); err != nil {
		return err
	}
	err := db.Update(func(tx state.Tx) error {
		was, _, err := Current(tx)
		if err != nil {
			return err
		}
		if was.Set != b.was.Set {
			return fmt.Errorf("bundle %d was accepted meanwhile: %w", was.Number, state.ErrBusy)
		}
		return b.commit(tx, a, who)
	})
	if err != nil {
		return err
	}
	b.was, b.desired, b.standing, b.accepted = a, b.feeds, Same, true
	waiting := ""
	if err := db.View(func(tx state.Tx) error {
		p, _, err := PendingBundle(tx)
		waiting = p.Dir
		return err
	}); err != nil {
		return err
	}
	if b.fromPending { // its media are removed now
		b.Close()
	}
	return errors.Join(b.dropTrust(a.Dir), dropPending(b.opt.Data, waiting))
}

func (b *Bundle) commit(tx state.Tx, a Accepted, who string) error {
	floor := b.floor
	have, err := tx.Orders()
	if err != nil {
		return err
	}
	for _, o := range b.orders {
		isNew := !slices.ContainsFunc(have, func(h feed.Order) bool { return h.Number == o.Number })
		if o.Kind == feed.OrderFloor && isNew {
			floor = o.Time // the one thing that moves it back
		}
		if err := tx.PutOrder(o.Order); err != nil {
			return err
		}
	}
	if b.judged.rotated { // numbers of a key no longer believed bind nobody
		for k := range tx.All(bucketSets, "") {
			if err := tx.Delete(bucketSets, k); err != nil {
				return err
			}
		}
	}
	if err := tx.Put(bucketSets, numberKey(a.Number), a); err != nil {
		return err
	}
	if err := tx.Put(bucketBundle, "accepted", a); err != nil {
		return err
	}
	if err := b.commitApproval(tx, a); err != nil {
		return err
	}
	if b.set.Base != nil {
		if err := forgetReceipts(tx, b.set.Base.Number); err != nil {
			return err
		}
	}
	if b.set.Created.After(floor) && a.Held != HeldFuture {
		floor = b.set.Created
	}
	if err := tx.SetFloor(floor); err != nil {
		return err
	}
	return tx.Audit(state.Record{Time: b.now, Floor: floor, Who: who, What: "accept bundle", Result: "ok", Detail: map[string]string{
		"bundle": strconv.FormatUint(a.Number, 10), "set": string(a.Set), "held": a.Held,
	}})
}

// commitApproval keeps the approvals of the accepted set and ends the wait of
// any that is not newer.
func (b *Bundle) commitApproval(tx state.Tx, a Accepted) error {
	if len(b.approvals.given) > 0 {
		if err := tx.Put(bucketApprovals, numberKey(a.Number), b.approvals.given); err != nil {
			return err
		}
	}
	p, ok, err := PendingBundle(tx)
	if err != nil || !ok || p.Version > a.Version && !b.judged.rotated {
		return err
	}
	return tx.Delete(bucketBundle, "pending")
}

// writeTrust writes what must outlive the medium, then gives the directory its name.
func (b *Bundle) writeTrust(name string) error {
	trust := b.opt.Data.Trust()
	temp := filepath.Join(trust, durable.TempPrefix+name)
	if err := durable.RemoveAll(temp); err != nil {
		return err
	}
	if err := durable.Mkdir(temp); err != nil {
		return err
	}
	files := map[string][]byte{
		"timestamp.json": b.judged.timestamp, "snapshot.json": b.judged.snapshot, "targets.json": b.judged.targets,
		nameSet: b.setRaw, nameOrders: b.ordersRaw,
	}
	for i, r := range b.judged.roots {
		files[strconv.Itoa(i+1)+".root.json"] = r
	}
	for n, c := range files {
		if err := durable.WriteFile(filepath.Join(temp, n), c); err != nil {
			return err
		}
	}
	if err := b.copyFeeds(filepath.Join(temp, "feeds.jsonl.zst")); err != nil {
		return err
	}
	final := filepath.Join(trust, name)
	if err := durable.RemoveAll(final); err != nil { // of a run that was killed: nothing points to it
		return err
	}
	durable.Step("before trust rename")
	if err := durable.Rename(temp, final); err != nil {
		return err
	}
	err := durable.SyncDir(trust)
	durable.Step("after trust rename")
	return err
}

func (b *Bundle) copyFeeds(to string) error {
	f, err := b.table(nameFeeds, b.set.Feeds)
	if err != nil {
		return err
	}
	defer f.Close()
	return durable.WriteFrom(to, func(w io.Writer) error { _, err := io.Copy(w, f); return err })
}

// dropTrust removes the directories of earlier sets.
func (b *Bundle) dropTrust(keep string) error {
	trust := b.opt.Data.Trust()
	ents, err := os.ReadDir(trust)
	if err != nil {
		return err
	}
	for _, e := range ents {
		n := strings.TrimPrefix(e.Name(), durable.TempPrefix)
		if e.IsDir() && strings.HasPrefix(n, "accepted-") && e.Name() != keep {
			err = errors.Join(err, durable.RemoveAll(filepath.Join(trust, e.Name())))
		}
	}
	return err
}

// acceptedFeeds reads the feeds table of the accepted set; nil before the first.
func acceptedFeeds(data state.Dir, a Accepted) ([]FeedLine, error) {
	if a.Number == 0 {
		return nil, nil
	}
	dir := filepath.Join(data.Trust(), a.Dir)
	raw, err := os.ReadFile(filepath.Join(dir, nameSet))
	if err != nil {
		return nil, fmt.Errorf("accepted set: %w: %w", err, feed.ErrDamaged)
	}
	set, err := parseSet(raw)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, "feeds.jsonl.zst"))
	if err != nil {
		return nil, fmt.Errorf("accepted set: %w: %w", err, feed.ErrDamaged)
	}
	defer f.Close()
	return readFeeds(f, set.Feeds.Lines)
}

// Release lets a held set be published, on a person's word ("publish --late
// REASON"). A set from the future moves the floor now.
func Release(db *state.DB, number uint64, reason, who string, now time.Time) error {
	if strings.TrimSpace(reason) == "" {
		return fmt.Errorf("a reason is required: %w", feed.ErrConfig)
	}
	return db.Update(func(tx state.Tx) error {
		a, ok, err := BundleOf(tx, number)
		if err == nil && (!ok || a.Held == "") {
			err = fmt.Errorf("bundle %d is not held: %w", number, fs.ErrNotExist)
		}
		if err != nil {
			return err
		}
		floor, err := tx.Floor()
		if err != nil {
			return err
		}
		if a.Held == HeldFuture && a.Created.After(floor) {
			floor = a.Created
			if err := tx.SetFloor(floor); err != nil {
				return err
			}
		}
		held := a.Held
		a.Held, a.Released = "", reason
		if err := tx.Put(bucketSets, numberKey(number), a); err != nil {
			return err
		}
		if cur, _, err := Current(tx); err != nil {
			return err
		} else if cur.Number == number {
			if err := tx.Put(bucketBundle, "accepted", a); err != nil {
				return err
			}
		}
		return tx.Audit(state.Record{Time: now, Floor: floor, Who: who, What: "release bundle", Result: "ok", Detail: map[string]string{
			"bundle": strconv.FormatUint(number, 10), "held": held, "reason": reason,
		}})
	})
}
