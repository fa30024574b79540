package msix

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Settings implements feed.ClientSettings: how a terminal gets a package and
// follows it. The protocol ms-appinstaller: is off by default since 2023-12
// (CVE-2021-43890) and stays off: nothing here needs it.
func (p *packages) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	s, err := p.shelf(feed.View{Content: c})
	if err != nil {
		return nil, err
	}
	var user, machine strings.Builder
	for _, n := range s.names() {
		k := s.docs[strings.ToLower(n)]
		fmt.Fprintf(&user, "Add-AppxPackage -AppInstallerFile %s\r\n", quoted(base.JoinPath(n).String()))
		for _, f := range p.frameworks(s, k, base) {
			fmt.Fprintf(&machine, "# %s %s\r\nInvoke-WebRequest -UseBasicParsing -Uri %s -OutFile \"$d\\%s\"\r\n", f.Name, f.Version, quoted(f.URI), file(f.URI))
		}
		at := base.JoinPath(k.path).String()
		fmt.Fprintf(&machine, "# %s %s\r\nInvoke-WebRequest -UseBasicParsing -Uri %s -OutFile \"$d\\%s\"\r\n", k.name(), k.Version, quoted(at), file(at))
		fmt.Fprintf(&machine, "Add-AppxProvisionedPackage -Online -SkipLicense -PackagePath \"$d\\%s\"", file(at))
		if f := p.frameworks(s, k, base); len(f) > 0 {
			machine.WriteString(" -DependencyPackagePath ")
			for i, x := range f {
				if i > 0 {
					machine.WriteString(",")
				}
				fmt.Fprintf(&machine, "\"$d\\%s\"", file(x.URI))
			}
		}
		machine.WriteString("\r\n")
	}
	return []feed.Setting{
		{
			Title: feed.Text{JA: "端末: 使う人ごとに入れて、以後は自動で更新する（PowerShell）", EN: "Terminals: install for the user, updated by itself from then on (PowerShell)"},
			File:  "hashike-msix.ps1", Body: user.String(),
			Note: feed.Text{
				JA: "サインインのスクリプト（グループポリシー: ユーザーの構成 → Windowsの設定 → スクリプト）に入れます。一度入れると、起動のときとバックグラウンドで、このサーバを調べて更新します。リンク（ms-appinstaller:）は既定で止められており、止めたままで構いません。",
				EN: "For a logon script (group policy: User Configuration, Windows Settings, Scripts). Once installed, it looks here at start and in the background. Links (ms-appinstaller:) are disabled by default and may stay so.",
			},
		},
		{
			Title: feed.Text{JA: "端末: すべての利用者に入れる（PowerShell、管理者として実行）", EN: "Terminals: provision for every user (PowerShell, as administrator)"},
			File:  "hashike-msix-all.ps1", Body: "$d = \"$env:TEMP\\hashike-msix\"; New-Item -ItemType Directory -Force -Path $d | Out-Null\r\n" + machine.String(),
			Note: feed.Text{
				JA: "こちらは自動では更新されません。版が変わるたびに動かします（スタートアップのスクリプトなど）。",
				EN: "This does not update by itself: run it for each version (a start-up script).",
			},
		},
		{
			Title: feed.Text{JA: "端末: グループポリシー", EN: "Terminals: group policy"},
			Body:  policies(base),
			Note: feed.Text{
				JA: "自庁の証明書で署名したパッケージは、その発行元の証明書を「信頼されたルート証明機関」に入れたときだけ入ります。",
				EN: "Packages signed under the town's own authority install only where its certificate is among the trusted roots.",
			},
		},
	}, nil
}

func policies(base *url.URL) string {
	return "; " + base.String() + "\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Microsoft\\Windows\\Appx]\r\n" +
		"\"AllowAllTrustedApps\"=dword:00000001\r\n\r\n" +
		"[HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Microsoft\\Windows\\AppInstaller]\r\n" +
		"\"EnableAppInstaller\"=dword:00000001\r\n" +
		"\"EnableMSAppInstallerProtocol\"=dword:00000000\r\n"
}

// quoted is a PowerShell string that nothing in it can leave.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func file(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// Probe implements feed.Prober: as App Installer does, document first, then the
// package that it names.
func (p *packages) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	s, err := p.shelf(feed.View{Content: c})
	if err != nil {
		return nil, err
	}
	get := func(u string, limit int64) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, err
		}
		res, err := do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err == nil && (res.StatusCode != http.StatusOK || int64(len(b)) > limit) {
			err = fmt.Errorf("%s: %s: %w", u, res.Status, feed.ErrDamaged)
		}
		return b, err
	}
	var told []string
	for _, n := range s.names() {
		k := s.docs[strings.ToLower(n)]
		b, err := get(base.JoinPath(n).String(), 1<<20)
		if err != nil {
			return told, err
		}
		if !bytes.Equal(b, p.document(s, k, n, base)) {
			return told, fmt.Errorf("%s does not offer %s as it is published: %w", n, k.Version, feed.ErrDamaged)
		}
		a, ok := c.Lookup(k.path)
		if !ok {
			return told, fmt.Errorf("%s is not in the snapshot: %w", k.path, feed.ErrDamaged)
		}
		if b, err = get(base.JoinPath(k.path).String(), a.Size); err != nil {
			return told, err
		}
		if feed.DigestOf(b) != a.Digest {
			return told, fmt.Errorf("%s is served with other content: %w", k.path, feed.ErrDamaged)
		}
		told = append(told, fmt.Sprintf("%s: %s %s, %d bytes", n, k.Name, k.Version, len(b)))
	}
	return told, nil
}
