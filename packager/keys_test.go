package packager_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// rotate makes the next root with the root keys of these slots; new ones are
// kept in place of the old.
func (w *world) rotate(ch packager.Change, slots ...int) {
	w.t.Helper()
	var keys []packager.RootKey
	for _, s := range slots {
		keys = append(keys, w.keys[s-1])
	}
	_, err := packager.Rotate(w.outDB, keys, ch, func(made []packager.RootKey) error {
		for _, k := range made {
			w.keys[k.Slot-1] = k
		}
		return nil
	}, "tester", w.now)
	ok(w.t, err)
}

// A root key comes back from its paper, in any width; every wrong digit, every
// swap of neighbours, of lines and of sheets is noticed, in its line.
func TestRootKeyOnPaper(t *testing.T) {
	a, b := must(packager.NewRootKey(1))(t), must(packager.NewRootKey(1))(t)
	lines, other := must(a.Lines())(t), must(b.Lines())(t)
	want := must(a.ID())(t)
	same := func(text string) bool {
		k, err := packager.ParseRootKey(text)
		if err != nil {
			return false
		}
		return must(k.ID())(t) == want && k.Slot == 1
	}
	full := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r - '0' + '０'
		}
		return 'ー'
	}, lines[0])
	for name, text := range map[string]string{
		"as printed": strings.Join(lines, "\n"), "with CRLF and words": "ルート鍵 1\r\n" + strings.Join(lines, "\r\n") + "\r\n2026\r\n",
		"full width": full + "\n" + strings.Join(lines[1:], "\n"), "QR": strings.ReplaceAll(strings.Join(lines, ""), " ", ""),
	} {
		if !same(text) {
			t.Errorf("%s is not read", name)
		}
	}
	for name, text := range map[string]string{
		"a line missing": strings.Join(lines[:4], "\n"), "two lines swapped": strings.Join([]string{lines[1], lines[0], lines[2], lines[3], lines[4]}, "\n"),
		"of two sheets": strings.Join([]string{lines[0], other[1], lines[2], lines[3], lines[4]}, "\n"), "nothing": "",
		"too long": strings.Repeat("0", 70_000),
	} {
		if _, err := packager.ParseRootKey(text); code(err) != "H-512" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n, l := range lines {
		for i := range l {
			if l[i] == ' ' {
				continue
			}
			for d := byte('0'); d <= '9'; d++ {
				if d != l[i] {
					var r packager.RootKeyReader
					for _, before := range lines[:n] {
						ok(t, r.Add(before))
					}
					if err := r.Add(l[:i] + string(d) + l[i+1:]); code(err) != "H-512" || r.Next() != n+1 {
						t.Fatalf("line %d, digit %d: %v", n+1, i, err)
					}
				}
			}
		}
		plain := strings.ReplaceAll(l, " ", "")
		for i := 1; i < len(plain); i++ {
			if plain[i] != plain[i-1] {
				var r packager.RootKeyReader
				for _, before := range lines[:n] {
					ok(t, r.Add(before))
				}
				if r.Add(plain[:i-1]+plain[i:i+1]+plain[i-1:i]+plain[i+1:]) == nil {
					t.Fatalf("line %d: neighbours %d swapped unnoticed", n+1, i)
				}
			}
		}
	}
}

func FuzzParseRootKey(f *testing.F) {
	k, err := packager.NewRootKey(2)
	ok(f, err)
	f.Add(strings.Join(must(k.Lines())(f), "\n"))
	f.Fuzz(func(t *testing.T, text string) { packager.ParseRootKey(text) })
}

// digitsOf is every key's text form as the scalar it stands for.
func scalar(t testing.TB, k packager.RootKey) []byte {
	var out []byte
	for _, l := range must(k.Lines())(t)[:4] {
		n := must(strconv.ParseUint(strings.ReplaceAll(l, " ", "")[2:22], 10, 64))(t)
		out = binary.BigEndian.AppendUint64(out, n)
	}
	return out
}

// hidden fails if any file below dir holds one of the keys: raw, in hex, in
// base64 at any offset (PEM is base64 of DER), or as its printed digits.
func hidden(t testing.TB, dir string, keys ...packager.RootKey) {
	t.Helper()
	needles := map[string][]byte{}
	for _, k := range keys {
		s := scalar(t, k)
		add := func(form string, b []byte) { needles[form+" of key "+strconv.Itoa(k.Slot)] = b }
		add("raw", s)
		add("hex", []byte(hex.EncodeToString(s)))
		add("HEX", []byte(strings.ToUpper(hex.EncodeToString(s))))
		add("decimal", []byte(new(big.Int).SetBytes(s).String()))
		for shift := range 3 { // base64 of the scalar within something longer
			pad := append(make([]byte, shift), s...)
			for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
				text := enc.EncodeToString(pad)
				add(name+strconv.Itoa(shift), []byte(text[4:len(text)-4]))
			}
		}
		for i, l := range must(k.Lines())(t)[:4] {
			add("line "+strconv.Itoa(i+1), []byte(l))
			add("bare line "+strconv.Itoa(i+1), []byte(strings.ReplaceAll(l, " ", "")))
		}
	}
	files := 0
	ok(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(p)
		flat := bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\n"), nil), []byte("\r"), nil) // PEM breaks lines
		for name, n := range needles {
			if bytes.Contains(b, n) || bytes.Contains(flat, n) {
				t.Errorf("%s holds %s", p, name)
			}
		}
		return err
	}))
	if files == 0 {
		t.Errorf("%s is empty: nothing was looked at", dir)
	}
}

// No file of a data directory ever holds a root key, through all rotations.
func TestRootKeysAreNeverOnDisk(t *testing.T) {
	w := newWorld(t)
	first := append([]packager.RootKey(nil), w.keys...)
	w.rotate(packager.Change{Bundle: true}, 1, 2)
	w.rotate(packager.Change{Replace: []int{2}}, 1, 3)
	must2(t)(w.take(func() string { d, _ := w.pack(w.snapshot("alpha", sample("1"))); return d }()))
	for _, d := range []state.Dir{w.out, w.in} {
		hidden(t, string(d), append(first, w.keys...)...)
	}
	// The search finds what it looks for.
	probe := &recorder{TB: t}
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "x.pem"), []byte("-----\n"+base64.StdEncoding.EncodeToString(append([]byte{1, 2}, scalar(t, w.keys[0])...))), 0o600))
	hidden(probe, dir, w.keys[0])
	if !probe.failed {
		t.Error("the search is blind")
	}
}

type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Helper()               {}

func TestRootKeyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slot := rapid.IntRange(1, 3).Draw(t, "slot")
		k, err := packager.NewRootKey(slot)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := k.Lines()
		if err != nil {
			t.Fatal(err)
		}
		back, err := packager.ParseRootKey(strings.Join(lines, "\n"))
		if err != nil || back.Slot != slot {
			t.Fatalf("%v %d", err, back.Slot)
		}
		a, _ := k.ID()
		b, _ := back.ID()
		if a != b {
			t.Fatal("another key came back")
		}
	})
}
