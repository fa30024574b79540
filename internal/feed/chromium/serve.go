package chromium

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/crx"
	"github.com/hashike/hashike/internal/format/msi"
)

// updates is where browsers ask for extensions' updates.
const updates = "extensions/update.xml"

// Handler implements feed.Feed: the files, and the update manifest of
// extensions, made for who asks.
func (f *browsers) Handler(s feed.Serving) (http.Handler, error) {
	return feed.Published(s, func(w http.ResponseWriter, r *http.Request, v feed.View, p string) {
		if p == updates {
			manifest(w, r, v, feed.Asked(r, s.Base))
			return
		}
		if strings.HasSuffix(p, ".crx") {
			w.Header().Set("Content-Type", "application/x-chrome-extension")
		}
		feed.ServeFile(w, r, v, p)
	}), nil
}

type answer struct {
	XMLName  xml.Name `xml:"http://www.google.com/update2/response gupdate"`
	Protocol string   `xml:"protocol,attr"`
	Apps     []app    `xml:"app"`
}

type app struct {
	ID    string `xml:"appid,attr"`
	Check check  `xml:"updatecheck"`
}

type check struct {
	Codebase string `xml:"codebase,attr,omitempty"`
	Version  string `xml:"version,attr,omitempty"`
	Status   string `xml:"status,attr,omitempty"`
}

const maxAsked = 300

// manifest answers with the extensions that are asked for (x=id%3D…%26v%3D…,
// once for each), or all of them if none is.
func manifest(w http.ResponseWriter, r *http.Request, v feed.View, base *url.URL) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	b, err := answers(v, base, r.URL.Query())
	if err != nil {
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(b) // an error is the browser's: it went away
}

func answers(v feed.View, base *url.URL, query url.Values) ([]byte, error) {
	have := newest(v)
	var ids []string
	for _, x := range query["x"] {
		q, _ := url.ParseQuery(x) // what does not parse names no extension
		if id := q.Get("id"); crx.ValidID(id) && len(ids) < maxAsked && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if !query.Has("x") {
		for id := range have {
			ids = append(ids, id)
		}
		slices.Sort(ids)
	}
	a := answer{Protocol: "2.0"}
	for _, id := range ids {
		f, ok := have[id]
		c := check{Status: "noupdate"}
		if ok {
			c = check{Codebase: base.JoinPath(f.path()).String(), Version: f.version}
		}
		a.Apps = append(a.Apps, app{id, c})
	}
	b, err := xml.MarshalIndent(a, "", " ")
	return append([]byte(xml.Header), append(b, '\n')...), err
}

// newest are the extensions of a view that are not withheld.
func newest(v feed.View) map[string]file {
	out := map[string]file{}
	for a, err := range v.Artifacts() {
		if err != nil {
			break
		}
		f, ok := parsePath(a.Path)
		if _, held := v.Withheld[a.Path]; !ok || held || f.product != "extensions" {
			continue
		}
		x, _ := parseVersion(f.version)
		y, _ := parseVersion(out[f.id].version)
		if _, known := out[f.id]; !known || x.order() > y.order() {
			out[f.id] = f
		}
	}
	return out
}

// Installers implements feed.Catalogue.
func (f *browsers) Installers(c feed.Content) ([]feed.Installer, error) {
	var out []feed.Installer
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		n, ok := parsePath(a.Path)
		if !ok || n.product == "extensions" {
			continue
		}
		i, err := installer(c, a, n)
		if err != nil {
			continue // a package that Verify withholds
		}
		out = append(out, i)
	}
	return out, nil
}

func installer(c feed.Content, a feed.Artifact, n file) (feed.Installer, error) {
	file, err := c.Open(a.Path)
	if err != nil {
		return feed.Installer{}, err
	}
	defer file.Close()
	r, ok := file.(io.ReaderAt)
	if !ok {
		return feed.Installer{}, fmt.Errorf("%s cannot be read: %w", a.Path, feed.ErrDamaged)
	}
	p, err := msi.Read(r, a.Size)
	if err != nil {
		return feed.Installer{}, err
	}
	i, err := p.Installer(a.Path)
	if err != nil {
		return i, err
	}
	i.ID, i.Version, i.Type, i.Scope = "Google.Chrome", n.version, "wix", "machine"
	if n.product == "edge" {
		i.ID = "Microsoft.Edge"
	}
	return i, nil
}

