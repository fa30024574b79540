package diode

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// SendOptions of a Sender.
type SendOptions struct {
	Rate int64 // bits per second on the wire, headers included; required
	Key  Key
	// Warm is how long padding is sent before the first packet that matters and
	// after an idle time, so that every device on the way is awake; 0 is one
	// second. Trail is how long a session's end is repeated; 0 is one second.
	Warm, Trail time.Duration
	TableEvery  time.Duration // 0 is two seconds
	BeatEvery   time.Duration // of an idle line; 0 is one second
	MaxBatch    int           // packets handed to the kernel at once; 0 is what fits
	// Report is told what went wrong with a job; the line goes on.
	Report func(error)
	// Done is called after each pass of a job, with the number of it.
	Done func(j *Job, pass int)
	// Failed is called when a job is dropped because its directory cannot be read.
	Failed func(j *Job, err error)
	// Frame is what a packet costs on the wire besides its payload; 0 is IPv4's.
	Frame int
}

// Wire takes packets of one size, one after the other in b. It never waits for
// anybody but the kernel, and an error is the machine's, never the peer's.
type Wire interface {
	Write(b []byte, size int) error
}

// Job is a directory that is sent so many times.
type Job struct {
	Dir      string
	Table    *Table
	Passes   int // 0 is for ever
	Priority int // higher goes first, at once
	// Only are the blocks to send, from a receiver's need list; nil is all.
	Only []Span

	packed []byte
	id     ID
	pass   int
	groups chan group // of the pass that is under way
	stop   context.CancelFunc
	table  time.Time // when it was last sent
}

// ID is the job's session.
func (j *Job) ID() ID { return j.id }

// NewJob makes the job of a scanned directory.
func NewJob(dir string, t *Table) (*Job, error) {
	packed, id, err := t.encode()
	return &Job{Dir: dir, Table: t, Passes: 1, packed: packed, id: id}, err
}

// Sender sends jobs by priority. It is one goroutine's; Add may be called by
// others, before and while it runs.
type Sender struct {
	o     SendOptions
	wire  Wire
	seal  *seal
	run   uint64
	seq   uint32
	pace  *pacer
	batch []byte
	size  int // of a packet in batch
	jobs  []*Job
	first bool

	mu    sync.Mutex
	added []*Job        // not yet among jobs
	more  chan struct{} // something was added

	Packets, Bytes int64 // sent on the wire
}

// ErrRate refuses a sender without a rate: without one it would fill every
// buffer on the way and lose packets where nobody sees it.
var ErrRate = errors.New("no rate: a sender that does not know the line's rate loses packets")

