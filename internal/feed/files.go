package feed

import (
	"io"
	"net/http"
	"path"
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
			continue
		}
		if a, ok := c.Lookup(p); ok {
			ServeArtifact(w, r, c, a)
			return
		}
	}
	http.NotFound(w, r)
}

// ServeArtifact answers with a's bytes.
func ServeArtifact(w http.ResponseWriter, r *http.Request, c Content, a Artifact) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	f, err := c.Open(a.Path)
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
	h := w.Header()
	h["Etag"] = []string{`"` + string(a.Digest) + `"`}
	h["Content-Type"] = []string{contentType(a.Path)}
	http.ServeContent(w, r, "", st.ModTime(), rs)
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
	case ".deb":
		return "application/vnd.debian.binary-package"
	}
	return "application/octet-stream"
}

// FileHandler serves a ring's artifacts as a plain tree: enough for most vendors.
func FileHandler(s Serving) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := s.View(s.Ring(r))
		if !ok {
			http.Error(w, "nothing published yet", http.StatusServiceUnavailable)
			return
		}
		ServeFile(w, r, v, strings.TrimPrefix(r.URL.Path, "/"))
	})
}
