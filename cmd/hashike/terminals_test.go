package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed/wsus/terminal"
	"github.com/hashike/hashike/mirror"
)

// start runs the mirror until stop, which leaves the copy of its ledger.
func (w *world) start() (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := testApp(w.t, w.path(inside), discard())
	s, err := a.open("serve", inside)
	if err != nil {
		w.t.Fatal(err)
	}
	ready, done := make(chan []net.Addr, 1), make(chan error, 1)
	go func() { done <- s.serve(ctx, []string{"127.0.0.1:0"}, func(at []net.Addr) { ready <- at }) }()
	select {
	case err := <-done:
		w.t.Fatal(err)
	case at := <-ready:
		w.addr = "http://" + at[0].String()
	}
	return func() { cancel(); <-done; s.close() }
}

// windowsWorld has KB2999226 for two versions of Windows published inside.
func windowsWorld(t *testing.T, more string) *world {
	t.Helper()
	dir := t.TempDir()
	drops(t, dir, "win8.1", "win6.1")
	w := newWorld(t, wsusBlock(dir)+more)
	w.outside("fetch")
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "genuine old updates")
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	return w
}

// needed is what a fresh terminal of a group comes to.
func (w *world) needed(group string) string {
	w.t.Helper()
	a := &terminal.Terminal{Base: w.addr, Do: http.DefaultClient.Do, Machine: windows81(), ID: "7f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b", Name: "pc0009", Group: group}
	if err := a.Begin(); err != nil {
		w.t.Fatal(err)
	}
	if err := a.Scan(); err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, u := range a.Needed() {
		ids = append(ids, u.UpdateID)
	}
	return strings.Join(ids, " ")
}

// What terminals report is shown to the operator and to nobody else, and never
// says who was logged on.
func TestTerminalsReport(t *testing.T) {
	w := windowsWorld(t, "")
	if out := w.inside("terminals"); !strings.Contains(out, "まだありません") {
		t.Fatal(out)
	}
	stop := w.start()
	xsd := &schemas{t: t}
	a := w.terminal(windows81(), xsd.watch)
	const user = "yamada-hanako"
	if err := a.Report(terminal.Event{ID: 156, Instance: "00000001-0000-4000-8000-000000000000", User: user, Misc: []string{"U=" + strings.ToUpper(update81)}},
		terminal.Event{ID: 182, Instance: "00000002-0000-4000-8000-000000000000", Update: update81, Result: -2145124329, User: user}); err != nil {
		t.Fatal(err)
	}
	b := &terminal.Terminal{Base: w.addr, Do: http.DefaultClient.Do, Machine: windows81(), ID: "7f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b", Name: "=cmd|x", Group: "Madoguchi"}
	if err := b.Begin(); err != nil {
		t.Fatal(err)
	}
	stop()
	xsd.done()

	var c mirror.Compliance
	if err := json.Unmarshal([]byte(w.inside("terminals", "--json")), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Terminals) != 2 || len(c.Groups) != 2 || len(c.Updates) != 1 || c.Updates[0].Failed != 1 || !strings.Contains(c.Updates[0].Title.JA, "KB2999226") {
		t.Fatalf("%+v", c)
	}
	if c.Groups[0].Group != "Madoguchi" || c.Groups[0].Unknown != 1 || c.Groups[1].Behind != 1 || c.Groups[1].Failed != 1 {
		t.Fatalf("%+v", c.Groups)
	}
	text := w.inside("terminals")
	for _, want := range []string{"pc0001.town.example", "報告が一度もない", "未適用あり", "KB2999226"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	table := w.inside("terminals", "--csv")
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(table, "\uFEFF"))).ReadAll()
	if err != nil || len(rows) != 3 || rows[1][2] != "'=cmd|x" || rows[2][2] != "pc0001.town.example" {
		t.Fatalf("%q %v", rows, err)
	}
	masked := w.inside("terminals", "--csv", "--mask") + w.inside("terminals", "--json", "--mask") + w.inside("terminals", "--mask")
	if strings.Contains(masked, "pc0001") || strings.Contains(masked, "cmd|x") || strings.Count(masked, "terminal-") < 6 {
		t.Fatalf("not masked:\n%s", masked)
	}
	if got := w.inside("terminals", "--csv", "--mask"); !strings.HasPrefix(masked, got) {
		t.Error("masks change from one export to the next")
	}
	grep(t, w.path(inside), user)

	terminals, admin := w.serveBoth()
	if res, _ := get(t, terminals+"/terminals"); res.StatusCode != http.StatusNotFound {
		t.Errorf("the terminals' listener answers /terminals: %s", res.Status)
	}
	res, page := get(t, admin+"/terminals?lang=ja")
	for _, want := range []string{"グループごとの適用状況", "Madoguchi", "pc0001.town.example", "報告が一度もない", "KB2999226"} {
		if res.StatusCode != http.StatusOK || !strings.Contains(string(page), want) {
			t.Errorf("%s: no %q on the page", res.Status, want)
		}
	}
}

