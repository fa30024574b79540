package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
)

// Level is an age in the three colours, which pages never show without the word.
type Level string

const (
	Green   Level = "green"
	Yellow  Level = "yellow"
	Red     Level = "red"
	Unknown Level = "unknown" // no snapshot, or nothing in it has a date
)

// Overview is what one side knows of its feeds: the form of status --json.
type Overview struct {
	Side   string       `json:"side"`
	Site   int          `json:"site"`
	At     time.Time    `json:"at"` // when the write path last said so
	Feeds  []FeedStatus `json:"feeds"`
	Orders []feed.Order `json:"orders"`
	// Awaited are bundles that nobody approved, or by telephone only: red until
	// the stamped sheet is recorded.
	Awaited []Awaited `json:"awaited,omitempty"`
}

// Awaited is a bundle whose approval a person must still record. It names
// nobody: terminals' pages show it.
type Awaited struct {
	Bundle uint64    `json:"bundle"`
	How    string    `json:"how,omitempty"` // "telephone", or nothing yet
	Since  time.Time `json:"since"`
	Level  Level     `json:"level"`
}

// FeedStatus is one feed in an Overview.
type FeedStatus struct {
	Feed     string            `json:"feed"`
	Kind     string            `json:"kind"`
	Serial   uint64            `json:"serial"` // newest accepted; 0 is none yet
	ID       feed.Digest       `json:"id,omitempty"`
	Version  string            `json:"version,omitempty"`
	Released time.Time         `json:"released,omitzero"` // by the vendor
	Age      feed.Duration     `json:"age,omitempty"`     // since then
	Level    Level             `json:"level"`
	Taken    time.Time         `json:"taken,omitzero"`
	Accepted time.Time         `json:"accepted,omitzero"`
	Bundle   uint64            `json:"bundle,omitempty"`
	Weakest  feed.Strength     `json:"weakest"`
	Withheld map[string]string `json:"withheld,omitempty"`
	Problem  string            `json:"problem,omitempty"`
	Code     string            `json:"code,omitempty"`
	Since    time.Time         `json:"since,omitzero"`
	Hold     *Hold             `json:"hold,omitempty"`
	Late     bool              `json:"late,omitempty"` // the newest waits for publish --late
	// Unapproved: the newest waits for an approver.
	Unapproved bool `json:"unapproved,omitempty"`

	Rings []RingStatus `json:"rings,omitempty"`
}

// RingStatus is what one ring sees of a feed.
type RingStatus struct {
	Ring       string        `json:"ring"`
	Generation uint64        `json:"generation"`
	Serial     uint64        `json:"serial"`
	Version    string        `json:"version,omitempty"`
	Released   time.Time     `json:"released,omitzero"`
	Age        feed.Duration `json:"age,omitempty"`
	Level      Level         `json:"level"`
	Published  time.Time     `json:"published,omitzero"`
	Stopped    bool          `json:"stopped,omitempty"`
	Next       time.Time     `json:"next,omitzero"` // when the newest accepted reaches this ring by rule
}

// statusDoc is published/status.json: what pages need of state.db, so that the
// read path never opens it.
type statusDoc struct {
	Schema   int                            `json:"schema"`
	At       time.Time                      `json:"at"`
	Side     string                         `json:"side"`
	Site     int                            `json:"site"`
	Feeds    map[string]state.FeedState     `json:"feeds"`
	Accepted map[string]map[uint64]Accepted `json:"accepted"`
	Holds    map[string]Hold                `json:"holds"`
	Orders   []feed.Order                   `json:"orders"`
	Awaited  []Awaited                      `json:"awaited,omitempty"`
}

func statusPath(data state.Dir) string { return filepath.Join(data.PublishedRoot(), "status.json") }

func readStatus(data state.Dir) (statusDoc, error) {
	f, err := os.Open(statusPath(data))
	if errors.Is(err, fs.ErrNotExist) {
		return statusDoc{}, nil
	}
	if err != nil {
		return statusDoc{}, err
	}
	defer f.Close()
	b, err := readCapped(f, 64<<20)
	if err != nil {
		return statusDoc{}, err
	}
	var d statusDoc
	if err := json.Unmarshal(b, &d); err != nil {
		return statusDoc{}, fmt.Errorf("%s: %w: %w", statusPath(data), err, feed.ErrDamaged)
	}
	if d.Schema > 1 {
		return statusDoc{}, fmt.Errorf("%s: schema %d is newer than this program's 1", statusPath(data), d.Schema)
	}
	return d, nil
}

func loadStatus(db *state.DB, at time.Time) (statusDoc, error) {
	out := statusDoc{Schema: 1, At: at.UTC()}
	var err error
	if out.Side, out.Site, err = db.Identity(); err != nil {
		return out, err
	}
	err = db.View(func(tx state.Tx) error {
		d, err := readDesk(tx)
		if err != nil {
			return err
		}
		out.Feeds, out.Accepted, out.Holds, out.Orders = d.feeds, d.accepted, d.holds, d.orders
		out.Awaited, err = awaited(tx)
		return err
	})
	return out, err
}

func awaited(tx state.Tx) ([]Awaited, error) {
	all, err := people.Approvals(tx)
	var out []Awaited
	for _, a := range all {
		if a.Open() {
			out = append(out, Awaited{Bundle: a.Bundle, How: a.How, Since: a.Since, Level: Red})
		}
	}
	return out, err
}

