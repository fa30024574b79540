package clamav

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// believe accepts every signature: these tests are about structure.
func believe() Checks {
	return Checks{Info: func(Info) error { return nil }, Body: func([md5.Size]byte, Header) error { return nil }}
}

const header = "ClamAV-VDB:22 Jun 2021 21-34 -0400:6:2:81:%s:%s:builder:1624412045"

type entry struct {
	name   string
	data   []byte
	size   int64 // if not len(data)
	tamper func(b *[block]byte)
}

// tarOf writes members as sigtool does.
func tarOf(entries ...entry) []byte {
	var out bytes.Buffer
	for _, e := range entries {
		if e.size == 0 {
			e.size = int64(len(e.data))
		}
		var b [block]byte
		copy(b[:], e.name)
		copy(b[124:], fmt.Sprintf("%011o", e.size))
		b[156] = '0'
		copy(b[257:], "ustar")
		if e.tamper != nil {
			e.tamper(&b)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", checksum(&b)))
		out.Write(b[:])
		out.Write(e.data)
		out.Write(make([]byte, (block-len(e.data)%block)%block))
	}
	return out.Bytes()
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

func cvd(body []byte) []byte {
	h := fmt.Sprintf(header, strings.Repeat("0", 32), "sig")
	return append([]byte(h+strings.Repeat(" ", HeaderSize-len(h))), body...)
}

func info(lines ...string) []byte {
	return []byte(fmt.Sprintf(header, "X", "X") + "\n" + strings.Join(lines, "") + "DSIG:abc\n")
}

func line(name string, data string) string {
	return fmt.Sprintf("%s:%d:%x\n", name, len(data), sha256.Sum256([]byte(data)))
}

func read(b []byte) error {
	_, err := ReadDatabase(bytes.NewReader(b), int64(len(b)), "db", believe())
	return err
}

func TestDatabaseStructure(t *testing.T) {
	list := entry{name: "db.info", data: info(line("db.hdb", "one\n"), line("db.ndb", ""))}
	hdb, ndb, copying := entry{name: "db.hdb", data: []byte("one\n")}, entry{name: "db.ndb"}, entry{name: "COPYING", data: []byte("GPL")}
	good := [][]entry{{copying, list, hdb, ndb}, {list, ndb, hdb}}
	for i, entries := range good {
		if err := read(cvd(zip(tarOf(entries...)))); err != nil {
			t.Errorf("good %d: %v", i, err)
		}
	}
	padded := append(tarOf(good[0]...), make([]byte, 1024)...)
	if err := read(cvd(zip(padded))); err != nil {
		t.Errorf("with an end marker: %v", err)
	}
	set := func(at int, s string) func(*[block]byte) { return func(b *[block]byte) { copy(b[at:], s) } }
	twist := func(e entry, f func(*[block]byte)) entry { e.tamper = f; return e }
	for name, body := range map[string][]byte{
		"member missing":      tarOf(copying, list, hdb),
		"member twice":        tarOf(copying, list, hdb, hdb, ndb),
		"unlisted member":     tarOf(copying, list, hdb, ndb, entry{name: "evil.ndb", data: []byte("x")}),
		"COPYING later":       tarOf(list, hdb, ndb, copying),
		"other content":       tarOf(copying, list, entry{name: "db.hdb", data: []byte("two\n")}, ndb),
		"other size":          tarOf(copying, list, entry{name: "db.hdb", data: []byte("one\nmore")}, ndb),
		"member before list":  tarOf(copying, hdb, list, ndb),
		"no list":             tarOf(copying),
		"nothing":             nil,
		"other database":      tarOf(copying, entry{name: "main.info", data: list.data}, hdb, ndb),
		"path":                tarOf(copying, list, hdb, entry{name: "../db.ndb"}),
		"directory":           tarOf(copying, list, hdb, twist(ndb, set(156, "5"))),
		"symlink":             tarOf(copying, list, hdb, twist(ndb, set(156, "2"))),
		"long name record":    tarOf(copying, list, hdb, twist(ndb, set(156, "L"))),
		"PAX record":          tarOf(copying, list, hdb, twist(ndb, set(156, "x"))),
		"prefix":              tarOf(copying, list, hdb, twist(ndb, set(345, "dir"))),
		"bytes after name":    tarOf(copying, list, hdb, twist(ndb, set(10, "x"))),
		"negative size":       tarOf(copying, list, hdb, twist(ndb, set(124, "-0000000001"))),
		"binary size":         tarOf(copying, list, hdb, twist(ndb, set(124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"))),
		"cut":                 tarOf(copying, list, hdb, ndb)[:3000],
		"after the end":       append(padded[:len(padded):len(padded)], "evil"...),
		"endless padding":     append(tarOf(good[0]...), make([]byte, maxPadding+block+4096)...),
		"COPYING too large":   tarOf(entry{name: "COPYING", data: make([]byte, maxCopying+1)}, list, hdb, ndb),
		"list too large":      tarOf(entry{name: "db.info", data: append(info(), make([]byte, maxInfo)...)}),
		"list says otherwise": tarOf(copying, entry{name: "db.info", data: bytes.Replace(list.data, []byte(":6:2:"), []byte(":7:2:"), 1)}, hdb, ndb),
	} {
		if err := read(cvd(zip(body))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	body := zip(tarOf(good[0]...))
	for name, b := range map[string][]byte{
		"second gzip member": cvd(append(bytes.Clone(body), body...)),
		"trailing byte":      cvd(append(bytes.Clone(body), 0)),
		"cut gzip":           cvd(body[:len(body)-4]),
		"plain tar":          cvd(tarOf(good[0]...)),
		"padding not spaces": append(append(cvd(nil)[:511:511], '\t'), body...),
	} {
		if err := read(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What no signature vouches for is not unpacked: a bomb behind a bad list
// costs nothing, and checks that fail end the reading.
func TestNothingIsUnpackedBeforeItsSignature(t *testing.T) {
	bomb := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{}).Read(bomb[:2<<20]) // so that the file is larger than a buffer
	list := entry{name: "db.info", data: info(fmt.Sprintf("db.hdb:%d:%x\n", len(bomb), sha256.Sum256(bomb)))}
	b := cvd(zip(tarOf(list, entry{name: "db.hdb", data: bomb})))
	if err := read(b); err != nil {
		t.Fatal(err)
	}
	no := errors.New("signature does not hold")
	r := &countingReader{r: bytes.NewReader(b)}
	c := believe()
	c.Info = func(Info) error { return no }
	if _, err := ReadDatabase(r, int64(len(b)), "db", c); !errors.Is(err, no) || r.n > HeaderSize+256<<10 {
		t.Errorf("%v after reading %d bytes", err, r.n)
	}
	c = believe()
	c.Body = func([md5.Size]byte, Header) error { return no }
	if _, err := ReadDatabase(bytes.NewReader(b), int64(len(b)), "db", c); !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
	if n := testing.AllocsPerRun(1, func() { read(b) }); n > 500 {
		t.Errorf("%v allocations: a member is held in memory", n)
	}
}

type countingReader struct {
	r io.ReaderAt
	n int
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n += n
	return n, err
}

func diff(script string) []byte {
	return append(append([]byte(fmt.Sprintf("ClamAV-Diff:5:%d:", len(script))), zip([]byte(script))...), ":abc"...)
}

func script(b []byte) error {
	d, err := ReadDiff(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	return d.CheckScript(bytes.NewReader(b), "db")
}

func TestPatchStructure(t *testing.T) {
	const edit = "OPEN db.info\nXCHG 1 a b c\nCLOSE\n"
	for _, s := range []string{edit, "# comment\n" + edit + "OPEN db.ndb\nADD x\nDEL 3 y\nCLOSE\nMOVE a.ndb b.ndb 1 x 2 y\nUNLINK old.ndb\n\n", strings.TrimSuffix(edit, "\n")} {
		if err := script(diff(s)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for name, s := range map[string]string{
		"other list": "OPEN main.info\nADD x\nCLOSE\n", "both lists": edit + "OPEN main.info\nADD x\nCLOSE\n",
		"no list": "OPEN db.ndb\nADD x\nCLOSE\n", "empty": "", "unlink list": edit + "UNLINK db.info\n",
		"path": edit + "OPEN ../../etc/passwd\nADD x\nCLOSE\n", "absolute": edit + "UNLINK /etc/passwd\n",
		"not closed": "OPEN db.info\nADD x\n", "open twice": "OPEN db.info\nOPEN db.ndb\nCLOSE\n",
		"not open": edit + "ADD x\n", "unknown": edit + "EXEC x\n", "move while open": "OPEN db.info\nMOVE a b 1 x 2 y\nCLOSE\n",
		"move outside": edit + "MOVE a.ndb ../b 1 x 2 y\n", "long line": edit + "OPEN db.ndb\nADD " + strings.Repeat("x", maxScriptLine) + "\nCLOSE\n",
	} {
		if err := script(diff(s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good := diff(edit)
	body := zip([]byte(edit))
	for name, b := range map[string][]byte{
		"longer than it says":  bytes.Replace(good, []byte(fmt.Sprintf(":%d:", len(edit))), []byte(fmt.Sprintf(":%d:", len(edit)-1)), 1),
		"shorter than it says": bytes.Replace(good, []byte(fmt.Sprintf(":%d:", len(edit))), []byte(fmt.Sprintf(":%d:", len(edit)+1)), 1),
		"huge":                 bytes.Replace(good, []byte(fmt.Sprintf(":%d:", len(edit))), []byte(fmt.Sprintf(":%d:", maxScript+1)), 1),
		"two gzip members":     append(append([]byte(fmt.Sprintf("ClamAV-Diff:5:%d:", 2*len(edit))), append(bytes.Clone(body), body...)...), ":abc"...),
		"no signature":         bytes.ReplaceAll(good, []byte(":abc"), nil),
		"far signature":        append(bytes.Clone(good), bytes.Repeat([]byte("a"), maxTrailer)...),
		"other magic":          append([]byte("x"), good...),
		"leading zero":         bytes.Replace(good, []byte(":5:"), []byte(":05:"), 1),
		"a single byte":        []byte(":"),
	} {
		if err := script(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSignFile(t *testing.T) {
	der := base64.StdEncoding.EncodeToString([]byte("x"))
	got, err := ParseSign([]byte("#clamsign-1.0\n\n# note\n230:231:pkcs7-pem:" + der + "\n232::pkcs7-pem:" + der + "\n300::other:zzz\n"))
	if err != nil || len(got) != 2 || got[0].Min != 230 || got[0].Max != 231 || got[1].Max != 1<<62 || string(got[1].DER) != "x" {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "#clamsign-2.0\n230::pkcs7-pem:" + der, "#clamsign-1.0\n", "#clamsign-1.0\n230::pkcs7-pem\n",
		"#clamsign-1.0\nx::pkcs7-pem:" + der, "#clamsign-1.0\n230::pkcs7-pem:!!!", "#clamsign-1.0\n230::pkcs7-pem:",
		"#clamsign-1.0\n" + strings.Repeat("230::pkcs7-pem:"+der+"\n", maxSignLines+1), "#clamsign-1.0\n" + strings.Repeat(" ", MaxSign)} {
		if got, err := ParseSign([]byte(bad)); err == nil {
			t.Errorf("%.60q: %+v", bad, got)
		}
	}
}

func FuzzDatabase(f *testing.F) {
	f.Add(tarOf(entry{name: "COPYING", data: []byte("x")}, entry{name: "db.info", data: info(line("db.hdb", "one\n"))}, entry{name: "db.hdb", data: []byte("one\n")}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, tar []byte) {
		readMembers(bytes.NewReader(tar), "db", Header{}, believe())
		read(cvd(tar))
		read(tar)
		ParseInfo(tar)
	})
}

func FuzzDiff(f *testing.F) {
	f.Add("OPEN db.info\nXCHG 1 a b\nCLOSE\n", []byte("ClamAV-Diff:5:1:x:a"))
	f.Fuzz(func(t *testing.T, s string, b []byte) {
		if err := checkScript(strings.NewReader(s), "db"); err == nil && !strings.Contains(s, "OPEN db.info") {
			t.Errorf("accepted %q", s)
		}
		script(b)
	})
}

func FuzzSign(f *testing.F) {
	f.Add([]byte("#clamsign-1.0\n230::pkcs7-pem:MIIB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := ParseSign(b); err == nil && len(got) == 0 {
			t.Error("no signature and no error")
		}
	})
}
