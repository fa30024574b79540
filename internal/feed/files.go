package feed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// ServeFile answers one artifact with Range, HEAD, If-None-Match and
// If-Modified-Since as http.ServeContent does. The ETag is the digest, strong;
// Last-Modified the time of import. A withheld artifact is absent.
func ServeFile(w http.ResponseWriter, r *http.Request, v View, p string) {
	for i := -1; i < len(v.Older); i++ {
		c := v.Content
		if i >= 0 {
			c = v.Older[i]
		} else if _, held := v.Withheld[p]; held {
			break // absent, not replaced by an older publication's: what is served together was published together
		}
		if a, ok := c.Lookup(p); ok {
			ServeArtifact(w, r, c, a)
			return
		}
	}
	http.NotFound(w, r)
}

// ServeArtifact answers with the bytes of a, which c named.
func ServeArtifact(w http.ResponseWriter, r *http.Request, c Content, a Artifact) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	f, err := open(c, a)
	if err != nil {
		// The store lost a blob that a publication names: say so, do not pretend it never was.
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	rs, seekable := f.(io.ReadSeeker)
	if err != nil || !seekable || st.Size() != a.Size {
		http.Error(w, "temporarily unavailable", http.StatusServiceUnavailable)
		return
	}
	text := [...]string{`"` + string(a.Digest) + `"`, contentType(a.Path), "bytes", "", ""}
	h := w.Header()
	h["Etag"], h["Content-Type"] = text[0:1:1], text[1:2:2]
	if !whole(r) {
		http.ServeContent(w, r, "", st.ModTime(), rs)
		return
	}
	// What http.ServeContent would answer, without measuring the file by seeking in it.
	text[3], text[4] = strconv.FormatInt(a.Size, 10), st.ModTime().UTC().Format(http.TimeFormat)
	h["Accept-Ranges"], h["Content-Length"], h["Last-Modified"] = text[2:3:3], text[3:4:4], text[4:5:5]
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	// An error is the terminal's: it went away. It sees that bytes are missing.
	if b, ok := f.(interface{ Bytes() []byte }); ok { // in memory
		_, _ = w.Write(b.Bytes())
		return
	}
	_, _ = io.CopyN(w, rs, a.Size)
}

// opener is content that opens what its Lookup found without searching again.
type opener interface {
	OpenArtifact(Artifact) (fs.File, error)
}

func open(c Content, a Artifact) (fs.File, error) {
	if o, ok := c.(opener); ok {
		return o.OpenArtifact(a)
	}
	return c.Open(a.Path)
}

// whole reports that r asks for all of a file on no condition.
func whole(r *http.Request) bool {
	for _, k := range [...]string{"Range", "If-Range", "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since"} {
		if _, has := r.Header[k]; has {
			return false
		}
	}
	return true
}

// contentType never sniffs: content is opaque to us.
func contentType(p string) string {
	switch strings.ToLower(path.Ext(p)) {
	case ".xml":
		return "text/xml; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	case ".txt", ".asc", ".sig", ".sign":
		return "text/plain; charset=utf-8"
	case ".json":
		return "application/json"
	case ".msix":
		return "application/msix"
	case ".msixbundle":
		return "application/msixbundle"
	case ".appx":
		return "application/appx"
	case ".appxbundle":
		return "application/appxbundle"
	case ".appinstaller":
		return "application/appinstaller"
	case ".deb":
		return "application/vnd.debian.binary-package"
	}
	return "application/octet-stream"
}

// FileHandler serves a ring's artifacts as a plain tree: enough for most vendors.
func FileHandler(s Serving) http.Handler { return Published(s, ServeFile) }

// Published answers with what the asker's ring has published, and says so
// before there is anything. The path has no slash in front.
func Published(s Serving, answer func(w http.ResponseWriter, r *http.Request, v View, path string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := s.View(s.Ring(r))
		if !ok {
			http.Error(w, "nothing published yet", http.StatusServiceUnavailable)
			return
		}
		answer(w, r, v, strings.TrimPrefix(r.URL.Path, "/"))
	})
}

// Asked is base as the terminal reached it: the host that it named, so that
// what it is sent to next keeps its ring and its certificate. For documents
// that hold addresses; the asker alone sees what it named.
func Asked(r *http.Request, base *url.URL) *url.URL {
	u := *base
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if h, err := url.Parse("//" + r.Host); err == nil && h.Host != "" && h.Host == r.Host && h.User == nil {
		u.Host = r.Host
	}
	return &u
}

// ProbeFiles is the Probe of kinds that serve files under their own paths: it
// asks a running server for the beginning of each and compares it. One line is
// told of each file. Errors are do's, or ErrDamaged.
func ProbeFiles(ctx context.Context, do func(*http.Request) (*http.Response, error), c Content, base *url.URL) ([]string, error) {
	var told []string
	for a, err := range c.Artifacts() {
		if err == nil {
			err = probeFile(ctx, do, c, a, base)
		}
		if err != nil {
			return told, err
		}
		told = append(told, fmt.Sprintf("%s: %d bytes", a.Path, a.Size))
	}
	return told, nil
}

const probed = 512 // bytes

func probeFile(ctx context.Context, do func(*http.Request) (*http.Response, error), c Content, a Artifact, base *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(a.Path).String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", probed-1))
	res, err := do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Path, err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, probed+1))
	if err != nil {
		return fmt.Errorf("%s: %w", a.Path, err)
	}
	f, err := c.Open(a.Path)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Path, err)
	}
	defer f.Close()
	want := make([]byte, min(a.Size, probed))
	if _, err := io.ReadFull(f, want); err != nil {
		return fmt.Errorf("%s: %w", a.Path, err)
	}
	if res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, want) {
		return fmt.Errorf("%s: answered %s, not the beginning of what is published: %w", a.Path, res.Status, ErrDamaged)
	}
	return nil
}
