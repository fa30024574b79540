package fetcher

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Network is how the outside reaches vendors.
type Network struct {
	Proxy       string   // "system" (environment; on Windows also the account's setting) or "", "none", or a URL
	ExtraRoots  [][]byte // PEM: roots of an inspecting proxy; what they vouch for is marked inspected
	Allow       []string // hosts beyond those the feeds name, such as a CDN behind a redirect: "host", "*.host", "host:port"
	PerHost     int      // requests at a time to one host, over all feeds; 0 is 2
	RatePerHost int64    // bytes a second from one host, over all feeds; 0 is no limit
	UserAgent   string   // honest: "Hashike/1.0"
	Timeouts    Timeouts
}

// Timeouts bound every wait. Zero values are the defaults in brackets.
type Timeouts struct {
	Connect  time.Duration // TCP, proxy and TLS each [30 s]
	Header   time.Duration // from the request to the answer's header [90 s]
	Stall    time.Duration // a body that brings nothing for so long is cut [60 s]
	Tool     time.Duration // a vendor's own tool [1 h]
	Backoff  time.Duration // before the second try; doubles, at most a minute [1 s]
	Tries    int           // without progress [4]
	Patience time.Duration // a Retry-After up to this is waited for within the run [30 s]
}

func (t *Timeouts) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&t.Connect, 30*time.Second)
	set(&t.Header, 90*time.Second)
	set(&t.Stall, time.Minute)
	set(&t.Tool, time.Hour)
	set(&t.Backoff, time.Second)
	set(&t.Patience, 30*time.Second)
	if t.Tries <= 0 {
		t.Tries = 4
	}
}

// maxHops is how many redirects one request follows.
const maxHops = 10

// upstream is the outside's only way out.
type upstream struct {
	http    *http.Client
	net     Network
	proxy   func(*url.URL) (*url.URL, error)
	extra   []*x509.Certificate
	hosts   *hosts
	metrics *metrics
	clock   func() time.Time

	mu    sync.Mutex
	other map[string]*http.Client // by Request.Roots
}

// client trusts the system's roots and the extra ones, and a request's own.
func (u *upstream) client(r feed.Request) (*http.Client, error) {
	if len(r.Roots) == 0 {
		return u.http, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if c, ok := u.other[string(r.Roots)]; ok {
		return c, nil
	}
	root, err := x509.ParseCertificate(r.Roots)
	if err != nil {
		return nil, fmt.Errorf("root of %s: %w: %w", redact(r.URL), err, feed.ErrConfig)
	}
	pool, err := u.pool()
	if err != nil {
		return nil, err
	}
	pool.AddCert(root)
	t := u.http.Transport.(*http.Transport).Clone()
	t.TLSClientConfig.RootCAs = pool
	c := &http.Client{CheckRedirect: u.http.CheckRedirect, Transport: t}
	if u.other == nil {
		u.other = map[string]*http.Client{}
	}
	u.other[string(r.Roots)] = c
	return c, nil
}

func (u *upstream) closeIdle() {
	u.http.CloseIdleConnections()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.other {
		c.CloseIdleConnections()
	}
}

// pool is the system's roots with the extra ones.
func (u *upstream) pool() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // Windows keeps its own, which Go asks besides
	}
	for _, c := range u.extra {
		pool.AddCert(c)
	}
	return pool, nil
}

func newUpstream(n Network, db *state.DB, clock func() time.Time, m *metrics) (*upstream, error) {
	n.Timeouts.defaults()
	if n.PerHost <= 0 {
		n.PerHost = 2
	}
	if n.UserAgent == "" {
		n.UserAgent = "Hashike"
	}
	if !httpguts.ValidHeaderFieldValue(n.UserAgent) {
		return nil, fmt.Errorf("user agent %q", n.UserAgent)
	}
	u := &upstream{net: n, hosts: newHosts(n, db, clock), metrics: m, clock: clock}
	var err error
	if u.proxy, err = proxyFunc(n.Proxy); err != nil {
		return nil, err
	}
	roots, err := u.roots()
	if err != nil {
		return nil, err
	}
	dial := &net.Dialer{Timeout: n.Timeouts.Connect, KeepAlive: 30 * time.Second}
	u.http = &http.Client{
		// Redirects are followed hop by hop in ask: each is a new question of permission.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  func(r *http.Request) (*url.URL, error) { return u.proxy(r.URL) },
			OnProxyConnectResponse: connectAnswer,
			DialContext:            dial.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    n.Timeouts.Connect,
			ResponseHeaderTimeout:  n.Timeouts.Header,
			MaxResponseHeaderBytes: 256 << 10,
			MaxIdleConnsPerHost:    n.PerHost,
			IdleConnTimeout:        90 * time.Second,
			DisableCompression:     true, // bytes as the vendor has them
			ForceAttemptHTTP2:      true,
		},
	}
	return u, nil
}

