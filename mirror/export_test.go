package mirror_test

import (
	"context"
	"encoding/csv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/mirror"
)

// shelf is a feed whose installers are described beside it.
type shelf struct {
	plain
	list []feed.Installer
}

func (s shelf) Installers(c feed.Content) (out []feed.Installer, err error) {
	for _, i := range s.list {
		if _, ok := c.Lookup(i.Path); ok {
			out = append(out, i)
		}
	}
	return out, nil
}

// software is Acrobat from a quarterly build to the newest, Chrome in two
// versions, and a product that somebody dropped, with a Japanese name.
func software() []feed.Installer {
	of := func(path, id, version, kind, silent string) feed.Installer {
		return feed.Installer{Path: path, ID: id, Name: id, Publisher: "p", Version: version, Arch: "x64", Type: kind, Silent: silent}
	}
	ichitaro := of("一太郎2026 更新.exe", "JustSystems.Ichitaro", "36.0.2", "exe", "/s /v\"100%\"")
	ichitaro.Locale, ichitaro.Success = "ja-JP", []int{5}
	return []feed.Installer{
		of("acro/AcrobatDCx64Upd2500120693.msp", "Adobe.Acrobat", "25.001.20693", "msp", ""),
		of("acro/AcrobatDCx64Upd2500120432.msp", "Adobe.Acrobat", "25.001.20432", "msp", ""),
		of("acro/AcrobatDCx64Upd2400520320.msp", "Adobe.Acrobat", "24.005.20320", "msp", ""),
		of("chrome/137.0.7151.104.msi", "Google.Chrome", "137.0.7151.104", "wix", "/qn /norestart"),
		of("chrome/99.0.1.2.msi", "Google.Chrome", "99.0.1.2", "wix", "/qn /norestart"),
		ichitaro,
	}
}

// exporting publishes the feed with these files.
func (x *crossing) exporting(t *testing.T, list []feed.Installer, names ...string) feed.Setup {
	t.Helper()
	x.feeds = []string{"soft"}
	files := map[string][]byte{"signature": []byte("genuine")}
	for _, n := range names {
		files[n] = []byte("bytes of " + n)
	}
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("soft", files))
	_, err := x.take(dir)
	ok(t, err)
	s := feed.Setup{Name: "soft", Kind: feed.Kind{Name: "tiny"}, Feed: shelf{list: list}, Mount: "/soft/"}
	pub := mirror.NewPublisher(mirror.Options{Data: x.in, DB: x.inDB, Store: x.inCAS, Feeds: []feed.Setup{s}, Clock: x.clock, Who: "tester"})
	_, err = pub.Publish(context.Background(), "soft", "", mirror.PublishOptions{Now: true, By: "tester"})
	ok(t, err)
	return s
}

func paths(list []feed.Installer) (out []string) {
	for _, i := range list {
		out = append(out, i.Path)
	}
	return out
}

