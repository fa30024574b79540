package packager_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

// tool is a program that a test needs; HASHIKE_CI=1 promises that it is there.
func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil && os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(name + " is not here")
	}
	if err != nil {
		t.Skip(name + " is not here")
	}
	return p
}

// plugin builds the helper program and puts it on the PATH.
func plugin(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(tool(t, "go"), "build", "-o", filepath.Join(dir, "sigstore-kms-hsm"), "./testdata/sigstore-kms-hsm")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// crosses packs and imports: the key in use is the one that the root names.
func (w *world) crosses() {
	w.t.Helper()
	a := w.snapshot("alpha", sample(w.now.String()))
	d, _ := w.pack(a)
	must2(w.t)(w.take(d))
	w.holds(a)
}

func (w *world) guard(want packager.Guard) {
	w.t.Helper()
	g, _, left, err := packager.BundleGuard(w.out)
	if err != nil || g != want || left {
		w.t.Errorf("kept as %s (copy left: %v, %v), want %s", g, left, err, want)
	}
}

func TestBundleKeyGuards(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("DPAPI is Windows' own; see TestDPAPI")
	}
	w := newWorld(t)
	pem := filepath.Join(w.out.Keys(), "bundle.pem")
	w.guard(packager.GuardFile)
	w.crosses()

	pass := filepath.Join(t.TempDir(), "passphrase")
	ok(t, os.WriteFile(pass, []byte("a long passphrase\n"), 0o600))
	plain := must(os.ReadFile(pem))(t)
	ok(t, packager.Protect(w.out, packager.GuardPassphrase, pass))
	w.guard(packager.GuardPassphrase)
	if b := must(os.ReadFile(pem))(t); !bytes.Contains(b, []byte("ENCRYPTED")) || bytes.Contains(b, plain[40:80]) {
		t.Errorf("not encrypted: %s", b)
	}
	w.crosses()
	w.rotate(packager.Change{Bundle: true}, 1, 2)
	w.guard(packager.GuardPassphrase)
	w.crosses()
	ok(t, os.WriteFile(pass, []byte("another\n"), 0o600))
	_, err := packager.Pack(t.Context(), w.options(filepath.Join(t.TempDir(), "m"), w.snapshot("alpha", sample("x"))))
	wantCode(t, err, "H-516")
	ok(t, os.WriteFile(pass, []byte("a long passphrase\n"), 0o600))
	ok(t, packager.Protect(w.out, packager.GuardFile, ""))

	// A credential that is another key, or none, is refused; the same is used and
	// the file goes.
	creds := t.TempDir()
	if err := packager.Protect(w.out, packager.GuardCredential, ""); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("without a credential: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	ok(t, os.WriteFile(filepath.Join(creds, packager.CredentialName), plain, 0o400))
	if err := packager.Protect(w.out, packager.GuardCredential, ""); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("another key: %v", err)
	}
	ok(t, os.Remove(filepath.Join(creds, packager.CredentialName)))
	ok(t, os.WriteFile(filepath.Join(creds, packager.CredentialName), must(os.ReadFile(pem))(t), 0o400))
	ok(t, packager.Protect(w.out, packager.GuardCredential, ""))
	if _, err := os.Stat(pem); err == nil {
		t.Error("the plain file is still there")
	}
	w.guard(packager.GuardCredential)
	w.crosses()
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err = packager.Pack(t.Context(), w.options(filepath.Join(t.TempDir(), "m"), w.snapshot("alpha", sample("x"))))
	wantCode(t, err, "H-516")

	// Lost: the root keys make a new one, a plain file that says so.
	w.rotate(packager.Change{Bundle: true}, 2, 3)
	w.guard(packager.GuardFile)
	w.crosses()
	if err := packager.Protect(w.out, packager.GuardDPAPI, ""); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("DPAPI here: %v", err)
	}
	if err := packager.Protect(w.out, "vault", ""); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("an unknown guard: %v", err)
	}
	w.crosses()
}

// Handed over by systemd from the start, without a word of configuration.
func TestCredentialOfTheService(t *testing.T) {
	w := newWorld(t)
	creds := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	ok(t, os.Rename(filepath.Join(w.out.Keys(), "bundle.pem"), filepath.Join(creds, packager.CredentialName)))
	ok(t, os.Remove(filepath.Join(w.out.Keys(), "bundle.json")))
	w.guard(packager.GuardCredential)
	w.crosses()
}

// A key that never leaves its token signs by sigstore's plug-in protocol.
func TestPluginSigns(t *testing.T) {
	plugin(t)
	w := newWorld(t)
	w.crosses()
	key := filepath.Join(t.TempDir(), "key.pem")
	ok(t, exec.Command(tool(t, "openssl"), "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key).Run())
	for _, bad := range []string{"hsm://file=/nowhere", "absent://x", "no-scheme", "../hsm://file=" + key} {
		if _, err := packager.Rotate(w.outDB, w.keys[:2], packager.Change{Bundle: true, Plugin: bad}, nil, "t", w.now); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	w.crosses() // what was refused changed nothing
	w.rotate(packager.Change{Bundle: true, Plugin: "hsm://file=" + key}, 1, 3)
	g, ref, left, err := packager.BundleGuard(w.out)
	if err != nil || g != packager.GuardPlugin || !strings.HasSuffix(ref, key) || left {
		t.Errorf("kept as %s %s, copy left: %v, %v", g, ref, left, err)
	}
	w.crosses()
	if err := packager.Protect(w.out, packager.GuardFile, ""); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("out of the token: %v", err)
	}
	if _, err := packager.Rotate(w.outDB, w.keys[:2], packager.Change{Bundle: true}, nil, "t", w.now); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("rotated without naming the new key: %v", err)
	}
}

// The same with a PKCS #11 token: SoftHSM.
func TestSoftHSMSigns(t *testing.T) {
	softhsm := tool(t, "softhsm2-util")
	p11 := tool(t, "pkcs11-tool")
	plugin(t)
	dir := t.TempDir()
	module := ""
	for _, p := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so", "/usr/lib64/libsofthsm2.so"} {
		if _, err := os.Stat(p); err == nil {
			module = p
		}
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	ok(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	ok(t, os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", conf)
	t.Setenv("HASHIKE_HSM_MODULE", module)
	t.Setenv("HASHIKE_HSM_PIN", "1234")
	for _, args := range [][]string{
		{softhsm, "--init-token", "--free", "--label", "hashike", "--so-pin", "5678", "--pin", "1234"},
		{p11, "--module", module, "--token-label", "hashike", "--login", "--pin", "1234", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "bundle"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	w := newWorld(t)
	w.rotate(packager.Change{Bundle: true, Plugin: "hsm://hashike/bundle"}, 1, 2)
	w.crosses()
	t.Setenv("HASHIKE_HSM_PIN", "0000")
	if _, err := packager.Pack(t.Context(), w.options(filepath.Join(t.TempDir(), "m"), w.snapshot("alpha", sample("x")))); err == nil {
		t.Error("signed with a wrong PIN")
	}
}
