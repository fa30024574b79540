package authenticode

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/format/cab"
)

// issue makes a self-signed certificate for code signing, as a municipality does.
func issue(t *testing.T, key crypto.Signer, use ...x509.ExtKeyUsage) Signer {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Machi", Organization: []string{"Machi"}}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: use}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Signer{key, []*x509.Certificate{out}}
}

func cabinet(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var list []cab.Source
	for n, b := range files {
		list = append(list, cab.Source{Name: n, Modified: time.Date(2026, 11, 22, 1, 2, 4, 0, time.UTC), Size: int64(len(b)), Body: bytes.NewReader(b)})
	}
	var out bytes.Buffer
	if err := cab.Write(&out, list); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestSignedCabinet: osslsigncode accepts what we sign and nothing that was
// changed after; cabextract reads what is in it.
func TestSignedCabinet(t *testing.T) {
	tool, err := exec.LookPath("osslsigncode")
	if err == nil {
		_, err = exec.LookPath("cabextract")
	}
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	setup := bytes.Repeat([]byte("MZ setup "), 20_000)
	for name, key := range map[string]crypto.Signer{"rsa": rsaKey, "ecdsa": ecKey} {
		t.Run(name, func(t *testing.T) {
			by := issue(t, key, x509.ExtKeyUsageCodeSigning)
			plain := cabinet(t, map[string][]byte{"setup.exe": setup, "data/empty.txt": nil})
			var b bytes.Buffer
			if err := SignCabinet(&b, bytes.NewReader(plain), int64(len(plain)), by, time.Now()); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			root := filepath.Join(dir, "root.pem")
			if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: by.Chain[0].Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			says := func(b []byte) bool {
				p := filepath.Join(dir, "x.cab")
				if err := os.WriteFile(p, b, 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command(tool, "verify", "-in", p, "-CAfile", root, "-ignore-crl").CombinedOutput()
				return err == nil && strings.Contains(string(out), "Succeeded")
			}
			if !says(b.Bytes()) {
				t.Error("osslsigncode refuses it")
			}
			for _, at := range []int{60, 100, 5000, b.Len() - 100} {
				c := bytes.Clone(b.Bytes())
				c[at] ^= 1
				if says(c) {
					t.Errorf("changed at %d, and accepted", at)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "y.cab"), b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cabextract", "-q", "-d", dir, filepath.Join(dir, "y.cab")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "setup.exe")); err != nil || !bytes.Equal(got, setup) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			c, err := cab.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()), cab.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			_, body, err := c.Open("setup.exe")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, setup) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := SignCabinet(io.Discard, bytes.NewReader(b.Bytes()), int64(b.Len()), by, time.Now()); err == nil {
				t.Error("signed twice")
			}
		})
	}
}

func TestSignersThatAreRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := issue(t, key, x509.ExtKeyUsageCodeSigning)
	for why, s := range map[string]Signer{
		"nothing": {}, "no certificate": {Key: key}, "another key": {other, good.Chain},
		"for servers": issue(t, key, x509.ExtKeyUsageServerAuth), "weak": issue(t, small, x509.ExtKeyUsageCodeSigning),
	} {
		if err := s.Check(); err == nil {
			t.Error(why)
		}
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
}
