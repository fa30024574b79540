package mirror_test

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// plain is a kind that proves everything: the histories are about carrying.
type plain struct{}

func (plain) Fetch(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
	return "", feed.ErrUnchanged
}
func (plain) Verify(context.Context, feed.Content, feed.Trust, feed.Proof) error { return nil }
func (plain) Handler(s feed.Serving) (http.Handler, error)                       { return feed.FileHandler(s), nil }

// take imports an undamaged bundle and compares everything with the model.
func (h *history) take(s *site, b *bundle) {
	h.t.Helper()
	r, err := h.importInto(s, b.dir)
	want := h.expect(s, b)
	h.note("site %d takes %d: %s, want %q, held %d", s.n, b.number, codes(err), want, len(s.held))
	if codes(err) != want {
		h.failf("site %d, bundle %d: %v, want %q (accepted %v, base %d)\n%s", s.n, b.number, err, want, s.number(), b.base, outcomes(r))
	}
	h.compare(s)
	for _, f := range r.Feeds { // what is missing is named, all of it and nothing else
		var lack []string
		v := s.accepted.state[f.Feed]
		if _, err := s.store.Snapshot(f.Feed, v.serial); err != nil {
			if !slices.Equal(f.Names, []string{fmt.Sprint("snapshot ", v.serial)}) {
				h.failf("site %d, bundle %d, %s: named as missing are %v, not the snapshot", s.n, b.number, f.Feed, f.Names)
			}
			continue
		}
		for a, err := range s.accepted.state[f.Feed].carry.Snapshot.Artifacts() {
			h.ok(err)
			if !s.held[a.Digest] {
				lack = append(lack, a.Path)
			}
		}
		if !slices.Equal(lack, f.Names) {
			h.failf("site %d, bundle %d, %s: named as missing are %v, the model says %v", s.n, b.number, f.Feed, f.Names, lack)
		}
	}
}

func (s *site) number() uint64 {
	if s.accepted == nil {
		return 0
	}
	return s.accepted.number
}

// codes are the messages of an error: each once.
func codes(err error) string {
	var out []string
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case nil:
		case *feed.Fault:
			out = append(out, e.Code)
		case interface{ Unwrap() []error }:
			for _, sub := range e.Unwrap() {
				walk(sub)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		default:
			out = append(out, e.Error())
		}
	}
	walk(err)
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

// expect moves the model and says which message the import must give.
func (h *history) expect(s *site, b *bundle) string {
	was := s.accepted
	switch {
	case was != nil && b.era < was.era:
		h.tally.Refused++
		return "H-501" // signed with a key that was replaced
	case !slices.Contains(b.sites, s.n):
		h.tally.Refused++
		return "H-507"
	}
	newer := was == nil || b.era > was.era || b.version > was.version
	same := was != nil && b == was
	expired := s.reference().After(b.expires)
	if newer {
		s.accept(b, expired)
	}
	unknown := map[string]bool{} // feeds whose snapshot was damaged on its way; an older bundle brings none
	for f, v := range s.accepted.state {
		if _, err := s.store.Snapshot(f, v.serial); err != nil {
			unknown[f] = true
			if newer || same {
				h.failf("site %d: the snapshot of %s is not here after bundle %d", s.n, f, b.number)
			}
		}
	}
	wanted := map[feed.Digest]bool{}
	for f, v := range s.accepted.state {
		if !unknown[f] {
			maps.Copy(wanted, v.blobs)
		}
	}
	got := 0
	for _, d := range s.lacks() {
		if wanted[d] && b.carries[d] {
			s.held[d] = true
			got++
		}
	}
	moved, incomplete := false, false
	for _, f := range feedNames() {
		v, d := s.accepted.state[f], s.feeds[f]
		if unknown[f] || !subset(v.blobs, s.held) {
			incomplete = true
			continue
		}
		if d.current == v.serial && !s.lateSet {
			d.known[v.serial] = false // stated again by a set that is not held
		} else if d.current != v.serial {
			d.current, moved = v.serial, true
			d.known[v.serial] = s.lateSet
		}
	}
	switch {
	case incomplete:
		h.tally.Incomplete++
		return "H-701"
	case newer || moved || got > 0:
		return ""
	}
	return strings.Join(useless(same, expired), " ")
}

// accept makes b the desired state.
func (s *site) accept(b *bundle, expired bool) {
	future := b.created.After(s.floor.Add(400 * 24 * time.Hour))
	s.accepted, s.lateSet = b, expired || future
	for n := range s.shown {
		if n < b.base {
			delete(s.shown, n)
		}
	}
	if !future && b.created.After(s.floor) {
		s.floor = b.created
	}
}

