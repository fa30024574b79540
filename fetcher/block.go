package fetcher

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Municipal networks reach the internet through devices that answer in the
// vendor's place: with 403 or 407, with a refused CONNECT, or with a page of
// their own under status 200. All become H-302, which names who answered.

// blocked is an answer that is not the vendor's, or refuses us as a whole.
type blocked struct {
	status int
	device string
	page   bool // a page came where a file was asked for
}

func (b *blocked) Error() string {
	what := "answer " + strconv.Itoa(b.status)
	if b.page {
		what = "a page instead of the file"
	}
	if b.device != "" {
		what += " from " + b.device
	}
	return what
}

func (b *blocked) fault(feedName, host string) error {
	return feed.NewFault(fmt.Errorf("%s: blocked: %w: %w", host, b, feed.ErrTransient),
		"H-302", "feed", feedName, "host", host, "status", strconv.Itoa(b.status), "device", cmp.Or(b.device, "?"))
}

// connectAnswer sees how a proxy answers CONNECT.
func connectAnswer(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	switch res.StatusCode {
	case http.StatusOK, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil // the last three: the transport reports them, and they may pass
	}
	return &blocked{status: res.StatusCode, device: device(res.Header)}
}

// device is what an intermediary calls itself.
func device(h http.Header) string {
	for _, k := range []string{"Via", "X-Squid-Error", "Server"} {
		if v := strings.TrimSpace(h.Get(k)); v != "" {
			return clip(v, 200)
		}
	}
	return ""
}

func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// between tells whether a device may have written the answer: a proxy that
// sees plain HTTP, an inspecting one, or one that says so.
func (u *upstream) between(req *http.Request, res *http.Response) (string, bool) {
	_, inspected := u.peer(res.TLS, false)
	p, _ := u.proxy(req.URL)
	middle := inspected || (p != nil && req.URL.Scheme == "http") || res.Header.Get("X-Squid-Error") != "" ||
		res.Header.Get("Proxy-Authenticate") != "" || res.StatusCode == http.StatusProxyAuthRequired
	return device(res.Header), middle
}

// looksHTML reports whether a body begins as a web page.
func looksHTML(b []byte) bool {
	b = bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), " \t\r\n")
	b = bytes.ToLower(b[:min(len(b), 16)])
	return bytes.HasPrefix(b, []byte("<!doctype html")) || bytes.HasPrefix(b, []byte("<html"))
}

// wantsHTML reports whether the kind asked for a page: by the name, or by Accept.
func wantsHTML(r feed.Request) bool {
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		return true
	}
	u, err := url.Parse(r.URL)
	if err != nil || strings.HasSuffix(u.Path, "/") || u.Path == "" {
		return true
	}
	switch strings.ToLower(path.Ext(u.Path)) {
	case ".html", ".htm", ".xhtml", ".php", ".asp", ".aspx", ".jsp":
		return true
	}
	return false
}
