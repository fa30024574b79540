package iso

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

func files(in map[string][]byte) []File {
	var out []File
	for name, b := range in {
		out = append(out, File{Name: name, Size: int64(len(b)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
	}
	return out
}

// sample is a volume in small: long names, several dots, many files in one
// directory, empty files, sizes around a sector.
func sample(many int) map[string][]byte {
	in := map[string][]byte{"README.txt": []byte("read me"), "oci-layout": []byte("{}"), "empty": nil, "tables/feeds.jsonl.zst": make([]byte, Sector), "tables/blocks.bin": make([]byte, Sector+1),
		"tuf/1795340000.targets.json": []byte("t"), "a/b/c/d/e/f/deep.txt": []byte("deep")}
	for i := range many {
		b := bytes.Repeat([]byte{byte(i)}, i%5000)
		in[fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(fmt.Append(nil, i)))] = b
	}
	return in
}

func image(t testing.TB, in map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := Write(&b, "HASHIKE_00001_1", time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), files(in))
	if err != nil || n != int64(b.Len()) || n%Sector != 0 {
		t.Fatalf("%d of %d bytes: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func open(t testing.TB, img []byte) *FS {
	t.Helper()
	f, err := Open(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRoundTrip(t *testing.T) {
	in := sample(5000)
	f := open(t, image(t, in))
	n := 0
	err := fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		got, err := fs.ReadFile(f, name)
		if want, ok := in[name]; !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
		return err
	})
	if err != nil || n != len(in) {
		t.Errorf("%d of %d files: %v", n, len(in), err)
	}
	var names []string
	small := sample(3)
	for name := range small {
		names = append(names, name)
	}
	sm := open(t, image(t, small))
	if err := fstest.TestFS(onlyDirs{sm}, names...); err != nil {
		t.Error(err)
	}
}

// onlyDirs hides that our files have no directory handles: TestFS wants them.
type onlyDirs struct{ *FS }

func (o onlyDirs) Open(name string) (fs.File, error) {
	if e, err := o.FS.Stat(name); err == nil && e.IsDir() {
		list, err := o.FS.ReadDir(name)
		return &dirFile{e, list}, err
	}
	return o.FS.Open(name)
}

type dirFile struct {
	e    fs.FileInfo
	list []fs.DirEntry
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.e, nil }
func (d *dirFile) Read([]byte) (int, error)   { return 0, errors.New("a directory") }
func (d *dirFile) Close() error               { return nil }
func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.list)
	} else if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	out := d.list[:n]
	d.list = d.list[n:]
	return out, nil
}

func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatalf("%s is not here", name)
		}
		t.Skipf("%s is not here", name)
	}
	return p
}

// Two programs by others take out what we put in, and we read what they write.
func TestIndependentTools(t *testing.T) {
	isoinfo, xorriso, mk := tool(t, "isoinfo"), tool(t, "xorriso"), tool(t, "genisoimage")
	in, dir := sample(300), t.TempDir()
	img := filepath.Join(dir, "x.iso")
	if err := os.WriteFile(img, image(t, in), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(cmd string, args ...string) []byte {
		t.Helper()
		c := exec.Command(cmd, args...)
		var errs bytes.Buffer
		c.Stderr = &errs
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", cmd, args, err, errs.String())
		}
		return out
	}
	to := filepath.Join(dir, "out")
	run(xorriso, "-osirrox", "on", "-indev", img, "-extract", "/", to)
	n := 0
	err := filepath.WalkDir(to, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(to, p)
		got, err := os.ReadFile(p)
		if want, ok := in[filepath.ToSlash(rel)]; !ok || !bytes.Equal(got, want) {
			t.Errorf("xorriso: %s", rel)
		}
		n++
		return err
	})
	if err != nil || n != len(in) {
		t.Errorf("xorriso: %d of %d files, %v", n, len(in), err)
	}
	list := string(run(isoinfo, "-J", "-f", "-i", img))
	for name := range in {
		if !strings.Contains(list, "/"+name+"\n") {
			t.Errorf("isoinfo lacks %s", name)
		}
	}
	for _, name := range []string{"README.txt", "tables/blocks.bin", "a/b/c/d/e/f/deep.txt"} {
		if got := run(isoinfo, "-J", "-i", img, "-x", "/"+name); !bytes.Equal(got, in[name]) {
			t.Errorf("isoinfo: %s has %d bytes", name, len(got))
		}
	}
	if got := run(isoinfo, "-i", img, "-x", "/README.TXT;1"); !bytes.Equal(got, in["README.txt"]) {
		t.Errorf("the plain tree's README: %q", got)
	}
	theirs := filepath.Join(dir, "theirs.iso")
	run("chmod", "-R", "u+rwX", to)
	run(mk, "-quiet", "-J", "-joliet-long", "-o", theirs, to)
	b, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, b)
	for name, want := range in {
		if got, err := fs.ReadFile(f, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("theirs: %s: %v", name, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, name := range []string{"", "/a", "a//b", "../a", "a/..", strings.Repeat("x", 65), "a*b", "a/b/c/d/e/f/g/h/i"} {
		if _, err := Write(io.Discard, "X", time.Now(), []File{{Name: name}}); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := Write(io.Discard, "X", time.Now(), []File{{Name: "a", Size: 1 << 32}}); !errors.Is(err, feed.ErrConfig) {
		t.Error(err)
	}
	short := File{Name: "a", Size: 5, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }}
	if _, err := Write(io.Discard, "X", time.Now(), []File{short}); !errors.Is(err, feed.ErrDamaged) {
		t.Error(err)
	}
}

// Any image is refused or read: no panic, no name outside, nothing beyond the end.
func FuzzOpen(f *testing.F) {
	img := image(f, map[string][]byte{"README.txt": []byte("x"), "d/e": []byte("y")})
	f.Add(img)
	f.Add(img[:20*Sector])
	for _, at := range []int{17*Sector + 158, 17*Sector + 166} {
		bad := bytes.Clone(img)
		bad[at] ^= 0xff
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, feed.ErrDamaged) {
				t.Error(err)
			}
			return
		}
		for name, e := range x.nodes {
			if !fs.ValidPath(name) {
				t.Errorf("name %q", name)
			}
			if !e.dir {
				if _, err := fs.ReadFile(x, name); err != nil {
					t.Errorf("%q: %v", name, err)
				}
			}
		}
	})
}
