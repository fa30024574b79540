package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Decisions on single updates. Persons' words live in state.db and, with what
// the kind's rules make of them, in every generation: the server reads those
// only. A new word is a new generation of the same snapshot.

// readDecisions reads what persons decided here.
func (d *desk) readDecisions(tx state.Tx) error {
	for key, decode := range tx.All(decisionsBucket, "") {
		var x feed.Decision
		if err := decode(&x); err != nil {
			return err
		}
		d.decisions[before(key)] = append(d.decisions[before(key)], x)
	}
	return nil
}

// manual are persons' words on a feed: those of orders from outside, the newest
// for each update and group, and those said here.
func (d *desk) manual(name string, now time.Time) []feed.Decision {
	out := slices.Clone(d.decisions[name])
	newest := map[string]feed.Order{}
	for _, o := range d.orders {
		if o.Kind == feed.OrderDecide && o.Feed == name && o.Decision != nil && o.InForce(now) && o.Number > newest[o.Decision.Key()].Number {
			newest[o.Decision.Key()] = o
		}
	}
	for _, o := range newest {
		if o.Decision.Action == Undecided {
			continue
		}
		x := *o.Decision
		x.Source, x.Since, x.Deadline, x.By, x.Reason = feed.ByOutside, o.Issued.UTC(), x.Deadline.UTC(), "order "+strconv.FormatUint(o.Number, 10), o.Reason
		out = append(out, x)
	}
	feed.SortDecisions(out)
	return out
}

// rules are the outside's rules of approval for a feed: the newest order's.
func (d *desk) rules(name string, now time.Time) feed.OutsideRules {
	var best feed.Order
	for _, o := range d.orders {
		if o.Kind == feed.OrderRules && o.Feed == name && o.InForce(now) && o.Number > best.Number {
			best = o
		}
	}
	if best.Number == 0 {
		return feed.OutsideRules{}
	}
	return feed.OutsideRules{Body: best.Rules, By: "order " + strconv.FormatUint(best.Number, 10)}
}

// byPersons are the words among a generation's decisions that rules did not make.
func byPersons(list []feed.Decision, persons bool) []feed.Decision {
	var out []feed.Decision
	for _, x := range list {
		if (x.Source == feed.ByInside || x.Source == feed.ByOutside) == persons {
			out = append(out, x)
		}
	}
	return out
}

// decideStep completes a step with what its kind's rules say.
func (p *Publisher) decideStep(d *desk, s *step, now time.Time) error {
	k, ok := s.setup.Feed.(feed.Decider)
	if !ok || s.stopped {
		return nil
	}
	if s.manual == nil {
		s.manual = d.manual(s.setup.Name, now)
	}
	g, err := p.generation(d, *s, now)
	if err != nil {
		return err
	}
	g.Decisions = s.manual
	v, err := view(p.Data, p.snapshots(), g)
	if err != nil {
		return err
	}
	defer closeView(v)
	v.Rules = d.rules(s.setup.Name, now)
	if err := k.CheckRules(v.Rules.Body); err != nil {
		return feed.NewFault(err, "H-202", "file", v.Rules.By, "detail", err.Error())
	}
	last := d.published[s.ring][s.setup.Name]
	more, err := k.Decide(v, s.ring, byPersons(last.Decisions, false), last.Serial > 0 && g.Serial > last.Serial, now.UTC())
	if err != nil {
		return fmt.Errorf("decisions of %s for ring %s: %w", s.setup.Name, s.ring, err)
	}
	s.decided = append(slices.Clone(s.manual), more...)
	feed.SortDecisions(s.decided)
	s.policy = k.Policy(v.Rules.Body)
	return nil
}

func (p *Publisher) snapshots() *snapshots {
	return &snapshots{store: p.Store, open: map[string]map[uint64]*cas.Snapshot{}}
}

// closeView frees what a view holds open, where it is read once.
func closeView(v feed.View) {
	if c, ok := v.Derived.(io.Closer); ok {
		c.Close()
	}
}

// redecide makes a new generation of what is published, where persons' words
// from outside or the configured rules changed since.
func (p *Publisher) redecide(ctx context.Context, s feed.Setup, now time.Time) ([]Generation, error) {
	k, ok := s.Feed.(feed.Decider)
	if !ok {
		return nil, nil
	}
	d, err := p.settle()
	if err != nil {
		return nil, err
	}
	manual, policy := d.manual(s.Name, now), k.Policy(d.rules(s.Name, now).Body)
	var steps []step
	for _, ring := range feed.Rings() {
		g := d.published[ring][s.Name]
		if g.Number == 0 || g.Stopped || g.Policy == policy && slices.Equal(byPersons(g.Decisions, true), manual) {
			continue
		}
		steps = append(steps, step{ring: ring, setup: s, snap: g.accepted(), reason: g.Reason, by: "rule"})
	}
	if len(steps) == 0 {
		return nil, nil
	}
	return p.carryOut(ctx, d, "decide", now, steps, nil)
}

