package diode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashike/hashike/internal/durable"
)

// hashQueue is the files whose digest can go on.
type hashQueue struct {
	mu     sync.Mutex
	ready  *sync.Cond
	list   []hashItem
	in     map[hashItem]bool
	closed bool
}

type hashItem struct {
	s *session
	i int
}

func newHashQueue() *hashQueue {
	q := &hashQueue{in: map[hashItem]bool{}}
	q.ready = sync.NewCond(&q.mu)
	return q
}

func (q *hashQueue) add(s *session, i int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := (hashItem{s, i}); !q.in[it] && !q.closed {
		q.in[it] = true
		q.list = append(q.list, it)
		q.ready.Signal()
	}
}

// all adds every file of which all blocks are there.
func (q *hashQueue) all(s *session) {
	s.mu.Lock()
	left := slices.Clone(s.left)
	s.mu.Unlock()
	for i, n := range left {
		if n == 0 {
			q.add(s, i)
		}
	}
}

func (q *hashQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Broadcast()
}

// next waits for an item; false after close once the list is empty.
func (q *hashQueue) next() (hashItem, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 && !q.closed {
		q.ready.Wait()
	}
	if len(q.list) == 0 {
		return hashItem{}, false
	}
	it := q.list[0]
	q.list = q.list[1:]
	delete(q.in, it)
	return it, true
}

// hashAll is the goroutine that computes digests and lets sessions arrive.
func (r *Receiver) hashAll() {
	buf := make([]byte, 256<<10)
	for {
		it, ok := r.hash.next()
		if !ok {
			return
		}
		if it.s.over.Load() {
			continue
		}
		if err := it.s.hashFile(it.i, buf); err != nil {
			r.trouble(fmt.Errorf("session %s: %w", it.s.t.Name, err))
			continue
		}
		it.s.mu.Lock()
		whole := it.s.wholeN == len(it.s.t.Files)
		it.s.mu.Unlock()
		if whole {
			if err := it.s.arrive(); err != nil {
				r.trouble(fmt.Errorf("session %s: %w", it.s.t.Name, err))
			}
		}
	}
}

// hashFile goes on with a file's digest as far as its blocks are there.
func (s *session) hashFile(i int, buf []byte) error {
	f := s.t.Files[i]
	s.mu.Lock()
	st := s.hashes[i]
	if st == nil {
		st = &hashState{h: sha256.New()}
		s.hashes[i] = st
	}
	end := st.at
	for end < f.Size {
		n := (f.at + end) / s.t.Block()
		if !s.done.get(n) {
			break
		}
		end = min((n+1)*s.t.Block()-f.at, f.Size)
	}
	whole := s.whole.get(int64(i))
	s.mu.Unlock()
	if whole || end < f.Size && end == st.at {
		return nil
	}
	file, done, err := s.file(i) // makes empty files
	if err != nil {
		return err
	}
	for st.at < end && err == nil {
		var n int
		n, err = file.ReadAt(buf[:min(int64(len(buf)), end-st.at)], st.at)
		st.h.Write(buf[:n])
		st.at += int64(n)
		if errors.Is(err, io.EOF) && n > 0 {
			err = nil
		}
	}
	if err = errors.Join(err, done()); err != nil || st.at < f.Size {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hashes, i)
	if [sha256.Size]byte(st.h.Sum(nil)) != f.Digest {
		s.r.damaged.Add(1)
		s.again(i)
		return fmt.Errorf("%s: another digest than its table says: its blocks wait for the next pass", f.Path)
	}
	s.whole.set(int64(i))
	s.wholeN++
	if h := s.handles[i]; h != nil {
		delete(s.handles, i)
		return h.Close()
	}
	return nil
}

// again forgets the blocks of a file. s.mu is held.
func (s *session) again(i int) {
	from, to := s.blocksOf(i)
	for n := from; n < to; n++ {
		if !s.done.get(n) {
			continue
		}
		s.done.clear(n)
		s.taken.clear(n)
		s.have--
		s.saved = -1
		s.t.eachFile(n*s.t.Block(), min((n+1)*s.t.Block(), s.t.Bytes), func(j int, _, _ int64) error {
			s.left[j]++
			delete(s.hashes, j)
			return nil
		})
	}
}

// arrive makes a whole session appear in the inbox.
func (s *session) arrive() error {
	s.io.Lock()
	defer s.io.Unlock()
	if s.over.Load() { // given up meanwhile
		return nil
	}
	r, name := s.r, hex.EncodeToString(s.id[:])
	whole := r.o.Clock()
	if err := s.flush(); err != nil {
		return err
	}
	s.shut()
	to := filepath.Join(r.o.Inbox, "diode-"+name)
	if err := durable.RemoveAll(to); err != nil { // received long ago, and forgotten
		return err
	}
	durable.Step("before arrive " + name)
	if err := durable.Rename(filepath.Join(s.dir, dirFiles), to); err != nil {
		return err
	}
	if err := errors.Join(durable.SyncDir(r.o.Inbox), durable.SyncDir(s.dir)); err != nil {
		return err
	}
	durable.Step("after arrive " + name)
	s.over.Store(true)
	if err := r.remember(s.id); err != nil {
		return err
	}
	f := Finished{Name: s.t.Name, ID: name, Bytes: s.t.Bytes, Since: s.since, Whole: whole, At: r.o.Clock()}
	r.count.mu.Lock()
	r.done[s.id] = true // also if it was given up at this moment
	r.finished = append(r.finished, f)
	if n := len(r.finished); n > 20 {
		r.finished = r.finished[n-20:]
	}
	r.count.s.Problem = ""
	r.count.mu.Unlock()
	r.o.Arrived(f, to)
	return durable.RemoveAll(s.dir)
}
