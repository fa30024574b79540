package packager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// dropIn puts a drop of one file into dir and returns its list.
func dropIn(t *testing.T, dir string, number uint64, body string) {
	t.Helper()
	f := DropFile{Name: fmt.Sprintf("a%07d.dat", number), Path: "set.json", Size: int64(len(body)), Digest: feed.DigestOf([]byte(body))}
	putFile(t, filepath.Join(dir, f.Name), []byte(body))
	putList(t, dir, number, f)
}

func putList(t *testing.T, dir string, number uint64, f DropFile) {
	t.Helper()
	raw, err := dropList(number, []DropFile{f})
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, filepath.Join(dir, fmt.Sprintf("list-%d.dat", number)), raw)
}

func putFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Lists that lead nowhere delay a drop and do not hide it, up to a number.
func TestListsOfNothing(t *testing.T) {
	dir := t.TempDir()
	dropIn(t, dir, 1, "genuine")
	fake := DropFile{Name: "a0000000.dat", Path: "set.json", Size: 5, Digest: feed.DigestOf([]byte("12345"))}
	for n := range dropMaxTried - 1 {
		fake.Size = int64(1000 + n) // each another list
		putList(t, dir, uint64(100+n), fake)
	}
	for n := range 100 { // begins like a list, and that is all
		putFile(t, filepath.Join(dir, fmt.Sprint("x", n)), []byte(dropStart+strings.Repeat("9", 2*dropMaxHead)))
	}
	m, err := openMedium(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.close(); m.drop == nil || m.drop.number != 1 {
		t.Errorf("found %+v", m.drop)
	}
	fake.Size = 9
	putList(t, dir, 1000, fake)
	if _, err := openMedium(dir); !errors.Is(err, feed.ErrHeld) {
		t.Errorf("more lists than are read: %v", err)
	}
}

// What a list calls its files is shown to people: only names of ours are taken.
func TestListsNameFilesAsWeDo(t *testing.T) {
	good := DropFile{Name: "a00bg001.dat", Path: "set.json", Size: 3, Digest: feed.DigestOf([]byte("abc"))}
	for name, want := range map[string]bool{"a00bg001.dat": true, "z255rzzz.bin": true, "a00bg001.dat\x1b[2J": false, "..": false, "x": false,
		"a00bg001.dat\n": false, "a\u202ebg001.dat": false, "A00BG001.DAT": false, "": false} {
		f := good
		f.Name = name
		raw, err := dropList(412, []DropFile{f})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok := parseDropList(raw); ok != want {
			t.Errorf("%q: %v", name, ok)
		}
	}
}

// An approval is found beside a drop without looking at the drop: what lacks,
// or is long, does not matter to it.
func TestApprovalsBesideADrop(t *testing.T) {
	dir := t.TempDir()
	dropIn(t, dir, 3, "one file")
	if err := os.Remove(filepath.Join(dir, "a0000003.dat")); err != nil {
		t.Fatal(err)
	}
	putFile(t, filepath.Join(dir, approvalName(3)), []byte(`{"schema":1,"format":"hashike-approval","number":3,"set":"","version":1,"key":"k","signature":"AA=="}`))
	of, has, err := approvalsIn(dir, 3)
	if err != nil || !has || len(of) != 1 {
		t.Errorf("%+v %v %v", of, has, err)
	}
}
