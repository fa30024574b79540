package packager

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// Absorbed is what Absorb did.
type Absorbed struct {
	Blobs   int64 // stored now
	Bytes   int64
	Skipped int64 // containers that were only checked
	Left    int64 // blobs still wanted afterwards
	Pieces  int64 // segments stored now whose blob is not whole yet
	Needed  []int // volumes never at hand that hold something wanted
	Of      int   // volumes of the bundle
	Blocks  int64 // of 1 MiB that were repaired
}

// spare is kept free beyond what an import writes: state, generations, logs.
const spare = 64 << 20

// absorber carries one Absorb.
type absorber struct {
	b      *Bundle
	ctx    context.Context
	store  *cas.Store
	group  *cas.Group
	wanted map[sum]struct{}
	all    bool                    // a snapshot is missing: any blob may be needed
	docs   map[sum]FeedLine        // documents of the set, by their bytes' digest
	pieces map[sum]map[int64]Piece // stored segments by blob and offset
	out    Absorbed
	done   int64
	total  int64
	buf    *bufio.Reader
}

// Absorb reads every container of the volumes at hand, compares each with
// what was signed, and stores the documents of a newer set and the blobs that
// the desired state lacks. What is damaged is named by Damaged and skipped;
// all good blobs are kept. It starts nothing that cannot fit (H-801). A medium
// pulled meanwhile is H-803. Repeating it continues where it ended.
func (b *Bundle) Absorb(ctx context.Context, store *cas.Store) (Absorbed, error) {
	a := newAbsorber(ctx, b, store)
	defer a.group.Close()
	b.damaged = nil
	for _, v := range b.volumes {
		if len(b.present[v.Volume]) > 0 {
			a.total += v.Bytes
		}
	}
	if err := a.documents(); err != nil {
		return a.out, err
	}
	if !b.judged.unapproved && !b.fromPending {
		if err := a.repair(true); err != nil {
			return a.out, err
		}
	}
	if err := a.want(); err != nil {
		return a.out, err
	}
	if err := a.loadPieces(); err != nil {
		return a.out, err
	}
	if err := a.fits(); err != nil {
		return a.out, err
	}
	err := a.payload()
	if err == nil {
		err = a.full(a.group.Flush())
	} else if ctx.Err() == nil && !durable.IsFull(err) { // a pulled medium: what is good need not be read again
		err = errors.Join(err, a.group.Flush())
	}
	if err == nil && !b.judged.unapproved && !b.fromPending {
		err = a.repair(false)
	}
	if err == nil {
		err = a.settle()
	}
	a.out.Left, a.out.Of = int64(len(a.wanted)), len(b.volumes)
	return a.out, err
}

func newAbsorber(ctx context.Context, b *Bundle, store *cas.Store) *absorber {
	b.stored = map[sum]struct{}{}
	return &absorber{b: b, ctx: ctx, store: store, group: store.Group(), wanted: map[sum]struct{}{}, docs: map[sum]FeedLine{}, pieces: map[sum]map[int64]Piece{},
		buf: bufio.NewReaderSize(nil, 256<<10)}
}

