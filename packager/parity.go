package packager

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/fec"
	"github.com/hashike/hashike/internal/feed"
)

// parityFeed names the manifests of parity; no feed is named so.
const parityFeed = "hashike-parity"

// parityFile is one parity container while it grows.
type parityFile struct {
	v    *volume
	t    *durable.Temp
	at   int64 // first block of the parity stream
	size int64
}

// parity computes the parity of everything written, one group at a time, and
// gives each volume its part of it.
func (w *writer) parity() error {
	geo := w.p.layout.geo
	if geo.Groups == 0 {
		return nil
	}
	if geo.Blocks != blocksOf(w.stream.n) {
		return w.changed()
	}
	files, err := w.parityFiles()
	defer func() {
		for _, f := range files {
			f.t.Discard()
		}
	}()
	if err != nil {
		return err
	}
	coder, err := fec.New(geo)
	if err != nil {
		return err
	}
	s := newStripes(geo, strip)
	for g := range geo.Groups {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.parityGroup(coder, s, files, g); err != nil {
			return err
		}
		if f := w.o.Progress; f != nil {
			f(Progress{Stage: "parity", Done: g + 1, Total: geo.Groups})
		}
	}
	return w.endParity(files)
}

// parityFiles creates each volume's parity containers.
func (w *writer) parityFiles() ([]*parityFile, error) {
	var files []*parityFile
	most := w.o.limits.segment / blockSize
	for i, v := range w.vols {
		for at, end := w.p.layout.quota[i], w.p.layout.quota[i+1]; at < end; at += most {
			t, err := v.create(dirBlobs)
			if err != nil {
				return files, err
			}
			files = append(files, &parityFile{v, t, at, min(most, end-at) * blockSize})
		}
	}
	return files, nil
}

// stripes are the blocks of one group in memory, or a strip of each.
type stripes struct {
	geo    fec.Geometry
	width  int64
	buf    []byte
	shards [][]byte
}

func newStripes(geo fec.Geometry, width int64) *stripes {
	n := geo.Data + geo.Parity
	return &stripes{geo, width, make([]byte, n*width), make([][]byte, n)}
}

// reset gives every shard its buffer, filled with zeros.
func (s *stripes) reset() {
	clear(s.buf)
	for i := range s.shards {
		from := int64(i) * s.width
		s.shards[i] = s.buf[from : from+s.width : from+s.width]
	}
}

// strip is what parity codes of each block at a time: it divides blockSize. A
// whole group of 200+20 blocks would be nearly all the memory that a step may
// use; smaller strips would read the medium in smaller pieces.
const strip = blockSize / 2

// parityGroup codes one group, a strip after the other, and keeps the digests
// of its parity blocks.
func (w *writer) parityGroup(coder *fec.Coder, s *stripes, files []*parityFile, g int64) error {
	nums := s.geo.Shards(g)
	sums := make([]hash.Hash, s.geo.Parity)
	for i := range sums {
		sums[i] = sha256.New()
	}
	for off := int64(0); off < blockSize; off += strip {
		s.reset()
		for i, n := range nums[:s.geo.Data] {
			from, to := n*blockSize+off, min(n*blockSize+off+strip, w.stream.n)
			if n < 0 || from >= to {
				continue
			}
			if err := w.readStream(s.shards[i][:to-from], from); err != nil {
				return err
			}
		}
		if err := coder.Encode(s.shards); err != nil {
			return err
		}
		for i, n := range nums[s.geo.Data:] {
			q, b := n-s.geo.Blocks, s.shards[s.geo.Data+int64(i)]
			sums[i].Write(b)
			k := slices.IndexFunc(files, func(f *parityFile) bool { return q >= f.at && q < f.at+f.size/blockSize })
			if _, err := files[k].t.WriteAt(b, (q-files[k].at)*blockSize+off); err != nil {
				return err
			}
		}
	}
	for i, n := range nums[s.geo.Data:] {
		if _, err := w.blocks.WriteAt(sums[i].Sum(nil), n*blockSum); err != nil {
			return err
		}
	}
	return nil
}

// readStream reads back what the containers hold: from the media, not the store.
func (w *writer) readStream(p []byte, at int64) error {
	i, ok := slices.BinarySearch(w.starts, at)
	if !ok {
		i--
	}
	for len(p) > 0 {
		n := min(int64(len(p)), w.starts[i]+w.p.sizes[i]-at)
		if n > 0 {
			f, err := os.Open(w.vols[w.p.layout.of[i]].path(blobName(w.names[i])))
			if err != nil {
				return unreadable(blobName(w.names[i]), err)
			}
			_, err = io.ReadFull(io.NewSectionReader(f, at-w.starts[i], n), p[:n])
			f.Close()
			if err != nil {
				return unreadable(blobName(w.names[i]), err)
			}
			p, at = p[n:], at+n
		}
		i++
	}
	return nil
}

// endParity names the parity containers and enters them.
func (w *writer) endParity(files []*parityFile) error {
	w.feed, w.parts = parityFeed, 0
	for _, f := range files {
		if _, err := f.t.Seek(0, io.SeekStart); err != nil {
			return err
		}
		h := sha256.New()
		n, err := io.Copy(h, f.t)
		if err != nil {
			return err
		}
		if n != f.size {
			return unreadable(f.v.dir, fmt.Errorf("parity of %d bytes instead of %d", n, f.size))
		}
		c := Container{Volume: f.v.n, Type: typeParity, Digest: feed.DigestFrom(h), Size: n}
		if err := f.v.commit(f.t, blobName(c.Digest)); err != nil {
			return err
		}
		f.v.parity = append(f.v.parity, c)
		if err := w.layer(f.v, c); err != nil {
			return err
		}
	}
	for _, v := range w.vols {
		if err := w.manifest(v); err != nil {
			return err
		}
	}
	return nil
}
