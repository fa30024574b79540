package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Differential tests of Authenticode against osslsigncode, which shares no code
// with us: it signs files for us to verify, and judges the same mutants.

// lab is a test publisher with a stamping authority.
type lab struct {
	dir   string
	tool  string
	trust feed.Trust
	by    Publisher
}

const labName = "Hashike Test Publisher"

func newLab(t *testing.T) *lab {
	t.Helper()
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		missing(t, "osslsigncode is not here")
	}
	l := &lab{dir: t.TempDir(), tool: tool, by: Publisher{useMicrosoft, []string{labName}}}
	now := time.Now().Truncate(time.Second)
	root, rootKey := l.issue(t, "root", nil, nil, now, nil)
	l.issue(t, "leaf", root, rootKey, now, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning})
	l.issue(t, "tsa", root, rootKey, now, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping})
	b, err := os.ReadFile(l.path("root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	l.trust = feed.Trust{At: now.Add(time.Hour), Anchors: []feed.Anchor{{Name: "lab", Use: useMicrosoft, Data: b, Source: "test"}}}
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) issue(t *testing.T, name string, parent *x509.Certificate, parentKey crypto.Signer, now time.Time, use []x509.ExtKeyUsage) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano() + int64(len(name))), Subject: pkix.Name{CommonName: "lab " + name, Organization: []string{labName}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(48 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: use,
	}
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		parent, parentKey = c, key
	}
	if len(use) > 0 && use[0] == x509.ExtKeyUsageTimeStamping { // RFC 3161 §2.3: critical, and the only one
		v, _ := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
		c.ExtKeyUsage = nil
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: v}}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(l.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out, key
}

// sign lets osslsigncode sign b.
func (l *lab) sign(t *testing.T, b []byte, ext string, args ...string) []byte {
	t.Helper()
	in, out := l.path("in"+ext), l.path("out"+ext)
	os.Remove(out)
	if err := os.WriteFile(in, b, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"sign", "-certs", l.path("leaf.crt"), "-key", l.path("leaf.key")}, args...)
	if msg, err := exec.Command(l.tool, append(args, "-in", in, "-out", out)...).CombinedOutput(); err != nil {
		t.Fatalf("osslsigncode %v: %v\n%s", args, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (l *lab) builtinTSA() []string {
	return []string{"-TSA-certs", l.path("tsa.crt"), "-TSA-key", l.path("tsa.key")}
}

// says is osslsigncode's verdict.
func says(t *testing.T, tool, roots string, b []byte, more ...string) bool {
	t.Helper()
	p := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, append([]string{"verify", "-in", p, "-CAfile", roots, "-TSA-CAfile", roots, "-ignore-crl"}, more...)...).CombinedOutput()
	return err == nil && strings.Contains(string(out), "Succeeded")
}

func (l *lab) ours(b []byte) (feed.Evidence, error) {
	return Authenticode(bytes.NewReader(b), int64(len(b)), l.by, l.trust)
}

// publicTrust believes every root of Microsoft's list, as osslsigncode does here.
func publicTrust(t testing.TB) (feed.Trust, Publisher, string) {
	b := sample(t, "microsoft", "roots", "ms-trusted-roots-all.pem")
	var all []feed.Anchor
	for p, rest := pem.Decode(b); p != nil; p, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(p.Bytes); err == nil { // a few of the oldest are malformed for Go
			all = append(all, feed.Anchor{Name: strconv.Itoa(len(all)), Use: useMicrosoft, Data: p.Bytes, Source: "test"})
		}
	}
	return feed.Trust{Anchors: all, At: time.Now()},
		Publisher{useMicrosoft, []string{microsoftName, "Arduino LLC"}},
		filepath.Join(os.Getenv("HASHIKE_SAMPLES"), "microsoft", "roots", "ms-trusted-roots-all.pem")
}

