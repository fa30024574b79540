package winget

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

const sourceName = "hashike"

// Settings implements feed.ClientSettings: the source by policy or by hand, and
// the task that installs updates, for winget has no scheduler of its own.
func (s *source) Settings(_ feed.Content, base *url.URL) ([]feed.Setting, error) {
	arg := strings.TrimSuffix(base.String(), "/")
	secure := feed.Text{}
	if base.Scheme != "https" {
		secure = feed.Text{JA: "wingetはhttpsの配信元だけを受け付けます。[[listen]] で tls を使い、baseをhttps://にしてください。", EN: "winget accepts sources over https alone: use tls in [[listen]] and an https base. "}
	}
	policy, err := s.policy(arg)
	if err != nil {
		return nil, err
	}
	return []feed.Setting{
		{
			Title: feed.Text{JA: "端末: 配信元を加える（管理者のPowerShell）", EN: "Terminals: add the source (PowerShell, as administrator)"},
			File:  "hashike-winget.ps1",
			Body: "winget source add --name " + sourceName + " --arg " + quoted(arg) + " --type Microsoft.Rest --accept-source-agreements\r\n" +
				"winget source remove --name winget\r\nwinget source remove --name msstore\r\n",
			Note: feed.Text{
				JA: secure.JA + "人が加えた配信元は、その人にだけ見えます。SYSTEMで動くタスクには、次のグループポリシーを使います。端末には、App Installer（LTSCとServerには初めは入っていません）と、この配信サーバの証明書（設定の画面にあるhashike-ca.crt）が要ります。",
				EN: secure.EN + "A source that a user added is seen by that user alone: for the task below use the policy. Terminals need App Installer (LTSC and Server come without it) and this server's certificate (hashike-ca.crt on the settings page).",
			},
		},
		{
			Title: feed.Text{JA: "端末: グループポリシー「追加のソースを有効にする」", EN: "Terminals: group policy \"Enable App Installer Additional Sources\""},
			File:  "hashike-winget.reg", Body: policy,
			Note: feed.Text{
				JA: "グループポリシーでは、コンピューターの構成 → 管理用テンプレート → Windowsコンポーネント → デスクトップ アプリ インストーラー の「追加のソース」に、AdditionalSourcesの値（JSON）を1行で入れます。既定のソースとストアは止めます（届かないサーバを待たせないため）。",
				EN: "In group policy: Computer Configuration, Administrative Templates, Windows Components, Desktop App Installer: the JSON of AdditionalSources in one line. The default sources are turned off: they cannot be reached.",
			},
		},
		{
			Title: feed.Text{JA: "端末: 毎日の更新（タスクを作るPowerShell、管理者として実行）", EN: "Terminals: daily updates (PowerShell that makes the task, as administrator)"},
			File:  "hashike-winget-task.ps1", Body: task(arg),
			Note: feed.Text{
				JA: "wingetには予定を立てる機能がありません。スタートアップのスクリプトに入れるか、グループポリシーの基本設定で配ります。結果は C:\\ProgramData\\Hashike\\winget.log に残ります。",
				EN: "winget has no scheduler. Put this into a start-up script. Results are in C:\\ProgramData\\Hashike\\winget.log.",
			},
		},
	}, nil
}

// policy is the registry form of the policies (DesktopAppInstaller.admx).
func (s *source) policy(arg string) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		Name, Arg, Type, Data, Identifier string
		TrustLevel                        []string
		Explicit                          bool
	}{sourceName, arg, "Microsoft.Rest", "", s.cfg.Identifier, []string{"Trusted"}, false})
	if err != nil {
		return "", err
	}
	value := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.TrimSpace(b.String()))
	const key = `[HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows\AppInstaller`
	return "Windows Registry Editor Version 5.00\r\n\r\n" + key + "]\r\n" +
		"\"EnableAppInstaller\"=dword:00000001\r\n\"EnableAdditionalSources\"=dword:00000001\r\n\"EnableDefaultSource\"=dword:00000000\r\n\"EnableMicrosoftStoreSource\"=dword:00000000\r\n\r\n" +
		key + "\\AdditionalSources]\r\n\"1\"=\"" + value + "\"\r\n", nil
}

