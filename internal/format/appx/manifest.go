package appx

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf16"
)

// Identity is who a package is: what Windows tells packages apart by.
type Identity struct {
	Name         string // "Mozilla.MozillaThunderbird"
	Publisher    string // distinguished name, equal to the signer's subject
	Version      string // four numbers
	Architecture string // x86, x64, arm, arm64, neutral; empty for a bundle
	ResourceID   string
}

// Dependency is a framework package that must be there.
type Dependency struct {
	Name      string `xml:"Name,attr"`
	Publisher string `xml:"Publisher,attr"`
	Min       string `xml:"MinVersion,attr"`
}

// Inner is a package in a bundle.
type Inner struct {
	File         string // name in the bundle; empty in a flat bundle
	Version      string
	Architecture string
	Resource     bool // languages or scales only
	Offset, Size int64
}

// Info is what the manifest says.
type Info struct {
	Identity
	Bundle       bool
	Display      string // may be "ms-resource:…": then it is in the package's resources
	Vendor       string // of the publisher, as shown to people
	Description  string
	Framework    bool // others depend on it
	Dependencies []Dependency
	MinOS        string // of Windows.Desktop or Windows.Universal
	Languages    []string
	Packages     []Inner // of a bundle
}

type identityXML struct {
	Name         string `xml:"Name,attr"`
	Publisher    string `xml:"Publisher,attr"`
	Version      string `xml:"Version,attr"`
	Architecture string `xml:"ProcessorArchitecture,attr"`
	ResourceID   string `xml:"ResourceId,attr"`
}

type packageXML struct {
	XMLName    xml.Name      `xml:"Package"`
	Identity   []identityXML `xml:"Identity"`
	Properties struct {
		Display     string `xml:"DisplayName"`
		Vendor      string `xml:"PublisherDisplayName"`
		Description string `xml:"Description"`
		Framework   bool   `xml:"Framework"`
	} `xml:"Properties"`
	Dependencies struct {
		Packages []Dependency `xml:"PackageDependency"`
		Families []struct {
			Name string `xml:"Name,attr"`
			Min  string `xml:"MinVersion,attr"`
		} `xml:"TargetDeviceFamily"`
	} `xml:"Dependencies"`
	Resources struct {
		List []struct {
			Language string `xml:"Language,attr"`
		} `xml:"Resource"`
	} `xml:"Resources"`
}

type bundleXML struct {
	XMLName  xml.Name      `xml:"Bundle"`
	Identity []identityXML `xml:"Identity"`
	Packages struct {
		List []struct {
			Type         string `xml:"Type,attr"`
			Version      string `xml:"Version,attr"`
			Architecture string `xml:"Architecture,attr"`
			File         string `xml:"FileName,attr"`
			Offset       int64  `xml:"Offset,attr"`
			Size         int64  `xml:"Size,attr"`
		} `xml:"Package"`
	} `xml:"Packages"`
}

// Info reads the manifest. Nothing in it is proved before the signature is.
func (p *Package) Info() (Info, error) {
	_, pack := p.Lookup(Manifest)
	_, bundle := p.Lookup(BundleManifest)
	switch {
	case pack == bundle:
		return Info{}, bad("no manifest, or two")
	case bundle:
		return p.bundleInfo()
	}
	b, err := p.Read(Manifest, maxDocument)
	if err != nil {
		return Info{}, err
	}
	var m packageXML
	if err := decode(b, &m); err != nil {
		return Info{}, bad("manifest: %v", err)
	}
	i := Info{
		Display: m.Properties.Display, Vendor: m.Properties.Vendor, Description: m.Properties.Description,
		Framework: m.Properties.Framework, Dependencies: m.Dependencies.Packages,
	}
	for _, f := range m.Dependencies.Families {
		if i.MinOS == "" || f.Name == "Windows.Desktop" {
			i.MinOS = f.Min
		}
	}
	for _, r := range m.Resources.List {
		if r.Language != "" {
			i.Languages = append(i.Languages, r.Language)
		}
	}
	for _, d := range i.Dependencies {
		if !goodName.MatchString(d.Name) || d.Min != "" && !goodVersion.MatchString(d.Min) {
			return Info{}, bad("manifest: dependency %.100q", d.Name)
		}
	}
	i.Identity, err = identity(m.Identity, m.XMLName)
	if i.Architecture == "" && err == nil {
		i.Architecture = "neutral"
	}
	return i, err
}

