package mirror

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

func TestFileSemantics(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f.cvd": "0123456789"})
	in.advance()
	h := in.server().Handler(0)
	w := ask(h, "10.1.1.1", "/slow/av/f.cvd")
	etag, modified := w.Header().Get("ETag"), w.Header().Get("Last-Modified")
	if w.Code != 200 || etag != `"`+string(feed.DigestOf([]byte("0123456789")))+`"` || modified != begin.Format(http.TimeFormat) {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	for _, c := range []struct {
		name   string
		header []string
		want   string
	}{
		{"range", []string{"Range", "bytes=2-4"}, "206 234"},
		{"suffix", []string{"Range", "bytes=-3"}, "206 789"},
		{"if-range", []string{"Range", "bytes=2-4", "If-Range", etag}, "206 234"},
		{"if-range of another file", []string{"Range", "bytes=2-4", "If-Range", `"x"`}, "200 0123456789"},
		{"beyond", []string{"Range", "bytes=20-"}, "416 invalid range: failed to overlap"},
		{"etag", []string{"If-None-Match", etag}, "304 "},
		{"etag of another", []string{"If-None-Match", `"x"`}, "200 0123456789"},
		{"since", []string{"If-Modified-Since", modified}, "304 "},
		{"head", []string{"Method", "HEAD"}, "200 "},
		{"post", []string{"Method", "POST"}, "405 method not allowed"},
	} {
		if g := got(ask(h, "10.1.1.1", "/slow/av/f.cvd", c.header...)); g != c.want {
			t.Errorf("%s: %s, want %s", c.name, g, c.want)
		}
	}
	for path, want := range map[string]int{"/slow/av/": 404, "/slow/": 503, "/slow/av": 404, "/slow/av/../av/f.cvd": 404, "/else": 404, "/slow/av/nothing": 404} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if path == "/slow/av" {
			want = 503 // of the shorter mount, which has nothing published
		}
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func TestRingOfRequest(t *testing.T) {
	in := newInside(t, t.TempDir(), staged())
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.clock.add(5 * time.Hour)
	in.advance()
	in.accept("av", 11, map[string]string{"f": "eleven"})
	in.advance()
	h := in.server().Handler(0)
	for _, c := range []struct{ from, host, want string }{
		{"10.0.1.7", "mirror.example", "200 eleven"},
		{"10.0.2.7", "mirror.example", "200 ten"},
		{"10.0.3.7", "mirror.example", "200 ten"},
		{"10.0.3.7", "TEST.mirror.example:80", "200 eleven"},
		{"10.0.2.7", "test.mirror.example", "200 ten"}, // the address counts before the name
	} {
		if g := got(ask(h, c.from, "/slow/av/f", "Host", c.host)); g != c.want {
			t.Errorf("%s as %s: %s, want %s", c.from, c.host, g, c.want)
		}
	}
}

// A silent one-way line is in the metrics; a server without a line has none.
func TestLineMetrics(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	line := &Line{Last: in.clock.now().Add(-50 * time.Second), Silent: in.clock.now().Add(-50 * time.Second), Packets: 1000, Lost: 20, Drops: 3,
		Open: []LineSession{{Name: "412", Have: 7, Blocks: 10}}}
	s, err := NewServer(ServerOptions{Data: in.dir, Store: in.store, Feeds: in.feeds, Clock: in.clock.now, Line: func() *Line { return line },
		Listen: []Listen{{Addr: "127.0.0.1:0", Admin: true}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	scrape := func() string {
		return ask(s.Handler(0), "127.0.0.1", "/metrics", "Host", "localhost:8081").Body.String()
	}
	for _, want := range []string{"hashike_diode_up 0", "hashike_diode_silence_seconds 50", "hashike_diode_packets_lost 20", "hashike_diode_kernel_drops_total 3", "hashike_diode_blocks_missing 3"} {
		if text := scrape(); !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	line.Silent = time.Time{}
	if !strings.Contains(scrape(), "hashike_diode_up 1") {
		t.Error("a line that works is down")
	}
	line = nil
	if strings.Contains(scrape(), "diode") {
		t.Error("no line, and metrics of one")
	}
}

func TestListenersAreApart(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.advance()
	pages := func(b *Board, admin bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "page admin=%v", admin) })
	}
	s, err := NewServer(ServerOptions{
		Data: in.dir, Store: in.store, Feeds: in.feeds, Clock: in.clock.now, Pages: pages,
		Listen: []Listen{{Addr: ":0", Page: true}, {Addr: "127.0.0.1:0", Admin: true}, {Addr: ":0", Feeds: []string{"slow"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, p := range []string{"/metrics", "/origin", "/problems", "/orders", "/feeds/av", "/terminals", "/audit", "/compliance"} {
		for _, i := range []int{0, 2} {
			if w := ask(s.Handler(i), "10.1.1.1", p); w.Code != 404 || strings.Contains(w.Body.String(), "page admin") {
				t.Errorf("terminals' listener %d answers %s: %s", i, p, got(w))
			}
		}
	}
	for i, want := range map[int]string{0: "200 ten", 2: "404 404 page not found"} {
		if g := got(ask(s.Handler(i), "10.1.1.1", "/slow/av/f")); g != want {
			t.Errorf("listener %d: %s", i, g)
		}
	}
	if g := got(ask(s.Handler(0), "10.1.1.1", "/")); g != "200 page admin=false" {
		t.Error(g)
	}
	if w := ask(s.Handler(2), "10.1.1.1", "/"); w.Code != 404 {
		t.Error("a listener without page has one")
	}
	admin := func(p string, h ...string) *httptest.ResponseRecorder {
		return ask(s.Handler(1), "127.0.0.1", p, append([]string{"Host", "localhost:8081"}, h...)...)
	}
	if g := got(admin("/slow/av/f")); g != "200 page admin=true" {
		t.Errorf("admin serves updates: %s", g)
	}
	if w := admin("/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), `hashike_feed_serial{feed="av",ring="all"} 10`) ||
		!strings.Contains(w.Body.String(), `hashike_requests_total{feed="av",status="2xx"} 1`) || strings.Contains(w.Body.String(), "go_") {
		t.Errorf("metrics: %s", got(w))
	}
	if w := ask(s.Handler(1), "127.0.0.1", "/metrics", "Host", "evil.example"); w.Code != http.StatusMisdirectedRequest {
		t.Errorf("admin under another name: %d", w.Code)
	}
	if w := admin("/", "Method", "POST", "Sec-Fetch-Site", "cross-site"); w.Code != http.StatusForbidden {
		t.Errorf("cross-origin POST: %d", w.Code)
	}
	if g := got(ask(s.Handler(0), "10.1.1.1", "/healthz")); g != `200 {"ok":true}` {
		t.Error(g)
	}
	if g := got(admin("/healthz")); !strings.Contains(g, `"serial":10`) {
		t.Error(g)
	}
}

func TestHealthWithoutPublication(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	if w := ask(in.server().Handler(0), "10.1.1.1", "/healthz"); w.Code != 503 {
		t.Error(got(w))
	}
}

func TestAdminBeyondThisMachineNeedsTLSAndLogin(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	line, err := HashPassword("tantou", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "passwords")
	os.WriteFile(file, []byte("# accounts\n"+line+"\n"), 0o600)
	empty := filepath.Join(t.TempDir(), "empty")
	os.WriteFile(empty, []byte("# nobody\n"), 0o600)
	open := func(l Listen) (*Server, error) {
		return NewServer(ServerOptions{Data: in.dir, Store: in.store, Feeds: in.feeds, Listen: []Listen{l}, Clock: in.clock.now})
	}
	for _, l := range []Listen{
		{Addr: "0.0.0.0:8081", Admin: true}, {Addr: ":8081", Admin: true}, {Addr: "10.1.2.3:8081", Admin: true, TLS: true},
		{Addr: "10.1.2.3:8081", Admin: true, Passwords: file}, {Addr: "mirror:8081", Admin: true}, {Addr: ":1", Admin: true, TLS: true, Passwords: empty},
		{Addr: ":1", Admin: true, TLS: true, Passwords: file + "x"}, {Addr: "no port"}, {Addr: ":1", Cert: "x", Key: "y"},
	} {
		if _, err := open(l); code(err) != "H-202" || !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	s, err := open(Listen{Addr: "0.0.0.0:0", Admin: true, TLS: true, Passwords: file})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	try := func(name, password string) int {
		r := httptest.NewRequest("GET", "/metrics", nil)
		if name != "" {
			r.SetBasicAuth(name, password)
		}
		w := httptest.NewRecorder()
		s.Handler(0).ServeHTTP(w, r)
		return w.Code
	}
	for _, c := range []struct {
		name, password string
		want           int
	}{{"", "", 401}, {"tantou", "wrong", 401}, {"nobody", "correct horse", 401}, {"tantou", "correct horse", 200}, {"tantou", "correct horse", 200}, {"tantoucorrect", " horse", 401}} {
		if g := try(c.name, c.password); g != c.want {
			t.Errorf("%s %s: %d, want %d", c.name, c.password, g, c.want)
		}
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	s := in.server()
	_, err := NewServer(ServerOptions{Data: in.dir, Store: in.store, Feeds: in.feeds, Clock: in.clock.now})
	if code(err) != "H-226" || !errors.Is(err, state.ErrBusy) {
		t.Fatalf("%v", err)
	}
	s.Close()
	in.server()
}

// run starts the server as the command does.
func (in *inside) run(t *testing.T, o ServerOptions) (addrs []net.Addr, stop func()) {
	t.Helper()
	o.Data, o.Store, o.Feeds, o.Rings, o.Clock, o.Poll = in.dir, in.store, in.feeds, in.rings, in.clock.now, 10*time.Millisecond
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, down := make(chan []net.Addr, 1), make(chan error, 1)
	go func() { down <- s.Run(ctx, func(a []net.Addr) { up <- a }) }()
	select {
	case addrs = <-up:
	case err := <-down:
		t.Fatal(err)
	}
	return addrs, func() {
		cancel()
		if err := <-down; err != nil {
			t.Errorf("server ended: %v", err)
		}
	}
}

// Terminals download all the time while versions are published, rolled back and
// a file is withdrawn: every answer is whole and of one version; a download
// that began before goes on with the file it began with.
func TestPublishingUnderLoad(t *testing.T) {
	ctx := context.Background()
	in := newInside(t, t.TempDir(), Rings{})
	big := func(n uint64) string { return strings.Repeat(fmt.Sprintf("%08d", n), 1<<17) } // 1 MiB
	in.accept("av", 10, map[string]string{"big": big(10), "small": "10"})
	in.advance()
	addrs, stop := in.run(t, ServerOptions{Listen: []Listen{{Addr: "127.0.0.1:0"}}})
	base := "http://" + addrs[0].String() + "/slow/av/"

	slow, err := http.Get(base + "big") // reads a little, and the rest at the end
	if err != nil {
		t.Fatal(err)
	}
	start := make([]byte, 1024)
	if _, err := io.ReadFull(slow.Body, start); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var clients sync.WaitGroup
	var answers atomic.Int64
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				r, err := http.Get(base + "big")
				if err != nil {
					t.Errorf("%v", err)
					return
				}
				b, err := io.ReadAll(r.Body)
				r.Body.Close()
				if err != nil || r.StatusCode != 200 || len(b) != 1<<20 || !bytes.Equal(b, bytes.Repeat(b[:8], 1<<17)) {
					t.Errorf("status %d, %d bytes, %v", r.StatusCode, len(b), err)
					return
				}
				answers.Add(1)
			}
		})
	}
	for n := uint64(11); n < 15; n++ {
		in.accept("av", n, map[string]string{"big": big(n), "small": fmt.Sprint(n)})
		in.advance()
		waitFor(t, base+"small", fmt.Sprint("200 ", n))
	}
	if _, err := in.pub.Rollback(ctx, "av", 0, "t", "r"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, base+"small", "200 13")
	if _, _, err := in.pub.Withdraw(ctx, "av", "small", "t", "r"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, base+"small", "404 404 page not found")
	if _, err := in.pub.GC(ctx, GCOptions{}); err != nil {
		t.Fatal(err)
	}
	close(done)
	clients.Wait()
	rest, err := io.ReadAll(slow.Body)
	slow.Body.Close()
	if err != nil || string(start)+string(rest) != big(10) {
		t.Errorf("the download that began first: %d bytes, %v", len(rest), err)
	}
	if answers.Load() == 0 {
		t.Error("no client got anything")
	}
	stop()
	// A restart serves the same.
	addrs, stop = in.run(t, ServerOptions{Listen: []Listen{{Addr: "127.0.0.1:0"}}})
	defer stop()
	waitFor(t, "http://"+addrs[0].String()+"/slow/av/small", "404 404 page not found")
	var took int
	for s, err := range Sightings(in.dir) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Terminal == "127.0.0.1" && s.Event == "took" {
			took++
		}
	}
	if took == 0 {
		t.Error("the ledger's copy names no terminal")
	}
	logs, _ := filepath.Glob(filepath.Join(in.dir.Logs(), "access-*.log"))
	if len(logs) != 1 {
		t.Errorf("access logs: %v", logs)
	}
}

// waitFor asks until the answer is as wanted; the watcher polls.
func waitFor(t *testing.T, url, want string) {
	t.Helper()
	last := ""
	for range 3000 {
		r, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if last = fmt.Sprintf("%d %s", r.StatusCode, strings.TrimSpace(string(b))); last == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s answers %q, not %q", url, last, want)
}

func TestPrivateCA(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	in.accept("av", 10, map[string]string{"f": "ten"})
	in.advance()
	hosts := []string{"mirror.town.example", "192.168.10.5"}
	o := ServerOptions{Listen: []Listen{{Addr: "127.0.0.1:0", TLS: true}}, Hosts: hosts}
	addrs, stop := in.run(t, o)
	pemCA, err := os.ReadFile(CAPath(in.dir))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pemCA) {
		t.Fatal("no certificate")
	}
	for name, ok := range map[string]bool{"mirror.town.example": true, "127.0.0.1": true, "192.168.10.5": true, "other.example": false} {
		c := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: name, Time: in.clock.now},
		}}
		r, err := c.Get("https://" + addrs[0].String() + "/slow/av/f")
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if r.ProtoMajor != 1 {
				t.Errorf("protocol %s", r.Proto)
			}
			r.Body.Close()
		}
		c.CloseIdleConnections()
	}
	stop()
	// The same CA after a restart; another leaf; renewed by itself before it ends.
	a, err := openAuthority(in.dir, hosts, in.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := a.issue()
	in.clock.add(59 * day)
	two, _ := a.issue()
	in.clock.add(2 * day)
	three, _ := a.issue()
	if one != two || two == three || !three.Leaf.NotAfter.After(in.clock.now().Add(80*day)) {
		t.Error("renewal")
	}
	// Names the CA was not made for are refused with a sentence, not at the terminals.
	if _, err := openAuthority(in.dir, append(hosts, "new.example"), in.clock.now); code(err) != "H-202" {
		t.Errorf("other names: %v", err)
	}
	evil := &authority{cert: a.cert, key: a.key, names: []string{"www.microsoft.com"}, clock: in.clock.now}
	forged, err := evil.issue()
	if err != nil {
		t.Fatal(err)
	}
	_, err = forged.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "www.microsoft.com", CurrentTime: in.clock.now()})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != x509.CANotAuthorizedForThisName {
		t.Errorf("a name beyond the constraints: %v", err)
	}
	in.opensslAgrees(t, pemCA, three.Certificate[0], forged.Certificate[0])
}

// opensslAgrees asks an independent verifier.
func (in *inside) opensslAgrees(t *testing.T, ca, good, forged []byte) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		os.WriteFile(p, b, 0o600)
		return p
	}
	roots := file("ca.pem", ca)
	for name, c := range map[string]struct {
		der []byte
		ok  bool
	}{"good": {good, true}, "forged": {forged, false}} {
		cert := file(name+".der", c.der)
		pem := filepath.Join(dir, name+".pem")
		if out, err := exec.Command("openssl", "x509", "-inform", "der", "-in", cert, "-out", pem).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		out, err := exec.Command("openssl", "verify", "-attime", fmt.Sprint(in.clock.now().Unix()), "-x509_strict", "-purpose", "sslserver", "-CAfile", roots, pem).CombinedOutput()
		if (err == nil) != c.ok || !c.ok && !strings.Contains(string(out), "permitted subtree violation") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	text, err := exec.Command("openssl", "x509", "-in", roots, "-noout", "-ext", "nameConstraints").CombinedOutput()
	if err != nil || !strings.Contains(string(text), "critical") {
		t.Errorf("name constraints: %v %s", err, text)
	}
}

