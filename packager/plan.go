package packager

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hashike/hashike/internal/feed"
)

// plan is what will be written, known before the first byte is.
type plan struct {
	threshold int64 // smaller blobs go into packs
	base      map[sum]struct{}
	only      map[sum]struct{} // nil is every blob
	sizes     []int64          // of the containers
	room      []int64          // of the volumes, tables left out; nil is one without a limit
	tables    int64            // what every volume holds besides containers
	layout    *layout
	packed    Report // of the dry run
}

// carries reports whether a blob is part of the bundle.
func (p *plan) carries(s sum) bool {
	if _, ok := p.base[s]; ok {
		return false
	}
	if p.only == nil {
		return true
	}
	_, ok := p.only[s]
	return ok
}

// payload is the length of all containers, parity included.
func (p *plan) payload() int64 { return sumOfSizes(p.layout.need) }

// maxSingles keeps a directory within what FAT allows (crossing.md §4.1).
const maxSingles = 7000

// setTables estimates, from above, what every volume holds besides containers.
func (o *PackOptions) setTables(p *plan) error {
	orders, err := ordersBytes(o.orders)
	if err != nil {
		return err
	}
	blocks := blocksOf(sumOfSizes(p.sizes))
	p.tables = 1<<20 + int64(len(orders)) + p.packed.Blobs*64 + int64(len(p.sizes))*512 + blocks*blockSum*int64(100+o.Parity)/100
	if o.limits.reserve != 0 {
		p.tables = o.limits.reserve
	}
	for i := range p.room {
		if p.room[i] -= p.tables; p.room[i] < o.limits.volume/2 {
			return feed.NewFault(fmt.Errorf("%s: a volume must hold at least %d bytes: %w", o.dir(i+1), o.limits.volume/2+p.tables, feed.ErrConfig), "H-801",
				"number", "", "need", strconv.FormatInt(o.limits.volume/2+p.tables, 10), "free", strconv.FormatInt(p.room[i]+p.tables, 10))
		}
	}
	return nil
}

// classify sets the pack threshold.
func (o *PackOptions) classify(ctx context.Context, p *plan) error {
	seen := map[sum]struct{}{}
	var classes [64]int64 // blobs by power of two
	for _, c := range o.Feeds {
		for a, err := range c.Snapshot.Artifacts() {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			s := sumOf(a.Digest)
			if _, ok := p.base[s]; ok {
				continue
			}
			if _, ok := seen[s]; ok {
				continue
			}
			seen[s] = struct{}{}
			classes[bits(a.Size)]++
		}
	}
	singles := int64(0)
	for k := len(classes) - 1; k >= bits(smallest); k-- {
		if singles += classes[k]; singles > maxSingles && 1<<k < o.limits.pack {
			p.threshold = 1 << k
			break
		}
	}
	return nil
}

// bits is the exponent k with 2^(k-1) ≤ n < 2^k … rounded so that class k holds n < 2^k.
func bits(n int64) int {
	k := 0
	for n > 0 {
		n >>= 1
		k++
	}
	return k
}

// loadBase collects the digests that every inside holds.
func (o *PackOptions) loadBase(into map[sum]struct{}) error {
	if o.Base == nil {
		return nil
	}
	if err := o.holds(o.Base, func(s sum) { into[s] = struct{}{} }); err != nil {
		return err
	}
	for _, b := range o.Others {
		also := make(map[sum]struct{}, len(into))
		err := o.holds(&b, func(s sum) {
			if _, ok := into[s]; ok {
				also[s] = struct{}{}
			}
		})
		if err != nil {
			return err
		}
		maps.DeleteFunc(into, func(s sum, _ struct{}) bool { _, ok := also[s]; return !ok })
	}
	return nil
}

