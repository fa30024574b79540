package fetcher

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hashike/hashike/internal/feed"
)

// TestRateIsSharedPerHost: two bodies of one host together keep to its rate.
func TestRateIsSharedPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, each = 100 << 10, 1 << 20
		h := newHosts(Network{PerHost: 2, RatePerHost: rate}, nil, time.Now).get("cdn.example")
		began := time.Now()
		done := make(chan int64)
		for range 2 {
			if err := h.acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			go func() {
				ctx, cancel := context.WithCancelCause(t.Context())
				b := newBody(ctx, cancel, io.NopCloser(bytes.NewReader(make([]byte, each))), h, time.Minute)
				n, err := io.Copy(io.Discard, b)
				if err != nil {
					t.Error(err)
				}
				b.Close()
				b.Close() // gives its slot back once
				done <- n
			}()
		}
		total := <-done + <-done
		least := time.Duration(float64(2*each-2*rate) / rate * float64(time.Second))
		if took := time.Since(began); total != 2*each || took < least || took > 2*least {
			t.Errorf("%d bytes in %s, want about %s at %d a second", total, took, least, rate)
		}
		if len(h.slots) != 0 {
			t.Errorf("%d slots still taken", len(h.slots))
		}
	})
}

func TestCollectors(t *testing.T) {
	o := newOutside(t)
	f := o.fetcher()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range f.Collectors() {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	f.Run(t.Context(), setup("demo", nil, func(context.Context, feed.Upstream, feed.Content, feed.Sink) (string, error) {
		return "", feed.ErrUpstream
	}))
	got, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range got {
		if m.GetName() == "hashike_fetch_runs_total" && m.Metric[0].Counter.GetValue() == 1 {
			return
		}
	}
	t.Error("the run was not counted:", got)
}
