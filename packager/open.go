package packager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// OpenOptions says who opens.
type OpenOptions struct {
	Data     state.Dir
	DB       *state.DB // of an inside
	Clock    func() time.Time
	Progress func(Progress) // may be nil
}

// Bundle is an opened bundle whose set is signed, addressed to this site and
// judged against what was accepted before. Not safe for concurrent use.
type Bundle struct {
	opt      OpenOptions
	media    []*medium
	now      time.Time // the machine's clock
	floor    time.Time
	judged   judged
	standing Standing
	set      Set
	setRaw   []byte
	id       feed.Digest
	expires  time.Time
	expired  bool
	held     string
	was      Accepted // before this bundle
	accepted bool     // by this Bundle
	feeds    []FeedLine
	desired  []FeedLine
	volumes  []VolumeLine
	orders   []SignedOrder

	ordersRaw   []byte
	approving   []string // directories that may hold approvals
	approvals   approvals
	fromPending bool              // opened from trust/pending-V: payload is not there
	present     map[int][]*medium // by volume: all media that have it, the least worn first
	stored      map[sum]struct{}  // by Absorb
	other       []string
	refused     []error // why sets beside this one were not believed
	damaged     []Damage
	worn        []worn // found by Open
	volumeOf    map[*medium]int
	strict      bool // read-back: nothing may be damaged
	foreign     []string
	nForeign    int
	warnings    []error
}

// Damage is one file of a medium that is not what was signed.
type Damage struct {
	Volume int
	File   string // on the medium
	Reason string
	// Repaired is damage that parity made harmless: what the file held is here.
	Repaired bool
}

// How far signed times may lie apart (DESIGN §5).
const (
	versionAhead = 24 * time.Hour
	floorRise    = 400 * 24 * time.Hour
)

// Open reads the signed set first and then everything that says what is where.
// The directories are volumes of one bundle, opened for reading only: of
// several sets the newest that can be believed. Volumes of others are left
// alone and named by Other, with the reason by Refused. Nothing is stored.
//
// Errors are Faults: H-501 signature, H-503 (ErrRollback) where an older set
// cannot be judged, H-506 forked number, H-507 another site's bundle, H-509
// version ahead of the set's own date, H-213 no bundle there (ErrConfig), H-701
// unreadable or damaged (ErrDamaged).
func Open(ctx context.Context, dirs []string, opt OpenOptions) (*Bundle, error) {
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no medium named: %w", feed.ErrConfig)
	}
	side, site, err := opt.DB.Identity()
	if err != nil {
		return nil, err
	}
	if side != "inside" {
		return nil, feed.NewFault(fmt.Errorf("opening a bundle: %w", feed.ErrWrongSide), "H-201", "side", side)
	}
	b := &Bundle{opt: opt, now: opt.Clock().UTC(), present: map[int][]*medium{}, volumeOf: map[*medium]int{}}
	if err := b.open(ctx, dirs, site); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bundle) open(ctx context.Context, dirs []string, site int) error {
	var err error
	if b.was, err = accepted(b.opt.DB); err != nil {
		return err
	}
	if err = b.opt.DB.View(func(tx state.Tx) error { b.floor, err = tx.Floor(); return err }); err != nil {
		return err
	}
	if b.floor.IsZero() {
		if b.floor, err = firstFloor(b.opt.Data); err != nil {
			return fmt.Errorf("time floor of pairing: %w: %w", err, feed.ErrDamaged)
		}
	}
	if dirs, err = b.setAside(dirs); err != nil {
		return err
	}
	all, err := b.openMedia(dirs)
	if err != nil {
		return err
	}
	if err := b.believeOne(all, site); err != nil {
		return err
	}
	if err := b.readTables(); err != nil {
		return err
	}
	if b.desired = b.feeds; b.standing != Newer {
		if b.desired, err = acceptedFeeds(b.opt.Data, b.was); err != nil {
			return err
		}
	}
	return b.checkStructure(ctx)
}

