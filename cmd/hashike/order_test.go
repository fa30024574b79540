package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
)

// signedTree is a vendor of our own: a folder with a SHA256SUMS and its signature.
func signedTree(t testing.TB, files map[string]string) (dir, keyFile string) {
	t.Helper()
	dir = t.TempDir()
	var sums strings.Builder
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sums, "%s  %s\n", feed.DigestOf([]byte(text)).Hex(), name)
	}
	key, err := openpgp.NewEntity("Example Vendor", "", "vendor@vendor.example", &packet.Config{RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := os.Create(filepath.Join(dir, "SHA256SUMS.asc"))
	if err != nil {
		t.Fatal(err)
	}
	defer sig.Close()
	if err := openpgp.ArmoredDetachSign(sig, key, strings.NewReader(sums.String()), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	keyFile = filepath.Join(t.TempDir(), "vendor.asc")
	f, err := os.Create(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := armor.Encode(f, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, keyFile
}

func treeBlock(dir string) string {
	return fmt.Sprintf("[feed.tools]\nkind = \"tree\"\ndir = \"drop\"\nlist = \"SHA256SUMS\"\nsignature = \"SHA256SUMS.asc\"\nkeys = [\"vendor.asc\"]\ndirs = { drop = %q }\n", filepath.ToSlash(dir))
}

// A vendor key that this build does not pin comes only by a trust order that
// two root key holders signed; it reaches the inside with the bundle.
func TestTrustOrderBringsAVendorKey(t *testing.T) {
	dir, key := signedTree(t, map[string]string{"tool.exe": "one", "readme.txt": "two"})
	w := newWorld(t, treeBlock(dir))
	w.fails(exitConfig, "H-225", "--data", w.path(outside), "fetch")
	w.fails(exitConfig, "H-225", "--data", w.path(outside), "check")
	roots, err := filepath.Glob(w.path("envelopes", "*.txt"))
	if err != nil || len(roots) != 3 {
		t.Fatalf("root keys: %v %v", roots, err)
	}
	trust := []string{"--data", w.path(outside), "order", "trust", "--feed", "tools", "--anchor", key, "--reason", "試験", "--approver", "課長"}
	w.fails(exitConfig, "H-513", trust...)
	w.fails(exitConfig, "H-513", append(trust, "--root-key", roots[0])...)
	w.fails(exitConfig, "H-513", append(trust, "--root-key", roots[0], "--root-key", roots[0])...)
	w.ok("", append(trust, "--root-key", roots[0], "--root-key", roots[2])...)
	w.carry()
	if got := w.status(inside).Feeds[0]; got.Weakest != feed.Signed || got.Serial == 0 {
		t.Errorf("inside has %+v", got)
	}
	if out := w.inside("origin", "tools:tool.exe"); !strings.Contains(out, "Example Vendor") || !strings.Contains(out, "署名確認済") {
		t.Errorf("origin card:\n%s", out)
	}
	base := w.serve()
	if res, b := get(t, base+"/tools/tool.exe"); string(b) != "one" {
		t.Errorf("%s %q", res.Status, b)
	}
}

// Exceptions end on 31 March at the latest, need a second person, and show.
func TestExceptionsAreBounded(t *testing.T) {
	dir, _ := signedTree(t, map[string]string{"tool.exe": "one"})
	w := newWorld(t, treeBlock(dir))
	ex := []string{"--data", w.path(outside), "order", "exception", "--feed", "tools", "--strength", "listed", "--reason", "試験"}
	w.fails(exitConfig, "H-211", ex...)
	w.fails(exitConfig, "H-211", append(ex, "--approver", who(), "--until", "2027-01-31")...)
	w.fails(exitConfig, "H-211", append(ex, "--approver", "課長", "--until", "2099-01-31")...)
	w.ok("", append(ex, "--approver", "課長", "--until", feed.FiscalYearEnd(w.now()).AddDate(0, 0, -1).Format("2006-01-02"))...)
	if out := w.outside("status"); !strings.Contains(out, "例外措置") {
		t.Errorf("the exception does not show:\n%s", out)
	}
}
