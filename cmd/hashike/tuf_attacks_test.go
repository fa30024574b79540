package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

// The attacks of the TUF specification (1.0.31, §1.5.2) and of the literature
// it goes back to, each against bundle and import by command. Below, an
// attack's do returns the media it made and perhaps moves the clock; TestTUF
// imports them and then holds everywhere:
//
//   - the exit code of the class, and the message with this code, in Japanese
//     and in English, with a word that names what was wrong;
//   - every feed inside is at the serial it was at, no generation was added;
//   - the mirror serves the bytes it served before, and nothing new.
type attack struct {
	name  string
	exit  int
	code  string
	names string // what the messages must name besides, in every language
	do    func(*siege) []string
}

func attacks() []attack {
	return []attack{
		// Somebody without any of our keys makes a bundle of his own.
		{"arbitrary installation", exitUntrusted, "H-501", "1.root.json", (*siege).stranger},
		{"arbitrary installation: behind our root", exitUntrusted, "H-501", "timestamp.json", (*siege).strangerBehindOurRoot},
		{"arbitrary installation: by a conquered outside", exitUntrusted, "H-502", "tools", (*siege).unsigned},

		// Files without an end: nothing is read beyond what is expected.
		{"endless data: metadata", exitDamaged, "H-701", "timestamp.json", func(s *siege) []string { return s.endless("tuf/timestamp.json") }},
		{"endless data: set", exitDamaged, "H-701", "set.json", func(s *siege) []string { return s.endless("set.json") }},
		{"endless data: index", exitDamaged, "H-701", "index.json", func(s *siege) []string { return s.endless("index.json") }},
		{"endless data: table", exitDamaged, "H-701", "feeds.jsonl.zst", func(s *siege) []string { return s.endless("tables/feeds.jsonl.zst") }},
		{"endless data: payload", exitDamaged, "H-701", "blobs/sha256", (*siege).endlessPayload},
		{"endless data: table that unpacks without end", exitDamaged, "H-701", "feeds.jsonl.zst", (*siege).bomb},

		// Newer metadata than there can be, to lock honest ones out.
		{"fast-forward", exitUntrusted, "H-509", "", (*siege).fastForward},

		// What was accepted once, for ever.
		{"indefinite freeze", exitUntrusted, "H-504", "", (*siege).freeze},

		// The medium lacks files, has old ones, has changed ones.
		{"malicious mirror: missing files", exitDamaged, "H-701", "blobs/sha256", (*siege).missingFiles},
		{"malicious mirror: old files", exitUntrusted, "H-501", "snapshot.json", (*siege).oldFiles},
		{"malicious mirror: changed files", exitDamaged, "H-701", "blobs/sha256", (*siege).changedFiles},
		{"malicious mirror: changed metadata", exitUntrusted, "H-501", "timestamp.json", (*siege).changedMetadata},

		// Genuine parts that never were one bundle.
		{"mix-and-match: set", exitUntrusted, "H-501", "set.json", func(s *siege) []string { return s.mix("set.json") }},
		{"mix-and-match: tables", exitDamaged, "H-701", "feeds.jsonl.zst", func(s *siege) []string { return s.mix("tables/feeds.jsonl.zst") }},
		{"mix-and-match: metadata", exitUntrusted, "H-501", "snapshot.json", (*siege).mixMetadata},

		// Something that was right once.
		{"rollback", exitUntrusted, "H-503", "", (*siege).rollback},
		{"rollback: of a feed, by the bundle key", exitUntrusted, "H-505", "tools", (*siege).rollbackOfFeed},

		// Fewer keys than the threshold.
		{"compromise below threshold: one root key", exitUntrusted, "H-501", "2.root.json", (*siege).oneRootKey},
		{"compromise below threshold: one root key twice", exitUntrusted, "H-501", "2.root.json", (*siege).oneRootKeyTwice},
		{"compromise below threshold: trust order by the bundle key", exitUntrusted, "H-501", "", (*siege).trustOrder},

		// A genuine snapshot under another feed's name.
		{"wrong software: exchanged", exitUntrusted, "H-501", "other", func(s *siege) []string { return s.wrongSoftware(true) }},
		{"wrong software: given twice", exitUntrusted, "H-501", "other", func(s *siege) []string { return s.wrongSoftware(false) }},
		{"wrong software: by a conquered outside", exitUntrusted, "H-502", "other", (*siege).wrongVendor},

		// A feed that the inside does not know: stored, named, never published.
		{"extraneous dependencies", 0, "H-640", "extra", (*siege).extraneous},
	}
}

