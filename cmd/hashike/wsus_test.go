package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed/wsus/terminal"
)

// drops fills a drop directory with genuine updates, unpacked as they come.
func drops(t testing.TB, dir string, names ...string) {
	t.Helper()
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		missing(t, "HASHIKE_SAMPLES is not set")
	}
	for _, n := range names {
		if err := os.CopyFS(filepath.Join(dir, n), os.DirFS(filepath.Join(samples, "microsoft", "msu-kb2999226", n))); err != nil {
			missing(t, err.Error())
		}
	}
}

func wsusBlock(dir string) string {
	return fmt.Sprintf("[feed.windows]\nkind = \"wsus\"\nmount = \"/\"\ndirs = { drop = %q }\n", dir)
}

// windows81 is a Windows 8.1 x64 without any update.
func windows81() terminal.Machine {
	return terminal.Machine{Version: [5]int{6, 3, 9600, 0, 0}, Product: 1, Suite: 256, Arch: 9,
		Packages: map[string]string{"Microsoft-Windows-Client-Features-Package": "6.3.9600.16384"}}
}

func (w *world) terminal(m terminal.Machine, watch func(request, answer []byte)) *terminal.Terminal {
	w.t.Helper()
	a := &terminal.Terminal{Base: w.addr, Do: http.DefaultClient.Do, Machine: m, Watch: watch,
		ID: "6f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b", Name: "pc0001.town.example", Group: "Shimin-ka"}
	if err := a.Begin(); err != nil {
		w.t.Fatal(err)
	}
	if err := a.Scan(); err != nil {
		w.t.Fatalf("after rounds %v: %v", a.Rounds, err)
	}
	return a
}

const (
	update81 = "433942af-c579-4917-921b-c580f5ac230b"
	member81 = "994987cc-6e38-4236-8e63-caf9c04b5d0b"
)

// The main line for Windows: a drop directory of genuine updates, over a
// bundle, to a terminal that speaks MS-WUSP.
func TestWindowsUpdatesFromTheMirror(t *testing.T) {
	dir := t.TempDir()
	drops(t, dir, "win8.1", "win6.1")
	w := newWorld(t, wsusBlock(dir))
	w.outside("fetch")
	// The newest signature here is of 2015.
	w.outside("pack", "--to", w.path("media"), "--clock-checked", "genuine old updates")
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
	w.serve()
	xsd := &schemas{t: t}
	a := w.terminal(windows81(), xsd.watch)
	t.Logf("rounds %v, %d revisions, %d installed and not leaf", a.Rounds, a.Known(), a.NonLeaf())
	need := a.Needed()
	var ids []string
	for _, u := range need {
		ids = append(ids, u.UpdateID)
	}
	if strings.Join(ids, " ") != member81+" "+update81 {
		t.Fatalf("needs %v, want the update for Windows 8.1 and its member", ids)
	}
	files, titles, err := a.Extended(need, "ja-JP", "ja", "en")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || !strings.Contains(strings.Join(titles, "\n"), "Windows 用更新プログラム (KB2999226)") {
		t.Fatalf("files %v, titles %q", files, titles)
	}
	b, err := a.Download(files[0])
	if err != nil {
		t.Fatal(err)
	}
	s1, s256 := sha1.Sum(b), sha256.Sum256(b)
	if base64.StdEncoding.EncodeToString(s1[:]) != files[0].SHA1 || base64.StdEncoding.EncodeToString(s256[:]) != files[0].SHA256 {
		t.Fatal("not the file of the metadata")
	}
	xsd.done()

	has := windows81()
	has.Has = []string{"Package_for_KB2999226"}
	if n := w.terminal(has, nil).Needed(); len(n) != 0 {
		t.Fatalf("a machine that has it needs %v", n)
	}
	seven := windows81()
	seven.Version, seven.Packages = [5]int{6, 1, 7601, 1, 0}, map[string]string{"Microsoft-Windows-Foundation-Package": "6.1.7601.17514"}
	for _, u := range w.terminal(seven, nil).Needed() {
		if u.UpdateID == update81 || u.UpdateID == member81 {
			t.Fatal("Windows 7 is offered the update for 8.1")
		}
	}
	card := w.inside("origin", "Content/A2/587E857B12E8DE7C7CDF409929D5DD8C8B2684A2.cab")
	if !strings.Contains(card, "Microsoft Corporation") || !strings.Contains(card, "microsoft-root-2010") {
		t.Fatalf("origin card:\n%s", card)
	}
}

// schemas validates SOAP messages against Microsoft's published XSDs.
type schemas struct {
	t        testing.TB
	messages [][]byte
}

func (s *schemas) watch(request, answer []byte) { s.messages = append(s.messages, request, answer) }

func (s *schemas) done() {
	tool, err := exec.LookPath("xmllint")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			s.t.Fatal("xmllint is not here")
		}
		s.t.Log("xmllint is not here: messages not validated")
		return
	}
	dir := filepath.Join(os.Getenv("HASHIKE_SAMPLES"), "microsoft", "examples", "schema")
	file := filepath.Join(s.t.TempDir(), "m.xml")
	for _, m := range s.messages {
		_, body, _ := bytes.Cut(m, []byte("<s:Body>"))
		body, _, _ = bytes.Cut(body, []byte("</s:Body>"))
		schema := "Client-0.xsd"
		if bytes.Contains(body, []byte("SimpleAuthWebService\"")) {
			schema = "SimpleAuth-0.xsd"
		}
		if bytes.Contains(body, []byte(`xmlns="http://www.microsoft.com/SoftwareDistribution"`)) {
			schema = "Reporting-0.xsd"
		}
		if err := os.WriteFile(file, body, 0o600); err != nil {
			s.t.Fatal(err)
		}
		if out, err := exec.Command(tool, "--noout", "--schema", filepath.Join(dir, schema), file).CombinedOutput(); err != nil {
			s.t.Errorf("%.600s\n%s", body, out)
		}
	}
	s.t.Logf("%d messages validated", len(s.messages))
}
