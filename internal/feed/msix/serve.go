package msix

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
)

// shelf is one ring's view: its packages, and where each name is found.
type shelf struct {
	all   []pack
	files map[string]string // path in lower case → path
	docs  map[string]pack   // "name.appinstaller" in lower case → what it offers
}

func (p *packages) shelf(v feed.View) (*shelf, error) {
	all, err := readAll(v.Content, v.Withheld)
	if err != nil {
		return nil, err
	}
	s := &shelf{all: all, files: map[string]string{}, docs: map[string]pack{}}
	for _, k := range all {
		s.files[strings.ToLower(k.path)] = k.path
	}
	for _, k := range p.offered(all) {
		if k.Framework || k.ResourceID != "" {
			continue
		}
		name := strings.ToLower(k.Name)
		if !k.Bundle {
			s.docs[name+"_"+known(k.Architecture)+".appinstaller"] = k
		}
		if best, has := s.docs[name+".appinstaller"]; !has || preferred(k) < preferred(best) {
			s.docs[name+".appinstaller"] = k
		}
	}
	return s, nil
}

// offered are the newest packages of each name, architecture and form that the
// pins allow.
func (p *packages) offered(all []pack) []pack {
	best := map[string]pack{}
	for _, k := range all {
		if most, pinned := p.cfg.Pin[k.Name]; pinned && compareVersions(k.Version, most) > 0 {
			continue
		}
		s := stream(k)
		if old, has := best[s]; !has || compareVersions(k.Version, old.Version) > 0 {
			best[s] = k
		}
	}
	var out []pack
	for _, k := range best {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b pack) int { return cmp.Compare(a.path, b.path) })
	return out
}

// preferred is which of a name's packages the address without architecture
// means: a bundle has all of them, and most terminals are x64.
func preferred(k pack) int {
	if k.Bundle {
		return 0
	}
	return 1 + slices.Index([]string{"x64", "neutral", "x86", "arm64", "arm"}, known(k.Architecture))
}

// appInstaller is the document, schema 2018.
type appInstaller struct {
	XMLName  xml.Name     `xml:"http://schemas.microsoft.com/appx/appinstaller/2018 AppInstaller"`
	Version  string       `xml:"Version,attr"`
	URI      string       `xml:"Uri,attr"`
	Package  *described   `xml:"MainPackage"`
	Bundle   *described   `xml:"MainBundle"`
	Needs    *[]described `xml:"Dependencies>Package"`
	Settings struct {
		OnLaunch struct {
			Hours int `xml:"HoursBetweenUpdateChecks,attr"`
		} `xml:"OnLaunch"`
		Background struct{} `xml:"AutomaticBackgroundTask"`
		Downgrade  string   `xml:"ForceUpdateFromAnyVersion,omitempty"`
	} `xml:"UpdateSettings"`
}

type described struct {
	Name         string `xml:"Name,attr"`
	Publisher    string `xml:"Publisher,attr"`
	Version      string `xml:"Version,attr"`
	Architecture string `xml:"ProcessorArchitecture,attr,omitempty"`
	URI          string `xml:"Uri,attr"`
}

func (k pack) described(base *url.URL) described {
	d := described{Name: k.Name, Publisher: k.Publisher, Version: k.Version, URI: base.JoinPath(k.path).String()}
	if !k.Bundle {
		d.Architecture = known(k.Architecture)
	}
	return d
}

// document writes the .appinstaller of k, found under name.
func (p *packages) document(s *shelf, k pack, name string, base *url.URL) []byte {
	d := appInstaller{Version: k.Version, URI: base.JoinPath(name).String()}
	main := k.described(base)
	if k.Bundle {
		d.Bundle = &main
	} else {
		d.Package = &main
	}
	if needs := p.frameworks(s, k, base); len(needs) > 0 {
		d.Needs = &needs
	}
	d.Settings.OnLaunch.Hours = p.cfg.Hours
	if p.cfg.Downgrade {
		d.Settings.Downgrade = "true"
	}
	b, err := xml.MarshalIndent(d, "", "  ")
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append([]byte(xml.Header), append(b, '\n')...)
}

