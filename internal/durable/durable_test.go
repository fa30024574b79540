package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteFileReplacesWholeOrNotAtAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := Mkdir(dir); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(dir, "x")
	for _, text := range []string{"old", "new"} {
		if err := WriteFile(p, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	boom := errors.New("boom")
	err := WriteFrom(p, func(w io.Writer) error { fmt.Fprint(w, "half"); return boom })
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(p); err != nil || string(b) != "new" {
		t.Errorf("%q %v", b, err)
	}
	ents, err := os.ReadDir(dir)
	if err != nil || len(ents) != 1 {
		t.Errorf("left behind: %v %v", ents, err)
	}
}

func TestCleanTempsTakesOnlyOurs(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"keep", TempPrefix + "1", TempPrefix + "2"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, TempPrefix+"dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := CleanTemps(dir); err != nil {
		t.Fatal(err)
	}
	ents, err := os.ReadDir(dir)
	var names []string
	for _, e := range ents {
		names = append(names, e.Name())
	}
	if err != nil || strings.Join(names, " ") != TempPrefix+"dir keep" {
		t.Errorf("%v %v", names, err)
	}
}

func TestRemoveOfNothing(t *testing.T) {
	if err := Remove(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
}

// The kernel's own full device says what a full disk says.
func TestIsFull(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("no /dev/full here")
	}
	defer f.Close()
	_, err = f.Write([]byte("x"))
	if !IsFull(fmt.Errorf("store: %w", err)) {
		t.Errorf("%v is not seen as a full disk", err)
	}
	if IsFull(os.ErrPermission) {
		t.Error("a refusal is no full disk")
	}
	if n, err := Free(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("free: %d %v", n, err)
	}
}
