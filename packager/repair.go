package packager

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/fec"
	"github.com/hashike/hashike/internal/feed"
)

// extent is a container and its place in the set's stream, or, for parity, in
// the parity stream.
type extent struct {
	c  Container // without members
	at int64
}

// repairer brings back blocks of the stream by parity. Every block, read or
// rebuilt, is believed by the signed block table alone.
type repairer struct {
	a      *absorber
	geo    fec.Geometry
	data   []extent
	parity []extent
	need   []int // of data: containers that hold something wanted
	table  mediumFile
	temp   *durable.Temp   // rebuilt blocks
	slots  map[int64]int64 // block → its place in temp
	copies map[int64]int   // block → which copy of its volume has it, if not the first
}

// repair takes from parity what the desired state still lacks and the media at
// hand allow: documents first, which say what else is wanted. A group of
// blocks is in memory at a time. What cannot be repaired stays wanted.
func (a *absorber) repair(documents bool) error {
	geo := a.b.set.geometry()
	if geo.Groups == 0 {
		return nil
	}
	r := &repairer{a: a, geo: geo, slots: map[int64]int64{}, copies: map[int64]int{}}
	defer r.close()
	if err := r.survey(documents); err != nil {
		return err
	}
	if len(r.need) > 0 {
		if err := r.rebuild(); err != nil {
			return a.full(err)
		}
		if err := r.take(); err != nil {
			return a.full(err)
		}
		if err := a.full(a.group.Flush()); err != nil {
			return err
		}
	}
	if documents {
		return nil
	}
	return a.harmless()
}

func (r *repairer) close() {
	if r.table != nil {
		r.table.Close()
	}
	if r.temp != nil {
		r.temp.Discard()
	}
}

// survey notes where every container lies and which ones are needed.
func (r *repairer) survey(documents bool) error {
	var at, pat int64
	return r.a.eachOf(func(c *Container) error {
		e := extent{*c, at}
		e.c.Members = nil
		if c.Type == typeParity {
			e.at, pat = pat, pat+c.Size
			r.parity = append(r.parity, e)
			return nil
		}
		if (c.Type == typeDocument) == documents && r.a.lacks(c) {
			r.need = append(r.need, len(r.data))
		}
		at += c.Size
		r.data = append(r.data, e)
		return nil
	})
}

// rebuild repairs the blocks of all needed containers, group by group.
func (r *repairer) rebuild() error {
	required := map[int64][]int64{} // group → blocks
	last := int64(-1)
	for _, i := range r.need {
		e := r.data[i]
		for n := max(e.at/blockSize, last+1); n*blockSize < e.at+e.c.Size; n++ {
			required[n%r.geo.Groups] = append(required[n%r.geo.Groups], n)
			last = n
		}
	}
	var err error
	if r.table, err = r.a.b.table(nameBlocks, r.a.b.set.Blocks); err != nil {
		return err
	}
	coder, err := fec.New(r.geo)
	if err != nil {
		return err
	}
	s := newStripes(r.geo, blockSize)
	for g := range r.geo.Groups {
		if err := r.a.ctx.Err(); err != nil {
			return err
		}
		if f := r.a.b.opt.Progress; f != nil {
			f(Progress{Stage: "repair", Done: g + 1, Total: r.geo.Groups})
		}
		if len(required[g]) == 0 || !r.hopeful(g) {
			continue
		}
		if err := r.group(coder, s, g, required[g]); err != nil {
			return err
		}
	}
	return nil
}

// hopeful reports whether enough volumes are at hand for a group to be
// repaired, without reading any.
func (r *repairer) hopeful(g int64) bool {
	lost := int64(0)
	for _, n := range r.geo.Shards(g) {
		if n >= 0 && !r.atHand(n) {
			lost++
		}
	}
	return lost <= r.geo.Parity
}

// atHand reports whether a block may be readable.
func (r *repairer) atHand(n int64) bool {
	ok := true
	r.parts(n, func(e extent, _, _ int64) bool {
		ok = len(r.a.b.present[e.c.Volume]) > 0 || r.stored(e) != nil
		return ok
	})
	return ok
}

