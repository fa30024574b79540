package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
	"github.com/hashike/hashike/internal/format/appx/appxtest"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
)

// wingetShop is both sides with a town's own app package, a vendor's MSI and
// the winget source over both.
type wingetShop struct {
	*world
	town   *appxtest.Publisher
	msi    []byte
	client *http.Client
	at     string
}

func newWingetShop(t *testing.T) *wingetShop {
	dir := os.Getenv("HASHIKE_SAMPLES")
	if dir == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	msi, err := os.ReadFile(filepath.Join(dir, "windows", "msi", "ms_vc10_vc_red_x86.msi"))
	if err != nil {
		missing(t, err.Error())
	}
	tools, key := signedTree(t, map[string]string{"vc_red.msi": string(msi), "setup.exe": string(nullsoft(t)), "readme.txt": "read"})
	x := &wingetShop{town: appxtest.NewPublisher("試験町", time.Now()), msi: msi}
	apps := t.TempDir()
	x.world = newWorld(t, treeBlock(tools)+fmt.Sprintf("\n[feed.apps]\nkind = \"msix\"\ndir = \"apps\"\npublishers = [\"試験町\"]\ndirs = { apps = %q }\n\n"+
		"[feed.winget]\nkind = \"winget\"\nfeeds = [\"apps\", \"tools\"]\nidentifier = \"Hashike.Shiken\"\n", filepath.ToSlash(apps)))
	x.trustTree(key)
	root := filepath.Join(t.TempDir(), "town.pem")
	if err := os.WriteFile(root, x.town.Root, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := filepath.Glob(x.path("envelopes", "root-key-*.txt"))
	if err != nil || len(keys) != 3 {
		t.Fatal(keys, err)
	}
	x.outside("order", "trust", "--feed", "apps", "--use", "x509-msix", "--anchor", root, "--reason", "試験", "--approver", "課長", "--root-key", keys[0], "--root-key", keys[2])
	x.configure(inside, "[[listen]]\naddr = \"127.0.0.1:0\"\ntls = true\n")
	x.put(apps, "1.0.0.0")
	return x
}

// nullsoft is a genuine installer that NSIS builds.
func nullsoft(t *testing.T) []byte {
	t.Helper()
	tool, dir := need(t, "makensis"), t.TempDir()
	script := "\ufeffUnicode true\nName \"Tool\"\nOutFile \"setup.exe\"\nVIProductVersion \"2.1.0.0\"\n"
	for k, v := range map[string]string{"ProductName": "Shiken Tool", "CompanyName": "Shiken", "ProductVersion": "2.1", "FileVersion": "2.1"} {
		script += "VIAddVersionKey /LANG=1033 " + k + " \"" + v + "\"\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "x.nsi"), []byte(script+"Section\nSectionEnd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "-V1", "x.nsi")
	cmd.Dir = dir
	must(t, cmd)
	b, err := os.ReadFile(filepath.Join(dir, "setup.exe"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (x *wingetShop) pack1(version string) []byte {
	return x.town.Sign(appxtest.Build(appxtest.Spec{
		Identity: appx.Identity{Name: "Shiken.App", Publisher: x.town.Name, Version: version, Architecture: "x64"}, Display: "試験アプリ", Vendor: "試験町",
		Depends: []appx.Dependency{{Name: "Shiken.Framework", Publisher: x.town.Name, Min: "1.0.0.0"}}, Files: map[string][]byte{"a.txt": []byte(version)},
	}))
}

func (x *wingetShop) put(dir, version string) {
	x.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "app-"+version+".msix"), x.pack1(version), 0o600); err != nil {
		x.t.Fatal(err)
	}
}

// serveTLS starts the mirror with the listeners of its configuration; the last
// is the one with the private CA.
func (x *wingetShop) serveTLS() {
	x.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var errs bytes.Buffer
	s, err := testApp(x.t, x.path(inside), &errs).open("serve", inside)
	if err != nil {
		x.t.Fatal(err)
	}
	ready, done := make(chan []net.Addr, 1), make(chan error, 1)
	go func() { done <- s.serve(ctx, nil, func(at []net.Addr) { ready <- at }) }()
	select {
	case err := <-done:
		x.t.Fatal(err, errs.String())
	case at := <-ready:
		x.at = "https://" + at[len(at)-1].String()
	}
	ca, err := os.ReadFile(mirror.CAPath(state.Dir(x.path(inside))))
	if err != nil {
		x.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	x.client = &http.Client{Transport: transport}
	x.t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		<-done
		s.close()
	})
}

func (x *wingetShop) call(method, at, body string) (int, []byte) {
	x.t.Helper()
	r, err := http.NewRequest(method, at, strings.NewReader(body))
	if err != nil {
		x.t.Fatal(err)
	}
	r.Header.Set("Version", "1.10.0")
	res, err := x.client.Do(r)
	if err != nil {
		x.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	return res.StatusCode, b
}

// upgrade follows the client's calls for one installed program: search by what
// Windows knows of it, manifest, download, hash.
func (x *wingetShop) upgrade(field, word string) (id, version string, file []byte) {
	x.t.Helper()
	body := fmt.Sprintf(`{"Inclusions":[{"PackageMatchField":%q,"RequestMatch":{"KeyWord":%q,"MatchType":"Exact"}}]}`, field, word)
	code, b := x.call("POST", x.at+"/winget/manifestSearch", body)
	if code == http.StatusNoContent {
		return "", "", nil
	}
	var found struct {
		Data []struct {
			PackageIdentifier string
			Versions          []struct{ PackageVersion string }
		}
	}
	if err := json.Unmarshal(b, &found); err != nil || code != http.StatusOK || len(found.Data) != 1 {
		x.t.Fatalf("search: %d %s", code, b)
	}
	id, version = found.Data[0].PackageIdentifier, found.Data[0].Versions[0].PackageVersion
	code, b = x.call("GET", x.at+"/winget/packageManifests/"+id+"?Version="+version, "")
	var m struct {
		Data struct {
			Versions []struct {
				Installers []struct{ InstallerUrl, InstallerSha256, InstallerType string }
			}
		}
	}
	if err := json.Unmarshal(b, &m); err != nil || code != http.StatusOK || len(m.Data.Versions) != 1 {
		x.t.Fatalf("manifest of %s: %d %s", id, code, b)
	}
	i := m.Data.Versions[0].Installers[0]
	if !strings.HasPrefix(i.InstallerUrl, x.at+"/winget/installers/") {
		x.t.Fatalf("installer at %s, asked at %s", i.InstallerUrl, x.at)
	}
	code, file = x.call("GET", i.InstallerUrl, "")
	if code != http.StatusOK || !strings.EqualFold(feed.DigestOf(file).Hex(), i.InstallerSha256) {
		x.t.Fatalf("%s: %d, hash of %d bytes", i.InstallerUrl, code, len(file))
	}
	return id, version, file
}

// TestWinget: an MSI and an app package, carried across, come to a terminal
// through the winget source over TLS, and follow the publications.
func TestWinget(t *testing.T) {
	x := newWingetShop(t)
	x.carry()
	share := filepath.Join(t.TempDir(), "share")
	if out := x.inside("export", "tools", "--to", share); !strings.Contains(out, "install.cmd") && !strings.Contains(out, "導入ファイル") {
		t.Errorf("export says:\n%s", out)
	}
	if b, err := os.ReadFile(filepath.Join(share, "list.csv")); err != nil || !strings.Contains(string(b), "Shiken") || !strings.Contains(string(b), "/S") {
		t.Errorf("%v, the list on the share:\n%s", err, b)
	}
	if out := x.inside("coverage"); !strings.Contains(out, "一太郎") || !strings.Contains(out, "条件付き") || !strings.Contains(out, "apps") {
		t.Errorf("coverage says:\n%s", out)
	}
	x.serveTLS()
	if code, b := x.call("GET", x.at+"/winget/information", ""); code != http.StatusOK || !bytes.Contains(b, []byte(`"SourceIdentifier":"Hashike.Shiken"`)) {
		t.Fatalf("information: %d %s", code, b)
	}
	family := strings.ToLower(appx.Identity{Name: "Shiken.App", Publisher: x.town.Name}.FamilyName())
	id, version, file := x.upgrade("PackageFamilyName", family)
	if id != "Shiken.App" || version != "1.0.0.0" || !bytes.Contains(file, []byte("AppxSignature.p7x")) {
		t.Errorf("%s %s, %d bytes", id, version, len(file))
	}
	id, _, file = x.upgrade("NormalizedPackageNameAndPublisher", "Microsoft Visual C++ 2010  x86 Redistributable - 10.0.40219")
	if !strings.HasPrefix(id, "MicrosoftCorporation.MicrosoftVisualC++2010") || !bytes.Equal(file, x.msi) {
		t.Errorf("%s: %d bytes of %d", id, len(file), len(x.msi))
	}
	id, version, file = x.upgrade("NormalizedPackageNameAndPublisher", "Shiken Tool 2.0 (x86)")
	if id != "Shiken.ShikenTool" || version != "2.1" || !bytes.HasPrefix(file, []byte("MZ")) {
		t.Errorf("%s %s, %d bytes", id, version, len(file))
	}
	_, _, app := x.upgrade("PackageFamilyName", family)
	card := x.inside("origin", string(feed.DigestOf(app)))
	for _, says := range []string{"package Shiken.App_1.0.0.0_x64_", "town.pem", "needs, and this feed does not have: Shiken.Framework 1.0.0.0"} {
		if !strings.Contains(card, says) {
			t.Errorf("the card does not say %q:\n%s", says, card)
		}
	}
	// App Installer's own way to the same package.
	code, b := x.call("GET", x.at+"/apps/shiken.app.appinstaller", "")
	if code != http.StatusOK || !bytes.Contains(b, []byte(`Version="1.0.0.0" Uri="`+x.at+`/apps/shiken.app.appinstaller"`)) {
		t.Errorf("appinstaller: %d %s", code, b)
	}
	for _, name := range []string{"winget", "apps"} {
		if out := x.inside("client", name, "--base", "https://hashike.town.example"); !strings.Contains(out, "https://hashike.town.example/"+name) {
			t.Errorf("client %s:\n%s", name, out)
		}
	}
	// The next version, and one that is no longer put there.
	apps := filepath.Dir(x.glob("app-1.0.0.0.msix"))
	x.put(apps, "1.1.0.0")
	if err := os.Remove(filepath.Join(apps, "app-1.0.0.0.msix")); err != nil {
		t.Fatal(err)
	}
	x.carry()
	for range 100 {
		if _, version, _ = x.upgrade("PackageFamilyName", family); version == "1.1.0.0" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if version != "1.1.0.0" {
		t.Errorf("after the next bundle: %s", version)
	}
	x.inside("withdraw", "tools", "--reason", "試験")
	for range 100 {
		if id, _, _ = x.upgrade("NormalizedPackageNameAndPublisher", "Microsoft Visual C++ 2010  x86 Redistributable - 10.0.40219"); id == "" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if id != "" {
		t.Errorf("withdrawn, and still offered: %s", id)
	}
}

// glob finds the one file of that name below the apps folder of the configuration.
func (x *wingetShop) glob(name string) string {
	x.t.Helper()
	b, err := os.ReadFile(x.path(outside, "hashike.toml"))
	if err != nil {
		x.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), `dirs = { apps = "`)
	dir, _, _ := strings.Cut(rest, `"`)
	return filepath.Join(filepath.FromSlash(dir), name)
}
