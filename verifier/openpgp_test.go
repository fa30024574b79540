package verifier

import (
	"bytes"
	"crypto"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hashike/hashike/internal/feed"
)

func trustAt(at time.Time, anchors ...feed.Anchor) feed.Trust {
	return feed.Trust{Anchors: anchors, At: at}
}

func pgpAnchor(name string, data []byte) feed.Anchor {
	return feed.Anchor{Name: name, Use: "openpgp", Data: data}
}

var testNow = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

func TestClearSignedReleasesOfDebian(t *testing.T) {
	debian := pgpAnchor("debian", sample(t, "linux", "keys", "debian-archive-keyring.gpg"))
	mozilla := pgpAnchor("mozilla", sample(t, "mozilla", "keys", "mozilla-release-key.asc"))
	for _, name := range []string{"bookworm-InRelease", "bookworm-security-InRelease", "bookworm-updates-InRelease"} {
		doc := sample(t, "linux", "apt", name)
		text, ev, err := OpenPGPClear(doc, trustAt(testNow), []feed.Anchor{debian})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.HasPrefix(text, []byte("Origin: Debian\n")) || bytes.Contains(text, []byte("PGP")) || !bytes.Contains(doc, text) {
			t.Errorf("%s: wrong text", name)
		}
		if ev.Strength != feed.Signed || len(ev.KeyID) != 40 || ev.Anchor != "debian" || ev.SignedAt.IsZero() || !strings.Contains(ev.Signer, "debian.org") {
			t.Errorf("%s: evidence %+v", name, ev)
		}
		for what, f := range map[string]func() (feed.Trust, []feed.Anchor){
			"other vendor": func() (feed.Trust, []feed.Anchor) { return trustAt(testNow), []feed.Anchor{mozilla} },
			"no anchor":    func() (feed.Trust, []feed.Anchor) { return trustAt(testNow), nil },
			"keys expired": func() (feed.Trust, []feed.Anchor) {
				return trustAt(testNow.AddDate(20, 0, 0)), []feed.Anchor{debian}
			},
			"before signing": func() (feed.Trust, []feed.Anchor) {
				return trustAt(ev.SignedAt.Add(-25 * time.Hour)), []feed.Anchor{debian}
			},
			"distrusted keyring": func() (feed.Trust, []feed.Anchor) {
				tr := trustAt(testNow)
				tr.Distrust = []feed.Distrust{{KeyID: string(debian.SHA256())}}
				return tr, []feed.Anchor{debian}
			},
		} {
			tr, anchors := f()
			if text, _, err := OpenPGPClear(doc, tr, anchors); !errors.Is(err, feed.ErrUntrusted) || text != nil {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

func TestMozillaSums(t *testing.T) {
	sums, sig := sample(t, "mozilla", "mozilla-sums", "SHA256SUMS"), sample(t, "mozilla", "mozilla-sums", "SHA256SUMS.asc")
	dep := pgpAnchor("dep", sample(t, "mozilla", "keys", "mozilla-gpg-dep.asc"))
	prod := pgpAnchor("prod", sample(t, "mozilla", "keys", "mozilla-gpg-prod-allsubkeys.asc"))
	ev, err := OpenPGPDetached(bytes.NewReader(sums), sig, trustAt(testNow), []feed.Anchor{prod, dep})
	if err != nil || ev.KeyID != "430FA1179B5FB0B7AAD7A81EE09F6B4F9E6FDCCB" || ev.Anchor != "dep" {
		t.Fatalf("%+v, %v", ev, err)
	}
	block, err := armor.Decode(bytes.NewReader(sig))
	if err != nil {
		t.Fatal(err)
	}
	var binary bytes.Buffer
	binary.ReadFrom(block.Body)
	if _, err := OpenPGPDetached(bytes.NewReader(sums), binary.Bytes(), trustAt(testNow), []feed.Anchor{dep}); err != nil {
		t.Errorf("binary: %v", err)
	}
	if _, err := OpenPGPDetached(bytes.NewReader(sums), sig, trustAt(testNow), []feed.Anchor{prod}); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("production keys: %v", err)
	}
	sums[0] ^= 1
	if _, err := OpenPGPDetached(bytes.NewReader(sums), sig, trustAt(testNow), []feed.Anchor{dep}); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("changed: %v", err)
	}
}

// The subkey that Mozilla revoked as compromised counts for nothing, also for
// what it signed before; and not by way of an older copy of the keyring either.
func TestRevokedSubkeyOfMozilla(t *testing.T) {
	anchor := pgpAnchor("prod", sample(t, "mozilla", "keys", "mozilla-release-key.asc"))
	keys, err := readRing(trustAt(testNow), []feed.Anchor{anchor})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"14F26682D0916CDD81E37B6D61B7B526D98F0353": "",
		"827E658608679618CD349F93678E455D76767AA3": "",
		"09BEED63F3462A2DFFAB3B875ECB6497C1A20256": "revoked",
	}
	for _, k := range keys {
		err := k.usable(time.Date(2026, 8, 7, 0, 0, 0, 0, time.UTC), testNow, trustAt(testNow))
		if k.fingerprint()[:4] == "09BE" {
			err = k.usable(time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC), testNow, trustAt(testNow))
		}
		w, known := want[k.fingerprint()]
		if !known || (w == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v", k.fingerprint(), err)
		}
		delete(want, k.fingerprint())
	}
	if len(want) > 0 {
		t.Errorf("not seen: %v", want)
	}
}

