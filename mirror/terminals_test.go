package mirror

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

func terminalNames(list []feed.Terminal) string {
	var out []string
	for _, t := range list {
		out = append(out, t.ID)
	}
	return strings.Join(out, " ")
}

// Records outlive the server, are changed from what was written, and go after
// 13 months, also when nobody reports any more.
func TestRecordsOfTerminals(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	open := func() *ledger {
		t.Helper()
		l, err := openLedger(in.dir, in.pub.Log)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	seen := func(l *ledger, id string, at time.Time) {
		l.Change("av", id, func(x *feed.Terminal) { x.Contact, x.Group = at, x.Group+"x" })
	}
	l := open()
	l.Change("av", "", func(*feed.Terminal) { t.Error("a terminal without an id") })
	l.Change("av", strings.Repeat("x", maxText+1), func(*feed.Terminal) { t.Error("a terminal with a long id") })
	seen(l, "t1", begin)
	seen(l, "t1", begin)
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	seen(l, "t1", begin)
	seen(l, "t2", begin.AddDate(0, -12, -27))
	seen(l, "t3", begin.AddDate(0, -13, -1))
	if err := l.close(begin); err != nil {
		t.Fatal(err)
	}
	list, err := Terminals(in.dir)
	if err != nil || terminalNames(list) != "t2 t1" || list[1].Group != "xxx" { // by group
		t.Fatalf("%+v %v", list, err)
	}
	l = open()
	seen(l, "t1", begin.AddDate(0, 2, 0))
	if err := l.close(begin.AddDate(0, 2, 0)); err != nil {
		t.Fatal(err)
	}
	if list, err = Terminals(in.dir); err != nil || terminalNames(list) != "t1" || list[0].Group != "xxxx" {
		t.Fatalf("%+v %v", list, err)
	}
	l = open() // nothing happens; a day later the old ones go all the same
	if err := l.copyOut(begin.AddDate(0, 16, 0)); err != nil {
		t.Fatal(err)
	}
	if list, err = Terminals(in.dir); err != nil || len(list) != 0 {
		t.Fatalf("%+v %v", list, err)
	}
	if err := l.close(begin.AddDate(0, 16, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sightingsPath(in.dir), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Terminals(in.dir); err == nil {
		t.Error("a damaged copy reads well")
	}
}

// A record that grew too large does not replace the last good one.
func TestLargeRecord(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	l, err := openLedger(in.dir, in.pub.Log)
	if err != nil {
		t.Fatal(err)
	}
	l.Change("av", "t1", func(x *feed.Terminal) { x.Contact, x.Name = begin, "good" })
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	l.Change("av", "t1", func(x *feed.Terminal) { x.Name = strings.Repeat("x", maxTerminal) })
	if err := l.close(begin); err != nil {
		t.Fatal(err)
	}
	if list, err := Terminals(in.dir); err != nil || len(list) != 1 || list[0].Name != "good" {
		t.Fatalf("%d %v", len(list), err)
	}
}

func TestComply(t *testing.T) {
	of := func(id, group string, reported time.Time, states ...feed.State) feed.Terminal {
		x := feed.Terminal{Feed: "w", ID: id, Name: id, Group: group, Contact: begin, Reported: reported, Updates: map[string]feed.Standing{}}
		for i, s := range states {
			x.Updates[string(rune('a'+i))] = feed.Standing{State: s}
		}
		return x
	}
	twin := of("twin", "B", begin, feed.StateInstalled)
	twin.Twin = begin.Add(-day)
	old := of("formerly-twin", "B", begin, feed.StateInstalled, "of another version")
	old.Twin = begin.Add(-twinFor - day)
	c := Comply([]feed.Terminal{
		of("good", "A", begin, feed.StateInstalled), of("behind", "a", begin.Add(-13*day), feed.StateNeeded, feed.StateInstalled),
		of("restart", "A", begin, feed.StatePending), of("failed", "A", begin, feed.StateFailed, feed.StateDownloaded),
		of("silent", "A", begin.Add(-15*day), feed.StateInstalled), of("new", "A", time.Time{}), twin, old,
	}, StaleAfter, begin)
	if len(c.Groups) != 2 {
		t.Fatalf("%+v", c.Groups)
	}
	if g := c.Groups[0]; g != (GroupCompliance{Feed: "w", Group: "A", Terminals: 6, Current: 1, Behind: 3, Stale: 1, Unknown: 1, Failed: 1, Pending: 1}) {
		t.Errorf("%+v", g)
	}
	if g := c.Groups[1]; g != (GroupCompliance{Feed: "w", Group: "B", Terminals: 2, Current: 2, Cloned: 1}) {
		t.Errorf("%+v", g)
	}
	var late []string
	for _, s := range c.Stragglers() {
		late = append(late, s.ID)
	}
	if got := strings.Join(late, " "); got != "new silent failed twin" {
		t.Errorf("stragglers %q", got)
	}
	if u := c.Updates[0]; u.ID != "a" || u.Failed != 1 || u.Needed != 1 || u.Pending != 1 || u.Installed != 4 {
		t.Errorf("%+v", c.Updates)
	}
}
