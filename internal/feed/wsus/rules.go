package wsus

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Rules of approval: the configuration's own and those that the outside's order
// brings (docs/bundle.md, orders).

// Rule approves, declines or only detects updates.
type Rule struct {
	Classification string                   `toml:"classification" json:"classification,omitempty" doc:"分類（名前またはID）。空はすべて / classification, by title or id"`
	Product        string                   `toml:"product" json:"product,omitempty" doc:"製品（名前またはID）。空はすべて / product, by title or id"`
	Group          string                   `toml:"group" json:"group,omitempty" doc:"端末のグループまたは配信段階。空はすべて / target group or ring"`
	Action         string                   `toml:"action" json:"action" doc:"install、optional、detect、decline"`
	Waits          map[string]feed.Duration `toml:"waits" json:"waits,omitempty" doc:"配信段階ごとの待機時間（この配信段階に初めて届いてから） / wait per ring, after the ring first had the update"`
	Deadline       feed.Duration            `toml:"deadline" json:"deadline,omitzero" doc:"期限（待機時間の後。例 7d）。過ぎると端末が自動で入れる / deadline after the wait"`
}

const maxRules = 200

func (c *Config) checkRules() error {
	if _, ok := words[c.Others]; !ok && c.Others != "" {
		return fmt.Errorf("others = %.40q: install, optional, detect or decline: %w", c.Others, feed.ErrConfig)
	}
	if len(c.Rules) > maxRules {
		return fmt.Errorf("over %d rules: %w", maxRules, feed.ErrConfig)
	}
	for i, r := range c.Rules {
		_, known := words[r.Action]
		if !known || r.Action == "uninstall" {
			return fmt.Errorf("rules[%d]: action = %.40q: install, optional, detect or decline: %w", i, r.Action, feed.ErrConfig)
		}
		if len(r.Classification)+len(r.Product)+len(r.Group) > maxText || r.Deadline < 0 {
			return fmt.Errorf("rules[%d]: a name is too long or the deadline negative: %w", i, feed.ErrConfig)
		}
		for ring, d := range r.Waits {
			if !slices.Contains(feed.Rings(), ring) || d < 0 {
				return fmt.Errorf("rules[%d]: waits.%.40s: %w", i, ring, feed.ErrConfig)
			}
		}
	}
	return nil
}

// ruleSet is what travels of the rules: the body of a rules order.
type ruleSet struct {
	Rules  []Rule `json:"rules,omitempty"`
	Others string `json:"others,omitempty"`
}

// Rules implements feed.Decider.
func (f *updates) Rules() json.RawMessage {
	if len(f.conf.Rules) == 0 && f.conf.Others == "" {
		return nil
	}
	b, err := json.Marshal(ruleSet{f.conf.Rules, f.conf.Others})
	if err != nil {
		return nil // strings and numbers can be marshalled
	}
	return b
}

// CheckRules implements feed.Decider.
func (f *updates) CheckRules(b json.RawMessage) error {
	_, err := parseRules(b)
	return err
}

// parseRules reads an outside's rules; none are none.
func parseRules(b json.RawMessage) (ruleSet, error) {
	var r ruleSet
	if len(b) == 0 {
		return r, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("rules of the outside: %w: %w", err, feed.ErrConfig)
	}
	return r, (&Config{Rules: r.Rules, Others: r.Others}).checkRules()
}

// Policy implements feed.Decider.
func (f *updates) Policy(outside json.RawMessage) string {
	h := sha256.New()
	h.Write(f.Rules())
	h.Write([]byte{0})
	h.Write(outside)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// rules applies the configured rules and, where none of them speaks for
// everybody, the outside's.
func (f *updates) rules(d *describer, outside ruleSet, by, ring string, had map[string]feed.Decision, now time.Time) []feed.Decision {
	var out []feed.Decision
	switch {
	case f.conf.Others != "":
		out = append(out, feed.Decision{Subject: "*", Action: f.conf.Others, Source: feed.ByRule, Since: now, By: "others"})
	case outside.Others != "":
		out = append(out, feed.Decision{Subject: "*", Action: outside.Others, Source: feed.ByOutsideRule, Since: now, By: by + " others"})
	}
	for _, i := range d.deployable() {
		own := d.apply(f.conf.Rules, feed.Decision{Source: feed.ByRule}, i, ring, had, now)
		out = append(out, own...)
		if !slices.ContainsFunc(own, func(x feed.Decision) bool { return x.Group == "" }) {
			out = append(out, d.apply(outside.Rules, feed.Decision{Source: feed.ByOutsideRule, By: by + " "}, i, ring, had, now)...)
		}
	}
	return out
}

// apply finds the first rule that fits an update, for each group that rules
// name. like has what the decisions have in common.
func (d *describer) apply(rules []Rule, like feed.Decision, i int, ring string, had map[string]feed.Decision, now time.Time) []feed.Decision {
	var out []feed.Decision
	r := &d.Revisions[i]
	done := map[string]bool{}
	for n, rule := range rules {
		group := strings.ToLower(rule.Group)
		if done[group] || !d.fits(rule, r) {
			continue
		}
		done[group] = true
		x := like
		x.Subject, x.Group, x.Action, x.Since, x.By = d.Updates[r.Update].String(), rule.Group, rule.Action, now, fmt.Sprintf("%srules[%d]", like.By, n)
		if was, ok := had[x.Source+"\x00"+x.Key()]; ok {
			x.Since = was.Since
		}
		wait := time.Duration(rule.Waits[ring])
		if wait > 0 {
			x.From = x.Since.Add(wait)
		}
		if rule.Deadline > 0 {
			x.Deadline = x.Since.Add(wait + time.Duration(rule.Deadline)).Truncate(time.Second)
		}
		out = append(out, x)
	}
	return out
}
