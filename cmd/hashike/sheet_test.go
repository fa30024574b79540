package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The sheet and the import screen show the same words; the page prints on one A4.
func TestCarrySheet(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.outside("fetch")
	w.pack()
	text, err := os.ReadFile(w.path(outside, "outbox/sheet-00001.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, words, _ := strings.Cut(string(text), "照合語（8語）: ")
	words, _, _ = strings.Cut(words, "\r\n")
	if n := len(strings.Split(words, "　")); n != 8 {
		t.Fatalf("%d words: %s", n, words)
	}
	if out := w.inside("import", w.path("media")); !strings.Contains(out, words) {
		t.Errorf("the screen does not show %s:\n%s", words, out)
	}
	anchor := w.outside("audit", "verify")
	anchor = strings.TrimSpace(anchor[strings.LastIndex(anchor, " ")+1:])
	if !strings.Contains(string(text), anchor) {
		t.Errorf("the anchor %s is not on the sheet:\n%s", anchor, text)
	}
	for _, want := range []string{"更新便番号: 第1便", "未実施", "clamav-test", "承認", "消去"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not on the sheet:\n%s", want, text)
		}
	}
	b := newBrowser(t)
	html, err := filepath.Abs(w.path(outside, "outbox/sheet-00001.html"))
	if err != nil {
		t.Fatal(err)
	}
	b.open("file://" + html)
	pdf := b.print("sheet-ja")
	onPaper(t, pdf, "媒体運搬票")
	if info := must(t, exec.Command("pdfinfo", pdf)); !strings.Contains(info, "Pages:           1\n") {
		t.Errorf("not one page:\n%s", info)
	}
	b.picture("sheet-ja")
}
