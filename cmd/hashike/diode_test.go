package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/diode"
	"github.com/hashike/hashike/internal/durable"
)

// diodePair configures both ends on a free port of this machine.
func diodePair(t *testing.T, w *world) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := c.LocalAddr().String()
	c.Close()
	setLine(t, w.path(outside, "hashike.toml"), `to = ""`, `to = "`+at+`"`)
	setLine(t, w.path(inside, "hashike.toml"), `listen = ""`, `listen = "`+at+`"`)
	return at
}

// background runs a command of the inside until it ends by itself.
func (w *world) background(args ...string) (wait func() string) {
	var out bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &out, "ja")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan int, 1)
	go func() { done <- a.execute(ctx, append([]string{"--data", w.path(inside)}, args...)) }()
	return func() string {
		w.t.Helper()
		defer cancel()
		if code := <-done; code != 0 {
			w.t.Fatalf("%v: exit %d\n%s", args, code, out.String())
		}
		return out.String()
	}
}

// A bundle goes through the diode into the inbox, is imported and served as
// from a medium; a sender without a rate refuses; a need list is answered.
func TestDiodeCarriesABundle(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	w.outside("fetch")
	w.pack()
	at := diodePair(t, w)
	w.fails(exitConfig, "[diode]", "--data", w.path(outside), "diode", "send", w.path("media")) // to without a rate
	setLine(t, w.path(outside, "hashike.toml"), `to = "`+at+`"`, `to = ""`)
	w.fails(exitConfig, "H-227", "--data", w.path(outside), "diode", "send", w.path("media"), "--to", at)

	wait := w.background("diode", "receive", "--count", "1")
	waitBound(t, at)
	out := w.ok("", "--data", w.path(outside), "diode", "send", w.path("media"), "--to", at, "--rate", "400M")
	t.Log(out, wait())
	found, _ := filepath.Glob(w.path(inside, "inbox", "diode-*"))
	if len(found) != 1 {
		t.Fatalf("inbox: %v", found)
	}
	w.inside("import", found[0])
	w.inside("publish", "--now")
	if w.serial(inside, "clamav-test") != w.serial(outside, "clamav-test") || w.generations("clamav-test") != 1 {
		t.Fatal("what came through the diode was not published")
	}
	if out := w.inside("status"); !strings.Contains(out, "一方向装置: 最後に届いた日時") {
		t.Errorf("status:\n%s", out)
	}
	// The receipt tells the outside what it cannot see: how the line does.
	if out := w.inside("receipt", "show"); !strings.Contains(out, "速度") || !strings.Contains(out, "届いたパケット") {
		t.Errorf("receipt:\n%s", out)
	}
	var doc struct {
		Line struct{ Packets, Lost int64 }
	}
	if err := json.Unmarshal([]byte(w.inside("receipt", "show", "--json")), &doc); err != nil || doc.Line.Packets < 100 {
		t.Errorf("receipt: %v, %+v", err, doc)
	}
	page, err := os.ReadFile(w.path(inside, "outbox", "receipt-00001.html"))
	if err != nil || !strings.Contains(string(page), "失われたパケット") {
		t.Errorf("receipt's page: %v", err)
	}
	w.fails(exitConfig, "H-208", "--data", w.path(outside), "diode", "send", "--need", w.path("none.txt"), "--to", at, "--rate", "1M")
	w.fails(exitConfig, "H-222", "--data", w.path(outside), "diode", "send", "--need", "ABCD", "--to", at, "--rate", "1M")
	w.fails(exitConfig, "H-229", "--data", w.path(outside), "diode", "send", w.path("media"), "--need", diode.Need{Session: [8]byte{1}}.String(), "--to", at, "--rate", "1M")
}

