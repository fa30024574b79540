package fetcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Pauses of the schedule.
const (
	firstSpread = time.Minute      // between the daemon's start and first runs
	retryFirst  = 10 * time.Minute // after a passing failure; doubles up to the feed's own interval
)

// Schedule runs each feed every Setup.Every (and up to a tenth later, never
// sooner), until ctx ends; its error is ctx's. A restart does not ask again what
// was asked a moment ago. After a passing failure the next try comes sooner,
// but never before the end of a wait that the vendor asked for. Feeds without
// an interval are left to the operator.
func (f *Fetcher) Schedule(ctx context.Context, setups []feed.Setup) error {
	var wg sync.WaitGroup
	for _, s := range setups {
		if s.Every > 0 {
			wg.Go(func() { f.keep(ctx, s) })
		}
	}
	wg.Wait()
	<-ctx.Done()
	return ctx.Err()
}

// keep is one feed's life under the schedule.
func (f *Fetcher) keep(ctx context.Context, s feed.Setup) {
	next := f.firstRun(s)
	failures := 0
	for {
		next = f.Quiet.after(next)
		if sleep(ctx, next.Sub(f.Clock())) != nil || f.acquire(ctx) != nil {
			return
		}
		_, err := f.Run(ctx, s)
		f.release()
		if err == nil {
			failures = 0
		} else {
			failures++
		}
		next = f.Clock().Add(pause(s.Every, err, failures, f.Clock()))
	}
}

func (f *Fetcher) firstRun(s feed.Setup) time.Time {
	now := f.Clock()
	soon := now.Add(rand.N(min(firstSpread, s.Every)))
	var st state.FeedState
	if err := f.DB.View(func(tx state.Tx) (err error) { st, err = tx.Feed(s.Name); return err }); err != nil {
		f.Log.Warn("schedule", "feed", s.Name, "err", err)
		return soon
	}
	if due := st.Tried.Add(s.Every); st.Problem == "" && st.Tried.Before(now) && due.After(soon) {
		return due
	}
	return soon
}

// pause is how long to wait after a run.
func pause(every time.Duration, err error, failures int, now time.Time) time.Duration {
	d := every
	if errors.Is(err, feed.ErrTransient) || errors.Is(err, state.ErrBusy) {
		d = min(every, retryFirst<<min(failures-1, 10))
	}
	if w, ok := errors.AsType[*waiting](err); ok {
		d = max(w.until.Sub(now), time.Second)
	}
	return d + rand.N(d/10+1)
}

// after is t, or the end of the quiet hours that t falls into.
func (q Quiet) after(t time.Time) time.Time {
	if q.From == q.To {
		return t
	}
	j := t.In(feed.JST())
	midnight := time.Date(j.Year(), j.Month(), j.Day(), 0, 0, 0, 0, feed.JST())
	at := j.Sub(midnight)
	switch {
	case q.From < q.To && at >= q.From && at < q.To, q.From > q.To && at < q.To:
		return midnight.Add(q.To)
	case q.From > q.To && at >= q.From:
		return midnight.Add(24*time.Hour + q.To)
	}
	return t
}
