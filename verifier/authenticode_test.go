package verifier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

func microsoftTrust() feed.Trust {
	return feed.Trust{Anchors: MicrosoftAnchors(), At: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)}
}

func checkCAB(b []byte, trust feed.Trust) (feed.Evidence, error) {
	return Authenticode(bytes.NewReader(b), int64(len(b)), Microsoft(), trust)
}

// signedCabs are genuine cabinets of Microsoft's, dual-signed and not.
var signedCabs = []string{
	"microsoft/msu-kb2999226/win8.1/WSUSSCAN.cab",
	"microsoft/msu-kb2999226/win8.1/Windows8.1-KB2999226-x64.cab",
	"microsoft/msu-kb2999226/win6.1/WSUSSCAN.cab",
	"microsoft/msu-kb2999226/win6.1/Windows6.1-KB2999226-x64.cab",
	"microsoft/office-c2r/492350F6-3A01-4F97-B9C0-C7C6DDF67D60/v64.cab",
	"microsoft/office-c2r/ofl.cab",
	"microsoft/office-c2r/releasehistory.cab",
}

func TestAuthenticodeCAB(t *testing.T) {
	for _, name := range signedCabs {
		ev, err := checkCAB(sample(t, name), microsoftTrust())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if ev.Strength != feed.Signed || ev.Signer != microsoftName || ev.Anchor == "" || ev.SignedAt.IsZero() || ev.KeyID == "" {
			t.Errorf("%s: %+v", name, ev)
		}
	}
	for _, name := range []string{"microsoft/wsusscn2/wsusscn2.cab", "windows/cab/relic_dummy_unsigned.cab"} {
		if _, err := checkCAB(sample(t, name), microsoftTrust()); !errors.Is(err, ErrUnsigned) || !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := checkCAB(sample(t, "windows/cab/authrootstl.cab"), microsoftTrust()); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("authrootstl.cab holds a trust list and is signed for that only: %v", err)
	}
}

func TestAuthenticodeTrust(t *testing.T) {
	b := sample(t, signedCabs[0])
	ev, err := checkCAB(b, microsoftTrust())
	if err != nil {
		t.Fatal(err)
	}
	refused := func(why string, b []byte, change func(*feed.Trust)) {
		t.Helper()
		tr := microsoftTrust()
		change(&tr)
		if _, err := checkCAB(b, tr); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", why, err)
		}
	}
	refused("other roots", b, func(tr *feed.Trust) { tr.Anchors = tr.Anchors[1:] })
	refused("distrusted by order", b, func(tr *feed.Trust) { tr.Distrust = []feed.Distrust{{KeyID: ev.KeyID}} })
	refused("stamped after the snapshot was taken", b, func(tr *feed.Trust) { tr.At = ev.SignedAt.Add(-48 * time.Hour) })
	refused("bytes behind the signature", append(bytes.Clone(b), 0), func(*feed.Trust) {})
	// Without its time stamp, the certificate has expired.
	stamp := []byte{0x06, 0x0A, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x03, 0x03, 0x01}
	i := bytes.LastIndex(b, stamp)
	if i < 0 {
		t.Fatal("no time stamp in the sample")
	}
	bare := bytes.Clone(b)
	bare[i+11] = 0x7F
	refused("expired without a time stamp", bare, func(*feed.Trust) {})
	tr := microsoftTrust()
	tr.At = ev.SignedAt
	if _, err := checkCAB(bare, tr); err != nil {
		t.Errorf("within the certificate's life, without a time stamp: %v", err)
	}
	if _, err := checkCAB(b, feed.Trust{At: tr.At}); !errors.Is(err, feed.ErrUntrusted) && !errors.Is(err, feed.ErrConfig) {
		t.Errorf("without roots: %v", err)
	}
}

// TestAuthenticodeAsOsslsigncode compares verdicts on flipped bits. Three
// disagreements are policy. Bits that no signature covers must be as every tool
// writes them (we refuse more). Where a SHA-256 signature is nested in one with
// SHA-1, damage to the outer one alone does not matter (we refuse less), and
// damage to the nested one does, though SHA-1 still holds (we refuse more).
func TestAuthenticodeAsOsslsigncode(t *testing.T) {
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		missing(t, "osslsigncode is not here")
	}
	roots := filepath.Join(os.Getenv("HASHIKE_SAMPLES"), "microsoft", "roots", "ms-trusted-roots-all.pem")
	rnd := rand.New(rand.NewPCG(7, 7))
	dir := t.TempDir()
	ask := func(b []byte) bool {
		p := filepath.Join(dir, "x.cab")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "verify", "-in", p, "-CAfile", roots, "-TSA-CAfile", roots, "-ignore-crl").CombinedOutput()
		return err == nil && strings.Contains(string(out), "Succeeded")
	}
	for _, name := range signedCabs {
		good := sample(t, name)
		if !ask(good) {
			t.Fatalf("osslsigncode refuses %s", name)
		}
		end := int(binary.LittleEndian.Uint32(good[8:]))
		nested := bytes.Index(good[end:], []byte{0x06, 0x0A, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x04, 0x01})
		both := map[string]int{}
		for i := range 16 {
			at := rnd.IntN(end)
			switch i % 4 {
			case 0:
				at = rnd.IntN(80)
			case 1, 2:
				at = end + rnd.IntN(len(good)-end)
			}
			b := bytes.Clone(good)
			b[at] ^= 1 << rnd.IntN(8)
			_, err := checkCAB(b, microsoftTrust())
			if err != nil && !errors.Is(err, feed.ErrUntrusted) {
				t.Errorf("%s, byte %d: %v", name, at, err)
			}
			ours, theirs := err == nil, ask(b)
			both[fmt.Sprintf("ours %v, theirs %v", ours, theirs)]++
			switch {
			case ours == theirs:
			case theirs && at < 60: // not covered
			case ours && nested > 0 && at >= end && at < end+nested: // of the SHA-1 signature only
			case theirs && nested > 0 && at >= end+nested: // SHA-1 is enough for it
			default:
				t.Errorf("%s, byte %d of %d (signature at %d, nested at %d): ours %v (%v), osslsigncode's %v", name, at, len(b), end, end+nested, ours, err, theirs)
			}
			if ours && at < end {
				t.Errorf("%s: byte %d of the cabinet changed, accepted", name, at)
			}
		}
		t.Logf("%s: %v", name, both)
	}
}

func FuzzAuthenticode(f *testing.F) {
	if os.Getenv("HASHIKE_SAMPLES") != "" {
		b := sample(f, signedCabs[5])
		f.Add(b)
	}
	f.Add([]byte("MSCF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := checkCAB(b, microsoftTrust()); err != nil && !errors.Is(err, feed.ErrUntrusted) {
			t.Fatal(err)
		}
	})
}
