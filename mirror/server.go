package mirror

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Listen is one [[listen]] block.
type Listen struct {
	Addr      string   // "0.0.0.0:80"
	Admin     bool     // pages for the operator and /metrics, no updates
	TLS       bool     // the private CA, unless Cert and Key name files
	Cert, Key string   // PEM files
	Feeds     []string // only these; empty is all
	Page      bool     // freshness and client settings for terminals
	Passwords string   // admin: file of argon2id lines; required beyond loopback
}

// ServerOptions of a Server.
type ServerOptions struct {
	Data    state.Dir
	Store   *cas.Store
	Feeds   []feed.Setup
	Listen  []Listen
	Rings   Rings
	Base    string            // how terminals reach us: "http://mirror.town.local"
	Hosts   []string          // names and addresses in our certificate
	Side    feed.Text         // heads every page: 内側（LGWAN接続系）
	Contact map[string]string // whom to call, by role
	// Line is the one-way line's state; nil is none, and so is its nil.
	Line func() *Line
	// Coverage is what the build carries, for the page that says so.
	Coverage []feed.Coverage
	Poll     time.Duration // of published/; 0 is one second
	Clock    func() time.Time
	Log      *slog.Logger
	// Pages makes the pages of a listener; package mirror/web has them. Nil is none.
	Pages func(b *Board, admin bool) http.Handler
}

// Server is the read path. It opens no state.db; one process at a time serves a
// data directory.
type Server struct {
	o       ServerOptions
	watch   *watcher
	metrics *metrics
	ages    *ages
	ledger  *ledger
	access  *access
	ca      *authority
	board   *Board
	ends    []*end
	closing sync.Once
}

// end is one listener's side of the server.
type end struct {
	Listen
	handler http.Handler
	tls     *tls.Config
}

// NewServer checks the listeners, takes the ledger (H-804 if another server has
// it) and loads what is published. Close it, or let Run do so.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkListen(o.Listen); err != nil {
		return nil, err
	}
	if err := checkMounts(o.Feeds); err != nil {
		return nil, err
	}
	l, err := openLedger(o.Data, o.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, ledger: l, ages: newAges(o.Store), access: &access{dir: o.Data.Logs(), log: o.Log}}
	if err := s.open(); err != nil {
		l.db.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) open() error {
	names := make([]string, 0, len(s.o.Feeds))
	for _, f := range s.o.Feeds {
		names = append(names, f.Name)
	}
	s.metrics = newMetrics(names)
	key, err := openSecret(s.o.Data)
	if err != nil {
		return err
	}
	s.watch = &watcher{
		o: &s.o, ledger: s.ledger, secret: key, metrics: s.metrics,
		snaps: &snapshots{store: s.o.Store, open: map[string]map[uint64]*cas.Snapshot{}},
	}
	if err := s.watch.look(); err != nil {
		return err
	}
	s.metrics.registry.MustRegister(newGauges(s))
	if s.o.Line != nil {
		s.metrics.registry.MustRegister(lineGauges{s})
	}
	if slices.ContainsFunc(s.o.Listen, func(l Listen) bool { return l.TLS && l.Cert == "" }) {
		var err error
		if s.ca, err = openAuthority(s.o.Data, s.o.Hosts, s.o.Clock); err != nil {
			return err
		}
	}
	s.board = &Board{s}
	for _, l := range s.o.Listen {
		e, err := s.end(l)
		if err != nil {
			return err
		}
		s.ends = append(s.ends, e)
	}
	return nil
}

func (s *Server) end(l Listen) (*end, error) {
	e := &end{Listen: l}
	if l.Admin {
		h, err := s.admin(l)
		if err != nil {
			return nil, err
		}
		e.handler = h
	} else {
		e.handler = s.terminals(l)
	}
	if !l.TLS {
		return e, nil
	}
	get := func() (*tls.Certificate, error) { return s.ca.issue() }
	if l.Cert != "" {
		get = (&certFiles{cert: l.Cert, key: l.Key}).get
	}
	if _, err := get(); err != nil {
		return nil, err
	}
	e.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return get() },
	}
	return e, nil
}

