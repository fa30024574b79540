package wsus

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/hashike/hashike/internal/feed"
)

// Settings for terminals and for a WSUS below this server: the policies of
// microsoft.md 1.11. Names of policies are those of a Japanese Windows only
// where they are sure; the names of registry values are always there.

const policyKey = `HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate`

const maxGroupSettings = 30

// Settings implements feed.ClientSettings. An address with a path is not one
// that Windows documents: the feed's mount is to be "/".
func (f *updates) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	server := strings.TrimSuffix(base.String(), "/")
	groups := slices.Sorted(maps.Keys(f.conf.Groups))
	out := []feed.Setting{{
		Title: feed.Text{JA: "端末: レジストリ", EN: "Terminals: registry"},
		File:  "hashike-wsus.reg", Body: regFile(server, ""),
		Note: feed.Text{
			JA: "更新対象のmountは「/」にします。ドメインに参加していない端末に使います。グループポリシーを使う端末では、次の「グループポリシー」だけを設定します。",
			EN: "The feed's mount must be \"/\". For terminals outside a domain; where group policy is used, set that alone.",
		},
	}}
	for i, g := range groups[:min(len(groups), maxGroupSettings)] {
		out = append(out, feed.Setting{
			Title: feed.Text{JA: "端末: レジストリ（グループ「" + g + "」、配信段階 " + f.conf.Groups[g] + "）", EN: "Terminals: registry (group " + g + ", ring " + f.conf.Groups[g] + ")"},
			File:  fmt.Sprintf("hashike-wsus-group-%d.reg", i+1), Body: regFile(server, g),
		})
	}
	example := ""
	if len(groups) > 0 {
		example = groups[0]
	}
	out = append(out, publisherSettings(c, server)...)
	return append(out,
		feed.Setting{
			Title: feed.Text{JA: "端末: グループポリシー", EN: "Terminals: group policy"},
			Body:  policyText(server, groups),
			Note:  feed.Text{JA: "設定の名前は、Windowsの版によって置き場所が少し違います。", EN: "Where a policy stands differs a little between versions of Windows."},
		},
		feed.Setting{
			Title: feed.Text{JA: "端末: PowerShell（管理者として実行）", EN: "Terminals: PowerShell (as administrator)"},
			File:  "hashike-wsus.ps1", Body: powerShell(server, example),
			Note: feed.Text{JA: "最後の行で、すぐに更新を調べ始めます。", EN: "The last line starts a scan at once."},
		},
		feed.Setting{
			Title: feed.Text{JA: "既存のWSUS: 上位サーバーの指定（PowerShell、WSUSの上で管理者として実行）", EN: "An existing WSUS: its upstream (PowerShell, on the WSUS, as administrator)"},
			File:  "hashike-upstream.ps1", Body: upstreamScript(base),
			Note: feed.Text{
				JA: "画面では「オプション」→「更新元およびプロキシ サーバー」で、別のWSUSから同期する方を選び、名前とポートを入れます。レプリカにはしません（承認はそのWSUSで行います）。",
				EN: "In the console: Options, Update Source and Proxy Server, synchronize from another WSUS. Not as a replica: that WSUS keeps its own approvals.",
			},
		}), nil
}

