package packager

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/state"
)

// A new outside's bundle key is sealed to the machine from the start.
func TestDPAPI(t *testing.T) {
	secret := []byte("a private key")
	b, err := seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, secret) {
		t.Error("not sealed")
	}
	if got, err := unseal(b); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%q %v", got, err)
	}
	if _, err := unseal([]byte("no seal")); err == nil {
		t.Error("anything opens")
	}
	// Not TempDir: wine cannot remove it, and what the test says would be lost.
	temp, err := os.MkdirTemp("", "dpapi")
	if err != nil {
		t.Fatal(err)
	}
	defer durable.RemoveAll(temp)
	dir := state.Dir(temp)
	if err := CreateKeys(dir, []string{"a", "b", "c"}, time.Now(), func([]RootKey) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if g, _, _, err := BundleGuard(dir); err != nil || g != GuardDPAPI {
		t.Errorf("kept as %s %v", g, err)
	}
	if _, err := os.Stat(bundleKeyPath(dir)); err == nil {
		t.Error("a plain copy lies beside it")
	}
	if _, err := bundleKey(dir); err != nil {
		t.Error(err)
	}
	if err := Protect(dir, GuardFile, ""); err != nil {
		t.Error(err)
	}
	if err := Protect(dir, GuardDPAPI, ""); err != nil {
		t.Error(err)
	}
	if _, err := bundleKey(dir); err != nil {
		t.Error(err)
	}
}
