package fetcher

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func do(req feed.Request) fetchFunc {
	return func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
		_, err := up.Do(ctx, req)
		if err == nil {
			err = fmt.Errorf("answered")
		}
		return "", err
	}
}

func (o *outside) ask(srv *httptest.Server, path string) error {
	_, err := o.fetcher().Run(o.t.Context(), setup("demo", srv, do(feed.Request{URL: srv.URL + path, Limit: 1000})))
	return err
}

func TestStatusClasses(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "edge")
		switch r.URL.Path {
		case "/404":
			w.WriteHeader(404)
		case "/500":
			w.WriteHeader(500)
		case "/403":
			w.WriteHeader(403)
		case "/403proxy":
			w.Header().Set("X-Squid-Error", "ERR_ACCESS_DENIED 0")
			w.Header().Set("Via", "1.1 cloud-gw")
			w.WriteHeader(403)
		case "/407":
			w.WriteHeader(407)
		case "/page", "/page.html":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "\n <!DOCTYPE HTML><title>ブロックされました</title>")
		case "/long":
			w.Write(make([]byte, 1001))
		case "/endless":
			for range 1000 {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}
	}))
	defer srv.Close()
	o := newOutside(t)
	err := o.ask(srv, "/404")
	if se, ok := errors.AsType[*feed.StatusError](err); !ok || se.Status != 404 || !errors.Is(err, feed.ErrUpstream) {
		t.Error(err)
	}
	wantCode(t, o.ask(srv, "/500"), "H-301", feed.ErrTransient)
	wantCode(t, o.ask(srv, "/long"), "H-401", feed.ErrUpstream)
	wantCode(t, o.ask(srv, "/endless"), "H-401", feed.ErrUpstream)
	if a := wantCode(t, o.ask(srv, "/403proxy"), "H-302", feed.ErrTransient).Args; a["device"] != "1.1 cloud-gw" || a["status"] != "403" || a["host"] != "127.0.0.1" {
		t.Error(a)
	}
	wantCode(t, o.ask(srv, "/407"), "H-302", feed.ErrTransient)
	if a := wantCode(t, o.ask(srv, "/page"), "H-302", feed.ErrTransient).Args; a["device"] != "edge" || a["status"] != "200" {
		t.Error(a)
	}
	if err := o.ask(srv, "/page.html"); err == nil || err.Error() != "answered" {
		t.Error("a page that was asked for:", err)
	}
	// The vendor's own 403 keeps us away, also after a restart, until the operator says otherwise.
	wantCode(t, o.ask(srv, "/403"), "H-305", feed.ErrTransient)
	if a := wantCode(t, o.ask(srv, "/404"), "H-305", feed.ErrTransient).Args; a["until"] == "" {
		t.Error(a)
	}
	if err := o.fetcher().Forgive(); err != nil {
		t.Fatal(err)
	}
	if _, ok := errors.AsType[*feed.StatusError](o.ask(srv, "/404")); !ok {
		t.Error("not forgiven")
	}
}

func TestLoadOfAPage(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "<html>Your administrator …</html>")
	}))
	defer srv.Close()
	for _, want := range []feed.Want{{}, {Digest: feed.DigestOf([]byte("x"))}, {Digest: feed.DigestOf([]byte("x")), Size: 5}} {
		o := newOutside(t)
		_, err := o.fetcher().Run(t.Context(), setup("demo", srv, load(srv.URL+"/a.deb", want)))
		wantCode(t, err, "H-302", feed.ErrTransient)
	}
}

