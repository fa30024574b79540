package packager

import (
	"crypto/sha256"
	"hash"
	"io"
)

// The stream of a set is the concatenation of its containers in the order of
// the blob map's container lines: volume 1's first, and within a volume as the
// manifests of index.json list their layers. A container contributes all its
// bytes (a pack with its tar headers, padding and trailer), nothing lies
// between containers, and manifests, configs, tables and metadata are not in
// it. Block i is bytes [i·2²⁰, (i+1)·2²⁰) of the stream; the last one is as
// short as it is. The block table is the SHA-256 of each block, 32 raw bytes,
// in order.
const (
	blockSize = 1 << 20
	blockSum  = sha256.Size
)

func blocksOf(n int64) int64 { return (n + blockSize - 1) / blockSize }

// blockHasher writes the block table of the stream written to it.
type blockHasher struct {
	out  io.Writer
	h    hash.Hash
	fill int64 // bytes of the block at hand
	n    int64 // bytes of the stream
	err  error
}

func newBlockHasher(out io.Writer) *blockHasher { return &blockHasher{out: out, h: sha256.New()} }

func (b *blockHasher) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && b.err == nil {
		k := min(int64(len(p)), blockSize-b.fill)
		b.h.Write(p[:k])
		b.fill, b.n, p = b.fill+k, b.n+k, p[k:]
		if b.fill == blockSize {
			b.end()
		}
	}
	return n, b.err
}

func (b *blockHasher) end() {
	if b.fill > 0 && b.err == nil {
		_, b.err = b.out.Write(b.h.Sum(nil))
	}
	b.h.Reset()
	b.fill = 0
}

// Close ends the last block and returns the length of the stream.
func (b *blockHasher) Close() (int64, error) {
	b.end()
	return b.n, b.err
}