// entity makes a key of our own with a signing subkey.
func entity(t *testing.T, cfg *packet.Config) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Example Vendor", "", "vendor@example.jp", cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func config(at time.Time) *packet.Config {
	return &packet.Config{Time: func() time.Time { return at }, Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256}
}

func public(t *testing.T, e *openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := e.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sign(t *testing.T, e *openpgp.Entity, data []byte, cfg *packet.Config) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.DetachSign(&b, e, bytes.NewReader(data), cfg); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRevocationReasons(t *testing.T) {
	made, signed, gone := testNow.AddDate(-2, 0, 0), testNow.AddDate(-1, 0, 0), testNow.AddDate(0, -6, 0)
	for reason, wantBefore := range map[packet.ReasonForRevocation]bool{
		packet.KeySuperseded: true, packet.KeyRetired: true, packet.KeyCompromised: false, packet.NoReason: false,
	} {
		e := entity(t, config(made))
		data := []byte("list\n")
		before, after := sign(t, e, data, config(signed)), sign(t, e, data, config(gone.Add(time.Hour)))
		old := pgpAnchor("old copy", public(t, e))
		if _, err := OpenPGPDetached(bytes.NewReader(data), after, trustAt(testNow), []feed.Anchor{old}); err != nil {
			t.Fatalf("before the revocation: %v", err)
		}
		if err := e.RevokeKey(reason, "test", config(gone)); err != nil {
			t.Fatal(err)
		}
		now := pgpAnchor("new copy", public(t, e))
		for name, anchors := range map[string][]feed.Anchor{"new": {now}, "old beside new": {old}} {
			trust := trustAt(testNow, old, now)
			_, err := OpenPGPDetached(bytes.NewReader(data), before, trust, anchors)
			if (err == nil) != wantBefore {
				t.Errorf("reason %d, %s, signed before: %v", reason, name, err)
			}
			if _, err = OpenPGPDetached(bytes.NewReader(data), after, trust, anchors); !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("reason %d, %s, signed after: %v", reason, name, err)
			}
		}
	}
}

