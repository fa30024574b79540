package mar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/format/mar"
	"github.com/hashike/hashike/internal/format/mar/martest"
)

func read(b []byte) (*mar.File, error) { return mar.Read(bytes.NewReader(b), int64(len(b))) }

func sample() []byte {
	return martest.Make([]int{256}, [][]byte{martest.Info("test-channel", "1.2")},
		martest.Member{Name: "updatev3.manifest", Body: []byte("type \"complete\"\n")}, martest.Member{Name: "a/empty"}, martest.Member{Name: "a/b c.dll", Body: []byte("MZ")})
}

func TestRead(t *testing.T) {
	b := sample()
	f, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	if f.Channel != "test-channel" || f.Version != "1.2" || !f.Informed || len(f.Signatures) != 1 || len(f.Signatures[0].Data) != 256 || len(f.Entries) != 3 {
		t.Fatalf("%+v", f)
	}
	for i, want := range []string{"updatev3.manifest", "a/empty", "a/b c.dll"} {
		if e := f.Entries[i]; e.Name != want || e.Mode != 0o644 {
			t.Errorf("%+v", e)
		}
	}
	if e := f.Entries[2]; string(b[e.Offset:e.Offset+e.Length]) != "MZ" {
		t.Errorf("%+v", e)
	}
	var signed bytes.Buffer
	if err := f.Signed(&signed, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Clone(b[:28]), b[28+256:]...); !bytes.Equal(signed.Bytes(), want) {
		t.Error("the signed bytes are not the file without its signature")
	}
}

// indexAt is where the entries of the index begin.
func indexAt(b []byte) int { return int(binary.BigEndian.Uint32(b[4:])) + 4 }

// TestHostileLayouts: each is one change of a good file. All but the last few
// are refused by the vendor's reader too, or crashed an earlier one.
func TestHostileLayouts(t *testing.T) {
	u32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
	}
	entry := func(i, field int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			at := indexAt(b)
			for range i {
				at += 12 + bytes.IndexByte(b[at+12:], 0) + 1
			}
			binary.BigEndian.PutUint32(b[at+4*field:], v)
			return b
		}
	}
	name := func(n string) func([]byte) []byte {
		return func([]byte) []byte {
			return martest.Make(nil, [][]byte{martest.Info("c", "1")}, martest.Member{Name: n, Body: []byte("x")})
		}
	}
	blocks := func(list ...[]byte) func([]byte) []byte {
		return func([]byte) []byte { return martest.Make(nil, list, martest.Member{Name: "x", Body: []byte("x")}) }
	}
	long := strings.Repeat("v", 40)
	for what, change := range map[string]func([]byte) []byte{
		"empty":                       func([]byte) []byte { return nil },
		"magic alone":                 func(b []byte) []byte { return b[:4] },
		"cut in the header":           func(b []byte) []byte { return b[:20] },
		"cut in the signature":        func(b []byte) []byte { return b[:100] },
		"cut by one byte":             func(b []byte) []byte { return b[:len(b)-1] },
		"a byte behind the end":       func(b []byte) []byte { return append(b, 0) },
		"other magic":                 u32(0, 0x4d415232),
		"index in the header":         u32(4, 8),
		"index behind the end":        u32(4, 0xffffffff),
		"index at the end":            func(b []byte) []byte { return u32(4, uint32(len(b)))(b) },
		"size of another file":        u32(12, 1),
		"nine signatures":             func([]byte) []byte { return martest.Make(make([]int, 9), nil, martest.Member{Name: "x"}) },
		"four billion signatures":     u32(16, 0xffffffff),
		"signature of no bytes":       u32(24, 0),
		"signature of 2049 bytes":     func([]byte) []byte { return martest.Make([]int{2049}, nil, martest.Member{Name: "x"}) },
		"signature to the end":        u32(24, 0xffffffff),
		"four billion blocks":         u32(28+256, 0xffffffff),
		"seventeen blocks":            func([]byte) []byte { return martest.Make(nil, make17(), martest.Member{Name: "x"}) },
		"block shorter than its head": u32(28+256+4, 7),
		"block to the end":            u32(28+256+4, 0xffffffff),
		"channel of 64":               blocks(martest.Block(1, []byte(strings.Repeat("c", 64)+"\x001\x00"))),
		"version of 40":               blocks(martest.Block(1, []byte("c\x00"+long+"\x00"))),
		"version without an end":      blocks(martest.Block(1, []byte("c\x001"))),
		"information of 97 bytes":     blocks(martest.Block(1, append([]byte("c\x001\x00"), make([]byte, 93)...))),
		"information twice":           blocks(martest.Info("c", "1"), martest.Info("c", "2")),
		"information behind another":  blocks(martest.Block(7, nil), martest.Info("c", "1")),
		"member in the header":        entry(0, 0, 0),
		"member in the signature":     entry(0, 0, 30),
		"member over the index":       entry(0, 1, 5000),
		"member behind the end":       entry(2, 0, 0xfffffff0),
		"member's end overflows":      entry(2, 1, 0xffffffff),
		"two members overlap":         func(b []byte) []byte { f, _ := read(b); return entry(2, 0, uint32(f.Entries[0].Offset))(b) },
		"entry without an end":        func(b []byte) []byte { b[len(b)-1] = 'x'; return b },
		"no members":                  func([]byte) []byte { return martest.Make(nil, nil) },
		"entry without a name":        name(""),
		"two members of one name": func([]byte) []byte {
			return martest.Make(nil, nil, martest.Member{Name: "x", Body: []byte("1")}, martest.Member{Name: "x", Body: []byte("2")})
		},
		"absolute name":    name("/etc/passwd"),
		"name that climbs": name("a/../../b"),
		"name with dot":    name("./a"),
		"backslash":        name(`a\b`),
		"drive":            name("C:a"),
		"control":          name("a\nb"),
		"no text":          name("a\xff"),
		"name too long":    name(strings.Repeat("n", 1025)),
	} {
		b := change(sample())
		if f, err := read(b); !errors.Is(err, mar.ErrFormat) {
			t.Errorf("%s: %+v, %v", what, f, err)
		}
	}
}

