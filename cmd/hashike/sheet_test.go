package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
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
	// With everything that can stand on it, it is still one page.
	w.outside("person", "add", "山田 太郎", "--role", "operator", "--department", "総務課 情報政策係")
	w.outside("media", "add", "U-012", "--product", "USBメモリ 64GB（書込み保護スイッチ付き）", "--encrypted")
	w.pack("--medium", "U-012", "--feed", "clamav-test", "--urgent")
	a := testApp(t, w.path(outside), discard())
	s, err := a.open("status", outside)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	full, err := s.carrySheet(packager.Report{Packed: packager.Packed{Number: 2, Urgent: true, Set: feed.DigestOf(nil)}}, nil, packOptions{media: []string{"U-012"},
		lent: packager.Loan{Borrower: "山田 太郎", Department: "総務課 情報政策係"}}, checked{Value: "検出なし"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range full.Rows {
		if full.Rows[i].Label == a.cat.T("sheet.contents") {
			full.Rows[i].Lines = slices.Repeat([]string{"Debian・Ubuntu（debian-security 版1795339954）: 123456件 123.4 GB"}, maxContents+1)
		}
	}
	if err := s.writeSheet(full, 99999, discard()); err != nil {
		t.Fatal(err)
	}
	b.open("file://" + w.path(outside, "outbox/sheet-99999.html"))
	pdf = b.print("sheet-full")
	onPaper(t, pdf, "U-012")
	if info := must(t, exec.Command("pdfinfo", pdf)); !strings.Contains(info, "Pages:           1\n") {
		t.Errorf("a full sheet is not one page:\n%s", info)
	}
	b.picture("sheet-full")
}
