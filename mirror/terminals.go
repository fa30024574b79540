package mirror

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	bolt "go.etcd.io/bbolt"
)

// Records of terminals, in terminals.db beside the sightings.

// Bounds: whoever reaches the port can invent terminals.
const (
	maxTerminal  = 1 << 20 // bytes of one record
	maxTerminals = 100_000
	maxWaiting   = 5000      // changed records not yet written
	maxWeight    = 1_000_000 // standings in them
	maxLedger    = 4 << 30   // bytes of terminals.db at which no more terminals are taken in
)

var terminalsBucket = []byte("terminals")

// kept is since when records and sightings are kept: 13 months, so that a whole
// fiscal year can be looked at in the month after it.
func kept(now time.Time) time.Time { return now.AddDate(0, -13, 0) }

// records are the terminals that changed since the last write.
type records struct {
	mu      sync.Mutex
	pending map[string]*feed.Terminal
	weight  int
	count   int // in the database
	counted bool
}

// Change implements feed.Ledger.
func (l *ledger) Change(name, id string, f func(*feed.Terminal)) {
	if id == "" || len(id) > maxText {
		return
	}
	key := name + "\x00" + id
	r := &l.records
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.pending[key]
	if r.weight >= maxWeight {
		l.lose(1)
		return
	}
	if !ok {
		if len(r.pending) >= maxWaiting {
			l.lose(1)
			return
		}
		if t = l.record(key); t == nil {
			if r.count+len(r.pending) >= maxTerminals {
				l.lose(1)
				return
			}
			t = &feed.Terminal{Feed: name, ID: id}
		}
		r.pending[key] = t
	}
	f(t)
	r.weight += len(t.Updates)
}

// record reads one record; nil is a new terminal. A record that cannot be read
// begins anew.
func (l *ledger) record(key string) *feed.Terminal {
	var t *feed.Terminal
	_ = l.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(terminalsBucket)
		if b == nil {
			return nil
		}
		if !l.records.counted {
			l.records.count, l.records.counted = b.Stats().KeyN, true
		}
		if tx.Size() > maxLedger {
			l.records.count = maxTerminals
		}
		raw := b.Get([]byte(key))
		if raw == nil {
			return nil
		}
		var known feed.Terminal
		if json.Unmarshal(raw, &known) == nil {
			t = &known
		}
		return nil
	})
	return t
}

func (l *ledger) lose(n uint64) {
	l.mu.Lock()
	l.dropped += n
	l.mu.Unlock()
}

// flushTerminals writes the changed records in one transaction.
func (l *ledger) flushTerminals() error {
	r := &l.records
	r.mu.Lock() // until they are written: Change would read the old ones
	defer r.mu.Unlock()
	if len(r.pending) == 0 {
		return nil
	}
	err := l.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(terminalsBucket)
		for key, t := range r.pending {
			if err != nil {
				return err
			}
			raw, merr := json.Marshal(t)
			if merr != nil || len(raw) > maxTerminal {
				continue // the last good record stays
			}
			err = b.Put([]byte(key), raw)
		}
		return err
	})
	if err != nil {
		l.lose(uint64(len(r.pending)))
	}
	clear(r.pending)
	r.counted, r.weight = false, 0
	l.mu.Lock()
	l.dirty = l.dirty || err == nil
	l.mu.Unlock()
	return err
}

// copyTerminals writes one line for each record, and names those that are too old.
func copyTerminals(tx *bolt.Tx, now time.Time, w io.Writer) (old [][]byte, err error) {
	b := tx.Bucket(terminalsBucket)
	if b == nil {
		return nil, nil
	}
	err = b.ForEach(func(k, raw []byte) error {
		var t feed.Terminal
		if json.Unmarshal(raw, &t) != nil || t.Contact.Before(kept(now)) {
			old = append(old, slices.Clone(k))
			return nil
		}
		_, err := fmt.Fprintf(w, "{\"record\":%s}\n", raw)
		return err
	})
	return old, err
}

