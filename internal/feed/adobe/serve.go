package adobe

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
)

// routes is where scripts ask for the order of patches:
// route.json?product=reader-x64&language=MUI&installed=25.001.20428
const routes = "route.json"

// Handler implements feed.Feed: the files, and the order of patches.
func (f *acrobat) Handler(s feed.Serving) (http.Handler, error) {
	return feed.Published(s, func(w http.ResponseWriter, r *http.Request, v feed.View, p string) {
		if p == routes {
			route(w, r, v, feed.Asked(r, s.Base))
			return
		}
		feed.ServeFile(w, r, v, p)
	}), nil
}

// routeAnswer is what route.json says.
type routeAnswer struct {
	Product   string      `json:"product"`
	Installed string      `json:"installed"`
	Steps     []routeStep `json:"steps"`             // in this order; none: nothing to do, or nothing that applies
	Missing   string      `json:"missing,omitempty"` // the quarterly patch that the newest needs and that is not carried
}

type routeStep struct {
	Version string `json:"version"`
	URL     string `json:"url"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
}

func route(w http.ResponseWriter, r *http.Request, v feed.View, base *url.URL) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	q := r.URL.Query()
	p, ok := parseProduct(q.Get("product"))
	installed, good := ParseVersion(q.Get("installed"))
	if !ok || !good {
		http.Error(w, "which product, and which version is installed?", http.StatusBadRequest)
		return
	}
	all, err := patches(v.Content, v.Withheld, p, q.Get("language"))
	if err != nil {
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	found := PatchRoute(installed, all)
	a := routeAnswer{Product: p.String(), Installed: installed.String(), Steps: []routeStep{}}
	if found.Missing != (Version{}) {
		a.Missing = found.Missing.String()
	}
	for _, s := range found.Steps {
		if x, ok := v.Lookup(s.Path); ok {
			a.Steps = append(a.Steps, routeStep{s.Version.String(), base.JoinPath(s.Path).String(), x.Digest.Hex(), x.Size})
		}
	}
	b, err := json.MarshalIndent(a, "", " ")
	if err != nil {
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(append(b, '\n')) // an error is the terminal's: it went away
}

// patches are those of one product and language that are not withheld.
func patches(c feed.Content, withheld map[string]string, p product, language string) (out []Patch, err error) {
	if language != "MUI" || p.name != "reader" {
		language = ""
	}
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		n, ok := parsePath(a.Path)
		if _, bad := withheld[a.Path]; !ok || bad || n.form != "msp" || n.product != p || n.lang != language {
			continue
		}
		x, err := patch(c, n)
		if err != nil {
			continue // withheld by Verify
		}
		need, err := after(x, n.version)
		if err != nil {
			continue
		}
		out = append(out, Patch{a.Path, n.version, need})
	}
	return out, nil
}

func patch(c feed.Content, n file) (*msi.Patch, error) {
	h, err := open(c, n.path())
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return msi.ReadPatch(h, h.size)
}

// Installers implements feed.Catalogue.
func (f *acrobat) Installers(c feed.Content) ([]feed.Installer, error) {
	var out []feed.Installer
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		n, ok := parsePath(a.Path)
		if !ok || n.form == "dmg" {
			continue
		}
		i := describe(n)
		if n.form == "msp" {
			x, err := patch(c, n)
			if err != nil {
				continue
			}
			need, err := after(x, n.version)
			if err != nil {
				continue
			}
			if i.Targets = x.Targets; need != (Version{}) {
				i.After = need.String()
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// describe is what a file's name says; the arguments are those of Adobe's
// guide for enterprises, the product code that of a package of winget-pkgs.
func describe(n file) feed.Installer {
	i := feed.Installer{Path: n.path(), Publisher: "Adobe", Version: n.version.String(), Arch: n.arch, Scope: "machine", Success: []int{1641, 3010}, Home: "https://www.adobe.com/acrobat"}
	switch {
	case n.name == "reader" && n.arch == "x64":
		i.ID, i.Name = "Adobe.Acrobat.Reader.64-bit", "Adobe Acrobat (64-bit)"
	case n.name == "reader":
		i.ID, i.Name = "Adobe.Acrobat.Reader.32-bit", "Adobe Acrobat Reader"
	default:
		i.ID, i.Name = "Adobe.Acrobat.Pro", "Adobe Acrobat"
		if n.arch == "x64" {
			i.Name = "Adobe Acrobat (64-bit)"
		}
	}
	if n.track != "DC" {
		i.ID, i.Name = strings.Replace(i.ID, ".Acrobat", ".Acrobat"+n.track, 1), i.Name+" "+n.track
	}
	if n.lang != "MUI" {
		i.Locale = strings.Replace(n.lang, "_", "-", 1)
	}
	if n.form == "msp" {
		// An ID of their own: scripts keep a record of what ran by ID and version,
		// and the installer and both kinds of patches have the same version.
		i.Type, i.Silent, i.ID = "msp", "/qn REBOOT=ReallySuppress", i.ID+".Patch"
		if n.lang != "" {
			i.ID += "." + n.lang
		}
		return i
	}
	i.Type, i.Silent = "exe", "-sfx_nu /sAll /rs /msi EULA_ACCEPT=YES UPDATE_MODE=0 DISABLE_ARM_SERVICE_INSTALL=1"
	entry := feed.AddRemove{Name: i.Name, Publisher: i.Publisher, Version: i.Version}
	if n.arch == "x64" && n.track == "DC" && n.lang == "MUI" {
		i.ProductCode = "{AC76BA86-1033-FF00-7760-BC15014EA700}"
		entry.ProductCode = i.ProductCode
	}
	i.Entries = []feed.AddRemove{entry}
	return i
}

// Settings implements feed.ClientSettings.
func (f *acrobat) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	var b strings.Builder
	b.WriteString("Windows Registry Editor Version 5.00\r\n\r\n")
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		b.WriteString("; " + base.JoinPath(a.Path).String() + "\r\n")
	}
	var keys []string
	for _, p := range f.products {
		if p.arch == "mac" {
			continue
		}
		names := []string{"Adobe Acrobat"}
		if p.name == "reader" { // the 64-bit one is Acrobat by another name
			names = append(names, "Acrobat Reader")
		}
		for _, n := range names {
			for _, under := range []string{`SOFTWARE\`, `SOFTWARE\WOW6432Node\`} {
				if k := under + `Policies\Adobe\` + n + `\` + p.track + `\FeatureLockDown`; !slices.Contains(keys, k) && (p.arch == "x86" || !strings.Contains(under, "WOW")) {
					keys = append(keys, k)
				}
			}
		}
	}
	for _, k := range keys {
		b.WriteString("\r\n[HKEY_LOCAL_MACHINE\\" + k + "]\r\n\"bUpdater\"=dword:00000000\r\n")
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "Acrobat・Reader自身の更新を止める", EN: "Switch the updater of Acrobat and Reader off"},
		File:  "hashike-adobe.reg",
		Body:  b.String(),
		Note: feed.Text{
			JA: "Adobeの更新プログラム（ARM）は、更新元をほかのサーバに変えられません。更新は共有フォルダ（hashike export）またはスタートアップ スクリプトで .msp を入れて行います。新しく入れるときは .exe を使います。サービス AdobeARMservice とタスク Adobe Acrobat Update Task も止めてください。",
			EN: "Adobe's updater (ARM) takes no other server. Install the .msp by a file share (hashike export) or a start-up script; the .exe is for new installations. Stop the service AdobeARMservice and the task Adobe Acrobat Update Task as well.",
		},
	}}, nil
}

// Probe implements feed.Prober.
func (f *acrobat) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	return feed.ProbeFiles(ctx, do, c, base)
}
