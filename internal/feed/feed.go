// Package feed is the contract between the engines and the vendors.
//
// A feed is one configured stream of updates ("debian-security"); its kind is
// the system it speaks ("apt"). The engines (fetcher, verifier, packager,
// mirror) know no vendor. A kind knows one: how to fetch a consistent state,
// how to prove it from its bytes alone, and how to answer terminals as the
// vendor's servers would. This package imports nothing of ours.
//
// What a kind may rely on, and must keep:
//
//   - Fetch gets everything through Upstream and Sink. It keeps no state of
//     its own between runs: what it needs to know is in prev.
//   - Verify is a pure function of the snapshot and Trust. It runs outside
//     after the fetch and again inside before anything is published.
//   - Handler gets a fixed View per publication; a new publication makes a new
//     handler. It serves vendor metadata that clients check byte for byte.
package feed

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Feed is one vendor's update system, configured.
type Feed interface {
	// Fetch brings the upstream state into dst, and returns the vendor's own
	// mark of that state. ErrUnchanged if prev still holds (prev is nil at
	// first); ErrUpstream if the vendor's index cannot be read. All that Add
	// named before an error is forgotten; blobs already loaded are kept.
	Fetch(ctx context.Context, up Upstream, prev Content, dst Sink) (state string, err error)
	// Verify proves the snapshot from its own bytes: no network, no clock but
	// trust.At. ErrUntrusted refuses the snapshot; a fault of one artifact that
	// has a Group of its own is told by Evidence.Refused and withholds that
	// group alone.
	Verify(ctx context.Context, c Content, trust Trust, out Proof) error
	// Handler answers terminals as the vendor's servers would. Paths arrive
	// with the feed's mount point already removed and begin with a slash.
	Handler(s Serving) (http.Handler, error)
}

// Kind makes feeds of one vendor's system. The kinds of a build are listed in
// one table (internal/feed/all).
type Kind struct {
	Name    string                     // folder name = the config's kind = Header.Kind
	Title   Text                       // one line: what it carries
	Config  func() any                 // a new config struct holding its defaults; fields carry `toml` and `doc` tags
	New     func(Decode) (Feed, error) // no I/O; ErrConfig for a bad value
	Floors  map[Class]Strength         // least strength per class; config can raise, never lower
	Anchors []Anchor                   // vendor keys and roots pinned in this build
	Terms   Terms                      // what the vendor attaches; none for most
	Prefer  Class                      // decides how long snapshots wait for a ring: definitions wait hours, the rest days
}

// Decode fills a kind's config struct from its feed's block. It is strict: an
// unknown key is an error that names file, table and key.
type Decode func(into any) error

// Text is a sentence in both languages of the product.
type Text struct{ JA, EN string }

// In returns the text in the language "ja" or "en"; Japanese comes first.
func (t Text) In(lang string) string {
	if lang == "en" && t.EN != "" {
		return t.EN
	}
	return t.JA
}

// Request asks one vendor server for one thing.
type Request struct {
	URL      string
	Method   string // "" is GET; POST has a Body
	Header   http.Header
	Body     []byte
	Limit    int64  // most bytes of answer to read; required
	Roots    []byte // DER: one more root that this vendor's own servers may lead to
	ETag     string // with either of these a 304 comes back as Response.Unchanged
	Modified string
}

// Response is a whole, capped answer of status 200, 206 or 304. Any other
// status is an error from Do.
type Response struct {
	Status    int
	Header    http.Header
	Body      []byte
	Unchanged bool // 304
	Origin    Origin
}

// Upstream is a feed's only way out. It dials the hosts its feed declares
// (Reacher) and the config allows, nothing else.
type Upstream interface {
	// Do performs a small request: indexes, SOAP. Retries, proxy, limits and
	// cool-downs are the engine's. Errors: ErrTransient, ErrUpstream (over
	// Limit), ErrHeld (the host is not allowed), StatusError within.
	Do(ctx context.Context, r Request) (*Response, error)
	// Dir opens the directory that the feed's config names (dirs.NAME).
	Dir(name string) (fs.FS, error)
}

// StatusError is an HTTP status that a kind may want to know (404, 410).
type StatusError struct {
	URL    string
	Status int
	Body   []byte // of a 500 to a POST, at most 64 KiB: a SOAP fault (SOAP 1.1 §6.2)
}

func (e *StatusError) Error() string { return http.StatusText(e.Status) + ": " + e.URL }

// Want is what the caller knows of a download beforehand.
type Want struct {
	Digest Digest // if known, the bytes must have it, and nothing is fetched when the store has it
	Size   int64  // if > 0, the exact length
	SHA1   string // if known, hex of either case, checked besides
}

// Sink receives a feed's artifacts during one fetch.
type Sink interface {
	// Load downloads r into the store: skipped when the store has
	// Want.Digest, resumed after a cut or a crash. ErrUntrusted if the bytes
	// are not as wanted after a fresh try.
	Load(ctx context.Context, r Request, want Want) (Blob, error)
	// Put stores r's bytes; name says where they came from ("dir:spool/main.cvd").
	Put(ctx context.Context, name string, r io.Reader) (Blob, error)
	// Add names a blob, loaded in this run or held by prev. Digest, Path and
	// Class are required; Size is filled in.
	Add(a Artifact) error
}

// Blob is stored content; reading it needs no close.
type Blob interface {
	io.ReaderAt
	Size() int64
	Digest() Digest
}