// Terminals reads the records from the copy that the server leaves of its
// ledger, at most a minute old, by feed, group and name. No file is no terminal.
func Terminals(data state.Dir) ([]feed.Terminal, error) {
	var out []feed.Terminal
	if _, err := os.Stat(sightingsPath(data)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for line, err := range linesUpTo(sightingsPath(data), maxTerminal+64) {
		var l struct {
			Record *feed.Terminal `json:"record"`
		}
		if err == nil {
			if err = json.Unmarshal(line, &l); err != nil {
				err = fmt.Errorf("%s: %w: %w", sightingsPath(data), err, feed.ErrDamaged)
			}
		}
		if err != nil {
			return out, err
		}
		if l.Record != nil {
			out = append(out, *l.Record)
		}
	}
	slices.SortStableFunc(out, func(a, b feed.Terminal) int {
		return cmp.Or(cmp.Compare(a.Feed, b.Feed), cmp.Compare(strings.ToLower(a.Group), strings.ToLower(b.Group)),
			cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Standing of a whole terminal.
const (
	TerminalCurrent = "current" // reports that nothing is needed
	TerminalBehind  = "behind"  // something is needed, failed or waits for a restart
	TerminalStale   = "stale"   // no status report for a while
	TerminalUnknown = "unknown" // never reported its status
)

// StaleAfter is the default number of days without a report: longer than the
// holidays around New Year and in May.
const StaleAfter = 14

// twinFor is how long a shared id stays flagged after it was last seen.
const twinFor = 30 * day

// Standing is one terminal, judged.
type Standing struct {
	feed.Terminal
	Standing  string `json:"standing"`
	Needed    int    `json:"needed"` // also those downloaded and not installed
	Failed    int    `json:"failed"`
	Pending   int    `json:"pending"`
	Installed int    `json:"installed"`
	Cloned    bool   `json:"cloned"` // several machines use this id
}

// GroupCompliance counts the terminals of one target group.
type GroupCompliance struct {
	Feed      string `json:"feed"`
	Group     string `json:"group"`
	Terminals int    `json:"terminals"`
	Current   int    `json:"current"`
	Behind    int    `json:"behind"`
	Stale     int    `json:"stale"`
	Unknown   int    `json:"unknown"`
	Failed    int    `json:"failed"`  // terminals with a failed installation
	Pending   int    `json:"pending"` // terminals that wait for a restart
	Cloned    int    `json:"cloned"`
}

// UpdateCompliance counts where one update stands, over the terminals that report it.
type UpdateCompliance struct {
	Feed      string    `json:"feed"`
	ID        string    `json:"id"`
	Title     feed.Text `json:"title"`
	Needed    int       `json:"needed"`
	Failed    int       `json:"failed"`
	Pending   int       `json:"pending"`
	Installed int       `json:"installed"`
}

// Compliance is what all terminals together say.
type Compliance struct {
	StaleDays int                `json:"stale_days"`
	Groups    []GroupCompliance  `json:"groups"`
	Updates   []UpdateCompliance `json:"updates"`
	Terminals []Standing         `json:"terminals"`
}

// Comply judges terminals at now; those without a report for staleDays are stale.
func Comply(terminals []feed.Terminal, staleDays int, now time.Time) Compliance {
	out := Compliance{StaleDays: staleDays}
	groups, updates := map[[2]string]*GroupCompliance{}, map[[2]string]*UpdateCompliance{}
	for _, t := range terminals {
		s := judge(t, now.Add(-time.Duration(staleDays)*day), now)
		out.Terminals = append(out.Terminals, s)
		key := [2]string{t.Feed, strings.ToLower(t.Group)}
		if groups[key] == nil {
			groups[key] = &GroupCompliance{Feed: t.Feed, Group: t.Group}
		}
		groups[key].add(s)
		for id, u := range t.Updates {
			key := [2]string{t.Feed, id}
			if updates[key] == nil {
				updates[key] = &UpdateCompliance{Feed: t.Feed, ID: id}
			}
			updates[key].add(u.State)
		}
	}
	byKey := func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }
	for _, k := range slices.SortedFunc(maps.Keys(groups), byKey) {
		out.Groups = append(out.Groups, *groups[k])
	}
	for _, k := range slices.SortedFunc(maps.Keys(updates), byKey) {
		out.Updates = append(out.Updates, *updates[k])
	}
	slices.SortStableFunc(out.Updates, func(a, b UpdateCompliance) int {
		return cmp.Or(cmp.Compare(b.Failed, a.Failed), cmp.Compare(b.Needed+b.Pending, a.Needed+a.Pending))
	})
	return out
}

func judge(t feed.Terminal, stale, now time.Time) Standing {
	s := Standing{Terminal: t, Cloned: !t.Twin.IsZero() && now.Sub(t.Twin) < twinFor}
	for _, u := range t.Updates {
		switch u.State {
		case feed.StateNeeded, feed.StateDownloaded:
			s.Needed++
		case feed.StateFailed:
			s.Failed++
		case feed.StatePending:
			s.Pending++
		case feed.StateInstalled:
			s.Installed++
		}
	}
	switch {
	case t.Reported.IsZero():
		s.Standing = TerminalUnknown
	case t.Reported.Before(stale):
		s.Standing = TerminalStale
	case s.Needed+s.Failed+s.Pending > 0:
		s.Standing = TerminalBehind
	default:
		s.Standing = TerminalCurrent
	}
	return s
}

func (g *GroupCompliance) add(s Standing) {
	g.Terminals++
	*map[string]*int{TerminalCurrent: &g.Current, TerminalBehind: &g.Behind, TerminalStale: &g.Stale, TerminalUnknown: &g.Unknown}[s.Standing]++
	for n, yes := range map[*int]bool{&g.Failed: s.Failed > 0, &g.Pending: s.Pending > 0, &g.Cloned: s.Cloned} {
		if yes {
			*n++
		}
	}
}

func (u *UpdateCompliance) add(s feed.State) {
	switch s {
	case feed.StateNeeded, feed.StateDownloaded:
		u.Needed++
	case feed.StateFailed:
		u.Failed++
	case feed.StatePending:
		u.Pending++
	case feed.StateInstalled:
		u.Installed++
	}
}

// Stragglers are the terminals that need a person: stale, unknown or behind
// with a failure, and those that share an id; the longest silent first.
func (c Compliance) Stragglers() []Standing {
	var out []Standing
	for _, s := range c.Terminals {
		if s.Standing == TerminalStale || s.Standing == TerminalUnknown || s.Failed > 0 || s.Cloned {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Standing) int { return a.Reported.Compare(b.Reported) })
	return out
}

// Mask replaces host names by names that mean nothing elsewhere and are the same
// in every export from this data directory.
func (c *Compliance) Mask(data state.Dir) error {
	key, err := openSecret(data)
	if err != nil {
		return err
	}
	name := func(s string) string {
		if s == "" {
			return ""
		}
		h := hmac.New(sha256.New, key.of("terminal-names"))
		io.WriteString(h, strings.ToLower(s))
		return "terminal-" + hex.EncodeToString(h.Sum(nil)[:6])
	}
	for i := range c.Terminals {
		t := &c.Terminals[i]
		t.Name, t.Aliases = name(t.Name), slices.Clone(t.Aliases)
		for j := range t.Aliases {
			t.Aliases[j].Name = name(t.Aliases[j].Name)
		}
	}
	return nil
}
