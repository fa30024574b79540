package diode

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/durable"
)

// Status is what a receiver knows about its line: for pages, metrics, people.
type Status struct {
	Started    time.Time `json:"started"`
	Written    time.Time `json:"written"`
	LastPacket time.Time `json:"last_packet"` // of our outside; zero is none yet
	Packets    int64     `json:"packets"`     // of our outside
	Bytes      int64     `json:"bytes"`       // their UDP payload
	Lost       int64     `json:"lost"`        // by the gaps in their numbers
	Foreign    int64     `json:"foreign"`     // no packet of ours, or without the key's tag
	Newer      int64     `json:"newer"`       // of a program newer than this one
	Strange    int64     `json:"strange"`     // sessions or blocks that are not expected
	Double     int64     `json:"double"`      // shards of blocks that are there: replays, later passes
	Rebuilt    int64     `json:"rebuilt"`     // blocks that needed parity
	Spilled    int64     `json:"spilled"`     // blocks put aside until their next pass
	Damaged    int64     `json:"damaged"`     // files whose digest was another
	Drops      int64     `json:"drops"`       // by the kernel, since the start; -1 unknown
	Buffer     Buffer    `json:"buffer"`
	Rate       float64   `json:"rate"`        // bits per second of the last seconds
	RecentLost float64   `json:"recent_lost"` // share of the last minute's packets
	Problem    string    `json:"problem,omitempty"`

	Sessions []SessionStatus `json:"sessions,omitempty"`
	Done     []Finished      `json:"done,omitempty"` // newest last
}

// SessionStatus is one session that is not whole yet.
type SessionStatus struct {
	Name   string    `json:"name"`
	ID     string    `json:"id"`
	Bytes  int64     `json:"bytes"`
	Blocks int64     `json:"blocks"`
	Have   int64     `json:"have"`  // blocks
	Files  int       `json:"files"` // all of them
	Whole  int       `json:"whole"` // files with the right digest
	Since  time.Time `json:"since"`
	Pass   int       `json:"pass"`           // passes that ended
	Need   string    `json:"need,omitempty"` // after the end of a pass
}

// Finished is a session that arrived whole.
type Finished struct {
	Name  string    `json:"name"`
	ID    string    `json:"id"`
	Bytes int64     `json:"bytes"`
	Since time.Time `json:"since"` // its table arrived
	Whole time.Time `json:"whole"` // the last digest was right
	At    time.Time `json:"at"`    // it is durable and in the inbox
}

// SilentAfter is when a line without a packet counts as silent: an idle sender
// sends a heartbeat each second.
const SilentAfter = 45 * time.Second

// Silent reports since when nothing came of our outside; zero while it does.
func (s Status) Silent(now time.Time) time.Time {
	last := s.LastPacket
	if last.IsZero() {
		last = s.Started
	}
	switch d := now.Sub(last); {
	case d > SilentAfter:
		return last
	case d < -SilentAfter: // the clock was set back: a line that lives has a newer packet already
		return now
	}
	return time.Time{}
}

// StatusFile is where a receiver leaves its status every few seconds.
func StatusFile(dir string) string { return filepath.Join(dir, "status.json") }

// ReadStatus reads what a receiver left in its directory.
func ReadStatus(dir string) (Status, error) {
	b, err := os.ReadFile(StatusFile(dir))
	if err != nil {
		return Status{}, err
	}
	var s Status
	return s, json.Unmarshal(b, &s)
}

// writeStatus replaces the file without flushing: it is worth nothing after a crash.
func writeStatus(dir string, s Status) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	t, err := durable.Create(dir)
	if err != nil {
		return err
	}
	defer t.Discard()
	if _, err := t.Write(b); err != nil {
		return err
	}
	return t.Rename(StatusFile(dir))
}

// runs counts lost packets by their numbers, run by run.
type runs struct {
	list []*run // the last one is the newest seen
	lost int64  // of runs that were forgotten
}

// run is one sender's life. Each number counts once, if it is not late by more
// than the window: what came twice hides no loss.
type run struct {
	id          uint64
	first, last uint32
	got         int64
	seen        [lateWindow / 64]uint64
}

const (
	maxRunsKept = 8
	lateWindow  = 1 << 16
)

// note counts a packet; false if it came before.
func (r *runs) note(id uint64, seq uint32) bool {
	for i := len(r.list) - 1; i >= 0; i-- {
		if r.list[i].id == id {
			return r.list[i].note(seq)
		}
	}
	if len(r.list) == maxRunsKept {
		r.lost += r.list[0].lost()
		r.list = append(r.list[:0], r.list[1:]...)
	}
	x := &run{id: id, first: seq, last: seq, got: 1}
	x.seen[seq%lateWindow/64] |= 1 << (seq % 64)
	r.list = append(r.list, x)
	return true
}

func (x *run) note(seq uint32) bool {
	switch {
	case seq > x.last:
		if seq-x.last >= lateWindow {
			clear(x.seen[:])
		} else {
			for n := x.last + 1; n != seq; n++ {
				x.seen[n%lateWindow/64] &^= 1 << (n % 64)
			}
		}
		x.last = seq
	case seq < x.first || x.last-seq >= lateWindow || x.seen[seq%lateWindow/64]&(1<<(seq%64)) != 0:
		return false
	}
	x.seen[seq%lateWindow/64] |= 1 << (seq % 64)
	x.got++
	return true
}

func (x *run) lost() int64 { return int64(x.last) - int64(x.first) + 1 - x.got }

func (r *runs) total() int64 {
	n := r.lost
	for _, x := range r.list {
		n += x.lost()
	}
	return n
}

// counters are the receiver's, written by its one goroutine.
type counters struct {
	mu     sync.Mutex
	s      Status
	runs   runs
	recent []sample // one each second, a minute of them
}

type sample struct {
	at            time.Time
	packets, lost int64
	bytes         int64
}

// tick takes a sample and works out the rates.
func (c *counters) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Lost = c.runs.total()
	c.recent = append(c.recent, sample{now, c.s.Packets, c.s.Lost, c.s.Bytes})
	for len(c.recent) > 1 && now.Sub(c.recent[0].at) > time.Minute {
		c.recent = c.recent[1:]
	}
	first := c.recent[0]
	c.s.RecentLost = 0
	if lost, all := c.s.Lost-first.lost, c.s.Packets-first.packets+c.s.Lost-first.lost; all > 0 && lost > 0 {
		c.s.RecentLost = float64(lost) / float64(all)
	}
	i := max(len(c.recent)-6, 0)
	if d := now.Sub(c.recent[i].at).Seconds(); d > 0 {
		c.s.Rate = float64(c.s.Bytes-c.recent[i].bytes) * 8 / d
	}
}

// Status is the line's state now.
func (r *Receiver) Status() Status {
	open := r.open()
	r.count.mu.Lock()
	s := r.count.s
	s.Lost = r.count.runs.total()
	s.Done = slices.Clone(r.finished)
	r.count.mu.Unlock()
	s.Written, s.Rebuilt, s.Damaged = r.o.Clock(), r.rebuilt.Load(), r.damaged.Load()
	if s.Problem == "" {
		r.troubled.Lock()
		if r.o.Clock().Sub(r.troubled.at) < time.Hour {
			s.Problem = r.troubled.text
		}
		r.troubled.Unlock()
	}
	for _, o := range open {
		s.Sessions = append(s.Sessions, o.status())
	}
	return s
}