func (p *Package) bundleInfo() (Info, error) {
	b, err := p.Read(BundleManifest, maxDocument)
	if err != nil {
		return Info{}, err
	}
	var m bundleXML
	if err := decode(b, &m); err != nil {
		return Info{}, bad("bundle manifest: %v", err)
	}
	i := Info{Bundle: true}
	if i.Identity, err = identity(m.Identity, m.XMLName); err != nil {
		return Info{}, err
	}
	seen := map[string]bool{}
	for _, in := range m.Packages.List {
		one := Inner{File: in.File, Version: in.Version, Architecture: in.Architecture, Resource: in.Type == "resource", Offset: in.Offset, Size: in.Size}
		if one.Architecture == "" {
			one.Architecture = "neutral"
		}
		f, ok := p.Lookup(in.File)
		if !ok || f.Name != in.File || f.method != 0 || f.Data != in.Offset || f.Size != in.Size || seen[f.Name] {
			return Info{}, bad("bundle manifest: package %.200q is not where it says", in.File)
		}
		seen[f.Name] = true
		i.Packages = append(i.Packages, one)
	}
	if len(i.Packages) == 0 {
		return Info{}, bad("bundle without packages")
	}
	return i, nil
}

// Open reads a package inside a bundle.
func (p *Package) Open(in Inner) (*Package, error) {
	return Open(io.NewSectionReader(p.r, in.Offset, in.Size), in.Size)
}

var (
	goodName    = regexp.MustCompile(`^[-.A-Za-z0-9]{3,50}$`) // ST_PackageName
	goodVersion = regexp.MustCompile(`^(0|[1-9][0-9]{0,4})(\.(0|[1-9][0-9]{0,4})){3}$`)
)

func identity(all []identityXML, root xml.Name) (Identity, error) {
	if len(all) != 1 || !strings.HasPrefix(root.Space, "http://schemas.microsoft.com/appx/") {
		return Identity{}, bad("manifest: %d identities in %.100q", len(all), root.Space)
	}
	i := Identity(all[0])
	switch i.Architecture {
	case "", "x86", "x64", "arm", "arm64", "neutral", "x86a64":
	default:
		return Identity{}, bad("manifest: architecture %.40q", i.Architecture)
	}
	if !goodName.MatchString(i.Name) || !goodVersion.MatchString(i.Version) || len(i.Publisher) > 8192 || i.Publisher == "" ||
		i.ResourceID != "" && (len(i.ResourceID) > 30 || !goodResource.MatchString(i.ResourceID)) {
		return Identity{}, bad("manifest: identity %.100q %.100q", i.Name, i.Version)
	}
	return i, nil
}

var goodResource = regexp.MustCompile(`^[-.A-Za-z0-9~]+$`)

// FamilyName is the package family name, as winget and Get-AppxPackage show it:
// the name and the publisher's hash, 13 letters.
func (i Identity) FamilyName() string { return i.Name + "_" + PublisherID(i.Publisher) }

// FullName is the package full name ("Package identity overview").
func (i Identity) FullName() string {
	arch := i.Architecture
	if arch == "" {
		arch = "neutral"
	}
	return fmt.Sprintf("%s_%s_%s_%s_%s", i.Name, i.Version, arch, i.ResourceID, PublisherID(i.Publisher))
}

// PublisherID is the first 64 bits of SHA-256 over the publisher in UTF-16LE, in
// Crockford's base 32: five bits a letter, a zero bit behind the last.
func PublisherID(publisher string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(publisher)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	sum := sha256.Sum256(b)
	v := binary.BigEndian.Uint64(sum[:])
	out := make([]byte, 0, 13)
	for i := range 12 {
		out = append(out, "0123456789abcdefghjkmnpqrstvwxyz"[v>>(59-5*i)&31])
	}
	return string(append(out, "0123456789abcdefghjkmnpqrstvwxyz"[v&15<<1]))
}