// frameworks are the newest packages here that k's dependencies ask for.
func (p *packages) frameworks(s *shelf, k pack, base *url.URL) []described {
	var out []described
	for _, d := range k.Dependencies {
		for _, arch := range k.architectures() {
			if f, ok := newestFor(s.all, d, arch); ok {
				if x := f.described(base); !slices.Contains(out, x) {
					out = append(out, x)
				}
			}
		}
	}
	return out
}

func newestFor(all []pack, d appx.Dependency, arch string) (best pack, ok bool) {
	for _, f := range all {
		if f.satisfies(d, arch) && (!ok || compareVersions(f.Version, best.Version) > 0) {
			best, ok = f, true
		}
	}
	return best, ok
}

// Handler implements feed.Feed. Names are found without regard to case. What an
// older publication had stays reachable for a download in its middle; the
// documents are the newest publication's.
func (p *packages) Handler(s feed.Serving) (http.Handler, error) {
	var mu sync.Mutex
	shelves := map[string]*shelf{} // by ring: a handler serves one publication
	get := func(ring string, v feed.View) (*shelf, error) {
		mu.Lock()
		defer mu.Unlock()
		if sh := shelves[ring]; sh != nil {
			return sh, nil
		}
		sh, err := p.shelf(v)
		if err == nil {
			shelves[ring] = sh
		}
		return sh, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ring := s.Ring(r)
		v, ok := s.View(ring)
		if !ok {
			http.Error(w, "nothing published yet", http.StatusServiceUnavailable)
			return
		}
		sh, err := get(ring, v)
		if err != nil {
			s.Log.Error("packages", "error", err)
			http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
			return
		}
		path := strings.TrimPrefix(r.URL.Path, "/")
		if k, ok := sh.docs[strings.ToLower(path)]; ok {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				w.Header().Set("Allow", "GET, HEAD")
				http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
				return
			}
			body := p.document(sh, k, path, feed.Asked(r, s.Base))
			w.Header().Set("Content-Type", "application/appinstaller")
			w.Header().Set("ETag", `"`+string(feed.DigestOf(body))+`"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
			return
		}
		if exact, ok := sh.files[strings.ToLower(path)]; ok {
			path = exact
		}
		feed.ServeFile(w, r, v, path)
	}), nil
}

// Installers implements feed.Catalogue: a bundle once for each architecture.
func (p *packages) Installers(c feed.Content) ([]feed.Installer, error) {
	all, err := readAll(c, nil)
	if err != nil {
		return nil, err
	}
	var out []feed.Installer
	for _, k := range all {
		if most, pinned := p.cfg.Pin[k.Name]; k.Framework || k.ResourceID != "" || pinned && compareVersions(k.Version, most) > 0 {
			continue
		}
		i := feed.Installer{
			Path: k.path, ID: k.id(), Name: k.name(), Publisher: k.vendor(), Version: k.Version, Type: "msix",
			MinOS: k.MinOS, Summary: shown(k.Description, ""), FamilyName: k.FamilyName(), Signature: k.signature,
		}
		if strings.Contains(k.path, ".appx") {
			i.Type = "appx"
		}
		for _, d := range k.Dependencies {
			i.Needs = append(i.Needs, d.Name)
		}
		for _, i.Arch = range k.architectures() {
			out = append(out, i)
		}
	}
	return out, nil
}

func (k pack) id() string {
	if feed.ValidInstallerID(k.Name) {
		return k.Name
	}
	return feed.InstallerID(k.vendor(), k.Name)
}

// Names of documents, for settings and probe.
func (s *shelf) names() []string {
	var out []string
	for n, k := range s.docs {
		if n == strings.ToLower(k.Name)+".appinstaller" {
			out = append(out, fmt.Sprintf("%s.appinstaller", k.Name))
		}
	}
	slices.Sort(out)
	return out
}
