package fetcher

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Run runs one feed once. Its order of durable writes: blobs, snapshot
// document, evidence, state; killed anywhere, the accepted snapshot stays the
// last good one. state.ErrBusy if another process is running this feed.
func (f *Fetcher) Run(ctx context.Context, s feed.Setup) (Result, error) {
	res := Result{Feed: s.Name, Began: f.Clock()}
	if !feed.ValidName(s.Name) || s.Feed == nil {
		res.Err = fmt.Errorf("feed %.80q: no valid name or kind: %w", s.Name, feed.ErrConfig)
		return res, res.Err
	}
	res.Err = f.DB.Lock(ctx, "fetch-"+s.Name, func(ctx context.Context) error { return f.locked(ctx, s, &res) })
	res.Took = f.Clock().Sub(res.Began)
	log := f.Log.With("feed", s.Name, "serial", res.Serial, "requests", res.Requests, "bytes", res.Bytes, "took", res.Took)
	switch {
	case res.Err == nil && res.Unchanged:
		f.count(res, "unchanged")
		log.Info("nothing new")
	case res.Err == nil:
		f.count(res, "accepted")
		log.Info("accepted", "artifacts", res.Artifacts, "withheld", res.Withheld)
	case refuses(res.Err):
		f.count(res, "refused")
		log.Error("refused", "err", res.Err)
	default:
		f.count(res, "error")
		log.Warn("fetch", "err", res.Err)
	}
	return res, res.Err
}

// locked is one run under the feed's lock.
func (f *Fetcher) locked(ctx context.Context, s feed.Setup, res *Result) error {
	var old state.FeedState
	var orders []feed.Order
	err := f.DB.View(func(tx state.Tx) error {
		var err error
		if old, err = tx.Feed(s.Name); err != nil {
			return err
		}
		if orders, err = tx.Orders(); err != nil {
			return err
		}
		return f.up.hosts.load(tx)
	})
	if err != nil {
		return err
	}
	res.Serial, res.ID = old.Serial, old.ID
	if err = s.KnowsAnchors(orders, f.Clock()); err == nil {
		err = f.accepted(s)
	}
	if err != nil {
		return errors.Join(err, f.problem(s.Name, err))
	}
	if err := f.dropUnaccepted(s.Name, old); err != nil {
		return err
	}
	snap, err := f.fetch(ctx, s, old, res)
	if errors.Is(err, feed.ErrUnchanged) {
		res.Unchanged = true
		return f.touch(s.Name)
	}
	if err == nil {
		err = f.judge(ctx, s, old, snap, res)
	}
	err = feed.About(s.Name, err)
	if err != nil && ctx.Err() == nil {
		return errors.Join(err, f.problem(s.Name, err))
	}
	return err
}

// accepted refuses a feed whose vendor attaches terms that nobody here accepted.
func (f *Fetcher) accepted(s feed.Setup) error {
	if s.Terms.None() {
		return nil
	}
	var a state.Acceptance
	if err := f.DB.View(func(tx state.Tx) (err error) { a, err = tx.Accepted(s.Name); return err }); err != nil {
		return err
	}
	if a.Text == s.Terms.Digest() {
		return nil
	}
	why := "nobody accepted the vendor's terms"
	if a.Text != "" {
		why = "the terms are not those that were accepted"
	}
	return feed.NewFault(fmt.Errorf("feed %s: %s: %w", s.Name, why, feed.ErrHeld), "H-630", "feed", s.Name)
}

// dropUnaccepted removes snapshots of a run that was killed before its verdict.
func (f *Fetcher) dropUnaccepted(name string, old state.FeedState) error {
	serials, err := f.Store.Serials(name)
	for _, n := range serials {
		if n > old.Serial {
			err = errors.Join(err, f.forget(name, n))
		}
	}
	return err
}

// forget removes a snapshot without a verdict, and what the verifier wrote about it.
func (f *Fetcher) forget(name string, serial uint64) error {
	return errors.Join(f.Store.DeleteSnapshot(name, serial), durable.Remove(f.Data.Evidence(name, serial, "outside")))
}

// previous is the accepted snapshot, nil if there is none to build on.
func (f *Fetcher) previous(s feed.Setup, old state.FeedState) *cas.Snapshot {
	if old.Serial == 0 || old.Kind != s.Kind.Name {
		return nil
	}
	snap, err := f.Store.Snapshot(s.Name, old.Serial)
	if err != nil {
		f.Log.Error("last snapshot unreadable, fetching in full", "feed", s.Name, "serial", old.Serial, "err", err)
		return nil
	}
	return snap
}

// fetch runs the vendor's tool and the kind's Fetch, and commits the snapshot.
func (f *Fetcher) fetch(ctx context.Context, s feed.Setup, old state.FeedState, res *Result) (*cas.Snapshot, error) {
	if err := f.tool(ctx, s); err != nil {
		return nil, err
	}
	prev := f.previous(s, old)
	r := &run{
		f: f, setup: s, prev: prev, perms: Hosts([]feed.Setup{s}), builder: f.Store.NewSnapshot(),
		roots: map[string]*os.Root{}, origins: map[feed.Digest]feed.Origin{}, answers: map[string]feed.Origin{}, asked: map[feed.Digest]string{},
		journal: openJournal(f.partialDir(s.Name)),
	}
	defer r.close()
	f.Progress(Event{Feed: s.Name, Stage: "fetch"})
	mark, err := r.call(ctx)
	res.Requests, res.Bytes = r.requests.Load(), r.bytes.Load()
	switch {
	case errors.Is(err, feed.ErrUnchanged) && prev == nil:
		return nil, fmt.Errorf("feed %s: unchanged from nothing: %w", s.Name, feed.ErrUpstream)
	case err != nil:
		return nil, err
	case r.builder.Len() == 0:
		err := fmt.Errorf("feed %s: the vendor names no file: %w", s.Name, feed.ErrUpstream)
		return nil, feed.NewFault(err, "H-401", "feed", s.Name, "detail", err.Error())
	}
	now := f.Clock()
	h := feed.Header{Feed: s.Name, Kind: s.Kind.Name, Serial: f.serial(s.Name, old, now), Taken: now, State: mark}
	snap, err := r.builder.Commit(h)
	if err != nil {
		return nil, full(err)
	}
	if prev != nil && same(prev, snap) {
		return nil, errors.Join(feed.ErrUnchanged, f.Store.DeleteSnapshot(s.Name, h.Serial))
	}
	return snap, nil
}