func TestTUF(t *testing.T) {
	camp := newCamp(t)
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			s := camp.siege(t)
			media := a.do(s)
			before := s.stand()
			base := s.w.serve()
			_, tool := get(t, base+"/tools/tool.exe")
			for _, lang := range []string{"ja", "en"} {
				began := time.Now()
				out, errs, code := s.w.run("", append([]string{"--data", s.w.path(inside), "--lang", lang, "import"}, media...)...)
				if code != a.exit || !strings.Contains(errs, a.code) || !strings.Contains(errs, a.names) {
					t.Fatalf("%s: exit %d, want %d, %s and %q\n%s%s", lang, code, a.exit, a.code, a.names, out, errs)
				}
				for _, part := range s.title(lang, a.code) {
					if !strings.Contains(errs, part) {
						t.Errorf("%s: the message does not say %q:\n%s", lang, part, errs)
					}
				}
				if d := time.Since(began); d > time.Minute { // a bomb or an endless file was swallowed
					t.Errorf("took %s", d)
				}
			}
			s.w.inside("publish")
			if now := s.stand(); now != before {
				t.Errorf("published or accepted:\n%s\nbefore:\n%s", now, before)
			}
			if _, b := get(t, base+"/tools/tool.exe"); !bytes.Equal(b, tool) || string(b) != "tool 1" {
				t.Errorf("served %.40q, before %.40q", b, tool)
			}
			if res, b := get(t, base+"/extra/tool.exe"); res.StatusCode == 200 {
				t.Errorf("an unknown feed is served: %.40q", b)
			}
			s.w.ok("", "--data", s.w.path(inside), "scrub", "--all")
			if s.next != "" { // the honest bundle is taken all the same
				s.w.inside("import", s.next)
			}
		})
	}
}

// Fast-forward as far as the rules let a thief go locks honest bundles out;
// a root that replaces the key lets them in again (DESIGN §5).
func TestTUFFastForwardRecoversAfterRootRotation(t *testing.T) {
	s := newCamp(t).siege(t)
	ahead := s.forge(s.next, func(set *packager.Set) { set.Number += 90_000; set.Version += 80_000 })
	s.w.inside("import", ahead)
	s.w.fails(exitUntrusted, "H-503", "--data", s.w.path(inside), "import", s.next)
	roots := s.rootKeys()
	s.w.outside("keys", "rotate", "bundle", "--root-key", roots[0], "--root-key", roots[1])
	s.tools.release("3")
	s.w.outside("fetch", "--now")
	s.w.outside("pack", "--to", s.w.path("recovered"), "--full")
	s.w.inside("import", s.w.path("recovered"))
	s.w.inside("publish", "--now")
	if _, b := get(t, s.w.serve()+"/tools/tool.exe"); string(b) != "tool 3" {
		t.Errorf("after the rotation %q is served", b)
	}
	s.w.fails(exitUntrusted, "H-501", "--data", s.w.path(inside), "import", ahead)
}

// house is a vendor whose list is signed with one key.
type house struct {
	t   testing.TB
	dir string
	key *openpgp.Entity
}

func newHouse(t testing.TB, dir string) *house {
	t.Helper()
	key, err := openpgp.NewEntity("Example Vendor", "", "vendor@vendor.example", &packet.Config{RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t, dir, key}
	h.release("1")
	return h
}

// release puts a new version out, signed.
func (h *house) release(version string) {
	h.t.Helper()
	tool, sums := []byte("tool "+version), ""
	data := bytes.Repeat([]byte("data "+version+"\n"), 200_000) // larger than a pack's members
	for name, b := range map[string][]byte{"tool.exe": tool, "data.bin": data} {
		h.write(name, b)
		sums += feed.DigestOf(b).Hex() + "  " + name + "\n"
	}
	h.write("SHA256SUMS", []byte(sums))
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, h.key, strings.NewReader(sums), nil); err != nil {
		h.t.Fatal(err)
	}
	h.write("SHA256SUMS.asc", sig.Bytes())
}

