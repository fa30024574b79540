package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// onPaperCodes prints a page and reads its QR codes off the paper with ZBar.
func onPaperCodes(t testing.TB, html, name string) []string {
	t.Helper()
	zbar, ppm := need(t, "zbarimg"), need(t, "pdftoppm")
	b := newBrowser(t)
	b.open("file://" + html)
	pdf := b.print(name)
	to := filepath.Join(t.TempDir(), "page")
	must(t, exec.Command(ppm, "-r", "200", "-png", pdf, to))
	pages, err := filepath.Glob(to + "*.png")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	var out []string
	for _, p := range pages {
		text, err := exec.Command(zbar, "--raw", "-q", "-Sdisable", "-Sqrcode.enable", p).Output()
		if err != nil && len(pages) == 1 {
			t.Fatalf("%s: %v", p, err)
		}
		out = append(out, strings.Fields(string(text))...)
	}
	return out
}

// A long need list becomes several numbered codes; what a scanner types of
// them, in any order and some twice, makes the repair bundle. The receipt's
// code is read off its page as well.
func TestNeedListAndReceiptAsCodes(t *testing.T) {
	files := map[string]string{}
	for i := range 1200 {
		files[fmt.Sprintf("f%04d", i)] = fmt.Sprintf("file %d", i)
	}
	w := treeWorld(t, files)
	w.outside("fetch")
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test")
	w.inside("import", w.path("media"))
	out := w.inside("receipt", "show")
	code := strings.ReplaceAll(regexp.MustCompile(`[0-9]{4}( [0-9]{4}){5}`).FindString(out), " ", "")
	if got := onPaperCodes(t, w.path(inside, "outbox/receipt-00001.html"), "receipt-ja"); !slices.Equal(got, []string{code}) {
		t.Errorf("the receipt's page says %v, the screen %s", got, code)
	}
	w.outside("receipt", "enter", code)

	for i := 0; i < 1200; i += 2 {
		hex := feed.DigestOf([]byte(files[fmt.Sprintf("f%04d", i)])).Hex()
		if err := os.Remove(w.path(inside, "store/sha256", hex[:2], hex)); err != nil {
			t.Fatal(err)
		}
	}
	out = w.inside("need")
	page := w.path(inside, "outbox/need-00001.html")
	if !strings.Contains(out, "補充依頼票") || !strings.Contains(out, page) {
		t.Errorf("need says\n%s", out[len(out)-400:])
	}
	codes := onPaperCodes(t, page, "need-ja")
	if len(codes) < 3 {
		t.Fatalf("%d codes", len(codes))
	}
	for i, c := range codes {
		if !strings.HasPrefix(c, "HN.") {
			t.Errorf("code %d: %.40s", i, c)
		}
	}
	slices.Sort(codes)
	pack := []string{"--data", w.path(outside), "pack", "--to", w.path("repair"), "--clock-checked", "test", "--need", "-"}
	w.fails(exitConfig, "H-208", append(pack[:len(pack)-1:len(pack)-1], w.path("need-none.txt"))...)
	w.fails(exitConfig, "H-222", append(pack[:len(pack)-1:len(pack)-1], "ABCD-EFGH")...)
	typed := func(c ...string) string { return strings.ToLower(strings.Join(c, "\r\n")) + "\r\n" }
	if _, errs, code := w.run(typed(codes[1:]...), pack...); code != exitConfig || !strings.Contains(errs, "H-622") || !strings.Contains(errs, fmt.Sprintf("1/%d", len(codes))) {
		t.Errorf("without the first code: exit %d\n%s", code, errs)
	}
	// All of them are the list. The receipt that came before says the bundle is
	// whole, and is no reason to leave the inside without what rotted since.
	slices.Reverse(codes)
	if _, errs, code := w.run(typed(append(codes, codes[0])...), pack...); code != 0 {
		t.Errorf("a list of a confirmed bundle: exit %d\n%s", code, errs)
	}
	w.inside("import", w.path("repair"))
	for name, text := range files {
		hex := feed.DigestOf([]byte(text)).Hex()
		if _, err := os.Stat(w.path(inside, "store/sha256", hex[:2], hex)); err != nil {
			t.Fatalf("%s after the repair: %v", name, err)
		}
	}
}

// What scanners type.
func TestNeedListFromAScanner(t *testing.T) {
	files := map[string]string{"a": strings.Repeat("a", 3<<20), "b": strings.Repeat("b", 4<<20)}
	w := treeWorld(t, files)
	w.outside("fetch")
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "test", "--parity", "0")
	w.inside("import", w.path("media"))
	hex := feed.DigestOf([]byte(files["b"])).Hex()
	if err := os.Remove(w.path(inside, "store/sha256", hex[:2], hex)); err != nil {
		t.Fatal(err)
	}
	w.inside("need")
	codes := onPaperCodes(t, w.path(inside, "outbox/need-00001.html"), "need-short")
	if len(codes) != 1 {
		t.Fatalf("%v", codes)
	}
	out := w.ok(codes[0], "--data", w.path(outside), "pack", "--to", w.path("repair"), "--clock-checked", "test", "--need", "-")
	if !strings.Contains(out, "（1件") {
		t.Errorf("the repair bundle:\n%s", out)
	}
	w.inside("import", w.path("repair"))
	if out := w.inside("need"); !strings.Contains(out, "不足はありません") {
		t.Errorf("need says\n%s", out)
	}
}
