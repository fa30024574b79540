package verifier

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/mar/martest"
)

func marTrust(ders ...[]byte) feed.Trust {
	t := trustAt(testNow)
	for i, d := range ders {
		t.Anchors = append(t.Anchors, feed.Anchor{Name: "mar-" + strconv.Itoa(i), Use: UseMAR, Data: d})
	}
	return t
}

func checkMAR(b []byte, trust feed.Trust, channel string, versions ...string) (feed.Evidence, error) {
	return MAR(bytes.NewReader(b), int64(len(b)), MARIdentity{channel, versions}, trust)
}

// TestMARSamples: the vendor's own files under its own test certificates.
func TestMARSamples(t *testing.T) {
	cert := func(n string) []byte { return sample(t, "mozilla", "mar-certs", n+".der") }
	const none = "@MAR_CHANNEL_ID@"
	for _, c := range []struct {
		file, cert, channel, version, why string // why "": accepted
	}{
		{"libmar/signed_pib.mar", "mycert", none, "13.0a1", ""},
		{"libmar/signed_pib_with_mycert2.mar", "mycert2", none, "13.0a1", ""},
		{"libmar/signed_pib_with_mycert2.mar", "mycert", none, "13.0a1", "none of 1 pinned keys"},
		{"libmar/signed_pib.mar", "release_primary", none, "13.0a1", "none of 1 pinned keys"},
		{"libmar/signed_pib.mar", "mycert", "other", "13.0a1", "of channel"},
		{"libmar/signed_pib.mar", "mycert", none, "13.0a2", "of version"},
		{"libmar/multiple_signed_pib.mar", "mycert", none, "13.0a1", "with 3 signatures"},
		{"libmar/multiple_file.mar", "mycert", none, "13.0a1", "without a signature"},
		{"libmar/signed_no_pib.mar", "mycert", none, "13.0a1", "well-formed"},
		{"libmar/manipulated_signed.mar", "mycert", none, "13.0a1", "well-formed"},
		{"updater-tests/complete.mar", "xpcshellCertificate", "xpcshell-test", "*", ""},
		{"updater-tests/partial.mar", "xpcshellCertificate", "xpcshell-test", "*", ""},
		{"updater-tests/complete_mac.mar", "xpcshellCertificate", "xpcshell-test", "*", ""},
		{"updater-tests/partial_zucchini.mar", "xpcshellCertificate", "xpcshell-test", "*", ""},
		{"updater-tests/old_version.mar", "xpcshellCertificate", "xpcshell-test", "0", ""},
		{"build-mar/test-bz2.mar", "release_primary", "thunderbird-comm-esr", "100.0", "SHA-1 alone"}, // genuine, of the release key's older generation
	} {
		ev, err := checkMAR(sample(t, append([]string{"mozilla", "mar"}, strings.Split(c.file, "/")...)...), marTrust(cert(c.cert)), c.channel, c.version)
		if c.why == "" && (err != nil || ev.Strength != feed.Signed || ev.KeyID == "" || ev.Signer == "" || ev.Anchor != "mar-0") ||
			c.why != "" && (!errors.Is(err, feed.ErrUntrusted) || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s under %s: %+v, %v", c.file, c.cert, ev, err)
		}
	}
}

func TestMARRules(t *testing.T) {
	key, der := martest.NewKey(t, "Release MAR signing key 1")
	other, otherDER := martest.NewKey(t, "other")
	good := martest.Signed(t, key, "firefox-mozilla-esr", "140.12.0", martest.Member{Name: "x", Body: []byte("y")})
	info := [][]byte{martest.Info("firefox-mozilla-esr", "140.12.0")}
	member := martest.Member{Name: "x", Body: []byte("y")}
	trust := marTrust(der)
	if ev, err := checkMAR(good, marTrust(otherDER, der), "firefox-mozilla-esr", "140.12.0esr", "140.12.0"); err != nil || ev.Anchor != "mar-1" {
		t.Fatal(ev, err) // the second key will do
	}
	alg := martest.Make([]int{256}, info, member)
	alg[23] = 4
	twice := martest.Sign(t, martest.Make([]int{256, 256}, info, member), key, key)
	noInfo := martest.Sign(t, martest.Make([]int{256}, nil, member), key)
	hostile := martest.Make([]int{256}, info, martest.Member{Name: "../x"})
	for what, c := range map[string]struct {
		b     []byte
		trust feed.Trust
	}{
		"other key":           {martest.Signed(t, other, "firefox-mozilla-esr", "140.12.0", member), trust},
		"no key":              {good, trustAt(testNow)},
		"other algorithm":     {martest.Sign(t, alg, key), trust},
		"two signatures":      {twice, trust},
		"no information":      {noInfo, trust},
		"signed hostile name": {martest.Sign(t, hostile, key), trust},
		"signature too short": {martest.Sign(t, martest.Make([]int{255}, info, member), key), trust},
		"other product":       {martest.Signed(t, key, "thunderbird-comm-esr", "140.12.0", member), trust},
		"other version":       {martest.Signed(t, key, "firefox-mozilla-esr", "140.11.0", member), trust},
		"all zero":            {martest.Make([]int{256}, info, member), trust},
	} {
		if ev, err := checkMAR(c.b, c.trust, "firefox-mozilla-esr", "140.12.0"); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %+v, %v", what, ev, err)
		}
	}
	ev, err := checkMAR(good, trust, "firefox-mozilla-esr", "140.12.0")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{ev.KeyID, string(trust.For(UseMAR)[0].SHA256())} {
		trust.Distrust = []feed.Distrust{{KeyID: id}}
		if _, err := checkMAR(good, trust, "firefox-mozilla-esr", "140.12.0"); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("distrusted by %s: %v", id, err)
		}
	}
	if _, err := checkMAR(good, marTrust([]byte("no certificate")), "c", "1"); !errors.Is(err, feed.ErrConfig) {
		t.Error(err)
	}
}

// TestMARFlips: no bit of a signed archive can change. HASHIKE_MUTANTS is how
// many flips are tried; without it about two thousand.
func TestMARFlips(t *testing.T) {
	key, der := martest.NewKey(t, "key")
	b := martest.Signed(t, key, "c", "1", martest.Member{Name: "updatev3.manifest", Body: bytes.Repeat([]byte("m"), 200)}, martest.Member{Name: "x", Body: []byte("y")})
	trust := marTrust(der)
	if _, err := checkMAR(b, trust, "c", "1"); err != nil {
		t.Fatal(err)
	}
	many, _ := strconv.Atoi(os.Getenv("HASHIKE_MUTANTS"))
	step := max(1, len(b)*8/cmp.Or(many, 2000))
	for i := 0; i < len(b)*8; i += step {
		b[i/8] ^= 1 << (i % 8)
		if _, err := checkMAR(b, trust, "c", "1"); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("bit %d of byte %d: %v", i%8, i/8, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}
