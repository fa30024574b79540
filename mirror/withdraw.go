package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Withdraw stops serving: a whole feed ("clamav-main"), or one file of it
// ("debian-security" and the artifact's path or its digest). The file stays
// stopped in later snapshots with the same bytes. It returns who took it, as
// far as the server's ledger knows.
func (p *Publisher) Withdraw(ctx context.Context, name, file, by, reason string) (gens []Generation, took []feed.Sighting, err error) {
	s, err := p.setup(name)
	if err != nil {
		return nil, nil, err
	}
	err = p.locked(ctx, func(ctx context.Context, d *desk) error {
		gens, took, err = p.withdraw(ctx, d, s, file, by, reason, nil)
		return err
	})
	return gens, took, err
}

func (p *Publisher) withdraw(ctx context.Context, d *desk, s feed.Setup, file, by, reason string, also func(state.Tx) error) ([]Generation, []feed.Sighting, error) {
	now := p.Clock()
	var stops []Withdrawal
	if file != "" {
		found, err := p.named(s.Name, file)
		if err != nil {
			return nil, nil, err
		}
		for _, a := range found {
			stops = append(stops, Withdrawal{Digest: a.Digest, Path: a.Path, Reason: reason, By: by, Time: now.UTC()})
		}
		if len(stops) == 0 {
			err := fmt.Errorf("%s: no published file %.200q: %w", s.Name, file, feed.ErrHeld)
			return nil, nil, feed.NewFault(err, "H-611", "feed", s.Name, "file", file)
		}
	}
	steps, err := p.stopSteps(s, file == "", by, reason)
	if err != nil {
		return nil, nil, err
	}
	gens, err := p.carryOut(ctx, d, "withdraw", now, steps, func(tx state.Tx) error {
		for _, w := range stops {
			if err := tx.Put(withdrawnBucket, s.Name+"/"+string(w.Digest), w); err != nil {
				return err
			}
		}
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		if file != "" {
			return nil
		}
		h := Hold{Reason: reason, By: by, Since: now.UTC()}
		var back []uint64
		for _, st := range steps {
			back, h.Serial = append(back, st.snap.Serial), max(h.Serial, st.snap.Serial)
		}
		return takeBack(tx, d, s.Name, back, h)
	})
	if err != nil {
		return gens, nil, err
	}
	took, err := p.took(s.Name, stops)
	return gens, took, err
}

// stopSteps is a new generation for every ring that has one.
func (p *Publisher) stopSteps(s feed.Setup, whole bool, by, reason string) (steps []step, err error) {
	for _, ring := range feed.Rings() {
		gens, _, err := Generations(p.Data, ring, s.Name)
		if err != nil {
			return nil, err
		}
		g := first(gens)
		if g.Number == 0 {
			continue
		}
		steps = append(steps, step{ring: ring, setup: s, stopped: whole || g.Stopped, reason: reason, by: by, snap: g.accepted()})
	}
	if len(steps) == 0 {
		err := fmt.Errorf("%s: nothing is published: %w", s.Name, feed.ErrHeld)
		return nil, feed.NewFault(err, "H-611", "feed", s.Name, "file", "")
	}
	return steps, nil
}

// named finds the published artifacts that a person means by a path, as the
// terminal asks for it or as the snapshot has it, or by a digest.
func (p *Publisher) named(name, file string) ([]feed.Artifact, error) {
	byDigest, _ := parseDigest(file)
	clean := strings.TrimPrefix(path.Clean("/"+file), "/")
	out := map[feed.Digest]feed.Artifact{}
	for _, ring := range feed.Rings() {
		gens, _, err := Generations(p.Data, ring, name)
		if err != nil {
			return nil, err
		}
		for _, n := range first(gens).serials() {
			snap, err := p.Store.Snapshot(name, n)
			if err != nil {
				continue
			}
			if a, ok := snap.Lookup(clean); ok {
				out[a.Digest] = a
			}
			if byDigest == "" {
				continue
			}
			for a := range snap.Artifacts() {
				if a.Digest == byDigest {
					out[a.Digest] = a
				}
			}
		}
	}
	return slices.Collect(maps.Values(out)), nil
}

// took lists the terminals that took one of the stopped files, or anything of
// the feed if none is named.
func (p *Publisher) took(name string, stops []Withdrawal) ([]feed.Sighting, error) {
	var out []feed.Sighting
	for s, err := range Sightings(p.Data) {
		if err != nil {
			return out, err
		}
		if s.Feed != name || s.Event != "took" && s.Event != "installed" {
			continue
		}
		if len(stops) == 0 || slices.ContainsFunc(stops, func(w Withdrawal) bool { return w.Path == s.Path }) {
			out = append(out, s)
		}
	}
	return out, nil
}

// pullBack carries out pull-back orders that were not yet: of a feed, of one
// snapshot of it (also one that no ring has reached), or of one file.
func (p *Publisher) pullBack(ctx context.Context, d *desk, now time.Time) error {
	var errs []error
	for _, o := range d.orders {
		key := strconv.FormatUint(o.Number, 10)
		s, err := p.setup(o.Feed)
		if o.Kind != feed.OrderPullBack || d.applied[key] || err != nil || !o.InForce(now) {
			continue
		}
		done := func(tx state.Tx) error { return tx.Put(appliedBucket, key, true) }
		have, _, err := p.seen(d, o.Feed)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		served := slices.Collect(maps.Values(have))
		switch _, known := d.accepted[o.Feed][o.Serial]; {
		case o.Serial == 0 && slices.Max(served) == 0:
			continue // nothing here to stop yet
		case o.Serial != 0 && !slices.Contains(served, o.Serial) && !known:
			continue // it may still come
		case o.Serial != 0 && !slices.Contains(served, o.Serial):
			err = p.DB.Update(func(tx state.Tx) error {
				detail := map[string]string{"feed": o.Feed, "serial": strconv.FormatUint(o.Serial, 10), "by": "order " + key, "reason": o.Reason}
				return errors.Join(bar(tx, o.Feed, o.Serial, o.Reason), done(tx), p.audit(tx, "withdraw", now, detail))
			})
			put(d.barred, o.Feed, o.Serial, o.Reason)
		default:
			_, _, err = p.withdraw(ctx, d, s, string(o.Digest), "order "+key, o.Reason, done)
			if o.Digest == "" {
				d.holds[o.Feed] = Hold{Serial: slices.Max(served), Reason: o.Reason}
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