func useless(same, expired bool) []string {
	switch {
	case !same:
		return []string{"H-503"}
	case expired:
		return []string{"H-504"}
	}
	return nil
}

// lacks are the blobs of the accepted state that are not here.
func (s *site) lacks() []feed.Digest {
	if s.accepted == nil {
		return nil
	}
	var out []feed.Digest
	for d := range s.accepted.has() {
		if !s.held[d] {
			out = append(out, d)
		}
	}
	return out
}

func subset(a, b map[feed.Digest]bool) bool {
	for d := range a {
		if !b[d] {
			return false
		}
	}
	return true
}

// compare holds a site against its model.
func (h *history) compare(s *site) {
	h.t.Helper()
	var a packager.Accepted
	states := map[string]state.FeedState{}
	var floor time.Time
	h.ok(s.db.View(func(tx state.Tx) (err error) {
		if a, _, err = packager.Current(tx); err != nil {
			return err
		}
		if floor, err = tx.Floor(); err != nil {
			return err
		}
		for _, f := range feedNames() {
			if states[f], err = tx.Feed(f); err != nil {
				return err
			}
		}
		return nil
	}))
	if a.Number != s.number() {
		h.failf("site %d accepted %d, the model %d", s.n, a.Number, s.number())
	}
	if s.accepted != nil && !floor.Equal(s.floor) {
		h.failf("site %d: floor %s, the model says %s", s.n, floor, s.floor)
	}
	for _, f := range feedNames() {
		if states[f].Serial != s.feeds[f].current {
			h.failf("site %d, %s: serial %d, the model says %d", s.n, f, states[f].Serial, s.feeds[f].current)
		}
	}
	for _, d := range h.digests {
		if _, have := s.store.Stat(d); have != s.held[d] {
			h.failf("site %d: blob %s is there: %v, the model says %v", s.n, d, have, s.held[d])
		}
	}
}

// sync makes the model of a site believe what is there, after what it cannot
// foretell: damage and clean-up. What is there is hashed.
func (h *history) sync(s *site) {
	h.t.Helper()
	for _, d := range h.digests {
		if _, have := s.store.Stat(d); have {
			if err := s.store.Verify(context.Background(), d); err != nil {
				h.failf("site %d: %v", s.n, err)
			}
			s.held[d] = true
		} else {
			delete(s.held, d)
		}
	}
}

// damaged imports a copy that something happened to.
func (h *history) damaged(s *site, b *bundle) {
	h.t.Helper()
	h.tally.Damaged++
	dir := filepath.Join(h.dir, "damaged")
	h.ok(os.RemoveAll(dir))
	h.ok(os.CopyFS(dir, os.DirFS(b.dir)))
	var names []string
	h.ok(filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, p)
		}
		return err
	}))
	name := names[h.rnd.IntN(len(names))]
	raw, err := os.ReadFile(name)
	h.ok(err)
	switch k := h.rnd.IntN(4); {
	case k == 0 || len(raw) == 0:
		h.ok(os.Remove(name))
	case k == 1:
		h.ok(os.WriteFile(name, raw[:h.rnd.IntN(len(raw))], 0o644))
	default:
		for range 1 + h.rnd.IntN(3) {
			raw[h.rnd.IntN(len(raw))] ^= byte(1 + h.rnd.IntN(255))
		}
		h.ok(os.WriteFile(name, raw, 0o644))
	}
	before := map[feed.Digest]bool{}
	maps.Copy(before, s.held)
	number, expired := s.number(), s.reference().After(b.expires)
	r, err := h.importInto(s, dir)
	rel, _ := filepath.Rel(dir, name)
	h.note("site %d takes %d with %s damaged: %s", s.n, b.number, rel, codes(err))
	var a packager.Accepted
	h.ok(s.db.View(func(tx state.Tx) (err error) { a, _, err = packager.Current(tx); return err }))
	switch {
	case a.Number == number && (s.accepted == nil || s.accepted != b):
		// Refused, or older: the desired state is what it was.
	default:
		if a.Number != b.number {
			h.failf("site %d: a damaged bundle %d made %d the accepted one", s.n, b.number, a.Number)
		}
	}
	if err == nil && len(r.Damaged) == 0 && r.Standing != packager.Older {
		h.failf("site %d: damage of %s went unnoticed", s.n, rel)
	}
	if a.Number != number {
		s.accept(b, expired)
	}
	h.resume(s, before)
}