// checkListen refuses what would put the operator's pages where anybody reads them.
func checkListen(all []Listen) error {
	for _, l := range all {
		host, _, err := net.SplitHostPort(l.Addr)
		switch {
		case err != nil:
			err = fmt.Errorf("listen %q: %w: %w", l.Addr, err, feed.ErrConfig)
		case (l.Cert == "") != (l.Key == ""), l.Cert != "" && !l.TLS:
			err = fmt.Errorf("listen %s: cert and key go together, with tls = true: %w", l.Addr, feed.ErrConfig)
		case l.Admin && !loopback(host) && (!l.TLS || l.Passwords == ""):
			err = fmt.Errorf("listen %s: an admin listener beyond this machine needs tls = true and a password file: %w", l.Addr, feed.ErrConfig)
		}
		if err != nil {
			return feed.NewFault(err, "H-202", "listen", l.Addr)
		}
	}
	return nil
}

func checkMounts(feeds []feed.Setup) error {
	seen := map[string]string{}
	for _, s := range feeds {
		if !strings.HasPrefix(s.Mount, "/") || !strings.HasSuffix(s.Mount, "/") {
			err := fmt.Errorf("feed %s: mount %q does not begin and end with a slash: %w", s.Name, s.Mount, feed.ErrConfig)
			return feed.NewFault(err, "H-202", "feed", s.Name)
		}
		if other, taken := seen[s.Mount]; taken {
			err := fmt.Errorf("feeds %s and %s have the same mount %s: %w", other, s.Name, s.Mount, feed.ErrConfig)
			return feed.NewFault(err, "H-202", "feed", s.Name)
		}
		seen[s.Mount] = s.Name
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// PagePrefix is where pages for people live on a terminals' listener, so that
// they never meet a feed's mount point.
const PagePrefix = "/hashike/"

// terminals answers update paths, /healthz and pages; nothing else is there.
func (s *Server) terminals(l Listen) http.Handler {
	var pages http.Handler
	if l.Page && s.o.Pages != nil {
		pages = s.o.Pages(s.board, false)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.URL.Path
		if p == "/healthz" {
			s.health(w, r, false)
			return
		}
		if pages != nil && (p == "/" || strings.HasPrefix(p, PagePrefix)) {
			pages.ServeHTTP(w, r)
			return
		}
		m, inner := s.watch.tree.Load().at(p)
		if m == nil || len(l.Feeds) > 0 && !slices.Contains(l.Feeds, m.setup.Name) {
			http.NotFound(w, r)
			return
		}
		s.serveFeed(w, r, m, inner)
	})
}

// admin answers the operator: pages, metrics, health. No updates.
func (s *Server) admin(l Listen) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { s.health(w, r, true) })
	mux.Handle("GET /metrics", s.metrics.handler())
	if s.o.Pages != nil {
		mux.Handle("/", s.o.Pages(s.board, true))
	}
	h := http.NewCrossOriginProtection().Handler(mux)
	if l.Passwords != "" {
		in, err := openLogin(l.Passwords)
		if err != nil {
			return nil, feed.NewFault(err, "H-202", "listen", l.Addr)
		}
		return in.wrap(h), nil
	}
	return loopbackOnly(h), nil
}