// log is the inside's audit log of this fiscal year.
func (w *world) log() string {
	w.t.Helper()
	to := w.t.TempDir()
	year := itoa(w.now().AddDate(0, -3, 0).Year())
	w.inside("audit", "export", "--year", year, "--to", to)
	b, err := os.ReadFile(filepath.Join(to, "audit-inside-"+year+".csv"))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// grep fails if any file below dir holds the text.
func grep(t *testing.T, dir, text string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(p)
		if bytes.Contains(b, []byte(text)) {
			t.Errorf("%s holds %q", p, text)
		}
		if strings.HasSuffix(p, "terminals.jsonl.zst") && len(b) == 0 {
			t.Errorf("%s is empty", p)
		}
		return err
	})
	if err != nil || files < 5 {
		t.Fatalf("%d files: %v", files, err)
	}
}

// A person's word holds at once, over publications and restarts, is above what
// came from outside, and every word is in the audit log.
func TestDecisions(t *testing.T) {
	w := windowsWorld(t, "")
	both := member81 + " " + update81
	list := w.inside("decide", "windows")
	if !strings.Contains(list, update81) || !strings.Contains(list, "KB2999226") || !strings.Contains(list, "適用する") {
		t.Fatal(list)
	}
	w.fails(exitConfig, "", "--data", w.path(inside), "decide", "windows", "decline", update81) // without a reason
	w.fails(exitConfig, "H-205", "--data", w.path(inside), "decide", "windows", "decline", "KB1", "--reason", "x")
	w.fails(exitConfig, "H-211", "--data", w.path(inside), "decide", "windows", "explode", update81, "--reason", "x")
	stop := w.start()
	if got := w.needed("Madoguchi"); got != both {
		t.Fatalf("%q", got)
	}
	stop()
	w.inside("decide", "windows", "decline", "windows 用更新プログラム (kb2999226)", "--group", "Madoguchi", "--reason", "業務ソフトの確認中")
	seen := func(group, want string) {
		t.Helper()
		stop := w.start()
		defer stop()
		if got := w.needed(group); got != want {
			t.Fatalf("%s: %q, want %q\n%s", group, got, want, w.inside("decide", "windows"))
		}
	}
	seen("Madoguchi", "")
	seen("Kikaku", both)

	// An order from outside declines it for all; inside says otherwise for one group.
	if list := w.outside("decide", "windows"); !strings.Contains(list, update81) || !strings.Contains(list, "KB2999226") {
		t.Errorf("the outside lists\n%s", list)
	}
	w.fails(exitConfig, "H-205", "--data", w.path(outside), "decide", "windows", "decline", "KB1", "--reason", "x")
	if out := w.outside("decide", "windows", "decline", "kb2999226", "--reason", "提供元の不具合", "--approver", "課長"); strings.Count(out, "更新の承認・拒否") != 2 {
		t.Errorf("of both updates of that number:\n%s", out)
	}
	ents, err := filepath.Glob(w.path(outside, ".tmp-*"))
	if len(ents) > 0 || err != nil {
		t.Errorf("left over: %v %v", ents, err)
	}
	w.outside("pack", "--to", w.path("media2"), "--clock-checked", "genuine old updates")
	w.inside("import", w.path("media2"))
	seen("Kikaku", "")
	w.inside("decide", "windows", "install", update81, "--group", "Kikaku", "--deadline", "2099-03-31", "--reason", "確認済み")
	seen("Kikaku", both)
	seen("Madoguchi", "")
	w.inside("decide", "windows", "rule", update81, "--group", "Kikaku", "--reason", "取りやめ")
	seen("Kikaku", "")
	before := w.generations("windows")
	w.inside("publish")
	if n := w.generations("windows"); n != before {
		t.Errorf("%d generations after %d: nothing changed", n, before)
	}
	log := w.log()
	for _, want := range []string{"業務ソフトの確認中", "確認済み", "取りやめ", "source=outside", "2099-03-31"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the audit log:\n%s", want, log)
		}
	}
}

