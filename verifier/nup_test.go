package verifier

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/nup/nuptest"
)

var moduleInfo = []string{"name=ENGINE0", "version=13573 (20160531)", "versionid=13573", "build=29000", "type=engine", "level=0"}

func module(t testing.TB) (*nuptest.Signer, time.Time, feed.Trust) {
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	s := nuptest.New(t, at.AddDate(-1, 0, 0))
	return s, at, feed.Trust{At: at.AddDate(0, 0, 1), Anchors: []feed.Anchor{{Name: "test", Use: UseESET, Data: []byte(s.Fingerprint)}}}
}

func TestESETModule(t *testing.T) {
	s, at, trust := module(t)
	keys := []string{s.Fingerprint}
	for _, old := range []bool{true, false} {
		b := s.Module(t, moduleInfo, bytes.Repeat([]byte("x"), 2000), at, old)
		info, ev, err := ESETModule(bytes.NewReader(b), int64(len(b)), keys, trust)
		if err != nil || ev.Strength != feed.Signed || ev.KeyID != s.Fingerprint || !ev.SignedAt.Equal(at) || !bytes.Contains(info, []byte("\nversionid=13573\r\n")) || bytes.Contains(info, []byte("update_data")) {
			t.Fatalf("old %v: %q %+v %v", old, info, ev, err)
		}
		for why, f := range map[string]func() error{
			"not confirmed": func() error { _, _, err := ESETModule(bytes.NewReader(b), int64(len(b)), nil, trust); return err },
			"not pinned": func() error {
				_, _, err := ESETModule(bytes.NewReader(b), int64(len(b)), keys, feed.Trust{At: trust.At})
				return err
			},
			"future": func() error {
				_, _, err := ESETModule(bytes.NewReader(b), int64(len(b)), keys, feed.Trust{At: at.AddDate(0, 0, -3), Anchors: trust.Anchors})
				return err
			},
			"distrusted": func() error {
				_, _, err := ESETModule(bytes.NewReader(b), int64(len(b)), keys, feed.Trust{At: trust.At, Anchors: trust.Anchors, Distrust: []feed.Distrust{{KeyID: s.Fingerprint}}})
				return err
			},
			"grown": func() error {
				_, _, err := ESETModule(bytes.NewReader(append(bytes.Clone(b), 0)), int64(len(b)+1), keys, trust)
				return err
			},
		} {
			if err := f(); !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s: %v", why, err)
			}
		}
	}
	other := nuptest.New(t, at).Module(t, moduleInfo, []byte("data"), at, true)
	if _, _, err := ESETModule(bytes.NewReader(other), int64(len(other)), keys, trust); !errors.Is(err, feed.ErrUntrusted) || IsESETEnvelope(err) {
		t.Errorf("another key: %v", err)
	}
	if _, _, err := ESETModule(bytes.NewReader([]byte("PK\x03\x04")), 4, keys, trust); !IsESETEnvelope(err) || !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("another envelope: %v", err)
	}
}

// Each one-bit mutant is refused, but for those in bytes that the format leaves
// without any protection that can be checked (see ESETModule); and there the
// proof is the same.
func TestESETModuleMutants(t *testing.T) {
	s, at, trust := module(t)
	b := s.Module(t, moduleInfo, []byte("module_full.dat of this test"), at, true)
	cert := 4 + len(s.Certificate)
	public := 4 + bytes.Index(s.Certificate, []byte("Test Update")) - 2 // before it the key packet: covered by its fingerprint
	literal := bytes.Index(b, []byte("b\x0fem005"))
	numbers := bytes.LastIndex(b, append([]byte{0, 159}, bytes.Repeat([]byte{0x5A}, 20)...))
	if literal < 0 || numbers < 0 {
		t.Fatal("the module is not laid out as this test believes")
	}
	loose := func(i int) bool {
		switch {
		case i >= public && i < cert: // user name and certifications
		case i == cert+14 || i == cert+29: // "last one" of the one-pass packets
		case i > literal+1 && i < literal+2+15+4: // name and date
		case i >= numbers: // of the second signature
		default:
			return false
		}
		return true
	}
	want, wantEv, err := ESETModule(bytes.NewReader(b), int64(len(b)), []string{s.Fingerprint}, trust)
	if err != nil {
		t.Fatal(err)
	}
	wantEv.Signer = ""
	through := 0
	for i := range b {
		for bit := range 8 {
			if testing.Short() && bit != i%8 { // under the race detector one bit of each byte
				continue
			}
			b[i] ^= 1 << bit
			info, ev, err := ESETModule(bytes.NewReader(b), int64(len(b)), []string{s.Fingerprint}, trust)
			b[i] ^= 1 << bit
			if err != nil {
				continue
			}
			through++
			if ev.Signer = ""; !loose(i) || !bytes.Equal(info, want) || ev != wantEv {
				t.Errorf("byte %d bit %d: accepted", i, bit)
			}
		}
	}
	t.Logf("%d mutants, %d changed nothing that is covered", 8*len(b), through)
}

// GnuPG reads what follows the wrapper, and agrees.
func TestESETModuleAsGnuPGReadsIt(t *testing.T) {
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("no gpg")
		}
		t.Skip("no gpg")
	}
	s, at, _ := module(t)
	b := s.Module(t, moduleInfo, []byte("data"), at, true)
	home := t.TempDir()
	run := func(in []byte, args ...string) string {
		c := exec.Command(gpg, append([]string{"--homedir", home, "--batch", "--status-fd", "1"}, args...)...)
		c.Stdin = bytes.NewReader(in)
		out, _ := c.Output() // the second signature's key is nobody's: exit code 2
		return string(out)
	}
	run(s.Certificate, "--import")
	whole := filepath.Join(home, "m")
	if err := os.WriteFile(whole, b[4+len(s.Certificate):], 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(nil, "--verify", whole); !bytes.Contains([]byte(out), []byte("GOODSIG "+s.Fingerprint[24:])) {
		t.Errorf("GnuPG says\n%s", out)
	}
	b[bytes.Index(b, []byte("versionid"))] ^= 1
	if err := os.WriteFile(whole, b[4+len(s.Certificate):], 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(nil, "--verify", whole); bytes.Contains([]byte(out), []byte("GOODSIG")) {
		t.Errorf("of a mutant GnuPG says\n%s", out)
	}
}
