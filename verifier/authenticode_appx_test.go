package verifier

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
	"github.com/hashike/hashike/internal/format/appx/appxtest"
)

// appxSamples are Microsoft's own test packages: the verdict of Windows is in
// the name of the bad ones. Their roots are test roots, so each is judged under
// the certificates that it carries; what then remains is what the name says.
var appxSamples = []struct {
	name   string
	good   bool
	theirs bool // every digest fits for osslsigncode
	why    string
}{
	{"CentennialCoffee.appx", true, true, ""},
	{"TestAppxPackage_x64.appx", true, true, ""},
	{"SignedUntrustedCert-CERT_E_CHAINING.appx", true, true, ""}, // untrusted, but for this test
	{"SignedUntrustedCert-CERT_E_CHAINING.appxbundle", true, true, ""},
	{"InvalidSignatureBadCodeIntegrity.appx", false, false, ""},
	{"SignatureNotLastPart-ERROR_BAD_FORMAT.appx", false, false, ""},
	{"SignedMismatchedPublisherName-ERROR_BAD_FORMAT.appx", false, true, "the publisher is not its business"},
	{"SignedTamperedBlockMap-TRUST_E_BAD_DIGEST.appx", false, false, ""},
	{"SignedTamperedCD-TRUST_E_BAD_DIGEST.appx", false, false, ""},
	{"SignedTamperedCodeIntegrity-TRUST_E_BAD_DIGEST.appx", false, false, ""},
	{"SignedTamperedContentTypes-TRUST_E_BAD_DIGEST.appx", false, false, ""},
}

// ownTrust believes the certificates in a package's signature, at a time when
// its signer was valid.
func ownTrust(t testing.TB, b []byte) (feed.Trust, Publisher) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := z.Open(appx.Signature)
	if err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	block.ReadFrom(f)
	var ci cmsContentInfo
	var sd cmsSignedData
	if _, err := asn1.Unmarshal(block.Bytes()[4:], &ci); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(ci.Content.Bytes, &sd); err != nil {
		t.Fatal(err)
	}
	certs, err := x509.ParseCertificates(onlyX509(sd.Certificates.Bytes))
	if err != nil {
		t.Fatal(err)
	}
	tr, by := feed.Trust{}, Publisher{Roots: useMicrosoft}
	for i, c := range certs {
		tr.Anchors = append(tr.Anchors, feed.Anchor{Name: fmt.Sprint(i), Use: useMicrosoft, Data: c.Raw})
		by.Names = append(by.Names, c.Subject.Organization...)
		if at := c.NotBefore.Add(time.Hour); at.After(tr.At) && c.NotAfter.After(at) {
			tr.At = at
		}
	}
	return tr, by
}

func TestAuthenticodeAppxSamples(t *testing.T) {
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		missing(t, "osslsigncode is not here")
	}
	for _, s := range appxSamples {
		b := sample(t, "windows", "appx", s.name)
		trust, by := ownTrust(t, b)
		ev, err := Authenticode(bytes.NewReader(b), int64(len(b)), by, trust)
		if (err == nil) != s.good || err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", s.name, err)
		}
		if err == nil && (!strings.HasPrefix(ev.Note, "package ") || ev.Strength != feed.Signed) {
			t.Errorf("%s: %+v", s.name, ev)
		}
		path := filepath.Join(os.Getenv("HASHIKE_SAMPLES"), "windows", "appx", s.name)
		out, _ := exec.Command(tool, "verify", "-in", path, "-ignore-crl").CombinedOutput()
		if theirs := strings.Contains(string(out), "Calculated message digest") && !strings.Contains(string(out), "MISMATCH"); theirs != s.theirs {
			t.Errorf("%s: osslsigncode's digests do not say %v", s.name, s.theirs)
		}
		if s.good != s.theirs && s.why == "" {
			t.Errorf("%s: a disagreement that nobody explains", s.name)
		}
		if s.good { // and Windows' own verdict on the certificate
			if _, err := Authenticode(bytes.NewReader(b), int64(len(b)), Microsoft(), microsoftTrust()); !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s under Microsoft's roots: %v", s.name, err)
			}
		}
	}
}

