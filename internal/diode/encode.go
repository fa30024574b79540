package diode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashike/hashike/internal/fec"
)

// tableData is the largest number of data shards of a table's block; each has
// as many parity shards: half of a table's packets may be lost.
const tableData = 64

// sendTable sends the table whole.
func (s *Sender) sendTable(ctx context.Context, j *Job) error {
	shard := j.Table.Shard
	per := tableData * shard
	for n := 0; n*per < len(j.packed); n++ {
		part := j.packed[n*per : min((n+1)*per, len(j.packed))]
		k := (len(part) + shard - 1) / shard
		shards, err := coded(part, k, k, shard)
		if err != nil {
			return err
		}
		for i, b := range shards {
			h := header{kind: kindTable, k: byte(k), p: byte(k), session: j.id, block: uint32(n), shard: byte(i), size: uint32(len(j.packed))}
			if err := s.packet(ctx, h, b); err != nil {
				return err
			}
		}
	}
	j.table = time.Now()
	return nil
}

// coded cuts part into k shards, the last filled with zeros, and adds p of parity.
func coded(part []byte, k, p, shard int) ([][]byte, error) {
	all := make([]byte, (k+p)*shard)
	copy(all, part)
	shards := make([][]byte, k+p)
	for i := range shards {
		shards[i] = all[i*shard : (i+1)*shard]
	}
	c, err := fec.NewCode(k, p)
	if err != nil {
		return nil, err
	}
	return shards, c.Encode(shards)
}

// block is one block with its parity.
type block struct {
	n      uint32
	data   int // data shards that are not beyond the end
	buf    []byte
	shards [][]byte
}

// group is the blocks that are sent in turns; free takes them back.
type group struct {
	blocks []*block
	free   chan []*block
	err    error
}

// start begins a pass: one goroutine reads and codes a group ahead.
func (j *Job) start(ctx context.Context) {
	ctx, j.stop = context.WithCancel(ctx)
	ch := make(chan group)
	j.groups = ch
	go func() {
		defer close(ch)
		if err := j.read(ctx, ch); err != nil {
			select {
			case ch <- group{err: err}:
			case <-ctx.Done():
			}
		}
	}()
}

// close ends the pass's goroutine.
func (j *Job) close() {
	if j.stop == nil {
		return
	}
	j.stop()
	for range j.groups {
	}
	j.stop, j.groups = nil, nil
}

// read sends the groups of a pass. Two sets of blocks go round.
func (j *Job) read(ctx context.Context, out chan<- group) error {
	t := j.Table
	code, err := fec.NewCode(t.Data, t.Parity)
	if err != nil {
		return err
	}
	src := &source{dir: j.Dir, t: t, i: -1}
	defer src.close()
	free := make(chan []*block, 2)
	next, left := j.numbers()
	for made := 0; left > 0; {
		var blocks []*block
		if made < 2 {
			made++
			for range min(int64(t.Interleave), left) {
				blocks = append(blocks, newBlock(t))
			}
		} else {
			select {
			case blocks = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		blocks = blocks[:min(int64(len(blocks)), left)]
		for _, b := range blocks {
			b.n = next()
			left--
			if err := src.fill(b); err != nil {
				return err
			}
			if err := code.Encode(b.shards); err != nil {
				return err
			}
		}
		select {
		case out <- group{blocks: blocks, free: free}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// numbers walks the blocks to send.
func (j *Job) numbers() (next func() uint32, count int64) {
	spans := []Span{{0, j.Table.Blocks()}}
	if j.Only != nil {
		spans = clip(j.Only, j.Table.Blocks())
	}
	for _, s := range spans {
		count += s.To - s.From
	}
	var at int64
	i := 0
	return func() uint32 {
		for at >= spans[i].To || at < spans[i].From {
			if at >= spans[i].To {
				i++
			}
			at = max(at, spans[i].From)
		}
		at++
		return uint32(at - 1)
	}, count
}

func newBlock(t *Table) *block {
	b := &block{buf: make([]byte, (t.Data+t.Parity)*t.Shard), shards: make([][]byte, t.Data+t.Parity)}
	for i := range b.shards {
		b.shards[i] = b.buf[i*t.Shard : (i+1)*t.Shard : (i+1)*t.Shard]
	}
	return b
}

// source reads the stream of a directory.
type source struct {
	dir string
	t   *Table
	i   int // file that is open
	f   *os.File
}

func (s *source) fill(b *block) error {
	from := int64(b.n) * s.t.Block()
	to := min(from+s.t.Block(), s.t.Bytes)
	b.data = s.t.shards(int64(b.n))
	clear(b.buf[to-from : s.t.Block()])
	at := b.buf
	return s.t.eachFile(from, to, func(i int, off, n int64) error {
		if i != s.i {
			s.close()
			f, err := os.Open(filepath.Join(s.dir, filepath.FromSlash(s.t.Files[i].Path)))
			if err != nil {
				return err
			}
			s.f, s.i = f, i
		}
		k, err := s.f.ReadAt(at[:n], off)
		if int64(k) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%s: %w", s.t.Files[i].Path, err)
		}
		at = at[n:]
		return nil
	})
}

func (s *source) close() {
	if s.f != nil {
		s.f.Close()
		s.f, s.i = nil, -1
	}
}
