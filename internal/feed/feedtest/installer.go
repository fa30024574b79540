package feedtest

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cfb"
)

// Slack reports whether no stream, name or size of a compound file depends on a
// byte: sectors' ends, which nothing reads and no signature covers.
func Slack(t testing.TB, b []byte, at int) bool {
	t.Helper()
	sum := func(b []byte) feed.Digest {
		f, err := cfb.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return ""
		}
		h := sha256.New()
		var walk func(e *cfb.Entry)
		walk = func(e *cfb.Entry) {
			fmt.Fprintf(h, "%d %x %x %x %x %x %d\n", e.Kind, e.RawName, e.CLSID, e.State, e.Created, e.Modified, e.Size)
			if e.Kind == cfb.Stream {
				if _, err := e.WriteTo(h); err != nil {
					fmt.Fprint(h, err)
				}
			}
			for _, c := range e.Children {
				walk(c)
			}
		}
		walk(f.Root)
		return feed.DigestFrom(h)
	}
	m := bytes.Clone(b)
	m[at] ^= 0xff
	return sum(m) == sum(b)
}

// Installer is a signed Windows Installer package with these properties and
// this summary (by property number: 3 subject, 4 author, 6 comments, 7
// template). msitools makes it and osslsigncode signs it: neither shares code
// with ours.
func (p *Publisher) Installer(t testing.TB, properties map[string]string, summary map[int]string) []byte {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) { runTool(t, dir, name, args...) }
	table := func(name, head string, rows []string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name+".idt"), []byte(head+strings.Join(rows, "\r\n")+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		run("msibuild", "x.msi", "-i", name+".idt")
	}
	var rows []string
	for _, k := range slices.Sorted(maps.Keys(properties)) {
		rows = append(rows, k+"\t"+properties[k])
	}
	table("Property", "Property\tValue\r\ns72\tl0\r\nProperty\tProperty\r\n", rows)
	rows = []string{"1\t1252", "2\tInstallation Database"}
	for _, k := range slices.Sorted(maps.Keys(summary)) {
		rows = append(rows, fmt.Sprintf("%d\t%s", k, summary[k]))
	}
	rows = append(rows, "9\t{8A69D345-D564-463C-AFF1-A69D9E530F97}", "14\t200", "15\t2")
	table("_SummaryInformation", "PropertyId\tValue\r\ni2\tl255\r\n_SummaryInformation\tPropertyId\r\n", rows)
	return p.signed(t, dir)
}

// runTool runs a program of this machine in dir.
func runTool(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip(name + " is not here")
	}
	c := exec.Command(name, args...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// signed is dir's x.msi under a signature that osslsigncode made.
func (p *Publisher) signed(t testing.TB, dir string) []byte {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(p.Signer.Key)
	if err != nil {
		t.Fatal(err)
	}
	var certs []byte
	for _, c := range p.Signer.Chain {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	for name, b := range map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), "certs.pem": certs} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runTool(t, dir, "osslsigncode", "sign", "-h", "sha256", "-certs", "certs.pem", "-key", "key.pem", "-in", "x.msi", "-out", "signed.msi")
	b, err := os.ReadFile(filepath.Join(dir, "signed.msi"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
