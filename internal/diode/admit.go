package diode

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashike/hashike/internal/durable"
)

// session is the open session of an id, nil if there is none.
func (r *Receiver) session(id ID) *session {
	if r.recent == nil || r.recent.id != id || r.recent.over.Load() {
		if r.recent = r.sessions[id]; r.recent != nil && r.recent.over.Load() {
			delete(r.sessions, id)
			r.done[id] = true
			r.recent = nil
		}
	}
	return r.recent
}

// begin opens a session whose table arrived.
func (r *Receiver) begin(id ID, packed []byte) error {
	t, err := decodeTable(packed, id)
	if err != nil {
		return err
	}
	if err := r.room(t); err != nil {
		return err
	}
	r.sweep()
	if len(r.sessions) >= maxSessions {
		r.forget(0)
	}
	s, err := newSession(r, id, t, packed)
	if err != nil {
		return err
	}
	r.sessions[id] = s
	r.hash.all(s) // empty files
	return nil
}

var errNoSpace = errors.New("no space")

// stale is how long nothing came of a session whose room another one needs: its
// sender has given up, or sends the directory under another profile by now.
const stale = time.Hour

// room refuses a session that cannot fit beside what the others still take. A
// session without a sender makes way.
func (r *Receiver) room(t *Table) error {
	for {
		free, err := durable.Free(r.spool())
		if err != nil {
			return nil // nobody knows: the writes will tell
		}
		for _, s := range r.sessions {
			s.mu.Lock()
			free -= max(s.t.Bytes-s.have*s.t.Block(), 0)
			s.mu.Unlock()
		}
		if t.Bytes+spare <= free {
			return nil
		}
		if !r.forget(stale) {
			return fmt.Errorf("session %s of %d bytes: %d are free: %w", t.Name, t.Bytes, free, errNoSpace)
		}
	}
}

// sweep takes sessions that arrived off the list. count.mu is held.
func (r *Receiver) sweep() {
	for id, s := range r.sessions {
		if s.over.Load() {
			delete(r.sessions, id)
			r.done[id] = true
		}
	}
}

// forget gives up the session that has been still for longest, and at least
// for so long; false if there is none. count.mu is held.
func (r *Receiver) forget(still time.Duration) bool {
	r.sweep()
	var old *session
	for _, s := range r.sessions {
		if old == nil || s.touched.Load() < old.touched.Load() {
			old = s
		}
	}
	if old == nil || r.o.Clock().Sub(time.Unix(0, old.touched.Load())) < still {
		return false
	}
	delete(r.sessions, old.id)
	r.leaving[old.id] = true
	old.abandon()
	r.trouble(fmt.Errorf("session %s was given up for newer ones", old.t.Name))
	return true
}

// problem shows an error in the status and reports it when it is news.
func (r *Receiver) problem(err error) {
	if text := err.Error(); r.count.s.Problem != text {
		r.count.s.Problem = text
		r.o.Report(err)
	}
}
