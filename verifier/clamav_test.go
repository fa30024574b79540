package verifier

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// clamFile returns one of the ClamAV project's own test files: from the sample
// collection, or from a directory that holds Debian's clamav source package
// (unit_tests/input/freshclam_testfiles).
func clamFile(t testing.TB, name string) []byte {
	t.Helper()
	if dir := os.Getenv("HASHIKE_CLAMAV_TESTFILES"); dir != "" && os.Getenv("HASHIKE_SAMPLES") == "" {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			missing(t, err.Error())
		}
		return b
	}
	return sample(t, "clamav", "freshclam_testfiles", name)
}

func clamTrust() feed.Trust { return feed.Trust{Anchors: ClamAVAnchors(), At: testNow} }

// testRootTrust replaces the production root by that of the vendor's own tests.
func testRootTrust(t testing.TB) feed.Trust {
	tr := clamTrust()
	tr.Anchors = append(tr.Anchors[:3:3], feed.Anchor{
		Name: "test root", Use: useClamAVSign, Data: sample(t, "clamav", "certs", "clamav-unit-test-root.crt")})
	return tr
}

func checkDB(b []byte, db string, trust feed.Trust) error {
	_, _, err := ClamAVDatabase(bytes.NewReader(b), int64(len(b)), db, trust)
	return err
}

func checkDiff(b []byte, db string, n int64, trust feed.Trust) error {
	_, err := ClamAVDiff(bytes.NewReader(b), int64(len(b)), db, n, trust)
	return err
}

func TestClamAVGenuine(t *testing.T) {
	for n := range int64(6) {
		b := clamFile(t, fmt.Sprintf("test-%d.cvd", n+1))
		h, ev, err := ClamAVDatabase(bytes.NewReader(b), int64(len(b)), "test", clamTrust())
		if err != nil || h.Version != n+1 || ev.Strength != feed.Signed || ev.SignedAt.Year() != 2021 || ev.Anchor != "clamav-info-rsa2047" {
			t.Errorf("test-%d.cvd: %+v %+v %v", n+1, h, ev, err)
		}
		if n > 0 {
			if err := checkDiff(clamFile(t, fmt.Sprintf("test-%d.cdiff", n+1)), "test", n+1, clamTrust()); err != nil {
				t.Errorf("test-%d.cdiff: %v", n+1, err)
			}
		}
	}
	if err := checkDB(sample(t, "clamav", "real", "bytecode-v19-2010.cvd"), "bytecode", clamTrust()); err != nil {
		t.Errorf("bytecode: %v", err)
	}
}

func TestClamAVRefused(t *testing.T) {
	cvd, diff := clamFile(t, "test-6.cvd"), clamFile(t, "test-6.cdiff")
	without := func(use string) feed.Trust {
		tr := clamTrust()
		for _, a := range tr.For(use) {
			tr.Distrust = append(tr.Distrust, feed.Distrust{KeyID: string(a.SHA256())})
		}
		return tr
	}
	past := clamTrust()
	past.At = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, err := range map[string]error{
		"renamed database":    checkDB(cvd, "daily", clamTrust()),
		"renamed patch":       checkDiff(diff, "daily", 6, clamTrust()),
		"renumbered patch":    checkDiff(diff, "test", 7, clamTrust()),
		"distrusted info":     checkDB(cvd, "test", without(useClamAVInfo)),
		"distrusted header":   checkDB(cvd, "test", without(useClamAVCVD)),
		"distrusted cdiff":    checkDiff(diff, "test", 6, without(useClamAVCdiff)),
		"no keys":             checkDB(cvd, "test", feed.Trust{At: testNow}),
		"built in the future": checkDB(cvd, "test", past),
		"appended":            checkDB(append(bytes.Clone(cvd), 0), "test", clamTrust()),
		"appended gzip":       checkDB(append(bytes.Clone(cvd), cvd[512:]...), "test", clamTrust()),
		"patch appended":      checkDiff(append(bytes.Clone(diff), '\n'), "test", 6, clamTrust()),
		"patch respelled":     checkDiff(append(bytes.Clone(diff), 'a'), "test", 6, clamTrust()),
		"header swapped":      checkDB(append(bytes.Clone(clamFile(t, "test-5.cvd")[:512]), cvd[512:]...), "test", clamTrust()),
		"empty":               checkDB(nil, "test", clamTrust()),
		"empty patch":         checkDiff(nil, "test", 6, clamTrust()),
		"web page":            checkDB([]byte(strings.Repeat("<html>", 200)), "test", clamTrust()),
	} {
		if !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"header-version-forged.cvd", "test-6.body-flipped.cvd"} {
		if err := checkDB(sample(t, "clamav", "negative", name), "test", clamTrust()); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A database that a client built from patches has no header signature: not for serving.
	if err := checkDB(sample(t, "clamav", "derived", "test-v6.from-cdiffs.cld"), "test", clamTrust()); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("cld: %v", err)
	}
	for n := range cvd {
		if n%97 == 0 || n < 600 {
			if checkDB(cvd[:n], "test", clamTrust()) == nil {
				t.Fatalf("accepted cut to %d bytes", n)
			}
		}
	}
}

