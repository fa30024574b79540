package mirror

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// newerDeriving is a newer program: what it derives has another format and name.
type newerDeriving struct{ deriving }

func (newerDeriving) Derives() []string { return []string{"sub/index-2", "more"} }

func (newerDeriving) Derive(_ context.Context, c feed.Content, prev fs.FS, out func(string, io.Reader) error) error {
	before := "nothing"
	if prev != nil {
		b, err := fs.ReadFile(prev, "sub/index-2")
		if err != nil {
			return err
		}
		before = string(b)
	}
	if err := out("more", strings.NewReader("more")); err != nil {
		return err
	}
	return out("sub/index-2", strings.NewReader(fmt.Sprintf("new index of %d after (%.40s)", c.Header().Serial, before)))
}

func (newerDeriving) Handler(s feed.Serving) (http.Handler, error) {
	v, ok := s.View("all")
	if ok {
		if _, err := fs.Stat(v.Derived, "sub/index-2"); err != nil {
			return nil, err
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, v.Derived, "sub/index-2") }), nil
}

// A program that derives another format builds it by itself, whether serve or
// publish comes first: older snapshots first, nothing published anew, and the
// older program finds its files as it left them.
func TestNewProgramDerivesAnew(t *testing.T) {
	for _, first := range []string{"serve", "publish", "killed before"} {
		in := newInside(t, t.TempDir(), Rings{})
		for n := range uint64(3) {
			in.accept("av", n+1, map[string]string{"f": fmt.Sprint(n)})
			in.advance()
		}
		old := in.generation("all", "av")
		before, err := os.ReadFile(filepath.Join(in.dir.Derived("av", 3), "sub", "index"))
		if err != nil {
			t.Fatal(err)
		}
		in.feeds[1].Feed = newerDeriving{}
		in.open()
		switch first {
		case "publish":
			if g := in.advance(); len(g) != 0 {
				t.Errorf("published again: %+v", g)
			}
			if !derivedWhole(in.dir.Derived("av", 3), newerDeriving{}) {
				t.Error("publish did not derive")
			}
		case "killed before": // between two of the files
			if err := os.WriteFile(filepath.Join(in.dir.Derived("av", 3), "more"), []byte("torn"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		const want = "new index of 3 after (new index of 2 after (new index of 1 aft"
		srv := in.server()
		if got := ask(srv.Handler(0), "10.0.9.9", "/slow/av/derived").Body.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%s first: served %q", first, got)
		}
		if b, err := os.ReadFile(filepath.Join(in.dir.Derived("av", 3), "more")); string(b) != "more" {
			t.Errorf("%s first: %q, %v", first, b, err)
		}
		if b, err := os.ReadFile(filepath.Join(in.dir.Derived("av", 3), "sub", "index")); string(b) != string(before) {
			t.Errorf("%s first: the older program's file has %q, %v", first, b, err)
		}
		if g := in.generation("all", "av"); g.Number != old.Number {
			t.Errorf("%s first: generation %d, was %d", first, g.Number, old.Number)
		}
		if ents, _ := os.ReadDir(filepath.Dir(in.dir.Derived("av", 3))); len(ents) != 3 {
			t.Errorf("%s first: left over: %v", first, ents)
		}
		srv.Close()
		in.feeds[1].Feed = deriving{}
		if got := ask(in.server().Handler(0), "10.0.9.9", "/slow/av/derived").Body.String(); got != string(before) {
			t.Errorf("%s first: the older program serves %q", first, got)
		}
	}
}