// What did not arrive crosses as text, file or QR code.
func TestDiodeNeed(t *testing.T) {
	w := newWorld(t, "")
	if out := w.inside("diode", "need"); !strings.Contains(out, "ありません") {
		t.Errorf("without a line: %s", out)
	}
	list := diode.Need{Session: [8]byte{1, 2, 3}, Blocks: []diode.Span{{From: 4, To: 9}}}.String()
	doc, err := json.Marshal(diode.Status{Sessions: []diode.SessionStatus{{Name: "412", ID: "0102030000000000aaaaaaaaaaaaaaaa", Blocks: 10, Have: 5, Need: list}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.path(inside, "diode"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path(inside, "diode", "status.json"), doc, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := w.inside("diode", "need"); !strings.Contains(out, list) {
		t.Errorf("the list is not shown: %s", out)
	}
	page, err := os.ReadFile(w.path(inside, "outbox", "diode-need-0102030000000000.html"))
	if err != nil || !strings.Contains(string(page), "<svg") || !strings.Contains(string(page), list) {
		t.Errorf("page: %v", err)
	}
	// As a file and as a scanner types it: understood, and about a bundle that is not here.
	file := w.path(inside, "outbox", "diode-need-0102030000000000.txt")
	w.fails(exitConfig, "H-229", "--data", w.path(outside), "diode", "send", "--need", file, "--to", "127.0.0.1:9", "--rate", "1M")
	if _, errs, code := w.run(strings.ReplaceAll(list, " ", "")+"\r\n", "--data", w.path(outside), "diode", "send", "--need", "-", "--to", "127.0.0.1:9", "--rate", "1M"); code != exitConfig || !strings.Contains(errs, "H-229") {
		t.Errorf("scanned: exit %d\n%s", code, errs)
	}
}

// waitBound waits until somebody listens.
func waitBound(t *testing.T, at string) {
	t.Helper()
	for range 200 {
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return
		}
		c.Close()
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("nobody listens")
}

// "run" on both sides: what appears in the outbox appears in the inbox; a pass
// that is done is not sent again after a restart.
func TestDiodeOutbox(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	at := diodePair(t, w)
	setLine(t, w.path(outside, "hashike.toml"), `rate = ""`, `rate = "400M"`)
	w.outside("fetch")
	w.outside("pack", "--to", w.path(outside, "outbox", "diode", "first"), "--clock-checked", "test data of 2021")
	wait := w.background("diode", "receive", "--count", "1")
	waitBound(t, at)

	errs := discard()
	s, err := testApp(t, w.path(outside), errs).open("diode send", outside)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	l, err := s.openLine(s.cfg.Diode)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.o.Warm, l.o.Trail = 50*time.Millisecond, 50*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.diodeOutbox(ctx, l, time.Second/2) }()
	wait()
	sent := filepath.Join(s.diodeDir(), "sent.json")
	twice := regexp.MustCompile(`:2}`)
	for range 100 {
		if b, _ := os.ReadFile(sent); twice.Match(b) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if b, _ := os.ReadFile(sent); !twice.Match(b) {
		t.Errorf("passes are not written down: %s", b)
	}
	// A second sender must not share the line.
	w.fails(exitMachine, "H-804", "--data", w.path(outside), "diode", "send", w.path(outside, "outbox", "diode", "first"))
	// A list that nobody can answer is reported and put away.
	if err := durable.WriteFile(filepath.Join(s.diodeBox(), "typed.txt"), []byte("ABCD")); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := os.Stat(filepath.Join(s.diodeBox(), "typed.done")); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	cancel()
	<-done
	if !strings.Contains(errs.String(), "H-222") {
		t.Errorf("a mistyped list was not reported:\n%s", errs)
	}
}

// Both halves of the test of a line.
func TestDiodeTest(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 2)
	w := newWorld(t, clamavBlock(spool))
	at := diodePair(t, w)
	setLine(t, w.path(outside, "hashike.toml"), `rate = ""`, `rate = "100M"`)
	wait := w.background("diode", "test", "--seconds", "1")
	waitBound(t, at)
	w.outside("diode", "test", "--seconds", "2")
	if out := wait(); !strings.Contains(out, `profile = "`) {
		t.Errorf("no profile was picked:\n%s", out)
	}
}