// parts calls fn for every container that block n is part of: its bytes
// [from, to) in the stream.
func (r *repairer) parts(n int64, fn func(e extent, from, to int64) bool) {
	list, at := r.data, n*blockSize
	end := min(at+blockSize, r.a.b.set.Bytes)
	if n >= r.geo.Blocks {
		list, at = r.parity, (n-r.geo.Blocks)*blockSize
		end = at + blockSize
	}
	i, found := slices.BinarySearchFunc(list, at, func(e extent, at int64) int {
		switch {
		case e.at+e.c.Size <= at:
			return -1
		case e.at > at:
			return 1
		}
		return 0
	})
	if !found {
		return
	}
	for ; i < len(list) && list[i].at < end; i++ {
		e := list[i]
		if from, to := max(at, e.at), min(end, e.at+e.c.Size); from < to && !fn(e, from, to) {
			return
		}
	}
}

// stored opens what the store has of a container of a volume that is not at
// hand; nil if nothing.
func (r *repairer) stored(e extent) func() (io.ReaderAt, int64, io.Closer, error) {
	d, off := e.c.Digest, int64(0)
	if e.c.Type == typeSegment {
		if _, ok := r.a.store.Stat(d); !ok {
			d, off = e.c.Of, e.c.At
		}
	} else if e.c.Type != typeFile {
		return nil
	}
	if _, ok := r.a.store.Stat(d); !ok {
		return nil
	}
	return func() (io.ReaderAt, int64, io.Closer, error) {
		f, err := r.a.store.File(d)
		return f, off, f, err
	}
}

// read reads block n from the media, or from the store; false if no copy is what was signed.
func (r *repairer) read(n int64, p []byte) bool {
	copies := 1
	r.parts(n, func(e extent, _, _ int64) bool {
		copies = max(copies, len(r.a.b.present[e.c.Volume]))
		return true
	})
	for i := range copies {
		if r.readCopy(n, i, p) {
			if i > 0 {
				r.copies[n] = i
			}
			return true
		}
	}
	return false
}

func (r *repairer) readCopy(n int64, i int, p []byte) bool {
	ok, filled := true, int64(0)
	r.parts(n, func(e extent, from, to int64) bool {
		ok = r.readPart(e, i, p[filled:filled+to-from], from-e.at)
		filled += to - from
		return ok
	})
	return ok && r.signed(n, p[:filled])
}

// readPart reads from the i-th medium that has the container's volume, or from
// the last there is.
func (r *repairer) readPart(e extent, i int, p []byte, at int64) bool {
	if media := r.a.b.present[e.c.Volume]; len(media) > 0 {
		m := media[min(i, len(media)-1)]
		if f, _, err := m.open(blobName(e.c.Digest)); err == nil {
			_, err = io.ReadFull(io.NewSectionReader(f, at, int64(len(p))), p)
			f.Close()
			return err == nil
		}
	}
	open := r.stored(e)
	if open == nil {
		return false
	}
	f, off, c, err := open()
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = io.ReadFull(io.NewSectionReader(f, off+at, int64(len(p))), p)
	return err == nil
}

// signed compares a block with the block table.
func (r *repairer) signed(n int64, p []byte) bool {
	var want [blockSum]byte
	if _, err := r.table.ReadAt(want[:], n*blockSum); err != nil {
		return false
	}
	return sha256.Sum256(p) == want
}

// size of block n.
func (r *repairer) size(n int64) int64 { return min(blockSize, r.a.b.set.Bytes-n*blockSize) }

