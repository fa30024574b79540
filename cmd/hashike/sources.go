package main

import (
	"bufio"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/format/deb822"
)

// source is one entry of this machine's own apt configuration.
type source struct {
	url        string
	suite      string
	components []string
	signedBy   string
}

// aptSources reads the machine's apt sources (sources.list(5)): one-line and
// deb822 style. Entries that apt itself would not use are left out.
func aptSources(etc string) []source {
	var out []source
	files, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	for _, p := range append([]string{filepath.Join(etc, "sources.list")}, files...) {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		switch filepath.Ext(p) {
		case ".list":
			out = append(out, oneLine(f)...)
		case ".sources":
			out = append(out, stanzas(f)...)
		}
		f.Close()
	}
	return out
}

func oneLine(f *os.File) []source {
	var out []source
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		signedBy := ""
		if strings.HasPrefix(rest, "[") {
			opts, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			rest = after
			for _, o := range strings.Fields(opts) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok {
					signedBy = v
				}
			}
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			out = append(out, source{f[0], f[1], f[2:], signedBy})
		}
	}
	return out
}

func stanzas(f *os.File) []source {
	var out []source
	for r := deb822.NewReader(f); ; {
		p, err := r.Next()
		if err != nil {
			return out
		}
		if strings.EqualFold(p.Get("Enabled"), "no") || !slices.Contains(strings.Fields(p.Get("Types")), "deb") {
			continue
		}
		for _, u := range strings.Fields(p.Get("URIs")) {
			for _, s := range strings.Fields(p.Get("Suites")) {
				out = append(out, source{u, s, strings.Fields(p.Get("Components")), p.Get("Signed-By")})
			}
		}
	}
}

// debianSources keeps what the pinned Debian keyring can verify: entries whose
// own configuration names that keyring or none.
func debianSources(all []source) []source {
	var out []source
	for _, s := range all {
		u, err := url.Parse(s.url)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || len(s.components) == 0 || !slices.Contains(s.components, "main") {
			continue
		}
		if strings.Contains(s.url, "debian") && (s.signedBy == "" || strings.Contains(s.signedBy, "debian-archive")) {
			out = append(out, s)
		}
	}
	return out
}

// quickSources chooses what quickstart fetches: the security suite first, then
// the updates suite, from the machine's own sources; a public mirror in Japan
// if the machine has none.
func quickSources() (feeds []source, own bool) {
	for _, word := range []string{"-security", "-updates"} {
		for _, s := range debianSources(aptSources("/etc/apt")) {
			if strings.HasSuffix(s.suite, word) {
				feeds = append(feeds, s)
				break
			}
		}
	}
	if len(feeds) > 0 {
		return feeds, true
	}
	return []source{{url: "http://ftp.jp.debian.org/debian", suite: "bookworm-updates", components: []string{"main"}}}, false
}

// aptProxy is the proxy that apt uses on this machine, if it has one of its own.
func aptProxy() string {
	out, err := exec.Command("apt-config", "shell", "P", "Acquire::http::Proxy").Output()
	if err != nil {
		return ""
	}
	v, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "P=")
	if v = strings.Trim(v, "'\""); !ok || v == "DIRECT" {
		return ""
	}
	return v
}

// debArch is this machine's architecture in Debian's words.
func debArch() string {
	switch runtime.GOARCH {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	}
	return runtime.GOARCH
}