// loopbackOnly refuses other names for this machine: a web page elsewhere that
// rebinds its name to 127.0.0.1 must not read the operator's pages.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !loopback(strings.Trim(host, "[]")) {
			http.Error(w, "ask for this page as localhost", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// health is 200 while the publications can be read and something is served.
func (s *Server) health(w http.ResponseWriter, r *http.Request, detail bool) {
	type one struct {
		Ring       string `json:"ring"`
		Serial     uint64 `json:"serial"`
		Generation uint64 `json:"generation"`
	}
	doc := struct {
		OK       bool             `json:"ok"`
		Feeds    map[string][]one `json:"feeds,omitempty"`
		Problems []string         `json:"problems,omitempty"`
	}{Feeds: map[string][]one{}}
	for name, m := range s.watch.tree.Load().feeds {
		for _, ring := range feed.Rings() {
			if g, ok := m.gens[ring]; ok {
				doc.OK = doc.OK || !g.Stopped
				doc.Feeds[name] = append(doc.Feeds[name], one{ring, g.Serial, g.Number})
			}
		}
		if m.err != nil {
			doc.Problems = append(doc.Problems, name+": "+m.err.Error())
		}
	}
	if stuck := time.Since(time.Unix(s.watch.looked.Load(), 0)); stuck > 30*time.Second+10*s.o.Poll {
		doc.OK = false
		doc.Problems = append(doc.Problems, "published directory not read for "+stuck.Truncate(time.Second).String())
	}
	if !detail {
		doc.Feeds, doc.Problems = nil, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !doc.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(doc)
}

// Handler is what the i-th [[listen]] block answers: for tests.
func (s *Server) Handler(i int) http.Handler { return s.ends[i].handler }

// Look reads published/ at once instead of at the next poll.
func (s *Server) Look() error { return s.watch.look() }

// Run listens until ctx ends, then lets running downloads finish for a while.
// ready, if not nil, is told the addresses as bound, in the order of Listen.
func (s *Server) Run(ctx context.Context, ready func([]net.Addr)) error {
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var listeners []net.Listener
	var addrs []net.Addr
	for _, e := range s.ends {
		l, err := net.Listen("tcp", e.Addr)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return feed.NewFault(fmt.Errorf("listen %s: %w: %w", e.Addr, err, feed.ErrConfig), "H-215", "listen", e.Addr, "detail", err.Error())
		}
		addrs = append(addrs, l.Addr())
		if e.tls != nil {
			l = tls.NewListener(l, e.tls)
		}
		listeners = append(listeners, l)
	}
	var background sync.WaitGroup
	background.Go(func() { s.watch.run(ctx, s.o.Log) })
	background.Go(func() { s.ledger.run(ctx, s.o.Clock) })
	background.Go(func() { s.logs(ctx) })
	if ready != nil {
		ready(addrs)
	}
	err := s.serve(ctx, listeners)
	cancel()
	background.Wait()
	return err
}

// serve runs one HTTP server per listener and stops all when one fails.
func (s *Server) serve(ctx context.Context, listeners []net.Listener) error {
	failed := make(chan error, len(listeners))
	var servers []*http.Server
	for i, l := range listeners {
		hs := newHTTPServer(s.ends[i].handler, s.o.Log)
		servers = append(servers, hs)
		go func() { failed <- hs.Serve(l) }()
	}
	var err error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, hs := range servers {
		if hs.Shutdown(stop) != nil {
			hs.Close()
		}
	}
	for range running {
		if e := <-failed; err == nil && !errors.Is(e, http.ErrServerClosed) {
			err = e
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// newHTTPServer has limits for hostile peers but none on how long a download
// takes: a 1 GB file over 1 Mbit/s takes hours (users.md §2.2). HTTP/1.1 only:
// update clients speak nothing else, and sendfile needs it.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return &http.Server{
		Handler: h, Protocols: p,
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) logs(ctx context.Context) {
	second, hour := time.NewTicker(time.Second), time.NewTicker(time.Hour)
	defer second.Stop()
	defer hour.Stop()
	s.access.prune()
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
			s.access.flush(s.o.Clock())
			s.o.Store.CloseIdle()
		case <-hour.C:
			s.access.prune()
		}
	}
}

// Close writes what is pending and frees the ledger.
func (s *Server) Close() (err error) {
	s.closing.Do(func() {
		s.access.flush(s.o.Clock())
		err = s.ledger.close(s.o.Clock())
	})
	return err
}
