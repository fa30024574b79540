package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/adobe"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/intake"
	"github.com/hashike/hashike/internal/state"
)

// TestTerms: nothing is fetched before somebody accepts the text, of which the
// log keeps who, when and which; another text must be accepted anew.
func TestTerms(t *testing.T) {
	tools, key := signedTree(t, map[string]string{"readme.txt": "read"})
	w := newWorld(t, treeBlock(tools)+"terms = \"この道具は試験町だけで使う。\"\n")
	w.trustTree(key)
	w.fails(exitHeld, "H-630", "--data", w.path(outside), "fetch")
	if out := w.outside("terms", "show", "tools"); !strings.Contains(out, "試験町だけで使う") || !strings.Contains(out, "まだ同意していません") {
		t.Errorf("show:\n%s", out)
	}
	if out := w.outside("status"); !strings.Contains(out, "H-630") {
		t.Errorf("status does not say why:\n%s", out)
	}
	w.fails(exitConfig, "--yes", "--data", w.path(outside), "terms", "accept", "tools")
	w.fails(exitHeld, "H-630", "--data", w.path(outside), "fetch")
	text := w.path("vendor.txt")
	if err := os.WriteFile(text, []byte("the vendor's text"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.outside("terms", "accept", "tools", "--yes", "--text", text)
	w.outside("fetch")
	said := feed.Terms{}.With("この道具は試験町だけで使う。").Digest()
	if out := w.outside("terms", "show", "tools"); !strings.Contains(out, "同意済") || !strings.Contains(out, string(said)) {
		t.Errorf("show:\n%s", out)
	}
	found := false
	err := state.At(state.Dir(w.path(outside)), "test").View(func(tx state.Tx) error {
		for r, err := range tx.AuditLog(1) {
			if err != nil {
				return err
			}
			found = found || r.What == "terms accept" && r.Who != "" && r.Detail["feed"] == "tools" && r.Detail["text"] == string(said) &&
				r.Detail["vendor"] == string(feed.DigestOf([]byte("the vendor's text")))
		}
		return nil
	})
	if err != nil || !found {
		t.Errorf("the log does not say who accepted what: %v", err)
	}
	setLine(t, w.path(outside, "hashike.toml"), "試験町だけで使う", "試験町と隣町で使う")
	w.fails(exitHeld, "H-630", "--data", w.path(outside), "fetch")
	if out := w.outside("terms", "show", "tools"); !strings.Contains(out, "文が変わりました") {
		t.Errorf("show:\n%s", out)
	}
	if adobe.Kind().Terms.None() {
		t.Error("adobe attaches no terms")
	}
}

// TestTypedAnswers: what a person answers at the terminal, in Japanese.
func TestTypedAnswers(t *testing.T) {
	s, _ := newShelf(t)
	drop := filepath.Join(t.TempDir(), "drop")
	w := newWorld(t, fmt.Sprintf("[feed.just]\nkind = \"intake\"\ndir = \"drop\"\ndirs = { drop = %q }\npublishers = { atok2026 = \"JustSystems Corporation\", ichitaro2026 = \"JustSystems Corporation\" }\nterms = \"条件\"\n", filepath.ToSlash(drop)))
	w.trustRoot("just", s.just)
	if out, errs, code := w.typed("いいえ\n", "--data", w.path(outside), "terms", "accept", "just"); code != 0 || !strings.Contains(out, "同意しませんでした") {
		t.Errorf("no: %d\n%s%s", code, out, errs)
	}
	w.fails(exitHeld, "H-630", "--data", w.path(outside), "fetch")
	if out, errs, code := w.typed("はい\n", "--data", w.path(outside), "terms", "accept", "just"); code != 0 || !strings.Contains(out, "同意を記録しました") {
		t.Errorf("yes: %d\n%s%s", code, out, errs)
	}
	file := filepath.Join(s.downloads, "tar2026up.exe")
	out, errs, code := w.typed("ichitaro2026\n2026/03/15\n一太郎2026\nジャストシステム\n/s\n2026-03-15\nhttps://support.justsystems.com/x\n", "--data", w.path(outside), "intake", "add", "just", file)
	if code != 0 || !strings.Contains(out, "受け入れました: ichitaro2026/2026.3.15/tar2026up.exe") || !strings.Contains(errs, "atok2026、ichitaro2026") {
		t.Errorf("intake: %d\n%s%s", code, out, errs)
	}
	b, err := os.ReadFile(filepath.Join(drop, "ichitaro2026", "2026.3.15", "tar2026up.exe.toml"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := intake.ParseDescriptor(b)
	if err != nil || d.Name != "一太郎2026" || d.Silent != "/s" || d.Says != "36.0.1.0" || d.Arch != "x86" || d.By == "" || d.Publisher != "JustSystems Corporation" {
		t.Errorf("%+v %v", d, err)
	}
	w.outside("fetch")
	// The same version with other content, and the same content again.
	other := filepath.Join(t.TempDir(), "tar2026up.exe")
	body := s.just.Program(t, feedtest.UnsignedProgram([4]uint16{36, 0, 9, 0}, 0x14c, 1, []byte("other")), time.Now())
	if err := os.WriteFile(other, body, 0o600); err != nil {
		t.Fatal(err)
	}
	again := []string{"--data", w.path(outside), "intake", "add", "just", other, "--product", "ichitaro2026", "--version", "2026.3.15"}
	w.fails(exitConfig, "H-632", again...)
	again[5] = file
	w.ok("", again...)
}