// regFile is a .reg file. A value is written as hex(1), UTF-16, where plain text
// would depend on the terminal's code page.
func regFile(server, group string) string {
	var b strings.Builder
	b.WriteString("Windows Registry Editor Version 5.00\r\n\r\n[" + policyKey + "]\r\n")
	fmt.Fprintf(&b, "\"WUServer\"=%s\r\n\"WUStatusServer\"=%s\r\n", regString(server), regString(server))
	if group != "" {
		fmt.Fprintf(&b, "\"TargetGroupEnabled\"=dword:00000001\r\n\"TargetGroup\"=%s\r\n", regString(group))
	}
	b.WriteString("\"DoNotConnectToWindowsUpdateInternetLocations\"=dword:00000001\r\n\r\n[" + policyKey + "\\AU]\r\n\"UseWUServer\"=dword:00000001\r\n")
	return b.String()
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func regString(s string) string {
	if ascii(s) {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	var e []string
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		e = append(e, fmt.Sprintf("%02x,%02x", u&0xff, u>>8))
	}
	return "hex(1):" + strings.Join(e, ",")
}

// policyText names the policies in Japanese, then in English: the person at the
// console reads the one that is on the screen.
func policyText(server string, groups []string) string {
	const line = "\r\n"
	values := line + "   WUServer        = " + server + line + "   WUStatusServer  = " + server + line + line
	ja := "コンピューターの構成 > ポリシー > 管理用テンプレート > Windows コンポーネント > Windows Update" + line + line +
		"[有効] イントラネットの Microsoft 更新サービスの場所を指定する" + values +
		"[有効] 自動更新を構成する（AU\\UseWUServer = 1 は上の設定で入ります）" + line + line +
		"[有効] DoNotConnectToWindowsUpdateInternetLocations = 1" + line
	en := "Computer Configuration > Policies > Administrative Templates > Windows Components > Windows Update" + line + line +
		"[Enabled] Specify intranet Microsoft update service location" + values +
		"[Enabled] Configure Automatic Updates (AU\\UseWUServer = 1 comes with the setting above)" + line + line +
		"[Enabled] Do not connect to any Windows Update Internet locations (DoNotConnectToWindowsUpdateInternetLocations = 1)" + line
	if len(groups) > 0 {
		names := line + "   TargetGroup     = " + strings.Join(groups, " / ")
		ja += line + "[有効] クライアント側のターゲットを有効にする（TargetGroupEnabled = 1）" + names + "（どれか1つ）" + line
		en += line + "[Enabled] Enable client-side targeting (TargetGroupEnabled = 1)" + names + " (one of them)" + line
	}
	return ja + line + en
}

// powerShell is ASCII whatever the group is called: Windows PowerShell reads a
// script without a mark in the code page of the machine.
func powerShell(server, group string) string {
	t := "$p = 'HKLM:\\SOFTWARE\\Policies\\Microsoft\\Windows\\WindowsUpdate'\r\n" +
		"New-Item -Path \"$p\\AU\" -Force | Out-Null\r\n" +
		"Set-ItemProperty $p WUServer " + psString(server) + "\r\n" +
		"Set-ItemProperty $p WUStatusServer " + psString(server) + "\r\n" +
		"Set-ItemProperty $p DoNotConnectToWindowsUpdateInternetLocations 1 -Type DWord\r\n" +
		"Set-ItemProperty \"$p\\AU\" UseWUServer 1 -Type DWord\r\n"
	if group != "" {
		t += "Set-ItemProperty $p TargetGroupEnabled 1 -Type DWord\r\n" +
			"Set-ItemProperty $p TargetGroup " + psString(group) + "\r\n"
	}
	return t + "Restart-Service wuauserv\r\n(New-Object -ComObject Microsoft.Update.AutoUpdate).DetectNow()\r\n"
}

func psString(s string) string {
	if ascii(s) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	var e []string
	for _, u := range utf16.Encode([]rune(s)) {
		e = append(e, fmt.Sprintf("0x%04X", u))
	}
	return "(-join [char[]](" + strings.Join(e, ",") + "))"
}

func upstreamScript(base *url.URL) string {
	port, ssl := base.Port(), ""
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	if base.Scheme == "https" {
		ssl = " -UseSsl"
	}
	return "# " + strings.TrimSuffix(base.String(), "/") + "\r\nGet-WsusServer | Set-WsusServerSynchronization -UssServerName " + psString(base.Hostname()) + " -PortNumber " + port + ssl + "\r\n" +
		"(Get-WsusServer).GetSubscription().StartSynchronization()\r\n"
}