// verdicts is what is expected of each sample. Where osslsigncode differs, why
// says so: these are the disagreements of policy.
var verdicts = []struct {
	name   string
	good   bool
	theirs bool
	why    string
}{
	{"pe/ms_signtool.exe", true, true, ""},
	{"pe/saferwall_WdBoot.sys", true, true, ""},
	{"pe/saferwall_acpi.sys", true, true, ""},
	{"pe/saferwall_kernel32.dll", true, true, ""},
	{"pe/saferwall_mscorlib.dll", true, true, ""},
	{"pe/saferwall_pwsh.exe", true, true, ""},
	{"pe/saferwall_KernelBase.dll", false, false, ""}, // a flight root
	{"pe/saferwall_amdi2c.sys", false, false, ""},
	{"pe/saferwall_impbyord.exe", false, false, ""},
	{"pe/saferwall_jobexec.dll", false, false, ""},
	{"msi/ms_vc10_vc_red_x86.msi", false, false, ""},
	{"msi/relic_dummy_unsigned.msi", false, false, ""},
	{"msi/ms_vc9_VC_RED.MSI", false, true, "SHA-1 alone proves nothing here"},
	{"cab/authrootstl.cab", false, false, ""}, // the list inside is signed, not the cabinet
	{"cab/relic_dummy_unsigned.cab", false, false, ""},
	{"cat/ftdibus_amd64.sys", true, true, ""}, // SHA-1 outside, SHA-256 nested
}

func TestAuthenticodeSamples(t *testing.T) {
	trust, by, roots := publicTrust(t)
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		missing(t, "osslsigncode is not here")
	}
	for _, v := range verdicts {
		b := sample(t, "windows", filepath.FromSlash(v.name))
		ev, err := Authenticode(bytes.NewReader(b), int64(len(b)), by, trust)
		if (err == nil) != v.good || err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", v.name, err)
		}
		if err == nil && (ev.SignedAt.IsZero() || ev.Signer == "") {
			t.Errorf("%s: %+v", v.name, ev)
		}
		if says(t, tool, roots, b) != v.theirs {
			t.Errorf("%s: osslsigncode does not say %v", v.name, v.theirs)
		}
		if v.good != v.theirs && v.why == "" {
			t.Errorf("%s: a disagreement that nobody explains", v.name)
		}
	}
	b := sample(t, "windows", "pe", "ms_signtool.exe")
	if _, err := Authenticode(bytes.NewReader(b), int64(len(b)), Publisher{useMicrosoft, []string{"Adobe Inc."}}, trust); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("another publisher: %v", err)
	}
}

// mutants is how many changed files of each kind are judged by both.
func mutants(small int) int {
	if n, err := strconv.Atoi(os.Getenv("HASHIKE_MUTANTS")); err == nil {
		return n
	}
	return small
}

// TestAuthenticodeSigned: what osslsigncode signs holds, in each container,
// with each kind of time stamp; and both agree on mutants.
func TestAuthenticodeSigned(t *testing.T) {
	l := newLab(t)
	base := map[string][]byte{
		".exe": sample(t, "windows", "pe", "saferwall_impbyord.exe"),
		".msi": sample(t, "windows", "msi", "relic_dummy_unsigned.msi"),
		".cab": sample(t, "windows", "cab", "relic_dummy_unsigned.cab"),
	}
	roots := l.path("root.crt")
	legacy := l.legacyTSA(t)
	for ext, b := range base {
		cases := map[string][]string{
			"plain": {"-h", "sha256"}, "sha384": {"-h", "sha384"},
			"rfc3161": append([]string{"-h", "sha256"}, l.builtinTSA()...),
			"legacy":  {"-h", "sha256", "-t", legacy},
		}
		if ext == ".msi" {
			cases["extended"] = []string{"-h", "sha256", "-add-msi-dse"}
		}
		for name, args := range cases {
			t.Run(name+ext, func(t *testing.T) {
				signed := l.sign(t, b, ext, args...)
				if !says(t, l.tool, roots, signed) {
					t.Fatal("osslsigncode refuses what it signed")
				}
				ev, err := l.ours(signed)
				if err != nil {
					t.Fatal(err)
				}
				if stamped := name == "rfc3161" || name == "legacy"; ev.SignedAt.IsZero() == stamped {
					t.Errorf("signed at %s", ev.SignedAt)
				}
				if _, err := Authenticode(bytes.NewReader(signed), int64(len(signed)), Publisher{useMicrosoft, []string{"Somebody Else"}}, l.trust); !errors.Is(err, feed.ErrUntrusted) {
					t.Errorf("another publisher: %v", err)
				}
				l.expired(t, signed, name == "rfc3161" || name == "legacy")
				l.compare(t, roots, b, signed, ext)
			})
		}
	}
}

