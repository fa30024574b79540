package office

import (
	"context"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Handler implements feed.Feed: the tree below each channel's name. Terminals
// write "Office/Data" as they like, so case does not matter. Where the newest
// build is withheld, terminals are told of the newest that is not.
func (f *office) Handler(s feed.Serving) (http.Handler, error) {
	return feed.Published(s, func(w http.ResponseWriter, r *http.Request, v feed.View, p string) {
		p = spelt(p)
		if n, ok := parsePath(p); ok && n.role == newest && len(v.Withheld) > 0 {
			p = offered(v, n)
		}
		feed.ServeFile(w, r, v, p)
	}), nil
}

// offered is the cabinet that names the newest whole build of a channel.
func offered(v feed.View, n file) string {
	lacking := map[build]bool{}
	for p := range v.Withheld {
		if f, ok := parsePath(p); ok && f.channel == n.channel && f.arch == n.arch && f.role != extra {
			lacking[f.build] = true
		}
	}
	best := n.path()
	a, ok := v.Lookup(best)
	if b, good := parseBuild(a.Version); ok && good && !lacking[b] {
		return best
	}
	var top build
	for a, err := range v.Artifacts() {
		if err != nil {
			break
		}
		f, ok := parsePath(a.Path)
		if ok && f.role == version && f.channel == n.channel && f.arch == n.arch && !lacking[f.build] && f.build.order() > top.order() {
			top, best = f.build, a.Path
		}
	}
	return best
}

// spelt is the path as artifacts have it.
func spelt(p string) string {
	channel, rest, _ := strings.Cut(p, "/")
	for name := range channels() {
		if strings.EqualFold(name, channel) {
			channel = name
		}
	}
	return channel + "/" + strings.ToLower(rest)
}

// Settings implements feed.ClientSettings: per channel what a policy says, and
// what the deployment tool reads.
func (f *office) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	var out []feed.Setting
	for _, ch := range f.cfg.Channels {
		at := strings.TrimSuffix(base.JoinPath(ch).String(), "/")
		for _, arch := range f.cfg.Arch {
			if a, ok := c.Lookup(file{channel: ch, arch: arch, role: newest}.path()); ok {
				out = append(out, f.policy(ch, at), f.deployment(ch, arch, at, a.Version))
			}
		}
	}
	return out, nil
}

func (f *office) policy(ch, at string) feed.Setting {
	body := "Windows Registry Editor Version 5.00\r\n\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Microsoft\\office\\16.0\\common\\officeupdate]\r\n" +
		"\"enableautomaticupdates\"=dword:00000001\r\n\"updatepath\"=\"" + at + "\"\r\n"
	return feed.Setting{
		Title: feed.Text{JA: "Officeの更新元（" + ch + "）", EN: "Office's update path (" + ch + ")"},
		File:  "hashike-office-" + strings.ToLower(ch) + ".reg",
		Body:  body,
		Note: feed.Text{
			JA: "グループポリシーでは［Microsoft Office 2016（マシン）］→［更新］→［更新プログラムのパス］にこのURLを入れます。ODTのUpdatePathや「更新チャネル」の設定より優先します。実機での確認手順は docs/windows-acceptance.md にあります（未確認）。",
			EN: "In group policy: Microsoft Office 2016 (Machine) > Updates > Update Path. It goes before UpdatePath of the deployment tool and the update channel. Not confirmed on a real machine: steps in docs/windows-acceptance.md.",
		},
	}
}

// deployment is a configuration.xml of the Office Deployment Tool that installs
// from here and updates from here.
func (f *office) deployment(ch, arch, at, version string) feed.Setting {
	edition := "64"
	if arch == "x86" {
		edition = "32"
	}
	product := "O365ProPlusRetail"
	if v, ok := strings.CutPrefix(ch, "PerpetualVL"); ok {
		product = "ProPlus" + v + "Volume"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<Configuration>\r\n  <Add SourcePath=\"%s\" OfficeClientEdition=\"%s\" Channel=\"%s\" Version=\"%s\">\r\n    <Product ID=\"%s\">\r\n", escape(at), edition, ch, version, product)
	for _, l := range f.cfg.Languages {
		fmt.Fprintf(&b, "      <Language ID=\"%s\" />\r\n", l)
	}
	fmt.Fprintf(&b, "    </Product>\r\n  </Add>\r\n  <Updates Enabled=\"TRUE\" UpdatePath=\"%s\" />\r\n  <Display Level=\"None\" AcceptEULA=\"TRUE\" />\r\n</Configuration>\r\n", escape(at))
	return feed.Setting{
		Title: feed.Text{JA: "Office展開ツールの設定（" + ch + "、" + arch + "）", EN: "Office Deployment Tool (" + ch + ", " + arch + ")"},
		File:  "configuration-" + strings.ToLower(ch) + "-" + arch + ".xml",
		Body:  b.String(),
		Note: feed.Text{
			JA: "setup.exe /configure で読み込みます。製品のIDは契約に合わせて直してください。",
			EN: "For setup.exe /configure. Set the product ID to what your contract covers.",
		},
	}
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

// Probe implements feed.Prober: the cabinet that terminals ask for first, in a
// terminal's spelling, and the first MiB of one payload.
func (f *office) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	var told []string
	for a, err := range c.Artifacts() {
		if err != nil {
			return told, err
		}
		n, ok := parsePath(a.Path)
		if !ok || n.role != newest {
			continue
		}
		u := base.JoinPath(n.channel, "Office", "Data", "v"+bits(n.arch)+".cab")
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return told, err
		}
		res, err := do(req)
		if err != nil {
			return told, fmt.Errorf("%s: %w", a.Path, err)
		}
		h := sha256.New()
		_, err = io.Copy(h, io.LimitReader(res.Body, a.Size+1))
		res.Body.Close()
		if err == nil && (res.StatusCode != http.StatusOK || feed.DigestFrom(h) != a.Digest) {
			err = fmt.Errorf("answered %s, not the file: %w", res.Status, feed.ErrDamaged)
		}
		if err != nil {
			return told, fmt.Errorf("%s: %w", a.Path, err)
		}
		told = append(told, fmt.Sprintf("%s %s: build %s", n.channel, n.arch, a.Version))
	}
	if len(told) == 0 {
		return nil, fmt.Errorf("no channel in the snapshot: %w", feed.ErrDamaged)
	}
	return told, nil
}
