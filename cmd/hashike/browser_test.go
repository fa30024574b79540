package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browser is a headless Chromium driven over the W3C WebDriver protocol
// (https://www.w3.org/TR/webdriver2/), which is HTTP and JSON.
type browser struct {
	t    testing.TB
	base string // of the driver's session
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	driver, chrome := need(t, "chromedriver"), need(t, "chromium")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command(driver, fmt.Sprintf("--port=%d", port))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	t.Cleanup(func() {
		if strings.Contains(b.base, "/session/") {
			b.call(http.MethodDelete, "", nil)
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 100 {
		if res, err := http.Get(b.base + "/status"); err == nil {
			res.Body.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	v := b.call(http.MethodPost, "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:chromeOptions": map[string]any{"binary": chrome, "args": []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
			"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--user-data-dir=" + t.TempDir()}}}}})
	var s struct {
		SessionID string `json:"sessionId"`
	}
	if err := json.Unmarshal(v, &s); err != nil || s.SessionID == "" {
		t.Fatalf("no session: %v %s", err, v)
	}
	b.base += "/session/" + s.SessionID
	return b
}

func (b *browser) call(method, path string, body any) json.RawMessage {
	b.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	if body == nil {
		raw = nil
	}
	req, err := http.NewRequest(method, b.base+path, bytes.NewReader(raw))
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	var v struct {
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(text, &v); err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: %s %s", method, path, res.Status, text)
	}
	return v.Value
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.call(http.MethodPost, "/url", map[string]any{"url": url})
}

func (b *browser) size(width, height int) {
	b.t.Helper()
	b.call(http.MethodPost, "/window/rect", map[string]any{"width": width, "height": height})
}

// eval runs a script's body and decodes what it returns.
func (b *browser) eval(script string, into any) {
	b.t.Helper()
	v := b.call(http.MethodPost, "/execute/sync", map[string]any{"script": script, "args": []any{}})
	if err := json.Unmarshal(v, into); err != nil {
		b.t.Fatalf("%v: %s", err, v)
	}
}

// picture saves what is on the screen; in HASHIKE_PAGES, if that names a folder.
func (b *browser) picture(name string) {
	b.t.Helper()
	var text string
	if err := json.Unmarshal(b.call(http.MethodGet, "/screenshot", nil), &text); err != nil {
		b.t.Fatal(err)
	}
	b.save(name+".png", text)
}

// print saves the page as it would come out on A4 and returns the PDF's path.
func (b *browser) print(name string) string {
	b.t.Helper()
	var text string
	v := b.call(http.MethodPost, "/print", map[string]any{"page": map[string]any{"width": 21.0, "height": 29.7}, "shrinkToFit": false, "background": false})
	if err := json.Unmarshal(v, &text); err != nil {
		b.t.Fatal(err)
	}
	return b.save(name+".pdf", text)
}

func (b *browser) save(name, text string) string {
	b.t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) < 1000 {
		b.t.Fatalf("%s: %d bytes, %v", name, len(raw), err)
	}
	dir := os.Getenv("HASHIKE_PAGES")
	if dir == "" {
		dir = b.t.TempDir()
	}
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, raw, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return p
}

func parse(s string, x *float64) error {
	_, err := fmt.Sscan(s, x)
	return err
}
