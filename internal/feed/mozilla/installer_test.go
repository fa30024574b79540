package mozilla

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
)

// signProgram signs a program as publisher, with an independent tool, under a
// root made for this test.
func signProgram(t *testing.T, program []byte, publisher string, now time.Time) (signed []byte, root feed.Anchor) {
	t.Helper()
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("osslsigncode is not here")
		}
		t.Skip("osslsigncode is not here")
	}
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	write := func(n, kind string, der []byte) {
		if err := os.WriteFile(at(n), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: publisher, Organization: []string{publisher}}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, keys[0].Public(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, keys[1].Public(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	write("leaf.pem", "CERTIFICATE", leafDER)
	write("key.pem", "EC PRIVATE KEY", keyDER)
	if err := os.WriteFile(at("in.exe"), program, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "sign", "-h", "sha256", "-certs", at("leaf.pem"), "-key", at("key.pem"), "-in", at("in.exe"), "-out", at("out.exe")).CombinedOutput(); err != nil {
		t.Fatalf("osslsigncode: %v\n%s", err, out)
	}
	if signed, err = os.ReadFile(at("out.exe")); err != nil {
		t.Fatal(err)
	}
	return signed, feed.Anchor{Name: "root", Use: useRoots, Data: caDER, Source: "made for this test"}
}

// TestInstallers: beside a good list the publisher's signature is a second
// proof; where the list's key was revoked it is the only one, and then nobody
// else's will do.
func TestInstallers(t *testing.T) {
	now := time.Now()
	program, err := os.ReadFile(filepath.Join(samplesDir(t), "..", "windows", "pe", "saferwall_impbyord.exe"))
	if err != nil {
		t.Fatal(err)
	}
	const exe = "thunderbird/releases/128.4.0esr/win64/ja/Thunderbird Setup 128.4.0esr.exe"
	exception := feed.Order{Schema: 1, Number: 1, Kind: feed.OrderException, Feed: "m", Strength: feed.Listed, Reason: "test", Operator: "a", Approver: "b", Issued: now.Add(-time.Minute), Until: now.Add(24 * time.Hour)}
	for _, x := range []struct {
		publisher     string
		second, alone bool // does the signature hold?
	}{{"Mozilla Corporation", true, true}, {"Mozilla", false, false}, {"", false, false}} {
		body, root := program, feed.Anchor{Name: "root", Use: useRoots}
		if x.publisher != "" {
			body, root = signProgram(t, program, x.publisher, now)
		} else {
			_, root = signProgram(t, program, "other", now)
		}
		m, revoke := revocable(t, now)
		m.Program = body
		b := newBench(t, func(c *Config) { c.Installers = []string{"exe"} })
		c := b.must(m.state(terminal.NewHistory(now), []string{"win64 ja"}), nil)
		c.Head.Taken = now
		says := func(orders ...feed.Order) (held bool, ev []feed.Evidence) {
			v, evidence, err := b.verify(c, append(m.anchors(), root), orders...)
			if err != nil {
				t.Fatalf("%s: %v", x.publisher, err)
			}
			_, held = v.Withheld[exe]
			return held, slices.DeleteFunc(evidence, func(e feed.Evidence) bool { return e.Path != exe || !strings.Contains(e.Method, "authenticode") })
		}
		if held, ev := says(); held || len(ev) != 1 || (ev[0].Strength == feed.Signed) != x.second || (ev[0].Note == "") != x.second {
			t.Errorf("%q with a good list: withheld %v, %+v", x.publisher, held, ev)
		}
		revoke()
		if held, ev := says(exception); held == x.alone || len(ev) != 1 || x.alone && ev[0].Signer == "" {
			t.Errorf("%q under a revoked list: withheld %v, %+v", x.publisher, held, ev)
		}
		flipped := bytes.Clone(body)
		flipped[len(program)/2] ^= 1
		a := c.Named[exe]
		c.Set(a, flipped)
		if held, _ := says(exception); !held {
			t.Errorf("%q, one bit flipped: not withheld", x.publisher)
		}
	}
}
