package packager

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
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
	Data         state.Dir
	DB           *state.DB // of an outside
	Store        *cas.Store
	Feeds        []Carry
	Sites        []int   // who may import it
	Base         *Packed // what the inside holds; nil is a complete bundle
	To           string  // the medium's directory: empty, or an older bundle of ours
	Orders       []feed.Order
	Now          time.Time
	NewestSigned time.Time     // the newest vendor-signed time this outside holds; zero is none
	ClockChecked string        // the operator's word that the clock is right although every vendor is quiet; audited
	Validity     time.Duration // 0 is DefaultValidity
	Who          string
	Progress     func(Progress) // may be nil

	limits limits // zero: the format's
}

// limits of one container and one manifest; tests make them small.
type limits struct {
	segment int64
	layers  int
}

// Report is what Pack wrote.
type Report struct {
	Packed
	Volumes    int
	Files      int64 // containers
	Blobs      int64 // carried
	BlobBytes  int64
	Known      int64 // artifacts left out because the base has them
	RootEnds   time.Time
	RootWarns  int           // KeyExpiry.Warning
	ReadBack   time.Duration // how long reading everything again took
	StreamHash feed.Digest   // of the block table: identity of the stream
}

// clockAhead is how far the clock may be ahead of the newest vendor signature.
const clockAhead = 30 * 24 * time.Hour

// Pack writes one bundle on one volume and reads it back. The set is signed
// before, written last but for index.json, and nothing that is already on the
// medium stays beside it. Errors: ErrConfig for options, H-201 on the wrong
// side, H-801 if it does not fit, H-802 if the clock contradicts signed times,
// H-702 if a stored blob is damaged, H-701 if the medium does not give back
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
	for _, ord := range o.Orders {
		if err := orderAllowed(ord, chain); err != nil {
			return Report{}, fmt.Errorf("%w: %w", err, feed.ErrConfig)
		}
	}
	p, err := o.plan(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := clearMedium(o.To); err != nil {
		return Report{}, err
	}
	if err := o.fits(p.bytes); err != nil {
		return Report{}, err
	}
	c, err := reserve(o.DB, o.Now)
	if err != nil {
		return Report{}, err
	}
	v, err := newVolume(ctx, o, p, c.Number)
	if err != nil {
		return Report{}, err
	}
	defer v.close()
	if err := v.payload(); err != nil {
		return Report{}, err
	}
	set, err := v.sign(key, chain, c)
	if err != nil {
		return Report{}, err
	}
	began := time.Now()
	if err := readBack(ctx, o, v, set); err != nil {
		return Report{}, err
	}
	r := v.report(set, c)
	r.ReadBack, r.RootEnds, r.RootWarns = time.Since(began), ends, warning(ends.Sub(o.Now))
	return r, o.remember(r.Packed)
}

// remember records a finished bundle: it may become a base.
func (o *PackOptions) remember(p Packed) error {
	return o.DB.Update(func(tx state.Tx) error {
		if err := tx.Put(bucketPacked, numberKey(p.Number), p); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: o.Now, Who: o.Who, What: "pack", Result: "ok", Detail: map[string]string{
			"bundle": strconv.FormatUint(p.Number, 10), "set": string(p.Set), "bytes": strconv.FormatInt(p.Bytes, 10), "clock": o.ClockChecked,
		}})
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
	if o.limits == (limits{}) {
		o.limits = limits{segmentSize, maxLayers}
	}
	if o.Validity == 0 {
		o.Validity = DefaultValidity
	}
	o.Sites = slices.Compact(slices.Sorted(slices.Values(o.Sites)))
	slices.SortFunc(o.Feeds, func(a, b Carry) int { return cmp.Compare(a.Snapshot.Header().Feed, b.Snapshot.Header().Feed) })
	slices.SortFunc(o.Orders, func(a, b feed.Order) int { return cmp.Compare(a.Number, b.Number) })
	switch {
	case o.Validity < MinValidity || o.Validity > MaxValidity:
		return fmt.Errorf("validity of %s is not 7 to 400 days: %w", o.Validity, feed.ErrConfig)
	case len(o.Sites) == 0 || len(o.Sites) > maxSites || o.Sites[0] < 1 || o.Sites[len(o.Sites)-1] > maxSite:
		return fmt.Errorf("sites %v: %w", o.Sites, feed.ErrConfig)
	case len(o.Feeds) == 0:
		return fmt.Errorf("nothing fetched yet, there is nothing to pack: %w", feed.ErrConfig)
	}
	for i := 1; i < len(o.Feeds); i++ {
		if a, b := o.Feeds[i-1].Snapshot.Header().Feed, o.Feeds[i].Snapshot.Header().Feed; a == b {
			return fmt.Errorf("feed %s named twice: %w", a, feed.ErrConfig)
		}
	}
	for _, ord := range o.Orders {
		if err := ord.Check(); err != nil {
			return err
		}
	}
	return o.checkClock()
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
	bytes     int64
	threshold int64 // smaller blobs go into packs
	base      map[sum]struct{}
}