// call is the kind's Fetch; its panic is its own failure and no one else's.
func (r *run) call(ctx context.Context) (mark string, err error) {
	defer func() {
		if v := recover(); v != nil {
			r.f.Log.Error("panic in a feed kind", "feed", r.name(), "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("feed %s: kind %s panicked: %v", r.name(), r.setup.Kind.Name, v)
		}
	}()
	var prev feed.Content // a nil *cas.Snapshot would not be nil
	if r.prev != nil {
		prev = r.prev
	}
	return r.setup.Feed.Fetch(ctx, r, prev, r)
}

// serial is max(previous+1, Unix seconds), and new among the refused ones.
func (f *Fetcher) serial(name string, old state.FeedState, now time.Time) uint64 {
	n := max(old.Serial+1, uint64(max(now.Unix(), 1)))
	if q := f.quarantined(name); len(q) > 0 {
		n = max(n, q[len(q)-1]+1)
	}
	return n
}

// same reports whether two snapshots say the same, but for when and whence.
func same(a, b *cas.Snapshot) bool {
	if a.Len() != b.Len() || a.Header().State != b.Header().State {
		return false
	}
	next, stop := iter.Pull2(b.Artifacts())
	defer stop()
	for x := range a.Artifacts() {
		y, _, ok := next()
		x.Origin, y.Origin = feed.Origin{}, feed.Origin{}
		if !ok || x != y {
			return false
		}
	}
	return true
}

// refuses reports whether a verdict keeps this snapshot from ever being accepted.
func refuses(err error) bool {
	return errors.Is(err, feed.ErrUntrusted) || errors.Is(err, feed.ErrHeld) ||
		errors.Is(err, feed.ErrUpstream) || errors.Is(err, feed.ErrDamaged)
}

// judge has the snapshot verified and accepts it or puts it into quarantine.
func (f *Fetcher) judge(ctx context.Context, s feed.Setup, old state.FeedState, snap *cas.Snapshot, res *Result) error {
	f.Progress(Event{Feed: s.Name, Stage: "verify"})
	h := snap.Header()
	v, err := f.Verify(ctx, s, snap, old)
	if err != nil {
		err = fmt.Errorf("feed %s, snapshot %d: %w", s.Name, h.Serial, err)
		if ctx.Err() != nil || !refuses(err) {
			return errors.Join(err, f.forget(s.Name, h.Serial))
		}
		return errors.Join(err, f.quarantine(s.Name, snap, err))
	}
	now := f.Clock().UTC()
	err = f.DB.Update(func(tx state.Tx) error {
		st, err := tx.Feed(s.Name)
		if err != nil {
			return err
		}
		bundle := st.Bundle
		st = state.FeedState{
			Kind: h.Kind, Serial: h.Serial, ID: snap.ID(), Taken: h.Taken, State: h.State, Accepted: now,
			Marks: v.Marks, Withheld: v.Withheld, Weakest: v.Weakest, Bundle: bundle, Tried: now,
		}
		if err := tx.PutFeed(s.Name, st); err != nil {
			return err
		}
		return tx.Audit(f.record(tx, "ok", map[string]string{
			"feed": s.Name, "serial": fmt.Sprint(h.Serial), "snapshot": string(snap.ID()), "state": h.State,
			"artifacts": fmt.Sprint(snap.Len()), "withheld": fmt.Sprint(len(v.Withheld)), "weakest": v.Weakest.String(),
		}))
	})
	if err != nil {
		return full(err)
	}
	f.clearPartial(s.Name)
	res.Serial, res.ID, res.Artifacts, res.Withheld = h.Serial, snap.ID(), snap.Len(), len(v.Withheld)
	return nil
}

func (f *Fetcher) record(tx state.Tx, result string, detail map[string]string) state.Record {
	floor, _ := tx.Floor() // an unreadable floor is not the audit log's to report
	return state.Record{Time: f.Clock(), Floor: floor, Who: f.Who, What: "fetch", Result: result, Detail: detail}
}

// touch records that the vendor has nothing new.
func (f *Fetcher) touch(name string) error {
	err := f.DB.Update(func(tx state.Tx) error {
		st, err := tx.Feed(name)
		if err != nil {
			return err
		}
		st.Tried, st.Problem, st.Code, st.Since = f.Clock().UTC(), "", "", time.Time{}
		return tx.PutFeed(name, st)
	})
	if err == nil {
		f.clearPartial(name)
	}
	return err
}

// problem records what an attempt met; the accepted state stays.
func (f *Fetcher) problem(name string, cause error) error {
	return f.DB.Update(func(tx state.Tx) error {
		st, err := tx.Feed(name)
		if err != nil {
			return err
		}
		st.Tried, st.Problem, st.Code = f.Clock().UTC(), clip(cause.Error(), 2000), code(cause)
		if st.Since.IsZero() {
			st.Since = st.Tried
		}
		return tx.PutFeed(name, st)
	})
}

func code(err error) string {
	if fault, ok := errors.AsType[*feed.Fault](err); ok {
		return fault.Code
	}
	return ""
}
