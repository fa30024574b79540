package verifier

import (
	"os"
	"path/filepath"
	"testing"
)

// sample returns a file of the sample collection; without the collection the test skips.
func sample(t testing.TB, name ...string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, name...)...))
	if err != nil {
		missing(t, err.Error())
	}
	return b
}

// missing skips, or fails where everything must be present.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}