// Rules of the configuration take effect with the next look, also on what is
// published already, and are recorded.
func TestRulesOfTheConfiguration(t *testing.T) {
	w := windowsWorld(t, "")
	setLine(t, w.path(inside, "hashike.toml"), "[feed.windows]\n", "[feed.windows]\nothers = \"decline\"\n")
	w.configure(inside, "[[feed.windows.rules]]\ngroup = \"Shiken\"\naction = \"detect\"\n\n[[feed.windows.rules]]\ngroup = \"Kikaku\"\naction = \"install\"\nwaits = { test = \"0h\", pilot = \"3d\" }\ndeadline = \"7d\"\n")
	w.inside("publish")
	stop := w.start()
	defer stop()
	if n := w.needed("Madoguchi"); n != "" {
		t.Errorf("others = decline: %q", n)
	}
	if n := w.needed("Shiken"); n != "" {
		t.Errorf("detect installs %q", n)
	}
	if n := w.needed("Kikaku"); n != member81+" "+update81 {
		t.Errorf("%q", n)
	}
	if log := w.log(); !strings.Contains(log, "source=rule") || !strings.Contains(log, update81) {
		t.Errorf("rules are not in the audit log:\n%s", log)
	}
}

// Rules of the outside's configuration travel as a signed order with the next
// bundle; the inside's own come first, and each of both is in the audit log.
func TestRulesTravel(t *testing.T) {
	dir := t.TempDir()
	drops(t, dir, "win8.1")
	w := newWorld(t, wsusBlock(dir))
	const both = member81 + " " + update81
	outConf, inConf := w.path(outside, "hashike.toml"), w.path(inside, "hashike.toml")
	n := 0
	cross := func() string {
		t.Helper()
		n++
		media := w.path("media" + itoa(n))
		out := w.outside("pack", "--to", media, "--clock-checked", "genuine old updates")
		w.inside("import", media)
		w.inside("publish", "--now")
		return out
	}
	seen := func(when string, want map[string]string) {
		t.Helper()
		stop := w.start()
		defer stop()
		for group, need := range want {
			if got := w.needed(group); got != need {
				t.Fatalf("%s, %s: %q, want %q\n%s", when, group, got, need, w.inside("decide", "windows"))
			}
		}
	}
	w.outside("fetch")
	setLine(t, outConf, "[feed.windows]\n", "[feed.windows]\nothers = \"decline\"\n")
	w.configure(outside, "[[feed.windows.rules]]\ngroup = \"Kikaku\"\naction = \"install\"\ndeadline = \"7d\"\n")
	if out := cross(); !strings.Contains(out, "承認の規則が変わりました") {
		t.Errorf("pack says nothing of rules:\n%s", out)
	}
	seen("the outside's rules", map[string]string{"Kikaku": both, "Madoguchi": ""})
	if list := w.inside("decide", "windows"); !strings.Contains(list, "外側の承認の規則") {
		t.Errorf("nobody says where the rule came from:\n%s", list)
	}
	if out := cross(); strings.Contains(out, "承認の規則") {
		t.Errorf("the same rules travel again:\n%s", out)
	}
	w.configure(inside, "[[feed.windows.rules]]\ngroup = \"Madoguchi\"\naction = \"install\"\n")
	w.inside("publish")
	seen("a rule of the inside for one group", map[string]string{"Kikaku": both, "Madoguchi": both, "Zeimu": ""})
	setLine(t, inConf, "[feed.windows]\n", "[feed.windows]\nothers = \"install\"\n")
	w.inside("publish")
	seen("what becomes of others inside", map[string]string{"Kikaku": both, "Zeimu": both})
	w.configure(inside, "[[feed.windows.rules]]\naction = \"decline\"\n")
	w.inside("publish")
	seen("the inside's rule for all is above the outside's for one group", map[string]string{"Kikaku": "", "Madoguchi": both, "Zeimu": ""})
	setLine(t, inConf, "\n[[feed.windows.rules]]\naction = \"decline\"\n", "\n")
	setLine(t, inConf, "others = \"install\"\n", "")
	setLine(t, outConf, "others = \"decline\"\n", "")
	setLine(t, outConf, "[[feed.windows.rules]]\ngroup = \"Kikaku\"\naction = \"install\"\ndeadline = \"7d\"\n", "")
	cross()
	seen("the outside took its rules back", map[string]string{"Kikaku": both, "Madoguchi": both, "Zeimu": both})
	log := w.log()
	for _, want := range []string{"source=outside-rule", "source=rule", "order 1 rules[0]", "order 1 others"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the inside's audit log:\n%s", want, log)
		}
	}
	if out := w.outside("status"); !strings.Contains(out, "承認の規則 windows") {
		t.Errorf("the order does not show outside:\n%s", out)
	}
}
