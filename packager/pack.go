package packager

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/fec"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Carry is one feed's state to carry.
type Carry struct {
	Snapshot *cas.Snapshot
	Evidence string // path of the outside's evidence, jsonl.zst; empty is none
}

// PackOptions says what to pack and where.
type PackOptions struct {
	Data  state.Dir
	DB    *state.DB // of an outside
	Store *cas.Store
	Feeds []Carry
	Sites []int   // who may import it
	Base  *Packed // what the inside holds; nil is a complete bundle
	// Others are newer bases, of further sites: only what every base holds is
	// left out. A file that went and came back may be in the oldest alone.
	Others []Packed
	To     string // the medium's directory: empty, or an older bundle of ours
	// VolumeSize splits the bundle: volumes of at most so many bytes in
	// To/volume-1, To/volume-2, …; with More, or WholeMedium, To and each of
	// More are media of their own. 0 without More is one volume in To.
	VolumeSize int64
	More       []string
	Parity     int // per cent; 0 is none
	// PieceSize bounds the payload's files, bytes, in whole MiB; 0 is 1 GiB.
	PieceSize int64
	// Need makes a repair bundle: the state of the listed bundle, its blobs that
	// the list names and no others. Feeds, Sites and Base are then ignored.
	Need         *Need
	Now          time.Time
	NewestSigned time.Time     // the newest vendor-signed time this outside holds; zero is none
	ClockChecked string        // the operator's word that the clock is right although every vendor is quiet; audited
	Validity     time.Duration // 0 is DefaultValidity
	Who          string
	Urgent       bool           // may be approved by telephone
	Only         []string       // feeds whose blobs are carried; empty is all. Every feed is stated.
	Media        []string       // registered numbers of To and More; a set in one directory has the first
	Progress     func(Progress) // may be nil
	// Scan, if not nil, is asked about every file that the bundle will carry,
	// before the medium is touched; an error stops the bundle. What it returns
	// goes into the audit log.
	Scan func(ctx context.Context, files iter.Seq2[Item, error]) (map[string]string, error)

	scanned              map[string]string // by Scan
	limits               limits            // zero: the format's
	orders               []SignedOrder
	waiting              []uint64 // orders without the approver's signature
	approver             bool     // one must sign this bundle
	repairs, repairsBase *BaseRef
	only                 map[sum]struct{}    // of a repair bundle: what it carries
	written              func(dirs []string) // tests: what becomes of the media before they are read back
}

// Item is one file that a bundle will carry.
type Item struct {
	Feed string
	feed.Artifact
}

// Report is what Pack wrote.
type Report struct {
	Packed
	Volumes int
	Cover
	Dirs       []string // of the volumes
	Files      int64    // containers
	Blobs      int64    // carried
	BlobBytes  int64
	Known      int64    // artifacts left out because the base has them
	Waiting    []uint64 // orders left at home until an approver signs them
	Approval   bool     // an approver must sign this bundle (Approve)
	RootEnds   time.Time
	RootWarns  int           // KeyExpiry.Warning
	ReadBack   time.Duration // how long reading everything again took
	Erased     []Erased      // older bundles that were on the media
	StreamHash feed.Digest   // of the block table: identity of the stream
}

// clockAhead is how far the clock may be ahead of the newest vendor signature.
const clockAhead = 30 * 24 * time.Hour

// Pack writes one bundle on one volume and reads it back. The set is signed
// before, written last but for index.json, and nothing that is already on the
// medium stays beside it. Errors: ErrConfig for options, H-201 on the wrong
// side, H-801 if it does not fit, H-802 if the clock contradicts signed times,
// H-702 if a stored blob is damaged, H-820 if another program took or locked
// it, H-701 if the medium does not give back
// what was written.
func Pack(ctx context.Context, o PackOptions) (Report, error) {
	var r Report
	err := o.DB.Lock(ctx, "pack", func(ctx context.Context) error {
		var err error
		r, err = pack(ctx, o)
		return err
	})
	return r, err
}

func pack(ctx context.Context, o PackOptions) (Report, error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	key, chain, ends, err := signer(o.Data, o.Now)
	if err != nil {
		return Report{}, err
	}
	p, err := o.plan(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := o.fits(p); err != nil {
		return Report{}, err
	}
	if o.Scan != nil {
		if o.scanned, err = o.Scan(ctx, o.items(p)); err != nil {
			return Report{}, err
		}
	}
	erased, err := o.clearMedia()
	if err != nil {
		return Report{}, err
	}
	c, err := reserve(o.DB, o.Now)
	if err != nil {
		return Report{}, err
	}
	w, err := newWriter(ctx, o, p, c.Number)
	defer w.close()
	if err != nil {
		return Report{}, w.full(err)
	}
	set, err := w.run(key, chain, c)
	if err != nil {
		return Report{}, err
	}
	if o.written != nil {
		o.written(w.dirs())
	}
	began := time.Now()
	if err := readBack(ctx, o, w.dirs(), set); err != nil {
		return Report{}, notWritten(w.dirs(), err)
	}
	r := w.report(set, c)
	r.Waiting, r.Approval = o.waiting, o.approver
	r.Erased = erased
	r.ReadBack, r.RootEnds, r.RootWarns = time.Since(began), ends, warning(ends.Sub(o.Now))
	return r, o.remember(r.Packed)
}

// items are the files that the plan carries, in no promised order; one that
// several feeds name may come more than once.
func (o *PackOptions) items(p *plan) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for _, c := range o.Feeds {
			name := c.Snapshot.Header().Feed
			for a, err := range c.Snapshot.Artifacts() {
				if err == nil && !p.carries(sumOf(a.Digest)) {
					continue
				}
				if !yield(Item{name, a}, err) || err != nil {
					return
				}
			}
		}
	}
}

