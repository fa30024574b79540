package feedtest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// Patch is a signed Windows Installer patch: codes (its own, then what it
// replaces), product codes that it applies to, and its transforms' texts
// ("{old}1.0;{new}1.1;{upgrade}"). There is no free tool that makes one, so the
// compound file is written here, after [MS-CFB]; osslsigncode signs it.
func (p *Publisher) Patch(t testing.TB, code string, targets []string, transforms ...string) []byte {
	t.Helper()
	root := &storage{name: "Root Entry", kind: 5}
	root.add("\x05SummaryInformation", summary(map[uint32]string{7: strings.Join(targets, ";"), 9: code}))
	root.add("media", bytes.Repeat([]byte("patch "+code), 300))
	for i, s := range transforms {
		d := &storage{name: "T" + string(rune('a'+i)), kind: 1}
		d.add("\x05SummaryInformation", summary(map[uint32]string{9: s}))
		root.children = append(root.children, d)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.msi"), root.file(), 0o600); err != nil {
		t.Fatal(err)
	}
	return p.signed(t, dir)
}

// summary is a property set ([MS-OLEPS]) of texts.
func summary(texts map[uint32]string) []byte {
	le := binary.LittleEndian
	var heads, values []byte
	ids := []uint32{}
	for id := range texts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		heads = le.AppendUint32(le.AppendUint32(heads, id), uint32(8+8*len(ids)+len(values)))
		v := append([]byte(texts[id]), 0)
		values = le.AppendUint32(le.AppendUint32(values, 30), uint32(len(v)))
		for values = append(values, v...); len(values)%4 != 0; {
			values = append(values, 0)
		}
	}
	b := le.AppendUint32(nil, 0xFFFE)
	b = append(b, make([]byte, 20)...)
	b = le.AppendUint32(b, 1)
	b = append(b, 0xE0, 0x85, 0x9F, 0xF2, 0xF9, 0x4F, 0x68, 0x10, 0xAB, 0x91, 0x08, 0x00, 0x2B, 0x27, 0xB3, 0xD9)
	b = le.AppendUint32(b, 48)
	b = le.AppendUint32(le.AppendUint32(b, uint32(8+len(heads)+len(values))), uint32(len(ids)))
	return append(append(b, heads...), values...)
}

// storage is an entry of a compound file: 5 the root, 1 a storage, 2 a stream.
type storage struct {
	name     string
	kind     byte
	data     []byte
	children []*storage
	number   uint32
	start    uint32
}

func (s *storage) add(name string, data []byte) {
	s.children = append(s.children, &storage{name: name, kind: 2, data: data})
}

const (
	noSector  = 0xFFFFFFFF
	chainEnd  = 0xFFFFFFFE
	fatSector = 0xFFFFFFFD
)

// file writes version 3: sectors of 512 bytes, streams under 4096 in the small
// stream. The first sector is the whole table: room for 128.
func (s *storage) file() []byte {
	var all []*storage
	var walk func(e *storage)
	walk = func(e *storage) {
		e.number = uint32(len(all))
		all = append(all, e)
		slices.SortFunc(e.children, func(a, b *storage) int {
			return cmp.Or(cmp.Compare(len(a.name), len(b.name)), cmp.Compare(strings.ToUpper(a.name), strings.ToUpper(b.name)))
		})
		for _, c := range e.children {
			walk(c)
		}
	}
	walk(s)
	le := binary.LittleEndian
	fat, body := []uint32{fatSector}, make([]byte, 512)
	chain := func(b []byte) uint32 {
		if len(b) == 0 {
			return chainEnd
		}
		first := uint32(len(fat))
		for len(b)%512 != 0 {
			b = append(b, 0)
		}
		body = append(body, b...)
		for range len(b) / 512 {
			fat = append(fat, uint32(len(fat)+1))
		}
		fat[len(fat)-1] = chainEnd
		return first
	}
	var small []byte
	var smallFAT []uint32
	for _, e := range all {
		switch {
		case e.kind != 2:
		case len(e.data) >= 4096:
			e.start = chain(slices.Clone(e.data))
		default:
			e.start = uint32(len(smallFAT))
			small = append(small, e.data...)
			for len(small)%64 != 0 {
				small = append(small, 0)
			}
			for len(smallFAT) < len(small)/64 {
				smallFAT = append(smallFAT, uint32(len(smallFAT)+1))
			}
			smallFAT[len(smallFAT)-1] = chainEnd
		}
	}
	s.data, s.start = small, chain(slices.Clone(small))
	var table, dir []byte
	for len(smallFAT)%128 != 0 {
		smallFAT = append(smallFAT, noSector)
	}
	for _, v := range smallFAT {
		table = le.AppendUint32(table, v)
	}
	smallAt, smallSectors := chain(table), len(table)/512
	for _, e := range all {
		dir = append(dir, e.entry(all)...)
	}
	for len(dir)%512 != 0 {
		dir = append(dir, (&storage{start: 0, number: noSector}).entry(nil)...)
	}
	dirAt := chain(dir)
	for i := range 128 {
		v := uint32(noSector)
		if i < len(fat) {
			v = fat[i]
		}
		le.PutUint32(body[4*i:], v)
	}
	h := make([]byte, 512)
	copy(h, "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1")
	for at, v := range map[int]uint16{24: 0x3E, 26: 3, 28: 0xFFFE, 30: 9, 32: 6} {
		le.PutUint16(h[at:], v)
	}
	for at, v := range map[int]uint32{44: 1, 48: dirAt, 56: 4096, 60: smallAt, 64: uint32(smallSectors), 68: chainEnd, 76: 0} {
		le.PutUint32(h[at:], v)
	}
	for at := 80; at < 512; at += 4 {
		le.PutUint32(h[at:], noSector)
	}
	return append(h, body...)
}

// entry is an entry of the directory. Its siblings hang one below the other.
func (s *storage) entry(all []*storage) []byte {
	le := binary.LittleEndian
	b := make([]byte, 128)
	u := utf16.Encode([]rune(s.name))
	for i, c := range u {
		le.PutUint16(b[2*i:], c)
	}
	if s.kind != 0 {
		le.PutUint16(b[64:], uint16(2*len(u)+2))
	}
	b[66], b[67] = s.kind, 1
	right, child := uint32(noSector), uint32(noSector)
	for _, p := range all {
		if i := slices.Index(p.children, s); i >= 0 && i+1 < len(p.children) {
			right = p.children[i+1].number
		}
	}
	if len(s.children) > 0 {
		child = s.children[0].number
	}
	le.PutUint32(b[68:], noSector)
	le.PutUint32(b[72:], right)
	le.PutUint32(b[76:], child)
	le.PutUint32(b[116:], s.start)
	le.PutUint32(b[120:], uint32(len(s.data)))
	return b
}
