package trendmicro

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/tooldir/tooltest"
)

var taken = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func state(t testing.TB, p *feedtest.Publisher, n int, name string) feedtest.State {
	at := taken.Add(time.Duration(n-20) * time.Hour)
	pattern := fmt.Appendf(nil, "pattern of the %d. hour", n)
	files := feedtest.Files{
		"au/ini_xml.zip": fmt.Appendf(nil, "index %d", n), "au/engine/e.zip": []byte("engine"), "au/" + name: pattern,
		// Comments in Shift_JIS, as Japanese servers may have them.
		"au/server.ini": fmt.Appendf(nil, "; \x83\x54\x81\x5b\x83\x6f\r\n[Server]\r\nServer.1=http://osce14-p.activeupdate.trendmicro.co.jp/activeupdate/japan\r\n[PATTERN]\r\n"+
			"P.4=%s,17.%d.00,%d\r\nVersion=17\r\n[ENGINE]\r\nE.1=engine/e.zip,6\r\n", name, n, len(pattern)),
	}
	for f, b := range map[string][]byte(files) {
		if !strings.HasSuffix(f, ".sig") {
			files[f+".sig"] = p.Detached(t, b, at)
		}
	}
	return feedtest.State{Files: files}
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has the same driver in kaspersky and eset")
	}
	p, other := feedtest.NewPublisher(t, Use, "Trend Micro", taken), feedtest.NewPublisher(t, Use, "Trend Micro", taken)
	feedtest.Run(t, feedtest.Folder(feedtest.Case{
		Kind: Kind(), Time: taken, Trust: []feed.Anchor{p.Anchor},
		Older: state(t, p, 1, "pattern/lpt.zip"), Now: state(t, p, 2, "pattern/lpt.zip"), Newer: state(t, p, 3, "pattern/lpt.zip"), Forged: state(t, other, 2, "pattern/lpt.zip"),
		Optional: func(p string) bool { return strings.HasPrefix(p, "au/ini_xml.zip") || p == "au/server.ini.sig" }, // no index names them
		Requests: []feedtest.Request{{Path: "/AU/server.ini", Holds: "[PATTERN]"}},
		Without:  map[string]string{"hostile index": "a value is a path only if it looks like one: see TestServerINI"},
	}, false))
}

func TestServerINI(t *testing.T) {
	p := feedtest.NewPublisher(t, Use, "Trend Micro", taken)
	good := state(t, p, 5, "pattern/lpt.zip")
	take := func(s feedtest.State, trust ...feed.Anchor) error {
		t.Helper()
		return feedtest.Once(t, Kind(), trust, "tool", "quiet = '10ms'\n", s.Files, taken)
	}
	if err := take(good, p.Anchor); err != nil {
		t.Fatal(err)
	}
	if err := take(good); !errors.Is(err, feed.ErrHeld) {
		t.Errorf("without a root: %v", err)
	}
	index := func(s string) feedtest.State {
		return good.With("au/server.ini", []byte(s)).With("au/server.ini.sig", p.Detached(t, []byte(s), taken))
	}
	for name, want := range map[string]error{
		"../../escaped.zip,1.1,5": feed.ErrUpstream, "/abs.zip,1.1,5": feed.ErrUpstream, `..\x.zip,1.1,5`: feed.ErrUpstream, "C:/x.zip,1.1,5": feed.ErrUpstream, "a//b.zip,1,1": feed.ErrUpstream,
		"pattern/gone.zip,1.1,5": feed.ErrTransient, "pattern/lpt.zip,1.1,5": feed.ErrTransient, "nothing": feed.ErrTransient,
	} {
		if err := take(index("[PATTERN]\nP.4="+name+"\n"), p.Anchor); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	bare := good.With("au/x.zip", []byte("not signed"))
	if err := take(bare, p.Anchor); !errors.Is(err, feed.ErrHeld) {
		t.Errorf("an archive without a signature: %v", err)
	}
	// Unsigned, an index is still held to what it names.
	delete(good.Files, "au/server.ini.sig")
	if err := take(good, p.Anchor); err != nil {
		t.Errorf("an index without a signature: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	p := feedtest.NewPublisher(f, Use, "Trend Micro", taken)
	tooltest.FuzzIndex(f, read, state(f, p, 2, "pattern/lpt.zip").Files, "au/server.ini")
}