// run writes everything.
func (w *writer) run(key signature.Signer, chain [][]byte, c counter) (Set, error) {
	if err := w.payload(); err != nil {
		return Set{}, err
	}
	if _, err := w.stream.Close(); err != nil {
		return Set{}, w.full(err)
	}
	if err := w.table.Close(); err != nil {
		return Set{}, w.full(err)
	}
	if err := w.parity(); err != nil {
		return Set{}, w.full(err)
	}
	return w.sign(key, chain, c)
}

// notWritten is the fault of a medium that does not give back what was
// written: a stick that claims more than it holds, a copy cut short.
func notWritten(dirs []string, err error) error {
	if !errors.Is(err, feed.ErrDamaged) {
		return err
	}
	for _, dir := range dirs { // nobody shall carry it
		err = errors.Join(err, durable.Remove(filepath.Join(dir, nameIndex)))
	}
	return feed.NewFault(err, "H-805", "medium", strings.Join(dirs, ", "))
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

// remember records a finished bundle: it may become a base.
func (o *PackOptions) remember(p Packed) error {
	return o.DB.Update(func(tx state.Tx) error {
		if err := tx.Put(bucketPacked, numberKey(p.Number), p); err != nil {
			return err
		}
		detail := map[string]string{
			"bundle": strconv.FormatUint(p.Number, 10), "set": string(p.Set), "bytes": strconv.FormatInt(p.Bytes, 10), "clock": o.ClockChecked,
		}
		maps.Copy(detail, o.scanned)
		return tx.Audit(state.Record{Time: o.Now, Who: o.Who, What: "pack", Result: "ok", Detail: detail})
	})
}

func (o *PackOptions) check() error {
	side, _, err := o.DB.Identity()
	if err != nil {
		return err
	}
	if side != "outside" {
		return feed.NewFault(fmt.Errorf("packing: %w", feed.ErrWrongSide), "H-201", "side", side)
	}
	o.Now = o.Now.UTC().Truncate(time.Second)
	if o.Need != nil {
		if o.only, err = o.repair(); err != nil {
			return err
		}
	} else if len(o.Only) > 0 {
		if o.only, err = o.some(); err != nil {
			return err
		}
	}
	if o.Validity == 0 {
		o.Validity = DefaultValidity
	}
	o.Sites = slices.Compact(slices.Sorted(slices.Values(o.Sites)))
	slices.SortFunc(o.Feeds, func(a, b Carry) int { return cmp.Compare(a.Snapshot.Header().Feed, b.Snapshot.Header().Feed) })
	switch {
	case o.Validity < MinValidity || o.Validity > MaxValidity:
		return fmt.Errorf("validity of %s is not 7 to 400 days: %w", o.Validity, feed.ErrConfig)
	case len(o.Sites) == 0 || len(o.Sites) > maxSites || o.Sites[0] < 1 || o.Sites[len(o.Sites)-1] > maxSite:
		return fmt.Errorf("sites %v: %w", o.Sites, feed.ErrConfig)
	case o.Parity < 0 || o.Parity > fec.MaxPercent:
		return fmt.Errorf("parity of %d per cent is not 0 to %d: %w", o.Parity, fec.MaxPercent, feed.ErrConfig)
	case len(o.Feeds) == 0:
		return fmt.Errorf("nothing fetched yet, there is nothing to pack: %w", feed.ErrConfig)
	}
	for i := 1; i < len(o.Feeds); i++ {
		if a, b := o.Feeds[i-1].Snapshot.Header().Feed, o.Feeds[i].Snapshot.Header().Feed; a == b {
			return fmt.Errorf("feed %s named twice: %w", a, feed.ErrConfig)
		}
	}
	if err := o.takeOrders(); err != nil {
		return err
	}
	return o.checkClock()
}

// takeOrders reads the orders that travel with this bundle.
func (o *PackOptions) takeOrders() error {
	root, err := newestRoot(o.Data)
	if err != nil {
		return err
	}
	o.approver = root.Signed.Roles[metadata.TARGETS].Threshold > 1
	return o.DB.View(func(tx state.Tx) error {
		all, err := ordersUnder(tx, root.Signed.Version)
		if err == nil {
			err = signNew(o.Data, all)
		}
		o.orders, o.waiting = travelling(all, root, o.Now)
		return err
	})
}

// some collects the blobs of the feeds that are carried alone.
func (o *PackOptions) some() (map[sum]struct{}, error) {
	only := map[sum]struct{}{}
	for _, name := range o.Only {
		i := slices.IndexFunc(o.Feeds, func(c Carry) bool { return c.Snapshot.Header().Feed == name })
		if i < 0 {
			return nil, feed.NewFault(fmt.Errorf("feed %q has nothing to carry: %w", name, feed.ErrConfig), "H-205", "name", name)
		}
		for a, err := range o.Feeds[i].Snapshot.Artifacts() {
			if err != nil {
				return nil, err
			}
			only[sumOf(a.Digest)] = struct{}{}
		}
	}
	return only, nil
}

// checkClock refuses to sign with a clock that vendors' signatures contradict.
func (o *PackOptions) checkClock() error {
	if o.NewestSigned.IsZero() {
		return nil
	}
	late := o.Now.Before(o.NewestSigned)
	if !late && (o.Now.Sub(o.NewestSigned) <= clockAhead || o.ClockChecked != "") {
		return nil
	}
	what := "more than 30 days after"
	if late {
		what = "before"
	}
	return feed.NewFault(fmt.Errorf("the clock says %s, %s the newest vendor signature of %s: %w", o.Now.Format(time.RFC3339), what,
		o.NewestSigned.UTC().Format(time.RFC3339), feed.ErrConfig), "H-802", "clock", o.Now.Format(time.RFC3339), "floor", o.NewestSigned.UTC().Format(time.RFC3339))
}

// signer loads the bundle key and the chain of roots, and checks that they fit.
func signer(data state.Dir, now time.Time) (signature.Signer, [][]byte, time.Time, error) {
	key, err := bundleKey(data)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	chain, err := roots(data.Trust())
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	root, err := trustRoot(chain[len(chain)-1])
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	_, id, err := tufKey(key)
	if err == nil && !slices.Contains(root.Signed.Roles[metadata.TIMESTAMP].KeyIDs, id) {
		err = fmt.Errorf("keys/bundle.pem is not the key that root %d names: %w", root.Signed.Version, feed.ErrConfig)
	}
	if err == nil && now.After(root.Signed.Expires) {
		err = fmt.Errorf("root %d expired on %s, the root keys must sign a new one: %w", root.Signed.Version, root.Signed.Expires.Format(time.DateOnly), feed.ErrConfig)
	}
	return key, chain, root.Signed.Expires, err
}

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

// found is one file or directory of an older bundle.
type found struct {
	name string
	size int64
}

// oursIn lists an older bundle of ours in dir, whole or in part, in one volume
// or several. A file that is not ours is an error.
func oursIn(dir string) (files []found, dirs []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	err = list(os.DirFS(dir), func(name string, d fs.DirEntry) error {
		if !ours.MatchString(inVolume.ReplaceAllString(name, "")) || d.Type()&^fs.ModeDir != 0 {
			return fmt.Errorf("%s holds %s, which is not part of a bundle: empty the medium or name another directory: %w", dir, name, feed.ErrConfig)
		}
		if d.IsDir() {
			dirs = append(dirs, name)
			return nil
		}
		st, err := d.Info()
		if err == nil {
			files = append(files, found{name, st.Size()})
		}
		return err
	})
	if err == nil {
		err = foreignLayout(dir, files)
	}
	return files, dirs, err
}

// clearMedia removes the older bundles that the media hold; each is in the log.
func (o *PackOptions) clearMedia() (out []Erased, err error) {
	for _, dir := range o.media() {
		on, err := LookAt(dir)
		if err != nil {
			return out, err
		}
		n, err := clearMedium(dir)
		if err != nil {
			return out, err
		}
		if n == 0 {
			continue
		}
		out = append(out, Erased{dir, n, on})
		err = o.DB.Update(func(tx state.Tx) error {
			return tx.Audit(state.Record{Time: o.Now, Who: o.Who, What: "wipe medium", Result: "ok", Detail: map[string]string{
				"medium": on.Medium, "bundle": strconv.FormatUint(on.Bundle, 10), "files": strconv.Itoa(n), "at": dir,
			}})
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// clearMedium makes dir empty if all it holds is an older bundle of ours (or
// part of one); a file that is not ours is an error, and nothing is removed.
func clearMedium(dir string) (int, error) {
	files, dirs, err := oursIn(dir)
	if err != nil {
		return 0, err
	}
	// What makes it a bundle goes first: half an old one is none.
	slices.SortStableFunc(files, func(a, b found) int { return cmp.Compare(rank(a.name), rank(b.name)) })
	slices.Reverse(dirs)
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	for _, name := range slices.Concat(names, dirs) {
		if err := durable.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return 0, err
		}
	}
	return len(files), durable.SyncDir(dir)
}

func rank(name string) int {
	return map[string]int{nameIndex: -2, nameSet: -1}[path.Base(name)]
}

func ordersBytes(orders []SignedOrder) ([]byte, error) {
	var buf bytes.Buffer
	t, err := newTableWriter(&buf, false)
	if err != nil {
		return nil, err
	}
	for _, o := range orders {
		if err := t.line(o.env); err != nil {
			return nil, fmt.Errorf("order %d: %w", o.Number, err)
		}
	}
	return buf.Bytes(), nil
}
