package verifier

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// OpenSSL signs as vendors do; every one-bit mutant of the content is refused,
// and of the signature those that change what it says.
func TestDetachedFromOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("no openssl")
		}
		t.Skip("no openssl")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) {
		t.Helper()
		c := exec.Command(openssl, args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/O=Vendor/CN=Internal Root", "-days", "30")
	run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/O=Vendor/CN=Updates")
	run("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "leaf.pem", "-days", "3")
	content := []byte("pattern file\r\nwith a line end that is left alone\n")
	if err := os.WriteFile(at("content"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	run("cms", "-sign", "-binary", "-md", "sha256", "-in", "content", "-signer", "leaf.pem", "-inkey", "leaf.key", "-outform", "DER", "-out", "sig")
	run("cms", "-sign", "-binary", "-md", "sha1", "-in", "content", "-signer", "leaf.pem", "-inkey", "leaf.key", "-outform", "DER", "-out", "weak")
	run("cms", "-sign", "-binary", "-nodetach", "-md", "sha256", "-in", "content", "-signer", "leaf.pem", "-inkey", "leaf.key", "-outform", "DER", "-out", "attached")
	read := func(name string) []byte {
		b, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sig, now := read("sig"), time.Now()
	trust := feed.Trust{At: now, Anchors: []feed.Anchor{{Name: "root", Use: "x509-vendor", Data: read("ca.pem")}}}
	check := func(content, sig []byte, trust feed.Trust) (feed.Evidence, error) {
		return Detached(bytes.NewReader(content), int64(len(content)), sig, "x509-vendor", time.Time{}, trust)
	}
	ev, err := check(content, sig, trust)
	if err != nil || ev.Strength != feed.Signed || ev.Signer != "Updates" || ev.Anchor != "root" || ev.SignedAt.IsZero() || ev.Note != "" {
		t.Fatalf("%+v, %v", ev, err)
	}
	if got := DetachedTime(sig); !got.Equal(ev.SignedAt) {
		t.Errorf("%s is not %s", got, ev.SignedAt)
	}
	// After its certificate's end an old file still holds, and the card says so.
	old := trust
	old.At = now.AddDate(0, 0, 20)
	if ev, err := check(content, sig, old); err != nil || !strings.Contains(ev.Note, "judged at the time of signing") {
		t.Errorf("%+v, %v", ev, err)
	}
	early := trust
	early.At = now.AddDate(0, 0, -3)
	out := trust
	out.Distrust = []feed.Distrust{{KeyID: ev.KeyID}}
	for what, f := range map[string]func() (feed.Evidence, error){
		"from the future":  func() (feed.Evidence, error) { return check(content, sig, early) },
		"distrusted":       func() (feed.Evidence, error) { return check(content, sig, out) },
		"without a root":   func() (feed.Evidence, error) { return check(content, sig, feed.Trust{At: now}) },
		"of SHA-1":         func() (feed.Evidence, error) { return check(content, read("weak"), trust) },
		"with its content": func() (feed.Evidence, error) { return check(content, read("attached"), trust) },
		"of nothing":       func() (feed.Evidence, error) { return check(content, nil, trust) },
		"with more behind": func() (feed.Evidence, error) { return check(content, append(bytes.Clone(sig), 0), trust) },
	} {
		if ev, err := f(); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %+v, %v", what, ev, err)
		}
	}
	for i := range content {
		content[i] ^= 1
		if _, err := check(content, sig, trust); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("byte %d of the content: %v", i, err)
		}
		content[i] ^= 1
	}
	for i := range sig {
		sig[i] ^= 4
		if got, err := check(content, sig, trust); err == nil && got != ev {
			t.Errorf("byte %d of the signature: %+v", i, got)
		}
		sig[i] ^= 4
	}
}