func TestWeakAndExpired(t *testing.T) {
	data := []byte("list\n")
	made := testNow.AddDate(-1, 0, 0)
	e := entity(t, config(made))
	a := []feed.Anchor{pgpAnchor("a", public(t, e))}
	good := sign(t, e, data, config(made.Add(time.Hour)))
	check := func(name string, sig []byte, trust feed.Trust, anchors []feed.Anchor, ok bool) {
		t.Helper()
		if _, err := OpenPGPDetached(bytes.NewReader(data), sig, trust, anchors); (err == nil) != ok || err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("good", good, trustAt(testNow), a, true)
	check("one day ahead", sign(t, e, data, config(testNow.Add(23*time.Hour))), trustAt(testNow), a, true)
	check("two days ahead", sign(t, e, data, config(testNow.Add(48*time.Hour))), trustAt(testNow), a, false)
	short := config(made)
	short.SigLifetimeSecs = 3600
	check("expired signature", sign(t, e, data, short), trustAt(testNow), a, false)
	other := entity(t, config(made))
	otherSig := sign(t, other, data, config(made))
	check("stranger", otherSig, trustAt(testNow), a, false)
	check("stranger and vendor", append(bytes.Clone(otherSig), good...), trustAt(testNow), a, true)
	check("many", bytes.Repeat(good, maxSignatures+1), trustAt(testNow), a, false)
	check("nothing", nil, trustAt(testNow), a, false)
	tr := trustAt(testNow)
	tr.Distrust = []feed.Distrust{{KeyID: fingerprint(e.PrimaryKey), After: made.Add(30 * time.Minute)}}
	check("distrusted since", good, tr, a, false)
	check("signed before the distrust", sign(t, e, data, config(made.Add(time.Minute))), tr, a, true)

	life := config(made)
	life.KeyLifetimeSecs = 86400
	k := entity(t, life)
	ka := []feed.Anchor{pgpAnchor("k", public(t, k))}
	ks := sign(t, k, data, config(made.Add(time.Hour)))
	check("key in force", ks, trustAt(made.Add(2*time.Hour)), ka, true)
	check("key expired", ks, trustAt(testNow), ka, false)

	weak := config(made)
	weak.Algorithm, weak.RSABits = packet.PubKeyAlgoRSA, 1024
	if w, err := openpgp.NewEntity("w", "", "w@example.jp", weak); err == nil {
		check("RSA 1024", sign(t, w, data, config(made)), trustAt(testNow), []feed.Anchor{pgpAnchor("w", public(t, w))}, false)
	} else {
		t.Logf("RSA 1024 cannot be made: %v", err)
	}
}

func clearSign(t *testing.T, e *openpgp.Entity, text string, at time.Time) string {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, e.PrivateKey, config(at))
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestClearSignedTricks(t *testing.T) {
	made := testNow.AddDate(-1, 0, 0)
	e := entity(t, config(made))
	anchors := []feed.Anchor{pgpAnchor("a", public(t, e))}
	text := "Origin: X\n- dash\n-----BEGIN X-----\nBlanks:  \t\n\nlast"
	doc := clearSign(t, e, text, made)
	got, _, err := OpenPGPClear([]byte(doc), trustAt(testNow), anchors)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(text, "Blanks:  \t\n", "Blanks:\n", 1) + "\n"; string(got) != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if got, _, err = OpenPGPClear([]byte(strings.ReplaceAll(doc, "\n", "\r\n")), trustAt(testNow), anchors); err != nil || bytes.Contains(got, []byte("\r")) {
		t.Errorf("CR LF: %v %q", err, got)
	}
	for name, bad := range map[string]string{
		"before":          "Origin: evil\n" + doc,
		"after":           doc + "Origin: evil\n",
		"twice":           doc + doc,
		"block in block":  strings.Replace(doc, "Origin", clearBegin+"\nHash: SHA256\n\nOrigin", 1),
		"unescaped dash":  strings.Replace(doc, "- - dash", "- dash", 1),
		"escaped plainly": strings.Replace(doc, "Origin", "- Origin", 1),
		"header":          strings.Replace(doc, "Hash: SHA256", "Hash: SHA256\nOrigin: evil", 1),
		"header blank":    strings.Replace(doc, "\n\nOrigin", "\n \nOrigin", 1),
		"NUL":             strings.Replace(doc, "Origin", "Ori\x00gin", 1),
		"lone CR":         strings.Replace(doc, "Origin", "A: b\rOrigin", 1),
		"no signature":    doc[:strings.Index(doc, sigBegin)],
		"two signatures":  doc + doc[strings.Index(doc, sigBegin):],
		"glued":           strings.TrimSuffix(doc, "\n") + "x",
		"empty":           "",
	} {
		if got, _, err := OpenPGPClear([]byte(bad), trustAt(testNow), anchors); !errors.Is(err, feed.ErrUntrusted) || got != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every single-bit change of a signed line is refused.
func TestClearSignedBitFlips(t *testing.T) {
	made := testNow.AddDate(-1, 0, 0)
	e := entity(t, config(made))
	anchors := []feed.Anchor{pgpAnchor("a", public(t, e))}
	doc := []byte(clearSign(t, e, "Origin: X\nSHA256:\n 00ff 12 main\n", made))
	want, _, err := OpenPGPClear(doc, trustAt(testNow), anchors)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(doc) * 8 {
		m := bytes.Clone(doc)
		m[i/8] ^= 1 << (i % 8)
		// A flip in the armor may be harmless; then the text must be the same.
		if got, _, err := OpenPGPClear(m, trustAt(testNow), anchors); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("bit %d: accepted %q", i, got)
		}
	}
}

// gpg is the second opinion on what our samples are.
func TestGnuPGAgrees(t *testing.T) {
	gpgv, err := exec.LookPath("gpgv")
	if err != nil {
		missing(t, "gpgv is not installed")
	}
	dir := t.TempDir()
	ring := filepath.Join(dir, "ring.gpg")
	if err := os.WriteFile(ring, sample(t, "linux", "keys", "debian-archive-keyring.gpg"), 0o600); err != nil {
		t.Fatal(err)
	}
	anchors := []feed.Anchor{pgpAnchor("debian", sample(t, "linux", "keys", "debian-archive-keyring.gpg"))}
	doc := sample(t, "linux", "apt", "bookworm-security-InRelease")
	docs := map[string][]byte{"genuine": doc}
	for name, off := range map[string]int{"text": 200, "signature": len(doc) - 300} {
		m := bytes.Clone(doc)
		m[off] ^= 2
		docs[name] = m
	}
	for name, d := range docs {
		file := filepath.Join(dir, "doc")
		if err := os.WriteFile(file, d, 0o600); err != nil {
			t.Fatal(err)
		}
		text, _, ours := OpenPGPClear(d, trustAt(testNow), anchors)
		out, theirs := exec.Command(gpgv, "--homedir", dir, "--keyring", ring, "--output", "-", file).Output()
		if (ours == nil) != (theirs == nil) || ours == nil && !bytes.Equal(text, out) {
			t.Errorf("%s: ours %v, gpgv %v, same text %v", name, ours, theirs, bytes.Equal(text, out))
		}
	}
}

func FuzzOpenPGP(f *testing.F) {
	f.Add([]byte(clearBegin + "\nHash: SHA256\n\na\n" + sigBegin + "\n\nwsAB\n=AAAA\n" + sigEnd + "\n"))
	f.Add([]byte(sigBegin + "\n\nwsAB\n" + sigEnd))
	f.Add([]byte{0x88, 4, 4, 0, 1, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := OpenPGPClear(b, trustAt(testNow), nil); err == nil {
			t.Error("accepted without a key")
		}
		if _, err := OpenPGPDetached(strings.NewReader(""), b, trustAt(testNow), nil); err == nil {
			t.Error("accepted without a key")
		}
	})
}

// What gpg and apt look at besides the signature itself: a bit flipped there
// would be carried to terminals that refuse it.
func TestArmorAndHeaderFlipsAreRefused(t *testing.T) {
	doc := sample(t, "linux/apt/bookworm-security-InRelease")
	anchors := []feed.Anchor{pgpAnchor("debian", sample(t, "linux", "keys", "debian-archive-keyring.gpg"))}
	trust := feed.Trust{Anchors: anchors, At: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	if _, _, err := OpenPGPClear(doc, trust, anchors); err != nil {
		t.Fatal(err)
	}
	crc := bytes.LastIndex(doc, []byte("\n=")) + 2
	header := bytes.Index(doc, []byte("Hash: ")) + len("Hash: ")
	for _, at := range []int{crc, crc + 1, crc + 2, crc + 3, header, header + 3, header + 5} {
		for bit := range 8 {
			bad := bytes.Clone(doc)
			bad[at] ^= 1 << bit
			if _, _, err := OpenPGPClear(bad, trust, anchors); err == nil {
				t.Errorf("byte %d (%q), bit %d was accepted", at, doc[at], bit)
			}
		}
	}
}