// each calls fn for every container of the volumes at hand.
func (a *absorber) each(fn func(c *Container) error) error {
	b := a.b
	f, err := b.table(nameBlobs, b.set.Blobs)
	if err != nil {
		return err
	}
	defer f.Close()
	for c, err := range containers(f, b.mapLines(), len(b.volumes)) {
		if err != nil {
			return unreadable(nameBlobs, err)
		}
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if len(b.present[c.Volume]) > 0 {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// documents stores the snapshots and evidence of a newer set, and checks those
// of any other.
func (a *absorber) documents() error {
	for _, l := range a.b.feeds {
		a.docs[sumOf(l.Document)] = l
		if l.Evidence != "" {
			a.docs[sumOf(l.Evidence)] = l
		}
	}
	return a.each(func(c *Container) error {
		if c.Type != typeDocument {
			return nil
		}
		a.tell(c)
		return a.fromAny(c, a.document)
	})
}

func (a *absorber) document(m *medium, c *Container) error {
	l, ok := a.docs[sumOf(c.Digest)]
	if !ok || a.b.standing == Older || a.b.judged.unapproved {
		return a.checkOnly(m, c)
	}
	if l.Evidence == c.Digest {
		return a.evidence(m, c, l)
	}
	return a.snapshot(m, c, l)
}

func (a *absorber) snapshot(m *medium, c *Container, l FeedLine) error {
	if err := a.room(c.Size); err != nil {
		return err
	}
	r, err := openContainer(m, c)
	if err != nil {
		return badCopy{err}
	}
	defer r.close()
	snap, err := a.store.PutSnapshot(a.ctx, r, l.Snapshot)
	if r.err != nil {
		return badCopy{r.err}
	}
	if err == nil {
		if err := a.named(snap, l); err != nil {
			return err
		}
		return ended(r.end())
	}
	if errors.Is(err, feed.ErrDamaged) || errors.Is(err, feed.ErrUntrusted) {
		if r.end() != nil { // the medium's fault; otherwise the set's
			return badCopy{r.end()}
		}
		return a.b.fault("H-501", feed.ErrUntrusted, "snapshot of %s: %v", l.Feed, err)
	}
	return a.full(err)
}

// named refuses a snapshot that the feeds table gives another name.
func (a *absorber) named(snap *cas.Snapshot, l FeedLine) error {
	if h := snap.Header(); h.Feed != l.Feed || h.Kind != l.Kind || h.Serial != l.Serial {
		return a.b.fault("H-501", feed.ErrUntrusted, "the snapshot of %s is one of %s %s, serial %d", l.Feed, h.Kind, h.Feed, h.Serial)
	}
	return nil
}

func (a *absorber) evidence(m *medium, c *Container, l FeedLine) error {
	path := a.b.opt.Data.Evidence(l.Feed, l.Serial, "outside")
	if fileDigest(path) == c.Digest {
		return a.checkOnly(m, c)
	}
	if err := a.room(c.Size); err != nil {
		return err
	}
	if err := durable.Mkdir(filepath.Dir(path)); err != nil {
		return a.full(err)
	}
	r, err := openContainer(m, c)
	if err != nil {
		return badCopy{err}
	}
	defer r.close()
	err = durable.WriteFrom(path, func(w io.Writer) error {
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
		return r.end()
	})
	if err != nil && (r.err != nil || errors.Is(err, feed.ErrDamaged)) {
		return badCopy{err}
	}
	return a.full(err)
}

func fileDigest(path string) feed.Digest {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return feed.DigestFrom(h)
}

// want collects what the desired state lacks.
func (a *absorber) want() error {
	if a.b.judged.unapproved { // its snapshots are not believed yet: keep all that is good
		a.all = true
		return nil
	}
	for _, l := range a.b.desired {
		snap, err := a.store.Snapshot(l.Feed, l.Serial)
		if errors.Is(err, fs.ErrNotExist) {
			// Its document is damaged or on another volume: keep all that is good.
			a.all = a.all || a.b.standing != Older
			continue
		}
		if err != nil {
			return err
		}
		if snap.ID() != l.Snapshot {
			return a.b.fault("H-506", feed.ErrUntrusted, "two snapshots of %s with serial %d", l.Feed, l.Serial)
		}
		for art := range snap.Missing() {
			a.wanted[sumOf(art.Digest)] = struct{}{}
		}
	}
	return nil
}

// fits adds up what would be written, before anything is.
func (a *absorber) fits() error {
	var need int64
	for of, stored := range a.pieces {
		if _, ok := a.wanted[of]; ok { // to be put together
			for _, p := range stored {
				need += p.Size
			}
		}
	}
	err := a.each(func(c *Container) error {
		switch c.Type {
		case typeFile:
			need += a.cost(c.Digest, c.Size)
		case typeSegment:
			need += a.cost(c.Of, c.Size)
		case typePack:
			for _, m := range c.Members {
				need += a.cost(m.Digest, m.Size)
			}
		}
		return nil
	})
	if err != nil || need == 0 {
		return err
	}
	return a.room(need)
}

// cost is a blob's space if it is wanted, in whole file-system blocks.
func (a *absorber) cost(d feed.Digest, n int64) int64 {
	if !a.wants(d) {
		return 0
	}
	return (n + 4095) &^ 4095
}

func (a *absorber) room(need int64) error {
	free, err := durable.Free(a.store.Dir())
	if err != nil {
		return err
	}
	if need += spare; free < need {
		return feed.NewFault(fmt.Errorf("bundle %d needs %d bytes, %d are free", a.b.set.Number, need, free), "H-801",
			"number", strconv.FormatUint(a.b.set.Number, 10), "need", strconv.FormatInt(need, 10), "free", strconv.FormatInt(free, 10))
	}
	return nil
}

// full names a full disk.
func (a *absorber) full(err error) error {
	if err != nil && durable.IsFull(err) {
		return feed.NewFault(err, "H-801", "number", strconv.FormatUint(a.b.set.Number, 10), "need", "", "free", "0")
	}
	return err
}

func (a *absorber) wants(d feed.Digest) bool {
	if _, ok := a.wanted[sumOf(d)]; ok || !a.all {
		return ok
	}
	_, have := a.store.Stat(d)
	return !have
}

func (a *absorber) tell(c *Container) {
	a.done += c.Size
	if f := a.b.opt.Progress; f != nil {
		f(Progress{Stage: "absorb", Name: blobName(c.Digest), Done: a.done, Total: a.total})
	}
}

// payload reads everything that is not a document.
func (a *absorber) payload() error {
	var run []Container // segments of one blob, so far
	err := a.each(func(c *Container) error {
		if len(run) > 0 && (c.Type != typeSegment || c.Of != run[0].Of) {
			if err := a.segments(run); err != nil {
				return err
			}
			run = run[:0]
		}
		if c.Type == typeDocument {
			return nil
		}
		a.tell(c)
		switch {
		case c.Type == typeSegment && a.wants(c.Of):
			run = append(run, *c)
			return nil
		case c.Type == typeFile && a.wants(c.Digest):
			return a.fromAny(c, a.file)
		case c.Type == typePack:
			return a.fromAny(c, a.pack)
		}
		return a.fromAny(c, a.checkOnly)
	})
	if err == nil && len(run) > 0 {
		err = a.segments(run)
	}
	return err
}

// inGroup is the size up to which blobs are flushed together.
const inGroup = 256 << 20

// put stores one blob. medium tells whether it was the source that failed.
func (a *absorber) put(r *source, d feed.Digest, size int64) (medium bool, err error) {
	if size <= inGroup {
		_, _, err = a.group.Put(a.ctx, r, d)
	} else {
		_, _, err = a.store.Put(a.ctx, r, d)
	}
	switch {
	case err == nil:
		delete(a.wanted, sumOf(d))
		a.b.stored[sumOf(d)] = struct{}{}
		a.out.Blobs++
		a.out.Bytes += size
		return false, nil
	case r.err != nil:
		return true, r.err
	case errors.Is(err, feed.ErrUntrusted):
		return true, err
	}
	return false, a.full(err)
}

func (a *absorber) file(m *medium, c *Container) error {
	f, err := openSized(m, c)
	if err != nil {
		return badCopy{err}
	}
	defer f.Close()
	medium, err := a.put(&source{r: io.LimitReader(f, c.Size+1)}, c.Digest, c.Size)
	if medium {
		return badCopy{err}
	}
	return err
}
