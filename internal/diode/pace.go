package diode

import (
	"context"
	"time"
)

// catchUp is how much a sender that was late may send at once, so that the
// scheduler's delays do not lower the rate: 10 ms of it.
const catchUp = 10 * time.Millisecond

// pacer spreads bytes on the wire over time.
type pacer struct {
	perByte float64 // nanoseconds
	next    time.Time
}

// newPacer makes one for a rate in bits per second on the wire.
func newPacer(rate int64) *pacer { return &pacer{perByte: 8e9 / float64(rate)} }

// wait returns when n more bytes may be sent.
func (p *pacer) wait(ctx context.Context, n int) error {
	now := time.Now()
	if early := now.Add(-catchUp); p.next.Before(early) {
		p.next = early
	}
	d := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) * p.perByte))
	if d <= 0 {
		return ctx.Err()
	}
	return sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d < 20*time.Millisecond { // too short for a timer and a channel
		time.Sleep(d)
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
