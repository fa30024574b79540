package pe

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashike/hashike/internal/feed/feedtest"
)

// TestNullsoft: an installer that makensis built says what it was told to.
func TestNullsoft(t *testing.T) {
	tool, err := exec.LookPath("makensis")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("makensis is not here")
		}
		t.Skip("makensis is not here")
	}
	dir := t.TempDir()
	script := "Unicode true\nName \"試験ツール\"\nOutFile \"setup.exe\"\nRequestExecutionLevel admin\nVIProductVersion \"1.2.3.4\"\nVIFileVersion \"1.2.3.5\"\n" +
		"VIAddVersionKey /LANG=1041 ProductName \"試験ツール\"\nVIAddVersionKey /LANG=1041 CompanyName \"試験 Co.\"\nVIAddVersionKey /LANG=1041 FileVersion \"1.2.3.5\"\nVIAddVersionKey /LANG=1041 ProductVersion \"1.2\"\nSection\nSectionEnd\n"
	if err := os.WriteFile(filepath.Join(dir, "x.nsi"), []byte("\ufeff"+script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "-V1", "x.nsi")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "setup.exe"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadSetup(bytes.NewReader(b), int64(len(b)))
	if err != nil || s.Maker != "nullsoft" || s.Machine != MachineI386 || s.File != (Version{1, 2, 3, 5}) || s.Strings["ProductName"] != "試験ツール" || s.Strings["CompanyName"] != "試験 Co." || s.Strings["ProductVersion"] != "1.2" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestWords: the same words as TestGenuine finds by looking for them.
func TestWords(t *testing.T) {
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("HASHIKE_SAMPLES is not set")
		}
		t.Skip("HASHIKE_SAMPLES is not set")
	}
	for _, name := range []string{"ms_signtool.exe", "saferwall_kernel32.dll", "saferwall_pwsh.exe"} {
		b, err := os.ReadFile(filepath.Join(samples, "windows", "pe", name))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ReadSetup(bytes.NewReader(b), int64(len(b)))
		if err != nil || s.Maker != "" || len(s.Strings) < 5 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		for k, v := range s.Strings {
			found := v == ""
			for _, w := range words(b, k) {
				found = found || w == v
			}
			if !found {
				t.Errorf("%s: %s is %q, which is not in the file", name, k, v)
			}
		}
	}
}

func FuzzReadSetup(f *testing.F) {
	f.Add(feedtest.UnsignedProgram([4]uint16{1, 441, 7, 0}, MachineAMD64, 0, nil), []byte{8, 0, 0, 0, 1, 0, 'a', 0})
	f.Fuzz(func(t *testing.T, b, v []byte) {
		if _, err := ReadSetup(bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		stringsOf(v, 0, map[string]string{})
	})
}
