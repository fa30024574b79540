package diode

import (
	"time"

	"github.com/hashike/hashike/internal/fec"
)

// partialTable is a table whose packets are coming.
type partialTable struct {
	size  uint32
	parts map[uint32]*partBlock
	whole int
	at    time.Time
}

type partBlock struct {
	k, p, got int
	shards    [][]byte
	data      []byte // once whole
}

// tableShard collects a table. Only our own outside gets here (the tag), so
// that what is kept is bounded by its size.
func (r *Receiver) tableShard(h header, shard []byte) {
	per := tableData * len(shard)
	blocks := (int(h.size) + per - 1) / per
	if h.size == 0 || h.size > maxPacked || h.k == 0 || h.k > tableData || h.p != h.k || int(h.block) >= blocks || int(h.shard) >= 2*int(h.k) {
		r.count.s.Strange++
		return
	}
	pt := r.tables[h.session]
	if pt == nil || pt.size != h.size {
		if len(r.tables) >= maxTables {
			r.forgetTable()
		}
		pt = &partialTable{size: h.size, parts: map[uint32]*partBlock{}, at: r.o.Clock()}
		r.tables[h.session] = pt
	}
	b := pt.parts[h.block]
	if b == nil {
		b = &partBlock{k: int(h.k), p: int(h.p), shards: make([][]byte, int(h.k)+int(h.p))}
		pt.parts[h.block] = b
	}
	if b.data != nil || len(b.shards) != int(h.k)+int(h.p) || b.shards[h.shard] != nil {
		return
	}
	b.shards[h.shard] = append(make([]byte, 0, len(shard)), shard...)
	if b.got++; b.got < b.k {
		return
	}
	if err := b.join(len(shard)); err != nil {
		delete(pt.parts, h.block)
		return
	}
	if pt.whole++; pt.whole < blocks {
		return
	}
	delete(r.tables, h.session)
	packed := make([]byte, 0, h.size)
	for i := range uint32(blocks) {
		packed = append(packed, pt.parts[i].data...)
	}
	if len(packed) < int(h.size) {
		r.count.s.Strange++
		return
	}
	if err := r.begin(h.session, packed[:h.size:h.size]); err != nil {
		r.problem(err)
	}
}

// join decodes a table's block and frees its shards.
func (b *partBlock) join(shard int) error {
	code, err := fec.NewCode(b.k, b.p)
	if err != nil {
		return err
	}
	have := make([]bool, len(b.shards))
	for i, s := range b.shards {
		if have[i] = s != nil; !have[i] {
			b.shards[i] = make([]byte, shard)
		}
		if len(b.shards[i]) != shard { // of a table sent with other packets
			return errForm
		}
	}
	if err := code.Rebuild(b.shards, have); err != nil {
		return err
	}
	for _, s := range b.shards[:b.k] {
		b.data = append(b.data, s...)
	}
	b.shards = b.shards[:len(b.shards):len(b.shards)]
	clear(b.shards)
	return nil
}

func (r *Receiver) forgetTable() {
	var old ID
	var at time.Time
	for id, t := range r.tables {
		if at.IsZero() || t.at.Before(at) {
			old, at = id, t.at
		}
	}
	delete(r.tables, old)
}
