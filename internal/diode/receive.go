package diode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hashike/hashike/internal/durable"
)

// ReceiveOptions of a Receiver.
type ReceiveOptions struct {
	Dir   string // its own: spool, status, what was received
	Inbox string // on the same file system: whole sessions appear here, "diode-<id>"
	Key   Key
	Block int64 // bytes for blocks that are not whole yet; 0 is 64 MiB
	Ring  int64 // bytes of packets that wait for their turn; 0 is 32 MiB
	Spill int64 // bytes on disk for blocks put aside; 0 is 2 GiB
	Clock func() time.Time
	// Report is told what went wrong; receiving goes on.
	Report func(error)
	// Arrived is told of each session that is whole.
	Arrived func(f Finished, dir string)

	checkpoint time.Duration // tests; 0 is five seconds
}

// Limits of a receiver.
const (
	maxSessions   = 16
	maxTables     = 8
	maxRemembered = 1000
	spare         = 64 << 20 // bytes of disk that no session may take
)

// Receiver puts sessions together. One goroutine drains the socket and nothing
// else, one sorts packets, some decode and write, one computes digests.
type Receiver struct {
	o        ReceiveOptions
	seal     *seal
	count    counters
	sessions map[ID]*session
	tables   map[ID]*partialTable
	done     map[ID]bool
	leaving  map[ID]bool // given up; their directories are being removed
	finished []Finished
	recent   *session // of the packet before

	pool    *pool
	work    chan work
	hash    *hashQueue
	ring    chan *chunk
	empties chan *chunk
	workers int
	removal sync.WaitGroup

	rebuilt, damaged atomic.Int64
	troubled         struct {
		sync.Mutex
		text string
		at   time.Time
	}
}

// trouble reports an error of a worker, the same at most once a minute.
func (r *Receiver) trouble(err error) {
	t := &r.troubled
	t.Lock()
	defer t.Unlock()
	if text := err.Error(); text != t.text || time.Since(t.at) > time.Minute {
		t.text, t.at = text, time.Now()
		r.o.Report(err)
	}
}

// chunk is packets one after the other.
type chunk struct {
	buf  []byte
	ends []int
}

const chunkSize = 256 << 10

