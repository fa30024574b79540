package mozilla

import (
	"slices"

	"github.com/hashike/hashike/internal/feed"
)

// arches are the processors of the platforms whose installers Windows runs.
var arches = map[string]string{"win64": "x64", "win32": "x86", "win64-aarch64": "arm64"}

// Installers implements feed.Catalogue: the newest version's programs for
// Windows, and where there is none the .msi, which holds the same program.
func (f *updates) Installers(c feed.Content) ([]feed.Installer, error) {
	x, err := readIndex(c)
	if err != nil {
		return nil, err
	}
	kind := "msi"
	if slices.Contains(x.Installers, "exe") {
		kind = "exe"
	}
	var out []feed.Installer
	for _, s := range x.Streams {
		r := s.newest()
		if r == nil || arches[s.Platform] == "" || !slices.Contains(x.Installers, kind) {
			continue
		}
		i := x.describe(s, r.Version)
		i.Path = x.installers(s, kind, r.Version)[0]
		if kind == "msi" {
			i.Type, i.Silent = "msi", "/qn"
		}
		if _, ok := c.Lookup(i.Path); ok {
			out = append(out, i)
		}
	}
	return out, nil
}

// describe is what winget-pkgs has of these packages: an ID for each language,
// and the name in Add/Remove Programs, where Thunderbird does not say ESR.
func (l line) describe(s stream, version string) feed.Installer {
	name, edition := products[l.Product].name, ""
	id := "Mozilla." + name
	if l.Channel == esr {
		id += ".ESR"
		if l.Product == "firefox" {
			edition = " ESR"
		}
	}
	if s.Locale != "en-US" {
		id += "." + s.Locale
	}
	of := " (" + arches[s.Platform] + " " + s.Locale + ")"
	i := feed.Installer{ID: id, Name: "Mozilla " + name + edition + of, Publisher: "Mozilla", Version: version, Locale: s.Locale, Arch: arches[s.Platform], Type: "nullsoft", Scope: "machine",
		License: "MPL 2.0", Silent: "/S /PreventRebootRequired=true", ProductCode: "Mozilla " + name + " " + version + edition + of}
	if s.Locale == "ja" {
		i.Locale = "ja-JP"
	}
	i.Entries = []feed.AddRemove{{Name: i.Name, Publisher: i.Publisher, Version: version, ProductCode: i.ProductCode}}
	return i
}