// Settings implements feed.ClientSettings.
func (f *browsers) Settings(c feed.Content, base *url.URL) (out []feed.Setting, err error) {
	if len(f.cfg.Chrome)+len(f.cfg.Edge) > 0 {
		s, err := f.quiet(c, base)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(f.cfg.Extensions) > 0 {
		out = append(out, f.forced(base))
	}
	return out, nil
}

// quiet switches the browsers' own updaters off, and names what to install.
func (f *browsers) quiet(c feed.Content, base *url.URL) (feed.Setting, error) {
	var b strings.Builder
	b.WriteString("Windows Registry Editor Version 5.00\r\n\r\n")
	for a, err := range c.Artifacts() {
		if err != nil {
			return feed.Setting{}, err
		}
		if n, ok := parsePath(a.Path); ok && n.product != "extensions" {
			b.WriteString("; " + base.JoinPath(a.Path).String() + "\r\n")
		}
	}
	if len(f.cfg.Chrome) > 0 {
		b.WriteString("\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Google\\Update]\r\n\"UpdateDefault\"=dword:00000000\r\n\"AutoUpdateCheckPeriodMinutes\"=dword:00000000\r\n")
	}
	if len(f.cfg.Edge) > 0 {
		b.WriteString("\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Microsoft\\EdgeUpdate]\r\n\"UpdateDefault\"=dword:00000000\r\n\"AutoUpdateCheckPeriodMinutes\"=dword:00000000\r\n")
	}
	return feed.Setting{
		Title: feed.Text{JA: "ブラウザー自身の更新を止める", EN: "Switch the browsers' own updates off"},
		File:  "hashike-browsers.reg",
		Body:  b.String(),
		Note: feed.Text{
			JA: "ブラウザーは更新元を変えられません（提供元の鍵で応答を確かめるため）。更新はwingetの社内ソース、共有フォルダ（hashike export）、またはスタートアップ スクリプトで .msi を入れて行います。",
			EN: "Browsers take no other update server: answers are signed by the vendor's key. Install the .msi by the winget source, a file share (hashike export) or a start-up script.",
		},
	}, nil
}

// forced is the policy that installs the extensions and has them updated here.
func (f *browsers) forced(base *url.URL) feed.Setting {
	at := base.JoinPath(updates).String()
	var b strings.Builder
	b.WriteString("Windows Registry Editor Version 5.00\r\n")
	for _, key := range []string{`Google\Chrome`, `Microsoft\Edge`} {
		fmt.Fprintf(&b, "\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\%s\\ExtensionInstallForcelist]\r\n", key)
		for i, id := range f.cfg.Extensions {
			fmt.Fprintf(&b, "\"%d\"=\"%s;%s\"\r\n", i+1, id, at)
		}
	}
	return feed.Setting{
		Title: feed.Text{JA: "拡張機能を入れ、ここから更新する", EN: "Install the extensions and update them from here"},
		File:  "hashike-extensions.reg",
		Body:  b.String(),
		Note: feed.Text{
			JA: "使わないブラウザーの分は消してください。ドメインに参加した端末だけに効きます。",
			EN: "Remove the browser that is not used. It works on machines in a domain only.",
		},
	}
}

// Probe implements feed.Prober: the beginning of every package, and what
// browsers are told of extensions.
func (f *browsers) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	told, err := feed.ProbeFiles(ctx, do, c, base)
	if err != nil || len(f.cfg.Extensions) == 0 {
		return told, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(updates).String(), nil)
	if err != nil {
		return told, err
	}
	res, err := do(req)
	if err != nil {
		return told, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return told, err
	}
	if mine, err := answers(feed.View{Content: c}, base, nil); err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(b, mine) {
		return told, fmt.Errorf("%s is not what this publication says: %w", updates, errors.Join(err, feed.ErrDamaged))
	}
	return append(told, fmt.Sprintf("%s: %d extensions", updates, bytes.Count(b, []byte("codebase=")))), nil
}
