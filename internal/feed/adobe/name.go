package adobe

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Version is a version of Acrobat or Reader: "25.001.20577". A planned
// (quarterly) release raises the second part, one between two quarters only the
// third. The third begins with 2 on the continuous track and 3 on a classic one.
type Version struct{ Year, Quarter, Build int }

var versionForm = regexp.MustCompile(`^(\d{2})\.(\d{3})\.(\d{5})$`)

// ParseVersion reads a version in the vendor's one form.
func ParseVersion(s string) (Version, bool) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return Version{}, false
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // digits alone, and few
	}
	return Version{n[0], n[1], n[2]}, true
}

func (v Version) String() string { return fmt.Sprintf("%02d.%03d.%05d", v.Year, v.Quarter, v.Build) }

// plain is the form in addresses: 2500120577.
func (v Version) plain() string { return strings.ReplaceAll(v.String(), ".", "") }

func (v Version) order() int64 { return int64(v.Year)*1e8 + int64(v.Quarter)*1e5 + int64(v.Build) }

// quarter is what a planned release and those after it have in common.
func (v Version) quarter() [2]int { return [2]int{v.Year, v.Quarter} }

// classic reports whether the version is of a classic track.
func (v Version) classic() bool { return v.Build >= 30000 }

// sameTrack: patches of one never apply to the other. Each classic product
// keeps the year of its name.
func (v Version) sameTrack(w Version) bool {
	return v.classic() == w.classic() && (!v.classic() || v.Year == w.Year)
}

// product is one of those in the configuration: "reader-x64", "acrobat2020-x86".
type product struct {
	name  string // reader, acrobat
	track string // DC, or a classic one's year
	arch  string // x64, x86, mac
}

var productForm = regexp.MustCompile(`^(reader|acrobat)(20\d\d)?-(x64|x86|mac)$`)

func parseProduct(s string) (product, bool) {
	m := productForm.FindStringSubmatch(s)
	if m == nil {
		return product{}, false
	}
	p := product{m[1], m[2], m[3]}
	if p.track == "" {
		p.track = "DC"
	}
	return p, p.track == "DC" || p.arch != "mac"
}

func (p product) String() string {
	if p.track == "DC" {
		return p.name + "-" + p.arch
	}
	return p.name + p.track + "-" + p.arch
}

// takes reports whether a version can be one of this product's.
func (p product) takes(v Version) bool {
	if p.track == "DC" {
		return v.Build >= 20000 && v.Build < 30000
	}
	return v.classic() && v.Build < 40000 && fmt.Sprintf("20%02d", v.Year) == p.track
}

// file is one artifact by its parts. Its path is the vendor's own, below
// /pub/adobe/.
type file struct {
	product
	form string // exe, msp, dmg
	lang string // MUI, ja_JP, en_US; of a patch "MUI" or ""
	version
}

type version = Version

// line is what has one newest version.
func (f file) line() string {
	return strings.TrimSuffix(f.product.String()+"/"+f.form+"/"+f.lang, "/")
}

func (f file) path() string {
	v, edition := f.plain(), f.track
	folder := fmt.Sprintf("win/Acrobat%s/%s/", edition, v)
	if f.arch == "mac" {
		folder = fmt.Sprintf("mac/Acrobat%s/%s/", edition, v)
		if f.name == "acrobat" {
			return "acrobat/" + folder + "AcrobatDCUpd" + v + ".dmg"
		}
		return "reader/" + folder + "AcroRdrDC_" + v + "_MUI.dmg"
	}
	base, top := "Acrobat", "acrobat/"
	if f.name == "reader" {
		base = "AcroRdr"
		if f.arch == "x86" {
			top = "reader/"
		}
	}
	base += edition
	if f.arch == "x64" {
		base += "x64"
	}
	if f.form == "exe" {
		return top + folder + base + v + "_" + f.lang + ".exe"
	}
	if f.lang != "" {
		return top + folder + base + "Upd" + v + "_" + f.lang + ".msp"
	}
	return top + folder + base + "Upd" + v + ".msp"
}

var (
	windowsName = regexp.MustCompile(`^(AcroRdr|Acrobat)(DC|20\d\d)(x64)?(Upd)?(\d{10})(?:_(MUI|[a-z]{2}_[A-Z]{2}))?\.(exe|msp)$`)
	macName     = regexp.MustCompile(`^(AcroRdrDC_|AcrobatDCUpd)(\d{10})(_MUI)?\.dmg$`)
)

// parseName reads a file's name, which says all but the folders.
func parseName(base string) (f file, ok bool) {
	digits := ""
	if m := windowsName.FindStringSubmatch(base); m != nil {
		f = file{product: product{"acrobat", m[2], "x86"}, form: m[7], lang: m[6]}
		if m[1] == "AcroRdr" {
			f.name = "reader"
		}
		if m[3] != "" {
			f.arch = "x64"
		}
		digits = m[5]
	} else if m := macName.FindStringSubmatch(base); m != nil {
		f = file{product: product{"acrobat", "DC", "mac"}, form: "dmg"}
		if m[3] != "" {
			f.name = "reader"
		}
		digits = m[2]
	} else {
		return f, false
	}
	f.version, ok = ParseVersion(digits[:2] + "." + digits[2:5] + "." + digits[5:])
	p := f.path()
	return f, ok && f.takes(f.version) && p[strings.LastIndexByte(p, '/')+1:] == base
}

func parsePath(p string) (file, bool) {
	f, ok := parseName(p[strings.LastIndexByte(p, '/')+1:])
	return f, ok && f.path() == p
}

// artifact says how a file stands in a snapshot: what is newest of its line
// holds the snapshot if it is bad, so that nothing moves on by the word of a
// name alone; an older one is withheld by itself.
func (f file) artifact(newest bool) feed.Artifact {
	a := feed.Artifact{Path: f.path(), Class: feed.Security, Version: f.version.String()}
	if f.form == "dmg" {
		a.Class = feed.Feature
	}
	if !newest {
		a.Group = a.Path
	}
	return a
}

// tops are the newest versions' orders by line.
func tops(paths []string) map[string]int64 {
	top := map[string]int64{}
	for _, p := range paths {
		if f, ok := parsePath(p); ok {
			top[f.line()] = max(top[f.line()], f.order())
		}
	}
	return top
}