func TestExport(t *testing.T) {
	x := newCrossing(t, memory(t))
	s := x.exporting(t, software(), paths(software())...)
	to := filepath.Join(t.TempDir(), "share")
	o := mirror.ExportOptions{Data: x.in, Store: x.inCAS, Setup: s, Ring: "all", To: to}
	got, err := mirror.Export(context.Background(), o)
	ok(t, err)
	var order []string
	for _, i := range got.Items {
		order = append(order, i.Version)
		b, err := os.ReadFile(filepath.Join(to, filepath.FromSlash(i.File)))
		if err != nil || feed.DigestOf(b) != i.Digest {
			t.Errorf("%s: %v", i.File, err)
		}
		if strings.ContainsFunc(i.File, func(r rune) bool { return r > 0x7e || r == ' ' }) {
			t.Errorf("%q", i.File)
		}
	}
	if want := []string{"24.005.20320", "25.001.20432", "25.001.20693", "99.0.1.2", "137.0.7151.104", "36.0.2"}; !slices.Equal(order, want) || got.Written != 6 {
		t.Errorf("%v, %d written", order, got.Written)
	}
	script := read(t, to, "install.cmd")
	if strings.Contains(script, "99.0.1.2") || !strings.Contains(script, "/v\"100%%\"") || strings.ContainsFunc(script, func(r rune) bool { return r > 0x7e }) {
		t.Errorf("script:\n%s", script)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(read(t, to, "list.csv"), "\uFEFF"))).ReadAll()
	if err != nil || len(rows) != 7 || rows[6][5] != "ja-JP" || rows[1][11] != "0 1641 3010 1642" || rows[6][11] != "0 1641 3010 5" {
		t.Errorf("%v %v", rows, err)
	}
	// Nothing new, one damaged on the share, one stray, one withdrawn.
	if got, err = mirror.Export(context.Background(), o); err != nil || got.Written+got.Removed != 0 {
		t.Errorf("again: %+v %v", got, err)
	}
	bad := filepath.Join(to, filepath.FromSlash(got.Items[4].File))
	ok(t, os.WriteFile(bad, []byte("BYTES of chrome/137.0.7151.104.msi"), 0o644))
	ok(t, os.WriteFile(filepath.Join(to, "evil.exe"), []byte("x"), 0o644))
	if got, err = mirror.Export(context.Background(), o); err != nil || got.Written != 1 || got.Removed != 1 {
		t.Errorf("damaged and stray: %+v %v", got, err)
	}
	x.now = x.now.AddDate(0, 0, 1)
	o.Setup = x.exporting(t, software(), paths(software())[:4]...)
	if got, err = mirror.Export(context.Background(), o); err != nil || got.Written != 0 || got.Removed != 2 || len(got.Items) != 4 {
		t.Errorf("after the next publication: %+v %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(to, "JustSystems.Ichitaro")); err == nil {
		t.Error("an empty folder stays")
	}
	// Somebody else's folder, another feed's, and a feed without installers.
	other := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(other, "mine.txt"), nil, 0o600))
	for want, o := range map[string]mirror.ExportOptions{
		"H-207": {Data: x.in, Store: x.inCAS, Setup: o.Setup, Ring: "all", To: other},
		"H-224": {Data: x.in, Store: x.inCAS, Setup: feed.Setup{Name: "soft", Feed: plain{}}, Ring: "all", To: t.TempDir()},
	} {
		if _, err := mirror.Export(context.Background(), o); code(err) != want {
			t.Errorf("%v", err)
		}
	}
	o.Ring = "nowhere"
	if _, err := mirror.Export(context.Background(), o); code(err) != "H-205" {
		t.Errorf("%v", err)
	}
}

func read(t *testing.T, e ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(e...))
	ok(t, err)
	return string(b)
}