// Content is one snapshot with its blobs. Open returns files that are also
// io.ReaderAt and io.Seeker and whose ModTime is the time of import here.
type Content interface {
	fs.FS
	Header() Header
	Artifacts() iter.Seq2[Artifact, error] // by path
	Lookup(path string) (Artifact, bool)
}

// Proof takes what Verify finds.
type Proof interface {
	// Evidence records one reason. A link's Via must have been proved before.
	Evidence(Evidence) error
	// Once runs a costly check of one blob, unless its verdict is remembered
	// (by digest, method and trust epoch). f's evidence need not name Path,
	// Subject or Method. If f's error is ErrUntrusted and the artifact has a
	// Group, the refusal is recorded and Once returns nil.
	Once(a Artifact, method string, f func(r io.ReaderAt, size int64) (Evidence, error)) error
	// Mark states the snapshot's place in one of the vendor's own orders. The
	// engine returns ErrRollback for a step back that no order allows.
	Mark(stream string, order int64) error
}

// View is what one ring sees of a feed.
type View struct {
	Content
	Older     []Content         // earlier publications still reachable, newest first
	Withheld  map[string]string // artifact path → reason: answered as absent
	Decisions []Decision        // approvals per group, for kinds whose protocol has them
	Rules     OutsideRules      // for Decide alone
	Derived   fs.FS             // what Deriver built for this snapshot; nil without one
	Number    uint64            // generation
	Published time.Time
}

// Serving is what a handler may use. New fields never break a kind.
type Serving struct {
	Feed   string
	View   func(ring string) (View, bool) // "test", "pilot", "all"; false: nothing published for it yet
	Ring   func(*http.Request) string     // by address, then Host
	Ledger Ledger
	Peer   func(feed, ring string) (Peer, error) // only feeds named in this feed's config
	Base   *url.URL                              // how terminals reach this feed, with its mount point
	Secret []byte                                // 32 bytes for cookies: this server's and this feed's own, the same after a restart
	Log    *slog.Logger
}

// Ledger takes what terminals report and keeps a record of each. Nothing here
// is a condition for serving: writes are batched and may be lost with the
// machine.
type Ledger interface {
	Saw(Sighting)
	// Change hands out the record of a terminal to be changed in place; a new
	// one has its Feed and ID. The record is bounded: see mirror.
	Change(feed, id string, f func(*Terminal))
}

// Sighting is one thing a terminal did or said.
type Sighting struct {
	Time     time.Time `json:"time"`
	Feed     string    `json:"feed"`
	Terminal string    `json:"terminal"`          // protocol id, else address
	Name     string    `json:"name,omitempty"`    // host name, only where the protocol reports it
	Event    string    `json:"event"`             // "asked", "took", "installed", …
	Path     string    `json:"path,omitempty"`    // artifact
	Version  string    `json:"version,omitempty"` // what it has or took
}

// The optional abilities follow; engines find them by type assertion.

// Reacher lists the URLs a feed may ask, so that the host allow-list and the
// permission request to the security cloud need no second list.
type Reacher interface{ Reaches() []string }

// Named is a feed whose configuration names the vendor keys it may believe.
type Named interface{ AnchorNames() []string }

// KnowsAnchors refuses a configuration that names a key which neither this build
// nor an order has: nothing could be verified, and that would look like forgery.
func (s Setup) KnowsAnchors(orders []Order, now time.Time) error {
	n, ok := s.Feed.(Named)
	if !ok {
		return nil
	}
	var known []string
	for _, a := range s.Kind.Anchors {
		known = append(known, a.Name)
	}
	for _, o := range orders {
		if o.Kind == OrderTrust && o.Anchor != nil && (o.Feed == "" || o.Feed == s.Name) && o.InForce(now) {
			known = append(known, o.Anchor.Name)
		}
	}
	for _, name := range n.AnchorNames() {
		if !slices.Contains(known, name) {
			return NewFault(fmt.Errorf("feed %s: no key %q: %w", s.Name, name, ErrConfig), "H-225", "feed", s.Name, "name", name, "known", strings.Join(known, ", "))
		}
	}
	return nil
}

// Freshness dates a snapshot by the vendor's own release time: a feed that
// still carries but whose vendor is stuck must turn red.
type Freshness interface {
	Released(c Content) (released time.Time, version string)
	// Stale gives the ages at which the feed is yellow and red.
	Stale() (yellow, red time.Duration)
}

// Setting is one thing to put on a terminal.
type Setting struct {
	Title Text
	File  string // where it goes on the terminal
	Body  string // what to put there
	Note  Text   // why, and what it does not do
}

// ClientSettings prints what a terminal needs to be pointed here.
type ClientSettings interface {
	Settings(c Content, base *url.URL) ([]Setting, error)
}

// Prober acts as a terminal against the running server: do is the command's
// HTTP client. It returns what it learnt, one line each.
type Prober interface {
	Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c Content, base *url.URL) ([]string, error)
}

// Deriver builds, at publish and on the write path, files that Handler opens
// instead of computing them at start (the wsus index).
type Deriver interface {
	// Derives names the files that Derive writes; names change with their
	// format. A folder without one of them is of another program and is built anew.
	Derives() []string
	Derive(ctx context.Context, c Content, prev fs.FS, out func(name string, r io.Reader) error) error
}

// Peers names the feeds whose content this one needs.
type Peers interface{ Peers() []string }
