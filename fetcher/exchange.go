package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
)

// run is one run of one feed: its feed.Upstream and its feed.Sink.
type run struct {
	f     *Fetcher
	setup feed.Setup
	perms []Permission
	prev  *cas.Snapshot // nil at first

	requests, bytes atomic.Int64

	mu      sync.Mutex
	builder *cas.Builder
	roots   map[string]*os.Root
	origins map[feed.Digest]feed.Origin // of this run's loads
	answers map[string]feed.Origin      // of this run's small requests, by URL
	asked   map[feed.Digest]string      // URL of loads that the store could answer
	byPrev  map[feed.Digest]feed.Origin // of prev, made when first needed
	journal *journal
}

var (
	_ feed.Upstream = (*run)(nil)
	_ feed.Sink     = (*run)(nil)
)

func (r *run) name() string { return r.setup.Name }

// Dir opens a configured spool or drop directory. Symbolic links that lead out
// of it are refused. It stays open for the run.
func (r *run) Dir(name string) (fs.FS, error) {
	dir, ok := r.setup.Dirs[name]
	if !ok {
		return nil, r.f.misconfigured(fmt.Errorf("feed %s: no directory dirs.%s", r.name(), name))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if root := r.roots[name]; root != nil {
		return root.FS(), nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, r.f.misconfigured(fmt.Errorf("feed %s: directory dirs.%s: %w", r.name(), name, err))
	}
	r.roots[name] = root
	return root.FS(), nil
}

func (r *run) close() {
	for _, root := range r.roots {
		root.Close()
	}
	r.builder.Discard()
	r.journal.close()
}

// ask is upstream.ask with this run's permissions and counters.
func (r *run) ask(ctx context.Context, req feed.Request) (*answer, error) {
	r.requests.Add(1)
	return r.f.up.ask(ctx, r.name(), func(u *url.URL) bool { return r.f.allowed(r.perms, u) }, req)
}

// Do performs a small request.
func (r *run) Do(ctx context.Context, req feed.Request) (*feed.Response, error) {
	if req.Limit <= 0 {
		return nil, fmt.Errorf("%s: request without a limit", redact(req.URL))
	}
	var res *feed.Response
	err := r.tries(ctx, req.URL, func() (bool, error) {
		var err error
		res, err = r.do(ctx, req)
		return false, err
	})
	return res, err
}

func (r *run) do(ctx context.Context, req feed.Request) (*feed.Response, error) {
	a, err := r.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	res := &feed.Response{Status: a.StatusCode, Header: a.Header, Origin: a.origin}
	switch a.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
	case http.StatusNotModified:
		if req.ETag == "" && req.Modified == "" {
			return nil, r.status(req, a)
		}
		res.Unchanged = true
		res.Origin.Fetched = r.f.Clock().UTC()
		return res, nil
	default:
		return nil, r.status(req, a)
	}
	if a.ContentLength > req.Limit {
		return nil, tooLong(r.name(), req, req.Limit)
	}
	res.Body, err = io.ReadAll(io.LimitReader(a.Body, req.Limit+1))
	r.bytes.Add(int64(len(res.Body)))
	if err != nil {
		return nil, r.cut(ctx, req, err)
	}
	if int64(len(res.Body)) > req.Limit {
		return nil, tooLong(r.name(), req, req.Limit)
	}
	if looksHTML(res.Body) && !wantsHTML(req) {
		return nil, r.page(req, a.StatusCode, a.device)
	}
	res.Origin.Fetched = r.f.Clock().UTC()
	if req.Method == "" || req.Method == http.MethodGet {
		r.mu.Lock()
		r.answers[redact(req.URL)] = res.Origin
		r.mu.Unlock()
	}
	return res, nil
}

func tooLong(feedName string, req feed.Request, limit int64) error {
	err := fmt.Errorf("%s: more than %d bytes: %w", redact(req.URL), limit, feed.ErrUpstream)
	return feed.NewFault(err, "H-401", "feed", feedName, "detail", err.Error())
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func (r *run) page(req feed.Request, status int, device string) error {
	return (&blocked{status: status, device: device, page: true}).fault(r.name(), hostOf(req.URL))
}

// cut is a body that ended early. The caller's own cancellation is no cut.
func (r *run) cut(ctx context.Context, req feed.Request, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &again{err: unreachable(r.name(), hostOf(req.URL), "cut", fmt.Errorf("%s: %w", redact(req.URL), err))}
}

// status makes the error of an answer that is not content.
func (r *run) status(req feed.Request, a *answer) error {
	host := a.Request.URL.Hostname()
	se := &feed.StatusError{URL: redact(req.URL), Status: a.StatusCode}
	up := r.f.up
	after, asked := retryAfter(a.Header, up.clock())
	switch s := a.StatusCode; {
	case s == http.StatusProxyAuthRequired, s == http.StatusUnavailableForLegalReasons,
		s == http.StatusNetworkAuthenticationRequired, s == http.StatusForbidden && a.middle:
		b := &blocked{status: s, device: a.device}
		return b.fault(r.name(), host)
	case s == http.StatusForbidden:
		return errors.Join(up.hosts.rest(r.name(), host, s, 0, "refused with 403 (Forbidden) by "+a.device), se)
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable && asked:
		err := feed.NewFault(fmt.Errorf("%w: %w", se, feed.ErrTransient), "H-303",
			"feed", r.name(), "host", host, "status", fmt.Sprint(s), "until", up.clock().Add(after).UTC().Format(time.RFC3339))
		if asked && after <= up.net.Timeouts.Patience {
			return &again{err: err, after: after}
		}
		if !asked {
			after = coolLimited
		}
		return errors.Join(up.hosts.rest(r.name(), host, s, after, fmt.Sprintf("asked with %d to wait", s)), se)
	case s == http.StatusInternalServerError && req.Method == http.MethodPost && !a.middle:
		// The vendor's program answers so; asking again would say the same.
		se.Body, _ = io.ReadAll(io.LimitReader(a.Body, 64<<10))
		return unreachable(r.name(), host, "status "+fmt.Sprint(s), se)
	case s == http.StatusRequestTimeout, s >= 500:
		return &again{err: unreachable(r.name(), host, "status "+fmt.Sprint(s), se)}
	}
	return fmt.Errorf("%w: %w", se, feed.ErrUpstream)
}

// tries repeats f while its error is worth it, with growing pauses. Progress
// starts the count anew: a line that is cut every minute still gets there.
func (r *run) tries(ctx context.Context, name string, f func() (progress bool, err error)) error {
	t := r.f.up.net.Timeouts
	wait := t.Backoff
	for n := 1; ; n++ {
		progress, err := f()
		ag, ok := errors.AsType[*again](err)
		if !ok {
			return err
		}
		if progress {
			n, wait = 0, t.Backoff
		} else if n >= t.Tries {
			return ag.err
		}
		d := wait + rand.N(wait/2+1)
		if ag.after > 0 {
			d = ag.after + rand.N(wait/2+1)
		}
		r.f.Log.Warn("upstream, trying again", "feed", r.name(), "url", redact(name), "err", ag.err, "wait", d)
		r.f.Progress(Event{Feed: r.name(), Stage: "wait", Name: hostOf(name), Until: r.f.Clock().Add(d)})
		if err := sleep(ctx, d); err != nil {
			return err
		}
		wait = min(2*wait, time.Minute)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
