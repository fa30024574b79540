package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
)

// Template is the commented configuration that init writes: what each key
// means and its default, with a block of every kind to uncomment.
func Template(side, name string, kinds []feed.Kind, extra ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Hashike の設定。「hashike check」で確かめてから使う。
# Hashike configuration. Check it with "hashike check".

schema = %d
side = %q # 変更しない / do not change
name = %q # 団体名 / organisation
approval = "paper" # 承認: "paper"（押印した媒体運搬票）または "key"（承認鍵の署名） / approval by stamped sheet, or by an approver's key
`, Schema, side, name)
	if side == "inside" {
		b.WriteString("zone = \"lgwan\" # \"lgwan\"（LGWAN接続系）または \"mynumber\"（マイナンバー利用事務系）\n")
		b.WriteString("base = \"\" # 端末から見たこのサーバのURL（例 http://hashike.town.example:8080） / how terminals reach this mirror\n")
	}
	b.WriteString(`
# ウイルス検査: "clamd:unix:/run/clamav/clamd.ctl"、"clamd:tcp:127.0.0.1:3310"、"defender"（Windows）、
# またはコマンド ["program", "argument", "{file}"]（終了コード 0 検出なし、1 検出）。"" は検査しない
# malware scan: clamd, Microsoft Defender, or a command (exit code 0 clean, 1 detected); "" is none
scan = ""
over_limit = "record" # 検査ソフトの上限を超えるファイル: "record"（未検査と記録）、"stop"（止める） / files over the scanner's limit
scan_limit_mb = 0 # これより大きいファイルは検査に出さない（clamdのMaxFileSize。0は検査ソフトに従う） / not sent to clamd if larger
rescan_days = 7 # 定義がこの日数より新しくなったら検査し直す / scan again once definitions are so many days newer
`)
	if side == "outside" {
		b.WriteString("scan_reason = \"\" # 検査しない理由（媒体運搬票に載る） / why there is no scan, for the carry sheet\n")
	}
	table(&b, "[contact]", i18n.Contact{})
	if side == "outside" {
		table(&b, "[network]", Network{Proxy: "system", PerHost: 2})
		table(&b, "[bundle]", Bundle{ExpiryDays: 45})
		b.WriteString("\n# 一方向装置（データダイオード）。docs/diode.md を参照 / one-way line")
		table(&b, "[diode]", DiodeDefaults().DiodeSend)
	} else {
		table(&b, "[rings]", Rings{Keep: 3})
		b.WriteString("\n# 端末向けの口 / for terminals")
		table(&b, "[[listen]]", Listen{Addr: ":8080", Page: true})
		b.WriteString("\n# 管理画面（このパソコンだけ） / admin pages, this PC only")
		table(&b, "[[listen]]", Listen{Addr: "127.0.0.1:8081", Admin: true})
		b.WriteString("\n# 一方向装置（データダイオード）。docs/diode.md を参照 / one-way line")
		table(&b, "[diode]", DiodeDefaults().DiodeReceive)
	}
	for _, block := range extra {
		b.WriteString("\n" + block)
	}
	b.WriteString("\n# 更新対象の見本。使うものの行頭の # を消す。\n# Samples: uncomment what you use.\n")
	for _, k := range kinds {
		b.WriteString("\n" + comment(FeedBlock(k.Name+"-1", k, nil)))
	}
	return b.String()
}

// FeedBlock is a feed's block with every key explained. A config given
// replaces the kind's defaults.
func FeedBlock(name string, k feed.Kind, cfg any) string {
	var b strings.Builder
	if cfg == nil {
		cfg = k.Config()
	}
	fmt.Fprintf(&b, "# %s / %s\n[feed.%s]\nkind = %q\nevery = \"6h\"\n", k.Title.JA, k.Title.EN, name, k.Name)
	keys(&b, reflect.Indirect(reflect.ValueOf(cfg)))
	return b.String()
}

func comment(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("# " + line)
	}
	return b.String()
}

func table(b *strings.Builder, head string, v any) {
	fmt.Fprintf(b, "\n%s\n", head)
	keys(b, reflect.ValueOf(v))
}

func keys(b *strings.Builder, v reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("toml")
		if key == "" || key == "-" {
			continue
		}
		if doc := t.Field(i).Tag.Get("doc"); doc != "" {
			fmt.Fprintf(b, "# %s\n", doc)
		}
		fmt.Fprintf(b, "%s = %s\n", key, value(v.Field(i)))
	}
}

func value(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, _ := m.MarshalText()
		return quote(string(text))
	}
	switch v.Kind() {
	case reflect.String:
		return quote(v.String())
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int, reflect.Int64, reflect.Int32:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'f', 1, 64)
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, value(v.Index(i)))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		var parts []string
		for it := v.MapRange(); it.Next(); {
			parts = append(parts, fmt.Sprintf("%s = %s", it.Key(), value(it.Value())))
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	}
	panic("config: a kind's config has a field of kind " + v.Kind().String())
}

// quote writes a TOML basic string.
func quote(s string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`)
	return `"` + r.Replace(s) + `"`
}
