package office

import (
	"regexp"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// role is what a file is.
type role int

const (
	newest    role = iota // v64.cab: names the newest build
	version               // v64_<build>.cab
	cabinet               // <build>/*.cab
	extra                 // <build>/*_exp.cab: not needed for an update
	catalogue             // <build>/*.cat
	stream                // <build>/stream.*.dat
)

// file is one file of the tree, by its parts.
type file struct {
	channel string
	arch    string
	build   build // of all but newest
	role    role
	name    string // the last element
}

// Names as the distribution servers have them: v64/v32, i640, i641041, s640,
// a640_exp, stream.x64.x-none. All in lower case.
var names = regexp.MustCompile(`^(?:([isa](64|32)[0-9]{1,6})(_exp)?\.cab|stream\.(x64|x86)\.[a-z0-9-]{2,20}\.dat|stream\.(x64|x86)\.[a-z0-9-]{2,20}\.proof\.dat)(\.cat)?$`)

func bits(arch string) string {
	if arch == "x86" {
		return "32"
	}
	return "64"
}

// path is where terminals ask for it: below the channel's name, as below the
// channel's folder on Microsoft's servers.
func (f file) path() string {
	at := f.channel + "/office/data/"
	switch f.role {
	case newest:
		return at + "v" + bits(f.arch) + ".cab"
	case version:
		return at + "v" + bits(f.arch) + "_" + f.build.String() + ".cab"
	}
	return at + f.build.String() + "/" + f.name
}

// inBuild recognises a name in a build's folder.
func inBuild(channel, arch string, b build, name string) (file, bool) {
	m := names.FindStringSubmatch(name)
	if m == nil {
		return file{}, false
	}
	f := file{channel: channel, arch: arch, build: b, name: name, role: cabinet}
	switch {
	case m[6] != "":
		f.role = catalogue
	case m[1] == "":
		f.role = stream
	case m[3] != "":
		f.role = extra
	}
	if m[2] != "" && m[2] != bits(arch) || m[4] != "" && m[4] != arch || m[5] != "" && m[5] != arch {
		return file{}, false
	}
	return f, true
}

// parsePath is the inverse of path; the channel and processor are read from it.
func parsePath(p string) (file, bool) {
	channel, rest, ok := strings.Cut(p, "/office/data/")
	if !ok || channels()[channel] == "" {
		return file{}, false
	}
	for _, arch := range []string{"x64", "x86"} {
		v := "v" + bits(arch)
		if rest == v+".cab" {
			return file{channel: channel, arch: arch, role: newest}, true
		}
		if s, ok := strings.CutPrefix(rest, v+"_"); ok {
			b, ok := parseBuild(strings.TrimSuffix(s, ".cab"))
			return file{channel: channel, arch: arch, role: version, build: b}, ok && strings.HasSuffix(s, ".cab")
		}
	}
	dir, name, ok := strings.Cut(rest, "/")
	b, good := parseBuild(dir)
	if !ok || !good {
		return file{}, false
	}
	for _, arch := range []string{"x64", "x86"} {
		if f, ok := inBuild(channel, arch, b, name); ok {
			return f, true
		}
	}
	return file{}, false
}

// group: a build is published whole or not at all. What an update does not
// need stands alone; what names the newest build is the snapshot's own.
func (f file) group() string {
	switch f.role {
	case newest:
		return ""
	case extra:
		return f.path()
	}
	return f.channel + " " + f.arch + " " + f.build.String()
}

func (f file) class() feed.Class {
	if f.role == newest || f.role == version || f.role == catalogue {
		return feed.Metadata
	}
	return feed.Security
}
