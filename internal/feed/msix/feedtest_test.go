package msix

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/appx"
	"github.com/hashike/hashike/internal/format/appx/appxtest"
)

const organisation = "試験町"

type vendor struct{ *appxtest.Publisher }

func (v vendor) pack(name, version, arch string, depends ...appx.Dependency) []byte {
	return v.Sign(appxtest.Build(v.spec(name, version, arch, depends...)))
}

func (v vendor) spec(name, version, arch string, depends ...appx.Dependency) appxtest.Spec {
	return appxtest.Spec{
		Identity: appx.Identity{Name: name, Publisher: v.Name, Version: version, Architecture: arch}, Display: "試験アプリ " + name, Vendor: organisation,
		Depends: depends, Files: map[string][]byte{"a.txt": bytes.Repeat([]byte(name+version), 50), "raw.bin": []byte(version)},
	}
}

func (v vendor) framework(version string) []byte {
	s := v.spec("Hashike.Framework", version, "x64")
	s.Framework = true
	return v.Sign(appxtest.Build(s))
}

func (v vendor) bundle(name, version string) []byte {
	return v.Sign(appxtest.Bundle(appx.Identity{Name: name, Publisher: v.Name, Version: version}, map[string][]byte{
		"x64.msix": appxtest.Build(v.spec(name, version, "x64")), "arm64.msix": appxtest.Build(v.spec(name, version, "arm64")),
	}))
}

// state is a folder with an app, its framework and a bundle.
func (v vendor) state(version int) feedtest.State {
	n := fmt.Sprintf("1.%d.0.0", version)
	need := appx.Dependency{Name: "Hashike.Framework", Publisher: v.Name, Min: "1.0.0.0"}
	return feedtest.State{Files: feedtest.Files{
		"app.msix": v.pack("Hashike.App", n, "x64", need), "sub/frame work.appx": v.framework("2.0.0.0"), "both.msixbundle": v.bundle("Hashike.Both", n),
	}}
}

func TestConformance(t *testing.T) {
	now := time.Now()
	own, stranger := vendor{appxtest.NewPublisher(organisation, now)}, vendor{appxtest.NewPublisher(organisation, now)}
	anchor := feed.Anchor{Name: "town", Use: use, Data: own.Root, Source: "test"}
	full := func(name, version, arch, ext string) string {
		return "/packages/" + appx.Identity{Name: name, Publisher: own.Name, Version: version, Architecture: arch}.FullName() + ext
	}
	for _, name := range []string{"folder", "addresses"} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "folder" { // the race detector takes four times as long
				t.Skip("short: the addresses go the longer way")
			}
			c := feedtest.Case{
				Kind: Kind(), Trust: []feed.Anchor{anchor}, Time: now,
				Config: "dir = 'drop'\npublishers = ['" + organisation + "']\nmax_file = 1048576\n", Dir: "drop",
				Older: own.state(1), Now: own.state(2), Newer: own.state(3), Forged: stranger.state(2),
				Hostile: func(p string) feedtest.State {
					s := own.state(2)
					if name == "addresses" { // there is no other file that it asks for
						s.Files["app.msix"] = own.pack(escape(p), "1.0.0.0", "x64")
					} else {
						s.Files["hostile.msix"] = own.pack(escape(p), "1.0.0.0", "x64")
					}
					return s
				},
				Optional: func(string) bool { return true }, // no list says what there is
				Unsigned: map[string]func(feedtest.Files){
					"signature emptied": func(f feedtest.Files) {
						for p, b := range f {
							if i := bytes.Index(b, []byte("AppxSignature.p7x")); i > 0 {
								f[p] = append(bytes.Clone(b[:i]), b[i+40:]...)
							}
						}
					},
					"unsigned in its place": func(f feedtest.Files) {
						p := full("Hashike.App", "1.2.0.0", "x64", ".msix")[1:]
						f[p] = appxtest.Build(own.spec("Hashike.App", "1.2.0.0", "x64"))
					},
				},
				Requests: []feedtest.Request{
					{Path: "/Hashike.App.appinstaller", Holds: `<MainPackage Name="Hashike.App"`},
					{Path: "/HASHIKE.app.AppInstaller", Holds: `Version="1.3.0.0"`},
					{Path: "/Hashike.App.appinstaller", Holds: `Uri="http://hashike.example/updates` + full("Hashike.App", "1.3.0.0", "x64", ".msix") + `"`},
					{Path: "/Hashike.App_x64.appinstaller", Holds: `<Package Name="Hashike.Framework"`},
					{Path: "/Hashike.Both.appinstaller", Holds: `<MainBundle Name="Hashike.Both"`},
					{Path: "/Hashike.Both.appinstaller", Holds: `<AutomaticBackgroundTask>`},
					{Path: "/Hashike.Framework.appinstaller", Status: 404},
					{Path: full("HASHIKE.APP", "1.3.0.0", "X64", ".MSIX")},
					{Path: "/Hashike.App.appinstaller", Method: "POST", Status: 405},
				},
				Without: map[string]string{"mixed": "paths carry versions: no path has two contents"},
			}
			if name == "addresses" {
				c.Dir, c.Config = "", "urls = ['{url}/app.msix', '{url}/sub/frame%20work.appx', '{url}/both.msixbundle']\npublishers = ['"+organisation+"']\nmax_file = 1048576\n"
			}
			feedtest.Run(t, c)
		})
	}
}

// escape keeps the document well-formed, so that the name itself is judged.
func escape(s string) string {
	var b bytes.Buffer
	for _, r := range s {
		if r >= 0x20 || r == '\t' {
			b.WriteString(map[bool]string{true: "&amp;", false: string(r)}[r == '&'])
		} else {
			b.WriteString("&#0;")
		}
	}
	return b.String()
}
