package feedtest

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// testForged: the same content under a key that nobody pinned, as the first
// state ever seen and after a genuine one.
func testForged(t *testing.T, h *history) {
	b := h.spare(t)
	b.up.set(t, h.c.Forged, b.clock)
	if res, err := b.run(t.Context()); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("accepted at first sight: %+v, %v", res, err)
	}
	good := b.at(t, h.c.Now)
	b.up.set(t, h.c.Forged, b.clock)
	res, err := b.run(t.Context())
	if !errors.Is(err, feed.ErrUntrusted) && !errors.Is(err, feed.ErrHeld) {
		t.Errorf("accepted after the genuine state: %+v, %v", res, err)
	}
	b.stays(t, good.Header().Serial)
	x := h.attack(t, "signed by another key", nil)
	x.class(err)
}

// stays checks that the accepted snapshot is still the one it was.
func (b *bench) stays(t testing.TB, serial uint64) {
	t.Helper()
	st := b.state(t)
	if st.Serial != serial {
		t.Errorf("accepted is now %d, was %d", st.Serial, serial)
	}
	if serial == 0 {
		return
	}
	snap, err := b.store.Snapshot(name, serial)
	if err != nil {
		t.Fatal(err)
	}
	for a := range snap.Missing() {
		t.Errorf("%s of the accepted snapshot is gone", a.Path)
	}
}

func order(n uint64, k feed.OrderKind, h feed.Header) feed.Order {
	return feed.Order{Schema: 1, Number: n, Kind: k, Feed: h.Feed, Reason: "test", Operator: "a", Approver: "b", Issued: h.Taken}
}

// testOrders: trust orders add keys, distrust orders withdraw them, and no
// key is believed without either pin or order.
func testOrders(t *testing.T, h *history) {
	kind, setup := h.c.Kind, h.setup
	defer func() { h.setup, h.orders = setup, nil }()
	h.setup.Kind.Anchors = nil
	x := h.attack(t, "without any key", nil)
	if j := h.judge(t.Context(), h.now, nil); j.err == nil {
		t.Error("accepted without any key")
	} else {
		x.class(j.err)
	}
	h.orders = func(hd feed.Header) []feed.Order {
		var out []feed.Order
		for i, a := range kind.Anchors {
			o := order(uint64(i+1), feed.OrderTrust, hd)
			o.Anchor = &feed.NewAnchor{Name: a.Name, Use: a.Use, Data: a.Data, Source: "test"}
			out = append(out, o)
		}
		return out
	}
	if j := h.judge(t.Context(), h.now, nil); j.err != nil || len(j.verdict.Withheld) > 0 {
		t.Errorf("with keys that orders add: %v, withheld %v", j.err, j.verdict.Withheld)
	}
	h.setup = setup
	keys := map[string]bool{}
	for _, e := range h.verdict.evidence {
		if e.KeyID != "" {
			keys[e.KeyID] = true
		}
	}
	distrust := func(ids []string) judgement {
		h.orders = func(hd feed.Header) []feed.Order {
			var out []feed.Order
			for i, id := range ids {
				o := order(uint64(i+1), feed.OrderDistrust, hd)
				o.Distrust = &feed.Distrust{KeyID: id}
				out = append(out, o)
			}
			return out
		}
		return h.judge(t.Context(), h.now, nil)
	}
	all := slices.Sorted(maps.Keys(keys))
	for _, id := range all {
		j := distrust([]string{id})
		for _, e := range j.evidence {
			if e.KeyID == id && e.Refused == "" {
				t.Errorf("key %s is distrusted by order and vouches for %s", id, e.Path)
			}
		}
	}
	if j := distrust(all); j.err == nil {
		t.Errorf("accepted though every key %v is distrusted", all)
	} else {
		x.what = "every key distrusted"
		x.class(j.err)
	}
}

// testRollback: what was genuine yesterday is refused today, unless an order
// allows this snapshot; and it is H-505 that says so.
func testRollback(t *testing.T, h *history) {
	b := h.spare(t)
	b.clock = h.c.Time.Add(-1)
	b.at(t, h.c.Older)
	now := b.at(t, h.c.Now)
	b.up.set(t, h.c.Older, b.clock)
	res, err := b.run(t.Context())
	f, ok := errors.AsType[*feed.Fault](err)
	if !errors.Is(err, feed.ErrRollback) || !ok || f.Code != "H-505" || f.Args["feed"] == "" {
		t.Fatalf("older state after newer: %+v, %v", res, err)
	}
	b.stays(t, now.Header().Serial)
	b.orders = func(hd feed.Header) []feed.Order {
		o := order(1, feed.OrderRollback, hd)
		o.Serial = hd.Serial + 1
		return []feed.Order{o}
	}
	if _, err = b.run(t.Context()); !errors.Is(err, feed.ErrRollback) {
		t.Errorf("an order for another snapshot let it through: %v", err)
	}
	b.orders = func(hd feed.Header) []feed.Order {
		o := order(1, feed.OrderRollback, hd)
		o.Serial = hd.Serial
		return []feed.Order{o}
	}
	if res, err = b.run(t.Context()); err != nil || res.Serial <= now.Header().Serial {
		t.Errorf("allowed by order: %+v, %v", res, err)
	}
	b.orders = nil
	// And forward again.
	if got := b.at(t, h.c.Now); got.Header().Serial <= res.Serial {
		t.Errorf("after going back the feed stands still at %d", got.Header().Serial)
	}
}

// exceptionDay is until when a case's exception holds.
const exceptionDay = 24 * time.Hour

func exception(h feed.Header) feed.Order {
	o := order(999, feed.OrderException, h)
	o.Issued, o.Until = h.Taken, h.Taken.Add(exceptionDay)
	if end := feed.FiscalYearEnd(o.Issued); o.Until.After(end) {
		o.Until = end
	}
	return o
}

// testException: a feed that cannot reach its floor is held without an
// exception order, is let through by one as long as it is in force, and says so.
func testException(t *testing.T, h *history) {
	if !h.c.Except {
		if n := h.verdict.verdict.Exceptions; len(n) > 0 {
			t.Errorf("orders %v were needed", n)
		}
		return
	}
	if j := h.under(t.Context(), h.now, h.marks, nil); !errors.Is(j.err, feed.ErrHeld) {
		t.Errorf("without an exception: %v", j.err)
	}
	if n := h.verdict.verdict.Exceptions; !slices.Equal(n, []uint64{999}) || h.verdict.verdict.Weakest != feed.None {
		t.Errorf("orders %v were needed, weakest is %s", n, h.verdict.verdict.Weakest)
	}
	over := exception(h.now.Header())
	over.Until = h.now.Header().Taken // it ended at that moment
	other := exception(h.now.Header())
	other.Feed = "another"
	more := exception(h.now.Header())
	more.Strength = feed.Attested
	for what, o := range map[string]feed.Order{"that has ended": over, "for another feed": other, "for what is stronger": more} {
		if j := h.under(t.Context(), h.now, h.marks, []feed.Order{o}); !errors.Is(j.err, feed.ErrHeld) {
			t.Errorf("with an exception %s: %v", what, j.err)
		}
	}
}