func (h *house) write(name string, b []byte) {
	h.t.Helper()
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, name), b, 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) publicKey(path string) string {
	h.t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = h.key.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = os.WriteFile(path, b.Bytes(), 0o644)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

func houseBlock(name, dir string) string {
	return fmt.Sprintf("\n[feed.%s]\nkind = \"tree\"\nmount = \"/%[1]s/\"\ndir = \"drop\"\nlist = \"SHA256SUMS\"\nsignature = \"SHA256SUMS.asc\"\nkeys = [\"%[1]s.asc\"]\ndirs = { drop = %q }\n", name, filepath.ToSlash(dir))
}

// A camp is what every attack begins with: bundle 1 is imported, published and
// kept; bundle 2 was made and is under way.
type camp struct {
	w     *world
	t     testing.TB
	tools *house
}

func newCamp(t *testing.T) *camp {
	t.Helper()
	dir := t.TempDir()
	tools, other := newHouse(t, filepath.Join(dir, "tools")), newHouse(t, filepath.Join(dir, "other"))
	w := newWorld(t, houseBlock("tools", tools.dir)+houseBlock("other", other.dir))
	c := &camp{w, t, tools}
	roots := (&siege{w: w, t: t}).rootKeys()
	for name, h := range map[string]*house{"tools": tools, "other": other} {
		w.outside("order", "trust", "--feed", name, "--anchor", h.publicKey(filepath.Join(dir, name+".asc")), "--reason", "試験", "--approver", "課長",
			"--root-key", roots[0], "--root-key", roots[1])
	}
	w.outside("fetch")
	w.outside("pack", "--to", w.path("first"), "--full", "--parity", "0")
	w.inside("import", w.path("first"))
	w.inside("publish", "--now")
	tools.release("2")
	other.release("2")
	w.outside("fetch", "--now")
	w.outside("pack", "--to", w.path("next"), "--full", "--parity", "0")
	must(t, exec.Command("cp", "-a", tools.dir, other.dir, w.dir))
	return c
}

// memory is a directory in which flushing costs nothing, where there is one.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "hashike-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// siege is one attack's own copy of the camp.
type siege struct {
	w           *world
	t           testing.TB
	first, next string // media of the bundles
	tools       *house
}

func (c *camp) siege(t testing.TB) *siege {
	t.Helper()
	dir := filepath.Join(memory(t), "siege")
	must(t, exec.Command("cp", "-a", c.w.dir, dir))
	w := &world{t: t, dir: dir, now: c.w.now}
	s := &siege{w: w, t: t, first: w.path("first"), next: w.path("next")}
	s.tools = &house{t, w.path("tools"), c.tools.key}
	s.redirect("tools", "tools")
	s.redirect("other", "other")
	return s
}

func (s *siege) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *siege) read(path string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(path)
	s.check(err)
	return b
}

func (s *siege) put(path string, b []byte) {
	s.t.Helper()
	s.check(os.WriteFile(path, b, 0o644))
}

// copyOf is a medium to spoil.
func (s *siege) copyOf(medium string) string {
	s.t.Helper()
	to := filepath.Join(memory(s.t), "medium")
	must(s.t, exec.Command("cp", "-a", medium, to))
	return to
}

// stand is what the inside accepted and published, for comparison.
func (s *siege) stand() string {
	var b strings.Builder
	for _, f := range s.w.status(inside).Feeds {
		fmt.Fprintf(&b, "%s: serial %d, %d generations\n", f.Feed, f.Serial, s.w.generations(f.Feed))
	}
	return b.String()
}

// title is the first line of the message with this code, around its values.
func (s *siege) title(lang, code string) []string {
	const value = "VALUE"
	text := newApp(nil, io.Discard, io.Discard, lang).cat.Render(code, map[string]string{"feed": value, "file": value})
	line, _, _ := strings.Cut(text, "\n")
	return strings.Split(line, value)
}

func (s *siege) rootKeys() []string {
	s.t.Helper()
	keys, err := filepath.Glob(s.w.path("envelopes", "*.txt"))
	if err != nil || len(keys) != 3 {
		s.t.Fatalf("root keys %v, %v", keys, err)
	}
	return keys
}

