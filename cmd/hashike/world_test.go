package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/fetcher"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
)

// world is both sides and the medium between them, driven by commands as a
// person would type them.
type world struct {
	t    testing.TB
	dir  string
	addr string           // of the running mirror
	now  func() time.Time // the computers' clock
	// unapproved leaves imports without an approver's name.
	unapproved bool
	// program, if not nil, is typed instead for the inside: its Windows build.
	program func(stdin string, args ...string) (stdout, stderr string, code int)
}

func (w *world) path(e ...string) string { return filepath.Join(append([]string{w.dir}, e...)...) }

// newWorld sets up and pairs both sides with the given feed blocks.
func newWorld(t testing.TB, blocks string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: time.Now}
	sheet := w.ok("", "--data", w.path(outside), "init", "--side", outside, "--name", "試験町", "--keys-to", w.path("envelopes"))
	w.configure(outside, blocks)
	setLine(t, w.path(outside, "hashike.toml"), `scan_reason = ""`, `scan_reason = "試験のため"`)
	w.ok(fingerprintOn(sheet)+"\n", "--data", w.path(inside), "init", "--side", inside, "--name", "試験町", "--pair", w.path(outside, "outbox", "setup-1"))
	w.configure(inside, blocks)
	setLine(t, w.path(inside, "hashike.toml"), `addr = "127.0.0.1:8081"`, `addr = "127.0.0.1:0"`)
	setLine(t, w.path(inside, "hashike.toml"), `addr = ":8080"`, `addr = "127.0.0.1:0"`)
	return w
}

func setLine(t testing.TB, path, old, line string) {
	t.Helper()
	if err := setKey(path, old, line); err != nil {
		t.Fatal(err)
	}
}

