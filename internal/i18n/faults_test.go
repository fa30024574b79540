package i18n

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// filledIn are the placeholders that whoever shows a message fills in itself.
var filledIn = []string{"detail", "help", "info", "approver", "incident", "cloud", "maintainer"}

// Whoever raises a message passes everything that its text fills in: a blank in
// a sentence is found here, not by the clerk who reads it.
func TestFaultsPassWhatTheirMessagesFillIn(t *testing.T) {
	c, raised := load(t, "ja"), 0
	err := filepath.WalkDir(filepath.Join("..", ".."), func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata" {
			return fs.SkipDir
		}
		raised += checkFaults(t, c, dir)
		return nil
	})
	if err != nil || raised < 200 {
		t.Fatalf("walk: %v, %d faults seen", err, raised)
	}
}

// checkFaults looks at one package: its NewFault calls, and the calls of its own
// functions that hand a code on to NewFault.
func checkFaults(t *testing.T, c *Catalog, dir string) (raised int) {
	files := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var parsed []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	helpers := map[string][]string{} // functions that hand a code on, and what they pass with it
	for _, f := range parsed {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil && fn.Name.Name != "NewFault" {
				eachCall(fn, func(call *ast.CallExpr) {
					if called(call) == "NewFault" && len(call.Args) > 1 && literal(call.Args[1]) == "" {
						helpers[fn.Name.Name] = append(keys(call.Args[2:]), listed(fn)...)
					}
				})
			}
		}
	}
	for _, f := range parsed {
		eachCall(f, func(call *ast.CallExpr) {
			code, passed := codeOf(call, helpers)
			if code == "" {
				return
			}
			raised++
			for _, p := range lacking(c.messages[code], append(passed, givenBy(dir, code)...)) {
				t.Errorf("%s: %s does not get {%s}", files.Position(call.Pos()), code, p)
			}
		})
	}
	return raised
}

// codeOf is the message that a call raises, and what the call passes for it.
func codeOf(call *ast.CallExpr, helpers map[string][]string) (string, []string) {
	passed, helper := helpers[called(call)]
	if called(call) != "NewFault" && !helper {
		return "", nil
	}
	for i, a := range call.Args {
		if code := literal(a); regexp.MustCompile(`^H-\d\d\d$`).MatchString(code) {
			return code, append(slices.Clone(passed), keys(call.Args[i+1:])...)
		}
	}
	return "", nil
}

// givenBy are placeholders that the callers of a package fill in.
func givenBy(dir, code string) []string {
	given := slices.Clone(filledIn)
	if strings.Contains(filepath.ToSlash(dir), "internal/feed/") { // fetcher and mirror know which feed it is
		given = append(given, "feed")
	}
	switch code {
	case "H-201": // app.filled puts the sides in words
		given = append(given, "command", "other")
	case "H-202", "H-219": // the configuration of this data directory
		given = append(given, "file")
	case "H-506": // Bundle.named reads the number
		if filepath.Base(dir) == "packager" {
			given = append(given, "bundle")
		}
	}
	return given
}

// listed are the names in lists of names and values that a function builds.
func listed(fn *ast.FuncDecl) (out []string) {
	ast.Inspect(fn, func(n ast.Node) bool {
		if l, ok := n.(*ast.CompositeLit); ok {
			out = append(out, keys(l.Elts)...)
		}
		return true
	})
	return out
}

func lacking(m Message, passed []string) (out []string) {
	if slices.Contains(passed, "number") { // of the bundle
		passed = append(passed, "bundle")
	}
	for _, p := range []Part{m.JA, m.EN} {
		for _, s := range parts(p) {
			for _, b := range Brace().FindAllString(s, -1) {
				if name := strings.Trim(b, "{}"); !slices.Contains(passed, name) && !slices.Contains(out, name) {
					out = append(out, name)
				}
			}
		}
	}
	return out
}

func eachCall(n ast.Node, f func(*ast.CallExpr)) {
	ast.Inspect(n, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			f(call)
		}
		return true
	})
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		s, _ := strconv.Unquote(l.Value)
		return s
	}
	return ""
}

// keys are the names of a list of names and values.
func keys(args []ast.Expr) (out []string) {
	for i := 0; i < len(args); i += 2 {
		out = append(out, literal(args[i]))
	}
	return out
}

// What kinds and pages say in Japanese beside the catalogue keeps the rules of
// docs/words.md too, but for the words on vendors' own screens.
func TestTextsOfKindsAvoidTheSameWords(t *testing.T) {
	seen := 0
	for _, top := range []string{"internal/feed", "mirror"} {
		err := filepath.WalkDir(filepath.Join("..", "..", filepath.FromSlash(top)), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				kv, ok := n.(*ast.KeyValueExpr)
				if key, id := identOf(kv); !ok || !id || key != "JA" {
					return true
				}
				ast.Inspect(kv.Value, func(n ast.Node) bool {
					if e, ok := n.(ast.Expr); ok && literal(e) != "" {
						seen++
						for _, w := range avoided {
							if w != "サーバー" && w != "ミラー" && strings.Contains(literal(e), w) {
								t.Errorf("%s: %q has the avoided word %q", p, literal(e), w)
							}
						}
					}
					return true
				})
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 20 {
		t.Errorf("only %d texts seen", seen)
	}
}

func identOf(kv *ast.KeyValueExpr) (string, bool) {
	if kv == nil {
		return "", false
	}
	id, ok := kv.Key.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}
