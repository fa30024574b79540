package mirror

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Options of a Publisher.
type Options struct {
	Data  state.Dir
	DB    *state.DB
	Store *cas.Store
	Feeds []feed.Setup
	Clock func() time.Time // max(system clock, time floor)
	Rings Rings
	Keep  int    // rollback points per ring and feed; 0 is 3
	Who   string // OS account, for the audit log
	Log   *slog.Logger
	// Scan, if not nil, is asked about a snapshot's files before a ring sees it
	// for the first time by publishing; an error leaves the ring as it is. Going
	// back to what was published before does not wait for it.
	Scan func(ctx context.Context, s feed.Setup, a Accepted, files iter.Seq2[feed.Artifact, error]) error
}

// Publisher is the write path after import: it decides which snapshot each
// ring sees. Safe for concurrent use and beside other processes: operations
// wait for nothing and fail with H-804 while another publishes.
type Publisher struct{ Options }

// NewPublisher checks the options; it reads and writes nothing.
func NewPublisher(o Options) *Publisher {
	if o.Keep <= 0 {
		o.Keep = 3
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{o}
}

func (p *Publisher) setup(name string) (feed.Setup, error) {
	for _, s := range p.Feeds {
		if s.Name == name {
			return s, nil
		}
	}
	return feed.Setup{}, feed.NewFault(fmt.Errorf("no feed %q is configured: %w", name, feed.ErrConfig), "H-202", "feed", name)
}

// busy gives a lock that another process holds its message.
func busy(err error) error {
	if errors.Is(err, state.ErrBusy) {
		return feed.NewFault(err, "H-804")
	}
	return err
}

// locked runs one publishing operation: alone, on a state whose earlier decisions are all carried out.
func (p *Publisher) locked(ctx context.Context, f func(context.Context, *desk) error) error {
	return busy(p.DB.Lock(ctx, "publish", func(ctx context.Context) error {
		d, err := p.settle()
		if err != nil {
			return err
		}
		ferr := f(ctx, d)
		return errors.Join(ferr, p.writeStatus())
	}))
}

// settle completes what a killed process decided but did not write.
func (p *Publisher) settle() (*desk, error) {
	var d *desk
	err := p.DB.View(func(tx state.Tx) error {
		var err error
		d, err = readDesk(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	for ring, feeds := range d.published {
		for name, g := range feeds {
			numbers, err := generationNumbers(p.Data, ring, name)
			if err != nil {
				return nil, err
			}
			if len(numbers) > 0 && numbers[0] == g.Number {
				if _, err := ReadGeneration(p.Data, ring, name, g.Number); !errors.Is(err, feed.ErrDamaged) {
					continue
				}
				// It rotted, and the one before counts meanwhile, which a
				// withdrawal may have ended: said again under a new number.
				g.Number++
				d.published[ring][name] = g
				if err := p.DB.Update(func(tx state.Tx) error { return tx.Put(publishedBucket, ring+"/"+name, g) }); err != nil {
					return nil, err
				}
			}
			if len(numbers) == 0 || numbers[0] < g.Number {
				if err := g.write(p.Data); err != nil {
					return nil, err
				}
			}
		}
	}
	return d, nil
}

// current is what a ring sees: the newest readable generation of it or, where
// it has none, of the rings after it. The zero Generation if nothing.
func (p *Publisher) current(ring, name string) (Generation, error) {
	rings := feed.Rings()
	for _, r := range rings[slices.Index(rings, ring):] {
		gens, _, err := Generations(p.Data, r, name)
		if err != nil || len(gens) > 0 {
			return first(gens), err
		}
	}
	return Generation{}, nil
}

func first(gens []Generation) Generation {
	if len(gens) == 0 {
		return Generation{}
	}
	return gens[0]
}

// step is one decision: what one ring sees of one feed next.
type step struct {
	ring    string
	setup   feed.Setup
	snap    Accepted
	stopped bool
	reason  string
	by      string

	manual  []feed.Decision // persons' words; nil is as state.db has them
	decided []feed.Decision // those and what rules make of them
	policy  string
}

// carryOut makes steps true: derived files, then the state with its audit
// records, then the generation files. change writes what else belongs to the
// same decision.
func (p *Publisher) carryOut(ctx context.Context, d *desk, what string, now time.Time, steps []step, change func(state.Tx) error) ([]Generation, error) {
	derived := map[string]bool{}
	for _, s := range steps {
		if key := serialKey(s.setup.Name, s.snap.Serial); !s.stopped && !derived[key] {
			if err := p.prepare(ctx, what, s, d); err != nil {
				return nil, err
			}
			derived[key] = true
		}
	}
	for i := range steps {
		if err := p.decideStep(d, &steps[i], now); err != nil {
			return nil, err
		}
	}
	var out []Generation
	err := p.DB.Update(func(tx state.Tx) error {
		out = out[:0]
		if change != nil {
			if err := change(tx); err != nil {
				return err
			}
		}
		d, err := readDesk(tx)
		if err != nil {
			return err
		}
		for _, s := range steps {
			g, err := p.generation(d, s, now)
			if err != nil {
				return err
			}
			before := d.published[g.Ring][g.Feed].Decisions
			if err := errors.Join(p.record(tx, what, g, now), p.recordDecided(tx, before, g, now)); err != nil {
				return err
			}
			out = append(out, g)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, g := range out {
		durable.Step("before generation " + g.Ring)
		if err := g.write(p.Data); err != nil {
			return out, err
		}
		p.Log.Info("published", "what", what, "feed", g.Feed, "ring", g.Ring, "serial", g.Serial, "generation", g.Number)
	}
	return out, nil
}

func (p *Publisher) record(tx state.Tx, what string, g Generation, now time.Time) error {
	var known Accepted
	if ok, err := tx.Get(acceptedBucket, serialKey(g.Feed, g.Serial), &known); err != nil {
		return err
	} else if !ok {
		if err := tx.Put(acceptedBucket, serialKey(g.Feed, g.Serial), g.accepted()); err != nil {
			return err
		}
	}
	if err := tx.Put(publishedBucket, g.Ring+"/"+g.Feed, g); err != nil {
		return err
	}
	return p.audit(tx, what, now, map[string]string{
		"feed": g.Feed, "ring": g.Ring, "serial": strconv.FormatUint(g.Serial, 10), "snapshot": string(g.ID),
		"generation": strconv.FormatUint(g.Number, 10), "reason": g.Reason, "by": g.By,
	})
}

func (p *Publisher) audit(tx state.Tx, what string, now time.Time, detail map[string]string) error {
	floor, err := tx.Floor()
	if err != nil {
		return err
	}
	maps.DeleteFunc(detail, func(_, v string) bool { return v == "" })
	return tx.Audit(state.Record{Time: now, Floor: floor, Who: p.Who, What: what, Result: "ok", Detail: detail})
}

// generation builds the next generation of a ring.
func (p *Publisher) generation(d *desk, s step, now time.Time) (Generation, error) {
	name := s.setup.Name
	numbers, err := generationNumbers(p.Data, s.ring, name)
	if err != nil {
		return Generation{}, err
	}
	last := d.published[s.ring][name].Number
	if len(numbers) > 0 {
		last = max(last, numbers[0])
	}
	g := Generation{
		Schema: GenerationSchema, Number: last + 1, Feed: name, Kind: s.setup.Kind.Name, Ring: s.ring,
		Serial: s.snap.Serial, ID: s.snap.ID, Taken: s.snap.Taken, Accepted: s.snap.Accepted, Bundle: s.snap.Bundle,
		Weakest: s.snap.Weakest, Published: now.UTC(), Stopped: s.stopped, Withheld: s.snap.Withheld,
		Withdrawn: d.withdrawals(name), Reason: s.reason, By: s.by,
		Decisions: s.decided, Policy: s.policy,
	}
	if s.stopped {
		return g, nil
	}
	_, g.Derived = s.setup.Feed.(feed.Deriver)
	gens, _, err := Generations(p.Data, s.ring, name)
	if err != nil {
		return Generation{}, err
	}
	g.Older = p.older(d, name, s.snap.Serial, gens)
	return g, nil
}

// older are the earlier publications that stay reachable for clients in
// mid-update: those of the rollback points that nobody took back.
func (p *Publisher) older(d *desk, name string, serial uint64, gens []Generation) []uint64 {
	var out []uint64
	for _, g := range gens {
		_, barred := d.barred[name][g.Serial]
		if len(out) >= p.Keep-1 || len(out) >= maxOlder {
			break
		}
		if g.Serial == 0 || g.Serial == serial || g.Stopped || barred || slices.Contains(out, g.Serial) {
			continue
		}
		if _, err := p.Store.Snapshot(name, g.Serial); err == nil {
			out = append(out, g.Serial)
		}
	}
	return out
}

// rollbackPoints picks the generations that retention keeps: the last keep
// files, and the newest of each of the last keep snapshots.
func rollbackPoints(gens []Generation, keep int) []Generation {
	var out []Generation
	seen := map[uint64]bool{}
	for i, g := range gens {
		isNew := !seen[g.Serial] && len(seen) < keep
		if isNew {
			seen[g.Serial] = true
		}
		if i < keep || isNew {
			out = append(out, g)
		}
	}
	return out
}
