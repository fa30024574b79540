package adobe

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/cab"
	"github.com/hashike/hashike/internal/format/msi"
)

// catalogue is a cabinet with a document in the form of the vendor's.
func catalogue(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var x bytes.Buffer
	x.WriteString(`<smc:SystemsManagementCatalog xmlns:smc="http://schemas.microsoft.com/sms/2005/04/CorporatePublishing/SystemsManagementCatalog.xsd" xmlns:sdp="http://schemas.microsoft.com/wsus/2005/04/CorporatePublishing/SoftwareDistributionPackage.xsd">`)
	for name, b := range files {
		sum := sha1.Sum(b)
		fmt.Fprintf(&x, `<smc:SoftwareDistributionPackage><sdp:InstallableItem ID="x"><sdp:OriginFile Digest="%s" FileName="%s" Size="%d" OriginUri="https://ardownload2.adobe.com/x"/></sdp:InstallableItem></smc:SoftwareDistributionPackage>`,
			base64.StdEncoding.EncodeToString(sum[:]), name, len(b))
	}
	x.WriteString(`</smc:SystemsManagementCatalog>`)
	var out bytes.Buffer
	if err := cab.Write(&out, []cab.Source{{Name: "Reader_Catalog.xml", Size: int64(x.Len()), Body: bytes.NewReader(x.Bytes())}}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestNames(t *testing.T) {
	for p, want := range map[string]string{
		"acrobat/win/AcrobatDC/2500120577/AcroRdrDCx642500120577_MUI.exe":    "reader-x64/exe/MUI", // as in winget-pkgs
		"reader/win/AcrobatDC/2500120577/AcroRdrDC2500120577_ja_JP.exe":      "reader-x86/exe/ja_JP",
		"reader/win/AcrobatDC/2500120577/AcroRdrDCUpd2500120577_MUI.msp":     "reader-x86/msp/MUI",
		"acrobat/win/AcrobatDC/2500120577/AcroRdrDCx64Upd2500120577.msp":     "reader-x64/msp",
		"acrobat/win/AcrobatDC/2500120577/AcrobatDCx64Upd2500120577.msp":     "acrobat-x64/msp",
		"acrobat/win/Acrobat2020/2000530574/Acrobat2020Upd2000530574.msp":    "acrobat2020-x86/msp",
		"reader/mac/AcrobatDC/2500120577/AcroRdrDC_2500120577_MUI.dmg":       "reader-mac/dmg",
		"acrobat/mac/AcrobatDC/2500120577/AcrobatDCUpd2500120577.dmg":        "acrobat-mac/dmg",
		"acrobat/win/AcrobatDC/2500120578/AcroRdrDCx642500120577_MUI.exe":    "",
		"acrobat/win/AcrobatDC/2500130577/AcrobatDCx64Upd2500130577.msp":     "", // of a classic track
		"acrobat/win/Acrobat2020/2500130577/Acrobat2020Upd2500130577.msp":    "",
		"../acrobat/win/AcrobatDC/2500120577/AcrobatDCx64Upd2500120577.msp":  "",
		"acrobat/win/AcrobatDC/2500120577/AcroRdrDCx642500120577.exe":        "",
		"acrobat/win/AcrobatDC/2500120577/AcrobatDCx64Upd2500120577_MUI.exe": "",
	} {
		if f, ok := parsePath(p); ok != (want != "") || ok && f.line() != want {
			t.Errorf("%s: %v %v, want %q", p, f.line(), ok, want)
		}
	}
}

func TestCatalogue(t *testing.T) {
	msp := []byte("patch")
	b := catalogue(t, map[string][]byte{"AcroRdrDCx64Upd2500120577_MUI.msp": msp, "../evil.msp": msp, "AcroRdrDCUpd2500120531.msp": []byte("x")})
	got, err := readCatalogue(b)
	sum := fmt.Sprintf("%x", sha1.Sum(msp))
	if err != nil || len(got) != 2 || got["AcroRdrDCx64Upd2500120577_MUI.msp"] != (entry{sum, 5}) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := readCatalogue(b[:len(b)/2]); err == nil {
		t.Error("half a catalogue is read")
	}
}

// TestAfter: what a patch says of itself decides, whatever it is called.
func TestAfter(t *testing.T) {
	step := func(from, to string) msi.Step { return msi.Step{Product: productCode, From: from, To: to} }
	for name, c := range map[string]struct {
		p    msi.Patch
		need string
		bad  bool
	}{
		"quarterly":          {p: msi.Patch{Steps: []msi.Step{step(base, "25.001.20577")}}, need: ""},
		"between":            {p: msi.Patch{Steps: []msi.Step{step("25.001.20428", "25.001.20577")}}, need: "25.001.20428"},
		"both":               {p: msi.Patch{Steps: []msi.Step{step("25.001.20428", "25.001.20577"), step(base, "25.001.20577")}}, need: ""},
		"of another version": {p: msi.Patch{Steps: []msi.Step{step(base, "25.001.20531")}}, bad: true},
		"backwards":          {p: msi.Patch{Steps: []msi.Step{step("25.002.20001", "25.001.20577")}}, bad: true},
		"from another track": {p: msi.Patch{Steps: []msi.Step{step("20.001.30002", "25.001.20577")}}, bad: true},
		"silent":             {p: msi.Patch{}, bad: true},
		"another product":    {p: msi.Patch{Targets: []string{"{11111111-1033-FF00-7760-BC15014EA700}"}, Steps: []msi.Step{step(base, "25.001.20577")}}, bad: true},
	} {
		got, err := after(&c.p, ver("25.001.20577"))
		if (err != nil) != c.bad || err == nil && (got == Version{}) != (c.need == "") || c.need != "" && got != ver(c.need) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// TestProve: genuinely signed, and yet not what the name says.
func TestProve(t *testing.T) {
	v := newVendor(t, time.Now())
	trust := feed.Trust{Anchors: []feed.Anchor{v.by.Anchor}, At: time.Now()}
	try := func(path string, b []byte) error {
		f, ok := parsePath(path)
		if !ok {
			t.Fatal(path)
		}
		_, err := prove(f, bytes.NewReader(b), int64(len(b)), trust)
		return err
	}
	if err := errors.Join(try(name("exe", "25.001.20577"), v.exe("25.001.20577")), try(name("msp", "25.001.20577"), v.msp("25.001.20577", "25.001.20428"))); err != nil {
		t.Error(err)
	}
	for p, b := range map[string][]byte{
		name("exe", "25.001.20578"): v.exe("25.001.20577"), name("msp", "25.001.20578"): v.msp("25.001.20577", base),
		name("exe", "25.001.20531"): v.msp("25.001.20577", base), name("msp", "25.001.20531"): v.exe("25.001.20577"),
	} {
		if err := try(p, b); !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", p, err)
		}
	}
	stranger := newVendor(t, time.Now())
	stranger.by = feedtest.NewPublisher(t, use, "Adobe Incorporated", time.Now())
	trust.Anchors = append(trust.Anchors, stranger.by.Anchor)
	if err := try(name("exe", "25.001.20577"), stranger.exe("25.001.20577")); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("another publisher under a pinned root: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"product": func(c *Config) { c.Products = []string{"flash-x64"} }, "twice": func(c *Config) { c.Products = append(c.Products, c.Products...) },
		"classic mac": func(c *Config) { c.Products = []string{"reader2020-mac"} }, "language": func(c *Config) { c.Languages = []string{"../x"} },
		"pin": func(c *Config) { c.Pin = map[string]string{"reader-x64": "25.001.30577"} }, "pin of another": func(c *Config) { c.Pin = map[string]string{"reader-x86": "25.001.20577"} },
		"nothing": func(c *Config) { c.Installers, c.Patches = false, false }, "no installer of Acrobat": func(c *Config) { c.Products, c.Patches = []string{"acrobat-x64"}, false },
		"address": func(c *Config) { c.Archive = "ftp://x" }, "keep": func(c *Config) { c.Keep = 0 },
	} {
		if _, err := newFeed(func(into any) error { change(into.(*Config)); return nil }); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		c.Products, c.Languages = []string{"reader-x86", "acrobat2020-x86", "reader-mac"}, []string{"MUI", "ja_JP", "en_US"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range f.(*acrobat).products {
		for _, w := range f.(*acrobat).wanted(p, Version{}) {
			all = append(all, w.line())
		}
	}
	if got := strings.Join(all, " "); got != "reader-x86/exe/MUI reader-x86/msp/MUI reader-x86/exe/ja_JP reader-x86/msp reader-x86/exe/en_US acrobat2020-x86/msp reader-mac/dmg" {
		t.Error(got)
	}
	if at := f.(feed.Reacher).Reaches(); len(at) != 3 {
		t.Error(at)
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("acrobat/win/AcrobatDC/2500120577/AcroRdrDCx64Upd2500120577_MUI.msp")
	f.Fuzz(func(t *testing.T, p string) {
		if x, ok := parsePath(p); ok && (!feed.ValidPath(p) || x.path() != p) {
			t.Errorf("%q", p)
		}
	})
}

func FuzzCatalogue(f *testing.F) {
	f.Add([]byte(`<a><OriginFile FileName="AcroRdrDCUpd2500120531.msp" Size="1" Digest="x"/></a>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := map[string]entry{}
		if originFiles(bytes.NewReader(b), out) == nil && len(out) > maxEntries {
			t.Error(len(out))
		}
	})
}
