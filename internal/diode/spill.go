package diode

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/hashike/hashike/internal/durable"
)

// pool is the memory of blocks that gather shards: never more than its limit.
type pool struct {
	mu    sync.Mutex
	ready sync.Cond
	limit int64
	used  int64 // lent and free
	size  int   // of the free ones
	free  [][]byte
}

// take lends a buffer. Where the limit is reached evict is asked to give one
// back; when it cannot, the decoders are waited for.
func (p *pool) take(size int, evict func() bool) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready.L = &p.mu
	for {
		if p.size != size {
			p.used -= int64(len(p.free) * p.size)
			p.free, p.size = nil, size
		}
		if n := len(p.free); n > 0 {
			b := p.free[n-1]
			p.free = p.free[:n-1]
			return b
		}
		if p.used == 0 || p.used+int64(size) <= p.limit {
			p.used += int64(size)
			return make([]byte, size)
		}
		p.mu.Unlock()
		ok := evict()
		p.mu.Lock()
		if !ok && len(p.free) == 0 && p.used > 0 && p.used+int64(size) > p.limit {
			p.ready.Wait()
		}
	}
}

func (p *pool) give(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b) == p.size {
		p.free = append(p.free, b)
	} else {
		p.used -= int64(len(b))
	}
	p.ready.Signal()
}

// spill puts a block that is not whole aside, so that its next pass adds to it:
// which shards, the shards, CRC-32C. It is worth nothing if the disk is full.
func (s *session) spill(b *openBlock) {
	s.mu.Lock()
	full := int64(len(s.spilled)+1)*int64(len(b.buf)) > s.r.o.Spill
	s.mu.Unlock()
	if free, err := durable.Free(s.dir); full || err == nil && free < spare {
		return
	}
	out := make([]byte, maxCode/8, maxCode/8+len(b.buf)+4)
	for i, have := range b.have {
		if have && !(i >= s.t.shards(int64(b.n)) && i < s.t.Data) {
			out[i/8] |= 1 << (i % 8)
			out = append(out, b.shards[i]...)
		}
	}
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(s.part(b.n), out, 0o600); err != nil {
		if !durable.IsFull(err) {
			s.r.trouble(err)
		}
		os.Remove(s.part(b.n))
		return
	}
	s.mu.Lock()
	s.spilled[b.n] = true
	s.mu.Unlock()
}

func (s *session) part(n uint32) string {
	return filepath.Join(s.dir, dirParts, strconv.FormatUint(uint64(n), 10))
}

// unspill adds to a block what was put aside of it.
func (s *session) unspill(b *openBlock) {
	s.mu.Lock()
	had := s.spilled[b.n]
	delete(s.spilled, b.n)
	s.mu.Unlock()
	if !had {
		return
	}
	in, err := os.ReadFile(s.part(b.n))
	os.Remove(s.part(b.n))
	n := len(in) - 4
	if err != nil || n < maxCode/8 || crc32.Checksum(in[:n], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(in[n:]) {
		return
	}
	which, in := in[:maxCode/8], in[maxCode/8:n]
	for i := range b.have {
		if which[i/8]&(1<<(i%8)) == 0 || b.have[i] {
			continue
		}
		if len(in) < s.t.Shard {
			return
		}
		copy(b.shards[i], in)
		in = in[s.t.Shard:]
		b.have[i] = true
		if b.got++; b.got == s.t.Data-1 {
			return // the next packet makes it whole
		}
	}
}

// loadParts finds what an earlier receiver put aside.
func (s *session) loadParts() error {
	ents, err := os.ReadDir(filepath.Join(s.dir, dirParts))
	if err != nil {
		return err
	}
	for _, e := range ents {
		n, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || int64(n) >= s.t.Blocks() || s.done.get(int64(n)) {
			if err := durable.Remove(filepath.Join(s.dir, dirParts, e.Name())); err != nil {
				return err
			}
			continue
		}
		s.spilled[uint32(n)] = true
	}
	return nil
}

// spillAll puts every open block aside at the end of a receiver.
func (r *Receiver) spillAll() {
	for _, s := range r.open() {
		for n, b := range s.open {
			delete(s.open, n)
			s.spill(b)
			r.pool.give(b.buf)
		}
		s.shutHandles()
	}
}

// shutHandles closes files that stayed open; they open again when needed.
func (s *session) shutHandles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.handles {
		f.Close()
		delete(s.handles, i)
	}
}