// Undecided takes a person's word back: rules decide again.
const Undecided = "rule"

// maxDecisions bounds persons' words on one feed.
const maxDecisions = 20_000

// Decide records a person's words on updates of a feed and publishes them at
// once to every ring that has a publication. An action of Undecided removes the
// word. H-202 for an action that the kind does not have.
func (p *Publisher) Decide(ctx context.Context, name string, words []feed.Decision) ([]Generation, error) {
	s, err := p.setup(name)
	if err != nil {
		return nil, err
	}
	if err := CheckDecisions(s, words); err != nil {
		return nil, err
	}
	var out []Generation
	err = p.locked(ctx, func(ctx context.Context, d *desk) error {
		now := p.Clock()
		for i := range words {
			words[i].Source, words[i].Since = feed.ByInside, now.UTC().Truncate(time.Second)
			d.decisions[name] = slices.DeleteFunc(d.decisions[name], func(x feed.Decision) bool { return x.Key() == words[i].Key() })
			if words[i].Action != Undecided {
				d.decisions[name] = append(d.decisions[name], words[i])
			}
		}
		if len(d.decisions[name]) > maxDecisions {
			return feed.NewFault(fmt.Errorf("%s: over %d decisions: %w", name, maxDecisions, feed.ErrConfig), "H-202", "file", "hashike.toml", "detail", "decisions")
		}
		change := func(tx state.Tx) error { return p.keepWords(tx, name, words, now) }
		var steps []step
		for _, ring := range feed.Rings() {
			if g := d.published[ring][name]; g.Number > 0 && !g.Stopped {
				steps = append(steps, step{ring: ring, setup: s, snap: g.accepted(), manual: d.manual(name, now), reason: words[0].Reason, by: words[0].By})
			}
		}
		if len(steps) == 0 { // the next publication has them
			return p.DB.Update(change)
		}
		out, err = p.carryOut(ctx, d, "decide", now, steps, change)
		return err
	})
	return out, err
}

// CheckDecisions refuses words that a feed's kind does not know.
func CheckDecisions(s feed.Setup, words []feed.Decision) error {
	k, ok := s.Feed.(feed.Decider)
	for _, w := range words {
		err := w.Check()
		if err == nil && (!ok || w.Action != Undecided && !slices.Contains(k.Actions(), w.Action)) {
			err = fmt.Errorf("%s %.40q: %w", s.Kind.Name, w.Action, feed.ErrConfig)
		}
		if err != nil {
			return feed.NewFault(err, "H-202", "file", "", "detail", err.Error())
		}
	}
	return nil
}

func (p *Publisher) keepWords(tx state.Tx, name string, words []feed.Decision, now time.Time) error {
	for _, w := range words {
		key := name + "/" + strings.ToLower(w.Subject) + "/" + strings.ToLower(w.Group)
		var err error
		if w.Action == Undecided {
			err = tx.Delete(decisionsBucket, key)
		} else {
			err = tx.Put(decisionsBucket, key, w)
		}
		detail := map[string]string{"feed": name, "update": w.Subject, "group": w.Group, "action": w.Action, "source": w.Source, "reason": w.Reason, "by": w.By}
		if !w.Deadline.IsZero() {
			detail["deadline"] = w.Deadline.Format(time.RFC3339)
		}
		if err := errors.Join(err, p.audit(tx, "decide", now, detail)); err != nil {
			return err
		}
	}
	return nil
}

// auditedTogether is how many updates one audit record of a rule names.
const auditedTogether = 50

