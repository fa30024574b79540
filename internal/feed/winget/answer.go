package winget

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// contracts are the versions of the REST contract that answers are written in,
// as minors of 1.x.0.
func contracts() []int { return []int{0, 1, 4, 5, 6, 7, 9, 10} }

func contractName(minor int) string { return fmt.Sprintf("1.%d.0", minor) }

// contract is the version that a request asks for: the newest here that is not
// newer. Without the header, the newest. false for one before 1.0 or nonsense.
func contract(header string) (int, bool) {
	all := contracts()
	if header == "" {
		return all[len(all)-1], true
	}
	major, rest, _ := strings.Cut(header, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.ParseUint(major, 10, 16)
	b, err2 := strconv.ParseUint(cmpOr(minor, "0"), 10, 16)
	if err != nil || err2 != nil || a < 1 {
		return 0, false
	}
	if a > 1 {
		return all[len(all)-1], true
	}
	best := 0
	for _, n := range all {
		if uint64(n) <= b {
			best = n
		}
	}
	return best, true
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

type object = map[string]any

// information is the answer to GET /information.
func (s *source) information() object {
	var names []string
	for _, n := range contracts() {
		names = append(names, contractName(n))
	}
	return object{"Data": object{
		"SourceIdentifier": s.cfg.Identifier, "ServerSupportedVersions": names,
		"UnsupportedPackageMatchFields": []string{}, "RequiredPackageMatchFields": []string{},
		"UnsupportedQueryParameters": []string{}, "RequiredQueryParameters": []string{},
	}}
}

// result is one package as a search returns it.
func (p *pkg) result(minor int) object {
	var versions []object
	for _, v := range p.versions {
		o := object{"PackageVersion": v.Version}
		put := func(since int, k string, l []string) {
			if minor >= since && len(l) > 0 {
				o[k] = l
			}
		}
		put(0, "PackageFamilyNames", v.families)
		put(0, "ProductCodes", v.products)
		put(4, "UpgradeCodes", v.upgrades)
		put(4, "AppsAndFeaturesEntryVersions", v.shown)
		versions = append(versions, o)
	}
	return object{
		"PackageIdentifier": p.id, "PackageName": text(p.versions[0].Default, "PackageName"), "Publisher": text(p.versions[0].Default, "Publisher"),
		"Versions": versions,
	}
}

// manifest is one package as /packageManifests returns it. base is where this
// source is reached.
func (p *pkg) manifest(c *catalogue, minor int, base *url.URL, keep func(*version) bool) object {
	var versions []object
	for _, v := range p.versions {
		if !keep(v) {
			continue
		}
		o := object{"PackageVersion": v.Version, "DefaultLocale": fields(v.Default, localeFields(), minor)}
		if len(v.Locales) > 0 {
			var l []object
			for _, x := range v.Locales {
				x = fields(x, localeFields(), minor)
				delete(x, "Moniker")
				l = append(l, x)
			}
			o["Locales"] = l
		}
		var installers []object
		for _, i := range v.Installers {
			if x := c.installer(i, minor, base); x != nil {
				installers = append(installers, x)
			}
		}
		if o["Installers"] = installers; len(installers) > 0 {
			versions = append(versions, o)
		}
	}
	if len(versions) == 0 {
		return nil
	}
	return object{"Data": object{"PackageIdentifier": p.id, "Versions": versions}}
}

// fields leaves out what a contract does not have yet.
func fields(from map[string]any, since map[string]int, minor int) object {
	out := object{}
	for k, v := range from {
		if n, known := since[k]; known && n <= minor {
			out[k] = v
		}
	}
	return out
}

// installer is one installer for a contract; nil if that cannot say it.
func (c *catalogue) installer(i map[string]any, minor int, base *url.URL) object {
	hex := strings.ToLower(text(i, "InstallerSha256"))
	at, ok := c.files[hex]
	if !ok || minor < 4 && text(i, "InstallerType") == "zip" {
		return nil
	}
	o := fields(i, installerFields(), minor)
	o["InstallerUrl"] = base.JoinPath("installers", hex, plainName(path.Base(at.at.Path))).String()
	if s, ok := o["InstallerSwitches"].(map[string]any); ok && minor < 7 {
		s = maps.Clone(s)
		delete(s, "Repair")
		o["InstallerSwitches"] = s
	}
	if codes := list(o, "ExpectedReturnCodes"); len(codes) > 0 {
		o["ExpectedReturnCodes"] = returnCodes(codes, minor)
	}
	if d, ok := o["ReleaseDate"].(string); ok && len(d) > 10 {
		o["ReleaseDate"] = d[:10]
	}
	return o
}

// returnCodes: the words that came with 1.4 are left out before it.
func returnCodes(codes []any, minor int) []any {
	early := []string{"packageInUse", "installInProgress", "fileInUse", "missingDependency", "diskFull", "insufficientMemory", "noNetwork", "contactSupport",
		"rebootRequiredToFinish", "rebootRequiredForInstall", "rebootInitiated", "cancelledByUser", "alreadyInstalled", "downgrade", "blockedByPolicy"}
	var out []any
	for _, x := range codes {
		m, ok := x.(map[string]any)
		if !ok {
			continue
		}
		m = maps.Clone(m)
		if minor < 4 {
			if delete(m, "ReturnResponseUrl"); !slices.Contains(early, text(m, "ReturnResponse")) {
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

// plainName is a file's name as it stands in an address and on a terminal: the
// letters that every client takes.
func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("._-", r)) {
			return r
		}
		return '_'
	}, s)
	if len(s) > 100 {
		s = s[len(s)-100:]
	}
	return s
}