// roots is the system's pool and the extra roots. nil is the system's alone.
func (u *upstream) roots() (*x509.CertPool, error) {
	if len(u.net.ExtraRoots) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for i, b := range u.net.ExtraRoots {
		n := 0
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("network.extra_roots %d: %w", i+1, err)
			}
			pool.AddCert(c)
			u.extra = append(u.extra, c)
			n++
		}
		if n == 0 {
			return nil, fmt.Errorf("network.extra_roots %d: no PEM certificate", i+1)
		}
	}
	return pool, nil
}

// answer is one response whose body is rate-limited, watched for stalls and
// holds its host's slot until closed.
type answer struct {
	*http.Response
	origin feed.Origin
	device string // what stands between, if it names itself
	middle bool   // the answer may be a device's, not the vendor's
}

// ask sends one request and follows its redirects. Its errors are faults;
// those worth another try are wrapped in again.
func (u *upstream) ask(ctx context.Context, feedName string, allowed func(*url.URL) bool, r feed.Request) (*answer, error) {
	at, err := url.Parse(r.URL)
	if err != nil || (at.Scheme != "https" && at.Scheme != "http") || at.Hostname() == "" {
		return nil, fmt.Errorf("%s: not an http or https URL: %w", redact(r.URL), feed.ErrConfig)
	}
	origin := feed.Origin{URL: redact(r.URL)}
	header := r.Header.Clone()
	secure := true
	for hop := 0; hop <= maxHops; hop++ {
		if !allowed(at) {
			return nil, notAllowed(feedName, at, hop)
		}
		a, err := u.hop(ctx, feedName, at, header, r)
		if err != nil {
			return nil, err
		}
		secure = secure && a.TLS != nil
		origin.Peer, origin.Inspected = u.peer(a.TLS, origin.Inspected)
		next, err := u.redirect(feedName, a, at, r)
		if err != nil || next == nil {
			if !secure {
				origin.Peer = ""
			}
			a.origin = origin
			if err != nil {
				a.Body.Close()
				return nil, err
			}
			return a, nil
		}
		if !strings.EqualFold(next.Host, at.Host) {
			for _, h := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
				header.Del(h)
			}
		}
		at = next
	}
	return nil, fmt.Errorf("%s: more than %d redirects: %w", redact(r.URL), maxHops, feed.ErrUpstream)
}

func notAllowed(feedName string, at *url.URL, hop int) error {
	what := "is not among the feed's hosts"
	if hop > 0 {
		what = "is where a redirect leads, but not among the feed's hosts"
	}
	return feed.NewFault(fmt.Errorf("host %s %s: %w", at.Host, what, feed.ErrHeld),
		"H-612", "feed", feedName, "host", at.Hostname(), "port", port(at))
}

// hop sends one request to one host.
func (u *upstream) hop(ctx context.Context, feedName string, at *url.URL, header http.Header, r feed.Request) (*answer, error) {
	h := u.hosts.get(at.Hostname())
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	if err := u.hosts.cool(feedName, at.Hostname()); err != nil {
		h.release()
		return nil, err
	}
	own, cancel := context.WithCancelCause(ctx)
	req, err := u.request(own, at, header, r)
	if err != nil {
		cancel(nil)
		h.release()
		return nil, err
	}
	u.metrics.requests.WithLabelValues(feedName, at.Hostname()).Inc()
	client, err := u.client(r)
	if err != nil {
		cancel(nil)
		h.release()
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		cancel(nil)
		h.release()
		return nil, u.failure(ctx, feedName, at, err)
	}
	res.Body = newBody(own, cancel, res.Body, h, u.net.Timeouts.Stall)
	a := &answer{Response: res}
	a.device, a.middle = u.between(req, res)
	return a, nil
}