// expired: after the certificate's end only what is stamped holds.
func (l *lab) expired(t *testing.T, signed []byte, stamped bool) {
	t.Helper()
	late := l.trust
	late.At = late.At.AddDate(1, 0, 0)
	if _, err := Authenticode(bytes.NewReader(signed), int64(len(signed)), l.by, late); (err == nil) != stamped {
		t.Errorf("a year later, stamped %v: %v", stamped, err)
	}
}

// compare judges mutants of a signed file both ways. Where we refuse more, the
// change lies where no signature looks or our policy is stricter; less is never
// allowed.
func (l *lab) compare(t *testing.T, roots string, plain, signed []byte, ext string) {
	rnd := mrand.New(mrand.NewPCG(1, uint64(len(signed))))
	stricter := 0
	for i := range mutants(12) {
		b := bytes.Clone(signed)
		at := rnd.IntN(len(b))
		switch {
		case i%3 == 0 && len(plain) < len(b):
			at = len(plain) + rnd.IntN(len(b)-len(plain))
		case i%3 == 1:
			at = rnd.IntN(min(1024, len(b)))
		}
		b[at] ^= 1 << rnd.IntN(8)
		_, err := l.ours(b)
		if err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("byte %d: %v", at, err)
		}
		theirs := says(t, l.tool, roots, b)
		switch {
		case (err == nil) == theirs:
		case theirs:
			stricter++
		default:
			t.Errorf("%s, byte %d of %d (% x → % x): we accept what osslsigncode refuses", ext, at, len(b), signed[max(at-12, 0):min(at+5, len(b))], b[at])
		}
	}
	if stricter > 0 {
		t.Logf("%d mutants that only we refuse", stricter)
	}
}

// legacyTSA is a stamping authority of the old kind (an Authenticode time stamp
// request, base64 in HTTP; the answer is PKCS#7 over the signature's value),
// made with openssl.
func (l *lab) legacyTSA(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		missing(t, "openssl is not here")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			raw, err = base64.StdEncoding.DecodeString(strings.Map(func(c rune) rune {
				if c == '\r' || c == '\n' || c == 0 {
					return -1
				}
				return c
			}, string(raw)))
		}
		var req struct {
			Type asn1.ObjectIdentifier
			Blob struct {
				Type asn1.ObjectIdentifier
				Data asn1.RawValue `asn1:"explicit,tag:0"`
			}
		}
		if err == nil {
			_, err = asn1.Unmarshal(raw, &req)
		}
		var value []byte
		if err == nil {
			_, err = asn1.Unmarshal(req.Blob.Data.Bytes, &value)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		cmd := exec.Command("openssl", "cms", "-sign", "-binary", "-nodetach", "-md", "sha256", "-signer", l.path("tsa.crt"), "-inkey", l.path("tsa.key"), "-outform", "DER")
		cmd.Stdin = bytes.NewReader(value)
		der, err := cmd.Output()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		fmt.Fprint(w, base64.StdEncoding.EncodeToString(der))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestAuthenticodeDual: of two signatures the stronger decides, wherever it is.
func TestAuthenticodeDual(t *testing.T) {
	l := newLab(t)
	plain := sample(t, "windows", "pe", "saferwall_impbyord.exe")
	dual := l.sign(t, l.sign(t, plain, ".exe", "-h", "sha1"), ".exe", "-nest", "-h", "sha256")
	if _, err := l.ours(dual); err != nil {
		t.Errorf("SHA-256 nested in SHA-1: %v", err)
	}
	if _, err := l.ours(l.sign(t, plain, ".exe", "-h", "sha1")); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("SHA-1 alone: %v", err)
	}
	both := l.sign(t, l.sign(t, plain, ".exe", "-h", "sha256"), ".exe", "-nest", "-h", "sha384")
	if _, err := l.ours(both); err != nil {
		t.Errorf("SHA-384 nested in SHA-256: %v", err)
	}
	// The last signature value of the file is the nested one's.
	b := bytes.Clone(both)
	end := bytes.TrimRight(b, "\x00")
	end[len(end)-3] ^= 1
	if _, err := l.ours(b); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("the stronger signature is damaged, the weaker holds: %v", err)
	}
}

