package feedtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/hashike/hashike/internal/feed"
)

// shop serves what is put into it. As in the engine, a publication builds what
// the kind derives, and makes a new handler.
type shop struct {
	t       *testing.T
	kind    feed.Feed
	mu      sync.Mutex
	now     http.Handler
	view    feed.View
	open    bool
	derived map[feed.Content]fs.FS
}

func (h *history) shop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, kind: h.setup.Feed, derived: map[feed.Content]fs.FS{}}
	s.handle(feed.View{}, false)
	return s
}

// handle makes the handler for one view.
func (s *shop) handle(v feed.View, open bool) {
	s.t.Helper()
	base, _ := url.Parse("http://hashike.example:8080/updates/")
	h, err := s.kind.Handler(feed.Serving{
		Feed: name, Ring: func(*http.Request) string { return "all" }, Ledger: forgetful{}, Base: base, Secret: make([]byte, 32), Log: slog.New(slog.DiscardHandler),
		View: func(string) (feed.View, bool) { return v, open },
		Peer: func(f, _ string) (feed.Peer, error) {
			return feed.Peer{}, fmt.Errorf("feed %s: %w", f, fs.ErrNotExist)
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.view, s.open = h, v, open
}

func (s *shop) handler() http.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// derive builds what the kind derives of a snapshot, once.
func (s *shop) derive(c feed.Content) fs.FS {
	s.t.Helper()
	k, ok := s.kind.(feed.Deriver)
	if !ok {
		return nil
	}
	if made, ok := s.derived[c]; ok {
		return made
	}
	var prev fs.FS
	if s.open {
		prev = s.view.Derived
	}
	made := fstest.MapFS{}
	err := k.Derive(s.t.Context(), c, prev, func(name string, r io.Reader) error {
		if !feed.ValidPath(name) {
			s.t.Errorf("derived file %q", name)
		}
		b, err := io.ReadAll(r)
		made[name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		s.t.Fatalf("derived files: %v", err)
	}
	if names, said := slices.Sorted(maps.Keys(made)), slices.Sorted(slices.Values(k.Derives())); !slices.Equal(names, said) {
		s.t.Errorf("derived files %q, said were %q", names, said)
	}
	s.derived[c] = made
	return made
}

type forgetful struct{}

func (forgetful) Saw(feed.Sighting) {}

func (forgetful) Change(name, id string, f func(*feed.Terminal)) {
	f(&feed.Terminal{Feed: name, ID: id})
}

func (s *shop) publish(c feed.Content, older ...feed.Content) {
	s.set(feed.View{Content: c, Older: older})
}
func (s *shop) set(v feed.View) {
	s.t.Helper()
	v.Number = s.view.Number + 1
	v.Derived = s.derive(v.Content)
	s.handle(v, true)
}

// answer is a whole response.
type answer struct {
	*httptest.ResponseRecorder
	body []byte
}

// ask sends a request as the server would hand it over: mount point removed.
func (s *shop) ask(method, path string, body string, header ...string) answer {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.to(w, method, path, body, header...)
	if w.Code >= 500 && s.open {
		s.t.Errorf("%s %.100q %v: %d %s", method, path, header, w.Code, w.Body)
	}
	return answer{w, w.Body.Bytes()}
}

func (s *shop) to(w http.ResponseWriter, method, path, body string, header ...string) {
	s.t.Helper()
	defer func() {
		if v := recover(); v != nil {
			s.t.Errorf("%s %.100q %v: panic: %v", method, path, header, v)
		}
	}()
	path, query, _ := strings.Cut(path, "?")
	r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Host: "hashike.example", RemoteAddr: "192.0.2.7:4711", RequestURI: path}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	s.handler().ServeHTTP(w, r.WithContext(s.t.Context()))
}

// testServe: every artifact by every form of request, and everything that is
// no artifact.
func testServe(t *testing.T, h *history) {
	s := h.shop(t)
	for a := range h.newer.Artifacts() {
		if at := h.c.Address(a.Path); at != "" {
			if got := s.ask("GET", at, ""); got.Code != http.StatusServiceUnavailable {
				t.Errorf("%s before anything is published: %d", at, got.Code)
			}
		}
	}
	s.publish(h.newer)
	served := 0
	for a := range h.newer.Artifacts() {
		if at := h.c.Address(a.Path); at != "" {
			served++
			s.forms(at, readAll(t, h.newer, a.Path))
		}
	}
	if served == 0 {
		t.Error("no artifact has an address")
	}
	strange := []string{"", "/", "//", "/.", "/..", "/../../etc/passwd", "/..%2f..%2fetc/passwd", `/..\..\windows\win.ini`, "/nowhere", "/nowhere/", "/con", "/aux.txt",
		"/C:/windows", "/\x00", "/\xff\xfe", "/%", "/" + strings.Repeat("a/", 3000), "/store/sha256", "/state.db", "nowhere", "/?x=" + strings.Repeat("%", 100)}
	for a := range h.newer.Artifacts() {
		at := h.c.Address(a.Path)
		strange = append(strange, at+"/", at+"/x", at+"\x00", "/x/.."+at, "/."+at+".", strings.ToUpper(at)+"X", at+"~")
		break
	}
	for _, p := range strange {
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO"} {
			got := s.ask(m, p, "x")
			if m == "GET" && got.Code == http.StatusOK && len(got.body) > 0 && !strings.HasPrefix(p, "/x/..") && strings.Trim(p, "/") != "" {
				t.Errorf("GET %.80q: 200 with %d bytes", p, len(got.body))
			}
		}
	}
	s.withheld(h)
}

// forms asks for one artifact in every way of RFC 9110 that update clients use.
func (s *shop) forms(at string, want []byte) {
	s.t.Helper()
	n := len(want)
	bad := func(what string, got answer) {
		s.t.Errorf("%s %s: %d %v, %d bytes of %d", at, what, got.Code, got.Header(), len(got.body), n)
	}
	whole := s.ask("GET", at, "")
	if whole.Code != http.StatusOK || !bytes.Equal(whole.body, want) {
		bad("GET", whole)
		return
	}
	tag, modified := whole.Header().Get("ETag"), whole.Header().Get("Last-Modified")
	if got := s.ask("HEAD", at, ""); got.Code != http.StatusOK || len(got.body) != 0 || got.Header().Get("Content-Length") != fmt.Sprint(n) || got.Header().Get("ETag") != tag {
		bad("HEAD", got)
	}
	if got := s.ask("POST", at, "x=1"); got.Code < 400 {
		bad("POST", got)
	}
	if tag == "" && modified == "" {
		bad("has no validator", whole)
	}
	if n > 0 {
		s.ranges(at, want, tag, bad)
	}
	for _, x := range []struct {
		have, name, value string
		code              int
	}{
		{tag, "If-None-Match", tag, http.StatusNotModified},
		{tag, "If-None-Match", `"other", ` + tag, http.StatusNotModified},
		{tag, "If-None-Match", `"other"`, http.StatusOK},
		{modified, "If-Modified-Since", modified, http.StatusNotModified},
		{modified, "If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT", http.StatusOK},
		{modified, "If-Modified-Since", "nonsense", http.StatusOK},
		{tag, "If-Match", `"other"`, http.StatusPreconditionFailed},
	} {
		if x.have == "" {
			continue
		}
		got := s.ask("GET", at, "", x.name, x.value)
		if got.Code != x.code || x.code == http.StatusOK && !bytes.Equal(got.body, want) || x.code == http.StatusNotModified && len(got.body) > 0 {
			bad(x.name+": "+x.value, got)
		}
	}
}

func (s *shop) ranges(at string, want []byte, tag string, bad func(string, answer)) {
	s.t.Helper()
	n := len(want)
	for spec, part := range map[string][]byte{
		"bytes=0-0":                           want[:1],
		"bytes=0-511":                         want[:min(512, n)],
		fmt.Sprintf("bytes=%d-", n-1):         want[n-1:],
		fmt.Sprintf("bytes=%d-%d", n/2, n+99): want[n/2:],
		"bytes=-1":                            want[n-1:],
		"bytes=-1000000000":                   want,
	} {
		got := s.ask("GET", at, "", "Range", spec)
		if got.Code != http.StatusPartialContent || !bytes.Equal(got.body, part) || !strings.HasSuffix(got.Header().Get("Content-Range"), fmt.Sprintf("/%d", n)) {
			bad("Range: "+spec, got)
		}
	}
	for _, spec := range []string{fmt.Sprintf("bytes=%d-", n), "bytes=99999999999999999999-", "bytes=5-2", "bytes=x", "lines=0-1"} {
		got := s.ask("GET", at, "", "Range", spec)
		if got.Code != http.StatusRequestedRangeNotSatisfiable && !(got.Code == http.StatusOK && bytes.Equal(got.body, want)) {
			bad("Range: "+spec, got)
		}
	}
	if n > 4 {
		got := s.ask("GET", at, "", "Range", fmt.Sprintf("bytes=0-1,%d-%d", n-2, n-1))
		if !(got.Code == http.StatusOK && bytes.Equal(got.body, want)) && !twoParts(got, want) {
			bad("Range of two parts", got)
		}
	}
	if tag != "" {
		if got := s.ask("GET", at, "", "Range", "bytes=0-0", "If-Range", tag); got.Code != http.StatusPartialContent || !bytes.Equal(got.body, want[:1]) {
			bad("If-Range of its own tag", got)
		}
		if got := s.ask("GET", at, "", "Range", "bytes=0-0", "If-Range", `"other"`); got.Code != http.StatusOK || !bytes.Equal(got.body, want) {
			bad("If-Range of another tag", got)
		}
	}
}

func twoParts(got answer, want []byte) bool {
	kind, p, err := mime.ParseMediaType(got.Header().Get("Content-Type"))
	if err != nil || got.Code != http.StatusPartialContent || kind != "multipart/byteranges" {
		return false
	}
	m := multipart.NewReader(bytes.NewReader(got.body), p["boundary"])
	for _, part := range [][]byte{want[:2], want[len(want)-2:]} {
		x, err := m.NextPart()
		if err != nil {
			return false
		}
		if b, err := io.ReadAll(x); err != nil || !bytes.Equal(b, part) {
			return false
		}
	}
	_, err = m.NextPart()
	return errors.Is(err, io.EOF)
}

// withheld: what the verifier withholds is absent, alone and whatever the method.
func (s *shop) withheld(h *history) {
	s.t.Helper()
	for a := range h.newer.Artifacts() {
		at := h.c.Address(a.Path)
		if at == "" {
			continue
		}
		s.set(feed.View{Content: h.newer, Withheld: map[string]string{a.Path: "test"}})
		for _, m := range []string{"GET", "HEAD"} {
			got := s.ask(m, at, "")
			if got.Code == http.StatusOK && (len(got.body) > 0 || got.Header().Get("Content-Length") != "0" || a.Size == 0) ||
				got.Code >= 300 && got.Code < 400 {
				s.t.Errorf("%s %s is withheld: %d, %d bytes", m, at, got.Code, len(got.body))
			}
		}
		if got := s.ask("GET", at, "", "Range", "bytes=0-0"); got.Code == http.StatusPartialContent {
			s.t.Errorf("%s is withheld, but its first byte is not", at)
		}
	}
}

// slow takes a download in pieces, and lets something happen between them.
type slow struct {
	*httptest.ResponseRecorder
	between func()
}

func (w *slow) WriteHeader(code int) { w.between(); w.ResponseRecorder.WriteHeader(code) }
func (w *slow) Write(b []byte) (int, error) {
	half := len(b) / 2
	w.between()
	n, err := w.ResponseRecorder.Write(b[:half])
	if err != nil {
		return n, err
	}
	w.between()
	m, err := w.ResponseRecorder.Write(b[half:])
	return n + m, err
}

// testPublish: two publications during a download leave it whole; the files of
// older publications stay reachable as long as the view has them.
func testPublish(t *testing.T, h *history) {
	for a := range h.older.Artifacts() {
		at := h.c.Address(a.Path)
		if at == "" {
			continue
		}
		s := h.shop(t)
		s.publish(h.older)
		steps := []func(){
			func() { s.publish(h.now, h.older) },
			func() { s.publish(h.newer, h.now, h.older) },
		}
		w := &slow{httptest.NewRecorder(), func() {
			if len(steps) > 0 {
				steps[0]()
				steps = steps[1:]
			}
		}}
		s.to(w, "GET", at, "")
		if want := readAll(t, h.older, a.Path); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%s: two publications came between: %d, %d bytes of %d", at, w.Code, w.Body.Len(), len(want))
		}
	}
	s := h.shop(t)
	s.publish(h.newer, h.now, h.older)
	for _, old := range []feed.Content{h.now, h.older} {
		for a := range old.Artifacts() {
			at := h.c.Address(a.Path)
			if _, still := h.newer.Lookup(a.Path); still || at == "" || h.c.Gone(a.Path) {
				continue
			}
			if now, ok := h.now.Lookup(a.Path); ok && now.Digest != a.Digest {
				continue // h.now is nearer
			}
			got := s.ask("GET", at, "")
			if got.Code != http.StatusOK || !bytes.Equal(got.body, readAll(t, old, a.Path)) {
				t.Errorf("%s of an older publication: %d", at, got.Code)
			}
		}
	}
	for a := range h.newer.Artifacts() {
		if at := h.c.Address(a.Path); at != "" {
			if got := s.ask("GET", at, ""); !bytes.Equal(got.body, readAll(t, h.newer, a.Path)) {
				t.Errorf("%s: not the newest publication's", at)
			}
		}
	}
}

func testRequests(t *testing.T, h *history) {
	s := h.shop(t)
	s.publish(h.newer, h.now, h.older)
	for _, r := range h.c.Requests {
		var header []string
		for k := range r.Header {
			header = append(header, k, r.Header.Get(k))
		}
		got := s.ask(cmp.Or(r.Method, "GET"), r.Path, r.Body, header...)
		if got.Code != cmp.Or(r.Status, http.StatusOK) || !bytes.Contains(got.body, []byte(r.Holds)) {
			t.Errorf("%s %s: %d %.300q, want %d with %q", r.Method, r.Path, got.Code, got.body, cmp.Or(r.Status, http.StatusOK), r.Holds)
		}
	}
}
