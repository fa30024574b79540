package chromium

import (
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/crx"
)

// file is one artifact by its parts.
type file struct {
	product string // chrome, edge, extensions
	channel string // of edge
	arch    string
	id      string // of an extension
	version string
}

// line is what has one newest version: a product for a processor, an extension.
func (f file) line() string {
	switch f.product {
	case "edge":
		return "edge/" + f.channel + "/" + f.arch
	case "extensions":
		return "extensions/" + f.id
	}
	return "chrome/" + f.arch
}

// name is the last element of the path.
func (f file) name() string {
	switch f.product {
	case "edge":
		return "MicrosoftEdgeEnterprise" + strings.ToUpper(f.arch) + ".msi"
	case "extensions":
		return f.version + ".crx"
	}
	return chromeFile(f.arch)
}

// chromeFile is Google's name, which has no version.
func chromeFile(arch string) string {
	switch arch {
	case "x64":
		return "googlechromestandaloneenterprise64.msi"
	case "arm64":
		return "googlechromestandaloneenterprise_arm64.msi"
	}
	return "googlechromestandaloneenterprise.msi"
}

func (f file) path() string {
	if f.product == "extensions" {
		return f.line() + "/" + f.name()
	}
	return f.line() + "/" + f.version + "/" + f.name()
}

func parsePath(p string) (file, bool) {
	e := strings.Split(p, "/")
	var f file
	switch {
	case len(e) == 4 && e[0] == "chrome":
		f = file{product: e[0], arch: e[1], version: e[2]}
	case len(e) == 5 && e[0] == "edge" && word(e[1]):
		f = file{product: e[0], channel: e[1], arch: e[2], version: e[3]}
	case len(e) == 3 && e[0] == "extensions":
		f = file{product: e[0], id: e[1], version: strings.TrimSuffix(e[2], ".crx")}
		return f, crx.ValidID(f.id) && crx.ValidVersion(f.version) && f.path() == p
	default:
		return f, false
	}
	_, ok := parseVersion(f.version)
	return f, ok && arch(f.arch) && f.path() == p
}

// artifact says how a file stands in a snapshot: what is newest of its line
// holds the snapshot if it is bad, so that nothing moves on by the word of a
// name alone; an older one is withheld by itself.
func (f file) artifact(newest bool) feed.Artifact {
	a := feed.Artifact{Path: f.path(), Class: feed.Security, Version: f.version}
	if !newest {
		a.Group = a.Path
	}
	return a
}

// tops are the newest versions' orders by line.
func tops(paths []string) map[string]int64 {
	top := map[string]int64{}
	for _, p := range paths {
		f, ok := parsePath(p)
		v, _ := parseVersion(f.version)
		if o, known := top[f.line()]; ok && (!known || v.order() > o) {
			top[f.line()] = v.order()
		}
	}
	return top
}