// NewReceiver opens the receiver's directory and takes up what an earlier one left.
func NewReceiver(o ReceiveOptions) (*Receiver, error) {
	for p, v := range map[*int64]int64{&o.Block: 64 << 20, &o.Ring: 32 << 20, &o.Spill: 2 << 30} {
		if *p == 0 {
			*p = v
		}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	if o.Arrived == nil {
		o.Arrived = func(Finished, string) {}
	}
	if o.checkpoint == 0 {
		o.checkpoint = 5 * time.Second
	}
	r := &Receiver{o: o, seal: newSeal(o.Key), sessions: map[ID]*session{}, tables: map[ID]*partialTable{}, done: map[ID]bool{}, leaving: map[ID]bool{},
		hash: newHashQueue(), workers: runtime.GOMAXPROCS(0)}
	for _, d := range []string{r.spool(), o.Inbox} {
		if err := durable.Mkdir(d); err != nil {
			return nil, err
		}
	}
	r.pool = &pool{limit: o.Block}
	r.work = make(chan work, 4)
	n := max(int(o.Ring/chunkSize), 4)
	r.ring, r.empties = make(chan *chunk, n), make(chan *chunk, n)
	for range n {
		r.empties <- nil // made when it is needed
	}
	return r, r.load()
}

func (r *Receiver) spool() string { return filepath.Join(r.o.Dir, "spool") }

// load reads what was received and what was begun.
func (r *Receiver) load() error {
	if err := r.loadDone(); err != nil {
		return err
	}
	ents, err := os.ReadDir(r.spool())
	if err != nil {
		return err
	}
	for _, e := range ents {
		b, err := hex.DecodeString(e.Name())
		if err != nil || len(b) != len(ID{}) {
			continue
		}
		dir := filepath.Join(r.spool(), e.Name())
		if _, err := os.Stat(filepath.Join(r.o.Inbox, "diode-"+e.Name())); err == nil && !r.done[ID(b)] { // killed right after the last rename
			if err := r.remember(ID(b)); err != nil {
				return err
			}
			r.done[ID(b)] = true
		}
		if r.done[ID(b)] { // killed before the removal
			if err := durable.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		s, err := loadSession(r, dir, ID(b))
		if err != nil {
			r.o.Report(fmt.Errorf("%s was begun anew: %w", dir, err))
			if err := durable.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		r.sessions[s.id] = s
	}
	return nil
}

// Run receives until the context ends. Everything that arrived is on the disk
// when it returns.
func (r *Receiver) Run(ctx context.Context, in Inlet, buffer Buffer) error {
	r.count.mu.Lock()
	r.count.s.Started, r.count.s.Buffer = r.o.Clock(), buffer
	r.count.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { in.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	g.Go(func() error { return r.drain(ctx, in) })
	var workers errgroup.Group
	for range r.workers {
		workers.Go(func() error {
			for w := range r.work {
				r.finishBlock(w)
			}
			return nil
		})
	}
	var hasher errgroup.Group
	hasher.Go(func() error { r.hashAll(); return nil })
	g.Go(func() error { r.watch(ctx, in); return nil })
	g.Go(func() error { r.checkpoints(ctx); return nil })
	g.Go(func() error {
		defer close(r.work)
		for c := range r.ring {
			r.chunk(c)
			r.empties <- c
		}
		return nil
	})
	for _, s := range r.open() { // what a killed receiver had not looked at
		r.hash.all(s)
	}
	err := g.Wait()
	workers.Wait()
	r.hash.close()
	hasher.Wait()
	r.removal.Wait()
	r.spillAll()
	r.checkpoint()
	_ = writeStatus(r.o.Dir, r.Status())
	if errors.Is(err, context.Canceled) {
		return ctx.Err()
	}
	return err
}

// drain does nothing but empty the socket into the ring.
func (r *Receiver) drain(ctx context.Context, in Inlet) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(r.ring)
	var c *chunk
	fresh := func() {
		if c = <-r.empties; c == nil {
			c = &chunk{buf: make([]byte, 0, chunkSize), ends: make([]int, 0, 256)}
		}
		c.buf, c.ends = c.buf[:0], c.ends[:0]
	}
	fresh()
	for {
		err := in.Read(func(b []byte) {
			if len(c.buf)+len(b) > cap(c.buf) {
				r.ring <- c
				fresh()
			}
			c.buf = append(c.buf, b...)
			c.ends = append(c.ends, len(c.buf))
		})
		if len(c.ends) > 0 {
			r.ring <- c
			fresh()
		}
		var timeout net.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.As(err, &timeout) && timeout.Timeout():
		default:
			return fmt.Errorf("receive: %w", err)
		}
	}
}

func (r *Receiver) chunk(c *chunk) {
	from := 0
	var n, fresh, bytes, foreign, newer int64
	r.count.mu.Lock()
	defer r.count.mu.Unlock()
	for _, end := range c.ends {
		b := c.buf[from:end]
		from = end
		h, shard, err := r.seal.open(b)
		switch err {
		case nil:
			n++
			bytes += int64(len(b))
			if r.count.runs.note(h.run, h.seq) {
				fresh++
			}
			r.packet(h, shard)
		case errNewer:
			newer++
		default:
			foreign++
		}
	}
	s := &r.count.s
	s.Packets, s.Bytes, s.Foreign, s.Newer = s.Packets+n, s.Bytes+bytes, s.Foreign+foreign, s.Newer+newer
	if fresh > 0 { // whoever repeats old packets does not make the line live
		s.LastPacket = r.o.Clock()
	}
}

// packet sorts one packet of our outside. count.mu is held.
func (r *Receiver) packet(h header, shard []byte) {
	switch h.kind {
	case kindTable:
		if r.done[h.session] || r.leaving[h.session] || r.session(h.session) != nil {
			return
		}
		r.tableShard(h, shard)
	case kindData:
		s := r.session(h.session)
		switch {
		case s != nil:
			r.shard(s, h, shard)
		case r.done[h.session]:
			r.count.s.Double++
		default:
			r.count.s.Strange++ // its table comes within two seconds
		}
	case kindEnd:
		if s := r.session(h.session); s != nil {
			s.endPass(int(h.block))
		}
	}
}

// watch keeps the status and the checkpoints.
func (r *Receiver) watch(ctx context.Context, in Inlet) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
		}
		r.count.tick(r.o.Clock())
		r.count.mu.Lock()
		r.count.s.Drops = in.Drops()
		r.count.mu.Unlock()
		if err := writeStatus(r.o.Dir, r.Status()); err != nil && ctx.Err() == nil {
			r.trouble(err)
		}
	}
}

// checkpoints are taken every few seconds.
func (r *Receiver) checkpoints(ctx context.Context) {
	t := time.NewTicker(r.o.checkpoint)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			r.checkpoint()
		}
	}
}

// checkpoint makes what arrived durable, and then says so on the disk. What is
// complete and still here met an error on its way to the inbox: it tries again.
func (r *Receiver) checkpoint() {
	for _, s := range r.open() {
		if err := s.checkpoint(); err != nil {
			r.trouble(err)
		}
		if s.complete() {
			r.hash.all(s)
		}
	}
}

func (r *Receiver) open() []*session {
	r.count.mu.Lock()
	defer r.count.mu.Unlock()
	var out []*session
	for _, s := range r.sessions {
		if !s.over.Load() {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *session) int { return a.since.Compare(b.since) })
	return out
}

// RandomKey is a key that nobody else has, for tests of a line.
func RandomKey() (k Key) {
	rand.Read(k[:])
	return k
}