func (w *world) configure(side, blocks string) {
	w.t.Helper()
	f, err := os.OpenFile(w.path(side, "hashike.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("\n" + blocks); err != nil {
		w.t.Fatal(err)
	}
}

// run types a command and returns what it said and its exit code.
// An import is approved by 試験 花子 unless the test says otherwise.
func (w *world) run(stdin string, args ...string) (stdout, stderr string, code int) {
	if len(args) > 3 && args[2] == "import" && !slices.Contains(args, "--approved-by") && !w.unapproved {
		args = append(slices.Clone(args), "--approved-by", "試験 花子")
	}
	if w.program != nil && len(args) > 1 && args[0] == "--data" && args[1] == w.path(inside) {
		return w.program(stdin, args...)
	}
	var out, errw bytes.Buffer
	a := newApp(strings.NewReader(stdin), &out, &errw, langOf(args))
	if w.now != nil {
		a.clock = w.now
	}
	code = a.execute(context.Background(), args)
	return out.String(), errw.String(), code
}

// ok is run for a command that must succeed.
func (w *world) ok(stdin string, args ...string) string {
	w.t.Helper()
	out, errs, code := w.run(stdin, args...)
	if code != 0 {
		w.t.Fatalf("hashike %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// fails is run for a command that must fail with this exit code and message.
func (w *world) fails(exit int, message string, args ...string) string {
	w.t.Helper()
	out, errs, code := w.run("", args...)
	if code != exit || !strings.Contains(errs, message) {
		w.t.Fatalf("hashike %s: exit %d, want %d with %s\n%s%s", strings.Join(args, " "), code, exit, message, out, errs)
	}
	return errs
}

func (w *world) outside(args ...string) string {
	w.t.Helper()
	return w.ok("", append([]string{"--data", w.path(outside)}, args...)...)
}

func (w *world) inside(args ...string) string {
	w.t.Helper()
	return w.ok("", append([]string{"--data", w.path(inside)}, args...)...)
}

// pack writes the medium. The test databases of ClamAV were signed in 2021.
func (w *world) pack(args ...string) {
	w.t.Helper()
	w.outside(append([]string{"pack", "--to", w.path("media"), "--clock-checked", "test data of 2021"}, args...)...)
}

// carry fetches, packs, imports and publishes: one whole crossing.
func (w *world) carry() {
	w.t.Helper()
	w.outside("fetch")
	w.pack()
	w.inside("import", w.path("media"))
	w.inside("publish", "--now")
}

// serve starts the mirror for the rest of the test.
func (w *world) serve() string {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var errs bytes.Buffer
	a := testApp(w.t, w.path(inside), &errs)
	s, err := a.open("serve", inside)
	if err != nil {
		w.t.Fatal(err)
	}
	ready, done := make(chan []net.Addr, 1), make(chan error, 1)
	go func() { done <- s.serve(ctx, []string{"127.0.0.1:0"}, func(at []net.Addr) { ready <- at }) }()
	select {
	case err := <-done:
		w.t.Fatal(err, errs.String())
	case at := <-ready:
		w.addr = "http://" + at[0].String()
	}
	w.t.Cleanup(func() {
		cancel()
		<-done
		s.close()
	})
	return w.addr
}

func testApp(t testing.TB, data string, errs *bytes.Buffer) *app {
	t.Helper()
	a := newApp(strings.NewReader(""), errs, errs, "ja")
	a.data = data
	return a
}

// status is the state as "status --json" tells it.
func (w *world) status(side string) mirror.Overview {
	w.t.Helper()
	var o mirror.Overview
	if err := json.Unmarshal([]byte(w.ok("", "--data", w.path(side), "status", "--json")), &o); err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) serial(side, name string) uint64 {
	w.t.Helper()
	for _, f := range w.status(side).Feeds {
		if f.Feed == name {
			return f.Serial
		}
	}
	w.t.Fatalf("no feed %s", name)
	return 0
}

// need returns the path of a client or tool; without it the test is skipped,
// or fails where CI promises that it is there.
func need(t testing.TB, tool string) string {
	t.Helper()
	p, err := exec.LookPath(tool)
	if err != nil {
		missing(t, tool+" is not here")
	}
	return p
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func must(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// generations counts what a ring saw of a feed.
func (w *world) generations(name string) int {
	g, _, err := mirror.Generations(state.Dir(w.path(inside)), "all", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(g)
}

func discard() *bytes.Buffer { return new(bytes.Buffer) }

// waitGeneration waits until the running mirror serves what starts with the
// database version: the watcher looks once a second.
func (w *world) waitGeneration(name, url string, version int) {
	w.t.Helper()
	for range 100 {
		if _, b := get(w.t, url); strings.Contains(string(b[:min(len(b), 100)]), fmt.Sprintf(":%d:", version)) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatalf("%s: version %d was not served", name, version)
}

// forgeFetch runs a fetch whose verifier believes everything.
func forgeFetch(t testing.TB, data string) {
	t.Helper()
	a := testApp(t, data, discard())
	s, err := a.open("fetch", outside)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	f, err := fetcher.New(fetcher.Options{Data: s.dir, DB: s.db, Store: s.store, Clock: s.clock, Network: fetcher.Network{Proxy: "none"},
		Verify: func(ctx context.Context, setup feed.Setup, c feed.Content, prev state.FeedState) (fetcher.Verdict, error) {
			_, _ = s.verify(ctx, setup, c, prev) // leaves an evidence file, as pack expects
			return fetcher.Verdict{Marks: prev.Marks, Weakest: feed.Signed}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	feeds := slices.Clone(s.cfg.Feeds)
	for i, f := range feeds {
		if n, ok := f.Feed.(feed.Named); ok {
			for _, name := range n.AnchorNames() { // keys that only this outside claims to have
				feeds[i].Kind.Anchors = append(slices.Clone(feeds[i].Kind.Anchors), feed.Anchor{Name: name})
			}
		}
	}
	for _, r := range f.RunAll(context.Background(), feeds) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// waitFor polls what a running server does by itself.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s did not happen", what)
}