// recordDecided writes what rules, the clean-up and orders from outside newly
// decided for a ring to the audit log.
func (p *Publisher) recordDecided(tx state.Tx, was []feed.Decision, g Generation, now time.Time) error {
	type same struct{ source, action, group, by string }
	old := map[string]feed.Decision{}
	for _, x := range was {
		old[x.Source+"\x00"+x.Key()] = x
	}
	fresh := map[same][]string{}
	var order []same
	for _, x := range g.Decisions {
		before, known := old[x.Source+"\x00"+x.Key()]
		if x.Source == feed.ByInside || known && before.Action == x.Action && before.By == x.By && before.Next == x.Next {
			continue // a person's word has its own record
		}
		k := same{x.Source, x.Action, x.Group, x.By}
		if x.Next {
			k.action += " (next)"
		}
		if x.Source == feed.BySuperseded {
			k.by = ""
		}
		if fresh[k] == nil {
			order = append(order, k)
		}
		fresh[k] = append(fresh[k], x.Subject)
	}
	for _, k := range order {
		for some := range slices.Chunk(fresh[k], auditedTogether) {
			err := p.audit(tx, "decide", now, map[string]string{"feed": g.Feed, "ring": g.Ring, "generation": strconv.FormatUint(g.Number, 10),
				"source": k.source, "action": k.action, "group": k.group, "by": k.by, "update": strings.Join(some, " ")})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Decidable is what a feed's ring sees, with its updates and the words on them.
type Decidable struct {
	Feed      string          `json:"feed"`
	Ring      string          `json:"ring"`
	Serial    uint64          `json:"serial"`
	Updates   []feed.Update   `json:"updates"`
	Decisions []feed.Decision `json:"decisions"`
}

// decider is the feed's kind, if its updates are decided one by one (else H-617).
func decider(s feed.Setup) (feed.Decider, error) {
	k, ok := s.Feed.(feed.Decider)
	if !ok {
		return nil, feed.NewFault(fmt.Errorf("%s: its updates are not decided one by one: %w", s.Name, feed.ErrConfig), "H-617", "feed", s.Name)
	}
	return k, nil
}

// Decidables lists what can be decided about in a ring's publication: H-609 if
// there is none, H-617 if the feed's kind has no approvals.
func Decidables(data state.Dir, store *cas.Store, s feed.Setup, ring string) (Decidable, error) {
	out := Decidable{Feed: s.Name, Ring: ring}
	k, err := decider(s)
	if err != nil {
		return out, err
	}
	gens, _, err := Generations(data, ring, s.Name)
	if err != nil {
		return out, err
	}
	g := first(gens)
	if g.Number == 0 || g.Stopped {
		return out, feed.NewFault(fmt.Errorf("%s: nothing to decide about: %w", s.Name, feed.ErrHeld), "H-609", "feed", s.Name)
	}
	if err := deriveFor(context.Background(), data, store, s, g); err != nil {
		return out, err
	}
	v, err := view(data, &snapshots{store: store, open: map[string]map[uint64]*cas.Snapshot{}}, g)
	if err != nil {
		return out, err
	}
	defer closeView(v)
	out.Serial, out.Decisions = g.Serial, g.Decisions
	out.Updates, err = k.Updates(v)
	return out, err
}

// Preview lists what can be decided about in the newest snapshot of an outside,
// which publishes nothing: what its kind derives is built aside and removed
// again. H-609 and H-617 as Decidables.
func Preview(ctx context.Context, db *state.DB, store *cas.Store, s feed.Setup, now time.Time) (Decidable, error) {
	out := Decidable{Feed: s.Name}
	k, err := decider(s)
	if err != nil {
		return out, err
	}
	d := &desk{}
	err = db.View(func(tx state.Tx) (err error) {
		f, err := tx.Feed(s.Name)
		if err == nil {
			out.Serial = f.Serial
			d.orders, err = tx.Orders()
		}
		return err
	})
	if err != nil {
		return out, err
	}
	if out.Serial == 0 {
		return out, feed.NewFault(fmt.Errorf("%s: nothing to decide about: %w", s.Name, feed.ErrHeld), "H-609", "feed", s.Name)
	}
	snap, err := store.Snapshot(s.Name, out.Serial)
	if err != nil {
		return out, err
	}
	v := feed.View{Content: snap}
	if b, ok := s.Feed.(feed.Deriver); ok {
		dir, err := os.MkdirTemp(string(db.Dir()), durable.TempPrefix)
		if err != nil {
			return out, err
		}
		defer os.RemoveAll(dir)
		aside := state.Dir(dir)
		if err := derive(ctx, aside, store, b, s.Name, out.Serial); err != nil {
			return out, err
		}
		root, err := os.OpenRoot(aside.Derived(s.Name, out.Serial))
		if err != nil {
			return out, err
		}
		defer root.Close()
		v.Derived = root.FS()
	}
	out.Decisions = d.manual(s.Name, now)
	out.Updates, err = k.Updates(v)
	return out, err
}

// Titles fills in what the updates of a compliance table are called, as far as
// the feeds' publications know.
func Titles(data state.Dir, feeds []feed.Setup, c *Compliance) error {
	for _, s := range feeds {
		k, ok := s.Feed.(feed.Decider)
		if !ok {
			continue
		}
		var ids []string
		for _, u := range c.Updates {
			if u.Feed == s.Name {
				ids = append(ids, u.ID)
			}
		}
		gens, _, err := Generations(data, "all", s.Name)
		if err != nil {
			return err
		}
		if g := first(gens); len(ids) == 0 || !g.Derived {
			continue
		}
		names, err := titles(data, k, s.Name, first(gens).Serial, ids)
		if err != nil {
			continue // the ids stand for themselves; what is damaged, serving and publishing tell
		}
		for i, u := range c.Updates {
			if t, ok := names[u.ID]; ok && u.Feed == s.Name {
				c.Updates[i].Title = t
			}
		}
	}
	return nil
}

func titles(data state.Dir, k feed.Decider, name string, serial uint64, ids []string) (map[string]feed.Text, error) {
	root, err := os.OpenRoot(data.Derived(name, serial))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return k.Titles(root.FS(), ids)
}