// WriteStatus refreshes what pages show of state.db. Publishing operations do
// it themselves; import calls it after a failure that published nothing.
func (p *Publisher) WriteStatus() error { return p.writeStatus() }

func (p *Publisher) writeStatus() error {
	d, err := loadStatus(p.DB, p.Clock())
	if err != nil {
		return err
	}
	// Only snapshots that are still stored: the rest is history of no page.
	for name, all := range d.Accepted {
		for n := range all {
			if _, err := os.Lstat(p.Store.SnapshotPath(name, n)); err != nil {
				delete(d.Accepted[name], n)
			}
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := durable.Mkdir(p.Data.PublishedRoot()); err != nil {
		return err
	}
	return durable.WriteFile(statusPath(p.Data), b)
}

// Status reads state.db and the generations: for the command.
func Status(db *state.DB, store *cas.Store, feeds []feed.Setup, rings Rings, now time.Time) (Overview, error) {
	d, err := loadStatus(db, now)
	if err != nil {
		return Overview{}, err
	}
	return overview(db.Dir(), d, feeds, rings, newAges(store), now)
}

func overview(data state.Dir, d statusDoc, feeds []feed.Setup, rings Rings, ages *ages, now time.Time) (Overview, error) {
	out := Overview{Side: d.Side, Site: d.Site, At: d.At, Feeds: []FeedStatus{}, Orders: d.Orders, Awaited: d.Awaited}
	for _, s := range feeds {
		f := d.Feeds[s.Name]
		st := FeedStatus{
			Feed: s.Name, Kind: s.Kind.Name, Serial: f.Serial, ID: f.ID, Taken: f.Taken, Accepted: f.Accepted, Bundle: f.Bundle,
			Weakest: f.Weakest, Withheld: f.Withheld, Problem: f.Problem, Code: f.Code, Since: f.Since, Level: Unknown,
		}
		if h, ok := d.Holds[s.Name]; ok {
			st.Hold = &h
		}
		st.Late, st.Unapproved = d.Accepted[s.Name][f.Serial].Late, f.Unapproved
		st.Released, st.Version = ages.of(s, f.Serial)
		st.Age, st.Level = ages.level(s, st.Released, now)
		if d.Side != "outside" {
			var err error
			if st.Rings, err = ringStatuses(data, s, f, st, rings, ages, now); err != nil {
				return out, err
			}
		}
		out.Feeds = append(out.Feeds, st)
	}
	return out, nil
}

func ringStatuses(data state.Dir, s feed.Setup, f state.FeedState, st FeedStatus, rings Rings, ages *ages, now time.Time) ([]RingStatus, error) {
	var out []RingStatus
	for _, ring := range feed.Rings() {
		gens, _, err := Generations(data, ring, s.Name)
		if err != nil {
			return nil, err
		}
		active := slices.Contains(rings.active(), ring)
		if !active && len(gens) == 0 {
			continue
		}
		g := first(gens)
		r := RingStatus{Ring: ring, Generation: g.Number, Serial: g.Serial, Published: g.Published, Stopped: g.Stopped}
		r.Released, r.Version = ages.of(s, g.Serial)
		r.Age, r.Level = ages.level(s, r.Released, now)
		if active && f.Serial > g.Serial && st.Hold == nil && !st.Late && !st.Unapproved {
			r.Next = f.Accepted.Add(rings.wait(s, ring))
		}
		out = append(out, r)
	}
	return out, nil
}

// ages remembers the vendor's release time of snapshots, which never change.
type ages struct {
	store *cas.Store
	mu    sync.Mutex
	known map[string]dated
}

type dated struct {
	at      time.Time
	version string
}

func newAges(store *cas.Store) *ages { return &ages{store: store, known: map[string]dated{}} }

// maxAges bounds what is remembered; a board shows a few snapshots a feed.
const maxAges = 1000

// of is the vendor's release time and version of a snapshot: from the kind, or
// the newest artifact's.
func (a *ages) of(s feed.Setup, serial uint64) (time.Time, string) {
	if serial == 0 {
		return time.Time{}, ""
	}
	key := serialKey(s.Name, serial)
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, ok := a.known[key]; ok {
		return r.at, r.version
	}
	snap, err := a.store.Snapshot(s.Name, serial)
	if err != nil {
		return time.Time{}, ""
	}
	var r dated
	if k, ok := s.Feed.(feed.Freshness); ok {
		r.at, r.version = k.Released(snap)
	} else {
		for art := range snap.Artifacts() {
			if art.Time.After(r.at) {
				r.at, r.version = art.Time, art.Version
			}
		}
	}
	if len(a.known) >= maxAges {
		clear(a.known)
	}
	a.known[key] = r
	return r.at, r.version
}

// level judges an age. Without a kind's own word: definitions 3 and 7 days
// (as endpoint products themselves warn), others 14 and 35.
func (a *ages) level(s feed.Setup, released, now time.Time) (feed.Duration, Level) {
	if released.IsZero() {
		return 0, Unknown
	}
	yellow, red := 14*day, 35*day
	if s.Prefer == feed.Definition {
		yellow, red = 3*day, 7*day
	}
	if k, ok := s.Feed.(feed.Freshness); ok {
		yellow, red = k.Stale()
	}
	age := max(now.Sub(released), 0).Truncate(time.Second)
	switch {
	case age >= red:
		return feed.Duration(age), Red
	case age >= yellow:
		return feed.Duration(age), Yellow
	}
	return feed.Duration(age), Green
}
