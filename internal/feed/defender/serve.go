package defender

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Handler implements feed.Feed: a plain tree. Files of older publications stay
// reachable only under paths that the new one lacks, so no terminal gets a
// program of one version and believes it to be another.
func (f *definitions) Handler(s feed.Serving) (http.Handler, error) { return feed.FileHandler(s), nil }

// Settings implements feed.ClientSettings. Terminals take programs from a
// Windows file share only, so the share's own server fetches them.
func (f *definitions) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	mirror := strings.TrimSuffix(base.String(), "/")
	var programs []string
	systems := map[string]bool{}
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		if i, ok := at(a.Path); ok && a.Path == i.path {
			if i.pack {
				systems[strings.SplitN(i.path, "/", 2)[0]] = true
			} else {
				programs = append(programs, i.path)
			}
		}
	}
	var out []feed.Setting
	if len(programs) > 0 {
		out = append(out, share(mirror, programs), policy(mirror))
	}
	for _, system := range []string{"linux", "mac"} {
		if systems[system] {
			s, err := managed(mirror, system)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// share is what the file server runs every hour.
func share(mirror string, programs []string) feed.Setting {
	var b strings.Builder
	b.WriteString("$mirror = '" + mirror + "'\n$share  = 'D:\\Defender'\n")
	b.WriteString("foreach ($p in '" + strings.Join(programs, "', '") + "') {\n")
	b.WriteString(`  $to = Join-Path $share ($p -replace '/', '\')
  New-Item -ItemType Directory -Force (Split-Path $to) | Out-Null
  $new = $to -replace '\.exe$', '.new.exe'
  $when = @()
  if (Test-Path $to) { $when = @('-z', $to) }
  & curl.exe -fsS -R @when -o $new "$mirror/$p"
  if ($LASTEXITCODE -ne 0) { Write-Error "$p"; continue }
  if (-not (Test-Path $new)) { continue }          # not newer
  $sig = Get-AuthenticodeSignature $new
  if ($sig.Status -ne 'Valid' -or $sig.SignerCertificate.Subject -notmatch 'O=Microsoft Corporation') { Remove-Item $new; Write-Error "$p"; continue }
  Move-Item -Force $new $to
}
`)
	return feed.Setting{
		Title: feed.Text{JA: "共有フォルダを満たすスクリプト（ファイルサーバで1時間ごと）", EN: "Script that fills the file share (hourly, on the file server)"},
		File:  "Update-DefenderShare.ps1",
		Body:  b.String(),
		Note: feed.Text{
			JA: "WindowsのDefenderは定義をHTTPでは取れません。共有フォルダの読み取りは、端末のコンピューターアカウント（Domain Computers）に許可してください。タスク スケジューラで1時間ごとに動かします。実機では未確認です。",
			EN: "Defender on Windows takes definitions from a file share, not over HTTP. Let the terminals' computer accounts (Domain Computers) read the share. Run it hourly by the task scheduler. Not confirmed on a real machine.",
		},
	}
}

// policy points terminals at the share.
func policy(mirror string) feed.Setting {
	return feed.Setting{
		Title: feed.Text{JA: "端末の設定（共有フォルダから定義を取る）", EN: "Terminals: definitions from the file share"},
		File:  "defender-share.reg",
		Body: "Windows Registry Editor Version 5.00\r\n\r\n; " + mirror + "\r\n" +
			`[HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows Defender\Signature Updates]` + "\r\n" +
			`"DefinitionUpdateFileSharesSources"="\\\\FILESERVER\\Defender"` + "\r\n" +
			`"FallbackOrder"="InternalDefinitionUpdateServer|FileShares"` + "\r\n",
		Note: feed.Text{
			JA: "FILESERVERを自分のサーバの名前にします（複数は「|」で区切る）。グループポリシーでは「コンピューターの構成 → 管理用テンプレート → Windows コンポーネント → Microsoft Defender ウイルス対策 → セキュリティ インテリジェンスの更新」の「セキュリティ インテリジェンスの更新をダウンロードするためのファイル共有を定義する」と「…ソースの順序を定義する」。いますぐ1台だけ更新するには MpCmdRun.exe -SignatureUpdate -UNC -Path \\\\FILESERVER\\Defender。",
			EN: "Put your server's name for FILESERVER (several are separated by |). In group policy: Computer Configuration, Administrative Templates, Windows Components, Microsoft Defender Antivirus, Security Intelligence Updates: \"Define file shares for downloading security intelligence updates\" and \"Define the order of sources\". One terminal at once: MpCmdRun.exe -SignatureUpdate -UNC -Path \\\\FILESERVER\\Defender.",
		},
	}
}

// managed is the managed configuration of Defender for Endpoint.
func managed(mirror, system string) (feed.Setting, error) {
	b, err := json.MarshalIndent(map[string]any{
		"cloudService": map[string]any{"automaticDefinitionUpdateEnabled": true, "definitionUpdatesInterval": 3600},
		"antivirusEngine": map[string]any{"enforcementLevel": "real_time", "offlineDefinitionUpdate": "enabled",
			"offlineDefinitionUpdateUrl": mirror + "/" + system + "/production/", "offlineDefinitionUpdateFallbackToCloud": false},
		"features": map[string]any{"offlineDefinitionUpdateVerifySig": "enabled"},
	}, "", "  ")
	s := feed.Setting{
		Title: feed.Text{JA: "Linuxの端末の設定", EN: "Linux terminals"},
		File:  "/etc/opt/microsoft/mdatp/managed/mdatp_managed.json",
		Body:  string(b) + "\n",
		Note: feed.Text{
			JA: "すでにある設定に書き足します。「mdatp definitions update」で試し、「mdatp health --details definitions」で確かめます。署名はこの設定（VerifySig）により端末が確かめます。",
			EN: "Merge it into the settings that are there. Try \"mdatp definitions update\", look with \"mdatp health --details definitions\". With VerifySig the terminal checks the signature inside.",
		},
	}
	if system == "mac" {
		s.Title, s.File = feed.Text{JA: "macOSの端末の設定", EN: "macOS terminals"}, "com.microsoft.wdav"
		s.Note = feed.Text{
			JA: "構成プロファイル（com.microsoft.wdav）に、同じ項目をplistの形で書きます。実機では未確認です。",
			EN: "Write the same keys as a plist into the configuration profile (com.microsoft.wdav). Not confirmed on a real machine.",
		}
	}
	return s, err
}

// Probe implements feed.Prober: it takes every file as the share's server does.
func (f *definitions) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	var told []string
	for a, err := range c.Artifacts() {
		if err != nil {
			return told, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(a.Path).String(), nil)
		if err != nil {
			return told, err
		}
		res, err := do(req)
		if err != nil {
			return told, fmt.Errorf("%s: %w", a.Path, err)
		}
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(res.Body, a.Size+1))
		res.Body.Close()
		if err == nil && (res.StatusCode != http.StatusOK || feed.DigestFrom(h) != a.Digest) {
			err = fmt.Errorf("answered %s with %d bytes that are not the file: %w", res.Status, n, feed.ErrDamaged)
		}
		if err != nil {
			return told, fmt.Errorf("%s: %w", a.Path, err)
		}
		told = append(told, fmt.Sprintf("%s version %s, %d bytes", a.Path, a.Version, n))
	}
	slices.Sort(told)
	return told, nil
}