// setAside takes directories out that hold approvals and no bundle. If nothing
// else is named, the bundle that waits for one of them is opened.
func (b *Bundle) setAside(dirs []string) ([]string, error) {
	var out []string
	for _, dir := range dirs {
		b.approving = append(b.approving, volumesIn([]string{dir})...)
		b.approving = append(b.approving, dir)
		if _, err := os.Lstat(filepath.Join(dir, nameIndex)); err == nil {
			out = append(out, dir)
			continue
		}
		_, only, err := approvalsIn(dir, 0)
		if vols := volumesIn([]string{dir}); err != nil || !only || vols[0] != dir {
			out = append(out, dir)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	b.fromPending = true
	return pendingMedia(b.opt.DB, dirs)
}

// findApprovals collects the approvals of the bundle with this number.
func (b *Bundle) findApprovals(number uint64) (ap approvals, err error) {
	seen := map[string]bool{}
	for _, dir := range b.approving {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		of, _, err := approvalsIn(dir, number)
		if err != nil {
			return ap, err
		}
		ap.given = append(ap.given, of...)
	}
	return ap, b.opt.DB.View(func(tx state.Tx) error {
		_, err := tx.Get(bucketApprovals, numberKey(number), &ap.known)
		return err
	})
}

// judgeSet believes the set by the metadata of one medium or says why not.
func (b *Bundle) judgeSet(site int, m *medium) error {
	b.warnings, b.held = nil, ""
	have, err := loadTrusted(b.opt.Data, b.was)
	if err != nil {
		return err
	}
	if s, err := parseSet(b.setRaw); err == nil {
		if b.approvals, err = b.findApprovals(s.Number); err != nil {
			return err
		}
	}
	if b.judged, err = judge(have, m.load, b.approvals); err != nil {
		return b.named(err)
	}
	b.standing = b.judged.standing
	if b.ordersRaw, err = m.read(nameOrders, maxOrders); err != nil {
		return err
	}
	files := map[string][]byte{nameSet: b.setRaw, nameOrders: b.ordersRaw}
	if len(b.judged.targetsM.Signed.Targets) != len(files) {
		return untrusted(targetsName(b.judged.version), errors.New("names other targets than set and orders"))
	}
	for name, raw := range files {
		t := b.judged.targetsM.Signed.Targets[name]
		if t == nil {
			return untrusted(name, errors.New("is not signed"))
		}
		if err := t.VerifyLengthHashes(raw); err != nil {
			return untrusted(name, err)
		}
	}
	if b.set, err = parseSet(b.setRaw); err != nil {
		return unreadable(nameSet, err)
	}
	return b.checkSet(site)
}

// named adds the bundle's number, as far as it can be read, to a fault about it.
func (b *Bundle) named(err error) error {
	var f *feed.Fault
	if s, serr := parseSet(b.setRaw); serr == nil && errors.As(err, &f) {
		f.Args["number"] = strconv.FormatUint(s.Number, 10)
	}
	return err
}

func (b *Bundle) fault(code string, class error, format string, args ...any) error {
	return feed.NewFault(fmt.Errorf("bundle %d: %s: %w", b.set.Number, fmt.Sprintf(format, args...), class), code,
		"number", strconv.FormatUint(b.set.Number, 10), "created", b.set.Created.Format(time.RFC3339),
		"expires", b.expires.Format(time.RFC3339), "accepted", strconv.FormatUint(b.was.Number, 10),
		"reference", b.reference().Format(time.RFC3339))
}

// reference is the time at which expiry is judged: there is no NTP inside.
func (b *Bundle) reference() time.Time {
	if b.floor.After(b.now) {
		return b.floor
	}
	return b.now
}

// checkSet compares the set with the metadata around it and with this site.
func (b *Bundle) checkSet(site int) error {
	s := &b.set
	b.expires = earliest(b.judged.expires, s.Expires)
	b.expired = b.reference().After(b.expires)
	if b.now.Before(b.floor) {
		b.warnings = append(b.warnings, feed.NewFault(errors.New("this computer's clock is behind signed times"), "H-802",
			"clock", b.now.Format(time.RFC3339), "floor", b.floor.Format(time.RFC3339)))
	}
	switch {
	case s.Version != b.judged.version || s.Root > int64(len(b.judged.roots)):
		return b.fault("H-501", feed.ErrUntrusted, "set version %d under root %d, metadata %d under root %d", s.Version, s.Root, b.judged.version, len(b.judged.roots))
	case !slices.Contains(s.Sites, site):
		return b.fault("H-507", feed.ErrUntrusted, "made for site %v, this is site %d", s.Sites, site)
	case b.judged.version > s.Created.Add(versionAhead).Unix():
		return b.fault("H-509", feed.ErrUntrusted, "version %d lies after its own date %s", b.judged.version, s.Created)
	}
	if err := b.checkFork(); err != nil {
		return err
	}
	if b.judged.unapproved && b.standing != Newer {
		return b.waits() // an approver was taken away since; nothing it says counts
	}
	if b.standing == Newer {
		switch {
		case s.Created.After(b.floor.Add(floorRise)):
			b.held = HeldFuture
		case b.expired:
			b.held = HeldExpired
		}
	}
	return nil
}

// checkFork refuses a number that already means another set.
func (b *Bundle) checkFork() error {
	if b.judged.rotated {
		return nil
	}
	var seen Accepted
	var known bool
	err := b.opt.DB.View(func(tx state.Tx) error {
		var err error
		seen, known, err = BundleOf(tx, b.set.Number)
		return err
	})
	switch {
	case err != nil:
		return err
	case known && seen.Set != b.id:
		return b.fault("H-506", feed.ErrUntrusted, "two bundles have this number: %s and %s", seen.Set, b.id)
	case b.standing == Newer && b.set.Number <= b.was.Number:
		return b.fault("H-506", feed.ErrUntrusted, "made after bundle %d, but its number is not higher", b.was.Number)
	}
	return nil
}

// readTables reads what says what is where, and the orders.
func (b *Bundle) readTables() error {
	f, err := b.table(nameFeeds, b.set.Feeds)
	if err != nil {
		return err
	}
	defer f.Close()
	if b.feeds, err = readFeeds(f, b.set.Feeds.Lines); errors.Is(err, feed.ErrUntrusted) {
		return b.fault("H-501", feed.ErrUntrusted, "%v", err)
	} else if err != nil {
		return unreadable(nameFeeds, err)
	}
	v, err := b.table(nameVolumes, b.set.Volumes)
	if err != nil {
		return err
	}
	defer v.Close()
	if b.volumes, err = readVolumes(v, b.set.Volumes.Lines); err != nil {
		return unreadable(nameVolumes, err)
	}
	if objectOf(b.ordersRaw) != (Object{b.set.Orders.Digest, b.set.Orders.Size}) {
		return untrusted(nameOrders, errors.New("is not the set's"))
	}
	if b.orders, err = readOrders(bytes.NewReader(b.ordersRaw), b.set.Orders.Lines); err != nil {
		return unreadable(nameOrders, err)
	}
	if err := b.checkTables(); err != nil {
		return err
	}
	return b.checkOrders()
}

// checkOrders refuses orders that the bundle key alone may not give, and a
// number that already means another order.
func (b *Bundle) checkOrders() error {
	var have []feed.Order
	err := b.opt.DB.View(func(tx state.Tx) error {
		var err error
		have, err = tx.Orders()
		return err
	})
	if err != nil {
		return err
	}
	root, err := trustRoot(b.judged.roots[len(b.judged.roots)-1])
	if err != nil {
		return err
	}
	for _, o := range b.orders {
		i := slices.IndexFunc(have, func(h feed.Order) bool { return h.Number == o.Number })
		if i >= 0 && !sameJSON(have[i], o.Order) {
			return b.fault("H-506", feed.ErrUntrusted, "order %d is not the one accepted under this number", o.Number)
		}
		if i >= 0 {
			continue // accepted under the root of its time
		}
		if err := o.allowed(root); err != nil {
			return b.fault("H-501", feed.ErrUntrusted, "%v", err)
		}
	}
	return nil
}

// Close closes the media.
func (b *Bundle) Close() {
	for _, m := range b.media {
		m.close()
	}
}