func make17() (out [][]byte) {
	for range 17 {
		out = append(out, martest.Block(9, nil))
	}
	return out
}

func samples(t testing.TB, pattern string) []string {
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("HASHIKE_SAMPLES is not set")
		}
		t.Skip("HASHIKE_SAMPLES is not set: no MAR files of the vendor's")
	}
	list, err := filepath.Glob(filepath.Join(dir, "mozilla", "mar", filepath.FromSlash(pattern)))
	if err != nil || len(list) == 0 {
		t.Fatal("no samples", pattern, err)
	}
	return list
}

// TestVendorSamples: the vendor's own test files, good and hostile.
func TestVendorSamples(t *testing.T) {
	for _, p := range append(samples(t, "*/*.mar"), samples(t, "*.mar")...) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := read(b)
		n := filepath.Base(p)
		// no_pib: forms before additional blocks. margo: a member "/foo/bar".
		if bad := strings.HasPrefix(n, "manipulated_") || strings.Contains(n, "no_pib") || strings.HasPrefix(n, "margo-"); bad != (err != nil) || bad && !errors.Is(err, mar.ErrFormat) {
			t.Errorf("%s: %v", n, err)
		}
		if n == "test-bz2.mar" && (f.Channel != "thunderbird-comm-esr" || f.Version != "100.0" || f.Signatures[0].Algorithm != mar.SHA1) {
			t.Errorf("%s: %+v", n, f)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample())
	f.Add(martest.Make([]int{1, 2}, [][]byte{martest.Block(9, []byte("x")), martest.Block(3, nil)}, martest.Member{Name: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := read(b)
		if err != nil {
			if !errors.Is(err, mar.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		n := len(b)
		for _, s := range m.Signatures {
			n -= len(s.Data)
		}
		var signed bytes.Buffer
		if err := m.Signed(&signed, bytes.NewReader(b)); err != nil || signed.Len() != n {
			t.Fatalf("%d signed bytes of %d, %v", signed.Len(), n, err)
		}
		for _, e := range m.Entries {
			if e.Offset < 20 || e.Offset+e.Length > int64(len(b)) {
				t.Fatalf("%+v of %d bytes", e, len(b))
			}
		}
	})
}