func TestRetryAfterSurvivesRestart(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		header string
		want   time.Duration
	}{
		"seconds": {"7200", 2 * time.Hour},
		"date":    {now.Add(3 * time.Hour).UTC().Format(http.TimeFormat), 3 * time.Hour},
		"none":    {"", 4 * time.Hour},
		"rubbish": {"soon", 4 * time.Hour},
		"absurd":  {"4000000000", 7 * 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if c.header != "" {
					w.Header().Set("Retry-After", c.header)
				}
				w.WriteHeader(http.StatusTooManyRequests)
			}))
			defer srv.Close()
			o := newOutside(t)
			o.opt.Clock = func() time.Time { return now }
			fault := wantCode(t, o.ask(srv, "/"), "H-303", feed.ErrTransient)
			until, err := time.Parse(time.RFC3339, fault.Args["until"])
			if d := until.Sub(now); err != nil || d < c.want-5*time.Second || d > c.want+5*time.Second {
				t.Errorf("until %s: %s from now, want %s", until, d, c.want)
			}
			now2 := until.Add(-time.Second)
			o.opt.Clock = func() time.Time { return now2 }
			wantCode(t, o.ask(srv, "/"), "H-303", feed.ErrTransient)
			if err := o.fetcher().Forgive(); err != nil {
				t.Fatal(err)
			}
			wantCode(t, o.ask(srv, "/"), "H-303", feed.ErrTransient)
			if asked.Load() != 1 {
				t.Errorf("%d requests, want 1 before the time has come", asked.Load())
			}
			now3 := until.Add(time.Second)
			o.opt.Clock = func() time.Time { return now3 }
			o.ask(srv, "/")
			if asked.Load() != 2 {
				t.Errorf("%d requests, want 2 after it", asked.Load())
			}
		})
	}
}

func TestShortRetryAfterIsWaitedFor(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok")
	}))
	defer srv.Close()
	o := newOutside(t)
	if err := o.ask(srv, "/x"); err.Error() != "answered" || asked.Load() != 2 {
		t.Error(err, asked.Load())
	}
}

func TestAllowListAndRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials followed a redirect to another host")
		}
		io.WriteString(w, "other")
	}))
	defer other.Close()
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/x", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/odd":
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}
	}))
	defer srv.Close()
	o := newOutside(t)
	fault := wantCode(t, o.ask(srv, "/away"), "H-612", feed.ErrHeld)
	if fault.Args["port"] != port(mustURL(other.URL)) {
		t.Error(fault.Args)
	}
	if err := o.ask(srv, "/loop"); !errors.Is(err, feed.ErrUpstream) {
		t.Error(err)
	}
	if err := o.ask(srv, "/odd"); !errors.Is(err, feed.ErrUpstream) {
		t.Error(err)
	}
	o.opt.Network.Allow = []string{mustURL(other.URL).Host}
	req := feed.Request{URL: srv.URL + "/away", Limit: 100, Header: http.Header{"Authorization": {"Basic eDp5"}}}
	if _, err := o.fetcher().Run(t.Context(), setup("demo", srv, do(req))); err.Error() != "answered" {
		t.Error(err)
	}
	// Never from https to http.
	tlsSrv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusMovedPermanently)
	}))
	defer tlsSrv.Close()
	o.opt.Network.ExtraRoots = [][]byte{pemOf(tlsSrv.Certificate())}
	wantCode(t, o.ask(tlsSrv, "/"), "H-510", feed.ErrUntrusted)
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func TestUnreachable(t *testing.T) {
	o := newOutside(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := "http://user:secret@" + l.Addr().String()
	l.Close()
	s := feed.Setup{Name: "demo", Kind: feed.Kind{Name: "fake"}, Feed: &fake{reach: []string{at}, fetch: do(feed.Request{URL: at, Limit: 1})}}
	_, err = o.fetcher().Run(t.Context(), s)
	wantCode(t, err, "H-301", feed.ErrTransient)
	if strings.Contains(err.Error(), "secret") {
		t.Error("password shown:", err)
	}
	if st := o.state("demo"); st.Code != "H-301" || st.Since.IsZero() {
		t.Errorf("%+v", st)
	}
}

func TestUnknownCertificate(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	o := newOutside(t)
	fault := wantCode(t, o.ask(srv, "/"), "H-511", feed.ErrUntrusted)
	if !strings.Contains(fault.Args["issuer"], "Acme") {
		t.Error(fault.Args)
	}
}

// authority is a CA that writes server certificates as an inspecting proxy does.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Inspection Root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, _ = x509.ParseCertificate(der)
	return &authority{key, c}
}

func (a *authority) leaf(t *testing.T, host string) tls.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

