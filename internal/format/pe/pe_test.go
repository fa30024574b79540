package pe

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/hashike/hashike/internal/feed/feedtest"
)

// TestGenuine compares with what the same programs say in words: FileVersion or
// ProductVersion of the string table, which this package does not read.
func TestGenuine(t *testing.T) {
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("HASHIKE_SAMPLES is not set")
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	for _, name := range []string{"ms_signtool.exe", "saferwall_kernel32.dll", "saferwall_KernelBase.dll", "saferwall_mscorlib.dll", "saferwall_pwsh.exe"} {
		b, err := os.ReadFile(filepath.Join(samples, "windows", "pe", name))
		if err != nil {
			t.Fatal(err)
		}
		info, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		said := append(words(b, "FileVersion"), words(b, "ProductVersion")...) // some have only one of them
		if got := info.File.String(); !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, got) }) {
			t.Errorf("%s: %s, in words %q", name, got, said)
		}
		if info.Machine != MachineI386 && info.Machine != MachineAMD64 {
			t.Errorf("%s: machine %#x", name, info.Machine)
		}
		for _, cut := range []int{0, 1, 63, 500, 4000} { // never a panic
			if _, err := Read(bytes.NewReader(b[:cut]), int64(cut)); !errors.Is(err, ErrFormat) {
				t.Errorf("%s cut to %d: %v", name, cut, err)
			}
		}
	}
}

// words finds the strings of that name by looking for it.
func words(b []byte, name string) (all []string) {
	var key []byte
	for _, u := range utf16.Encode([]rune(name + "\x00")) {
		key = append(key, byte(u), byte(u>>8))
	}
	for {
		_, rest, ok := bytes.Cut(b, key)
		if !ok {
			return all
		}
		b = rest
		var out []uint16
		for i := 0; i+1 < min(len(b), 200); i += 2 {
			u := uint16(b[i]) | uint16(b[i+1])<<8
			if u == 0 && len(out) > 0 {
				break
			}
			if u != 0 {
				out = append(out, u)
			}
		}
		all = append(all, string(utf16.Decode(out)))
	}
}

func TestOrder(t *testing.T) {
	if a, b := (Version{1, 441, 9, 0}), (Version{1, 441, 10, 0}); a.Order() >= b.Order() || a.String() != "1.441.9.0" {
		t.Error(a, b)
	}
	if (Version{65535, 0, 0, 0}).Order() < 0 {
		t.Error("negative")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("MZ"))
	f.Add(feedtest.UnsignedProgram([4]uint16{1, 441, 7, 0}, MachineAMD64, 0, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Read(bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}

func TestBuilt(t *testing.T) {
	for _, m := range []uint16{MachineI386, MachineAMD64} {
		b := feedtest.UnsignedProgram([4]uint16{1, 441, 7, 0}, m, 1_700_000_000, []byte("payload"))
		if info, err := Read(bytes.NewReader(b), int64(len(b))); err != nil || info.Machine != m || info.File != (Version{1, 441, 7, 0}) || info.Linked.Unix() != 1_700_000_000 {
			t.Errorf("%+v, %v", info, err)
		}
	}
}
