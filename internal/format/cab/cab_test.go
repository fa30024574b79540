package cab

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func need(t testing.TB, tool string) string {
	t.Helper()
	p, err := exec.LookPath(tool)
	if err != nil {
		missing(t, tool+" is not here")
	}
	return p
}

// samples are all cabinets of the collection, those within cabinets too.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.EqualFold(filepath.Ext(p), ".cab") {
			return err
		}
		b, err := os.ReadFile(p)
		out[strings.TrimPrefix(p, dir)] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range maps.Clone(out) {
		files, err := unpack(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for n, inner := range files {
			if bytes.HasPrefix(inner, []byte("MSCF")) {
				out[name+"/"+n] = inner
			}
		}
	}
	if len(out) < 8 {
		t.Fatalf("only %d sample cabinets", len(out))
	}
	return out
}

func unpack(b []byte) (map[string][]byte, error) {
	r, err := NewReader(bytes.NewReader(b), int64(len(b)), Limits{Total: 256 << 20})
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	err = r.Walk(func(f File, body io.Reader) error {
		c, err := io.ReadAll(body)
		if err == nil && int64(len(c)) != f.Size {
			err = fmt.Errorf("%s: %d bytes of %d", f.Name, len(c), f.Size)
		}
		out[f.Name] = c
		return err
	})
	return out, err
}

// oracle is what cabextract makes of it.
func oracle(t testing.TB, b []byte) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "x.cab")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "out")
	if out, err := exec.Command(need(t, "cabextract"), "-q", "-d", to, file).CombinedOutput(); err != nil {
		t.Fatalf("cabextract: %v\n%s", err, out)
	}
	files := map[string][]byte{}
	err := filepath.WalkDir(to, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		c, err := os.ReadFile(p)
		rel, _ := filepath.Rel(to, p)
		files[filepath.ToSlash(rel)] = c
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func equal(t testing.TB, got, want map[string][]byte) {
	t.Helper()
	if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
		t.Fatalf("files %q, cabextract has %q", g, w)
	}
	for n := range want {
		if !bytes.Equal(got[n], want[n]) {
			t.Fatalf("%s differs", n)
		}
	}
}

func TestSamplesAsCabextract(t *testing.T) {
	methods := map[uint16]int{}
	for name, b := range samples(t) {
		t.Run(name, func(t *testing.T) {
			got, err := unpack(b)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, got, oracle(t, b))
			r, _ := NewReader(bytes.NewReader(b), int64(len(b)), Limits{})
			for _, f := range r.folders {
				methods[f.method]++
			}
			last := r.Files()[len(r.Files())-1]
			_, body, err := r.Open(last.Name)
			if err != nil {
				t.Fatal(err)
			}
			if c, err := io.ReadAll(body); err != nil || !bytes.Equal(c, got[last.Name]) {
				t.Fatalf("Open %s: %v", last.Name, err)
			}
		})
	}
	t.Logf("methods: %v", methods)
	if methods[0x1503] == 0 || methods[methodStored] == 0 {
		t.Errorf("methods %v: no LZX or nothing stored", methods)
	}
}