// resume brings the model level with a site after damage: nothing is gone, and
// each feed is at the desired state if that is whole, else where it was.
func (h *history) resume(s *site, before map[feed.Digest]bool) {
	h.sync(s)
	if !subset(before, s.held) {
		h.failf("site %d: blobs are gone", s.n)
	}
	if s.accepted != nil {
		for _, f := range feedNames() {
			v, d := s.accepted.state[f], s.feeds[f]
			_, err := s.store.Snapshot(f, v.serial)
			if err != nil || !subset(v.blobs, s.held) {
				continue
			}
			if d.current != v.serial {
				d.current, d.known[v.serial] = v.serial, s.lateSet
			} else if !s.lateSet {
				d.known[v.serial] = false
			}
		}
	}
	h.compare(s)
}

// receipt writes a code if there is one.
func (h *history) receipt(s *site) {
	missing := func(lines []packager.FeedLine) (int64, error) {
		var n int64
		for _, l := range lines {
			snap, err := s.store.Snapshot(l.Feed, l.Serial)
			if err != nil {
				n++
				continue
			}
			for range snap.Missing() {
				n++
			}
		}
		return n, nil
	}
	r, err := packager.ShowReceipt(s.db, missing, "tester", s.reference())
	whole := s.accepted != nil && len(s.lacks()) == 0
	if whole && err == nil {
		s.shown[r.Number] = s.accepted
		s.receipts = append(s.receipts, r.Code)
		h.tally.Receipts++
	} else if s.accepted == nil {
		if code(err) != "H-618" {
			h.failf("site %d: receipt of nothing: %v", s.n, err)
		}
	} else if whole || code(err) != "H-613" {
		if !s.undocumented() {
			h.failf("site %d: receipt %v, whole %v", s.n, err, whole)
		}
	}
}

// undocumented is whether a snapshot of the desired state is missing, after damage.
func (s *site) undocumented() bool {
	for f, v := range s.accepted.state {
		if _, err := s.store.Snapshot(f, v.serial); err != nil {
			return true
		}
	}
	return false
}

// clean removes what nothing needs, and nothing else.
func (h *history) clean(s *site) {
	h.tally.Cleaned++
	before := maps.Clone(s.held)
	_, err := s.pub.GC(context.Background(), mirror.GCOptions{})
	h.ok(err)
	h.sync(s)
	keep := map[feed.Digest]string{}
	for n, b := range s.shown {
		for d := range b.has() {
			keep[d] = fmt.Sprint("receipt ", n)
		}
	}
	if s.accepted != nil {
		for f, v := range s.accepted.state {
			if _, err := s.store.Snapshot(f, v.serial); err != nil {
				continue // damaged, so nobody here knows what belongs to it: the grace of days is for that
			}
			for d := range v.blobs {
				keep[d] = "desired"
			}
		}
	}
	for d, why := range keep {
		if before[d] && !s.held[d] {
			h.failf("site %d: the clean-up took %s (%s)", s.n, d, why)
		}
	}
	if !subset(s.held, before) {
		h.failf("site %d: a clean-up brought something", s.n)
	}
}

// publish lets the rule and a person publish, and compares what is served.
func (h *history) publish(s *site) {
	ctx := context.Background()
	_, err := s.pub.Advance(ctx, s.reference())
	h.ok(err)
	for _, f := range feedNames() {
		d := s.feeds[f]
		known := 0
		if s.accepted != nil {
			known = s.accepted.orders
		}
		for i, o := range h.orders[:max(known, d.orders)] {
			d.orders = max(known, d.orders)
			_, accepted := d.known[o.Serial]
			switch {
			case o.Feed != f || d.applied[i]:
			case d.serves == o.Serial && d.serves != 0:
				d.applied[i], d.stopped, d.hold, d.barred[o.Serial] = true, true, o.Serial, true
			case accepted:
				d.applied[i], d.barred[o.Serial] = true, true
			}
		}
		if n := d.newest(); d.hold == 0 && n > d.serves {
			d.serves, d.stopped = n, false
		} else if d.hold != 0 && n > d.hold {
			_, err := s.pub.Publish(ctx, f, "", mirror.PublishOptions{Serial: n, Now: true, Reason: "newer than what was pulled back", By: "person"})
			h.ok(err)
			d.serves, d.stopped, d.hold = n, false, 0
		}
		gens, _, err := mirror.Generations(s.dir, "all", f)
		h.ok(err)
		var serves uint64
		var stopped bool
		if len(gens) > 0 {
			serves, stopped = gens[0].Serial, gens[0].Stopped
		}
		if serves != d.serves || stopped != d.stopped {
			h.failf("site %d, %s: published %d (stopped %v), the model says %d (%v); known %v, hold %d", s.n, f, serves, stopped, d.serves, d.stopped, d.known, d.hold)
		}
		if serves != 0 && !stopped {
			h.tally.Published++
			snap, err := s.store.Snapshot(f, serves)
			h.ok(err)
			for a := range snap.Missing() {
				h.failf("site %d, %s %d: %s is published and not here", s.n, f, serves, a.Path)
			}
		}
	}
}

