package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Advance publishes, for every feed and ring, the newest accepted snapshot
// whose wait is over at now, and carries out pull-back orders. One feed's
// fault does not stop the others; all faults are joined.
func (p *Publisher) Advance(ctx context.Context, now time.Time) ([]Generation, error) {
	var out []Generation
	err := p.locked(ctx, func(ctx context.Context, d *desk) error {
		if err := p.straighten(d, now); err != nil {
			return err
		}
		errs := []error{p.pullBack(ctx, d, now)}
		for _, s := range p.Feeds {
			if _, held := d.holds[s.Name]; held {
				continue
			}
			steps, err := p.due(d, s, now)
			if err == nil && len(steps) > 0 {
				var gens []Generation
				gens, err = p.carryOut(ctx, d, "publish", now, steps, nil)
				out = append(out, gens...)
			}
			if err == nil {
				err = p.renew(ctx, d, s)
			}
			if err == nil {
				var gens []Generation
				gens, err = p.redecide(ctx, s, now)
				out = append(out, gens...)
			}
			if err != nil {
				p.Log.Error("not published", "feed", s.Name, "error", err)
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return out, err
}

// straighten lets waits begin now where the clock was ahead when a snapshot was
// accepted: else it would wait until that time comes, years perhaps.
func (p *Publisher) straighten(d *desk, now time.Time) error {
	ahead := map[string]Accepted{}
	for name, known := range d.accepted {
		for serial, a := range known {
			if a.Accepted.After(now) {
				a.Accepted = now.UTC()
				known[serial], ahead[serialKey(name, serial)] = a, a
			}
		}
	}
	if len(ahead) == 0 {
		return nil
	}
	return p.DB.Update(func(tx state.Tx) error {
		for key, a := range ahead {
			if err := tx.Put(acceptedBucket, key, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// due are the steps of one feed whose wait is over.
func (p *Publisher) due(d *desk, s feed.Setup, now time.Time) ([]step, error) {
	var out []step
	for _, ring := range p.Rings.active() {
		cur, err := p.current(ring, s.Name)
		if err != nil {
			return nil, err
		}
		a, ok := d.newest(s.Name, func(a Accepted) bool {
			return !a.Late && !a.Unapproved && a.Serial > cur.Serial && !now.Before(a.Accepted.Add(p.Rings.wait(s, ring)))
		})
		if ok {
			out = append(out, step{ring: ring, setup: s, snap: a, by: "rule"})
		}
	}
	return out, nil
}

// PublishOptions of one explicit publish.
type PublishOptions struct {
	Serial uint64 // 0: the newest accepted
	Now    bool   // do not wait
	Late   string // reason to publish what came in an expired set; implies Now
	Reason string
	By     string
}

// Publish publishes by a person's word, to one ring or (ring "") to all. It
// ends a hold. Without Now, rings whose wait is not over keep what they have;
// if that is every ring the error is ErrHeld, H-606, with the time.
func (p *Publisher) Publish(ctx context.Context, name, ring string, o PublishOptions) ([]Generation, error) {
	s, err := p.setup(name)
	if err != nil {
		return nil, err
	}
	rings := p.Rings.active()
	if ring != "" {
		if !slices.Contains(feed.Rings(), ring) {
			return nil, feed.NewFault(fmt.Errorf("ring %q is none of %v: %w", ring, feed.Rings(), feed.ErrConfig), "H-202", "feed", name)
		}
		rings = []string{ring}
	}
	var out []Generation
	err = p.locked(ctx, func(ctx context.Context, d *desk) error {
		a, err := p.choose(d, name, o)
		if err != nil {
			return err
		}
		now := p.Clock()
		steps, next, err := p.chosen(s, rings, a, o, now)
		if err != nil {
			return err
		}
		if len(steps) == 0 && !next.IsZero() {
			return feed.NewFault(fmt.Errorf("%s %d waits until %s: %w", name, a.Serial, next.Format(time.RFC3339), feed.ErrHeld),
				"H-606", "feed", name, "time", next.Format(time.RFC3339))
		}
		if len(steps) == 0 {
			return nil // every ring has it already
		}
		out, err = p.carryOut(ctx, d, "publish", now, steps, func(tx state.Tx) error { return release(tx, name, a, o.Late) })
		return err
	})
	return out, err
}

// choose finds the accepted snapshot that a person means.
func (p *Publisher) choose(d *desk, name string, o PublishOptions) (Accepted, error) {
	a, ok := d.accepted[name][o.Serial]
	if o.Serial == 0 {
		a, ok = d.newest(name, func(Accepted) bool { return true })
	}
	if !ok && o.Serial != 0 {
		serial := strconv.FormatUint(o.Serial, 10)
		return a, feed.NewFault(fmt.Errorf("%s %s was not accepted, or is gone: %w", name, serial, feed.ErrConfig), "H-616", "feed", name, "serial", serial)
	}
	if !ok {
		return a, feed.NewFault(fmt.Errorf("%s: nothing that could be published was accepted: %w", name, feed.ErrHeld), "H-609", "feed", name)
	}
	if hold, held := d.holds[name]; held && a.Serial <= hold.Serial && (o.Serial == 0 || o.Reason == "") {
		return a, feed.NewFault(fmt.Errorf("%s is held since %d was taken back (%s), and nothing newer was accepted: %w", name, hold.Serial, hold.Reason, feed.ErrHeld),
			"H-607", "feed", name, "serial", strconv.FormatUint(hold.Serial, 10), "reason", hold.Reason)
	}
	if a.Unapproved {
		return a, feed.NewFault(fmt.Errorf("%s %d came in bundle %d, which nobody approved yet: %w", name, a.Serial, a.Bundle, feed.ErrHeld),
			"H-646", "feed", name, "number", strconv.FormatUint(a.Bundle, 10))
	}
	if a.Late && strings.TrimSpace(o.Late) == "" {
		return a, feed.NewFault(fmt.Errorf("%s %d came in a set that had expired: %w", name, a.Serial, feed.ErrHeld), "H-608", "feed", name)
	}
	return a, nil
}

func (p *Publisher) chosen(s feed.Setup, rings []string, a Accepted, o PublishOptions, now time.Time) (steps []step, next time.Time, err error) {
	reason := o.Reason
	if o.Late != "" {
		reason = strings.TrimSpace(o.Late + " " + o.Reason)
	}
	for _, ring := range rings {
		cur, err := p.current(ring, s.Name)
		if err != nil {
			return nil, next, err
		}
		if cur.Ring == ring && cur.Serial == a.Serial && !cur.Stopped {
			continue
		}
		if at := a.Accepted.Add(p.Rings.wait(s, ring)); !o.Now && o.Late == "" && now.Before(at) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		steps = append(steps, step{ring: ring, setup: s, snap: a, reason: reason, by: o.By})
	}
	return steps, next, nil
}

// release ends what kept a back, by a person's word.
func release(tx state.Tx, name string, a Accepted, late string) error {
	if late != "" {
		a.Late, a.LateFor = false, late
	}
	if err := tx.Put(acceptedBucket, serialKey(name, a.Serial), a); err != nil {
		return err
	}
	if err := tx.Delete(barredBucket, serialKey(name, a.Serial)); err != nil {
		return err
	}
	return tx.Delete(holdsBucket, name)
}

// Rollback publishes an earlier snapshot again, to every ring that has a newer
// one, and holds the feed until a person publishes. serial 0 is the previous
// one. The snapshot that is taken back is no longer reachable.
func (p *Publisher) Rollback(ctx context.Context, name string, serial uint64, by, reason string) ([]Generation, error) {
	s, err := p.setup(name)
	if err != nil {
		return nil, err
	}
	var out []Generation
	err = p.locked(ctx, func(ctx context.Context, d *desk) error {
		have, points, err := p.seen(d, name)
		if err != nil {
			return err
		}
		top := uint64(0)
		for _, n := range have {
			top = max(top, n)
		}
		to, ok := points[serial]
		for n, a := range points {
			if serial == 0 && n < top && n > to.Serial {
				to, ok = a, true
			}
		}
		if !ok || to.Serial >= top {
			return feed.NewFault(fmt.Errorf("%s: no earlier publication %d to go back to: %w", name, serial, feed.ErrHeld), "H-610", "feed", name)
		}
		var steps []step
		for _, ring := range feed.Rings() {
			if have[ring] > to.Serial {
				steps = append(steps, step{ring: ring, setup: s, snap: to, reason: reason, by: by})
			}
		}
		now := p.Clock()
		out, err = p.carryOut(ctx, d, "rollback", now, steps, func(tx state.Tx) error {
			var back []uint64
			for n := range d.accepted[name] {
				if n > to.Serial && n <= top {
					back = append(back, n)
				}
			}
			return takeBack(tx, d, name, back, Hold{Serial: top, Reason: reason, By: by, Since: now.UTC()})
		})
		return err
	})
	return out, err
}

// seen is each ring's own current serial, and the publications that rings kept.
func (p *Publisher) seen(d *desk, name string) (have map[string]uint64, points map[uint64]Accepted, err error) {
	have, points = map[string]uint64{}, map[uint64]Accepted{}
	for _, ring := range feed.Rings() {
		gens, _, err := Generations(p.Data, ring, name)
		if err != nil {
			return nil, nil, err
		}
		have[ring] = first(gens).Serial
		for _, g := range gens {
			_, barred := d.barred[name][g.Serial]
			if _, err := p.Store.Snapshot(name, g.Serial); err == nil && !barred && !g.Stopped {
				points[g.Serial] = g.accepted()
			}
		}
	}
	return have, points, nil
}

// takeBack bars snapshots and holds the feed.
func takeBack(tx state.Tx, d *desk, name string, back []uint64, h Hold) error {
	if old, ok := d.holds[name]; ok {
		h.Serial = max(h.Serial, old.Serial)
	}
	for _, n := range back {
		if err := bar(tx, name, n, h.Reason); err != nil {
			return err
		}
	}
	return tx.Put(holdsBucket, name, h)
}

func bar(tx state.Tx, name string, serial uint64, reason string) error {
	return tx.Put(barredBucket, serialKey(name, serial), map[string]any{"serial": serial, "reason": reason})
}