// group repairs the required blocks of one group.
func (r *repairer) group(coder *fec.Coder, s *stripes, g int64, required []int64) error {
	s.reset()
	nums := r.geo.Shards(g)
	have := make([]bool, len(nums))
	good, bad := int64(0), false
	for i, n := range nums {
		if have[i] = n < 0 || r.read(n, s.shards[i]); have[i] {
			good++
		} else {
			clear(s.shards[i])
			bad = bad || slices.Contains(required, n)
		}
		if good == r.geo.Data && int64(i) >= r.geo.Data {
			break // the rest is not needed
		}
	}
	if !bad || good < r.geo.Data {
		return nil
	}
	err := coder.Rebuild(s.shards, have)
	if errors.Is(err, fec.ErrTooFew) {
		return nil
	}
	if err != nil {
		return err
	}
	for i, n := range nums[:r.geo.Data] {
		if have[i] || !slices.Contains(required, n) {
			continue
		}
		if b := s.shards[i][:r.size(n)]; r.signed(n, b) {
			if err := r.keep(n, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// keep writes a rebuilt block beside the store.
func (r *repairer) keep(n int64, b []byte) error {
	if r.temp == nil {
		dir := r.a.b.opt.Data.Partial()
		if err := durable.Mkdir(dir); err != nil {
			return err
		}
		if err := durable.CleanTemps(dir); err != nil { // of a killed run
			return err
		}
		var err error
		if r.temp, err = durable.Create(dir); err != nil {
			return err
		}
	}
	if len(r.slots)%64 == 0 {
		if err := r.a.room(64 * blockSize); err != nil {
			return err
		}
	}
	at := int64(len(r.slots)) * blockSize
	if _, err := r.temp.WriteAt(b, at); err != nil {
		return err
	}
	r.slots[n] = at
	r.a.out.Blocks++
	return nil
}

// mended reads the stream with the rebuilt blocks in their places.
type mended struct{ r *repairer }

func (m mended) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		n := at / blockSize
		k := min(int64(len(p)-done), (n+1)*blockSize-at)
		q := p[done : done+int(k)]
		if slot, ok := m.r.slots[n]; ok {
			if _, err := m.r.temp.ReadAt(q, slot+at%blockSize); err != nil {
				return done, err
			}
		} else if !m.readAsIs(n, q, at) {
			return done, fmt.Errorf("block %d of the stream: %w", n, feed.ErrDamaged)
		}
		done, at = done+int(k), at+k
	}
	return done, nil
}

func (m mended) readAsIs(n int64, q []byte, at int64) bool {
	ok := true
	m.r.parts(n, func(e extent, from, to int64) bool {
		if f, t := max(from, at), min(to, at+int64(len(q))); f < t {
			ok = m.r.readPart(e, m.r.copies[n], q[f-at:t-at], f-e.at)
		}
		return ok
	})
	return ok
}

// take stores what the mended stream gives, each thing by its own digest.
func (r *repairer) take() error {
	i := -1
	blobs := map[feed.Digest]int64{} // segmented ones that got a segment
	err := r.a.eachOf(func(c *Container) error {
		if c.Type == typeParity {
			return nil
		}
		if i++; !slices.Contains(r.need, i) {
			return nil
		}
		if c.Type == typeSegment {
			blobs[c.Of] = c.All
		}
		return r.container(c, io.NewSectionReader(mended{r}, r.data[i].at, c.Size))
	})
	for of, all := range blobs {
		if err == nil {
			_, err = r.a.join(of, all, nil)
		}
	}
	return err
}

func (r *repairer) container(c *Container, sec *io.SectionReader) error {
	put := func(src io.Reader, d feed.Digest, n int64) error {
		medium, err := r.a.put(&source{r: src}, d, n)
		if medium {
			return nil // it stays wanted
		}
		return err
	}
	switch c.Type {
	case typeDocument:
		return r.document(c, sec)
	case typeFile:
		return put(sec, c.Digest, c.Size)
	case typeSegment:
		p := Piece{c.Digest, c.Of, c.At, c.Size, c.All}
		return r.a.putPiece(&source{r: sec}, p, func(error) error { return nil })
	}
	for _, m := range c.Members {
		if r.a.wants(m.Digest) {
			if err := put(io.NewSectionReader(sec, m.Offset, m.Size), m.Digest, m.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// document stores a document only if all of it has its digest.
func (r *repairer) document(c *Container, sec *io.SectionReader) error {
	h := sha256.New()
	if _, err := io.Copy(h, sec); err != nil || feed.DigestFrom(h) != c.Digest {
		return nil
	}
	if _, err := sec.Seek(0, io.SeekStart); err != nil {
		return err
	}
	l := r.a.docs[sumOf(c.Digest)]
	if l.Evidence == c.Digest {
		path := r.a.b.opt.Data.Evidence(l.Feed, l.Serial, "outside")
		if err := durable.Mkdir(filepath.Dir(path)); err != nil {
			return err
		}
		return durable.WriteFrom(path, func(w io.Writer) error { _, err := io.Copy(w, sec); return err })
	}
	snap, err := r.a.store.PutSnapshot(r.a.ctx, sec, l.Snapshot)
	if err == nil {
		return r.a.named(snap, l)
	}
	if errors.Is(err, feed.ErrDamaged) || errors.Is(err, feed.ErrUntrusted) {
		return r.a.b.fault("H-501", feed.ErrUntrusted, "snapshot of %s: %v", l.Feed, err)
	}
	return err
}

// harmless marks the damage of containers of which nothing is wanted any more.
func (a *absorber) harmless() error {
	if len(a.b.damaged) == 0 {
		return nil
	}
	lacking := map[string]bool{}
	err := a.eachOf(func(c *Container) error {
		if a.lacks(c) {
			lacking[blobName(c.Digest)] = true
		}
		return nil
	})
	for i := range a.b.damaged {
		a.b.damaged[i].Repaired = err == nil && !lacking[a.b.damaged[i].File]
	}
	return err
}
