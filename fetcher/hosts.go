package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// hosts holds what is shared by all feeds that ask the same host: how many
// requests at a time, how fast, and how long it wants to be left alone.
type hosts struct {
	net   Network
	db    *state.DB
	clock func() time.Time

	mu    sync.Mutex
	all   map[string]*host
	cools map[string]cooldown
}

type host struct {
	slots chan struct{}
	rate  *rate.Limiter // nil is no limit
}

const cooldownBucket = "cooldowns"

// How long a host is left alone when it does not say.
const (
	coolLimited    = 4 * time.Hour // 429
	coolForbidden  = time.Hour     // 403; doubles with each in a row
	coolAtMost     = 24 * time.Hour
	strikesForgive = 48 * time.Hour
)

// cooldown is kept in the state under the host's name.
type cooldown struct {
	Until   time.Time `json:"until"`
	Status  int       `json:"status"`
	Reason  string    `json:"reason"`
	Strikes int       `json:"strikes,omitempty"` // 403s in a row
}

func newHosts(n Network, db *state.DB, clock func() time.Time) *hosts {
	return &hosts{net: n, db: db, clock: clock, all: map[string]*host{}, cools: map[string]cooldown{}}
}

func (s *hosts) get(name string) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = strings.ToLower(name)
	h := s.all[name]
	if h == nil {
		h = &host{slots: make(chan struct{}, s.net.PerHost)}
		if r := s.net.RatePerHost; r > 0 {
			h.rate = rate.NewLimiter(rate.Limit(r), int(min(max(r, 16<<10), 1<<20)))
		}
		s.all[name] = h
	}
	return h
}

func (h *host) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *host) release() { <-h.slots }

// load reads what earlier runs and other processes recorded.
func (s *hosts) load(tx state.Tx) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.cools)
	for name, decode := range tx.All(cooldownBucket, "") {
		var c cooldown
		if err := decode(&c); err != nil {
			return fmt.Errorf("state %s/%s: %w: %w", cooldownBucket, name, err, feed.ErrDamaged)
		}
		s.cools[name] = c
	}
	return nil
}

// cool is the fault of a host that wants to be left alone, nil if it does not.
func (s *hosts) cool(feedName, name string) error {
	s.mu.Lock()
	c, ok := s.cools[strings.ToLower(name)]
	s.mu.Unlock()
	if !ok || !s.clock().Before(c.Until) {
		return nil
	}
	return c.fault(feedName, name)
}

// waiting carries the end of a cool-down to the scheduler.
type waiting struct{ until time.Time }

func (w *waiting) Error() string { return "not before " + w.until.UTC().Format(time.RFC3339) }

func (c cooldown) fault(feedName, host string) error {
	code := "H-303"
	if c.Status == http.StatusForbidden {
		code = "H-305"
	}
	return feed.NewFault(fmt.Errorf("%s: %s: %w: %w", host, c.Reason, &waiting{c.Until}, feed.ErrTransient),
		code, "feed", feedName, "host", host, "status", strconv.Itoa(c.Status), "until", c.Until.UTC().Format(time.RFC3339))
}

// rest records that a host wants to be left alone, durably, and returns the fault.
func (s *hosts) rest(feedName, name string, status int, d time.Duration, reason string) error {
	key := strings.ToLower(name)
	s.mu.Lock()
	c := s.cools[key]
	now := s.clock()
	if status == http.StatusForbidden {
		if now.Sub(c.Until) > strikesForgive {
			c.Strikes = 0
		}
		d = min(coolForbidden<<min(c.Strikes, 5), coolAtMost)
		c.Strikes++
	}
	c.Until, c.Status, c.Reason = now.Add(d).UTC().Truncate(time.Second), status, reason
	s.cools[key] = c
	s.mu.Unlock()
	if err := s.db.Update(func(tx state.Tx) error { return tx.Put(cooldownBucket, key, c) }); err != nil {
		return errors.Join(c.fault(feedName, name), err)
	}
	return c.fault(feedName, name)
}

// forgive drops the record of hosts that blocked us, so that an operator who
// has had the way opened need not wait. What a vendor asked by 429 stays.
func (s *hosts) forgive() error {
	return s.db.Update(func(tx state.Tx) error {
		if err := s.load(tx); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for name, c := range s.cools {
			if c.Status == http.StatusForbidden {
				delete(s.cools, name)
				if err := tx.Delete(cooldownBucket, name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Forgive forgets the waits after 403 answers: for an operator who has just
// had a host permitted. Waits that a vendor asked for (429, 503) stay.
func (f *Fetcher) Forgive() error { return f.up.hosts.forgive() }

var errStalled = errors.New("nothing came for too long")

// body is a response body that keeps to its host's rate, ends when nothing
// comes, and gives the host's slot back when closed.
type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	h      *host
	stall  time.Duration
	timer  *time.Timer
	once   sync.Once
}

func newBody(ctx context.Context, cancel context.CancelCauseFunc, rc io.ReadCloser, h *host, stall time.Duration) *body {
	b := &body{ReadCloser: rc, ctx: ctx, cancel: cancel, h: h, stall: stall}
	b.timer = time.AfterFunc(stall, func() { cancel(errStalled) })
	return b
}

func (b *body) Read(p []byte) (int, error) {
	if b.h.rate != nil {
		p = p[:min(len(p), b.h.rate.Burst())]
	}
	b.timer.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if cause := context.Cause(b.ctx); err != nil && cause != nil {
		err = cause
	}
	if n > 0 && b.h.rate != nil {
		if werr := b.h.rate.WaitN(b.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err
}

func (b *body) Close() error {
	var err error
	b.once.Do(func() {
		b.timer.Stop()
		err = b.ReadCloser.Close()
		b.cancel(nil)
		b.h.release()
	})
	return err
}
