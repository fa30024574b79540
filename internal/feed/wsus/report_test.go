package wsus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/wsus/terminal"
)

func instance(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000", n) }

// standings is what the ledger holds of the only terminal, by state.
func (s *site) known() *feed.Terminal {
	s.t.Helper()
	k := s.ledger.known["windows/6f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b"]
	if k == nil {
		s.t.Fatal("terminal not known")
	}
	return k
}

func states(t *feed.Terminal) map[string]feed.State {
	out := map[string]feed.State{}
	for id, u := range t.Updates {
		out[id[:8]] = u.State
	}
	return out
}

// What a real WSUS makes of events: lists replace lists, 182 is a failure until
// the update is installed or no longer needed, an event counts once.
func TestReports(t *testing.T) {
	f := newKind(t, nil)
	at := taken
	f.now = func() time.Time { return at }
	s := newSite(t, f)
	s.publish(fetched(t, f, dropOf(t, "win8.1"), nil), feed.View{}, "all")
	a := s.terminal("Madoguchi")
	if k := s.known(); k.Name != "pc0001" || k.Group != "Madoguchi" || !k.Reported.IsZero() || !strings.Contains(k.System, "6.3.9600") {
		t.Fatalf("%+v", k)
	}
	ids := [5]string{}
	for i := range ids {
		ids[i] = strings.ToUpper(fmt.Sprintf("a%07d-c579-4917-921b-c580f5ac230b", i))
	}
	n := 0
	report := func(e terminal.Event) {
		t.Helper()
		if e.Instance == "" {
			n++
			e.Instance = instance(n)
		}
		e.User = `TOWN\yamada-hanako`
		at = at.Add(time.Hour)
		if err := a.Report(e); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want map[string]feed.State) {
		t.Helper()
		if d := cmp.Diff(want, states(s.known())); d != "" {
			t.Fatal(d)
		}
	}
	first := terminal.Event{ID: 156, Instance: instance(999), Misc: []string{"D=3", "U=" + ids[0] + ";" + ids[1] + ";" + ids[2], "V=" + ids[3], "W=" + ids[4], "g=", "h=" + ids[2], "V2=x"}}
	report(first)
	expect(map[string]feed.State{"a0000000": "needed", "a0000001": "needed", "a0000002": "downloaded", "a0000003": "installed", "a0000004": "pending"})
	for _, id := range []int{161, 162, 167, 181, 201} {
		report(terminal.Event{ID: id, Update: ids[3]})
	}
	if states(s.known())["a0000003"] != "installed" {
		t.Fatal("an event that changes no status changed one")
	}
	fail := terminal.Event{ID: 182, Instance: instance(1000), Update: ids[0], Result: -2145099769}
	report(fail)
	report(fail) // sent again: counts once
	if u := s.known().Updates[strings.ToLower(ids[0])]; u.State != feed.StateFailed || u.Times != 1 || u.Code != "0x80246007" {
		t.Fatalf("%+v", u)
	}
	report(terminal.Event{ID: 156, Misc: []string{"U=" + ids[0] + ";" + ids[1], "V=" + ids[4] + ";not-a-guid"}})
	expect(map[string]feed.State{"a0000000": "failed", "a0000001": "needed", "a0000004": "installed"})
	report(first) // an old list that comes again
	expect(map[string]feed.State{"a0000000": "failed", "a0000001": "needed", "a0000004": "installed"})
	report(terminal.Event{ID: 156, Misc: []string{"V=" + ids[0]}})
	expect(map[string]feed.State{"a0000000": "installed"})
	report(terminal.Event{ID: 148, Result: -2145107924})
	if k := s.known(); k.Scan != "0x8024402C" || !k.Contact.Equal(at) || !k.Reported.Before(at) {
		t.Fatalf("%+v", k)
	}
	b, err := json.Marshal([]any{s.ledger.known, s.ledger.seen})
	if err != nil || strings.Contains(string(b), "yamada") {
		t.Fatalf("a logged-on user's name was kept: %v", err)
	}
}

// Two machines with one SusClientId take turns; a rename does not.
func TestClonedTerminals(t *testing.T) {
	f := newKind(t, nil)
	s := newSite(t, f)
	s.publish(fetched(t, f, dropOf(t, "win8.1"), nil), feed.View{}, "all")
	a := s.terminal("")
	for i, name := range []string{"pc0002", "PC0002", "pc0003"} {
		a.Name = name
		if err := a.Begin(); err != nil {
			t.Fatal(err)
		}
		if !s.known().Twin.IsZero() {
			t.Fatalf("flagged after rename %d", i)
		}
	}
	a.Name = "pc0002"
	if err := a.Begin(); err != nil {
		t.Fatal(err)
	}
	if k := s.known(); k.Twin.IsZero() || len(k.Aliases) != 3 {
		t.Fatalf("not flagged: %+v", k)
	}
	a.Group = "Zeimu" // a policy that was changed: the group it was in is nowhere kept
	if err := a.Begin(); err != nil || s.known().Group != "Zeimu" {
		t.Fatalf("moved to another group: %+v, %v", s.known(), err)
	}
}

// Rules: the first that fits, for each group; waits and deadlines by ring.
func TestRules(t *testing.T) {
	f := newKind(t, nil)
	at := taken
	f.now = func() time.Time { return at }
	c := fetched(t, f, dropOf(t, "win8.1"), nil)
	s := newSite(t, f)
	s.publish(c, feed.View{}, "all")
	list, err := f.Updates(s.views["all"])
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	var one feed.Update
	for _, u := range list {
		if u.ID == update81 {
			one = u
		}
	}
	if one.Name != "KB2999226" || !one.Complete || one.Size != 826607 || !strings.Contains(one.Title.JA, "Windows 用更新プログラム") || one.Class.EN == "" {
		t.Fatalf("%+v", one)
	}
	names, err := f.Titles(s.views["all"].Derived, []string{update81, "x"})
	if err != nil || len(names) != 1 || names[update81] != one.Title {
		t.Fatalf("%v %v", names, err)
	}
	f.conf.Others = "decline"
	f.conf.Rules = []Rule{
		{Classification: "Drivers", Action: "install"},
		{Group: "Shiken", Action: "install"},
		{Classification: one.Class.EN, Action: "install", Waits: map[string]feed.Duration{"all": feed.Duration(72 * time.Hour)}, Deadline: feed.Duration(24 * time.Hour)},
		{Action: "detect"},
	}
	var prev []feed.Decision
	decide := func(words ...feed.Decision) {
		t.Helper()
		v := s.views["all"]
		v.Decisions = words
		out, err := f.Decide(v, "all", prev, false, at)
		if err != nil {
			t.Fatal(err)
		}
		prev = out
		v.Decisions = append(words, out...)
		s.views["all"] = v
		s.open()
	}
	decide()
	both := []string{member81, update81}
	offered := func(group string, want []string) {
		t.Helper()
		if d := cmp.Diff(want, needs(t, s.terminal(group))); d != "" {
			t.Fatalf("%q at %s: %s", group, at, d)
		}
	}
	offered("Shiken", both)
	offered("Madoguchi", nil)
	at = taken.Add(48 * time.Hour)
	decide() // a wait goes on over a publication
	offered("Madoguchi", nil)
	at = taken.Add(72 * time.Hour) // and ends without one
	offered("Madoguchi", both)
	for _, d := range prev {
		if d.Subject == update81 && d.Group == "" && !d.Deadline.Equal(taken.Add(96*time.Hour)) {
			t.Fatalf("%+v", d)
		}
	}
	decide(feed.Decision{Subject: update81, Action: "decline", Source: feed.ByOutside}) // above rules, also those of a group
	offered("Shiken", nil)
	decide(feed.Decision{Subject: update81, Action: "decline", Source: feed.ByOutside}, feed.Decision{Subject: update81, Group: "shiken", Action: "install", Source: feed.ByInside})
	offered("Shiken", both)
	offered("Madoguchi", nil)
	f.conf.Rules = f.conf.Rules[:1]
	prev = nil
	decide()
	offered("Madoguchi", nil) // no rule fits: others = decline
	for _, bad := range []string{`{"rules":[{"action":"explode"}]}`, `{"ruels":[]}`, `[]`, `{"others":"uninstall everything"}`} {
		if f.CheckRules([]byte(bad)) == nil {
			t.Errorf("rules of an outside %s accepted", bad)
		}
	}
	for _, bad := range []Config{{Others: "x"}, {Rules: []Rule{{Action: ""}}}, {Rules: []Rule{{Action: "decline", Waits: map[string]feed.Duration{"x": 1}}}}} {
		if bad.checkRules() == nil {
			t.Errorf("%+v accepted", bad)
		}
	}
}

// Superseded updates are declined one publication later, where what supersedes
// them is offered and its files are here.
func TestCleanUp(t *testing.T) {
	f := newKind(t, nil)
	x := &index{Sources: []string{"s"}, Updates: []guid{mustGUID(member81), mustGUID(update81)}, NonLeaf: make([]bool, 2), Since: make([]uint64, 2),
		Files: []payloadFile{{Path: "f"}},
		Revisions: []revision{{ID: 1, Update: 0, Type: 'S', Explicit: true, Sources: []int32{0}},
			{ID: 2, Update: 1, Type: 'S', Explicit: true, Sources: []int32{0}, Supersedes: []int32{0}, Files: []int32{0}}}}
	c := &snapshot{Named: map[string]feed.Artifact{"s": {Path: "s"}, "f": {Path: "f"}}}
	clean := func(v feed.View, had []feed.Decision, newer bool) []feed.Decision {
		v.Content = c
		m := map[string]feed.Decision{}
		for _, d := range had {
			m[d.Source+"\x00"+d.Key()] = d
		}
		return f.cleanUp(&describer{catalog: newCatalog(x, v)}, "all", m, newer, taken)
	}
	first := clean(feed.View{}, nil, true)
	if len(first) != 1 || !first[0].Next || first[0].Subject != member81 || first[0].By != update81 {
		t.Fatalf("%+v", first)
	}
	if again := clean(feed.View{}, first, false); len(again) != 1 || !again[0].Next {
		t.Fatalf("the same snapshot ended the cycle: %+v", again)
	}
	second := clean(feed.View{}, first, true)
	if len(second) != 1 || second[0].Next {
		t.Fatalf("%+v", second)
	}
	offers := func(v feed.View) bool {
		v.Content = c
		_, ok := newCatalog(x, v).decide(mustGUID(member81), "all", "", taken)
		return ok
	}
	if !offers(feed.View{Decisions: first}) || offers(feed.View{Decisions: second}) {
		t.Fatal("declined too early or not at all")
	}
	if !offers(feed.View{Decisions: second, Withheld: map[string]string{"f": "withdrawn"}}) {
		t.Fatal("declined although what supersedes it cannot be had")
	}
	if !offers(feed.View{Decisions: append(second, feed.Decision{Subject: member81, Action: "install"})}) {
		t.Fatal("a person's word does not count")
	}
	if n := clean(feed.View{Decisions: []feed.Decision{{Subject: update81, Action: "decline"}}}, nil, true); len(n) != 0 {
		t.Fatalf("superseded by what is declined: %+v", n)
	}
	if n := clean(feed.View{Withheld: map[string]string{"f": "x"}}, nil, true); len(n) != 0 {
		t.Fatalf("superseded by what is not here: %+v", n)
	}
}

func TestSettings(t *testing.T) {
	f := newKind(t, map[string]string{"Madoguchi": "all", "窓口": "test"})
	s := newSite(t, f)
	base := s.URL
	s.publish(fetched(t, f, dropOf(t, "win8.1"), nil), feed.View{}, "all")
	list, err := f.Settings(nil, mustURL(t, base+"/"))
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, v := range list {
		all += v.Body
		if v.File != "" && !ascii(strings.NewReplacer("\r", "", "\n", "").Replace(v.Body)) {
			t.Errorf("%s depends on a code page", v.File)
		}
	}
	for _, want := range []string{`"WUServer"="` + base + `"`, `"WUStatusServer"="` + base + `"`, `"TargetGroup"="Madoguchi"`, `"TargetGroup"=hex(1):93,7a,e3,53,00,00`,
		"イントラネットの Microsoft 更新サービスの場所を指定する", "Specify intranet Microsoft update service location", "（どれか1つ）", "(one of them)", "Set-WsusServerSynchronization -UssServerName '127.0.0.1' -PortNumber "} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// Whatever an event says, the record stays bounded and holds only ids.
func FuzzEvent(f *testing.F) {
	f.Add("U="+strings.ToUpper(update81)+";"+member81, "182", update81, "-2145124329")
	f.Add("V=;;x", "156", "", "0")
	f.Fuzz(func(t *testing.T, list, id, update, result string) {
		var e event
		e.id, e.update, e.result = id, update, result
		for i := range e.lists {
			e.lists[i] = list
		}
		k := &feed.Terminal{}
		e.apply(k, taken)
		e.id = "156"
		e.apply(k, taken)
		for id := range k.Updates {
			if _, err := parseGUID(id); err != nil {
				t.Fatalf("%q became an update", id)
			}
		}
		if len(k.Updates) > maxStanding || len(hresult(result)) > 10 {
			t.Fatal(len(k.Updates), hresult(result))
		}
	})
}
