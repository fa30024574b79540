package mozilla

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// policyURL is the value of the policy AppUpdateURL. The terminal replaces the
// names between percent signs.
func policyURL(base *url.URL) string {
	return strings.TrimSuffix(base.String(), "/") + updatePath +
		"%PRODUCT%/%VERSION%/%BUILD_ID%/%BUILD_TARGET%/%LOCALE%/%CHANNEL%/%OS_VERSION%/%SYSTEM_CAPABILITIES%/%DISTRIBUTION%/%DISTRIBUTION_VERSION%/update.xml"
}

// Settings implements feed.ClientSettings: the policy in its three forms.
func (f *updates) Settings(_ feed.Content, base *url.URL) ([]feed.Setting, error) {
	p, at := products[f.cfg.Product], policyURL(base)
	key := `SOFTWARE\Policies\Mozilla\` + p.name
	var doc bytes.Buffer
	e := json.NewEncoder(&doc)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(map[string]any{"policies": map[string]any{"AppUpdateURL": at}}); err != nil {
		return nil, err
	}
	tls := feed.Text{}
	if base.Scheme == "https" {
		tls = feed.Text{
			JA: "配信サーバの証明書を発行した認証局を、先に端末の「信頼されたルート証明機関」へ入れます。",
			EN: "First install the mirror's certificate authority among the terminal's trusted roots.",
		}
	}
	return []feed.Setting{{
		Title: feed.Text{JA: p.name + "の端末: レジストリ（Windows）", EN: "Terminals with " + p.name + ": registry (Windows)"},
		File:  "hashike-" + f.cfg.Product + ".reg",
		Body:  "Windows Registry Editor Version 5.00\r\n\r\n[HKEY_LOCAL_MACHINE\\" + key + "]\r\n\"AppUpdateURL\"=\"" + strings.ReplaceAll(at, `\`, `\\`) + "\"\r\n",
		Note: feed.Text{
			JA: "管理者として取り込みます。更新を止める設定（DisableAppUpdate、ManualAppUpdateOnly）があれば外します。" + tls.JA,
			EN: "Import as administrator. Remove policies that stop updates (DisableAppUpdate, ManualAppUpdateOnly). " + tls.EN,
		},
	}, {
		Title: feed.Text{JA: p.name + "の端末: グループポリシー", EN: "Terminals with " + p.name + ": group policy"},
		Body: "コンピューターの構成 > 管理用テンプレート > Mozilla > " + p.name + " > AppUpdateURL (" + f.cfg.Product + ".admx)\n" +
			"Computer Configuration > Administrative Templates > Mozilla > " + p.name + " > AppUpdateURL: Enabled\n" + at + "\n\n" +
			"コンピューターの構成 > 基本設定 > Windows の設定 > レジストリ (ADMXなし / without the ADMX)\n" +
			"Computer Configuration > Preferences > Windows Settings > Registry\n" +
			"HKEY_LOCAL_MACHINE, " + key + "\nAppUpdateURL, REG_SZ\n" + at + "\n",
		Note: feed.Text{
			JA: "テンプレート（ADMX）は提供元のpolicy-templatesにあります。テンプレートがなくても「基本設定」のレジストリで配れます。値の%の名前は端末が置き換えるので、そのまま入れます（%%にしない、環境変数として展開させない）。",
			EN: "The ADMX is in the vendor's policy-templates; registry preferences do without it. Names between percent signs are replaced by the program itself: enter them as they are.",
		},
	}, {
		Title: feed.Text{JA: p.name + "の端末: policies.json（Windows・macOS・Linux）", EN: "Terminals with " + p.name + ": policies.json (Windows, macOS, Linux)"},
		File:  "distribution/policies.json",
		Body:  doc.String(),
		Note: feed.Text{
			JA: "インストール先のフォルダの中のdistributionフォルダに置きます（macOSはContents/Resources/distribution）。すでにファイルがあれば、policiesの中にこの行だけを加えます。Microsoft StoreやLinuxのディストリビューションが配るものには更新の機能がなく、効きません。",
			EN: "Put it into the folder distribution of the installation (macOS: Contents/Resources/distribution). If there is such a file, add this line to its policies. Builds of the Microsoft Store and of Linux distributions have no updater: it does nothing there.",
		},
	}}, nil
}

// Probe implements feed.Prober: it asks as a terminal does for every version
// of the index, and takes the beginning of every file that it is offered.
func (f *updates) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	x, err := readIndex(c)
	if err != nil {
		return nil, err
	}
	p := &probe{f: f, do: do, c: c, x: x, base: base, tried: map[string]bool{}}
	var learnt []string
	for _, s := range x.Streams {
		n := 0
		for _, a := range s.Asked {
			if err := p.version(ctx, s, a); err != nil {
				return learnt, err
			}
			if a.Offer != nil {
				n++
			}
		}
		if r := s.newest(); r != nil {
			learnt = append(learnt, fmt.Sprintf("%s %s: %d versions are led to %s", products[x.Product].name, s.key(), n, x.dir(r.Version)))
		}
	}
	return learnt, nil
}

type probe struct {
	f     *updates
	do    func(*http.Request) (*http.Response, error)
	c     feed.Content
	x     *index
	base  *url.URL
	named string // where the answers say that files are: the same in all
	tried map[string]bool
}

// version asks for one version. What is withheld is not known here, so an
// answer may lack the partial file, or an earlier release altogether.
func (p *probe) version(ctx context.Context, s stream, a asked) error {
	got, err := fetchBody(ctx, p.do, p.f.asTerminal(p.base, s, a), "", http.StatusOK)
	if err != nil {
		return err
	}
	wrong := fmt.Errorf("%s from %s: the answer is not the published one: %.200q: %w", s.key(), a.Version, got, feed.ErrDamaged)
	if string(got) == noUpdate && (a.Offer == nil || *a.Offer != *s.newest()) {
		return nil
	}
	if a.Offer == nil {
		return wrong
	}
	full, partial := p.x.complete(s, a.Offer.Version), p.x.partial(s, a.Version, a.Offer.Version)
	_, rest, _ := bytes.Cut(got, []byte("\" URL=\""))
	at, _, ok := bytes.Cut(rest, []byte("/"+escaped(full)+"\""))
	base, perr := url.Parse(string(at))
	if !ok || perr != nil || p.named != "" && p.named != string(at) {
		return wrong
	}
	p.named = string(at)
	view := ring{feed.View{Content: p.c}, p.x}
	without := ring{feed.View{Content: p.c, Withheld: map[string]string{partial: "?"}}, p.x}
	offered := []string{full, partial}
	switch string(got) {
	case string(view.answer(s, a.Version, a.Build, "", base)):
	case string(without.answer(s, a.Version, a.Build, "", base)):
		offered = offered[:1]
	default:
		return wrong
	}
	for _, o := range offered {
		if held, ok := view.held(o); ok && !p.tried[o] {
			p.tried[o] = true
			if err := p.file(ctx, held); err != nil {
				return err
			}
		}
	}
	return nil
}

// asTerminal is the address that a terminal makes of the policy.
func (f *updates) asTerminal(base *url.URL, s stream, a asked) string {
	p := platforms[s.Platform]
	esc := url.PathEscape
	build := a.Build
	if build == "" {
		build = unknownBuild
	}
	return strings.NewReplacer("%PRODUCT%", products[f.cfg.Product].name, "%VERSION%", a.Version, "%BUILD_ID%", build, "%BUILD_TARGET%", p.targets[0],
		"%LOCALE%", s.Locale, "%CHANNEL%", f.cfg.Channel, "%OS_VERSION%", esc(p.system), "%SYSTEM_CAPABILITIES%", "ISET:SSE4_2,MEM:8192",
		"%DISTRIBUTION%", "default", "%DISTRIBUTION_VERSION%", "default").Replace(policyURL(base))
}

// clientRange is what a terminal asks for at a time.
const clientRange = 300000

func (p *probe) file(ctx context.Context, a feed.Artifact) error {
	got, err := fetchBody(ctx, p.do, address(p.base, a.Path), fmt.Sprintf("bytes=0-%d", clientRange-1), http.StatusPartialContent)
	if err != nil {
		return err
	}
	file, err := p.c.Open(a.Path)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer file.Close()
	want, err := io.ReadAll(io.LimitReader(file, clientRange))
	if err != nil {
		return fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s: served bytes are not those published: %w", a.Path, feed.ErrDamaged)
	}
	return nil
}

func fetchBody(ctx context.Context, do func(*http.Request) (*http.Response, error), u, part string, want int) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	if part != "" {
		r.Header.Set("Range", part)
	}
	res, err := do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		return nil, fmt.Errorf("%s: status %d, want %d: %w", u, res.StatusCode, want, feed.ErrDamaged)
	}
	return io.ReadAll(io.LimitReader(res.Body, clientRange+1))
}
