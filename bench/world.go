//go:build linux

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// world is an outside, a medium and an inside, as a person sets them up.
type world struct {
	l   *lab
	dir string
	v   vendor
}

// newWorld sets both sides up and pairs them. v's key becomes trusted by a
// trust order, as any vendor's whose key this build does not pin.
func newWorld(l *lab, dir string, v vendor) (*world, error) {
	w, err := pairedWorld(l, dir, v.block())
	if err != nil {
		return nil, err
	}
	w.v = v
	roots, err := filepath.Glob(w.path("envelopes", "root-key-*.txt"))
	if err != nil || len(roots) < 2 {
		return nil, fmt.Errorf("root keys: %v %v", roots, err)
	}
	key := w.path("vendor.asc")
	if err := os.WriteFile(key, v.key(), 0o600); err != nil {
		return nil, err
	}
	_, err = w.run("outside", "", "order", "trust", "--feed", feedName, "--anchor", key, "--reason", "benchmark", "--approver", "somebody else",
		"--root-key", roots[0], "--root-key", roots[1])
	return w, err
}

// pairedWorld sets both sides up with a feed's block.
func pairedWorld(l *lab, dir, block string) (*world, error) {
	w := &world{l: l, dir: dir}
	sheet, err := w.run("outside", "", "init", "--side", "outside", "--name", "bench", "--keys-to", w.path("envelopes"))
	if err != nil {
		return nil, err
	}
	if err := w.configure("outside", block); err != nil {
		return nil, err
	}
	if _, err := w.run("inside", fingerprint(sheet.output)+"\n", "init", "--side", "inside", "--name", "bench", "--pair", w.path("outside", "outbox", "setup-1")); err != nil {
		return nil, err
	}
	return w, w.configure("inside", block)
}

// feedName is the one feed of a world.
const feedName = "bench"

func (w *world) path(e ...string) string { return filepath.Join(append([]string{w.dir}, e...)...) }

// configure appends the feed's block and puts listeners on free ports.
func (w *world) configure(side, block string) error {
	p := w.path(side, "hashike.toml")
	b, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	text := strings.NewReplacer(`addr = ":8080"`, `addr = "127.0.0.1:0"`, `addr = "127.0.0.1:8081"`, `addr = "127.0.0.1:0"`,
		`proxy = "system"`, `proxy = "none"`, "per_host = 2", "per_host = 8").Replace(string(b))
	return os.WriteFile(p, []byte(text+"\n"+block), 0o600)
}

// run is one command on one side.
func (w *world) run(side, stdin string, args ...string) (cost, error) {
	cmd := exec.Command(w.l.program, append([]string{"--data", w.path(side), "--lang", "en"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return child(cmd)
}

// cross fetches, packs, imports and publishes.
func (w *world) cross() error {
	for _, step := range w.steps() {
		if _, err := w.run(step.side, "", step.args...); err != nil {
			return err
		}
	}
	return nil
}

type step struct {
	side string
	args []string
}

func (w *world) steps() []step {
	return []step{
		{"outside", []string{"fetch", "--now"}},
		{"outside", []string{"pack", "--to", w.path("media"), "--full", "--no-scan-reason", "benchmark"}},
		{"inside", []string{"import", w.path("media"), "--approved-by", "bench"}},
		{"inside", []string{"publish", "--now"}},
	}
}

// serve starts the mirror and waits for its first answer to path.
func (w *world) serve(path string) (s *server, base string, took time.Duration, err error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", 0, err
	}
	base = "http://" + addr
	began := time.Now()
	s, err = startServer(exec.Command(w.l.program, "--data", w.path("inside"), "--lang", "en", "serve", "--listen", addr))
	if err != nil {
		return nil, "", 0, err
	}
	if err := waitFor(base + path); err != nil {
		s.stop()
		return nil, "", 0, fmt.Errorf("%w\n%s", err, s.out)
	}
	return s, base, time.Since(began), nil
}

// waitFor asks every 2 ms until the answer is 200.
func waitFor(url string) error {
	var last error
	for range 15_000 {
		res, err := http.Get(url)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s: %s", url, res.Status)
		}
		last = err
		time.Sleep(2 * time.Millisecond)
	}
	return last
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// fingerprint reads the 40 digits off the set-up sheet, as a person would.
func fingerprint(sheet string) string {
	for line := range strings.Lines(sheet) {
		digits := strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, line)
		if len(digits) == 40 {
			return digits
		}
	}
	return ""
}