// NewSender makes a sender on a wire.
func NewSender(w Wire, o SendOptions) (*Sender, error) {
	if o.Rate < 10_000 {
		return nil, ErrRate
	}
	for d, v := range map[*time.Duration]time.Duration{&o.Warm: time.Second, &o.Trail: time.Second, &o.TableEvery: 2 * time.Second, &o.BeatEvery: time.Second} {
		if *d == 0 {
			*d = v
		}
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	if o.Done == nil {
		o.Done = func(*Job, int) {}
	}
	if o.Failed == nil {
		o.Failed = func(*Job, error) {}
	}
	if o.Frame == 0 {
		o.Frame = Frame
	}
	s := &Sender{o: o, wire: w, seal: newSeal(o.Key), pace: newPacer(o.Rate), more: make(chan struct{}, 1), first: true}
	s.newRun()
	return s, nil
}

func (s *Sender) newRun() {
	var b [8]byte
	rand.Read(b[:])
	s.run, s.seq = binary.BigEndian.Uint64(b[:]), 0
}

// Add hands over a job.
func (s *Sender) Add(j *Job) {
	s.mu.Lock()
	s.added = append(s.added, j)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// Run sends until the context ends or, if not forever, until no job is left.
func (s *Sender) Run(ctx context.Context, forever bool) error {
	defer func() {
		for _, j := range s.jobs {
			j.close()
		}
	}()
	for {
		s.take()
		j := s.pick()
		if j == nil && !forever {
			return s.flush(ctx)
		}
		if j == nil {
			if err := s.idle(ctx); err != nil {
				return err
			}
			continue
		}
		if err := s.step(ctx, j); err != nil {
			return err
		}
	}
}

// take moves handed-over jobs to the queue; a session that waits is not doubled.
func (s *Sender) take() {
	s.mu.Lock()
	added := s.added
	s.added = nil
	s.mu.Unlock()
	for _, j := range added {
		s.queue(j)
	}
}

// queue takes one job. A folder whose content is another now is not sent as it was.
func (s *Sender) queue(j *Job) {
	if j.Only == nil {
		for i, o := range s.jobs {
			if o.Only == nil && o.id == j.id {
				return
			}
			if o.Only == nil && o.Dir == j.Dir {
				o.close()
				s.jobs[i] = j
				return
			}
		}
	}
	s.jobs = append(s.jobs, j)
}

// pick is the job to serve next: resends, then by priority, first passes before
// repetitions, small before large. An endless job has its priority for its
// first pass only: its repetitions would let nothing else through.
func (s *Sender) pick() *Job {
	if len(s.jobs) == 0 {
		return nil
	}
	return slices.MinFunc(s.jobs, func(a, b *Job) int {
		switch {
		case (a.Only != nil) != (b.Only != nil):
			if a.Only != nil {
				return -1
			}
			return 1
		case a.rank() != b.rank():
			return cmp.Compare(b.rank(), a.rank())
		case a.pass != b.pass:
			return a.pass - b.pass
		case a.Table.Bytes < b.Table.Bytes:
			return -1
		case a.Table.Bytes > b.Table.Bytes:
			return 1
		}
		return 0
	})
}

func (j *Job) rank() int {
	if j.Passes == 0 && j.pass > 0 {
		return math.MinInt
	}
	return j.Priority
}

// step sends one group of a job's blocks.
func (s *Sender) step(ctx context.Context, j *Job) error {
	if s.first {
		s.first = false
		if err := s.beats(ctx, s.o.Warm, j.Table.Shard); err != nil {
			return err
		}
	}
	if j.groups == nil {
		// Twice, and a pause for what overtakes others on the way: data that
		// comes before its table is lost.
		for range 2 {
			if err := s.sendTable(ctx, j); err != nil {
				return err
			}
		}
		if err := s.beats(ctx, s.o.Warm/50, j.Table.Shard); err != nil {
			return err
		}
		j.start(ctx)
	}
	g, more := <-j.groups
	switch {
	case more && g.err == nil:
		err := s.group(ctx, j, g)
		g.free <- g.blocks
		return err
	case more:
		j.close()
		s.drop(j)
		if ctx.Err() == nil {
			s.o.Report(fmt.Errorf("%s: %w", j.Dir, g.err))
			s.o.Failed(j, g.err)
		}
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.end(ctx, j)
}

// end finishes a pass.
func (s *Sender) end(ctx context.Context, j *Job) error {
	j.close()
	j.pass++
	last := j.Passes > 0 && j.pass >= j.Passes
	trail := s.o.Trail / 10
	if last {
		trail = s.o.Trail
	}
	// The line keeps its rate to the end, and the table comes once more for
	// whoever lost it.
	if err := s.sendTable(ctx, j); err != nil {
		return err
	}
	h := header{kind: kindEnd, session: j.id, block: uint32(j.pass)}
	if err := s.pad(ctx, h, trail, j.Table.Shard); err != nil {
		return err
	}
	if last {
		s.drop(j)
	}
	s.o.Done(j, j.pass)
	return nil
}

func (s *Sender) drop(j *Job) {
	s.jobs = slices.DeleteFunc(s.jobs, func(o *Job) bool { return o == j })
}

// group sends the shards of some blocks in turns.
func (s *Sender) group(ctx context.Context, j *Job, g group) error {
	t := j.Table
	for i := range t.Data + t.Parity {
		if time.Since(j.table) >= j.tablePause(s.o) {
			if err := s.sendTable(ctx, j); err != nil {
				return err
			}
		}
		for _, b := range g.blocks {
			if i >= b.data && i < t.Data {
				continue // zeros beyond the end
			}
			if err := s.packet(ctx, header{kind: kindData, session: j.id, block: b.n, shard: byte(i)}, b.shards[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// tablePause is the time between two tables: two seconds, more where a large
// table would take more than a twentieth of the line.
func (j *Job) tablePause(o SendOptions) time.Duration {
	return max(o.TableEvery, time.Duration(float64(len(j.packed))*2*8*20/float64(o.Rate)*1e9))
}

// packet appends one packet to the batch and sends the batch when it is full.
func (s *Sender) packet(ctx context.Context, h header, shard []byte) error {
	size := headerSize + len(shard) + tagSize
	if s.size != size || len(s.batch)+size > cap(s.batch) {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	if s.size != size {
		s.size = size
		s.batch = make([]byte, 0, s.perBatch(size)*size)
	}
	h.run, h.seq = s.run, s.seq
	if s.seq++; s.seq == 0 {
		s.newRun() // no nonce is used twice
	}
	n := len(s.batch)
	s.batch = s.batch[:n+size]
	b := s.batch[n:]
	h.put(b)
	copy(b[headerSize:], shard)
	s.seal.sign(b)
	return nil
}

// perBatch is how many packets are handed over at once: what one GSO write
// takes, and at most 2 ms of the rate, so that a slow line sees no bursts.
func (s *Sender) perBatch(size int) int {
	n := min(65_507/size, 64)
	if s.o.MaxBatch > 0 {
		n = min(n, s.o.MaxBatch)
	}
	return max(1, min(n, int(float64(s.o.Rate)*0.002/8/float64(size+s.o.Frame))))
}

func (s *Sender) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return ctx.Err()
	}
	n := len(s.batch) / s.size
	bytes := len(s.batch) + n*s.o.Frame
	if err := s.pace.wait(ctx, bytes); err != nil {
		return err
	}
	if err := s.wire.Write(s.batch, s.size); err != nil {
		return err
	}
	s.Packets, s.Bytes = s.Packets+int64(n), s.Bytes+int64(bytes)
	s.batch = s.batch[:0]
	return nil
}

// beats keeps the line at its rate with packets that mean nothing.
func (s *Sender) beats(ctx context.Context, d time.Duration, shard int) error {
	return s.pad(ctx, header{kind: kindBeat}, d, shard)
}

// pad repeats one packet at the line's rate, at least ten times.
func (s *Sender) pad(ctx context.Context, h header, d time.Duration, shard int) error {
	body := make([]byte, shard)
	n := max(10, int(float64(s.o.Rate)*d.Seconds()/8/float64(shard+headerSize+tagSize+s.o.Frame)))
	for range n {
		if err := s.packet(ctx, h, body); err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// idle sends one heartbeat and waits for the time of the next or for a job.
func (s *Sender) idle(ctx context.Context) error {
	s.first = true // whoever slept is woken before the next session
	shard := minShard
	if s.size > 0 {
		shard = s.size - headerSize - tagSize
	}
	if err := s.packet(ctx, header{kind: kindBeat}, make([]byte, shard)); err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	t := time.NewTimer(s.o.BeatEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.more:
	case <-t.C:
	}
	return nil
}
