package main

import (
	"context"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"testing"
)

// serveBoth starts the mirror with its terminals' and its admin listener.
func (w *world) serveBoth() (terminals, admin string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := testApp(w.t, w.path(inside), discard())
	s, err := a.open("serve", inside)
	if err != nil {
		w.t.Fatal(err)
	}
	ready, done := make(chan []net.Addr, 1), make(chan error, 1)
	go func() { done <- s.serve(ctx, nil, func(at []net.Addr) { ready <- at }) }()
	select {
	case err := <-done:
		w.t.Fatal(err)
	case at := <-ready:
		terminals, admin = "http://"+at[0].String(), "http://"+at[1].String()
	}
	w.t.Cleanup(func() { cancel(); <-done; s.close() })
	return terminals, admin
}

// overflow finds what sticks out of the page: the sign of a broken layout.
const overflow = `
const wide = document.documentElement.clientWidth, bad = [];
for (const e of document.body.querySelectorAll("*")) {
  const r = e.getBoundingClientRect();
  if (r.width > 0 && (r.right > wide + 1 || r.left < -1)) {
    let p = e.parentElement, scrolls = false;
    for (; p; p = p.parentElement) if (["auto", "scroll"].includes(getComputedStyle(p).overflowX)) scrolls = true;
    if (!scrolls) bad.push(e.tagName + ": " + e.textContent.trim().slice(0, 60));
  }
  const s = getComputedStyle(e);
  if (s.overflowX === "hidden" && e.scrollWidth > e.clientWidth + 1) bad.push("cut off: " + e.tagName);
}
if (document.documentElement.scrollWidth > wide + 1) bad.push("the page scrolls sideways");
return bad;`

// overlap finds text that lies over other text.
const overlap = `
const bad = [], leaves = [...document.body.querySelectorAll("*")].filter(e => e.children.length === 0 && e.textContent.trim() !== "");
const rects = leaves.map(e => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width > 1 && r.height > 1);
for (let i = 0; i < rects.length; i++) for (let j = i + 1; j < rects.length; j++) {
  const [a, x] = rects[i], [b, y] = rects[j];
  const w = Math.min(x.right, y.right) - Math.max(x.left, y.left), h = Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top);
  if (w > 3 && h > 3 && !a.contains(b) && !b.contains(a)) bad.push(a.textContent.trim().slice(0, 30) + " / " + b.textContent.trim().slice(0, 30));
}
return bad.slice(0, 5);`

// Every page in both languages, looked at as a person would: 1280 and 800
// pixels wide and on A4, in a real browser, with the links and the form used.
func TestPagesInABrowser(t *testing.T) {
	blocks, names := "", []string{"clamav-test", "tools"}
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 5)
	long := "a-name-that-is-very-long-and-has-no-spaces-" + strings.Repeat("x", 120) + ".txt"
	dir, key := signedTree(t, map[string]string{"tool.exe": "one", long: "two"})
	blocks = clamavBlock(spool) + "\n" + treeBlock(dir)
	w := newWorld(t, blocks)
	w.outside("order", "trust", "--feed", "tools", "--anchor", key, "--reason", "試験", "--approver", "課長",
		"--root-key", w.path("envelopes", "root-key-1.txt"), "--root-key", w.path("envelopes", "root-key-2.txt"))
	w.carry()
	terminals, admin := w.serveBoth()
	b := newBrowser(t)
	type page struct{ name, url, ja, en string }
	pages := []page{
		{"freshness", terminals + "/?", "更新状況一覧", "days"},
		{"settings", terminals + "/hashike/settings?", "端末の設定", "settings"},
		{"feeds", admin + "/?", "更新", "Feeds"},
		{"feed", admin + "/feeds/" + names[0] + "?", names[0], names[0]},
		{"origin", admin + "/origin?q=" + url.QueryEscape("clamav-test:test.cvd") + "&", "来歴票", "rigin"},
		{"origin-long", admin + "/origin?q=" + url.QueryEscape("tools:"+long) + "&", "来歴票", "rigin"},
		{"problems", admin + "/problems?", "", ""},
		{"orders", admin + "/orders?", "", ""},
		{"terminals", admin + "/terminals?", "端末の適用状況", "Terminals"},
	}
	for _, p := range pages {
		for lang, want := range map[string]string{"ja": p.ja, "en": p.en} {
			b.open(p.url + "lang=" + lang)
			var got struct{ Lang, Title, Text string }
			b.eval(`return {Lang: document.documentElement.lang, Title: document.title, Text: document.body.innerText}`, &got)
			if got.Lang != lang || got.Title == "" || !strings.Contains(got.Text, want) {
				t.Errorf("%s %s: lang %q, title %q, no %q in:\n%s", p.name, lang, got.Lang, got.Title, want, got.Text)
			}
			if side := map[string]string{"ja": "内側（LGWAN接続系）", "en": "inside"}[lang]; !strings.Contains(strings.ToLower(got.Text[:min(len(got.Text), 400)]), strings.ToLower(side)) {
				t.Errorf("%s %s does not begin with the side:\n%s", p.name, lang, got.Text)
			}
			for _, width := range []int{1280, 800} {
				b.size(width, 900)
				for what, script := range map[string]string{"sticks out": overflow, "lies over other text": overlap} {
					var bad []string
					b.eval(script, &bad)
					if len(bad) > 0 {
						t.Errorf("%s %s at %d px: %s: %v", p.name, lang, width, what, bad)
					}
				}
				b.picture(strings.Join([]string{p.name, lang, map[int]string{1280: "wide", 800: "narrow"}[width]}, "-"))
			}
			onPaper(t, b.print(p.name+"-"+lang), want)
		}
	}
	usesTheForm(t, b, admin)
}

// onPaper reads the printed page back and looks for text cut off at the edge.
func onPaper(t *testing.T, pdf, want string) {
	t.Helper()
	need(t, "pdftotext")
	text := must(t, exec.Command("pdftotext", "-layout", pdf, "-"))
	if !strings.Contains(text, want) {
		t.Errorf("%s: %q is not on paper:\n%s", pdf, want, text)
	}
	if info := must(t, exec.Command("pdfinfo", pdf)); !strings.Contains(info, "A4") && !strings.Contains(info, "595") {
		t.Errorf("%s is not A4:\n%s", pdf, info)
	}
	// Boxes of words, in points: nothing may reach into the 12 mm margin of a
	// sheet 595 points wide, where it would be cut off.
	for line := range strings.Lines(must(t, exec.Command("pdftotext", "-bbox", pdf, "-"))) {
		var x float64
		if _, after, ok := strings.Cut(line, `xMax="`); ok {
			if v, _, ok := strings.Cut(after, `"`); ok {
				if err := parse(v, &x); err == nil && x > 564 {
					t.Errorf("%s: past the edge: %s", pdf, line)
				}
			}
		}
	}
}

// usesTheForm looks a file up as an auditor would: type, send, follow the link to Japanese.
func usesTheForm(t *testing.T, b *browser, admin string) {
	t.Helper()
	b.open(admin + "/origin?lang=en")
	var sent bool
	b.eval(`const f = document.querySelector("form"); f.querySelector("input:not([type=hidden])").value = "/tools/tool.exe"; f.submit(); return true`, &sent)
	var text string
	for range 50 {
		b.eval(`return document.readyState === "complete" ? document.body.innerText : ""`, &text)
		if strings.Contains(text, "tool.exe") && strings.Contains(text, "Example Vendor") {
			return
		}
	}
	t.Errorf("the origin card does not name the signer:\n%s", text)
}
