package feed

import (
	"strings"
	"time"
)

// What terminals say of themselves, where their protocol has it. The kind knows
// what a message means; the engine keeps one record for each terminal, shows it
// and forgets it. A record never holds who is logged on.

// State is where one update stands on one terminal.
type State string

const (
	StateNeeded     State = "needed"
	StateDownloaded State = "downloaded" // and not yet installed
	StateFailed     State = "failed"
	StatePending    State = "pending" // installed; takes effect after a restart
	StateInstalled  State = "installed"
)

// Standing is one update on one terminal.
type Standing struct {
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`
	Code  string    `json:"code,omitempty"`  // the vendor's own, of a failure: "0x80070643"
	Times int       `json:"times,omitempty"` // failures since it last stood well
}

// Alias is one host name under which a terminal's id was used.
type Alias struct {
	Name string    `json:"name"`
	Last time.Time `json:"last"`
}

// Terminal is the record of one terminal of one feed.
type Terminal struct {
	Feed       string              `json:"feed"`
	ID         string              `json:"id"` // the protocol's
	Name       string              `json:"name,omitempty"`
	Group      string              `json:"group,omitempty"` // the protocol's target group
	System     string              `json:"system,omitempty"`
	Model      string              `json:"model,omitempty"`
	Registered time.Time           `json:"registered,omitzero"`
	Contact    time.Time           `json:"contact,omitzero"`  // the last request of any kind
	Reported   time.Time           `json:"reported,omitzero"` // the last status report
	Scan       string              `json:"scan,omitempty"`    // why the last scan failed; empty if it did not
	Updates    map[string]Standing `json:"updates,omitempty"` // by the kind's id; what is not here does not apply
	Aliases    []Alias             `json:"aliases,omitempty"` // newest last
	Twin       time.Time           `json:"twin,omitzero"`     // when two machines last took turns under this id
	Recent     []string            `json:"recent,omitempty"`  // messages already taken, newest last
}

const (
	maxAliases = 8
	maxRecent  = 128
)

// Called notes the host name under which the terminal speaks. A name that comes
// back after another one means two machines with one id: a rename does not come
// back. It reports whether that is so now.
func (t *Terminal) Called(name string, now time.Time) bool {
	if name == "" {
		return false
	}
	t.Name = name
	for i, a := range t.Aliases {
		if !strings.EqualFold(a.Name, name) {
			continue
		}
		back := i < len(t.Aliases)-1
		t.Aliases = append(append(t.Aliases[:i:i], t.Aliases[i+1:]...), Alias{name, now})
		if back {
			t.Twin = now
		}
		return back
	}
	t.Aliases = append(t.Aliases, Alias{name, now})
	if n := len(t.Aliases); n > maxAliases {
		t.Aliases = t.Aliases[n-maxAliases:]
	}
	return false
}

// Fresh reports whether a message is new, and remembers its id.
func (t *Terminal) Fresh(id string) bool {
	for _, r := range t.Recent {
		if r == id {
			return false
		}
	}
	t.Recent = append(t.Recent, id)
	if n := len(t.Recent); n > maxRecent {
		t.Recent = t.Recent[n-maxRecent:]
	}
	return true
}

// Stands replaces all standings by a whole status report. What stood so before
// keeps its time; an update that failed and is still needed stays failed.
func (t *Terminal) Stands(report map[string]State, now time.Time) {
	out := make(map[string]Standing, len(report))
	for id, s := range report {
		was, known := t.Updates[id]
		next := Standing{State: s, Since: now}
		switch {
		case known && was.State == StateFailed && (s == StateNeeded || s == StateDownloaded || s == StateFailed):
			next = was
		case known && was.State == s:
			next.Since = was.Since
		}
		out[id] = next
	}
	t.Updates, t.Reported = out, now
}

// Failed notes that an installation failed.
func (t *Terminal) Failed(id, code string, now time.Time) {
	if t.Updates == nil {
		t.Updates = map[string]Standing{}
	}
	was := t.Updates[id]
	t.Updates[id] = Standing{State: StateFailed, Since: now, Code: code, Times: was.Times + 1}
}