// TestCatalog: the samples' catalogues are signed with SHA-1. So a list of
// ours, with digests of both kinds, is signed by osslsigncode, which also says
// what it lists.
func TestCatalog(t *testing.T) {
	for _, name := range []string{"cat/relic_hyperv.cat", "cbs/update.cat", "cat/arduino.cat"} {
		b := sample(t, "windows", filepath.FromSlash(name))
		trust, by, _ := publicTrust(t)
		if _, err := OpenCatalog(bytes.NewReader(b), int64(len(b)), by, trust); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s is signed with SHA-1: %v", name, err)
		}
	}
	l := newLab(t)
	program, text, other := sample(t, "windows", "pe", "saferwall_impbyord.exe"), []byte("plain bytes\n"), []byte("not listed\n")
	box, err := containerOf(bytes.NewReader(program), int64(len(program)))
	if !errors.Is(err, ErrUnsigned) {
		t.Fatal(err)
	}
	sum, err := box.digest(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	flat := sha256.Sum256(text)
	signed := l.sign(t, catalogOf(t, sum, flat[:]), ".cat", append([]string{"-h", "sha256"}, l.builtinTSA()...)...)
	open := func(b []byte) (*Catalog, error) { return OpenCatalog(bytes.NewReader(b), int64(len(b)), l.by, l.trust) }
	c, err := open(signed)
	if err != nil {
		t.Fatal(err)
	}
	if c.Members() != 2 || c.Evidence.SignedAt.IsZero() || c.Evidence.Strength != feed.Signed {
		t.Errorf("%d members, %+v", c.Members(), c.Evidence)
	}
	file := l.path("listed.cat")
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		b     []byte
		lists bool
		tool  bool // osslsigncode looks up programs and the like only
	}{{program, true, true}, {text, true, false}, {other, false, false}} {
		_, err := c.Lists(bytes.NewReader(x.b), int64(len(x.b)))
		if (err == nil) != x.lists || err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%.20q: %v", x.b, err)
		}
		if x.tool && !says(t, l.tool, l.path("root.crt"), x.b, "-catalog", file) {
			t.Errorf("%.20q: osslsigncode does not find it in the catalogue", x.b)
		}
	}
	rnd := mrand.New(mrand.NewPCG(3, 4))
	for range mutants(200) {
		b := bytes.Clone(signed)
		at := rnd.IntN(len(b))
		b[at] ^= 1 << rnd.IntN(8)
		m, err := open(b)
		if err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if err == nil && m.Members() != 2 {
			t.Errorf("byte %d of the catalogue changed what it lists", at)
		}
	}
}

