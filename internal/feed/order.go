package feed

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// OrderKind is what an order does.
type OrderKind string

const (
	OrderTrust     OrderKind = "trust"          // adds a vendor key or root
	OrderDistrust  OrderKind = "distrust"       // withdraws one
	OrderException OrderKind = "exception"      // lowers a floor for one feed or digest, until a date
	OrderFloor     OrderKind = "floor"          // resets the time floor
	OrderRollback  OrderKind = "allow-rollback" // lets marks of one feed go back once
	OrderPullBack  OrderKind = "pull-back"      // stops serving
	OrderDecide    OrderKind = "decide"         // a word on one update: approved, declined; the inside may say otherwise
	OrderRules     OrderKind = "rules"          // the outside's rules of approval for one feed; the inside's own come first
	OrderVoid      OrderKind = "void"           // a bundle whose medium was lost: not imported without a person's word
)

// Order is a signed instruction that travels with every bundle until it ends.
// The inside drops none it accepted.
type Order struct {
	Schema   int       `json:"schema"`
	Number   uint64    `json:"number"` // unique; shown to people ("例外措置 17")
	Kind     OrderKind `json:"kind"`
	Feed     string    `json:"feed,omitempty"`
	Digest   Digest    `json:"digest,omitempty"`
	Strength Strength  `json:"strength"` // exception: what is enough
	// Detection makes an exception one about malware scans alone: the file of
	// Digest is released although a scanner finds this name in it.
	Detection string          `json:"detection,omitempty"`
	Distrust  *Distrust       `json:"distrust,omitempty"` // distrust
	Anchor    *NewAnchor      `json:"anchor,omitempty"`   // trust
	Decision  *Decision       `json:"decision,omitempty"` // decide
	Rules     json.RawMessage `json:"rules,omitempty"`    // rules: in the kind's own form
	Time      time.Time       `json:"time,omitzero"`      // floor: the new floor
	Serial    uint64          `json:"serial,omitempty"`   // pull-back, rollback: which snapshot
	Bundle    uint64          `json:"bundle,omitempty"`   // void: its number
	Reason    string          `json:"reason"`
	Operator  string          `json:"operator"`
	Approver  string          `json:"approver"`
	Issued    time.Time       `json:"issued"`
	Until     time.Time       `json:"until,omitzero"` // exception: required, 31 March at the latest
}

// MaxRules is how large the rules of one order may be: its record must fit into a line.
const MaxRules = 96 << 10

// NewAnchor is a vendor key or root that an order adds for some feeds.
type NewAnchor struct {
	Name   string `json:"name"`
	Use    string `json:"use"`
	Data   []byte `json:"data"`
	Source string `json:"source"`
}

// LostMedium is the reason of a void order: the reason somebody gave stays in
// the log, as the order travels. Screens say it in the reader's language.
const LostMedium = "medium lost"

// Check refuses an order that says too little or promises too much.
func (o Order) Check() error {
	bad := func(what string) error { return fmt.Errorf("order %d: %s: %w", o.Number, what, ErrConfig) }
	switch {
	case o.Schema != 1:
		return bad(fmt.Sprintf("schema %d", o.Schema))
	case o.Number == 0, strings.TrimSpace(o.Reason) == "", strings.TrimSpace(o.Operator) == "", o.Issued.IsZero():
		return bad("number, reason, operator and date are required")
	case o.Feed != "" && !ValidName(o.Feed):
		return bad("feed name")
	}
	switch o.Kind {
	case OrderTrust:
		if o.Anchor == nil || o.Anchor.Name == "" || o.Anchor.Use == "" || len(o.Anchor.Data) == 0 || len(o.Anchor.Data) > 1<<20 {
			return bad("a trust order needs a named key of at most 1 MiB")
		}
	case OrderDistrust:
		if o.Distrust == nil || (o.Distrust.KeyID == "" && o.Distrust.Digest == "") {
			return bad("a distrust order needs a key or a digest")
		}
	case OrderException:
		switch {
		case o.Feed == "" && o.Digest == "":
			return bad("an exception names a feed or a digest")
		case o.Detection != "" && o.Digest == "":
			return bad("an exception for a detection names the file's digest")
		case strings.TrimSpace(o.Approver) == "" || o.Approver == o.Operator:
			return bad("an exception needs an approver who is not the operator")
		case o.Until.IsZero() || o.Until.After(FiscalYearEnd(o.Issued)):
			return bad("an exception ends on 31 March at the latest")
		}
	case OrderFloor:
		if o.Time.IsZero() {
			return bad("a floor order needs a time")
		}
	case OrderRollback, OrderPullBack:
		if o.Feed == "" {
			return bad("which feed")
		}
	case OrderDecide:
		if o.Feed == "" || o.Decision == nil {
			return bad("which feed, and what is decided")
		}
		if err := o.Decision.Check(); err != nil {
			return bad(err.Error())
		}
	case OrderRules:
		if o.Feed == "" || len(o.Rules) > MaxRules || !json.Valid(o.Rules) {
			return bad(fmt.Sprintf("which feed, and its rules in JSON of at most %d bytes", MaxRules))
		}
	case OrderVoid:
		if o.Bundle == 0 {
			return bad("which bundle")
		}
	default:
		return bad(fmt.Sprintf("unknown kind %.40q", o.Kind))
	}
	return nil
}

// InForce reports whether the order holds at t.
func (o Order) InForce(t time.Time) bool { return o.Until.IsZero() || t.Before(o.Until) }

// JST is the only zone that people see. Japan has no daylight saving time.
func JST() *time.Location { return time.FixedZone("JST", 9*60*60) }

// FiscalYearEnd is the end of 31 March (JST) that follows t.
func FiscalYearEnd(t time.Time) time.Time {
	j := t.In(JST())
	y := j.Year()
	if j.Month() >= time.April {
		y++
	}
	return time.Date(y, time.April, 1, 0, 0, 0, 0, JST())
}
