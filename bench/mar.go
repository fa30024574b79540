//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/mar"
	"github.com/hashike/hashike/internal/format/mar/martest"
	"github.com/hashike/hashike/verifier"
)

// archives compares our verifier of MAR files with the vendor's own code, which
// is in Debian's source package firefox-esr: downloaded by the addresses in the
// machine's apt configuration, built in the scratch directory (gcc, pkg-config,
// libnss3-dev) and gone afterwards. HASHIKE_LIBMAR names an unpacked source
// tree in its stead.
func archives(l *lab) error {
	tree := os.Getenv("HASHIKE_LIBMAR")
	dir, remove := l.temp("mar")
	defer remove()
	var err error
	if tree == "" {
		if tree, err = l.vendorSource(dir); err != nil {
			return err
		}
	}
	v, err := buildVendor(tree, dir)
	if err != nil {
		return err
	}
	c := &comparison{l: l, v: v, rows: map[string]*verdicts{}, why: map[string]int{}, rng: rand.New(rand.NewPCG(uint64(l.seed), 1))}
	n := l.n
	if n == 0 {
		n = l.of(20_000)
	}
	for _, step := range []func(int) error{c.samples, c.flips, c.layouts, c.vendorSigned} {
		if err := step(n); err != nil {
			return err
		}
	}
	return c.report()
}

// aptSource prints the addresses of a source package, from a private list.
const aptSource = `
set -eu
cd "$1"; mkdir -p parts lists/partial cache/archives/partial
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
	[ -f "$f" ] && grep -q debian "$f" || continue
	sed -e 's/^Types:.*/Types: deb-src/' -e 's/^deb /deb-src /' "$f" >"parts/$(basename "$f")"
done
opts="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$1/parts -o Dir::State::lists=$1/lists -o Dir::Cache=$1/cache -o Acquire::Languages=none -o APT::Sandbox::User=root"
apt-get $opts update -qq >&2
for v in $(apt-cache $opts showsrc firefox-esr 2>/dev/null | sed -n 's/^Version: //p' | sort -Vru); do
	line=$(apt-get $opts source --print-uris --download-only "firefox-esr=$v" 2>/dev/null | grep 'esr\.orig\.tar\.xz' || true)
	[ -n "$line" ] || continue
	uri=$(echo "$line" | sed "s/^'\([^']*\)'.*/\1/"); sum=$(echo "$line" | grep -o 'SHA256:[0-9a-f]*')
	/usr/lib/apt/apt-helper $opts download-file "$uri" source.tar.xz "$sum" >&2 && { echo "$v"; break; }
done
tar -xJf source.tar.xz --wildcards --no-anchored --strip-components=1 '*/modules/libmar/*' '*/toolkit/mozapps/update/tests/data/*.mar' '*/toolkit/mozapps/update/updater/*.der'
rm source.tar.xz
`

func (l *lab) vendorSource(dir string) (string, error) {
	c := exec.Command("nice", "bash", "-c", aptSource, "bash", dir)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("source package firefox-esr: %w", err)
	}
	fmt.Fprintf(l.out, "Source package firefox-esr %s\n\n", strings.TrimSpace(string(out)))
	return dir, nil
}

// judge is a terminal of the vendor's library: for each path on its input it
// says what the library finds: signature, product information, index.
const judge = `
#include <stdio.h>
#include <string.h>
#include "mar.h"
#include "nss.h"
static int item(MarFile* m, const MarItem* i, void* x) { return 0; }
int main(int argc, char** argv) {
  static unsigned char cert[65536];
  char line[4096];
  FILE* f = fopen(argv[1], "rb");
  uint32_t n = f ? fread(cert, 1, sizeof cert, f) : 0;
  const uint8_t* certs[1] = {cert};
  if (!n || NSS_NoDB_Init(NULL) != SECSuccess) return 1;
  while (fgets(line, sizeof line, stdin)) {
    MarFile* m;
    struct ProductInformationBlock info = {0};
    line[strcspn(line, "\n")] = 0;
    int sig = 0, pib = 0, index = 0;
    if (mar_open(line, &m) == MAR_READ_SUCCESS) {
      sig = mar_verify_signatures(m, certs, &n, 1) == 0;
      if (sig) {
        pib = mar_read_product_info_block(m, &info) == 0;
        index = mar_enum_items(m, item, NULL) == 0;
      }
      mar_close(m);
    }
    printf("%d %d %d %s %s\n", sig, pib, index, pib ? info.MARChannelID : "", pib ? info.productVersion : "");
    fflush(stdout);
  }
  return 0;
}
`

