package mirror

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// response counts what a handler answers. It passes ReadFrom on, so that
// net/http hands files to the kernel (sendfile).
type response struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom lets the connection read a file by itself.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if l, ok := r.(*io.LimitedReader); ok && l.N <= inline {
		return w.copySmall(l)
	}
	var n int64
	var err error
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(r)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
	}
	w.bytes += n
	return n, err
}

// inline is the size up to which a file goes out in one write with its header:
// it must fit net/http's buffer of 4 KiB together with that.
const inline = 3 << 10

func (w *response) copySmall(l *io.LimitedReader) (int64, error) {
	b := make([]byte, l.N)
	n, err := io.ReadFull(l, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	m, werr := w.Write(b[:n])
	return int64(m), errors.Join(err, werr)
}

// Flush sends what is buffered.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// whole reports whether the answer to r brought a file's end to the terminal.
func (w *response) whole(r *http.Request) bool {
	if r.Method != http.MethodGet || w.bytes == 0 {
		return false
	}
	switch w.status {
	case http.StatusOK:
		n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
		return err != nil || n == w.bytes
	case http.StatusPartialContent: // "bytes 5-9/10"
		span, size, ok := strings.Cut(strings.TrimPrefix(w.Header().Get("Content-Range"), "bytes "), "/")
		_, last, ok2 := strings.Cut(span, "-")
		n, err := strconv.ParseInt(last, 10, 64)
		return ok && ok2 && err == nil && strconv.FormatInt(n+1, 10) == size
	}
	return false
}

// serveFeed answers one request of a terminal for a feed and notes it.
func (s *Server) serveFeed(w http.ResponseWriter, r *http.Request, m *mounted, inner string) {
	began := time.Now()
	rw := &response{ResponseWriter: w}
	// The path is changed in place and put back: a copy of the request, as
	// http.StripPrefix makes, costs a tenth of a small file.
	path, raw := r.URL.Path, r.URL.RawPath
	r.URL.Path, r.URL.RawPath = inner, ""
	defer func() {
		r.URL.Path, r.URL.RawPath = path, raw
		m.stats.count(rw.status, rw.bytes)
		s.access.line(r, m.setup.Name, rw.status, rw.bytes, began)
		s.sighted(r, m, inner, rw)
	}()
	m.handler.ServeHTTP(rw, r)
}

// sighted notes that a terminal took a payload. Kinds whose protocol says more
// report that themselves.
func (s *Server) sighted(r *http.Request, m *mounted, inner string, rw *response) {
	if !rw.whole(r) {
		return
	}
	if p := m.payload(s.o.Rings.Of(r), strings.TrimPrefix(inner, "/")); p.path != "" {
		s.ledger.Saw(feed.Sighting{
			Time: s.o.Clock().UTC(), Feed: m.setup.Name, Terminal: peer(r).String(), Event: "took", Path: p.path, Version: p.version,
		})
	}
}

// asked is a ring's path; took what it was, with an empty path if no payload.
type asked struct{ ring, path string }

type took struct{ path, version string }

// maxAsked bounds what a publication remembers of its popular paths.
const maxAsked = 8192

func (m *mounted) payload(ring, p string) took {
	k := asked{ring, p}
	m.mu.RLock()
	t, known := m.asked[k]
	m.mu.RUnlock()
	if known {
		return t
	}
	if v, ok := m.view(ring); ok {
		a, ok := v.Lookup(p)
		for i := 0; !ok && i < len(v.Older); i++ {
			a, ok = v.Older[i].Lookup(p)
		}
		if ok && a.Class != feed.Metadata {
			t = took{a.Path, a.Version}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked == nil || len(m.asked) >= maxAsked {
		m.asked = map[asked]took{}
	}
	m.asked[k] = t
	return t
}

// access is the access log: lines gather in memory and are written once a
// second, to one file a day.
type access struct {
	dir   string
	log   *slog.Logger
	mu    sync.Mutex
	buf   []byte
	lost  int
	write sync.Mutex
}

const (
	maxAccess  = 4 << 20 // not yet written; a full disk must not fill memory too
	keepAccess = 35      // files
)

func (a *access) line(r *http.Request, feedName string, status int, n int64, began time.Time) {
	if a == nil {
		return
	}
	uri := r.RequestURI
	if len(uri) > 2048 {
		uri = uri[:2048]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.buf) > maxAccess {
		a.lost++
		return
	}
	b := began.AppendFormat(a.buf, "2006-01-02T15:04:05.000Z07:00")
	b = append(append(b, ' '), r.RemoteAddr...)
	b = append(append(b, ' '), feedName...)
	b = append(append(b, ' '), r.Method...)
	b = append(strconv.AppendQuote(append(b, ' '), uri), ' ')
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	b = append(strconv.AppendInt(b, n, 10), ' ')
	b = append(strconv.AppendInt(b, time.Since(began).Microseconds(), 10), "us "...)
	ua := r.UserAgent()
	b = append(strconv.AppendQuote(b, ua[:min(len(ua), 256)]), '\n')
	a.buf = b
}

// flush appends the gathered lines to the day's file.
func (a *access) flush(now time.Time) {
	a.write.Lock()
	defer a.write.Unlock()
	a.mu.Lock()
	buf := bytes.Clone(a.buf)
	lost := a.lost
	a.buf, a.lost = a.buf[:0], 0
	a.mu.Unlock()
	if len(buf) == 0 {
		return
	}
	err := os.MkdirAll(a.dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(filepath.Join(a.dir, "access-"+now.In(feed.JST()).Format("20060102")+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, err = f.Write(buf)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil || lost > 0 {
		a.log.Warn("access log", "error", err, "lost", lost)
	}
}

// prune removes the oldest days.
func (a *access) prune() {
	var names []string
	ents, _ := os.ReadDir(a.dir) // sorted; a pattern would stumble over "[" in the folder's name
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), "access-") && strings.HasSuffix(e.Name(), ".log") {
			names = append(names, filepath.Join(a.dir, e.Name()))
		}
	}
	for len(names) > keepAccess {
		os.Remove(names[0])
		names = names[1:]
	}
}