func labSpec(publisher string) appxtest.Spec {
	return appxtest.Spec{
		Identity: appx.Identity{Name: "Hashike.Test", Publisher: publisher, Version: "1.2.3.4", Architecture: "x64"}, Display: "試験", Vendor: "Hashike",
		Files: map[string][]byte{"a.txt": []byte("hello"), "dir/b c+d.txt": bytes.Repeat([]byte("0123456789abcdef"), 9000), "empty.txt": nil, "raw.bin": bytes.Repeat([]byte{1, 2, 3}, 30000)},
	}
}

const labSubject = "CN=lab leaf, O=" + labName

// TestAuthenticodeAppx: what osslsigncode signs we accept, what appxtest signs
// osslsigncode accepts, and both judge the same mutants.
func TestAuthenticodeAppx(t *testing.T) {
	l := newLab(t)
	roots := l.path("root.crt")
	unsigned := appxtest.Build(labSpec(labSubject))
	if _, err := l.ours(unsigned); !errors.Is(err, ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
	bundle := appxtest.Bundle(appx.Identity{Name: "Hashike.Test", Publisher: labSubject, Version: "2.0.0.0"}, map[string][]byte{"x64.appx": unsigned})
	files := map[string][]byte{
		"package":      l.sign(t, unsigned, ".appx", "-h", "sha256"),
		"stamped":      l.sign(t, unsigned, ".appx", append([]string{"-h", "sha256"}, l.builtinTSA()...)...),
		"bundle":       l.sign(t, bundle, ".appxbundle", "-h", "sha256"),
		"inner signed": l.sign(t, appxtest.Bundle(appx.Identity{Name: "Hashike.Test", Publisher: labSubject, Version: "2.0.0.0"}, map[string][]byte{"x64.appx": l.sign(t, unsigned, ".appx", "-h", "sha256")}), ".appxbundle", "-h", "sha256"),
	}
	for name, b := range files {
		ev, err := l.ours(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.HasPrefix(ev.Note, "package Hashike.Test_") || ev.SignedAt.IsZero() == (name == "stamped") {
			t.Errorf("%s: %+v", name, ev)
		}
		if !says(t, l.tool, roots, b) {
			t.Errorf("%s: osslsigncode refuses what it signed", name)
		}
		agreeOnMutants(t, l, roots, name, b)
	}
	p := appxtest.NewPublisher(labName, time.Now())
	own := p.Sign(appxtest.Build(labSpec(p.Name)))
	if err := os.WriteFile(l.path("own.crt"), p.Root, 0o600); err != nil {
		t.Fatal(err)
	}
	if !says(t, l.tool, l.path("own.crt"), own) {
		t.Error("osslsigncode refuses what appxtest signed")
	}
	l.trust.Anchors = []feed.Anchor{{Name: "own", Use: useMicrosoft, Data: p.Root}}
	if _, err := l.ours(own); err != nil {
		t.Error(err)
	}
}

// agreeOnMutants: no one-bit mutant may be accepted here and refused there.
func agreeOnMutants(t *testing.T, l *lab, roots, name string, good []byte) {
	t.Helper()
	rnd := mrand.New(mrand.NewPCG(11, uint64(len(good))))
	q, err := appx.Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	sig, _ := q.Lookup(appx.Signature)
	both := map[string]int{}
	for i := range mutants(24) {
		at := rnd.IntN(len(good))
		switch i % 3 { // the signature and what follows deserve most
		case 0:
			at = int(sig.Data) - 60 + rnd.IntN(int(sig.Packed)+60)
		case 1:
			at = int(sig.Data+sig.Packed) + rnd.IntN(len(good)-int(sig.Data+sig.Packed))
		}
		b := bytes.Clone(good)
		b[at] ^= 1 << rnd.IntN(8)
		_, err := l.ours(b)
		if err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s, byte %d: %v", name, at, err)
		}
		theirs := says(t, l.tool, roots, b)
		both[fmt.Sprintf("ours %v, theirs %v", err == nil, theirs)]++
		if err == nil && !theirs {
			t.Errorf("%s, byte %d of %d (signature %d to %d): accepted here, refused by osslsigncode", name, at, len(b), sig.Data, sig.Data+sig.Packed)
		}
		if err == nil && at < int(sig.Data)-30-len(appx.Signature) {
			t.Errorf("%s, byte %d: accepted, though before the signature", name, at)
		}
	}
	t.Logf("%s: %v", name, both)
}

// TestAuthenticodeAppxTricks: archives that say two things.
func TestAuthenticodeAppxTricks(t *testing.T) {
	p := appxtest.NewPublisher(labName, time.Now())
	trust := feed.Trust{At: time.Now(), Anchors: []feed.Anchor{{Name: "own", Use: useMicrosoft, Data: p.Root}}}
	by := Publisher{useMicrosoft, []string{labName}}
	judge := func(b []byte) error {
		_, err := Authenticode(bytes.NewReader(b), int64(len(b)), by, trust)
		return err
	}
	unsigned := appxtest.Build(labSpec(p.Name))
	good := p.Sign(unsigned)
	if err := judge(good); err != nil {
		t.Fatal(err)
	}
	if _, err := Authenticode(bytes.NewReader(good), int64(len(good)), Publisher{useMicrosoft, []string{"Somebody Else"}}, trust); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("another publisher: %v", err)
	}
	for name, ok := range map[string]bool{p.Name: true, "CN=" + labName: false, p.Name + ", L=Tokyo": false, "O=" + labName: false} {
		if _, err := Authenticode(bytes.NewReader(good), int64(len(good)), Publisher{useMicrosoft, []string{name}}, trust); (err == nil) != ok || err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("the whole name %q: %v", name, err)
		}
	}
	manifest := func(s appxtest.Spec, more ...appxtest.Entry) []appxtest.Entry {
		z, err := zip.NewReader(bytes.NewReader(appxtest.Build(s)), int64(len(appxtest.Build(s))))
		if err != nil {
			t.Fatal(err)
		}
		var out []appxtest.Entry
		for _, f := range z.File {
			r, _ := f.Open()
			var b bytes.Buffer
			b.ReadFrom(r)
			out = append(out, appxtest.Entry{Name: f.Name, Data: b.Bytes()})
		}
		return append(more, out...)
	}
	spec := labSpec(p.Name)
	bigger := manifest(spec)
	for i := range bigger {
		if bigger[i].Name == "a.txt" {
			bigger[i].Data = []byte("HELLO")
		}
	}
	other := appxtest.NewPublisher("Somebody Else", time.Now())
	inner := appxtest.Build(labSpec(other.Name))
	bundle := func(file []byte) []byte {
		return p.Sign(appxtest.Bundle(appx.Identity{Name: "Hashike.Test", Publisher: p.Name, Version: "2.0.0.0"}, map[string][]byte{"x64.msix": file}))
	}
	if err := judge(bundle(unsigned)); err != nil {
		t.Errorf("a bundle: %v", err)
	}
	// All of these are signed rightly: the archive itself is the trick.
	for name, b := range map[string][]byte{
		"a file that the block map lacks":   p.Sign(appxtest.Archive(manifest(spec, appxtest.Entry{Name: "evil.dll", Data: []byte("x")}))),
		"a file that the block map denies":  p.Sign(appxtest.Archive(bigger)),
		"the publisher of another":          p.Sign(appxtest.Build(labSpec(other.Name))),
		"bundle with another's package":     bundle(inner),
		"the whole of it behind other data": append([]byte("MZ"), good...),
	} {
		if err := judge(b); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, entries := range map[string][]appxtest.Entry{
		"one name twice":           manifest(spec, appxtest.Entry{Name: "a.txt", Data: []byte("hello")}),
		"one name in two cases":    manifest(spec, appxtest.Entry{Name: "A.TXT", Data: []byte("hello")}),
		"a path that leaves":       manifest(spec, appxtest.Entry{Name: "../a.txt"}),
		"a path that leaves, in %": manifest(spec, appxtest.Entry{Name: "%2e%2e/a.txt"}),
		"a path from the root":     manifest(spec, appxtest.Entry{Name: "/a"}),
		"a backslash":              manifest(spec, appxtest.Entry{Name: `a\b`}),
	} {
		b := appxtest.Archive(entries)
		if _, err := appx.Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, appx.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gap := bytes.Clone(good)
	i := bytes.LastIndex(gap, []byte("PK\x05\x06"))
	gap = append(gap[:i+20], 1, 0, 'x') // a comment
	tail := append(bytes.Clone(good), 0)
	for name, b := range map[string][]byte{"a comment": gap, "bytes behind the end": tail} {
		if err := judge(b); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublisherName(t *testing.T) {
	for _, s := range []string{"CN=a, O=b", `CN="a, b",O="say ""x"""`, "CN=a;O=b", "cn=a, OID.2.5.4.10=b"} {
		if _, err := parseName(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", "a", "CN=", `CN="a`, `CN="a"b`, "CN=a+O=b", "XX=a", "OID.=a", "OID.2.x=a", "CN=#0102"} {
		if got, err := parseName(s); err == nil {
			t.Errorf("%s: %v", s, got)
		}
	}
	got, err := parseName(`CN="Mozilla ""Corporation""", O=Mozilla Corporation , L=San Francisco`)
	if err != nil || len(got) != 3 || got[0].Value != `Mozilla "Corporation"` || got[1].Value != "Mozilla Corporation" {
		t.Errorf("%v %v", got, err)
	}
}

// sameAsZip: what we read is what an ordinary reader of archives reads.
func sameAsZip(t *testing.T, q *appx.Package, b []byte) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(z.File) != len(q.Files) {
		t.Fatalf("archive/zip: %v", err)
	}
	for i, f := range z.File {
		at, err := f.DataOffset()
		if mine := q.Files[i]; err != nil || int64(f.UncompressedSize64) != mine.Size || int64(f.CompressedSize64) != mine.Packed || at != mine.Data {
			t.Fatalf("archive/zip: %s at %d, %v; here %+v", f.Name, at, err, mine)
		}
	}
}

func FuzzAuthenticodeAppx(f *testing.F) {
	p := appxtest.NewPublisher(labName, time.Now())
	unsigned := appxtest.Build(appxtest.Spec{Identity: appx.Identity{Name: "A.B", Publisher: p.Name, Version: "1.0.0.0", Architecture: "x64"}, Files: map[string][]byte{"a.txt": []byte("a")}})
	f.Add(p.Sign(unsigned))
	f.Add(p.Sign(appxtest.Bundle(appx.Identity{Name: "A.B", Publisher: p.Name, Version: "1.0.0.0"}, map[string][]byte{"x": unsigned})))
	trust := feed.Trust{At: time.Now(), Anchors: []feed.Anchor{{Name: "own", Use: useMicrosoft, Data: p.Root}}}
	by := Publisher{useMicrosoft, []string{labName}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Authenticode(bytes.NewReader(b), int64(len(b)), by, trust); err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Fatal(err)
		}
		// What lies behind the signature check, without it.
		if q, err := appx.Open(bytes.NewReader(b), int64(len(b))); err == nil {
			sameAsZip(t, q, b)
			checkPackage(q, crypto.SHA256)
		}
	})
}