// inspector is a proxy: CONNECT is answered with a TLS server of its own.
func inspector(t *testing.T, ca *authority, refuse map[string]int) *httptest.Server {
	inner := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "seen through") })}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Host)
		w.Header().Set("Via", "1.1 inspector")
		if code := refuse[host]; code != 0 || r.Method != http.MethodConnect {
			w.WriteHeader(code)
			return
		}
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(rw, "HTTP/1.1 200 Connection established\r\n\r\n")
		rw.Flush()
		conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{ca.leaf(t, host)}})
		inner.Serve(&oneConn{conn: conn})
	}))
}

type oneConn struct {
	conn net.Conn
	done atomic.Bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.done.Swap(true) {
		return nil, io.EOF
	}
	return l.conn, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

func TestInspectingProxy(t *testing.T) {
	ca := newAuthority(t)
	proxy := inspector(t, ca, map[string]int{"blocked.example": 403, "login.example": 407, "down.example": 502})
	defer proxy.Close()
	o := newOutside(t)
	o.opt.Network.Proxy = strings.Replace(proxy.URL, "http://", "http://user:secret@", 1)
	var origin feed.Origin
	s := func(host string) feed.Setup {
		return feed.Setup{Name: "demo", Kind: feed.Kind{Name: "fake"}, Feed: &fake{
			reach: []string{"https://" + host},
			fetch: func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
				r, err := up.Do(ctx, feed.Request{URL: "https://" + host + "/x", Limit: 100})
				if err == nil {
					origin = r.Origin
					err = errors.New("answered")
				}
				return "", err
			}}}
	}
	// Not trusted until the operator names its root.
	_, err := o.fetcher().Run(t.Context(), s("vendor.example"))
	if a := wantCode(t, err, "H-511", feed.ErrUntrusted).Args; !strings.Contains(a["issuer"], "Inspection Root") {
		t.Error(a)
	}
	o.opt.Network.ExtraRoots = [][]byte{pemOf(ca.cert)}
	if _, err = o.fetcher().Run(t.Context(), s("vendor.example")); err.Error() != "answered" {
		t.Fatal(err)
	}
	if !origin.Inspected || !strings.HasPrefix(origin.Peer, "CN=vendor.example; sha256:") {
		t.Errorf("origin %+v", origin)
	}
	for host, status := range map[string]string{"blocked.example": "403", "login.example": "407"} {
		_, err = o.fetcher().Run(t.Context(), s(host))
		if a := wantCode(t, err, "H-302", feed.ErrTransient).Args; a["status"] != status || a["device"] != "1.1 inspector" || a["host"] != host {
			t.Error(a)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Error("password shown:", err)
		}
	}
	_, err = o.fetcher().Run(t.Context(), s("down.example"))
	wantCode(t, err, "H-301", feed.ErrTransient)
	// A refusal by a device on the way is no reason to keep away from the vendor.
	o.db.View(func(tx state.Tx) error {
		for k := range tx.All(cooldownBucket, "") {
			t.Error("cool-down for", k)
		}
		return nil
	})
}

func TestPerHostConcurrency(t *testing.T) {
	var now, most atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(2 * time.Millisecond)
		io.WriteString(w, r.URL.Path)
	}))
	defer srv.Close()
	o := newOutside(t)
	o.opt.Network.PerHost = 3
	var all []feed.Setup
	for i := range 4 {
		all = append(all, setup(fmt.Sprintf("feed-%d", i), srv, func(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
			errs := make(chan error)
			for j := range 8 {
				go func() {
					b, err := dst.Load(ctx, feed.Request{URL: fmt.Sprintf("%s/%d-%d", srv.URL, i, j), Limit: 100}, feed.Want{})
					if err == nil {
						err = dst.Add(feed.Artifact{Path: fmt.Sprint(j), Digest: b.Digest(), Class: feed.Feature})
					}
					errs <- err
				}()
			}
			var err error
			for range 8 {
				err = errors.Join(err, <-errs)
			}
			return "", err
		}))
	}
	for _, r := range o.fetcher().RunAll(t.Context(), all) {
		if r.Err != nil || r.Artifacts != 8 {
			t.Error(r)
		}
	}
	if m := most.Load(); m > 3 || m < 2 {
		t.Errorf("%d requests at a time, want up to 3", m)
	}
}