func (u *upstream) request(ctx context.Context, at *url.URL, header http.Header, r feed.Request) (*http.Request, error) {
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if len(r.Body) > 0 {
		body = strings.NewReader(string(r.Body))
	}
	clean := *at
	clean.Fragment = ""
	req, err := http.NewRequestWithContext(ctx, method, clean.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", redact(r.URL), err, feed.ErrConfig)
	}
	for k, v := range header {
		req.Header[http.CanonicalHeaderKey(k)] = slices.Clone(v)
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", u.net.UserAgent)
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "identity")
	}
	if r.ETag != "" {
		req.Header.Set("If-None-Match", r.ETag)
	}
	if r.Modified != "" {
		req.Header.Set("If-Modified-Since", r.Modified)
	}
	return req, nil
}

// redirect is where the answer sends us, nil if nowhere. The old body is closed then.
func (u *upstream) redirect(feedName string, a *answer, at *url.URL, r feed.Request) (*url.URL, error) {
	switch a.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		if r.Method != "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			return nil, fmt.Errorf("%s: redirect %d of a %s: %w", redact(at.String()), a.StatusCode, r.Method, feed.ErrUpstream)
		}
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	loc := a.Header.Get("Location")
	to, err := at.Parse(loc)
	if err != nil || loc == "" || to.Hostname() == "" || (to.Scheme != "https" && to.Scheme != "http") {
		return nil, fmt.Errorf("%s: redirect to %.200q: %w", redact(at.String()), loc, feed.ErrUpstream)
	}
	if at.Scheme == "https" && to.Scheme == "http" {
		return nil, feed.NewFault(fmt.Errorf("%s: redirect from https to %s: %w", redact(at.String()), redact(to.String()), feed.ErrUntrusted),
			"H-510", "feed", feedName, "host", at.Hostname(), "to", redact(to.String()))
	}
	io.CopyN(io.Discard, a.Body, 4<<10)
	a.Body.Close()
	return to, nil
}

// peer names the TLS server. It is inspected if every chain the library found
// ends in an extra root, or an earlier hop was.
func (u *upstream) peer(s *tls.ConnectionState, before bool) (string, bool) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return "", before
	}
	leaf := s.PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	name := "CN=" + leaf.Subject.CommonName + "; sha256:" + hex.EncodeToString(sum[:])
	inspected := len(u.extra) > 0 && !slices.ContainsFunc(s.VerifiedChains, func(chain []*x509.Certificate) bool {
		root := chain[len(chain)-1]
		return !slices.ContainsFunc(u.extra, root.Equal)
	})
	return name, before || inspected
}

// again marks an error that another try in this run may mend.
type again struct {
	err   error
	after time.Duration // as the server asked; 0 is our own backoff
}

func (e *again) Error() string { return e.err.Error() }
func (e *again) Unwrap() error { return e.err }

// failure classifies what kept an answer from coming at all.
func (u *upstream) failure(ctx context.Context, feedName string, at *url.URL, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: %w", at.Host, cause)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the URL is named here, without its credentials
	}
	if b, ok := errors.AsType[*blocked](err); ok {
		return b.fault(feedName, at.Hostname())
	}
	reason := "connect"
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		reason = "dns"
	} else if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		reason = "timeout"
	}
	if ce, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		issuer := ""
		if len(ce.UnverifiedCertificates) > 0 {
			issuer = ce.UnverifiedCertificates[0].Issuer.String()
		}
		return feed.NewFault(fmt.Errorf("%s: certificate by %s: %w: %w", at.Host, issuer, ce.Err, feed.ErrUntrusted),
			"H-511", "feed", feedName, "host", at.Hostname(), "issuer", issuer, "detail", clip(ce.Err.Error(), 300))
	}
	return &again{err: unreachable(feedName, at.Hostname(), reason, err)}
}

func unreachable(feedName, host, reason string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w: %w", host, err, feed.ErrTransient),
		"H-301", "feed", feedName, "host", host, "reason", reason, "detail", clip(reason+": "+err.Error(), 300))
}

// retryAfter reads the header in both of its forms (RFC 9110 §10.2.3). A date
// is compared with the server's own clock if it shows it. At most a week.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0, false
	}
	var d time.Duration
	if s, err := strconv.ParseUint(v, 10, 32); err == nil {
		d = time.Duration(s) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		if server, err := http.ParseTime(h.Get("Date")); err == nil {
			now = server
		}
		d = at.Sub(now)
	} else {
		return 0, false
	}
	return min(max(d, 0), 7*24*time.Hour), true
}
