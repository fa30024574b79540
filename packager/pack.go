package packager

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
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
	Account      string         // of Packed
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
		if r, err = pack(ctx, o); err != nil {
			err = errors.Join(err, o.notPacked(r.Number, err))
		}
		return err
	})
	return r, err
}

// notPacked records a bundle that was not made: a number may be used up, a
// medium half written.
func (o *PackOptions) notPacked(number uint64, why error) error {
	if side, _, err := o.DB.Identity(); err != nil || side != "outside" {
		return err
	}
	detail := map[string]string{"at": strings.Join(o.media(), " ")}
	if number > 0 {
		detail["bundle"] = strconv.FormatUint(number, 10)
	}
	return o.DB.Update(func(tx state.Tx) error {
		return tx.Audit(state.Record{Time: o.Now, Who: o.Who, What: "pack", Result: why.Error(), Detail: detail})
	})
}

// pack makes the bundle; where it fails, the report has the number it took, if any.
func pack(ctx context.Context, o PackOptions) (r Report, err error) {
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
	r.Number = c.Number
	w, err := newWriter(ctx, o, p, c.Number)
	defer w.close()
	if err != nil {
		return r, w.full(err)
	}
	set, err := w.run(key, chain, c)
	if err != nil {
		return r, err
	}
	if o.written != nil {
		o.written(w.dirs())
	}
	began := time.Now()
	if err := readBack(ctx, o, w.dirs(), set); err != nil {
		return r, notWritten(w.dirs(), err)
	}
	r = w.report(set, c)
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
		return feed.NewFault(fmt.Errorf("nothing fetched yet, there is nothing to pack: %w", feed.ErrConfig), "H-214")
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
