package msi

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func samples(t testing.TB) map[string][]byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	out := map[string][]byte{}
	for _, n := range []string{"ms_vc10_vc_red_x86.msi", "ms_vc9_VC_RED.MSI", "relic_dummy_unsigned.msi"} {
		b, err := os.ReadFile(filepath.Join(dir, "windows", "msi", n))
		if err != nil {
			missing(t, err.Error())
		}
		out[n] = b
	}
	return out
}

// TestAsMsiinfo: every property as msitools reads it.
func TestAsMsiinfo(t *testing.T) {
	tool, err := exec.LookPath("msiinfo")
	if err != nil {
		missing(t, "msiinfo is not here")
	}
	for name, b := range samples(t) {
		p, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := filepath.Join(t.TempDir(), "x.msi")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "export", file, "Property").Output()
		if err != nil {
			t.Fatal(name, err)
		}
		lines := strings.Split(strings.TrimRight(strings.ReplaceAll(string(out), "\r\n", "\n"), "\n"), "\n")[3:]
		for _, l := range lines {
			k, v, _ := strings.Cut(l, "\t")
			if got, ok := p.Properties[k]; !ok || got != v {
				t.Errorf("%s: %s is %q, msiinfo says %q", name, k, got, v)
			}
		}
		if len(lines) != len(p.Properties) {
			t.Errorf("%s: %d properties, msiinfo has %d", name, len(p.Properties), len(lines))
		}
		said, err := exec.Command(tool, "suminfo", file).Output()
		if err != nil || !strings.Contains(string(said), "Template: "+p.Template+"\n") || !strings.Contains(string(said), "Subject: "+p.Subject+"\n") {
			t.Errorf("%s: template %q, subject %q; msiinfo says %v\n%s", name, p.Template, p.Subject, err, said)
		}
	}
}

func TestInstaller(t *testing.T) {
	b := samples(t)["ms_vc10_vc_red_x86.msi"]
	p, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	i, err := p.Installer("a/b.msi")
	i.Digest = feed.DigestOf(b)
	if err != nil || i.Check() != nil || i.Arch != "x86" || i.Publisher != "Microsoft Corporation" || !guid.MatchString(i.ProductCode) {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := Read(bytes.NewReader(b[:len(b)/2]), int64(len(b)/2)); err == nil {
		t.Error("half of it is accepted")
	}
	if _, err := (&Package{}).Installer("x"); !errors.Is(err, ErrFormat) {
		t.Errorf("no product: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	if os.Getenv("HASHIKE_SAMPLES") != "" {
		f.Add(samples(f)["relic_dummy_unsigned.msi"])
	}
	f.Add([]byte("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if i, err := p.Installer("x.msi"); err == nil && i.ID == "" {
			t.Fatal("no id")
		}
	})
}

// FuzzTables: the tables alone, which a mutated container rarely reaches.
func FuzzTables(f *testing.F) {
	f.Add([]byte("\xa4\x03\x00\x00\x01\x00\x01\x00"), []byte("a"), []byte("\x01\x00\x01\x00"), []byte{0xFE, 0xFF})
	f.Fuzz(func(t *testing.T, pool, data, table, sum []byte) {
		s, err := stringsOf(pool, data)
		if err != nil {
			return
		}
		s.properties(table)
		(&Package{}).summary(sum, s.decode)
	})
}
