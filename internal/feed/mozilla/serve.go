package mozilla

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Handler implements feed.Feed. Terminals ask as they ask the vendor, by the
// address that the policy AppUpdateURL gives them:
//
//	/update/6/PRODUCT/VERSION/BUILD_ID/BUILD_TARGET/LOCALE/CHANNEL/…/update.xml
//
// What is answered is computed from the question and the ring's index; files
// lie below the release tree's own names. A question that no stream fits is
// answered with "no update", as by the vendor.
func (f *updates) Handler(s feed.Serving) (http.Handler, error) {
	v := &server{Serving: s, rings: map[string]ring{}}
	for _, name := range feed.Rings() {
		view, ok := s.View(name)
		if !ok {
			continue
		}
		x, err := readIndex(view)
		if err != nil {
			return nil, err
		}
		v.rings[name] = ring{view, x}
	}
	return v, nil
}

type server struct {
	feed.Serving
	rings map[string]ring
}

// ring is one ring's publication.
type ring struct {
	view feed.View
	x    *index
}

const (
	maxPath    = 2048
	updatePath = "/update/6/"
)

func (v *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at, ok := v.rings[v.Ring(r)]
	switch {
	case !ok:
		http.Error(w, "nothing published yet", http.StatusServiceUnavailable)
	case len(r.URL.Path) > maxPath:
		http.NotFound(w, r)
	case strings.HasPrefix(r.URL.Path, updatePath):
		v.update(w, r, at)
	case r.URL.Path == "/"+indexPath:
		http.NotFound(w, r) // ours alone
	default:
		feed.ServeFile(w, r, at.view, strings.TrimPrefix(r.URL.Path, "/"))
	}
}

// question is what a terminal says of itself.
type question struct {
	product, version, build, target, locale, channel, system string
}

// parseQuestion reads the part of a path behind updatePath. Whatever follows
// the channel may be missing or more than we know, but for the last name.
func parseQuestion(p string) (question, bool) {
	rest, ok := strings.CutSuffix(p, "/update.xml")
	if !ok {
		return question{}, false
	}
	parts := strings.SplitN(rest, "/", 8)
	if len(parts) < 6 {
		return question{}, false
	}
	for _, s := range parts[:6] {
		if s == "" || len(s) > 64 {
			return question{}, false
		}
	}
	q := question{product: parts[0], version: parts[1], build: parts[2], target: parts[3], locale: parts[4], channel: parts[5]}
	if len(parts) > 6 {
		q.system = parts[6]
	}
	return q, len(q.version) <= maxVersionText
}

var pinForm = regexp.MustCompile(`^[1-9][0-9]{0,3}\.([0-9]{1,4}\.)?$`)

func (v *server) update(w http.ResponseWriter, r *http.Request, at ring) {
	q, ok := parseQuestion(strings.TrimPrefix(r.URL.Path, updatePath))
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	pin := r.URL.Query().Get("pin")
	if pin != "" && !pinForm.MatchString(pin) {
		http.Error(w, "pin is not of the form 140.", http.StatusBadRequest)
		return
	}
	s, carried := at.stream(q)
	body := []byte(noUpdate)
	if carried {
		body = at.answer(s, q.version, q.build, pin, v.reached(r))
		v.note(r, at, s, q)
	}
	h := w.Header()
	h.Set("Content-Type", "text/xml; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // an error is the terminal's
	}
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9.:\[\]-]{1,255}$`)

// reached is this feed as the terminal reaches it: files are where the question went.
func (v *server) reached(r *http.Request) *url.URL {
	if r.Host == v.Base.Host || !hostForm.MatchString(r.Host) {
		return v.Base
	}
	u := *v.Base
	u.Scheme, u.Host = "http", r.Host
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return &u
}

// stream finds the stream of a terminal.
func (at ring) stream(q question) (stream, bool) {
	x := at.x
	if q.channel != x.Channel || q.product != products[x.Product].name {
		return stream{}, false
	}
	return x.find(platformOf(q.target), q.locale)
}

// held reports whether the ring has a file.
func (at ring) held(p string) (feed.Artifact, bool) {
	if _, withheld := at.view.Withheld[p]; withheld {
		return feed.Artifact{}, false
	}
	return at.view.Lookup(p)
}

const noUpdate = "<?xml version=\"1.0\"?>\n<updates>\n</updates>\n"

// answer is update.xml for a terminal: the complete file of what comes next,
// and the partial one that was made for exactly its build. Without the complete
// file nothing is offered: it is what a terminal falls back to.
func (at ring) answer(s stream, version, build, pin string, base *url.URL) []byte {
	to := s.next(version, build, pin)
	if to == nil {
		return []byte(noUpdate)
	}
	full, ok := at.held(at.x.complete(s, to.Version))
	if !ok {
		return []byte(noUpdate)
	}
	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\"?>\n<updates>\n")
	fmt.Fprintf(&b, " <update type=\"%s\" displayVersion=\"%s\" appVersion=\"%s\" platformVersion=\"%[3]s\" buildID=\"%s\">\n", to.Type, at.x.dir(to.Version), to.Version, to.Build)
	writePatch(&b, "complete", full, base)
	if from, known := s.from(version); known && (from.Build == "" || from.Build == build) {
		if a, ok := at.held(at.x.partial(s, from.Version, to.Version)); ok {
			writePatch(&b, "partial", a, base)
		}
	}
	b.WriteString(" </update>\n</updates>\n")
	return b.Bytes()
}

// from is what is known of a terminal's own version.
func (s stream) from(version string) (asked, bool) {
	for _, a := range s.Asked {
		if a.Version == version {
			return a, true
		}
	}
	return asked{}, false
}

func writePatch(b *bytes.Buffer, kind string, a feed.Artifact, base *url.URL) {
	fmt.Fprintf(b, "  <patch type=\"%s\" URL=\"", kind)
	_ = xml.EscapeText(b, []byte(address(base, a.Path))) // a buffer does not fail
	fmt.Fprintf(b, "\" hashFunction=\"sha256\" hashValue=\"%s\" size=\"%d\"/>\n", a.Digest.Hex(), a.Size)
}

// address is where terminals find a file.
func address(base *url.URL, p string) string {
	return strings.TrimSuffix(base.String(), "/") + "/" + escaped(p)
}

// escaped is a path as it stands in an address.
func escaped(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return strings.Join(parts, "/")
}

// note tells the ledger which version a terminal has: the question is the only
// report that this protocol has, and an address the only name of a terminal.
func (v *server) note(r *http.Request, at ring, s stream, q question) {
	id := r.RemoteAddr
	if host, _, err := net.SplitHostPort(id); err == nil {
		id = host
	}
	now := time.Now().UTC()
	v.Ledger.Saw(feed.Sighting{Time: now, Feed: v.Feed, Terminal: id, Event: "asked", Path: at.x.root(q.version), Version: q.version})
	newest := s.newest()
	if newest == nil {
		return
	}
	stands := feed.StateInstalled
	if compare(q.version, newest.Version) < 0 {
		stands = feed.StateNeeded
	}
	v.Ledger.Change(v.Feed, id, func(t *feed.Terminal) {
		if t.Registered.IsZero() {
			t.Registered = now
		}
		t.Contact, t.System, t.Model = now, clip(q.system), products[at.x.Product].name+" "+q.version
		t.Stands(map[string]feed.State{at.x.dir(newest.Version): stands}, now)
	})
}

// clip bounds what a terminal says of its system.
func clip(s string) string {
	if len(s) > 100 {
		s = s[:100]
	}
	return strings.ToValidUTF8(s, "?")
}