// Every single-bit change of a database is refused: the header's fields must
// equal the signed list or be verified themselves, its padding must be spaces,
// and the MD5 that the legacy signature covers is over every other byte.
func TestClamAVBitFlips(t *testing.T) {
	flips := func(b []byte, from, to int, step int, check func([]byte) error) {
		t.Helper()
		for i := from * 8; i < to*8; i += step {
			b[i/8] ^= 1 << (i % 8)
			if err := check(b); !errors.Is(err, feed.ErrUntrusted) {
				t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
	cvd := bytes.Clone(clamFile(t, "test-6.cvd"))
	database := func(b []byte) error { return checkDB(b, "test", clamTrust()) }
	flips(cvd, 0, 512, 1, database)
	flips(cvd, 512, len(cvd), 37, database) // odd step: all bit positions, both .info and members
	diff := bytes.Clone(clamFile(t, "test-6.cdiff"))
	flips(diff, 0, len(diff), 3, func(b []byte) error { return checkDiff(b, "test", 6, clamTrust()) })
}

func TestClamAVSign(t *testing.T) {
	at := func(tr feed.Trust, y int) feed.Trust {
		tr.At = time.Date(y, 4, 2, 0, 0, 0, 0, time.UTC)
		return tr
	}
	for _, name := range []string{"test-1.cvd", "test-2.cvd", "test-3.cvd", "test-4.cvd", "test-5.cvd", "test-6.cvd",
		"test-2.cdiff", "test-3.cdiff", "test-4.cdiff", "test-5.cdiff", "test-6.cdiff"} {
		file, sign := feed.DigestOf(clamFile(t, name)), clamFile(t, name+".sign")
		ev, err := ClamAVSign(sign, file, at(testRootTrust(t), 2026))
		if err != nil || ev.Signer != "ClamAV TEST CVD Signing Cert" || ev.Anchor != "test root" || ev.SignedAt.Year() != 2025 {
			t.Errorf("%s: %+v %v", name, ev, err)
		}
		serial := at(testRootTrust(t), 2026)
		serial.Distrust = []feed.Distrust{{KeyID: ev.KeyID}}
		for what, tr := range map[string]feed.Trust{
			"production root": at(clamTrust(), 2026), "root expired": at(testRootTrust(t), 2028),
			"root not yet valid": at(testRootTrust(t), 2024), "distrusted": serial,
		} {
			if _, err := ClamAVSign(sign, file, tr); !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if _, err := ClamAVSign(sign, feed.DigestOf([]byte(name)), at(testRootTrust(t), 2026)); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s, other file: %v", name, err)
		}
	}
}

// Flips in a .sign: what is not signed there (unsigned corners of the
// certificates' encoding, comment text) may change without harm; then the
// evidence must be the same. Everything else is refused.
func TestClamAVSignBitFlips(t *testing.T) {
	tr := testRootTrust(t)
	file, sign := feed.DigestOf(clamFile(t, "test-6.cvd")), bytes.Clone(clamFile(t, "test-6.cvd.sign"))
	want, err := ClamAVSign(sign, file, tr)
	if err != nil {
		t.Fatal(err)
	}
	accepted, total := 0, 0
	for i := 0; i < len(sign)*8; i += 17 {
		sign[i/8] ^= 1 << (i % 8)
		total++
		if got, err := ClamAVSign(sign, file, tr); err == nil {
			accepted++
			if got != want {
				t.Fatalf("bit %d: evidence changed to %+v", i, got)
			}
		}
		sign[i/8] ^= 1 << (i % 8)
	}
	if accepted*20 > total {
		t.Errorf("%d of %d flips accepted", accepted, total)
	}
}

// The signature check is not the library's PSS on purpose; it must still be
// as strict as PSS about everything but the top bit.
func TestClamAVSignatureIsStrict(t *testing.T) {
	b := clamFile(t, "test-6.cdiff")
	dsig := string(b[bytes.LastIndexByte(b, ':')+1:])
	sum := feed.DigestOf(b[:bytes.LastIndexByte(b, ':')]).Sum()
	k, err := clamavKey(clamTrust().For(useClamAVCdiff)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := k.verify([32]byte(sum), dsig); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		m := []byte(dsig)
		i := rand.IntN(len(m))
		m[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/:"[rand.IntN(65)]
		if k.verify([32]byte(sum), string(m)) == nil && string(m) != dsig {
			t.Fatalf("accepted %s", m)
		}
	}
}

func FuzzClamAV(f *testing.F) {
	f.Add([]byte("ClamAV-Diff:2:10:x:abc"))
	f.Add([]byte("ClamAV-VDB:22 Jun 2021 21-34 -0400:6:14:81:X:X:m:1624412045" + strings.Repeat(" ", 460)))
	f.Add([]byte("#clamsign-1.0\n230::pkcs7-pem:MIIB\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if checkDB(b, "fuzz", clamTrust()) == nil || checkDiff(b, "fuzz", 2, clamTrust()) == nil {
			t.Error("accepted")
		}
		if _, err := ClamAVSign(b, feed.DigestOf(nil), clamTrust()); err == nil {
			t.Error("accepted")
		}
	})
}

func FuzzCMS(f *testing.F) {
	f.Add([]byte{0x30, 0x0b, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 2})
	f.Fuzz(func(t *testing.T, b []byte) { parseCMS(b) })
}
