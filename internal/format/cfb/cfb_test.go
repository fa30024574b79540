package cfb

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func sample(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	b, err := os.ReadFile(filepath.Join(dir, "windows", "msi", name))
	if dir == "" || err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	return b
}

func TestOpen(t *testing.T) {
	for _, name := range []string{"relic_dummy_unsigned.msi", "ms_vc9_VC_RED.MSI", "ms_vc10_vc_red_x86.msi"} {
		b := sample(t, name)
		f, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f.Root.Child("\x05SummaryInformation") == nil {
			t.Errorf("%s: no summary", name)
		}
		for _, e := range f.Root.Children {
			if n, err := e.WriteTo(io.Discard); e.Kind == Stream && (err != nil || n != e.Size) {
				t.Errorf("%s: %q: %d of %d bytes, %v", name, e.Name(), n, e.Size, err)
			}
		}
	}
}

// TestHostile: loops, self-references and sizes without bytes end as ErrFormat.
func TestHostile(t *testing.T) {
	b := sample(t, "relic_dummy_unsigned.msi")
	for _, x := range []struct {
		name string
		at   int
		with []byte
	}{
		{"table of itself", 68, []byte{0, 0, 0, 0}},
		{"huge table", 44, []byte{0xFF, 0xFF, 0xFF, 0x7F}},
		{"directory beyond the end", 48, []byte{0xFF, 0xFF, 0, 0}},
		{"sectors of a byte", 30, []byte{0, 0}},
		{"small sectors of 32 KiB", 32, []byte{15, 0}},
		{"every sector leads to the first", 4096, bytes.Repeat([]byte{0}, 4096)}, // version 4: the table is the second sector
		{"huge small table", 64, []byte{0xFF, 0xFF, 0xFF, 0x7F}},
	} {
		c := bytes.Clone(b)
		copy(c[x.at:], x.with)
		if _, err := Open(bytes.NewReader(c), int64(len(c))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	for n := range 80 {
		if _, err := Open(bytes.NewReader(b[:n*len(b)/80]), int64(n*len(b)/80)); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	if os.Getenv("HASHIKE_SAMPLES") != "" {
		f.Add(sample(f, "relic_dummy_unsigned.msi"))
	}
	f.Add([]byte("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		total := 0
		var walk func(e *Entry)
		walk = func(e *Entry) {
			if total++; total > MaxEntries {
				t.Fatal("more entries than the limit")
			}
			if n, err := e.WriteTo(io.Discard); n > int64(len(b)) || err != nil && !errors.Is(err, ErrFormat) {
				t.Fatal(n, err)
			}
			for _, c := range e.Children {
				walk(c)
			}
		}
		walk(c.Root)
	})
}