// libmar is the vendor's code, built.
type libmar struct {
	tree, dir string
	judges    map[string]*judged // by certificate file
}

// buildVendor compiles the vendor's tool and the judge. Two headers that come
// from elsewhere in the vendor's tree are replaced: a hash for a table, an assertion.
func buildVendor(tree, dir string) (*libmar, error) {
	v := &libmar{tree: tree, dir: dir, judges: map[string]*judged{}}
	inc := filepath.Join(dir, "include")
	err := os.MkdirAll(filepath.Join(inc, "mozilla"), 0o700)
	for name, text := range map[string]string{
		"include/city.h":               "#include <stddef.h>\n#include <stdint.h>\nstatic inline uint64_t CityHash64(const char* s, size_t n) { uint64_t h = 0; while (n--) h = h * 31 + (unsigned char)*s++; return h; }\n",
		"include/mozilla/Assertions.h": "#include <assert.h>\n#define MOZ_ASSERT assert\n",
		"judge.c":                      judge,
	} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	if err != nil {
		return nil, err
	}
	const script = `set -eu; cd "$1/modules/libmar"
flags="-O1 -w -DMAR_NSS -DXP_UNIX -DMAR_PACKAGE_VERSION=\"1\" -DMOZ_APP_VERSION=\"1\" -DMAR_CHANNEL_ID=\"test\" -I$2/include -Isrc -Iverify -Isign $(pkg-config --cflags nss)"
gcc $flags src/mar_*.c verify/cryptox.c verify/mar_verify.c sign/*.c tool/mar.c $(pkg-config --libs nss) -o "$2/signmar"
gcc $flags src/mar_*.c verify/cryptox.c verify/mar_verify.c "$2/judge.c" $(pkg-config --libs nss) -o "$2/judge"
cp -r tests/unit/data "$2/keys"; chmod -R u+w "$2/keys"`
	if out, err := exec.Command("bash", "-c", script, "bash", tree, dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the vendor's libmar: %w\n%s", err, out)
	}
	return v, nil
}

// judged is a running judge for one certificate.
type judged struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

// opinion is what the vendor's library finds.
type opinion struct{ sig, pib, index bool }

func (o opinion) all() bool { return o.sig && o.pib && o.index }

func (v *libmar) says(cert string, b []byte) (opinion, error) {
	j := v.judges[cert]
	if j == nil {
		c := exec.Command(filepath.Join(v.dir, "judge"), cert)
		in, err := c.StdinPipe()
		if err != nil {
			return opinion{}, err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return opinion{}, err
		}
		if err := c.Start(); err != nil {
			return opinion{}, err
		}
		j = &judged{in, bufio.NewScanner(out)}
		v.judges[cert] = j
	}
	p := filepath.Join(v.dir, "asked.mar")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		return opinion{}, err
	}
	fmt.Fprintln(j.in, p)
	if !j.out.Scan() {
		delete(v.judges, cert)
		return opinion{}, errors.New("the vendor's library ended")
	}
	f := strings.Fields(j.out.Text())
	return opinion{f[0] == "1", f[1] == "1", f[2] == "1"}, nil
}

// verdicts counts one kind of input.
type verdicts struct{ both, neither, stricter, laxer, signature int }

type comparison struct {
	l    *lab
	v    *libmar
	rng  *rand.Rand
	rows map[string]*verdicts
	why  map[string]int // reasons of ours alone
	bad  []string
}

// ours is our verdict, whatever channel and version the file names.
func ours(der, b []byte) error {
	f, err := mar.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	t := feed.Trust{Anchors: []feed.Anchor{{Name: "key", Use: verifier.UseMAR, Data: der}}}
	_, err = verifier.MAR(bytes.NewReader(b), int64(len(b)), verifier.MARIdentity{Channel: f.Channel, Versions: []string{f.Version}}, t)
	return err
}

var figures = regexp.MustCompile(`[0-9]+|"[^"]*"`)