func TestMadeByGcab(t *testing.T) {
	tool := need(t, "gcab")
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	var names []string
	for i, n := range []int{0, 1, 32767, 32768, 32769, 300_000} {
		b := make([]byte, n)
		for j := range b {
			b[j] = "The quick brown fox"[rnd.IntN(1+j%19)]
		}
		name := fmt.Sprintf("f%d.bin", i)
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	for _, zip := range []bool{false, true} {
		args := []string{"-c", "x.cab"}
		if zip {
			args = []string{"-z", "-c", "x.cab"}
		}
		cmd := exec.Command(tool, append(args, names...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gcab: %v\n%s", err, out)
		}
		b, err := os.ReadFile(filepath.Join(dir, "x.cab"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := unpack(b)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, oracle(t, b))
	}
}

// entry is one file of a cabinet made here, with what may be wrong with it.
type entry struct {
	name string
	data []byte
}

type shape struct {
	flags   uint16
	method  uint16
	folder  uint16 // of every file
	overlap bool
	badSum  bool
}

// build writes a cabinet of one folder, stored or MSZIP.
func build(s shape, files ...entry) []byte {
	le := binary.LittleEndian
	var all, dir, blocks []byte
	for _, f := range files {
		off := len(all)
		if s.overlap {
			off = 0
		}
		dir = le.AppendUint32(dir, uint32(len(f.data)))
		dir = le.AppendUint32(dir, uint32(off))
		dir = le.AppendUint16(dir, s.folder)
		dir = append(dir, 0x21, 0x28, 0, 0, 0x20, 0)
		dir = append(append(dir, f.name...), 0)
		all = append(all, f.data...)
	}
	var last []byte
	n := 0
	for p := range slices.Chunk(all, blockOut) {
		in := p
		if s.method == methodMSZIP {
			var z bytes.Buffer
			z.WriteString("CK")
			w, _ := flate.NewWriterDict(&z, 9, last)
			w.Write(p)
			w.Close()
			in, last = z.Bytes(), p
		}
		var h []byte
		h = le.AppendUint16(h, uint16(len(in)))
		h = le.AppendUint16(h, uint16(len(p)))
		sum := checksum(h, checksum(in, 0))
		if s.badSum {
			sum++
		}
		blocks = append(append(le.AppendUint32(blocks, sum), h...), in...)
		n++
	}
	filesAt := 36 + 8
	b := []byte("MSCF\x00\x00\x00\x00")
	b = le.AppendUint32(b, uint32(filesAt+len(dir)+len(blocks)))
	b = le.AppendUint32(append(b, 0, 0, 0, 0), uint32(filesAt))
	b = append(b, 0, 0, 0, 0, 3, 1)
	b = le.AppendUint16(b, 1)
	b = le.AppendUint16(b, uint16(len(files)))
	b = le.AppendUint16(b, s.flags)
	b = append(b, 1, 0, 0, 0)
	b = le.AppendUint32(b, uint32(filesAt+len(dir)))
	b = le.AppendUint16(b, uint16(n))
	b = le.AppendUint16(b, s.method)
	return append(append(b, dir...), blocks...)
}

func TestRefused(t *testing.T) {
	good := []entry{{`dir\a.txt`, []byte("hello")}, {"b", bytes.Repeat([]byte("x"), 70_000)}}
	for _, m := range []uint16{methodStored, methodMSZIP} {
		got, err := unpack(build(shape{method: m}, good...))
		if err != nil || string(got["dir/a.txt"]) != "hello" || len(got["b"]) != 70_000 {
			t.Fatalf("method %d: %v", m, err)
		}
	}
	for _, c := range []struct {
		why string
		b   []byte
	}{
		{"traversal", build(shape{}, entry{`..\x`, nil}, entry{"a", []byte("a")})},
		{"traversal inside", build(shape{}, entry{`a\..\..\x`, []byte("a")})},
		{"absolute", build(shape{}, entry{`\x`, []byte("a")})},
		{"drive", build(shape{}, entry{`C:x`, []byte("a")})},
		{"control character", build(shape{}, entry{"a\nb", []byte("a")})},
		{"empty name", build(shape{}, entry{"", []byte("a")})},
		{"twice", build(shape{}, entry{"a", []byte("a")}, entry{"a", []byte("b")})},
		{"shared bytes", build(shape{overlap: true}, entry{"a", []byte("aa")}, entry{"b", []byte("bb")})},
		{"continued from before", build(shape{flags: flagPrev}, good...)},
		{"continued in the next", build(shape{flags: flagNext}, good...)},
		{"file continued", build(shape{folder: 0xFFFE}, good...)},
		{"folder not there", build(shape{folder: 1}, good...)},
		{"checksum", build(shape{badSum: true}, good...)},
		{"Quantum", build(shape{method: 2}, good...)},
		{"LZX window", build(shape{method: 22<<8 | 3}, good...)},
		{"LZX of nonsense", build(shape{method: 15<<8 | 3}, good...)},
		{"cut", build(shape{}, good...)[:100]},
		{"no cabinet", []byte("MZ")},
	} {
		if _, err := unpack(c.b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
	b := build(shape{}, good...)
	for _, lim := range []Limits{{Files: 1}, {File: 69_999}, {Total: 70_004}} {
		if _, err := NewReader(bytes.NewReader(b), int64(len(b)), lim); !errors.Is(err, ErrLimit) {
			t.Errorf("%+v: %v", lim, err)
		}
	}
}

// Flipped bits in genuine LZX never panic; those under a checksum are found.
func TestFlippedBits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, b := range samples(t) {
		for range 20 {
			m := bytes.Clone(b)
			// Without checksums, so that the damage reaches the decoder.
			m[rnd.IntN(len(m))] ^= 1 << rnd.IntN(8)
			if _, err := unpack(m); err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(build(shape{}, entry{"a", []byte("hello")}))
	f.Add(build(shape{method: methodMSZIP}, entry{"a", bytes.Repeat([]byte("hello"), 9000)}))
	f.Add(build(shape{method: 15<<8 | 3}, entry{"a", []byte("hello")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b), int64(len(b)), Limits{Total: 4 << 20})
		if err != nil {
			return
		}
		err = r.Walk(func(f File, body io.Reader) error {
			if !fs.ValidPath(f.Name) {
				t.Fatalf("name %q", f.Name)
			}
			n, err := io.Copy(io.Discard, body)
			if err == nil && n != f.Size {
				t.Fatalf("%d bytes of %d", n, f.Size)
			}
			return err
		})
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}

// FuzzLZX gives the decoder bytes without a checksum in between.
func FuzzLZX(f *testing.F) {
	f.Add([]byte{0, 0x30, 0x05, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'}, 5, 5)
	f.Add(bytes.Repeat([]byte{0x55, 0x20}, 300), 300, 32768)
	f.Fuzz(func(t *testing.T, b []byte, cut, n int) {
		if n < 1 || n > blockOut || cut < 0 || cut > len(b) || len(b) > 2*blockIn {
			return
		}
		l := newLZX(15)
		if out, err := l.block(b[:cut], blockOut); err == nil && len(out) != blockOut {
			t.Fatal(len(out))
		}
		_, _ = l.block(b[cut:], n)
	})
}
