package wsus

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed"
)

// TestProbe: the prober is content with a right server and leaves no trace in
// the ledger; it notices other metadata, other numbers, another payload and a
// server that is gone.
func TestProbe(t *testing.T) {
	f := newKind(t, nil)
	c := fetched(t, f, dropOf(t, "win8.1"), nil)
	s := newSite(t, f)
	s.publish(c, feed.View{}, "all")
	var change func(path string, body []byte) []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		s.h.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if change != nil {
			body = change(r.URL.Path, body)
		}
		w.WriteHeader(rec.Code)
		w.Write(body)
	}))
	defer srv.Close()
	probe := func(c feed.Content) ([]string, error) {
		return f.Probe(t.Context(), srv.Client().Do, c, mustURL(t, srv.URL+"/"))
	}
	told, err := probe(c)
	if err != nil || len(told) != 2 || !strings.Contains(told[1], payload81) {
		t.Fatal(told, err)
	}
	if len(s.ledger.seen)+len(s.ledger.known) != 0 {
		t.Errorf("the ledger has %v, %v", s.ledger.seen, s.ledger.known)
	}
	for name, x := range map[string]func(string, []byte) []byte{
		"a fragment": func(_ string, b []byte) []byte {
			return bytes.Replace(b, []byte("ApplicabilityRules"), []byte("ApplicabilityRulez"), 2)
		},
		"a revision's number": func(_ string, b []byte) []byte {
			return bytes.Replace(b, []byte("<UpdateInfo><ID>"), []byte("<UpdateInfo><ID>1"), 1)
		},
		"the plug-in": func(_ string, b []byte) []byte { return bytes.ReplaceAll(b, []byte(plugIn), []byte("Anonymous")) },
		"a cookie": func(_ string, b []byte) []byte {
			return bytes.Replace(b, []byte("<CookieData>"), []byte("<CookieData>AA"), 1)
		},
		"half answers": func(_ string, b []byte) []byte { return b[:len(b)/2] },
		"the payload": func(p string, b []byte) []byte {
			if strings.HasPrefix(p, "/Content/") {
				return flip(b, len(b)/2)
			}
			return b
		},
	} {
		change = x
		if told, err := probe(c); err == nil {
			t.Errorf("%s changed, and the probe says %q", name, told)
		}
	}
	change = nil
	srv.Close()
	if told, err := probe(c); err == nil {
		t.Errorf("no server, and the probe says %q", told)
	}
}