// holds calls fn for every blob of a bundle's state.
func (o *PackOptions) holds(base *Packed, fn func(sum)) error {
	for _, l := range base.Feeds {
		snap, err := o.Store.Snapshot(l.Feed, l.Serial)
		if err == nil && snap.ID() != l.Snapshot {
			err = fmt.Errorf("it is another one now: %w", feed.ErrDamaged)
		}
		if err != nil {
			return fmt.Errorf("base bundle %d: snapshot %d of %s (make a complete bundle instead): %w", base.Number, l.Serial, l.Feed, err)
		}
		for a, err := range snap.Artifacts() {
			if err != nil {
				return err
			}
			fn(sumOf(a.Digest))
		}
	}
	return nil
}

// fits compares what will be written with the free space, before anything is
// touched.
func (o *PackOptions) fits(p *plan) error {
	need := map[string]int64{}
	for v, n := range p.layout.need {
		dir := o.dir(v + 1)
		if o.split() {
			dir = o.To
		}
		need[dir] += n + p.tables + p.tables/2
	}
	for _, dir := range slices.Sorted(maps.Keys(need)) {
		free, err := freeIfCleared(dir)
		if err != nil {
			return err
		}
		if free < need[dir] {
			return feed.NewFault(fmt.Errorf("%s: the bundle needs %d bytes, %d are free", dir, need[dir], free), "H-801",
				"number", "", "need", strconv.FormatInt(need[dir], 10), "free", strconv.FormatInt(free, 10))
		}
	}
	return nil
}

// plan counts what is new against the base, sets the pack threshold and
// decides which container goes where.
func (o *PackOptions) plan(ctx context.Context) (*plan, error) {
	p := &plan{threshold: smallest, base: map[sum]struct{}{}, only: o.only}
	var err error
	if p.room, err = o.room(); err != nil {
		return p, err
	}
	if o.PieceSize > 0 {
		o.limits.segment = max(min(o.PieceSize, segmentSize)/blockSize*blockSize, blockSize)
		o.limits.pack = min(o.limits.segment, packTarget)
	}
	if p.room != nil {
		o.limits.defaults(slices.Min(p.room))
	} else {
		o.limits.defaults(0)
	}
	if err := o.loadBase(p.base); err != nil {
		return p, err
	}
	if err := o.classify(ctx, p); err != nil {
		return p, err
	}
	dry, err := dryRun(ctx, *o, p)
	if err != nil {
		return p, err
	}
	p.sizes, p.packed = dry.sizes, dry.packed
	if err := o.setTables(p); err != nil {
		return p, err
	}
	p.layout, err = arrange(p.sizes, p.room, o.Parity, o.limits)
	return p, err
}

// Estimate is what a bundle would be, before one is made.
type Estimate struct {
	Volumes   int
	Bytes     int64   // on all volumes, tables included
	PerVolume []int64 // the same by volume
	Blobs     int64
	BlobBytes int64
	Known     int64 // artifacts left out because the base has them
	Inside    int64 // space an inside needs that holds the base
	Cover
}

// Minutes is about how long writing and reading back take at a rate of bytes per second.
func (e Estimate) Minutes(rate int64) int64 {
	return (2*e.Bytes/max(rate, 1) + 59) / 60
}

// Preflight says what Pack would do. It writes nothing and takes no number;
// its errors are those of Pack that are known beforehand, H-801 among them.
func Preflight(ctx context.Context, o PackOptions) (Estimate, error) {
	if err := o.check(); err != nil {
		return Estimate{}, err
	}
	p, err := o.plan(ctx)
	if err != nil {
		return Estimate{}, err
	}
	e := Estimate{Volumes: p.layout.volumes(), Blobs: p.packed.Blobs, BlobBytes: p.packed.BlobBytes, Known: p.packed.Known, Cover: p.cover(o.limits)}
	for _, n := range p.layout.need {
		e.PerVolume = append(e.PerVolume, n+p.tables)
		e.Bytes += n + p.tables
	}
	e.Inside = sumOfSizes(p.sizes) + p.packed.Blobs*4096 + spare
	return e, o.fits(p)
}
