package crx

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func sample(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	b, err := os.ReadFile(filepath.Join(dir, "other", "crx3", name))
	if dir == "" || err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatalf("HASHIKE_SAMPLES: %v", err)
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	return b
}

func TestGenuine(t *testing.T) {
	b := sample(t, "packed.crx")
	p, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil || p.ID != "jagfbfokjebaopkkmmhimmieihhmbnba" || p.Version == "" {
		t.Fatalf("%+v %v", p, err)
	}
	t.Logf("%+v", p)
	for _, n := range []string{"test_crx_dummy.crx", "test_crx_v3_dummy.crx"} {
		d := sample(t, n)
		if p, err := Read(bytes.NewReader(d), int64(len(d))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v %v", n, p, err)
		}
	}
	// Every bit is covered: by the signature, or by the form.
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		m := bytes.Clone(b)
		at := rnd.IntN(len(m))
		m[at] ^= 1 << rnd.IntN(8)
		if p, err := Read(bytes.NewReader(m), int64(len(m))); err == nil {
			t.Errorf("byte %d of %d changed: %+v", at, len(m), p)
		}
	}
	for _, n := range []int{0, 4, 11, 12, 100, len(b) - 1} {
		if _, err := Read(bytes.NewReader(b[:n]), int64(n)); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	if _, err := Read(bytes.NewReader(append(bytes.Clone(b), 0)), int64(len(b)+1)); err == nil {
		t.Error("a byte more: accepted")
	}
}

func TestVersions(t *testing.T) {
	for s, want := range map[string]bool{"1": true, "1.2.3.4": true, "0.0": true, "65535": true, "": false, "1.": false, "01": false, "1.2.3.4.5": false, "65536": false, "1.a": false} {
		if ValidVersion(s) != want {
			t.Errorf("%q", s)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("Cr24\x03\x00\x00\x00\x04\x00\x00\x00\x82\xf1\x04\x00PK"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Read(bytes.NewReader(b), int64(len(b))); err == nil && (!ValidID(p.ID) || !ValidVersion(p.Version)) {
			t.Errorf("%+v", p)
		}
	})
}
