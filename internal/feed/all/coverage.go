package all

import (
	"github.com/hashike/hashike/internal/feed"
)

// line is a product, the kinds that would carry it, and what is then true. A
// kind that is not in the table leaves the product missing, whatever is said.
type line struct {
	product feed.Text
	kinds   []string
	carried feed.Carried
	tier    string
	note    feed.Text
}

type group struct {
	name  feed.Text
	lines []line
}

func t(ja, en string) feed.Text { return feed.Text{JA: ja, EN: en} }

// Coverage lists every product of the survey's table of what municipalities
// need, and how far this build carries it. Nothing is blank: what no kind of
// the build carries is missing.
func Coverage() []feed.Coverage {
	have := map[string]bool{}
	for _, k := range Kinds() {
		have[k.Name] = true
	}
	var out []feed.Coverage
	for _, g := range products() {
		for _, l := range g.lines {
			c := feed.Coverage{Group: g.name, Product: l.product, Carried: l.carried, Tier: l.tier, Note: l.note}
			for _, k := range l.kinds {
				if have[k] {
					c.Kinds = append(c.Kinds, k)
				}
			}
			if len(c.Kinds) == 0 && l.carried != feed.Excluded {
				c.Carried, c.Tier, c.Note = feed.Missing, "", t("まだありません。", "Not built yet.")
			}
			out = append(out, c)
		}
	}
	return out
}

func products() []group {
	return []group{systems(), antivirus(), applications()}
}

func systems() group {
	return group{t("基本ソフト", "Operating systems"), []line{
		{t("Windows", "Windows"), []string{"wsus"}, feed.Conditional, "", t("端末のプロトコルは独立したSOAPの実装と本物の要求の記録で確認。本物のWindows・WSUSでの確認がまだです（docs/windows-acceptance.md）。", "Confirmed with an independent SOAP stack and recorded requests; not yet with a real Windows or WSUS (docs/windows-acceptance.md).")},
		{t("Linux（Debian・Ubuntu）", "Linux (Debian, Ubuntu)"), []string{"apt"}, feed.Confirmed, "", t("apt-getで確認。", "Confirmed with apt-get.")},
		{t("Linux（RPM系）", "Linux (RPM)"), []string{"rpm"}, feed.Conditional, "", t("", "")},
		{t("macOS", "macOS"), []string{"macos"}, feed.Conditional, "", t("", "")},
	}}
}

func antivirus() group {
	return group{t("ウイルス対策", "Antivirus"), []line{
		{t("ClamAV", "ClamAV"), []string{"clamav"}, feed.Confirmed, "A", t("freshclam 1.4で確認。1.5の端末は未確認。", "Confirmed with freshclam 1.4; not with 1.5.")},
		{t("Microsoft Defender", "Microsoft Defender"), []string{"defender", "wsus"}, feed.Conditional, "A", t("Windowsの定義は署名を確認。共有フォルダかWindows Updateで配ります。本物の端末では未確認。", "Windows definitions are signed; by a file share or Windows Update. Not yet on a real machine.")},
		{t("Symantec（Broadcom）", "Symantec (Broadcom)"), []string{"symantec"}, feed.Conditional, "B", rooted()},
		{t("Trend Micro", "Trend Micro"), []string{"trendmicro"}, feed.Conditional, "B", rooted()},
		{t("McAfee（Trellix）", "McAfee (Trellix)"), []string{"trellix"}, feed.Conditional, "C", unproved()},
		{t("ESET", "ESET"), []string{"eset"}, feed.Conditional, "A'", unproved()},
		{t("Kaspersky", "Kaspersky"), []string{"kaspersky"}, feed.Conditional, "D", unproved()},
		{t("F-Secure（WithSecure）", "F-Secure (WithSecure)"), []string{"withsecure"}, feed.Conditional, "D", unproved()},
		{t("Sophos", "Sophos"), []string{"sophos"}, feed.Excluded, "", t("提供元の仕組みが、外と切れた置き場を許しません。導入ファイルだけは intake で運べます。", "The vendor's system allows no mirror that is cut off. Its installer alone can be carried by intake.")},
	}}
}

func rooted() feed.Text {
	return t("提供元のツールの出力をそのまま運びます。署名を確かめるには、製品から取り出したルート証明書を信頼の指示で入れます。提供元の端末では未確認（docs/feeds/）。", "What the vendor's own tool wrote, byte for byte. Its signatures are checked once the site adds the root of its product by a trust order. Not confirmed on the vendor's clients (docs/feeds/).")
}

func unproved() feed.Text {
	return t("提供元のツールの出力をそのまま運びます。確かめられる強さは来歴票のとおり。提供元の端末では未確認（確認の手順は docs/feeds/）。", "What the vendor's own tool wrote, byte for byte; how far it is proved is on the origin card. Not confirmed on the vendor's clients (steps in docs/feeds/).")
}

func applications() group {
	return group{t("業務用ソフト", "Applications"), []line{
		{t("Microsoft Office（Microsoft 365 Apps）", "Microsoft Office (Microsoft 365 Apps)"), []string{"office"}, feed.Conditional, "", t("版を示すファイルは本物で確認。本体と端末での更新は未確認。", "Version files confirmed on genuine ones; payload and terminals are not.")},
		{t("一太郎・ATOK（ジャストシステム）", "Ichitaro, ATOK (JustSystems)"), []string{"intake"}, feed.Conditional, "", t("機械で読める配布元がないため、担当者がファイルを置きます。発行元の署名を確かめます。", "There is no machine-readable channel: a person drops the file; the publisher's signature is checked.")},
		{t("Adobe Acrobat・Reader", "Adobe Acrobat, Reader"), []string{"adobe"}, feed.Conditional, "", t("発行元の署名を確かめ、wingetか共有フォルダで配ります。本物のファイルと端末では未確認。", "The publisher's signature is checked; delivered by winget or a file share. Not yet with genuine files and terminals.")},
		{t("Google Chrome・Microsoft Edge", "Google Chrome, Microsoft Edge"), []string{"chromium"}, feed.Conditional, "", t("ブラウザー自身の更新元は変えられないため、wingetか共有フォルダで配ります。本物のファイルと端末では未確認。", "Browsers take no other update server: delivered by winget or a file share. Not yet with genuine files and terminals.")},
		{t("Mozilla Thunderbird・Firefox", "Mozilla Thunderbird, Firefox"), []string{"mozilla"}, feed.Conditional, "", t("提供元の検査プログラムと模擬の端末で確認。本物のThunderbird・Firefoxでは未確認。", "Confirmed against the vendor's own verifier and an emulated terminal; not with a real Thunderbird or Firefox.")},
		{t("ストア アプリ（MSIX）", "Store apps (MSIX)"), []string{"msix"}, feed.Conditional, "", t("業務用と提供元が配るパッケージ。ストアの使用許諾が要るアプリは動きません。本物の端末では未確認。", "Line-of-business packages and those that vendors hand out; apps that need the Store's licence do not run. Not yet on a real machine.")},
	}}
}
