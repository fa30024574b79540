// Package internal holds the test that keeps the dependency arrows of
// docs/design.md pointing one way.
package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hashike/hashike/"

// arrows lists, for each of our packages, the packages of ours it may import.
// A trailing slash-star means every folder below.
func arrows() map[string][]string {
	return map[string][]string{
		"internal/feed":                 {},
		"internal/durable":              {},
		"internal/i18n":                 {"internal/feed"},
		"internal/fec":                  {},
		"internal/typed":                {},
		"internal/state":                {"internal/feed", "internal/durable"},
		"internal/people":               {"internal/feed", "internal/state"},
		"internal/cas":                  {"internal/feed", "internal/durable"},
		"internal/config":               {"internal/feed", "internal/i18n"},
		"internal/scan":                 {"internal/feed", "internal/cas", "internal/state", "internal/durable"},
		"internal/diode":                {"internal/fec", "internal/typed", "internal/durable"},
		"internal/format/*":             {"internal/feed"},
		"internal/format/crx":           {"internal/feed", "internal/format/zipfile"},
		"internal/format/msi":           {"internal/feed", "internal/format/cfb"},
		"internal/format/appx/appxtest": {"internal/format/appx", "internal/format/authenticode"}, // for tests
		"internal/feed/all":             {"internal/feed", "internal/feed/*"},
		"internal/feed/*":               {"internal/feed", "internal/feed/tooldir", "verifier", "internal/format/*"},
		"verifier":                      {"internal/feed", "internal/format/*", "internal/state"},
		"fetcher":                       {"internal/feed", "internal/cas", "internal/state", "internal/durable"},
		"packager":                      {"internal/feed", "internal/format/iso", "internal/cas", "internal/state", "internal/durable", "internal/fec", "internal/typed"},
		"packager/registry":             {"internal/feed", "internal/durable", "packager", "internal/cas", "internal/state"},
		"mirror":                        {"packager", "verifier", "internal/people", "internal/scan", "internal/feed", "internal/cas", "internal/state", "internal/durable"},
		"mirror/web":                    {"mirror", "internal/feed", "internal/i18n"},
	}
}

// dialling is what only the named packages may do.
func dialling() []string { return []string{"fetcher", "internal/diode", "packager/registry", "cmd"} }

func TestArrowsPointOneWay(t *testing.T) {
	seen := 0
	eachFile(t, func(pkg, file string, src []byte) {
		f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range f.Imports {
			p, _ := strconv.Unquote(im.Path.Value)
			ours, ok := strings.CutPrefix(p, module)
			if !ok {
				continue
			}
			seen++
			if strings.HasPrefix(pkg, "cmd/") || strings.HasPrefix(pkg, "bench") || pkg == "internal/feed/feedtest" {
				continue
			}
			if !allowed(pkg, ours) {
				t.Errorf("%s: %s must not import %s", file, pkg, ours)
			}
		}
	})
	if seen < 20 {
		t.Fatalf("only %d imports seen: the walk is broken", seen)
	}
}

func allowed(pkg, imported string) bool {
	table := arrows()
	list, ok := table[pkg]
	if !ok {
		for pattern, l := range table {
			if parent, star := strings.CutSuffix(pattern, "/*"); star && strings.HasPrefix(pkg, parent+"/") {
				list = l
			}
		}
	}
	return slices.ContainsFunc(list, func(a string) bool {
		parent, star := strings.CutSuffix(a, "/*")
		return a == imported || star && strings.HasPrefix(imported, parent+"/") && imported != "internal/feed/all" && imported != "internal/feed/feedtest"
	})
}

func TestOnlyTheFetcherDials(t *testing.T) {
	eachFile(t, func(pkg, file string, src []byte) {
		if slices.ContainsFunc(dialling(), func(p string) bool { return pkg == p || strings.HasPrefix(pkg, p+"/") }) || strings.HasPrefix(pkg, "bench") || pkg == "internal/feed/feedtest" {
			return
		}
		for _, s := range []string{"http.Client{", "http.Get(", "http.Post(", "http.DefaultClient", "http.Transport{", "net.Dial", "net.Dialer"} {
			if strings.Contains(string(src), s) {
				t.Errorf("%s: %s may not use %s", file, pkg, s)
			}
		}
	})
}

func TestNoInitAndNoSharedState(t *testing.T) {
	eachFile(t, func(pkg, file string, src []byte) {
		if strings.Contains(string(src), "\nfunc init()") {
			t.Errorf("%s: init function", file)
		}
		for _, part := range strings.Split(pkg, "/") {
			if slices.Contains([]string{"util", "utils", "common", "types", "helpers"}, part) {
				t.Errorf("%s: package name %s says nothing", file, part)
			}
		}
	})
}

// The top level is exactly what the design names.
func TestTopLevel(t *testing.T) {
	ents, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{".cache", ".ci", ".git", "bench", "cmd", "docs", "fetcher", "internal", "mirror", "packager", "testdata", "verifier"}
	for _, e := range ents {
		if e.IsDir() && !slices.Contains(want, e.Name()) {
			t.Errorf("folder %s is not part of the design", e.Name())
		}
	}
}

// eachFile calls fn for every non-test Go file of the module.
func eachFile(t *testing.T, fn func(pkg, file string, src []byte)) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			if d != nil && d.IsDir() && err == nil {
				return filepath.SkipDir
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", p)
		if err != nil {
			return err
		}
		fn(filepath.ToSlash(filepath.Dir(rel)), rel, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
