package mozilla

import (
	"path"
	"strings"
)

// Names of the vendor: of products, platforms and files in the release tree.

const esr = "esr"

// product is a product as its folder names it.
type product struct {
	name   string // as terminals and file names say it
	branch string // in the channel ids of MAR files
}

var products = map[string]product{
	"thunderbird": {"Thunderbird", "comm"},
	"firefox":     {"Firefox", "mozilla"},
}

// platform is a folder of the release tree. Its targets are the beginnings of
// the BUILD_TARGET of its terminals; the first is what the service is asked with.
type platform struct {
	targets    []string
	system     string // OS_VERSION to ask with
	installers []string
}

const (
	windows = "Windows_NT 10.0.0.0.19045.3803 (x64)"
	linux   = "Linux 6.1.0 (GTK 3.24.38,libpulse 16.1.0)"
)

var platforms = map[string]platform{
	"win64":         {[]string{"WINNT_x86_64-msvc-x64", "WINNT_x86_64"}, windows, []string{"exe", "msi"}},
	"win32":         {[]string{"WINNT_x86-msvc-x64", "WINNT_x86-"}, windows, []string{"exe", "msi"}},
	"win64-aarch64": {[]string{"WINNT_aarch64-msvc-aarch64", "WINNT_aarch64"}, "Windows_NT 10.0.0.0.22631.2861 (arm64)", []string{"exe", "msi"}},
	"mac":           {[]string{"Darwin_x86_64-gcc3-u-i386-x86_64", "Darwin"}, "Darwin 23.2.0", []string{"dmg", "pkg"}},
	"linux-x86_64":  {[]string{"Linux_x86_64-gcc3", "Linux_x86_64"}, linux, []string{"tar"}},
	"linux-aarch64": {[]string{"Linux_aarch64-gcc3", "Linux_aarch64"}, linux, []string{"tar"}},
}

var installerKinds = []string{"exe", "msi", "dmg", "pkg", "tar"}

// platformOf is the folder of a terminal's BUILD_TARGET; "" is unknown.
func platformOf(target string) string {
	for name, p := range platforms {
		if strings.HasPrefix(target, p.targets[len(p.targets)-1]) {
			return name
		}
	}
	return ""
}

// localeOn: Japanese has another name on macOS.
func localeOn(platform, locale string) string {
	if platform == "mac" && locale == "ja" {
		return "ja-JP-mac"
	}
	return locale
}

// line is a product on a channel; its methods are the vendor's file names.
type line struct{ Product, Channel string }

// dir is a release's folder, and its version in file names.
func (l line) dir(version string) string {
	if l.Channel == esr {
		return version + esr
	}
	return version
}

// root is the folder of a release.
func (l line) root(version string) string { return path.Join(l.Product, "releases", l.dir(version)) }

func (l line) sums(version string) string { return l.root(version) + "/SHA256SUMS" }

func (l line) sumsSign(version string) string { return l.sums(version) + ".asc" }

func (l line) complete(s stream, version string) string {
	return path.Join(l.root(version), "update", s.Platform, s.Locale, l.Product+"-"+l.dir(version)+".complete.mar")
}

func (l line) partial(s stream, from, version string) string {
	return path.Join(l.root(version), "update", s.Platform, s.Locale, l.Product+"-"+l.dir(from)+"-"+l.dir(version)+".partial.mar")
}

// installers are the names that an installer of a kind may have; none for
// another platform's.
func (l line) installers(s stream, kind, version string) []string {
	at := path.Join(l.root(version), s.Platform, s.Locale)
	name := products[l.Product].name
	switch kind {
	case "exe", "msi":
		return []string{at + "/" + name + " Setup " + l.dir(version) + "." + kind}
	case "dmg", "pkg":
		return []string{at + "/" + name + " " + l.dir(version) + "." + kind}
	case "tar":
		base := at + "/" + l.Product + "-" + l.dir(version) + ".tar."
		return []string{base + "xz", base + "bz2"}
	}
	return nil
}

// marChannel is the channel id in the MAR files of the line: what terminals
// have in ACCEPTED_MAR_CHANNEL_IDS.
func (l line) marChannel() string {
	return l.Product + "-" + products[l.Product].branch + "-" + l.Channel
}
