package wsus

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Reporting (MS-WUSP 3.1.5.10, ReportEventBatch). What a real WSUS makes of the
// events (microsoft.md 1.10): needed and installed come from event 156 alone,
// each of which replaces the one before; failed comes from 182 too; downloads
// and pending installations change nothing. UserAccountName is never read.

// events are those that the ledger names; the rest is "reported".
var events = map[string]string{
	"147": "scanned", "148": "scan failed", "162": "took", "161": "download failed",
	"183": "installed", "184": "installed", "182": "install failed", "156": "status",
}

// Lists of event 156, in order: a later one overrides. A terminal names an
// update that it failed to install as needed too.
var statusLists = []struct {
	tag   string
	state feed.State
}{{"U=", feed.StateNeeded}, {"h=", feed.StateDownloaded}, {"V=", feed.StateInstalled}, {"W=", feed.StatePending}, {"g=", feed.StateFailed}}

const (
	maxEvents   = 5000
	maxStanding = 10_000 // updates in one status report
)

// event is one ReportingEvent.
type event struct {
	sid, id, instance, name, update, result string
	lists                                   [5]string // as statusLists
}

// reportEventBatch notes what terminals report. It carries a cookie whose
// elements are in the reporting namespace; nothing depends on it, as SimpleAuth
// gives one to anybody who names a terminal's id.
func (s *server) reportEventBatch(c *call) error {
	const p = "eventBatch/ReportingEvent/"
	var e event
	n := 0
	err := c.walk(func(path, text string) error {
		text = strings.TrimSpace(text)
		if path == p+"ExtendedData/MiscData/string" {
			for i, l := range statusLists {
				if list, ok := strings.CutPrefix(text, l.tag); ok {
					e.lists[i] = list
				}
			}
			return nil
		}
		if path == p+"BasicData/TargetID/Sid" {
			s.event(e)
			e = event{}
			if n++; n > maxEvents {
				return invalid("eventBatch")
			}
		}
		into, ok := map[string]*string{
			p + "BasicData/TargetID/Sid": &e.sid, p + "BasicData/EventID": &e.id, p + "BasicData/EventInstanceID": &e.instance,
			p + "BasicData/UpdateID/UpdateID": &e.update, p + "BasicData/Win32HResult": &e.result,
			p + "PrivateData/ComputerDnsName": &e.name,
		}[path]
		if ok && len(text) <= maxText {
			*into = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.event(e)
	c.flag("ReportEventBatchResult", true)
	return nil
}

// event takes one event in, once.
func (s *server) event(e event) {
	if _, err := parseGUID(e.sid); err != nil || e.id == "" {
		return
	}
	what, ok := events[e.id]
	if !ok {
		what = "reported"
	}
	g, err := parseGUID(e.update)
	if e.update = g.String(); err != nil || g == (guid{}) {
		e.update = ""
	}
	now, sid := s.conf.now().UTC(), strings.ToLower(e.sid)
	instance, err := parseGUID(e.instance)
	fresh := true
	s.Ledger.Change(s.Feed, sid, func(t *feed.Terminal) {
		t.Contact = now
		if err == nil { // the half is enough: a terminal can only confuse itself
			fresh = t.Fresh(fmt.Sprintf("%x", instance[:8]))
		}
		if fresh {
			e.apply(t, now)
		}
	})
	if fresh {
		s.Ledger.Saw(feed.Sighting{Time: now, Feed: s.Feed, Terminal: sid, Name: e.name, Event: what, Path: e.update})
	}
}

func (e *event) apply(t *feed.Terminal, now time.Time) {
	switch {
	case e.id == "156":
		t.Stands(e.standings(), now)
	case e.id == "182" && e.update != "":
		if _, known := t.Updates[e.update]; known || len(t.Updates) < maxStanding {
			t.Failed(e.update, hresult(e.result), now)
		}
	case e.id == "147":
		t.Scan = ""
	case e.id == "148":
		t.Scan = hresult(e.result)
	}
}

func (e *event) standings() map[string]feed.State {
	out := map[string]feed.State{}
	for i, l := range statusLists {
		for id := range strings.SplitSeq(e.lists[i], ";") {
			g, err := parseGUID(strings.TrimSpace(id))
			if err != nil {
				continue
			}
			if _, known := out[g.String()]; known || len(out) < maxStanding {
				out[g.String()] = l.state
			}
		}
	}
	return out
}

// hresult writes Win32HResult as Microsoft's pages do.
func hresult(text string) string {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n == 0 || n < -1<<31 || n >= 1<<32 {
		return ""
	}
	return fmt.Sprintf("0x%08X", uint32(n))
}
