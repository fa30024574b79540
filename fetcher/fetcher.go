// Package fetcher brings vendors' updates to the outside: it runs each feed's
// Fetch, downloads what it asks for, has the result verified, and makes it the
// feed's accepted snapshot or puts it into quarantine.
//
// It is the only outside code that dials (upstream.go). What it promises:
//
//   - One vendor's failure never stops another's.
//   - What is whole is never fetched twice: blobs are content-addressed,
//     downloads resume by Range after a cut, a crash or a restart.
//   - A vendor is not hammered: waits that it asks for are kept in the state
//     and hold across restarts; concurrency and rate are per host, not per feed.
//   - Nothing is asked of a host that neither a feed nor the config names.
package fetcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Options is what a Fetcher works with. Data, DB, Store and Verify are required.
type Options struct {
	Data    state.Dir
	DB      *state.DB
	Store   *cas.Store
	Network Network

	// Verify judges a committed snapshot and writes its evidence. prev is what
	// the feed's last accepted state was. An error of class ErrUntrusted,
	// ErrHeld, ErrUpstream or ErrDamaged refuses the snapshot; any other leaves
	// it for the next run.
	Verify func(ctx context.Context, s feed.Setup, c feed.Content, prev state.FeedState) (Verdict, error)

	Clock    func() time.Time // nil is time.Now
	Log      *slog.Logger     // nil is silent
	Progress func(Event)      // nil is none; called from several goroutines
	Parallel int              // feeds at a time in RunAll and Schedule; 0 is 4
	Quiet    Quiet            // no scheduled run begins in these hours
	Who      string           // for the audit log; empty is the OS account
}

// Verdict is what a verification found of an accepted snapshot.
type Verdict struct {
	Marks    map[string]int64
	Withheld map[string]string // artifact path → reason
	Weakest  feed.Strength
}

// Quiet is a daily span of Japanese time, as offsets from midnight. From may
// be after To (over midnight). Equal values mean none.
type Quiet struct{ From, To time.Duration }

// Event tells how a run goes on.
type Event struct {
	Feed  string
	Stage string // "tool", "fetch", "load", "verify", "wait"
	Name  string // load: the URL without credentials; wait: the host
	Done  int64  // load: bytes so far
	Total int64  // load: bytes in all, 0 if unknown
	Until time.Time
}

// Result is what one run of one feed did.
type Result struct {
	Feed      string
	Serial    uint64 // of the accepted snapshot, new or old
	ID        feed.Digest
	Unchanged bool
	Artifacts int
	Withheld  int
	Requests  int64 // sent, with retries
	Bytes     int64 // of bodies received
	Began     time.Time
	Took      time.Duration
	Err       error
}

// Fetcher runs feeds. Safe for concurrent use.
type Fetcher struct {
	Options
	up      *upstream
	metrics *metrics
	slots   chan struct{}
	loads   keyed
}

// New checks the options; it dials nothing.
func New(o Options) (*Fetcher, error) {
	if o.Data == "" || o.DB == nil || o.Store == nil || o.Verify == nil {
		return nil, errors.New("fetcher: Data, DB, Store and Verify are required")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	o.Parallel = cmp.Or(max(o.Parallel, 0), 4)
	if o.Who == "" {
		o.Who = account()
	}
	m := newMetrics()
	f := &Fetcher{Options: o, metrics: m, slots: make(chan struct{}, o.Parallel)}
	var err error
	if f.up, err = newUpstream(o.Network, o.DB, o.Clock, m); err != nil {
		return nil, f.misconfigured(err)
	}
	return f, nil
}

// misconfigured is an error that a change of the configuration mends.
func (f *Fetcher) misconfigured(err error) error {
	return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrConfig), "H-202", "file", f.Data.Config(), "detail", err.Error())
}

func account() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

// Close drops idle connections. The Fetcher stays usable.
func (f *Fetcher) Close() { f.up.closeIdle() }

// RunAll runs each feed once, Options.Parallel at a time. The results are in
// the order of setups; each feed's error is its own.
func (f *Fetcher) RunAll(ctx context.Context, setups []feed.Setup) []Result {
	out := make([]Result, len(setups))
	var wg sync.WaitGroup
	for i, s := range setups {
		wg.Go(func() {
			if err := f.acquire(ctx); err != nil {
				out[i] = Result{Feed: s.Name, Err: err}
				return
			}
			defer f.release()
			out[i], _ = f.Run(ctx, s)
		})
	}
	wg.Wait()
	return out
}

func (f *Fetcher) acquire(ctx context.Context) error {
	select {
	case f.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fetcher) release() { <-f.slots }

// Permission is one line of the request to whoever runs the firewall: this
// feed needs this host on this port.
type Permission struct {
	Host string // may begin with "*."
	Port string
	Feed string
}

// Hosts lists what the feeds may ask for, by host, port and feed. A feed that
// does not say what it reaches (a drop directory) needs nothing.
func Hosts(setups []feed.Setup) []Permission {
	var out []Permission
	for _, s := range setups {
		r, ok := s.Feed.(feed.Reacher)
		if !ok {
			continue
		}
		for _, raw := range r.Reaches() {
			u, err := url.Parse(raw)
			if err != nil || u.Hostname() == "" {
				continue
			}
			out = append(out, Permission{strings.ToLower(u.Hostname()), port(u), s.Name})
		}
	}
	slices.SortFunc(out, func(a, b Permission) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Feed, b.Feed))
	})
	return slices.Compact(out)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// allowed reports whether a feed may ask u: a host and port that it names
// itself, or a host (any port; "host:port" for one port) of Network.Allow.
// "*." matches any number of labels.
func (f *Fetcher) allowed(perms []Permission, u *url.URL) bool {
	host, p := strings.ToLower(u.Hostname()), port(u)
	for _, a := range perms {
		if matchHost(a.Host, host) && a.Port == p {
			return true
		}
	}
	for _, a := range f.Network.Allow {
		h, ap, has := strings.Cut(strings.ToLower(a), ":")
		if matchHost(h, host) && (has && ap == p || !has && (p == "80" || p == "443")) {
			return true
		}
	}
	return false
}

func matchHost(pattern, host string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok && strings.HasPrefix(suffix, ".") {
		return strings.HasSuffix(host, suffix) && len(host) > len(suffix)
	}
	return pattern == host
}

// redact is a URL as it may be shown and kept: no user, password or fragment.
func redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Sprintf("unreadable URL of %d bytes", len(raw))
	}
	u.User, u.Fragment = nil, ""
	if len(u.String()) > 4000 {
		u.RawQuery = ""
	}
	return u.String()
}
