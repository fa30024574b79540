package diode

import "fmt"

// openBlock is a block that gathers shards.
type openBlock struct {
	n      uint32
	buf    []byte
	shards [][]byte
	have   []bool
	got    int
	touch  int64
}

// shard takes one shard of the stream; the sorting goroutine's, count.mu held.
func (r *Receiver) shard(s *session, h header, shard []byte) {
	n, i := int64(h.block), int(h.shard)
	if n >= s.t.Blocks() || i >= s.t.Data+s.t.Parity || len(shard) != s.t.Shard {
		r.count.s.Strange++
		return
	}
	b := s.open[h.block]
	if b == nil {
		s.mu.Lock()
		taken := s.taken.get(n)
		s.mu.Unlock()
		if taken {
			r.count.s.Double++
			return
		}
		b = r.openBlock(s, h.block)
	}
	b.touch = r.count.s.Packets + int64(r.count.s.Strange)
	if b.have[i] {
		r.count.s.Double++
		return
	}
	copy(b.shards[i], shard)
	b.have[i] = true
	if b.got++; b.got < s.t.Data {
		return
	}
	delete(s.open, h.block)
	s.mu.Lock()
	s.taken.set(n)
	s.mu.Unlock()
	s.touched.Store(r.o.Clock().UnixNano())
	r.work <- work{s, b}
}

// openBlock makes room for a block: of blocks that are not whole, the one
// still for longest is put aside on the disk.
func (r *Receiver) openBlock(s *session, n uint32) *openBlock {
	size := (s.t.Data + s.t.Parity) * s.t.Shard
	buf := r.pool.take(size, r.evict)
	b := &openBlock{n: n, buf: buf, shards: make([][]byte, s.t.Data+s.t.Parity), have: make([]bool, s.t.Data+s.t.Parity)}
	for i := range b.shards {
		b.shards[i] = buf[i*s.t.Shard : (i+1)*s.t.Shard : (i+1)*s.t.Shard]
	}
	for i := s.t.shards(int64(n)); i < s.t.Data; i++ { // beyond the end
		clear(b.shards[i])
		b.have[i] = true
		b.got++
	}
	s.open[n] = b
	s.unspill(b)
	return b
}

// evict puts the stillest open block aside; false if there is none.
func (r *Receiver) evict() bool {
	var in *session
	var old *openBlock
	for _, s := range r.sessions {
		for _, b := range s.open {
			if old == nil || b.touch < old.touch {
				in, old = s, b
			}
		}
	}
	if old == nil {
		return false
	}
	delete(in.open, old.n)
	in.spill(old)
	r.pool.give(old.buf)
	r.count.s.Spilled++
	return true
}

// work is a block with enough shards.
type work struct {
	s *session
	b *openBlock
}

// finishBlock rebuilds a block and writes it.
func (r *Receiver) finishBlock(w work) {
	s, b := w.s, w.b
	defer r.pool.give(b.buf)
	if s.over.Load() {
		return
	}
	var err error
	for i := range s.t.Data {
		if !b.have[i] {
			r.rebuilt.Add(1)
			err = s.code.Rebuild(b.shards, b.have)
			break
		}
	}
	if err == nil {
		err = s.write(b)
	}
	s.mu.Lock()
	if err != nil {
		s.taken.clear(int64(b.n)) // its next pass may do better
		s.mu.Unlock()
		r.trouble(fmt.Errorf("session %s: %w", s.t.Name, err))
		return
	}
	var wake []int
	s.done.set(int64(b.n))
	s.have++
	from := int64(b.n) * s.t.Block()
	s.t.eachFile(from, min(from+s.t.Block(), s.t.Bytes), func(i int, _, _ int64) error {
		s.left[i]--
		if !s.whole.get(int64(i)) && (s.left[i] == 0 || s.t.Files[i].Size >= largeFile) {
			wake = append(wake, i)
		}
		return nil
	})
	if s.wholeN == len(s.t.Files) && len(wake) == 0 {
		wake = append(wake, 0) // so that the session arrives
	}
	delete(s.spilled, b.n)
	s.mu.Unlock()
	for _, i := range wake {
		r.hash.add(s, i)
	}
}