// compare asks both about one file.
func (c *comparison) compare(kind, what, cert string, b []byte) error {
	der, err := os.ReadFile(cert)
	if err != nil {
		return err
	}
	vendor, err := c.v.says(cert, b)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, what, err)
	}
	mine := ours(der, b)
	r := c.rows[kind]
	if r == nil {
		r = &verdicts{}
		c.rows[kind] = r
	}
	if vendor.sig {
		r.signature++
	}
	switch {
	case mine == nil && vendor.all():
		r.both++
	case mine != nil && !vendor.all():
		r.neither++
	case mine != nil:
		r.stricter++
		text, _, _ := strings.Cut(mine.Error(), ": not a well-formed")
		c.why[figures.ReplaceAllString(text, "n")]++
	default:
		r.laxer++
		c.bad = append(c.bad, kind+" "+what+fmt.Sprintf(" %+v", vendor))
	}
	return nil
}

// samples: the vendor's own test files, each under each of its certificates.
func (c *comparison) samples(int) error {
	var files, certs []string
	for _, p := range []string{"modules/libmar/tests/unit/data/*.mar", "toolkit/mozapps/update/tests/data/*.mar"} {
		list, _ := filepath.Glob(filepath.Join(c.v.tree, p))
		files = append(files, list...)
	}
	if dir := os.Getenv("HASHIKE_SAMPLES"); dir != "" {
		for _, p := range []string{"mozilla/mar/*.mar", "mozilla/mar/*/*.mar"} {
			list, _ := filepath.Glob(filepath.Join(dir, p))
			files = append(files, list...)
		}
	}
	for _, p := range []string{"modules/libmar/tests/unit/data/*.der", "toolkit/mozapps/update/updater/*.der"} {
		list, _ := filepath.Glob(filepath.Join(c.v.tree, p))
		certs = append(certs, list...)
	}
	if len(files) == 0 || len(certs) == 0 {
		return errors.New("no samples in the vendor's source")
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		for _, cert := range certs {
			if err := c.compare("samples × certificates", filepath.Base(f)+" "+filepath.Base(cert), cert, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// flips: a signed sample with bytes changed, cut, added: the signature no longer fits.
func (c *comparison) flips(n int) error {
	data := filepath.Join(c.v.tree, "modules/libmar/tests/unit/data")
	b, err := os.ReadFile(filepath.Join(data, "signed_pib.mar"))
	if err != nil {
		return err
	}
	for i := range n / 2 {
		m := bytes.Clone(b)
		kind := "one bit flipped"
		switch at := c.rng.IntN(len(m)); {
		case i%10 < 7:
			m[at] ^= 1 << c.rng.IntN(8)
		case i%10 == 7:
			kind, m = "cut", m[:at]
		case i%10 == 8:
			kind, m = "bytes inserted", slices.Insert(m, at, m[at])
		default:
			kind = "several bytes"
			for range 4 {
				m[c.rng.IntN(len(m))] = byte(c.rng.Uint32())
			}
		}
		if err := c.compare(kind, fmt.Sprint(i), filepath.Join(data, "mycert.der"), m); err != nil {
			return err
		}
	}
	return nil
}

// trying is a benchmark that makes archives.
type trying struct{}

func (trying) Helper()        {}
func (trying) Fatal(v ...any) { fail(errors.New(fmt.Sprint(v...))) }

// layouts: archives of any shape that are rightly signed all the same, as by a
// vendor's broken or hostile tool. Here it shows what a reader lets pass.
func (c *comparison) layouts(n int) error {
	key, der := martest.NewKey(trying{}, "bench")
	cert := filepath.Join(c.v.dir, "bench.der")
	if err := os.WriteFile(cert, der, 0o600); err != nil {
		return err
	}
	for i := range n / 2 {
		b := c.shape()
		kind := "signed, layout as made"
		if i%4 > 0 {
			kind = "signed, fields of the layout changed"
			for range 1 + c.rng.IntN(2) {
				b = c.distort(b)
			}
		}
		if err := c.compare(kind, fmt.Sprint(i), cert, sealed(b, key)); err != nil {
			return err
		}
	}
	return nil
}

// sealed signs where a signature of the key's size has a place.
func sealed(b []byte, key *rsa.PrivateKey) []byte {
	u32 := binary.BigEndian.Uint32
	if len(b) < 28+key.Size() || u32(b[16:]) != 1 || int(u32(b[24:])) != key.Size() {
		return b
	}
	return martest.Sign(trying{}, b, key)
}

// shape is an archive with members, names and blocks of all sorts.
func (c *comparison) shape() []byte {
	names := []string{"updatev3.manifest", "xul.dll", "a/b", "Contents/MacOS/x", "empty", "日本", "x y"}
	var members []martest.Member
	for range c.rng.IntN(5) {
		members = append(members, martest.Member{Name: names[c.rng.IntN(len(names))], Body: bytes.Repeat([]byte("m"), c.rng.IntN(40))})
	}
	blocks := [][]byte{martest.Info("firefox-mozilla-esr", "140.12.0")}
	switch c.rng.IntN(8) {
	case 0:
		blocks = append(blocks, martest.Block(uint32(c.rng.IntN(4)), make([]byte, c.rng.IntN(30))))
	case 1:
		blocks = [][]byte{martest.Block(1, []byte("c\x001\x00"))}
	case 2:
		blocks = nil
	}
	return martest.Make([]int{256}, blocks, members...)
}

// distort sets one field of the layout to something, or moves bytes.
func (c *comparison) distort(b []byte) []byte {
	b = bytes.Clone(b)
	index := int(binary.BigEndian.Uint32(b[4:]))
	fields := []int{4, 8, 12, 16, 20, 284, 288, 292}
	for at := index; at+4 <= len(b) && at >= 0; at += 4 + c.rng.IntN(12) {
		fields = append(fields, at)
	}
	at := fields[c.rng.IntN(len(fields))]
	switch c.rng.IntN(6) {
	case 0:
		return append(b, make([]byte, 1+c.rng.IntN(8))...)
	case 1:
		if len(b) > 300 {
			b[284+c.rng.IntN(len(b)-284)] ^= 1 << c.rng.IntN(8)
		}
	default:
		if at+4 <= len(b) {
			v := binary.BigEndian.Uint32(b[at:])
			values := []uint32{0, 1, v + 1, v - 1, v + 8, uint32(len(b)), uint32(len(b) - 4), uint32(index), 0xffffffff, 0x7fffffff, c.rng.Uint32()}
			binary.BigEndian.PutUint32(b[at:], values[c.rng.IntN(len(values))])
		}
	}
	return b
}

// vendorSigned: archives that the vendor's tool makes and signs are good here.
func (c *comparison) vendorSigned(int) error {
	for i := range 20 {
		name := filepath.Join(c.v.dir, fmt.Sprintf("member%d", i))
		if err := os.WriteFile(name, bytes.Repeat([]byte("x"), i*i*100), 0o600); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"-C", c.v.dir, "-H", "thunderbird-comm-esr", "-V", fmt.Sprintf("140.%d.0", i), "-c", "made.mar", filepath.Base(name)},
			{"-C", c.v.dir, "-d", "sql:keys", "-n", "mycert", "-s", "made.mar", "signed.mar"},
		} {
			if out, err := exec.Command(filepath.Join(c.v.dir, "signmar"), args...).CombinedOutput(); err != nil {
				return fmt.Errorf("signmar %v: %w\n%s", args, err, out)
			}
		}
		b, err := os.ReadFile(filepath.Join(c.v.dir, "signed.mar"))
		if err != nil {
			return err
		}
		// The tool itself, which wants its database of keys.
		check := exec.Command(filepath.Join(c.v.dir, "signmar"), "-d", "sql:"+filepath.Join(c.v.dir, "keys"), "-n", "mycert", "-v", filepath.Join(c.v.dir, "signed.mar"))
		if out, err := check.CombinedOutput(); err != nil {
			return fmt.Errorf("signmar -v: %w\n%s", err, out)
		}
		if err := c.compare("made and signed by the vendor's tool", fmt.Sprint(i), filepath.Join(c.v.tree, "modules/libmar/tests/unit/data/mycert.der"), b); err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(c.v.dir, "signed.mar")); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) report() error {
	c.l.head("input", "files", "vendor: signature holds", "both accept", "both refuse", "ours alone refuses", "ours alone accepts")
	for _, k := range slices.Sorted(maps.Keys(c.rows)) {
		r := c.rows[k]
		c.l.row(k, fmt.Sprint(r.both+r.neither+r.stricter+r.laxer), fmt.Sprint(r.signature), fmt.Sprint(r.both), fmt.Sprint(r.neither), fmt.Sprint(r.stricter), fmt.Sprint(r.laxer))
	}
	fmt.Fprintln(c.l.out)
	c.l.head("why ours alone refuses", "files")
	for _, k := range slices.Sorted(maps.Keys(c.why)) {
		c.l.row(k, fmt.Sprint(c.why[k]))
	}
	if len(c.bad) > 0 {
		return fmt.Errorf("accepted by ours alone: %q", c.bad[:min(len(c.bad), 20)])
	}
	return nil
}
