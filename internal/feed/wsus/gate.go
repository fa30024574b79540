package wsus

import "context"

// A gate bounds the calls that work at a time, and those that wait for a place.
// A call comes to it with its request read and its cookie checked: strangers
// and slow senders hold no place.
type gate struct {
	work chan struct{}
	wait chan struct{}
}

func newGate(work, wait int) gate {
	return gate{make(chan struct{}, work), make(chan struct{}, work+wait)}
}

// enter waits for a place; leave gives it back. A ServerBusy fault where too
// many wait already: terminals and servers then come again later (MS-WUSP
// 2.2.2.4).
func (g gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.wait <- struct{}{}:
	default:
		return nil, &fault{codeBusy, "too many requests"}
	}
	select {
	case g.work <- struct{}{}:
		return func() { <-g.work; <-g.wait }, nil
	case <-ctx.Done():
		<-g.wait
		return nil, ctx.Err()
	}
}

// How many calls work and wait. A scan call takes milliseconds and little
// memory, so a herd of terminals queues; what servers ask costs seconds and up
// to maxReply, and a site has few servers.
const (
	terminalsAtOnce = 8
	terminalsQueued = 4096
	serversAtOnce   = 2
	serversQueued   = 30
)

const (
	codeBusy   = "ServerBusy"
	retryAfter = "60" // seconds, beside a ServerBusy fault
)
