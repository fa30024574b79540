package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// Each root is the one its comment names, signs itself and may sign others.
func TestCodeSigningRoots(t *testing.T) {
	all := CodeSigningAnchors("x509-code")
	names := map[string]bool{}
	for _, a := range all {
		p, _ := pem.Decode(a.Data)
		if p == nil || a.Use != "x509-code" || names[a.Name] {
			t.Fatalf("%+v", a)
		}
		names[a.Name] = true
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil || !c.IsCA || string(c.RawSubject) != string(c.RawIssuer) {
			t.Errorf("%s: %v", a.Name, err)
		} else if c.NotAfter.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s ended on %s", a.Name, c.NotAfter)
		}
		sum := sha256.Sum256(p.Bytes)
		if fp := strings.ToUpper(hex.EncodeToString(sum[:])); !strings.HasPrefix(a.Name, "microsoft-root") && !strings.HasPrefix(a.Name, "microsoft-timestamp") &&
			!strings.Contains(string(codeSigningRoots), "# "+a.Name+" "+fp+"\n") {
			t.Errorf("%s has the SHA-256 %s", a.Name, fp)
		}
	}
	if len(all) < 30 {
		t.Errorf("%d roots", len(all))
	}
}
