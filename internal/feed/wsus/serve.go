package wsus

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// server answers terminals from what is published at one moment.
type server struct {
	feed.Serving
	conf  *updates
	seal  *sealer
	rings map[string]*ringView
	epoch epoch

	terminals, servers gate

	mu     sync.Mutex
	scopes map[string]*scope
}

// ringView is one ring's publication, opened.
type ringView struct {
	*catalog
	fragments io.ReaderAt
}

// Handler implements feed.Feed.
func (f *updates) Handler(s feed.Serving) (http.Handler, error) {
	seal, err := newSealer(s.Secret, s.Feed)
	if err != nil {
		return nil, fmt.Errorf("wsus: secret for cookies: %w", err)
	}
	v := &server{Serving: s, conf: f, seal: seal, rings: map[string]*ringView{}, scopes: map[string]*scope{}, terminals: newGate(terminalsAtOnce, terminalsQueued), servers: newGate(serversAtOnce, serversQueued)}
	indexes := map[uint64]*index{}
	for _, ring := range feed.Rings() {
		view, ok := s.View(ring)
		if !ok {
			continue
		}
		if v.rings[ring], err = openRing(view, indexes); err != nil {
			return nil, err
		}
		v.epoch = v.rings[ring].Epoch // of the last ring, which is the oldest publication
	}
	return v, nil
}

func openRing(view feed.View, indexes map[uint64]*index) (*ringView, error) {
	serial := view.Header().Serial
	x, ok := indexes[serial]
	if !ok {
		var err error
		if x, err = openIndex(view.Derived); err != nil {
			return nil, err
		}
		indexes[serial] = x
	}
	r, err := openFragments(view.Derived)
	if err != nil {
		return nil, err
	}
	return &ringView{newCatalog(x, view), r}, nil
}

func openFragments(derived fs.FS) (io.ReaderAt, error) {
	f, err := derived.Open(fragmentsName)
	if err != nil {
		return nil, fmt.Errorf("wsus fragments: %w", err)
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return nil, fmt.Errorf("wsus fragments: no random access: %w", feed.ErrDamaged)
	}
	return r, nil
}

// fragment reads one fragment, escaped.
func (v *ringView) fragment(at span) ([]byte, error) {
	b := make([]byte, at.Len)
	if _, err := v.fragments.ReadAt(b, at.Off); err != nil {
		return nil, fmt.Errorf("wsus fragments: %w", err)
	}
	return b, nil
}

// Paths, in lower case: clients differ.
const (
	pathClient    = "/clientwebservice/client.asmx"
	pathAuth      = "/simpleauthwebservice/simpleauth.asmx"
	pathReporting = "/reportingwebservice/reportingwebservice.asmx"
	pathContent   = "/content/"
)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := strings.ToLower(r.URL.Path)
	if len(s.rings) == 0 {
		http.Error(w, "nothing published yet", http.StatusServiceUnavailable)
		return
	}
	switch {
	case strings.HasPrefix(p, pathContent):
		s.content(w, r)
	case p == pathClient:
		s.call(w, r, nsClient, clientOperations)
	case p == pathAuth:
		s.call(w, r, nsAuth, authOperations)
	case p == pathServerLower:
		s.call(w, r, nsServer, serverOperations)
	case p == pathDssLower:
		s.call(w, r, nsDssAuth, dssOperations)
	case p == pathReporting:
		s.call(w, r, nsReporting, reportOperations)
	default: // /SelfUpdate/ too: only Microsoft could sign what is asked for there
		http.NotFound(w, r)
	}
}

// operation answers one call: it writes what stands in its response element.
type operation func(s *server, c *call) error

// call is one request and its answer.
type call struct {
	*request
	http *http.Request
	answer
	leave func() // the gate; nil outside
}

// enter takes a place at a gate until the operation has its answer.
func (c *call) enter(g gate) (err error) {
	if c.leave == nil {
		c.leave, err = g.enter(c.http.Context())
	}
	return err
}

func (s *server) call(w http.ResponseWriter, r *http.Request, namespace string, table map[string]operation) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	req, err := decode(http.MaxBytesReader(w, r.Body, maxRequest), namespace)
	if err != nil {
		http.Error(w, "not a SOAP request", http.StatusBadRequest)
		return
	}
	op, ok := table[req.op]
	if !ok {
		sendFault(w, "", namespace, &fault{"InvalidParameters", "operation"})
		return
	}
	c := &call{request: req, http: r}
	err = s.operate(c, op)
	var f *fault
	var large *http.MaxBytesError
	switch {
	case err == nil:
		send(w, req.op, namespace, c.Bytes())
	case errors.As(err, &f):
		sendFault(w, req.op, namespace, f)
	case errors.Is(err, errSOAP) && !errors.As(err, &large):
		http.Error(w, "not a SOAP request", http.StatusBadRequest)
	case errors.As(err, &large):
		http.Error(w, "request too large", http.StatusRequestEntityTooLarge)
	case errors.Is(err, context.Canceled): // it waited for a place and went away
	default:
		s.Log.Error("wsus call", "operation", req.op, "error", err)
		sendFault(w, req.op, namespace, &fault{"InternalServerError", "InternalServerError"})
	}
}

