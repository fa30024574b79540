package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed/feedtest"
)

const (
	acrobat   = "{AC76BA86-1033-FF00-7760-BC15014EA700}"
	quarterly = "25.001.20428"
	newest    = "25.001.20577"
)

// shelf is vendors' web servers, and a folder of downloads.
type shelf struct {
	adobe, google, just *feedtest.Publisher
	files               map[string][]byte // by path on the server
	downloads           string
}

func newShelf(t *testing.T) (*shelf, *httptest.Server) {
	at := time.Now()
	s := &shelf{feedtest.NewPublisher(t, "x509-code", "Adobe Inc.", at), feedtest.NewPublisher(t, "x509-code", "Google LLC", at),
		feedtest.NewPublisher(t, "x509-code", "JustSystems Corporation", at), map[string][]byte{}, t.TempDir()}
	program := func(by *feedtest.Publisher, v [4]uint16, text string) []byte {
		return by.Program(t, feedtest.UnsignedProgram(v, 0x14c, 1, []byte(text)), at)
	}
	patch := func(from, to string) []byte {
		return s.adobe.Patch(t, acrobat, []string{acrobat}, acrobat+from+";"+acrobat+to+";"+acrobat)
	}
	const acro = "/pub/acrobat/win/AcrobatDC/"
	s.files["/arm/win/AcrobatDC/reader/current_version.txt"] = []byte(newest)
	s.files[acro+"2500120428/AcroRdrDCx642500120428_MUI.exe"] = program(s.adobe, [4]uint16{25, 1, 20428}, "Reader")
	s.files[acro+"2500120428/AcroRdrDCx64Upd2500120428_MUI.msp"] = patch("15.007.20033", quarterly)
	s.files[acro+"2500120577/AcroRdrDCx64Upd2500120577_MUI.msp"] = patch(quarterly, newest)
	s.files["/chrome/googlechromestandaloneenterprise64.msi"] = s.google.Installer(t, map[string]string{"ProductName": "Google Chrome", "Manufacturer": "Google LLC", "ProductVersion": "69.1.1",
		"ProductCode": "{8A69D345-D564-463C-AFF1-A69D9E530F96}", "UpgradeCode": "{C1DFDF69-5945-32F2-A35E-EE94C99C7CF4}", "ALLUSERS": "1"}, map[int]string{6: "137.0.7151.104 Copyright", 7: "x64;1033"})
	s.files["/support"] = []byte("<ul><li>2026.03.15 一太郎2026 アップデートモジュール</li></ul>")
	for name, b := range map[string][]byte{"tar2026up.exe": program(s.just, [4]uint16{36, 0, 1, 0}, "module"), "stranger.exe": program(s.google, [4]uint16{36, 0, 2, 0}, "module")} {
		if err := os.WriteFile(filepath.Join(s.downloads, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := s.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", at, strings.NewReader(string(b)))
	}))
	t.Cleanup(server.Close)
	return s, server
}