func TestLedger(t *testing.T) {
	in := newInside(t, t.TempDir(), Rings{})
	l, err := openLedger(in.dir, in.pub.Log)
	if err != nil {
		t.Fatal(err)
	}
	l.Saw(feed.Sighting{Time: begin, Feed: "av", Terminal: "t1", Event: "took", Path: "f"})
	l.Saw(feed.Sighting{Time: begin.Add(time.Hour), Feed: "av", Terminal: "t1", Event: "took", Path: "f"})
	l.Saw(feed.Sighting{Time: begin.Add(-500 * day), Feed: "av", Terminal: "old", Event: "took", Path: "f"})
	l.Saw(feed.Sighting{Feed: "av", Terminal: strings.Repeat("x", 10_000), Event: "took"})
	for range 2 { // the second time there is nothing to write
		if err := l.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(begin); err != nil {
		t.Fatal(err)
	}
	n := 0
	for s, err := range Sightings(in.dir) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; !s.Time.Equal(begin.Add(time.Hour)) {
			t.Errorf("%+v", s)
		}
	}
	if n != 1 {
		t.Errorf("%d sightings", n)
	}
}

// A file of the ledger's copy, a generation or evidence may be damaged: no panic, an error or less.
func FuzzGeneration(f *testing.F) {
	f.Add([]byte(`{"schema":1,"number":1,"feed":"av","kind":"fake","ring":"all","serial":10,"id":"","taken":"2026-01-01T00:00:00Z","accepted":"2026-01-01T00:00:00Z","weakest":"signed","published":"2026-01-01T00:00:00Z","by":"x"}`))
	f.Add([]byte(`{"schema":2}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := parseGeneration(b)
		if err == nil && (g.Number == 0 || !feed.ValidName(g.Feed)) {
			t.Fatalf("accepted %+v", g)
		}
	})
}

func TestResponsePassesFilesOn(t *testing.T) {
	var _ io.ReaderFrom = (*response)(nil)
	called := false
	rw := &response{ResponseWriter: readsFrom{httptest.NewRecorder(), &called}}
	http.ServeContent(rw, httptest.NewRequest("GET", "/", nil), "x.bin", begin, strings.NewReader(strings.Repeat("x", inline+1)))
	if !called || rw.bytes != inline+1 || rw.status != 200 {
		t.Fatalf("%v %+v", called, rw)
	}
}

type readsFrom struct {
	http.ResponseWriter
	called *bool
}

func (r readsFrom) ReadFrom(src io.Reader) (int64, error) {
	*r.called = true
	return io.Copy(struct{ io.Writer }{r.ResponseWriter}, src)
}