// operate runs an operation; its place at a gate is free again before the
// answer is sent, whatever happens.
func (s *server) operate(c *call, op operation) error {
	defer func() {
		if c.leave != nil {
			c.leave()
		}
	}()
	return op(s, c)
}

// content answers a payload by its canonical path. Requests for content carry
// no cookie, so whatever any ring sees may be had.
func (s *server) content(w http.ResponseWriter, r *http.Request) {
	e := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if len(e) != 3 {
		http.NotFound(w, r)
		return
	}
	sum, ext, _ := strings.Cut(e[2], ".")
	p := "Content/" + strings.ToUpper(e[1]) + "/" + strings.ToUpper(sum) + "." + strings.ToLower(ext)
	for _, ring := range feed.Rings() {
		v, ok := s.rings[ring]
		if ok && v.here(p) {
			feed.ServeFile(w, r, v.view, p)
			return
		}
	}
	if v, ok := s.View(s.Ring(r)); ok { // older publications
		feed.ServeFile(w, r, v, p)
		return
	}
	http.NotFound(w, r)
}

// cookieFields collects a Cookie element.
type cookieFields struct{ sealed []byte }

// take reads "…/EncryptedData"; the rest of a cookie is for the terminal.
func (f *cookieFields) take(path, text string) error {
	if !strings.HasSuffix(path, "/EncryptedData") {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) > maxCookie {
		return &fault{"InvalidCookie", "InvalidCookie"}
	}
	f.sealed = b
	return nil
}

// session opens the cookie of a call and finds what its terminal sees.
func (s *server) session(c *call, f cookieFields) (cookie, *ringView, *scope, error) {
	k, err := s.seal.open(f.sealed)
	switch {
	case err != nil || k.use != cookieSession:
		return k, nil, nil, &fault{"InvalidCookie", "InvalidCookie"}
	case s.conf.now().After(k.expires):
		return k, nil, nil, &fault{"CookieExpired", "CookieExpired"}
	}
	ring := s.ringOf(c.http, k.group)
	v, ok := s.rings[ring]
	if !ok {
		return k, nil, nil, &fault{codeBusy, "nothing published"}
	}
	if k.epoch != v.Epoch {
		return k, nil, nil, &fault{"ServerChanged", "ServerChanged"}
	}
	if err := c.enter(s.terminals); err != nil {
		return k, nil, nil, err
	}
	return k, v, s.scope(v, ring, k.group), nil
}

// ringOf is a terminal's ring: by its target group, if the config knows that,
// else by address. A ring without a publication of its own sees a later one's.
func (s *server) ringOf(r *http.Request, group string) string {
	ring := s.Ring(r)
	if named, ok := s.conf.rings[strings.ToLower(group)]; ok {
		ring = named
	}
	return ring
}

// maxScopes bounds what is remembered; decisions name few groups.
const maxScopes = 256

func (s *server) scope(v *ringView, ring, group string) *scope {
	key := ring
	if group = strings.ToLower(group); v.groups[group] { // decisions name it: a scope of its own
		key += "\x00" + group
	}
	now := s.conf.now()
	turn, _ := slices.BinarySearchFunc(v.turns, now, func(t, now time.Time) int {
		if t.After(now) {
			return 1
		}
		return -1
	})
	key += "\x00" + strconv.Itoa(turn) // a wait that ends makes another scope
	s.mu.Lock()
	defer s.mu.Unlock()
	sc, ok := s.scopes[key]
	if !ok {
		if len(s.scopes) >= maxScopes {
			clear(s.scopes)
		}
		sc = v.catalog.scope(ring, group, now)
		s.scopes[key] = sc
	}
	return sc
}

// putCookie writes a Cookie element.
func (s *server) putCookie(a *answer, tag string, k cookie) {
	a.begin(tag)
	s.cookieBody(a, k)
	a.end(1)
}

func (s *server) cookieBody(a *answer, k cookie) {
	a.put("Expiration", stamp(k.expires))
	a.put("EncryptedData", base64.StdEncoding.EncodeToString(s.seal.seal(k)))
}

// location is a file's URL as the terminal reaches us.
func (s *server) location(r *http.Request, f payloadFile) string {
	scheme, host, base := "http", r.Host, "/"
	if r.TLS != nil {
		scheme = "https"
	}
	if s.Base != nil {
		base = s.Base.Path
		if host == "" {
			host = s.Base.Host
		}
	}
	return scheme + "://" + host + strings.TrimSuffix(base, "/") + "/" + f.Path
}

// lastChange is when the answers to GetConfig last changed: with this program.
var lastChange = time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
