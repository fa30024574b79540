package packager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/fec"
	"github.com/hashike/hashike/internal/feed"
)

// WholeMedium as PackOptions.VolumeSize fills each medium up to 5 % of its free space.
const WholeMedium = -1

// Limits of several volumes.
const (
	minVolume   = 16 << 20
	maxVolume   = 999
	volumeFiles = 7800 // containers: with manifests ≤ 8,000 files, FAT allows about 10,900 names of 64 digits
	// perVolume is how many containers a volume has at least if it is full: what
	// one container leaves empty or out of balance is a small part.
	perVolume = 16
)

// limits of the payload; tests make them small.
type limits struct {
	segment int64 // bytes of a segment and of a file that is not one
	layers  int   // of a manifest
	group   int64 // data blocks of a parity group; 0 is the most there can be
	pack    int64 // bytes at which a pack is closed
	files   int   // of a volume
	reserve int64 // bytes of a volume for tables and metadata; 0 is estimated
	volume  int64 // smallest volume
}

// defaults sets what is not set, for volumes of at most size bytes.
func (l *limits) defaults(size int64) {
	part := int64(segmentSize)
	if size > 0 {
		part = max(size/perVolume/blockSize*blockSize, blockSize)
	}
	set := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.segment, min(part, segmentSize))
	set(&l.pack, min(part, packTarget))
	set(&l.volume, minVolume)
	if l.layers == 0 {
		l.layers = maxLayers
	}
	if l.files == 0 {
		l.files = volumeFiles
	}
}

// split reports whether the volumes are directories below To.
func (o *PackOptions) split() bool { return o.VolumeSize > 0 && len(o.More) == 0 }

// media are the directories that are media of their own.
func (o *PackOptions) media() []string { return append([]string{o.To}, o.More...) }

// dir is where volume n, from 1, goes.
func (o *PackOptions) dir(n int) string {
	if o.split() {
		return filepath.Join(o.To, "volume-"+strconv.Itoa(n))
	}
	return o.media()[n-1]
}

// room is what each volume may hold, bytes; nil is one volume without a limit
// but that of the free space. A directory below To has none yet.
func (o *PackOptions) room() ([]int64, error) {
	if o.split() {
		return slices.Repeat([]int64{o.VolumeSize}, maxVolume), nil
	}
	if o.VolumeSize == 0 && len(o.More) == 0 {
		return nil, nil
	}
	var out []int64
	for _, dir := range o.media() {
		free, err := freeIfCleared(dir)
		if err != nil {
			return nil, err
		}
		if free -= free / 20; o.VolumeSize > 0 {
			free = min(free, o.VolumeSize)
		}
		out = append(out, free)
	}
	return out, nil
}

// freeIfCleared is the free space that remains when an older bundle is removed.
func freeIfCleared(dir string) (int64, error) {
	files, _, err := oursIn(dir)
	if err != nil {
		return 0, err
	}
	for { // a dry run makes no directory: what is above it is asked
		_, err := os.Stat(dir)
		if parent := filepath.Dir(dir); !errors.Is(err, fs.ErrNotExist) || parent == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	free, err := durable.Free(dir)
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		free += f.size
	}
	return free, nil
}

// layout says which container goes on which volume, before one is written.
type layout struct {
	geo   fec.Geometry
	of    []int   // container → volume, from 0
	from  []int64 // volume → its first byte in the stream; one more at the end
	quota []int64 // volume → its first parity block; one more at the end
	need  []int64 // volume → bytes of containers and parity
}

func (l *layout) volumes() int { return len(l.need) }