func signerOf(t testing.TB, pem []byte) signature.Signer {
	t.Helper()
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(pem, cryptoutils.SkipPassword)
	if err != nil {
		t.Fatal(err)
	}
	k, err := signature.LoadSigner(priv, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rootSigner signs with the key of an envelope, whose lines docs/bundle.md §9 describes.
func rootSigner(t testing.TB, file string) signature.Signer {
	t.Helper()
	var raw []byte
	for _, l := range envelope(t, file)[:4] {
		v, err := strconv.ParseUint(strings.ReplaceAll(l, " ", "")[2:22], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		raw = binary.BigEndian.AppendUint64(raw, v)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		t.Fatal(err)
	}
	k, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func setOf(s *siege, medium string) (set packager.Set) {
	s.t.Helper()
	s.check(json.Unmarshal(s.read(filepath.Join(medium, "set.json")), &set))
	return set
}

// forge is what a thief of the bundle key can do: a copy of the medium with a
// changed set, signed by go-tuf, not by our packager.
func (s *siege) forge(medium string, change func(*packager.Set)) string {
	s.t.Helper()
	dir := s.copyOf(medium)
	set := setOf(s, dir)
	was := set.Version
	change(&set)
	raw, err := json.Marshal(set)
	s.check(err)
	s.put(filepath.Join(dir, "set.json"), raw)
	key := signerOf(s.t, s.read(s.w.path(outside, "keys/bundle.pem")))
	targets := metadata.Targets(set.Expires)
	targets.Signed.Version = set.Version
	for _, name := range []string{"set.json", "orders.jsonl"} {
		f, err := metadata.TargetFile().FromBytes(name, s.read(filepath.Join(dir, name)), "sha256")
		s.check(err)
		targets.Signed.Targets[name] = f
	}
	snapshot := metadata.Snapshot(set.Expires)
	snapshot.Signed.Version = set.Version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(set.Version)
	stamp := metadata.Timestamp(set.Expires)
	stamp.Signed.Version = set.Version
	for _, role := range []string{"snapshot", "targets"} {
		s.check(os.Remove(filepath.Join(dir, fmt.Sprintf("tuf/%d.%s.json", was, role))))
	}
	signTo(s, key, targets, filepath.Join(dir, fmt.Sprintf("tuf/%d.targets.json", set.Version)))
	b := signTo(s, key, snapshot, filepath.Join(dir, fmt.Sprintf("tuf/%d.snapshot.json", set.Version)))
	meta := metadata.MetaFile(set.Version)
	meta.Length, meta.Hashes = int64(len(b)), metadata.Hashes{"sha256": feed.DigestOf(b).Sum()}
	stamp.Signed.Meta["snapshot.json"] = meta
	signTo(s, key, stamp, filepath.Join(dir, "tuf/timestamp.json"))
	return dir
}

func signTo[T metadata.Roles](s *siege, key signature.Signer, m *metadata.Metadata[T], path string) []byte {
	s.t.Helper()
	_, err := m.Sign(key)
	s.check(err)
	b, err := m.ToBytes(false)
	s.check(err)
	s.put(path, b)
	return b
}

// forgeFeeds forges with another feeds table.
func (s *siege) forgeFeeds(medium string, change func([]packager.FeedLine) []packager.FeedLine) string {
	s.t.Helper()
	medium = s.copyOf(medium)
	name := filepath.Join(medium, "tables/feeds.jsonl.zst")
	r, err := zstd.NewReader(bytes.NewReader(s.read(name)))
	s.check(err)
	defer r.Close()
	var lines []packager.FeedLine
	for d := json.NewDecoder(r); ; {
		var l packager.FeedLine
		if err := d.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			s.t.Fatal(err)
		}
		lines = append(lines, l)
	}
	lines = change(lines)
	var text []byte
	for _, l := range lines {
		b, err := json.Marshal(l)
		s.check(err)
		text = append(append(text, b...), '\n')
	}
	z, err := zstd.NewWriter(nil)
	s.check(err)
	packed := z.EncodeAll(text, nil)
	s.put(name, packed)
	return s.forge(medium, func(set *packager.Set) {
		set.Feeds = packager.Ref{Digest: feed.DigestOf(packed), Size: int64(len(packed)), Lines: int64(len(lines))}
	})
}

// payload is the largest container of a medium.
func (s *siege) payload(medium string) string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(medium, "blobs/sha256/*"))
	s.check(err)
	best, size := "", int64(-1)
	for _, n := range names {
		if st, err := os.Stat(n); err == nil && st.Size() > size {
			best, size = n, st.Size()
		}
	}
	return best
}
