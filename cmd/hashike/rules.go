package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// rulesTravel issues an order for each feed whose rules of approval are others
// than the newest order has: they travel with this bundle, and the insides
// apply them where their own rules say nothing.
func (s *station) rulesTravel() error {
	var orders []feed.Order
	err := s.db.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err })
	if err != nil {
		return err
	}
	for _, f := range s.cfg.Feeds {
		k, ok := f.Feed.(feed.Decider)
		if !ok {
			continue
		}
		var last feed.Order
		for _, o := range orders {
			if o.Kind == feed.OrderRules && o.Feed == f.Name && o.Number > last.Number {
				last = o
			}
		}
		now := k.Rules()
		if now == nil && last.Number > 0 {
			now = json.RawMessage("{}") // rules that were taken back
		}
		if now == nil || sameJSON(now, last.Rules) {
			continue
		}
		fmt.Fprintln(s.out, s.cat.T("rules.travel", f.Name))
		o := feed.Order{Schema: 1, Kind: feed.OrderRules, Feed: f.Name, Rules: now, Reason: s.cat.T("rules.reason"), Operator: s.who(), Issued: s.now()}
		if err := s.issue(o, nil); err != nil {
			return err
		}
	}
	return nil
}

// sameJSON compares two documents as written without white space.
func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
