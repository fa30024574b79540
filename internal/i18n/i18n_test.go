package i18n

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// avoided are words that japanese.md §§1-3 rules out.
var avoided = []string{"エラーが発生", "失敗しました", "不正", "違反", "無効な値", "致命的", "フィード", "スナップショット", "アーティファクト",
	"ベンダ", "インポート", "エクスポート", "ロールバック", "ミラー", "フェッチ", "バンドル", "安全です", "ウイルスはありません", "サーバー", "便 "}

func load(t *testing.T, lang string) *Catalog {
	t.Helper()
	c, err := Load(lang, Contact{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parts(p Part) map[string]string {
	return map[string]string{"title": p.Title, "what": p.What, "safe": p.Safe, "next": p.Next, "call": p.Call}
}

func TestEveryMessageHasFourPartsInBothLanguages(t *testing.T) {
	c := load(t, "ja")
	if len(c.Codes()) < 20 {
		t.Fatalf("only %d messages: the catalogue was not read", len(c.Codes()))
	}
	for _, code := range c.Codes() {
		m := c.messages[code]
		if !regexp.MustCompile(`^H-[2-9]\d\d$`).MatchString(code) {
			t.Errorf("%s: not a code", code)
		}
		if c.T("severity."+m.Severity) == "severity."+m.Severity {
			t.Errorf("%s: severity %q", code, m.Severity)
		}
		for lang, p := range map[string]Part{"ja": m.JA, "en": m.EN} {
			for name, s := range parts(p) {
				if strings.TrimSpace(s) == "" {
					t.Errorf("%s: %s.%s is missing", code, lang, name)
				}
			}
		}
		for name, s := range parts(m.JA) {
			for _, w := range avoided {
				if strings.Contains(s, w) {
					t.Errorf("%s: ja.%s has the avoided word %q", code, name, w)
				}
			}
		}
		for name := range parts(m.JA) {
			ja := Brace().FindAllString(parts(m.JA)[name], -1)
			en := Brace().FindAllString(parts(m.EN)[name], -1)
			slices.Sort(ja)
			slices.Sort(en)
			if !slices.Equal(slices.Compact(ja), slices.Compact(en)) {
				t.Errorf("%s: %s fills %v in Japanese and %v in English", code, name, ja, en)
			}
		}
	}
}

func TestTextsInBothLanguages(t *testing.T) {
	c := load(t, "ja")
	for key, v := range c.texts {
		if v["ja"] == "" || v["en"] == "" || len(v) != 2 {
			t.Errorf("%s: %v", key, v)
		}
		if strings.Count(v["ja"], "%") != strings.Count(v["en"], "%") {
			t.Errorf("%s: different numbers of values", key)
		}
		for _, w := range avoided {
			if strings.Contains(v["ja"], w) {
				t.Errorf("%s has the avoided word %q", key, w)
			}
		}
	}
}

// Every code and text key that the source names must be in the catalogue.
func TestSourceNamesOnlyWhatIsThere(t *testing.T) {
	c := load(t, "ja")
	codes := regexp.MustCompile(`"(H-\d\d\d)"`)
	keys := regexp.MustCompile(`\.T\("([a-z.-]+)"[,)]`)
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range codes.FindAllStringSubmatch(string(b), -1) {
			seen++
			if _, ok := c.messages[m[1]]; !ok {
				t.Errorf("%s names %s, which the catalogue lacks", p, m[1])
			}
		}
		if strings.Contains(p, filepath.Join("mirror", "web")) {
			return nil // pages have texts of their own
		}
		for _, m := range keys.FindAllStringSubmatch(string(b), -1) {
			if _, ok := c.texts[m[1]]; !ok {
				t.Errorf("%s names text %q, which the catalogue lacks", p, m[1])
			}
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Fatalf("walk: %v, %d codes seen", err, seen)
	}
}

func TestRenderNamesRolesAndUnknowns(t *testing.T) {
	c, err := Load("ja", Contact{Info: "情報係 山田（内線123）"})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Render("H-502", map[string]string{"feed": "debian-security", "file": "pool/a.deb"})
	for _, want := range []string{"【保留】H-502", "pool/a.deb", "何が起きたか", "影響がないこと", "次にすること", "連絡先", "（　"} {
		if !strings.Contains(s, want) {
			t.Errorf("%q is missing in:\n%s", want, s)
		}
	}
	if s := c.Render("H-201", nil); !strings.Contains(s, "山田") {
		t.Errorf("contact is missing in:\n%s", s)
	}
	if s := c.Render("H-999", nil); !strings.Contains(s, "H-999") {
		t.Errorf("an unknown code must still be shown:\n%s", s)
	}
}

// What others wrote reaches a terminal as text and nothing else.
func TestShownValuesAreVisible(t *testing.T) {
	const name = "a\x1b[2J\r\n\u202egpj.exe"
	c := load(t, "ja")
	for _, s := range []string{c.T("import.foreign", name), c.T("import.foreign", errors.New(name)), c.Render("H-623", map[string]string{"file": name, "dir": name})} {
		if strings.ContainsAny(s, "\x1b\r\u202e") || !strings.Contains(s, `a\x1b[2J\r\n\u202egpj.exe`) {
			t.Errorf("%q", s)
		}
	}
}
