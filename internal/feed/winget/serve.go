package winget

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Handler implements feed.Feed. It is made anew when a feed that it draws from
// publishes.
func (s *source) Handler(sv feed.Serving) (http.Handler, error) {
	h := &handler{source: s, sv: sv, rings: map[string]*catalogue{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /information", h.information)
	mux.HandleFunc("POST /manifestSearch", h.search)
	mux.HandleFunc("GET /packageManifests/{id}", h.manifest)
	mux.HandleFunc("GET /installers/{sha256}/{name}", h.installer)
	mux.HandleFunc("/information", notAllowed("GET, HEAD"))
	mux.HandleFunc("/manifestSearch", notAllowed("POST"))
	mux.HandleFunc("/packageManifests/{id}", notAllowed("GET, HEAD"))
	mux.HandleFunc("/installers/{sha256}/{name}", notAllowed("GET, HEAD"))
	files := feed.FileHandler(sv)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// ServeMux would answer a path that is not clean with a redirect.
		if p := r.URL.Path; known(p) {
			mux.ServeHTTP(w, r)
			return
		} else if p == "/"+indexPath || strings.HasPrefix(p, "/"+folder) {
			files.ServeHTTP(w, r)
			return
		}
		refuse(w, http.StatusNotFound, "no such resource")
	}), nil
}

func known(p string) bool {
	first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	parts := strings.Split(rest, "/")
	for _, s := range parts {
		if s == "." || s == ".." || s == "" && rest != "" {
			return false
		}
	}
	switch first {
	case "information", "manifestSearch":
		return rest == "" && !strings.HasSuffix(p, "/")
	case "packageManifests":
		return rest != "" && len(parts) == 1
	case "installers":
		return len(parts) == 2
	}
	return false
}

type handler struct {
	*source
	sv    feed.Serving
	mu    sync.Mutex
	rings map[string]*catalogue
}

// catalogue is the asker's ring's, built at its first request.
func (h *handler) catalogue(w http.ResponseWriter, r *http.Request) *catalogue {
	ring := h.sv.Ring(r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.rings[ring]; c != nil {
		return c
	}
	peers, err := h.peers(h.sv, ring)
	var c *catalogue
	if err == nil {
		own, has := h.sv.View(ring)
		c, err = h.build(own, has, peers)
	}
	if err != nil {
		h.sv.Log.Error("winget source", "ring", ring, "error", err)
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusServiceUnavailable, "temporarily unavailable")
		return nil
	}
	for _, why := range c.Left[:min(len(c.Left), 50)] {
		h.sv.Log.Warn("winget source: left out", "ring", ring, "why", why)
	}
	h.rings[ring] = c
	return c
}

// refuse answers with the contract's error. The client reads the status alone.
func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, nil, status, []object{{"ErrorCode": status, "ErrorMessage": why}})
}

func notAllowed(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", allow)
		refuse(w, http.StatusMethodNotAllowed, "method not allowed")
	}
}

// answer sends JSON with a length and, for what may be asked again, a validator.
func answer(w http.ResponseWriter, r *http.Request, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // maps, lists, strings and numbers
	}
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusOK && r != nil && r.Method != http.MethodPost {
		w.Header().Set("ETag", `"`+string(feed.DigestOf(b.Bytes()))+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.Bytes()))
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

func (h *handler) information(w http.ResponseWriter, r *http.Request) {
	// The client keeps this as long as it is told: a source that changes its
	// versions with the program is asked again within minutes.
	w.Header().Set("Cache-Control", "max-age=300")
	answer(w, r, http.StatusOK, h.source.information())
}

func (h *handler) search(w http.ResponseWriter, r *http.Request) {
	minor, ok := contract(r.Header.Get("Version"))
	if !ok {
		refuse(w, http.StatusBadRequest, "unknown contract version")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusBadRequest, "request too long")
		return
	}
	req, err := parseSearch(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	c := h.catalogue(w, r)
	if c == nil {
		return
	}
	if bad := req.unsupported(); len(bad) > 0 {
		answer(w, r, http.StatusOK, object{"Data": []object{}, "UnsupportedPackageMatchFields": bad, "RequiredPackageMatchFields": []string{}})
		return
	}
	found, next, err := c.page(req, r.Header.Get("ContinuationToken"))
	if errors.Is(err, errRequest) {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if len(found) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	var data []object
	for _, p := range found {
		data = append(data, p.result(minor))
	}
	o := object{"Data": data, "RequiredPackageMatchFields": []string{}, "UnsupportedPackageMatchFields": []string{}}
	if next != "" {
		o["ContinuationToken"] = next
	}
	answer(w, r, http.StatusOK, o)
}

// manifest answers 204 where there is no such package or version: every client
// takes that for "none", as the reference server sends it; a 404 only newer
// ones do.
func (h *handler) manifest(w http.ResponseWriter, r *http.Request) {
	minor, ok := contract(r.Header.Get("Version"))
	if !ok {
		refuse(w, http.StatusBadRequest, "unknown contract version")
		return
	}
	c := h.catalogue(w, r)
	if c == nil {
		return
	}
	id, want, channel := r.PathValue("id"), "", ""
	for k, v := range r.URL.Query() {
		switch strings.ToLower(k) {
		case "version":
			want = v[0]
		case "channel":
			channel = v[0]
		}
	}
	if channel == "" { // packages here have no channels
		for _, p := range c.packages {
			if !strings.EqualFold(p.id, id) {
				continue
			}
			base := feed.Asked(r, h.sv.Base)
			if o := p.manifest(c, minor, base, func(v *version) bool { return want == "" || strings.EqualFold(v.Version, want) }); o != nil {
				answer(w, r, http.StatusOK, o)
				return
			}
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) installer(w http.ResponseWriter, r *http.Request) {
	c := h.catalogue(w, r)
	if c == nil {
		return
	}
	at, ok := c.files[strings.ToLower(r.PathValue("sha256"))]
	if !ok {
		refuse(w, http.StatusNotFound, "no such file is published")
		return
	}
	feed.ServeArtifact(w, r, at.view.Content, at.at)
}
