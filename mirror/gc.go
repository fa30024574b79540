package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/scan"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
	"github.com/hashike/hashike/verifier"
)

// GCOptions of one clean-up.
type GCOptions struct {
	DryRun bool
	// Grace keeps blobs imported less than this before now: parts of a set
	// that arrives over several days, whose snapshot is not here yet.
	Grace time.Duration
	Locks []string // further locks that must be free ("fetch-…" on the outside)
}

// GCReport says what a clean-up freed, or would.
type GCReport struct {
	Generations, Snapshots, Blobs int
	Bytes                         int64 // of blobs
	Kept                          int   // blobs
	Busy                          int   // blobs that another program holds open: the next clean-up takes them
}

// namedBuckets hold documents of other engines; every digest in them names a
// blob or a snapshot that must stay.
func namedBuckets() []string { return []string{"bases", "receipts", "sets", "pending"} }

// GC removes what nothing needs: it keeps what the rollback points of every
// ring reach, what was accepted and waits, what is on its way in, and what
// bases and receipts name. It never touches the audit log. It refuses with
// H-804 while an import runs, and none starts meanwhile.
func (p *Publisher) GC(ctx context.Context, o GCOptions) (GCReport, error) {
	var r GCReport
	run := func(ctx context.Context) error {
		_, err := p.settle()
		if err != nil {
			return err
		}
		m, err := p.mark(ctx)
		if err != nil {
			return err
		}
		r, err = p.sweep(ctx, m, o)
		return err
	}
	for _, name := range slices.Concat([]string{"gc", "publish", "import"}, o.Locks) {
		inner := run
		run = func(ctx context.Context) error { return busy(p.DB.Lock(ctx, name, inner)) }
	}
	err := run(ctx)
	return r, err
}

// marks is what must stay.
type marks struct {
	files     map[string]bool // generation files
	snapshots map[string]map[uint64]bool
	blobs     map[[32]byte]bool
	forget    []string // accepted records of snapshots that go
}

