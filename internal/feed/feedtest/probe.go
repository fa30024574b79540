package feedtest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// testSettings: what a terminal needs, in both languages, and a date that
// turns red when the vendor stands still.
func testSettings(t *testing.T, h *history) {
	cs, ok := h.setup.Feed.(feed.ClientSettings)
	if !ok {
		t.Fatal("the kind prints no client settings")
	}
	base, _ := url.Parse("http://hashike.example:8080/updates/")
	settings, err := cs.Settings(h.newer, base)
	if err != nil || len(settings) == 0 {
		t.Fatal(settings, err)
	}
	for i, s := range settings {
		if s.Title.JA == "" || s.Title.EN == "" || s.Note.JA == "" || s.Note.EN == "" || s.Title.JA == s.Title.EN {
			t.Errorf("setting %d is not in both languages: %+v", i, s)
		}
		if !strings.Contains(s.Body, "http://hashike.example:8080/updates") {
			t.Errorf("setting %d does not say where the mirror is:\n%s", i, s.Body)
		}
		if strings.Contains(s.Body, h.up.URL) {
			t.Errorf("setting %d points at the vendor:\n%s", i, s.Body)
		}
	}
	f, ok := h.setup.Feed.(feed.Freshness)
	if !ok {
		t.Fatal("the kind does not date its snapshots")
	}
	last := time.Time{}
	for i, c := range []feed.Content{h.older, h.now, h.newer} {
		at, version := f.Released(c)
		if at.IsZero() || version == "" || at.After(h.clocks[i].Add(24*time.Hour)) || at.Before(last) {
			t.Errorf("state %d released %s (%q), the one before %s", i, at, version, last)
		}
		last = at
	}
	if yellow, red := f.Stale(); yellow <= 0 || red < yellow {
		t.Errorf("yellow at %s, red at %s", yellow, red)
	}
}

// testProbe: the kind's own terminal is content with a right server, and
// notices one that changes a byte of any one answer.
func testProbe(t *testing.T, h *history) {
	p, ok := h.setup.Feed.(feed.Prober)
	if !ok {
		t.Fatal("the kind cannot probe a running server")
	}
	s := h.shop(t)
	s.publish(h.newer, h.now, h.older)
	count, spoil := 0, -1
	srv := httptest.NewServer(http.StripPrefix("/updates", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		s.handler().ServeHTTP(rec, r)
		body := bytes.Clone(rec.Body.Bytes())
		if len(body) > 0 && rec.Code < 300 {
			if count == spoil {
				body[len(body)/2] ^= 1
			}
			count++
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		io.Copy(w, bytes.NewReader(body))
	})))
	defer srv.Close()
	base, _ := url.Parse(srv.URL + "/updates/")
	told, err := p.Probe(t.Context(), srv.Client().Do, h.newer, base)
	if err != nil || len(told) == 0 || count == 0 {
		t.Fatalf("a right server: %q, %v after %d answers", told, err, count)
	}
	for n := range count {
		count, spoil = 0, n
		if told, err := p.Probe(t.Context(), srv.Client().Do, h.newer, base); err == nil {
			t.Errorf("answer %d had one wrong byte, and the probe says %q", n, told)
		}
	}
	srv.Close()
	if told, err := p.Probe(t.Context(), srv.Client().Do, h.newer, base); err == nil {
		t.Errorf("there is no server, and the probe says %q", told)
	}
}