// trustRoot adds a publisher's root for one feed, as two holders of root keys may.
func (w *world) trustRoot(name string, by *feedtest.Publisher) {
	w.t.Helper()
	root := filepath.Join(w.t.TempDir(), name+".pem")
	if err := os.WriteFile(root, by.Anchor.Data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	keys, err := filepath.Glob(w.path("envelopes", "root-key-*.txt"))
	if err != nil || len(keys) != 3 {
		w.t.Fatal(keys, err)
	}
	w.outside("order", "trust", "--feed", name, "--use", "x509-code", "--anchor", root, "--reason", "試験", "--approver", "課長", "--root-key", keys[0], "--root-key", keys[2])
}

// TestDesktop: Acrobat with its patches, Chrome and a module that a person
// handed in come to a terminal; what is not theirs is refused.
func TestDesktop(t *testing.T) {
	s, server := newShelf(t)
	drop := filepath.Join(t.TempDir(), "drop")
	w := newWorld(t, fmt.Sprintf("[feed.adobe]\nkind = \"adobe\"\noracle = %[1]q\ncatalogue = \"\"\narchive = %[2]q\n\n"+
		"[feed.chrome]\nkind = \"chromium\"\nchrome_url = %[3]q\n\n"+
		"[feed.just]\nkind = \"intake\"\ndir = \"drop\"\ndirs = { drop = %[4]q }\npublishers = { ichitaro2026 = \"JustSystems Corporation\" }\nwatch = { support = %[5]q }\n\n"+
		"[feed.winget]\nkind = \"winget\"\nfeeds = [\"adobe\", \"chrome\", \"just\"]\nidentifier = \"Hashike.Shiken\"\n",
		server.URL+"/arm", server.URL+"/pub", server.URL+"/chrome", filepath.ToSlash(drop), server.URL+"/support"))
	w.configure(inside, "[[listen]]\naddr = \"127.0.0.1:0\"\ntls = true\n")
	for name, by := range map[string]*feedtest.Publisher{"adobe": s.adobe, "chrome": s.google, "just": s.just} {
		w.trustRoot(name, by)
	}
	w.fails(exitHeld, "H-630", "--data", w.path(outside), "fetch", "adobe")
	w.outside("terms", "accept", "adobe", "--yes")

	// A file by somebody else, though its root is trusted elsewhere, leaves nothing.
	add := func(file string, more ...string) []string {
		return append([]string{"--data", w.path(outside), "intake", "add", "just", filepath.Join(s.downloads, file), "--product", "ichitaro2026", "--version", "2026.03.15"}, more...)
	}
	if said := w.fails(exitUntrusted, "H-631", add("stranger.exe")...); !strings.Contains(said, "Google LLC") {
		t.Errorf("the signer is not shown:\n%s", said)
	}
	if left, err := os.ReadDir(drop); err != nil || len(left) > 0 {
		t.Errorf("a refused file left %v %v", left, err)
	}
	w.fails(exitConfig, "H-205", "--data", w.path(outside), "intake", "add", "just", filepath.Join(s.downloads, "tar2026up.exe"), "--product", "hanako", "--version", "1")
	out := w.ok("", add("tar2026up.exe", "--name", "一太郎2026 アップデートモジュール", "--vendor", "株式会社ジャストシステム", "--silent", "/s", "--id", "JustSystems.Ichitaro2026")...)
	if !strings.Contains(out, "JustSystems Corporation") || !strings.Contains(out, "36.0.1.0") {
		t.Errorf("intake add says\n%s", out)
	}
	x := &wingetShop{world: w}
	x.carry()
	x.serveTLS()

	id, version, file := x.upgrade("ProductCode", strings.ToLower(acrobat))
	if id != "Adobe.Acrobat.Reader.64-bit" || version != quarterly || string(file) != string(s.files["/pub/acrobat/win/AcrobatDC/2500120428/AcroRdrDCx642500120428_MUI.exe"]) {
		t.Errorf("%s %s, %d bytes", id, version, len(file))
	}
	if id, version, _ = x.upgrade("ProductCode", "{8a69d345-d564-463c-aff1-a69d9e530f96}"); id != "Google.Chrome" || version != "137.0.7151.104" {
		t.Errorf("%s %s", id, version)
	}
	id, version, file = x.upgrade("PackageIdentifier", "JustSystems.Ichitaro2026")
	if id != "JustSystems.Ichitaro2026" || version != "2026.3.15" || !strings.HasPrefix(string(file), "MZ") {
		t.Errorf("%s %s, %d bytes", id, version, len(file))
	}
	// The patches, in their order.
	code, b := x.call("GET", x.at+"/adobe/route.json?product=reader-x64&language=MUI&installed=24.005.20320", "")
	if code != http.StatusOK || strings.Index(string(b), quarterly) < 0 || strings.Index(string(b), newest) < strings.Index(string(b), quarterly) {
		t.Errorf("route: %d %s", code, b)
	}
	for _, name := range []string{"adobe", "just"} {
		if out := w.inside("client", name, "--base", "https://hashike.town.example"); !strings.Contains(out, "https://hashike.town.example/"+name) {
			t.Errorf("client %s:\n%s", name, out)
		}
	}
	// A new title on the watched page is told, and nothing else.
	w.now = func() time.Time { return time.Now().Add(time.Hour) }
	s.files["/support"] = append([]byte("<p>2026.04.01 一太郎2026 セキュリティ更新</p>"), s.files["/support"]...)
	if out := w.outside("fetch", "just"); !strings.Contains(out, "2026.04.01 一太郎2026 セキュリティ更新") || strings.Contains(out, "2026.03.15 一太郎") {
		t.Errorf("the new title is not told:\n%s", out)
	}
	if out := w.outside("status"); !strings.Contains(out, "2026.04.01 一太郎2026 セキュリティ更新") {
		t.Errorf("status:\n%s", out)
	}
}