// arrange spreads containers of these sizes over as few volumes as possible,
// about equally filled, so that a lost one costs no more than its share. room
// is what the volumes hold besides tables; nil is one without a limit.
func arrange(sizes, room []int64, percent int, lim limits) (*layout, error) {
	total := sumOfSizes(sizes)
	geo := fec.Plan(blocksOf(total), percent, lim.group)
	if room == nil {
		return place(sizes, []int64{1 << 62}, geo, total, limits{segment: lim.segment, files: len(sizes) + 1<<20}, true), nil
	}
	held, first := int64(0), len(room)
	for i, r := range room {
		if held += r; held >= total+geo.ParityBlocks()*blockSize {
			first = i + 1
			break
		}
	}
	for n := first; n <= len(room); n++ {
		for _, balanced := range []bool{true, false} {
			if l := place(sizes, room[:n], geo, total, lim, balanced); l != nil {
				return l, nil
			}
		}
	}
	return nil, tooSmall(total+geo.ParityBlocks()*blockSize, held, len(room))
}

func tooSmall(need, free int64, volumes int) error {
	return feed.NewFault(fmt.Errorf("the bundle of %d bytes does not fit on %d volumes of together %d bytes", need, volumes, free), "H-801",
		"number", "", "need", strconv.FormatInt(need, 10), "free", strconv.FormatInt(free, 10))
}

func sumOfSizes(sizes []int64) (n int64) {
	for _, s := range sizes {
		n += s
	}
	return n
}

// place tries exactly these volumes; nil if it does not fit.
func place(sizes, room []int64, geo fec.Geometry, total int64, lim limits, balanced bool) *layout {
	n := len(room)
	l := &layout{geo: geo, of: make([]int, len(sizes)), from: make([]int64, n+1), quota: make([]int64, n+1), need: make([]int64, n)}
	share := make([]float64, n+1) // of all that fits, up to and without volume v
	all := float64(sumOfSizes(room))
	for v, r := range room {
		share[v+1] = share[v] + float64(r)/all
		l.quota[v+1] = int64(share[v+1] * float64(geo.ParityBlocks()))
	}
	l.quota[n] = geo.ParityBlocks()
	count := make([]int, n)
	for v := range n {
		l.need[v] = (l.quota[v+1] - l.quota[v]) * blockSize
		count[v] = int(l.need[v]/lim.segment) + 1
		if l.need[v] > room[v] {
			return nil
		}
	}
	v, at := 0, int64(0)
	next := func() bool { v++; return v < n }
	for i, size := range sizes {
		for balanced && v < n-1 && float64(at)+float64(size)/2 > share[v+1]*float64(total) {
			if !next() {
				return nil
			}
			l.from[v] = at
		}
		for l.need[v]+size > room[v] || count[v] >= lim.files {
			if !next() {
				return nil
			}
			l.from[v] = at
		}
		l.of[i], l.need[v], count[v], at = v, l.need[v]+size, count[v]+1, at+size
	}
	for v++; v <= n; v++ {
		l.from[v] = at
	}
	return l
}

// covers reports whether the loss of any one volume is repaired by parity.
func (l *layout) covers() bool {
	if l.geo.Groups == 0 {
		return false
	}
	for v := range l.volumes() {
		from, to := l.from[v]/blockSize, blocksOf(l.from[v+1])
		if l.from[v] == l.from[v+1] {
			to = from
		}
		if l.geo.Worst(from, to, l.quota[v], l.quota[v+1]) > l.geo.Parity {
			return false
		}
	}
	return true
}

// Cover says whether the loss of a whole volume is repaired.
type Cover struct {
	Covered      bool // any one of several volumes may be lost
	CoverPercent int  // with this redundancy it would be; 0 is with none
	CoverVolumes int  // of so many volumes
	ParityBytes  int64
}

// cover judges the layout and looks for the smallest redundancy, per cent,
// with which the loss of any one volume is repaired.
func (p *plan) cover(lim limits) Cover {
	c := Cover{Covered: p.layout.covers() && p.layout.volumes() > 1, ParityBytes: p.layout.geo.ParityBlocks() * blockSize}
	if c.Covered || p.layout.volumes() == 1 {
		return c
	}
	for n := 1; n <= fec.MaxPercent; n++ {
		if l, err := arrange(p.sizes, p.room, n, lim); err == nil && l.volumes() > 1 && l.covers() {
			c.CoverPercent, c.CoverVolumes = n, l.volumes()
			return c
		}
	}
	return c
}