// catalogOf is an unsigned catalogue that lists SHA-256 digests.
func catalogOf(t *testing.T, sums ...[]byte) []byte {
	t.Helper()
	type algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue
	}
	type indirect struct {
		Data struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		Digest struct {
			Algorithm algorithm
			Sum       []byte
		}
	}
	type attribute struct {
		Type   asn1.ObjectIdentifier
		Values []indirect `asn1:"set"`
	}
	type member struct {
		ID    []byte
		Attrs []attribute `asn1:"set"`
	}
	sha := algorithm{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.NullRawValue}
	var members []member
	for _, sum := range sums {
		var v indirect
		// SPC_PE_IMAGE_DATA with no flags and an empty file name, as signtool writes it.
		v.Data.Type = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
		v.Data.Value = asn1.RawValue{FullBytes: []byte{0x30, 0x09, 0x03, 0x01, 0x00, 0xA0, 0x04, 0xA2, 0x02, 0x80, 0x00}}
		v.Digest.Algorithm, v.Digest.Sum = sha, sum
		members = append(members, member{sum, []attribute{{oidSpcIndirect, []indirect{v}}}})
	}
	list := struct {
		Usage     []asn1.ObjectIdentifier
		ID        []byte
		Date      time.Time
		Algorithm algorithm
		Members   []member
	}{[]asn1.ObjectIdentifier{oidCatalogList}, make([]byte, 16), time.Now().UTC(), algorithm{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 12, 1, 3}, asn1.NullRawValue}, members}
	inner, err := asn1.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	type content struct {
		Type asn1.ObjectIdentifier
		Data asn1.RawValue
	}
	tagged := func(b []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: b}
	}
	sd, err := asn1.Marshal(struct {
		Version int
		Digests []algorithm `asn1:"set"`
		Content content
		Signers []algorithm `asn1:"set"`
	}{1, []algorithm{sha}, content{oidTrustList, tagged(inner)}, nil})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(content{oidSignedData, tagged(sd)})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestAuthenticodeRealMutants: both judge changed copies of genuine files alike.
func TestAuthenticodeRealMutants(t *testing.T) {
	trust, by, roots := publicTrust(t)
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		missing(t, "osslsigncode is not here")
	}
	for _, v := range verdicts {
		if !v.good || v.name == "cat/ftdibus_amd64.sys" { // dual: SHA-1 is enough for osslsigncode
			continue
		}
		good := sample(t, "windows", filepath.FromSlash(v.name))
		rnd := mrand.New(mrand.NewPCG(5, uint64(len(good))))
		table := len(good) - min(len(good)/2, 20<<10) // the signature is the file's end
		for i := range mutants(10) {
			b := bytes.Clone(good)
			at := rnd.IntN(len(b))
			switch i % 3 {
			case 0:
				at = table + rnd.IntN(len(b)-table)
			case 1:
				at = rnd.IntN(1024)
			}
			b[at] ^= 1 << rnd.IntN(8)
			_, err := Authenticode(bytes.NewReader(b), int64(len(b)), by, trust)
			if err != nil && !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s, byte %d: %v", v.name, at, err)
			}
			if err == nil && !says(t, tool, roots, b) {
				t.Errorf("%s, byte %d of %d (% x → %x): we accept what osslsigncode refuses", v.name, at, len(b), good[max(at-12, 0):min(at+5, len(b))], b[at])
			}
		}
	}
}

func FuzzAuthenticodeContainers(f *testing.F) {
	if os.Getenv("HASHIKE_SAMPLES") != "" {
		f.Add(sample(f, "windows", "msi", "relic_dummy_unsigned.msi"))
		f.Add(sample(f, "windows", "pe", "saferwall_impbyord.exe"))
		f.Add(sample(f, "windows", "cbs", "update.cat"))
	}
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if _, err := Authenticode(r, int64(len(b)), Microsoft(), microsoftTrust()); err == nil || !errors.Is(err, feed.ErrUntrusted) {
			t.Fatal(err)
		}
		if _, err := openCatalog(b, func(*msSigner) error { return nil }); err == nil {
			t.Skip("a genuine one")
		}
		c := &Catalog{members: map[string]bool{}}
		_ = c.read(b)
	})
}