func (p *Publisher) mark(ctx context.Context) (*marks, error) {
	m := &marks{files: map[string]bool{}, snapshots: map[string]map[uint64]bool{}, blobs: map[[32]byte]bool{}}
	var d *desk
	named := map[feed.Digest]bool{}
	err := p.DB.View(func(tx state.Tx) error {
		var err error
		if d, err = readDesk(tx); err != nil {
			return err
		}
		for _, bucket := range namedBuckets() {
			for _, decode := range tx.All(bucket, "") {
				var doc json.RawMessage
				if err := decode(&doc); err != nil {
					return err
				}
				digestsIn(doc, named)
			}
		}
		bases, err := packager.Bases(tx) // the outside computes increments from these snapshots
		for _, b := range bases {
			for _, l := range b.Feeds {
				named[l.Snapshot] = true
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for g := range named {
		m.blob(g)
	}
	if err := p.markFeeds(d, named, m); err != nil {
		return nil, err
	}
	return m, p.markBlobs(ctx, m)
}

// digestsIn collects every digest that a JSON document names, as key or value.
func digestsIn(doc json.RawMessage, into map[feed.Digest]bool) {
	var walk func(v any)
	note := func(s string) {
		if g, err := feed.ParseDigest(s); err == nil {
			into[g] = true
		}
	}
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			note(v)
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for k, e := range v {
				note(k)
				walk(e)
			}
		}
	}
	var v any
	if json.Unmarshal(doc, &v) == nil {
		walk(v)
	}
}

func (m *marks) blob(d feed.Digest) {
	if sum := d.Sum(); sum != nil {
		m.blobs[[32]byte(sum)] = true
	}
}

func (m *marks) has(d feed.Digest) bool {
	sum := d.Sum()
	return sum != nil && m.blobs[[32]byte(sum)]
}

// markFeeds decides which generations and snapshots stay, of configured feeds
// and of those that left the configuration alike.
func (p *Publisher) markFeeds(d *desk, named map[feed.Digest]bool, m *marks) error {
	stored, err := p.Store.Feeds()
	if err != nil {
		return err
	}
	for _, name := range stored {
		keep := map[uint64]bool{}
		m.snapshots[name] = keep
		reached := ^uint64(0) // the oldest of what rings see now
		for _, ring := range feed.Rings() {
			gens, _, err := Generations(p.Data, ring, name)
			if err != nil {
				return err
			}
			for _, g := range rollbackPoints(gens, p.Keep) {
				m.files[generationPath(p.Data, ring, name, g.Number)] = true
				for _, n := range g.serials() {
					keep[n] = true
				}
			}
		}
		for _, ring := range p.Rings.active() {
			cur, err := p.current(ring, name)
			if err != nil {
				return err
			}
			reached = min(reached, cur.Serial)
		}
		accepted := d.feeds[name].Serial
		serials, err := p.Store.Serials(name)
		if err != nil {
			return err
		}
		for _, n := range serials {
			_, waits := d.accepted[name][n]
			_, barred := d.barred[name][n]
			snap, err := p.Store.Snapshot(name, n)
			// What cannot be read names nothing; the accepted one stays for its evidence.
			isNamed := err == nil && named[snap.ID()]
			if n >= accepted || waits && !barred && n > reached || isNamed {
				keep[n] = true
			}
		}
		for n := range d.accepted[name] {
			if !keep[n] {
				m.forget = append(m.forget, serialKey(name, n))
			}
		}
	}
	return nil
}

func (p *Publisher) markBlobs(ctx context.Context, m *marks) error {
	for name, keep := range m.snapshots {
		for n := range keep {
			if err := ctx.Err(); err != nil {
				return err
			}
			snap, err := p.Store.Snapshot(name, n)
			if errors.Is(err, fs.ErrNotExist) {
				delete(keep, n)
				continue
			}
			if err != nil {
				return err // a damaged document: nobody knows what it needs, so nothing goes
			}
			for a, err := range snap.Artifacts() {
				if err != nil {
					return err
				}
				m.blob(a.Digest)
			}
		}
	}
	return nil
}

// sweep removes in the order in which things point at each other: generations,
// records, snapshots with evidence and derived files, blobs. Killed anywhere,
// what is left points at nothing that is gone.
func (p *Publisher) sweep(ctx context.Context, m *marks, o GCOptions) (GCReport, error) {
	var r GCReport
	remove := func(path string) error {
		if o.DryRun {
			return nil
		}
		return durable.Remove(path)
	}
	for name := range m.snapshots {
		for _, ring := range feed.Rings() {
			numbers, err := generationNumbers(p.Data, ring, name)
			if err != nil {
				return r, err
			}
			for i, n := range numbers {
				path := generationPath(p.Data, ring, name, n)
				if m.files[path] || i == 0 { // the highest number stays even if unreadable: numbers never go back
					continue
				}
				if err := remove(path); err != nil {
					return r, err
				}
				r.Generations++
			}
		}
	}
	if err := p.forget(m, o); err != nil {
		return r, err
	}
	for name, keep := range m.snapshots {
		n, err := p.sweepSnapshots(name, keep, o)
		r.Snapshots += n
		if err != nil {
			return r, err
		}
	}
	if err := p.sweepBlobs(ctx, m, o, &r); err != nil || o.DryRun || r.Blobs == 0 {
		return r, err
	}
	return r, p.DB.Update(p.forgetVerdicts)
}

// forgetVerdicts drops what was found in blobs that are gone, and by trust
// that no feed has any more.
func (p *Publisher) forgetVerdicts(tx state.Tx) error {
	here := func(d feed.Digest) bool { _, ok := p.Store.Stat(d); return ok }
	if _, err := scan.Forget(tx, here); err != nil {
		return err
	}
	orders, err := tx.Orders()
	if err != nil {
		return err
	}
	var live []string
	for _, s := range p.Feeds {
		live = append(live, verifier.BuildTrust(s.Kind.Anchors, orders, s.Name, p.Clock()).Epoch)
	}
	_, err = verifier.ForgetVerdicts(tx, live, here)
	return err
}

func (p *Publisher) forget(m *marks, o GCOptions) error {
	if o.DryRun || len(m.forget) == 0 {
		return nil
	}
	return p.DB.Update(func(tx state.Tx) error {
		for _, key := range m.forget {
			if err := errors.Join(tx.Delete(acceptedBucket, key), tx.Delete(barredBucket, key)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Publisher) sweepSnapshots(name string, keep map[uint64]bool, o GCOptions) (int, error) {
	serials, err := p.Store.Serials(name)
	if err != nil {
		return 0, err
	}
	gone := 0
	for _, n := range serials {
		if keep[n] {
			continue
		}
		gone++
		if o.DryRun {
			continue
		}
		if err := p.Store.DeleteSnapshot(name, n); err != nil {
			return gone, err
		}
	}
	if o.DryRun {
		return gone, nil
	}
	// Evidence and derived files, also what a killed clean-up left of them.
	dir := filepath.Dir(p.Data.Evidence(name, 1, "inside"))
	if err := removeUnkept(dir, keep, durable.Remove); err != nil {
		return gone, err
	}
	return gone, removeUnkept(filepath.Dir(p.Data.Derived(name, 1)), keep, durable.RemoveAll)
}

// removeUnkept removes the entries of dir whose name begins with a serial that
// is not kept, and what a killed process left unfinished.
func removeUnkept(dir string, keep map[uint64]bool, remove func(string) error) error {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range ents {
		base, _, _ := strings.Cut(e.Name(), ".")
		n, nerr := strconv.ParseUint(base, 10, 64)
		if strings.HasPrefix(e.Name(), durable.TempPrefix) || nerr == nil && !keep[n] {
			durable.Step("before remove " + e.Name())
			err = errors.Join(err, remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

func (p *Publisher) sweepBlobs(ctx context.Context, m *marks, o GCOptions, r *GCReport) error {
	since := p.Clock().Add(-o.Grace)
	return p.Store.Walk(ctx, func(d feed.Digest, size int64, imported time.Time) error {
		if m.has(d) || o.Grace > 0 && imported.After(since) {
			r.Kept++
			return nil
		}
		if !o.DryRun {
			if err := p.Store.Delete(d); durable.Held(err) {
				r.Busy++ // nothing points at it: it may stay for now
				return nil
			} else if err != nil {
				return err
			}
		}
		r.Blobs++
		r.Bytes += size
		return nil
	})
}