// task makes a scheduled task that runs as the system, which has no winget on
// its path: the newest App Installer's folder is looked for.
func task(arg string) string {
	lines := []string{
		"# " + arg,
		`$d = "$env:ProgramData\Hashike"; New-Item -ItemType Directory -Force -Path $d | Out-Null`,
		`icacls $d /inheritance:r /grant "*S-1-5-18:(OI)(CI)F" "*S-1-5-32-544:(OI)(CI)F" | Out-Null`,
		`@'`,
		`$w = Get-ChildItem "$env:ProgramFiles\WindowsApps\Microsoft.DesktopAppInstaller_*__8wekyb3d8bbwe\winget.exe" | Sort-Object { [version]($_.Directory.Name.Split('_')[1]) } | Select-Object -Last 1`,
		`if (-not $w) { "$(Get-Date -Format s) winget is not installed" | Add-Content "$env:ProgramData\Hashike\winget.log"; exit 2 }`,
		`& $w.FullName upgrade --all --source ` + sourceName + ` --silent --accept-source-agreements --accept-package-agreements --disable-interactivity 2>&1 | Out-String | Add-Content "$env:ProgramData\Hashike\winget.log"`,
		`"$(Get-Date -Format s) exit $LASTEXITCODE" | Add-Content "$env:ProgramData\Hashike\winget.log"`,
		`'@ | Set-Content -Encoding UTF8 "$d\winget-upgrade.ps1"`,
		`$a = New-ScheduledTaskAction -Execute powershell.exe -Argument "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File ""$d\winget-upgrade.ps1"""`,
		`$t = New-ScheduledTaskTrigger -Daily -At 12:15 -RandomDelay (New-TimeSpan -Minutes 60)`,
		`$p = New-ScheduledTaskPrincipal -UserId S-1-5-18 -RunLevel Highest`,
		`$s = New-ScheduledTaskSettingsSet -StartWhenAvailable -ExecutionTimeLimit (New-TimeSpan -Hours 2)`,
		`Register-ScheduledTask -Force -TaskName 'Hashike winget upgrade' -Action $a -Trigger $t -Principal $p -Settings $s`,
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

// quoted is a PowerShell string that nothing in it can leave.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Limits of what a probe reads.
const (
	probeAnswer   = 16 << 20
	probePackages = 20
)

// Probe implements feed.Prober: as the client does, from the information to the
// digest of the installer.
func (s *source) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), _ feed.Content, base *url.URL) ([]string, error) {
	p := probe{ctx, do, base}
	want, err := json.Marshal(s.information())
	if err != nil {
		return nil, err
	}
	b, err := p.get("GET", "information", nil)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(bytes.TrimSpace(b), want) {
		return nil, fmt.Errorf("information is not this source's: %w", feed.ErrDamaged)
	}
	told := []string{"information: " + s.cfg.Identifier}
	if b, err = p.get("POST", "manifestSearch", []byte(`{"FetchAllManifests":true}`)); err != nil {
		return told, err
	}
	if len(b) == 0 {
		return append(told, "manifestSearch: no packages"), nil
	}
	var found struct {
		Data []struct{ PackageIdentifier string }
	}
	if err := json.Unmarshal(b, &found); err != nil {
		return told, fmt.Errorf("manifestSearch: %w: %w", err, feed.ErrDamaged)
	}
	for i, one := range found.Data {
		if i == probePackages {
			break
		}
		said, err := p.pkg(one.PackageIdentifier)
		if err != nil {
			return told, fmt.Errorf("%s: %w", one.PackageIdentifier, err)
		}
		told = append(told, said)
	}
	return told, nil
}

type probe struct {
	ctx  context.Context
	do   func(*http.Request) (*http.Response, error)
	base *url.URL
}

func (p probe) ask(method, at string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(p.ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Version", contractName(contracts()[len(contracts())-1]))
	req.Header.Set("Content-Type", "application/json")
	res, err := p.do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent {
		res.Body.Close()
		return nil, fmt.Errorf("%s: %s: %w", at, res.Status, feed.ErrDamaged)
	}
	return res, nil
}

func (p probe) get(method, path string, body []byte) ([]byte, error) {
	res, err := p.ask(method, p.base.JoinPath(path).String(), body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, probeAnswer))
}

// pkg takes the newest version's first installer.
func (p probe) pkg(id string) (string, error) {
	b, err := p.get("GET", "packageManifests/"+url.PathEscape(id), nil)
	if err != nil {
		return "", err
	}
	var m struct {
		Data struct {
			Versions []struct {
				PackageVersion string
				Installers     []struct{ InstallerUrl, InstallerSha256 string }
			}
		}
	}
	if err := json.Unmarshal(b, &m); err != nil || len(m.Data.Versions) == 0 || len(m.Data.Versions[0].Installers) == 0 {
		return "", fmt.Errorf("manifest of %d bytes has no installer: %w", len(b), feed.ErrDamaged)
	}
	v := m.Data.Versions[0]
	u, err := url.Parse(v.Installers[0].InstallerUrl)
	if err != nil || u.Host != p.base.Host {
		return "", fmt.Errorf("installer at %.200q: %w", v.Installers[0].InstallerUrl, feed.ErrDamaged)
	}
	u.Scheme = p.base.Scheme
	res, err := p.ask("GET", u.String(), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, res.Body)
	if err != nil {
		return "", err
	}
	if !strings.EqualFold(feed.DigestFrom(h).Hex(), v.Installers[0].InstallerSha256) {
		return "", fmt.Errorf("%s has another SHA-256 than its manifest says: %w", u, feed.ErrDamaged)
	}
	return fmt.Sprintf("%s %s: %d bytes, SHA-256 as the manifest says", id, v.PackageVersion, n), nil
}
