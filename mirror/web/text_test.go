package web

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTexts(t *testing.T) {
	all, err := loadText()
	if err != nil {
		t.Fatal(err)
	}
	used := sources(t)
	verbs := regexp.MustCompile(`%[a-z]`)
	for key, s := range all {
		if len(s) != 2 || strings.TrimSpace(s["ja"]) == "" || strings.TrimSpace(s["en"]) == "" {
			t.Errorf("%s: not in both languages: %v", key, s)
		}
		if j, e := verbs.FindAllString(s["ja"], -1), verbs.FindAllString(s["en"], -1); strings.Join(j, "") != strings.Join(e, "") {
			t.Errorf("%s: values differ: %v and %v", key, j, e)
		}
		for _, avoid := range []string{"エラーが発生", "失敗", "不正", "無効", "致命", "フィード", "ベンダ", "スナップショット", "バンドル", "リング", "ロールバック", "サーバー", "鮮度", "出所", "インポート", "ダイジェスト", "端末機", "サイト"} {
			if strings.Contains(s["ja"], avoid) {
				t.Errorf("%s: avoided word %s in %s", key, avoid, s["ja"])
			}
		}
		table, _, _ := strings.Cut(key, ".")
		if !strings.Contains(used, `"`+key+`"`) && !strings.Contains(used, `"`+table+`."`) {
			t.Errorf("%s: no page uses it", key)
		}
	}
}

// sources is all text that may name keys.
func sources(t *testing.T) string {
	var b strings.Builder
	for _, pattern := range []string{"*.go", "templates/*.html"} {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			if strings.HasSuffix(n, "_test.go") {
				continue
			}
			raw, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(raw)
		}
	}
	return b.String()
}
