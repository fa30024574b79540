package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
	"github.com/hashike/hashike/internal/format/mar/martest"
)

// TestThunderbirdUpdatesFromTheMirror is the main line with a vendor that signs
// as Mozilla does, under keys that trust orders add: over bundles to terminals
// that know nothing but the printed policies.json.
func TestThunderbirdUpdatesFromTheMirror(t *testing.T) {
	now, dir := time.Now(), t.TempDir()
	key, cert := martest.NewKey(t, "Release MAR signing key 1")
	pgp := feedtest.NewSigner(t, "vendor", now.Add(-24*time.Hour))
	vendor := terminal.Vendor{T: t, Key: key, Sign: func(text []byte) []byte { return pgp.Detached(t, text, now.Add(-30*time.Hour), true) }}
	h := terminal.NewHistory(now)
	var files map[string][]byte
	var service http.Handler
	release := func(version string) { files, service = vendor.State(h.UpTo(version), []string{"win64 ja"}) }
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, ok := files[strings.TrimPrefix(r.URL.Path, "/")]; ok {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Write(b)
			return
		}
		service.ServeHTTP(w, r)
	}))
	defer up.Close()
	w := newWorld(t, fmt.Sprintf("[feed.thunderbird]\nkind = \"mozilla\"\nplatforms = [\"win64\"]\nlocales = [\"ja\"]\nversions = [\"115.17.0\", \"128.2.0\"]\ninstallers = [\"exe\"]\nservice = %q\narchive = %q\n",
		up.URL+"/aus", up.URL+"/pub"))
	for use, b := range map[string][]byte{"mar": cert, "openpgp": pgp.Anchor.Data} {
		file := filepath.Join(dir, use+".key")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		w.outside("order", "trust", "--feed", "thunderbird", "--use", use, "--anchor", file, "--reason", "試験", "--approver", "課長",
			"--root-key", w.path("envelopes", "root-key-1.txt"), "--root-key", w.path("envelopes", "root-key-2.txt"))
	}
	release("128.3.0")
	w.carry()
	base := w.serve()
	out := w.inside("client", "thunderbird", "--base", base)
	for _, want := range []string{"HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Mozilla\\Thunderbird", "policies.json", "REG_SZ"} {
		if !strings.Contains(out, want) {
			t.Errorf("the settings do not say %s:\n%s", want, out)
		}
	}
	_, policies, _ := strings.Cut(out, "\n{")
	policies, _, _ = strings.Cut("{"+policies, "\n}")
	start := func(version string) *terminal.Terminal {
		p, _ := h.Find(version)
		return &terminal.Terminal{Do: http.DefaultClient.Do, Policies: policies + "}", Version: version, Build: p.Build, Target: "WINNT_x86_64-msvc-x64", Locale: "ja",
			Cert: cert, Channels: []string{terminal.Channel}}
	}
	update := func(x *terminal.Terminal, took ...string) {
		t.Helper()
		for more := true; more; {
			var err error
			if more, err = x.Check(); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(x.Took, took) || x.Code != 0 {
			t.Errorf("took %q, code %d, want %q", x.Took, x.Code, took)
		}
	}
	old, lagging := start("115.17.0"), start("128.2.0")
	update(old, "partial 115.18.0", "complete 128.3.0")
	update(lagging, "partial 128.3.0")
	// The next release: those that were kept up take the small file.
	release("128.4.0")
	w.outside("fetch", "--now")
	w.pack()
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	ask := base + "/thunderbird/update/6/Thunderbird/128.3.0/2/WINNT_x86_64-msvc-x64/ja/esr/x/update.xml"
	for range 100 {
		if _, b := get(t, ask); strings.Contains(string(b), "128.4.0") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	update(lagging, "partial 128.3.0", "partial 128.4.0")
	update(start("128.1.0"), "complete 128.4.0")
	update(start("128.4.0"))
	card := w.inside("origin", "thunderbird:thunderbird/releases/128.4.0esr/update/win64/ja/thunderbird-128.4.0esr.complete.mar")
	for _, want := range []string{"Release MAR signing key 1", "SHA256SUMS", up.URL} {
		if !strings.Contains(card, want) {
			t.Errorf("the origin card does not say %q:\n%s", want, card)
		}
	}
}