// The start-up script under wine's cmd.exe: its own copy, hash, order and
// records are real; certutil, msiexec and the installer are stand-ins, because
// wine's certutil hashes nothing and the packages are no packages. Only the
// line that says where msiexec is gets replaced. Not run: a real Windows.
func TestExportScriptUnderWine(t *testing.T) {
	if testing.Short() {
		t.Skip("no code of ours runs in it")
	}
	for _, tool := range []string{"wine", "wineboot", "x86_64-w64-mingw32-gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("HASHIKE_CI") == "1" {
				t.Fatal(err)
			}
			t.Skip(tool + " is not here")
		}
	}
	dir := t.TempDir()
	stand := filepath.Join(dir, "standin.exe")
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.Command(name, args...)
		c.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "DISPLAY=") || strings.HasPrefix(e, "WINE") }),
			"WINEPREFIX="+filepath.Join(dir, "prefix"), "WINEDEBUG=-all", "WINEDLLOVERRIDES=certutil.exe=n;mscoree=;mshtml=;winemenubuilder.exe=d", `HASHIKE_RAN=Z:`+strings.ReplaceAll(dir, "/", `\`))
		out, _ := c.Output() // wine says on stderr what it lacks
		return string(out)
	}
	run("x86_64-w64-mingw32-gcc", "-o", stand, "../testdata/wine/standin.c", "-ladvapi32")
	ok(t, os.Mkdir(filepath.Join(dir, "prefix"), 0o700))
	run("wineboot", "--init")
	t.Cleanup(func() { run("wineserver", "-k") })
	program, err := os.ReadFile(stand)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(dir, "prefix/drive_c/windows/system32/certutil.exe"), program, 0o755))

	x := newCrossing(t, memory(t))
	list := software()
	list[5].Silent = `/s /v"quiet mode"`
	x.feeds = []string{"soft"}
	files := map[string][]byte{"signature": []byte("genuine")}
	for _, p := range paths(list) {
		files[p] = []byte("bytes of " + p)
	}
	files[list[5].Path] = program // the one that is run itself
	media, _ := x.pack(filepath.Join(dir, "m"), nil, x.snapshot("soft", files))
	_, err = x.take(media)
	ok(t, err)
	s := feed.Setup{Name: "soft", Kind: feed.Kind{Name: "tiny"}, Feed: shelf{list: list}, Mount: "/soft/"}
	pub := mirror.NewPublisher(mirror.Options{Data: x.in, DB: x.inDB, Store: x.inCAS, Feeds: []feed.Setup{s}, Clock: x.clock, Who: "tester"})
	_, err = pub.Publish(context.Background(), "soft", "", mirror.PublishOptions{Now: true, By: "tester"})
	ok(t, err)
	share := filepath.Join(dir, "share")
	got, err := mirror.Export(context.Background(), mirror.ExportOptions{Data: x.in, Store: x.inCAS, Setup: s, Ring: "all", To: share})
	ok(t, err)
	script := read(t, share, "install.cmd")
	own := `set "MSIEXEC=%SystemRoot%\System32\msiexec.exe"`
	if !strings.Contains(script, own) {
		t.Fatal("the script does not say where msiexec is")
	}
	ok(t, os.WriteFile(filepath.Join(share, "test.cmd"), []byte(strings.Replace(script, own, `set "MSIEXEC=Z:`+strings.ReplaceAll(stand, "/", `\`)+`"`, 1)), 0o644))

	start := func(rc string) (ran []string) {
		t.Helper()
		os.Remove(filepath.Join(dir, "ran.txt"))
		ok(t, os.WriteFile(filepath.Join(dir, "code.txt"), []byte(rc), 0o644))
		run("wine", "cmd", "/c", "Z:"+strings.ReplaceAll(filepath.Join(share, "test.cmd"), "/", `\`))
		b, _ := os.ReadFile(filepath.Join(dir, "ran.txt"))
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	// A file exchanged on the share is not run; the rest is, patches in order.
	chrome := filepath.Join(share, filepath.FromSlash(got.Items[4].File))
	good := read(t, chrome)
	ok(t, os.WriteFile(chrome, []byte("BYTES"+good[5:]), 0o644))
	ran := start("1603") // nothing installs: all is tried, nothing recorded
	if len(ran) != 4 || !strings.Contains(ran[0], "2400520320.msp") || !strings.Contains(ran[1], "2500120432.msp") || !strings.Contains(ran[2], "2500120693.msp") ||
		!strings.Contains(ran[0], "/p ") || !strings.Contains(ran[0], "REBOOT=ReallySuppress") || !strings.Contains(ran[3], `/s /v"quiet mode"`) || strings.Contains(ran[3], "msi") {
		t.Fatalf("first start:\n%s", strings.Join(ran, "\n"))
	}
	if ran = start("1642"); len(ran) != 4 { // patches that do not apply are done with; 1642 of the program is a failure
		t.Fatalf("second start:\n%s", strings.Join(ran, "\n"))
	}
	ok(t, os.WriteFile(chrome, []byte(good), 0o644))
	if ran = start("3010"); len(ran) != 2 || !strings.Contains(ran[0], "/i ") || !strings.Contains(ran[0], "/qn /norestart") || strings.Contains(ran[0], "99.0") {
		t.Fatalf("third start:\n%s", strings.Join(ran, "\n"))
	}
	if ran = start("0"); len(ran) != 1 || ran[0] != "" {
		t.Fatalf("all is installed, and there ran:\n%s", strings.Join(ran, "\n"))
	}
	key := run("wine", "reg", "query", `HKLM\SOFTWARE\Hashike\Installed`, "/s")
	for _, want := range []string{"Adobe.Acrobat_x64", "24.005.20320", "25.001.20693", "1642", "Google.Chrome_x64", "137.0.7151.104", "JustSystems.Ichitaro_x64_ja-JP", "3010"} {
		if !strings.Contains(key, want) {
			t.Errorf("%s is not recorded:\n%s", want, key)
		}
	}
	log := read(t, dir, "prefix/drive_c/windows/temp/Hashike/install.log")
	if !strings.Contains(log, "is not the file listed") || !strings.Contains(log, "failed 1603") || !strings.Contains(log, "done 3010") {
		t.Errorf("log:\n%s", log)
	}
}
