package mirror

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// tree is all that is served at one moment. It never changes: a publication
// makes a new one, and requests that run keep the one they began with.
type tree struct {
	mounts []*mounted // longest mount first
	feeds  map[string]*mounted
}

// mounted is one feed's handler over what its rings see.
type mounted struct {
	setup   feed.Setup
	handler http.Handler
	views   map[string]feed.View  // by ring
	gens    map[string]Generation // by ring
	marks   string                // of the generation files it was built from
	err     error                 // why newer files do not count
	built   time.Time
	mu      sync.RWMutex
	asked   map[asked]took // of popular paths
	stats   *feedStats
}

// at finds the feed that a path belongs to, and the path within it.
func (t *tree) at(p string) (*mounted, string) {
	for _, m := range t.mounts {
		if rest, ok := strings.CutPrefix(p, m.setup.Mount); ok {
			return m, p[len(p)-len(rest)-1:]
		}
	}
	return nil, ""
}

// retryBuild is how long a publication that did not count waits for another try.
const retryBuild = 10 * time.Second

// watcher follows published/ and builds trees. One goroutine calls look.
type watcher struct {
	o       *ServerOptions
	snaps   *snapshots
	ledger  feed.Ledger
	secret  secret
	metrics *metrics
	tree    atomic.Pointer[tree]
	looked  atomic.Int64 // Unix seconds of the last look that worked
}