// newest is what the rule may publish.
func (d *desk) newest() (n uint64) {
	for serial, late := range d.known {
		if !late && !d.barred[serial] {
			n = max(n, serial)
		}
	}
	return n
}

// repair types the need list outside and imports what comes back.
func (h *history) repair(s *site) {
	if s.accepted == nil {
		return
	}
	n, err := packager.Lacking(s.db, s.store)
	h.ok(err)
	if n.Empty() != (len(s.lacks()) == 0 && !s.undocumented()) {
		h.failf("site %d: the need list %q is empty: %v, %d lack", s.n, n, n.Empty(), len(s.lacks()))
	}
	if n.Empty() {
		return
	}
	list, err := packager.ParseNeed(n.String())
	h.ok(err)
	o := h.options(nil)
	o.Feeds, o.Need = nil, &list
	state := s.accepted.state
	b := h.made(o, nil)
	if b == nil {
		return
	}
	b.state = state
	b.carries = map[feed.Digest]bool{}
	for _, d := range s.lacks() {
		b.carries[d] = true
	}
	if s.undocumented() {
		b.carries = b.has()
	}
	h.tally.Repairs++
	h.take(s, b)
	if len(s.lacks()) != 0 {
		h.failf("site %d: the repair bundle left %d blobs missing", s.n, len(s.lacks()))
	}
}

// end sets every clock right and brings each site one undamaged bundle,
// computed from the receipts alone: it must be whole then, or was never asked
// for a receipt; then a complete one, and every site is the reference.
// confirm is the person at a site that got nothing for over 400 days: what
// comes then is held, with every set after it, until somebody says that so
// much time has really passed.
func (h *history) confirm(s *site) {
	var cur packager.Accepted
	h.ok(s.db.View(func(tx state.Tx) (err error) { cur, _, err = packager.Current(tx); return err }))
	if cur.Held != packager.HeldFuture {
		return
	}
	h.note("site %d: a person confirms that over 400 days have passed", s.n)
	h.ok(packager.Release(s.db, cur.Number, "the carry paused for over a year", "person", s.now()))
	for _, f := range feedNames() {
		d := s.feeds[f]
		n := h.state[f].serial
		if !d.known[n] {
			h.failf("site %d, %s: bundle %d is held, %d is not", s.n, f, cur.Number, n)
		}
		_, err := s.pub.Publish(context.Background(), f, "", mirror.PublishOptions{Serial: n, Late: "the carry paused for over a year", By: "person"})
		h.ok(err)
		d.known[n], d.serves, d.stopped, d.hold = false, n, false, 0
	}
}

func (h *history) end() {
	h.at++
	h.truth = h.truth.AddDate(0, 1, 0)
	h.wrong = 0
	for _, s := range h.sites {
		s.wrong = 0
	}
	h.mail()
	if b := h.pack(); b != nil {
		for _, s := range h.sites {
			if slices.Contains(b.sites, s.n) {
				h.take(s, b)
				if lack := s.lacks(); len(lack) > 0 && !h.word[s.n] {
					h.failf("site %d: %d blobs missing although bundle %d builds on its receipt (base %d)", s.n, len(lack), b.number, b.base)
				}
			}
		}
	}
	h.truth = h.truth.AddDate(0, 0, 1)
	b := h.made(h.options([]int{1, 2, 3}), nil)
	for _, s := range h.sites {
		h.take(s, b)
		h.confirm(s)
		h.publish(s)
		h.sync(s)
		for _, f := range feedNames() {
			snap, err := s.store.Snapshot(f, h.state[f].serial)
			h.ok(err)
			if snap.ID() != h.state[f].carry.Snapshot.ID() || s.feeds[f].current != h.state[f].serial || s.feeds[f].serves != h.state[f].serial {
				h.failf("site %d, %s: not the reference state", s.n, f)
			}
		}
	}
}
