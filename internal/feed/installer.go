package feed

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Installer describes one file that installs a product, for those who know no
// vendor: the winget source, the export to file shares, the coverage board. A
// kind that has such files implements Catalogue. What a field does not know
// stays empty; nobody guesses.
type Installer struct {
	Path   string `json:"path"`            // of the artifact
	Digest Digest `json:"digest"`          // the artifact's: Installers fills it in
	Size   int64  `json:"size"`            // likewise
	Class  Class  `json:"class,omitempty"` // likewise

	ID        string `json:"id"`                // dotted, the same for all versions, architectures and, unless the vendor has one product per language, locales: "Mozilla.Thunderbird.ESR.ja"
	Name      string `json:"name"`              // of the product, for people
	Publisher string `json:"publisher"`         // for people
	Version   string `json:"version"`           // the vendor's
	Locale    string `json:"locale,omitempty"`  // of the program, BCP 47: "ja-JP"
	Arch      string `json:"arch"`              // x86, x64, arm, arm64, neutral
	Type      string `json:"type"`              // exe, nullsoft, inno, burn, msi, wix, msp, msix, appx, zip
	Scope     string `json:"scope,omitempty"`   // machine, user
	MinOS     string `json:"min_os,omitempty"`  // "10.0.17763.0"
	Summary   string `json:"summary,omitempty"` // one line
	License   string `json:"license,omitempty"`
	Home      string `json:"home,omitempty"` // the vendor's page on it

	Silent  string `json:"silent,omitempty"`  // arguments that install without a question: "/S", "/qn"
	Success []int  `json:"success,omitempty"` // exit codes beside 0 that mean success: 1641, 3010

	ProductCode string      `json:"product_code,omitempty"` // key in Add/Remove Programs: "{…}" of a Windows Installer product, else its name
	UpgradeCode string      `json:"upgrade_code,omitempty"` // "{…}"
	FamilyName  string      `json:"family_name,omitempty"`  // of an app package: "Name_8wekyb3d8bbwe"
	Signature   Digest      `json:"signature,omitempty"`    // of an app package's AppxSignature.p7x
	Entries     []AddRemove `json:"entries,omitempty"`      // in Add/Remove Programs, where they differ from the above
	Targets     []string    `json:"targets,omitempty"`      // of a patch (msp): product codes that it applies to
	After       string      `json:"after,omitempty"`        // of a patch: the version that must be installed, or a later one of its line; empty is any
	Needs       []string    `json:"needs,omitempty"`        // IDs of what must be installed before
}

// AddRemove is how an installed product shows in Add/Remove Programs.
type AddRemove struct {
	Name        string `json:"name,omitempty"`
	Publisher   string `json:"publisher,omitempty"`
	Version     string `json:"version,omitempty"`
	ProductCode string `json:"product_code,omitempty"`
	UpgradeCode string `json:"upgrade_code,omitempty"`
	Type        string `json:"type,omitempty"` // as Installer.Type
}

// Catalogue is an optional ability: which of a snapshot's files install what.
// It is a function of the bytes that Verify proved: what a record says is as
// good as the file's own proof. Cheap enough to be called at each publication.
type Catalogue interface {
	Installers(c Content) ([]Installer, error)
}

// Peer is what another feed shows to one ring.
type Peer struct {
	Feed Feed
	View View
}

// Installers lists what terminals of a view can install: without withheld
// files, with digest and size of each. nil if f has none. An invalid record is
// an error: kinds are our own.
func Installers(f Feed, v View) ([]Installer, error) {
	k, ok := f.(Catalogue)
	if !ok || v.Content == nil {
		return nil, nil
	}
	all, err := k.Installers(v.Content)
	if err != nil {
		return nil, err
	}
	out := all[:0]
	for _, i := range all {
		a, ok := v.Lookup(i.Path)
		if _, held := v.Withheld[i.Path]; held || !ok {
			continue
		}
		i.Digest, i.Size, i.Class = a.Digest, a.Size, a.Class
		if err := i.Check(); err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// installerID: winget's PackageIdentifier (manifest schema 1.10), which is the strictest user.
var installerID = regexp.MustCompile(`^[^\.\s\\/:\*\?"<>\|\x01-\x1f]{1,32}(\.[^\.\s\\/:\*\?"<>\|\x01-\x1f]{1,32}){1,7}$`)

// ValidInstallerID reports whether s may be an Installer's ID: two to eight
// parts of at most 32 letters, at most 128 bytes.
func ValidInstallerID(s string) bool {
	return len(s) <= 128 && utf8.ValidString(s) && installerID.MatchString(s)
}

// InstallerID makes an ID of a publisher's and a product's name, for kinds
// whose products have none of their own. Parts are cut where they are too long.
func InstallerID(publisher, name string) string {
	part := func(s string) string {
		var b strings.Builder
		n := 0
		for _, w := range strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || strings.ContainsRune(".\\/:*?\"<>|,()", r) }) {
			for _, r := range w {
				if n++; n <= 32 {
					b.WriteRune(r)
				}
			}
		}
		if b.Len() == 0 {
			return "unknown"
		}
		return b.String()
	}
	return part(publisher) + "." + part(name)
}

// Check refuses a record that its users could not use.
func (i Installer) Check() error {
	bad := func(what, value string) error {
		return fmt.Errorf("installer %.200q: %s %.100q", i.Path, what, value)
	}
	switch {
	case !ValidPath(i.Path):
		return bad("path", i.Path)
	case !ValidInstallerID(i.ID):
		return bad("id", i.ID)
	case i.Name == "" || i.Publisher == "" || i.Version == "":
		return bad("name, publisher or version", i.Name+"/"+i.Publisher+"/"+i.Version)
	}
	switch i.Arch {
	case "x86", "x64", "arm", "arm64", "neutral":
	default:
		return bad("architecture", i.Arch)
	}
	switch i.Type {
	case "exe", "nullsoft", "inno", "burn", "msi", "wix", "msp", "msix", "appx", "zip":
	default:
		return bad("type", i.Type)
	}
	if i.Scope != "" && i.Scope != "machine" && i.Scope != "user" {
		return bad("scope", i.Scope)
	}
	for _, s := range []string{i.Name, i.Publisher, i.Version, i.Locale, i.Summary, i.License, i.Home, i.Silent, i.ProductCode, i.UpgradeCode, i.FamilyName, i.MinOS} {
		if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return bad("text", s)
		}
	}
	return nil
}
