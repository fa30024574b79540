// Package fec computes Reed–Solomon parity over the blocks of a stream
// (docs/bundle.md §6). It knows numbers of blocks, not what is in them.
package fec

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/klauspost/reedsolomon"
)

// Limits of a group: GF(2⁸) has 256 shards.
const (
	MaxData   = 200
	maxShards = 256
	// MaxPercent is the largest redundancy, parity blocks per hundred data blocks.
	MaxPercent = 200
)

// ErrTooFew is returned by Rebuild if more blocks of a group are lost than it has parity.
var ErrTooFew = errors.New("more blocks are lost than the parity covers")

// Geometry spreads a stream over groups: group g holds data blocks g, g+G,
// g+2G, … and parity blocks g, g+G, … of the parity stream. A contiguous run
// of L blocks therefore takes at most ⌈L/G⌉ blocks of any group: B runs of at
// most (P−B)·G blocks together are always repaired, and so are any P blocks.
type Geometry struct {
	Blocks int64 // of data
	Groups int64 // G; 0 is no parity
	Data   int64 // K: data blocks of the fullest group
	Parity int64 // P: parity blocks of every group
}

// Plan chooses the geometry for so many blocks and percent redundancy, with at
// most so many data blocks in a group (0 is MaxData).
func Plan(blocks int64, percent int, most int64) Geometry {
	if blocks <= 0 || percent <= 0 {
		return Geometry{Blocks: max(blocks, 0)}
	}
	p := int64(min(percent, MaxPercent))
	k := int64(MaxData)
	if most > 0 {
		k = min(k, most)
	}
	for k > 1 && k+(k*p+99)/100 > maxShards {
		k--
	}
	g := Geometry{Blocks: blocks, Groups: (blocks + k - 1) / k}
	g.Data = (blocks + g.Groups - 1) / g.Groups
	g.Parity = (g.Data*p + 99) / 100
	return g
}

// Check refuses a geometry that Plan cannot have made.
func (g Geometry) Check() error {
	if g.Groups == 0 && g.Data == 0 && g.Parity == 0 && g.Blocks >= 0 {
		return nil
	}
	if g.Blocks < 1 || g.Groups < 1 || g.Data < 1 || g.Data > MaxData || g.Parity < 1 || g.Data+g.Parity > maxShards ||
		g.Data != (g.Blocks+g.Groups-1)/g.Groups {
		return fmt.Errorf("parity of %d blocks in %d groups of %d+%d", g.Blocks, g.Groups, g.Data, g.Parity)
	}
	return nil
}

// ParityBlocks is the length of the parity stream.
func (g Geometry) ParityBlocks() int64 { return g.Groups * g.Parity }

// Shards are the blocks of one group, data first: index i of the result is the
// block's number in the data stream, or Blocks plus its number in the parity
// stream; -1 is a data block beyond the end, which is all zeros.
func (g Geometry) Shards(group int64) []int64 {
	out := make([]int64, 0, g.Data+g.Parity)
	for i := range g.Data {
		if n := group + i*g.Groups; n < g.Blocks {
			out = append(out, n)
		} else {
			out = append(out, -1)
		}
	}
	for j := range g.Parity {
		out = append(out, g.Blocks+group+j*g.Groups)
	}
	return out
}

// Worst is the largest number of blocks that any group loses if the data
// blocks [from, to) and the parity blocks [pfrom, pto) are lost.
func (g Geometry) Worst(from, to, pfrom, pto int64) int64 {
	worst := int64(0)
	for i := range g.Groups {
		worst = max(worst, congruent(from, to, i, g.Groups)+congruent(pfrom, pto, i, g.Groups))
	}
	return worst
}

// congruent counts n in [from, to) with n mod m = r.
func congruent(from, to, r, m int64) int64 {
	below := func(n int64) int64 { return (n - r + m - 1) / m } // of [0, n)
	if to <= from {
		return 0
	}
	return max(below(to), 0) - max(below(from), 0)
}

// Coder encodes and rebuilds single groups. It holds no block.
type Coder struct {
	g  Geometry
	rs reedsolomon.Encoder
}

// New makes the coder of a checked geometry with parity.
func New(g Geometry) (*Coder, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	rs, err := reedsolomon.New(int(g.Data), int(g.Parity))
	return &Coder{g, rs}, err
}

// Encode fills the parity shards, the last P of equally long shards.
func (c *Coder) Encode(shards [][]byte) error { return c.rs.Encode(shards) }

// Rebuild fills in the shards for which have is false. Their buffers must have
// capacity for a block. ErrTooFew if fewer than K are there.
func (c *Coder) Rebuild(shards [][]byte, have []bool) error {
	good := int64(0)
	for i := range shards {
		if have[i] {
			good++
		} else {
			shards[i] = shards[i][:0]
		}
	}
	if good < c.g.Data {
		return ErrTooFew
	}
	return c.rs.ReconstructData(shards)
}

// Code is a systematic Reed–Solomon code over GF(2⁸) for streams of packets:
// Leopard, whose cost does not grow when each block loses other shards (the
// matrix code of New inverts a matrix for each new pattern). Shards are
// multiples of 64 bytes. Over GF(2⁸) it exists if k plus the power of two from
// p on is at most 256 (224+32, 192+64); others, such as 216+40, are of
// Leopard's GF(2¹⁶), which costs about twice as much.
type Code struct {
	k, p int
	rs   reedsolomon.Encoder
}

// NewCode makes the code of k data and p parity shards, k+p ≤ 256.
func NewCode(k, p int) (*Code, error) {
	field := reedsolomon.WithLeopardGF(true)
	if p > 0 && k+1<<bits.Len(uint(p-1)) > maxShards {
		field = reedsolomon.WithLeopardGF16(true)
	}
	rs, err := reedsolomon.New(k, p, field, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
	return &Code{k, p, rs}, err
}

// Encode fills the last p of k+p equally long shards.
func (c *Code) Encode(shards [][]byte) error { return c.rs.Encode(shards) }

// Rebuild fills in the data shards for which have is false; what it leaves in
// missing parity shards is not defined. ErrTooFew if fewer than k are there.
func (c *Code) Rebuild(shards [][]byte, have []bool) error {
	good := 0
	for i := range shards {
		if have[i] {
			good++
		} else {
			shards[i] = shards[i][:0]
		}
	}
	if good < c.k {
		return ErrTooFew
	}
	return c.rs.ReconstructData(shards)
}