// maxSingles keeps a directory within what FAT allows (crossing.md §4.1).
const maxSingles = 8000

// plan counts what is new against the base and sets the pack threshold.
func (o *PackOptions) plan(ctx context.Context) (plan, error) {
	p := plan{threshold: smallest, base: map[sum]struct{}{}}
	if err := o.loadBase(p.base); err != nil {
		return p, err
	}
	seen := map[sum]struct{}{}
	var classes [64]int64 // blobs by power of two
	for _, c := range o.Feeds {
		for a, err := range c.Snapshot.Artifacts() {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return p, err
			}
			s := sumOf(a.Digest)
			if _, ok := p.base[s]; ok {
				continue
			}
			if _, ok := seen[s]; ok {
				continue
			}
			seen[s] = struct{}{}
			p.bytes += a.Size + 1024 // tar header and padding, or a directory entry
			classes[bits(a.Size)]++
		}
	}
	singles := int64(0)
	for k := len(classes) - 1; k >= bits(smallest); k-- {
		if singles += classes[k]; singles > maxSingles && 1<<k < packTarget {
			p.threshold = 1 << k
			break
		}
	}
	return p, nil
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

// loadBase collects the digests the inside holds.
func (o *PackOptions) loadBase(into map[sum]struct{}) error {
	if o.Base == nil {
		return nil
	}
	for _, l := range o.Base.Feeds {
		snap, err := o.Store.Snapshot(l.Feed, l.Serial)
		if err == nil && snap.ID() != l.Snapshot {
			err = fmt.Errorf("it is another one now: %w", feed.ErrDamaged)
		}
		if err != nil {
			return fmt.Errorf("base bundle %d: snapshot %d of %s (make a complete bundle instead): %w", o.Base.Number, l.Serial, l.Feed, err)
		}
		for a, err := range snap.Artifacts() {
			if err != nil {
				return err
			}
			into[sumOf(a.Digest)] = struct{}{}
		}
	}
	return nil
}

func (o *PackOptions) fits(need int64) error {
	for _, c := range o.Feeds {
		for _, path := range []string{o.Store.SnapshotPath(c.Snapshot.Header().Feed, c.Snapshot.Header().Serial), c.Evidence} {
			if st, err := os.Stat(path); err == nil {
				need += st.Size()
			}
		}
	}
	need += need/1000 + 4<<20 // tables, manifests, metadata
	free, err := durable.Free(o.To)
	if err != nil {
		return err
	}
	if free < need {
		return feed.NewFault(fmt.Errorf("%s: the bundle needs %d bytes, %d are free", o.To, need, free), "H-801",
			"number", "", "need", strconv.FormatInt(need, 10), "free", strconv.FormatInt(free, 10))
	}
	return nil
}

// clearMedium makes dir empty if all it holds is an older bundle of ours (or
// part of one); a file that is not ours is an error, and nothing is removed.
func clearMedium(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var files, dirs []string
	err := list(os.DirFS(dir), func(name string, d fs.DirEntry) error {
		if !ours.MatchString(name) || d.Type()&^fs.ModeDir != 0 {
			return fmt.Errorf("%s holds %s, which is not part of a bundle: empty the medium or name another directory: %w", dir, name, feed.ErrConfig)
		}
		if d.IsDir() {
			dirs = append(dirs, name)
		} else {
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What makes it a bundle goes first: half an old one is none.
	slices.SortStableFunc(files, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	slices.Reverse(dirs)
	for _, name := range slices.Concat(files, dirs) {
		if err := durable.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	return durable.SyncDir(dir)
}

func rank(name string) int {
	return map[string]int{nameIndex: -2, nameSet: -1}[name]
}

func ordersBytes(orders []feed.Order) ([]byte, error) {
	var buf bytes.Buffer
	t, err := newTableWriter(&buf, false)
	if err != nil {
		return nil, err
	}
	for _, o := range orders {
		if err := t.line(o); err != nil {
			return nil, fmt.Errorf("order %d: %w", o.Number, err)
		}
	}
	return buf.Bytes(), nil
}
