package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// write makes a file with the folders above it.
func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) trusts(feedName, use string, a feed.Anchor) {
	w.t.Helper()
	file := w.path(feedName + ".pem")
	write(w.t, file, a.Data)
	roots, err := filepath.Glob(w.path("envelopes", "*.txt"))
	if err != nil || len(roots) != 3 {
		w.t.Fatal(roots, err)
	}
	w.outside("order", "trust", "--feed", feedName, "--use", use, "--anchor", file, "--reason", "試験", "--approver", "課長", "--root-key", roots[0], "--root-key", roots[1])
}

// Definitions of Defender and a package of the town's own cross the gap: the
// program as its publisher signed it, never an older one; the package as an
// update that a terminal with an older version of the software needs. Both are
// held until the certificates are trusted by order.
func TestDefenderAndOwnPackages(t *testing.T) {
	now := time.Now()
	microsoft := feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", now)
	machi := feedtest.NewPublisher(t, "x509-publisher", "Machi Yakuba", now)
	dir := t.TempDir()
	program := func(n uint16) []byte {
		b := microsoft.Program(t, feedtest.UnsignedProgram([4]uint16{1, 441, n, 0}, 0x8664, uint32(now.Add(-time.Hour).Unix()), fmt.Appendf(nil, "definitions %d", n)), now)
		write(t, filepath.Join(dir, "defender", "x64", "mpam-fe.exe"), b)
		return b
	}
	want := program(7)
	key, err := x509.MarshalPKCS8PrivateKey(machi.Signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "publisher", "publisher.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	write(t, filepath.Join(dir, "publisher", "publisher.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: machi.Signer.Chain[0].Raw}))
	write(t, filepath.Join(dir, "publish", "thunderbird", "setup.exe"), bytes.Repeat([]byte("MZ setup "), 3000))
	write(t, filepath.Join(dir, "publish", "thunderbird", "package.toml"), []byte(`id = "3b1f6c2a-7d54-4e0b-9a61-0d5e8c7f2b19"
revision = 1
created = 2026-11-20T00:00:00Z
file = "setup.exe"
arguments = "/S"
title = { ja = "Thunderbird 140.5", en = "Thunderbird 140.5" }
installed = { csidl = 38, path = 'Mozilla Thunderbird\thunderbird.exe', version = "140.5.0.0" }
needs = { csidl = 38, path = 'Mozilla Thunderbird\thunderbird.exe' }
`))
	w := newWorld(t, fmt.Sprintf("[feed.defender]\nkind = \"defender\"\nmount = \"/defender/\"\nurl = \"\"\ndirs = { drop = %q }\n\n[feed.windows]\nkind = \"wsus\"\nmount = \"/\"\ndirs = { publish = %q, publisher = %q }\n",
		filepath.ToSlash(filepath.Join(dir, "defender")), filepath.ToSlash(filepath.Join(dir, "publish")), filepath.ToSlash(filepath.Join(dir, "publisher"))))
	if out, errs, code := w.run("", "--data", w.path(outside), "fetch", "defender"); code == 0 || !strings.Contains(out+errs, "H-502") {
		t.Fatalf("before the order: exit %d\n%s%s", code, out, errs)
	}
	w.trusts("defender", "x509-microsoft", microsoft.Anchor)
	w.trusts("windows", "x509-publisher", machi.Anchor)
	w.outside("fetch")
	w.pack("--to", w.path("media"))
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	base := w.serve()
	res, err := http.Get(base + "/defender/x64/mpam-fe.exe")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, want) {
		t.Errorf("%s, %d bytes, %v", res.Status, len(got), err)
	}
	m := windows81()
	m.Files = map[string]string{`38|Mozilla Thunderbird\thunderbird.exe`: "128.0.0.0"}
	var ids []string
	for _, u := range w.terminal(m, nil).Needed() {
		ids = append(ids, u.UpdateID)
	}
	if !slices.Contains(ids, "3b1f6c2a-7d54-4e0b-9a61-0d5e8c7f2b19") || len(ids) != 2 {
		t.Errorf("a terminal with an older version needs %v", ids)
	}
	if need := w.terminal(windows81(), nil).Needed(); len(need) != 0 {
		t.Errorf("a terminal without the software needs %v", need)
	}
	set := w.inside("client", "defender", "--base", base)
	for _, say := range []string{"DefinitionUpdateFileSharesSources", "Update-DefenderShare.ps1", "$mirror = '" + base + "/defender'"} {
		if !strings.Contains(set, say) {
			t.Errorf("settings without %q:\n%s", say, set)
		}
	}
	program(6)
	if out, errs, code := w.run("", "--data", w.path(outside), "fetch", "defender"); code == 0 || !strings.Contains(out+errs, "H-505") {
		t.Errorf("older definitions: exit %d\n%s%s", code, out, errs)
	}
}
