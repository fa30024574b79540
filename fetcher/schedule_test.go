package fetcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// clockwork runs a schedule of feeds without a network under a virtual clock
// and returns when each ran.
func clockwork(t *testing.T, for_ time.Duration, every map[string]time.Duration, quiet Quiet, result func(name string, run int) error) map[string][]time.Time {
	t.Helper()
	o := newOutside(t)
	ran := map[string][]time.Time{}
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []feed.Setup
		for name, d := range every {
			s := setup(name, nil, func(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				ran[name] = append(ran[name], time.Now())
				return "", result(name, len(ran[name]))
			})
			s.Every = d
			all = append(all, s)
		}
		o.opt.Quiet = quiet
		f, err := New(o.opt)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), for_)
		defer cancel()
		if err := f.Schedule(ctx, all); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	return ran
}

func failing(string, int) error { return fmt.Errorf("broken format: %w", feed.ErrUpstream) }

func TestScheduleInterval(t *testing.T) {
	ran := clockwork(t, 24*time.Hour, map[string]time.Duration{"hourly": time.Hour, "six": 6 * time.Hour, "never": 0}, Quiet{}, failing)
	if n := len(ran["hourly"]); n < 21 || n > 24 {
		t.Errorf("hourly ran %d times a day", n)
	}
	if n := len(ran["six"]); n < 3 || n > 4 {
		t.Errorf("every six hours ran %d times a day", n)
	}
	if len(ran["never"]) != 0 {
		t.Error("a feed without an interval ran")
	}
	same := true
	for i, at := range ran["hourly"][1:] {
		d := at.Sub(ran["hourly"][i])
		if d < time.Hour || d > 66*time.Minute+time.Second {
			t.Errorf("pause of %s", d)
		}
		same = same && d == ran["hourly"][1].Sub(ran["hourly"][0])
	}
	if same {
		t.Error("no jitter")
	}
}

func TestScheduleFailures(t *testing.T) {
	ran := clockwork(t, 12*time.Hour, map[string]time.Duration{"a": 4 * time.Hour, "b": time.Hour}, Quiet{}, func(name string, n int) error {
		switch {
		case name == "b":
			return fmt.Errorf("x: %w: %w", &waiting{time.Now().Add(5 * time.Hour)}, feed.ErrTransient)
		case n <= 2:
			return fmt.Errorf("down: %w", feed.ErrTransient)
		}
		return failing(name, n)
	})
	d1, d2, d3 := ran["a"][1].Sub(ran["a"][0]), ran["a"][2].Sub(ran["a"][1]), ran["a"][3].Sub(ran["a"][2])
	if d1 < 10*time.Minute || d1 > 12*time.Minute || d2 < 20*time.Minute || d2 > 23*time.Minute || d3 < 4*time.Hour {
		t.Errorf("pauses %s %s %s", d1, d2, d3)
	}
	if len(ran["b"]) != 3 {
		t.Errorf("a vendor that asked for five hours was asked %d times in twelve", len(ran["b"]))
	}
}

func TestScheduleQuiet(t *testing.T) {
	q := Quiet{From: 8 * time.Hour, To: 18 * time.Hour}
	ran := clockwork(t, 72*time.Hour, map[string]time.Duration{"a": time.Hour}, q, failing)
	for _, at := range ran["a"] {
		if h := at.In(feed.JST()).Hour(); h >= 8 && h < 18 {
			t.Errorf("ran at %s", at.In(feed.JST()))
		}
	}
	if n := len(ran["a"]); n < 36 || n > 45 {
		t.Errorf("%d runs in three nights", n)
	}
	over := Quiet{From: 22 * time.Hour, To: 6 * time.Hour}
	for in, want := range map[string]string{
		"2026-04-01T23:30:00+09:00": "2026-04-02T06:00:00+09:00",
		"2026-04-02T05:59:59+09:00": "2026-04-02T06:00:00+09:00",
		"2026-04-02T06:00:00+09:00": "2026-04-02T06:00:00+09:00",
		"2026-04-02T12:00:00+09:00": "2026-04-02T12:00:00+09:00",
	} {
		at, _ := time.Parse(time.RFC3339, in)
		if got := over.after(at).In(feed.JST()).Format(time.RFC3339); got != want {
			t.Errorf("%s → %s, want %s", in, got, want)
		}
	}
}

func TestScheduleAfterRestart(t *testing.T) {
	o := newOutside(t)
	o.db.Update(func(tx state.Tx) error {
		return tx.PutFeed("a", state.FeedState{Kind: "fake", Tried: time.Now().Add(-10 * time.Minute)})
	})
	f := o.fetcher()
	if d := f.firstRun(setup("a", nil, nil)).Sub(f.Clock()); d < 49*time.Minute || d > 50*time.Minute {
		t.Errorf("asked again %s after a restart, want when it is due", d)
	}
	if d := f.firstRun(setup("b", nil, nil)).Sub(f.Clock()); d > time.Minute {
		t.Errorf("first run %s after the start", d)
	}
}
