package main

import (
	"os"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/adobe"
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