// marksOf tells whether generation files changed: names, sizes and times.
func marksOf(data state.Dir, name string) (string, error) {
	var b strings.Builder
	for _, ring := range feed.Rings() {
		ents, err := os.ReadDir(data.Published(ring, name))
		if err != nil && !os.IsNotExist(err) {
			return "", err
		}
		b.WriteString(ring)
		for _, e := range ents {
			if !strings.HasSuffix(e.Name(), ".json") {
				continue
			}
			if st, err := e.Info(); err == nil {
				fmt.Fprintf(&b, " %s:%d:%d", e.Name(), st.Size(), st.ModTime().UnixNano())
			}
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// look builds anew what changed, and swaps it in.
func (w *watcher) look() error {
	old := w.tree.Load()
	if old == nil {
		old = &tree{feeds: map[string]*mounted{}}
	}
	next := &tree{feeds: map[string]*mounted{}}
	changed := map[string]bool{}
	for _, s := range w.o.Feeds {
		marks, err := marksOf(w.o.Data, s.Name)
		if err != nil {
			return err
		}
		m := old.feeds[s.Name]
		if m == nil || m.marks != marks || m.err != nil && time.Since(m.built) > retryBuild {
			changed[s.Name] = true
			m = w.build(s, marks, m)
		}
		next.feeds[s.Name] = m
		next.mounts = append(next.mounts, m)
	}
	w.swap(next)
	w.follow(next, changed)
	w.looked.Store(time.Now().Unix())
	return nil
}

// follow builds again the feeds that read another's content, when that changed.
func (w *watcher) follow(now *tree, changed map[string]bool) {
	next := &tree{feeds: maps.Clone(now.feeds), mounts: slices.Clone(now.mounts)}
	any := false
	for i, m := range next.mounts {
		k, ok := m.setup.Feed.(feed.Peers)
		if ok && slices.ContainsFunc(k.Peers(), func(p string) bool { return changed[p] }) {
			next.mounts[i] = w.build(m.setup, m.marks, m)
			next.feeds[m.setup.Name] = next.mounts[i]
			any = true
		}
	}
	if any {
		w.swap(next)
	}
}

func (w *watcher) swap(next *tree) {
	slices.SortStableFunc(next.mounts, func(a, b *mounted) int { return len(b.setup.Mount) - len(a.setup.Mount) })
	w.tree.Store(next)
}

// build makes a feed's handler from the highest readable generation of each
// ring. If that is impossible, what was served before stays.
func (w *watcher) build(s feed.Setup, marks string, before *mounted) *mounted {
	m := &mounted{setup: s, marks: marks, views: map[string]feed.View{}, gens: map[string]Generation{}, stats: w.metrics.of(s.Name), built: time.Now()}
	used := map[uint64]bool{}
	for _, ring := range feed.Rings() {
		gens, unreadable, err := Generations(w.o.Data, ring, s.Name)
		if err == nil && len(unreadable) > 0 {
			m.err = unreadable[0]
		} else if err != nil {
			m.err = err
		}
		for _, g := range gens {
			v, err := feed.View{}, error(nil)
			if !g.Stopped {
				// The write path's work, and done here only where the
				// program is newer than what was published.
				if err = deriveFor(context.Background(), w.o.Data, w.o.Store, s, g); err == nil {
					v, err = view(w.o.Data, w.snaps, g)
				}
			}
			if err != nil {
				m.err = err
				continue
			}
			m.gens[ring] = g
			if !g.Stopped {
				m.views[ring] = v
			}
			for _, n := range g.serials() {
				used[n] = true
			}
			break
		}
	}
	w.snaps.forget(s.Name, used)
	h, err := s.Feed.Handler(w.serving(s, m))
	if err != nil {
		m.err = err
		if before != nil {
			kept := &mounted{
				setup: s, handler: before.handler, views: before.views, gens: before.gens,
				marks: marks, err: err, stats: before.stats, built: time.Now(),
			}
			w.report(before, kept)
			return kept
		}
		h = http.HandlerFunc(unavailable)
	}
	m.handler = h
	w.report(before, m)
	return m
}

// report logs a change once, not at every look.
func (w *watcher) report(before, m *mounted) {
	if m.err != nil && (before == nil || before.err == nil || before.err.Error() != m.err.Error()) {
		w.o.Log.Error("publication does not count", "feed", m.setup.Name, "error", m.err)
	}
	for ring, g := range m.gens {
		if before == nil || before.gens[ring].Number != g.Number {
			w.o.Log.Info("serving", "feed", g.Feed, "ring", ring, "serial", g.Serial, "generation", g.Number, "stopped", g.Stopped)
		}
	}
}

func (w *watcher) serving(s feed.Setup, m *mounted) feed.Serving {
	return feed.Serving{
		Feed: s.Name,
		View: m.view,
		Ring: w.o.Rings.Of,
		Peer: func(name, ring string) (feed.Peer, error) { return w.peer(s, name, ring) },
		Base: w.o.base(s), Ledger: w.ledger, Secret: w.secret.of(s.Name),
		Log: w.o.Log.With("feed", s.Name),
	}
}

// view is a ring's view: its own or, where nothing was published to it, that
// of the rings after it. A withdrawn feed has none.
func (m *mounted) view(ring string) (feed.View, bool) {
	rings := feed.Rings()
	i := slices.Index(rings, ring)
	if i < 0 {
		return feed.View{}, false
	}
	for _, r := range rings[i:] {
		if _, has := m.gens[r]; has {
			v, ok := m.views[r]
			return v, ok
		}
	}
	return feed.View{}, false
}

// peer is what terminals of a ring see of another feed, if this one's config names it.
func (w *watcher) peer(s feed.Setup, name, ring string) (feed.Peer, error) {
	k, ok := s.Feed.(feed.Peers)
	if !ok || !slices.Contains(k.Peers(), name) {
		return feed.Peer{}, fmt.Errorf("feed %s does not name %q as a peer: %w", s.Name, name, feed.ErrConfig)
	}
	t := w.tree.Load()
	if t == nil || t.feeds[name] == nil {
		return feed.Peer{}, fmt.Errorf("feed %s: %w", name, fs.ErrNotExist)
	}
	m := t.feeds[name]
	v, ok := m.view(ring)
	if !ok {
		return feed.Peer{}, fmt.Errorf("feed %s: nothing published: %w", name, fs.ErrNotExist)
	}
	return feed.Peer{Feed: m.setup.Feed, View: v}, nil
}

// run looks every poll until ctx ends.
func (w *watcher) run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(w.o.Poll)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := w.look()
		if err != nil && !failed {
			log.Error("published directory", "error", err)
		}
		failed = err != nil
	}
}

func unavailable(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "nothing published yet", http.StatusServiceUnavailable)
}

// base is how terminals reach a feed.
func (o *ServerOptions) base(s feed.Setup) *url.URL { return o.baseFor(s, "http", "localhost") }

func (o *ServerOptions) baseFor(s feed.Setup, scheme, host string) *url.URL {
	u := url.URL{Scheme: scheme, Host: host, Path: s.Mount}
	if b, err := url.Parse(o.Base); err == nil && b.Host != "" {
		u.Scheme, u.Host = b.Scheme, b.Host
	}
	return &u
}
