package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/people"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// Verdict is what vendor verification found in one snapshot.
type Verdict struct {
	Withheld map[string]string // artifact path → reason
	Marks    map[string]int64
	Weakest  feed.Strength // of what is not withheld
}

// ImportOptions says who imports.
type ImportOptions struct {
	Data  state.Dir
	DB    *state.DB
	Store *cas.Store
	Feeds map[string]feed.Setup // the inside's own [feed.x] blocks
	// Verify proves a snapshot from the store, as the outside did. prev is
	// what was accepted before.
	Verify func(ctx context.Context, s feed.Setup, c feed.Content, prev state.FeedState) (Verdict, error)
	// Admit may refuse the bundle before anything of it is stored, and says
	// which feeds of the desired state are approved: the others are imported and
	// wait. nil admits and approves everything.
	Admit    func(Admission) (approved func(feedName string) bool, err error)
	Clock    func() time.Time
	Who      string // for the audit log
	Log      *slog.Logger
	Progress func(packager.Progress) // may be nil
}

// Admission is what an approver must know of a bundle before it is imported.
type Admission struct {
	packager.Info
	Bundle  uint64              // whose state is desired: this bundle, or the one accepted before if this is older
	State   feed.Digest         // that bundle's set
	Changed []packager.FeedLine // of the desired state: not accepted here yet, or waiting for an approver
	Desired []packager.FeedLine
	Own     []packager.FeedLine // of Changed: those that this very bundle states and carries, so that approving it approves them
}

// Outcome is how one feed of a bundle fared.
type Outcome string

const (
	FeedAccepted     Outcome = "accepted"
	FeedUnchanged    Outcome = "unchanged"
	FeedUnapproved   Outcome = "unapproved"   // accepted, published once an approver is recorded
	FeedIncomplete   Outcome = "incomplete"   // blobs are missing
	FeedRefused      Outcome = "refused"      // vendor verification or rollback; the previous state stays
	FeedUnconfigured Outcome = "unconfigured" // stored, not accepted: no [feed.x] block here
)

// maxNamed is how many missing artifacts are named per feed; the rest is counted.
const maxNamed = 10_000

// FeedResult is one feed's part of an import.
type FeedResult struct {
	Feed    string
	Kind    string
	Serial  uint64
	Outcome Outcome
	Missing int64    // artifacts whose blobs are not here
	Names   []string // of these, at most maxNamed
	Code    string   // message code of a refusal
	Problem string
	Config  string // for an unconfigured feed: the block to copy, as comments
	err     error
}

// ImportReport is what an import did.
type ImportReport struct {
	packager.Info
	packager.Absorbed
	Damaged []packager.Damage
	Feeds   []FeedResult
	Taken   bool // not refused as a whole: the set counts here, or counted before
}

// Import reads a bundle from media that are never written: signed set first,
// every file checked, blobs absorbed, the set accepted, then each feed with a
// block here verified by its vendor's signatures and accepted by itself. What
// an earlier, interrupted import began is finished. Repeating an import is a
// success without effect.
//
// Errors are Faults joined by feed: those of packager.Open and Absorb, H-502
// vendor signature, H-505 vendor state older than accepted, H-506 forked
// serial, H-601 below the floor, H-701 damaged or missing, H-804 busy. A feed
// that is unknown here is H-640 among the report's Warnings. The report is
// valid as far as it goes.
func Import(ctx context.Context, o ImportOptions, dirs []string) (ImportReport, error) {
	var r ImportReport
	err := o.DB.Lock(ctx, "import", func(ctx context.Context) error {
		if err := o.Store.Clean(); err != nil { // of a killed import; only imports write here
			return err
		}
		err := o.run(ctx, dirs, &r)
		return errors.Join(err, o.audit(&r, err))
	})
	if errors.Is(err, state.ErrBusy) {
		err = feed.NewFault(err, "H-804", "what", "import")
	}
	return r, err
}

func (o *ImportOptions) run(ctx context.Context, dirs []string, r *ImportReport) error {
	b, err := packager.Open(ctx, dirs, packager.OpenOptions{Data: o.Data, DB: o.DB, Clock: o.Clock, Progress: o.Progress})
	if err != nil {
		return err
	}
	defer b.Close()
	r.Info = b.Info()
	approved, err := o.admit(b, r.Info)
	if err != nil {
		return err
	}
	r.Absorbed, err = b.Absorb(ctx, o.Store)
	r.Damaged = b.Damaged()
	if err != nil {
		return err
	}
	if err := b.Accept(o.DB, o.Who); err != nil {
		return err
	}
	moved, err := o.feeds(ctx, b, approved, r)
	r.Taken = true
	if err == nil && !moved && r.Blobs == 0 && r.Pieces == 0 {
		err = b.Useless()
		r.Taken = err == nil
	}
	return errors.Join(err, damage(r))
}

// admit asks whoever decides about this bundle.
func (o *ImportOptions) admit(b *packager.Bundle, info packager.Info) (func(string) bool, error) {
	if o.Admit == nil {
		return func(string) bool { return true }, nil
	}
	if info.Unapproved { // held as a whole: nobody is asked yet
		return func(string) bool { return false }, nil
	}
	a := Admission{Info: info, Bundle: info.Set.Number, State: info.ID, Desired: b.Desired()}
	if info.Standing == packager.Older {
		a.Bundle, a.State = info.Was.Number, info.Was.Set
	}
	err := o.DB.View(func(tx state.Tx) error {
		for _, l := range a.Desired {
			f, err := tx.Feed(l.Feed)
			if err != nil {
				return err
			}
			if f.Serial == l.Serial && f.ID == l.Snapshot && !f.Unapproved {
				continue
			}
			a.Changed = append(a.Changed, l)
			if info.Set.Carries(l.Feed) && slices.ContainsFunc(b.Stated(), func(s packager.FeedLine) bool {
				return s.Feed == l.Feed && s.Serial == l.Serial && s.Snapshot == l.Snapshot
			}) {
				a.Own = append(a.Own, l)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o.Admit(a)
}

// damage is the error for a medium that is not what was signed and that parity
// did not make up for.
func damage(r *ImportReport) error {
	bad := slices.DeleteFunc(slices.Clone(r.Damaged), func(d packager.Damage) bool { return d.Repaired })
	if len(bad) == 0 {
		return nil
	}
	d := bad[0]
	return feed.NewFault(fmt.Errorf("%d files of the medium are damaged, the first is %s (%s): %w", len(bad), d.File, d.Reason, feed.ErrDamaged),
		"H-701", "file", d.File, "count", strconv.Itoa(len(bad)), "volume", strconv.Itoa(d.Volume))
}

// feeds brings every feed of the desired state as far as it goes; one feed's
// failure never stops another's.
func (o *ImportOptions) feeds(ctx context.Context, b *packager.Bundle, approved func(string) bool, r *ImportReport) (moved bool, err error) {
	in := b.Accepted()
	for _, l := range b.Desired() {
		if cerr := ctx.Err(); cerr != nil {
			return moved, errors.Join(err, cerr)
		}
		res := o.feed(ctx, b, l, in, approved(l.Feed))
		if res.Code == "H-701" && res.Outcome == FeedIncomplete && (len(r.Needed) > 0 || r.Set.Partial()) {
			res.Code, res.Problem, res.err = "", "", nil // other volumes, or other bundles, are still to come
		}
		if res.Outcome == FeedUnconfigured { // no error: a bundle for several sites may hold what this one does not use
			r.Warnings = append(r.Warnings, feed.NewFault(fmt.Errorf("feed %s is unknown here: stored, not published: %w", res.Feed, feed.ErrHeld),
				"H-640", "feed", res.Feed, "kind", res.Kind))
		}
		r.Feeds = append(r.Feeds, res)
		moved = moved || res.Outcome == FeedAccepted || res.Outcome == FeedUnapproved
		if res.err != nil {
			o.Log.Warn("feed not accepted", "feed", l.Feed, "serial", l.Serial, "error", res.err)
			err = errors.Join(err, fmt.Errorf("feed %s: %w", l.Feed, res.err))
		}
	}
	return moved, err
}

// feed accepts one feed's snapshot, or says why not.
func (o *ImportOptions) feed(ctx context.Context, b *packager.Bundle, l packager.FeedLine, in packager.Accepted, approved bool) FeedResult {
	res := FeedResult{Feed: l.Feed, Kind: l.Kind, Serial: l.Serial}
	var prev state.FeedState
	if res.err = o.DB.View(func(tx state.Tx) (err error) { prev, err = tx.Feed(l.Feed); return err }); res.err != nil {
		return res
	}
	snap, err := o.Store.Snapshot(l.Feed, l.Serial)
	if errors.Is(err, fs.ErrNotExist) {
		res.Outcome, res.Missing, res.Names = FeedIncomplete, 1, []string{"snapshot " + strconv.FormatUint(l.Serial, 10)}
		return o.lacking(res)
	}
	if err != nil {
		res.err = err
		return res
	}
	taken := ""
	for a := range snap.Missing() {
		if taken == "" && b.Stored(a.Digest) {
			taken = a.Path
		}
		if res.Missing++; len(res.Names) < maxNamed {
			res.Names = append(res.Names, a.Path)
		}
	}
	set, configured := o.Feeds[l.Feed]
	switch {
	case taken != "":
		res.Outcome, res.Code = FeedIncomplete, "H-820"
		res.err = feed.NewFault(fmt.Errorf("%s was stored and is gone: %w", taken, fs.ErrNotExist), "H-820", "feed", l.Feed, "file", taken)
		res.Problem = res.err.Error()
		return res
	case res.Missing > 0:
		res.Outcome = FeedIncomplete
		return o.lacking(res)
	case !configured:
		res.Outcome, res.Config = FeedUnconfigured, configBlock(l)
		return res
	case prev.Serial == l.Serial && prev.ID == l.Snapshot && prev.Problem == "":
		res.Outcome = FeedUnchanged
		if prev.Unapproved && approved {
			res.Outcome = FeedAccepted
			res.err = o.DB.Update(func(tx state.Tx) error { return Approve(tx, []people.Snapshot{{Feed: l.Feed, Serial: l.Serial}}) })
		} else if prev.Unapproved {
			res.Outcome = FeedUnapproved
		}
		if res.err == nil {
			res.err = o.confirm(l, in)
		}
		return res
	}
	verdict, err := o.prove(ctx, set, snap, l, prev, in.Number)
	if ctx.Err() != nil {
		res.err = ctx.Err()
		return res
	}
	return o.settle(res, snap, l, prev, verdict, in, approved, err)
}

// confirm lets the rule publish what a fresh set states again.
func (o *ImportOptions) confirm(l packager.FeedLine, in packager.Accepted) error {
	if in.Held != "" {
		return nil
	}
	var late bool
	look := func(tx state.Tx) error {
		var a Accepted
		_, err := tx.Get(acceptedBucket, serialKey(l.Feed, l.Serial), &a)
		late = a.Late
		return err
	}
	if err := o.DB.View(look); err != nil || !late {
		return err
	}
	return o.DB.Update(func(tx state.Tx) error {
		if err := confirm(tx, l.Feed, l.Serial); err != nil {
			return err
		}
		floor, err := tx.Floor()
		if err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: o.Clock().UTC(), Floor: floor, Who: o.Who, What: "accept feed", Result: "ok", Detail: map[string]string{
			"feed": l.Feed, "serial": strconv.FormatUint(l.Serial, 10), "snapshot": string(l.Snapshot), "bundle": strconv.FormatUint(in.Number, 10), "late": "no more",
		}})
	})
}

func (o *ImportOptions) lacking(res FeedResult) FeedResult {
	res.err = feed.NewFault(fmt.Errorf("%d files are missing, the first is %s: %w", res.Missing, res.Names[0], feed.ErrDamaged), "H-701",
		"feed", res.Feed, "count", strconv.FormatInt(res.Missing, 10), "file", res.Names[0])
	res.Code, res.Problem = "H-701", res.err.Error()
	return res
}

// configBlock is the beginning of what hashike.toml needs for a feed unknown
// here, as comments: only the outside's own block has the keys of its kind, and
// half a block would stop everything that reads the file.
func configBlock(l packager.FeedLine) string {
	return fmt.Sprintf("# [feed.%s]\n# kind = %q\n# …\n", l.Feed, l.Kind)
}

// prove runs our own order first, then the vendor's verification.
func (o *ImportOptions) prove(ctx context.Context, set feed.Setup, snap *cas.Snapshot, l packager.FeedLine, prev state.FeedState, bundle uint64) (Verdict, error) {
	h := snap.Header()
	switch {
	case snap.ID() != l.Snapshot || h.Feed != l.Feed || h.Kind != l.Kind:
		return Verdict{}, feed.NewFault(fmt.Errorf("the stored snapshot is another one: %w", feed.ErrUntrusted), "H-506", "feed", l.Feed, "number", strconv.FormatUint(bundle, 10))
	case set.Kind.Name != l.Kind:
		return Verdict{}, feed.NewFault(fmt.Errorf("kind %s here, %s in the bundle: %w", set.Kind.Name, l.Kind, feed.ErrConfig), "H-202", "feed", l.Feed)
	case l.Serial == prev.Serial && prev.ID != l.Snapshot:
		return Verdict{}, feed.NewFault(fmt.Errorf("two snapshots with serial %d: %w", l.Serial, feed.ErrUntrusted), "H-506", "feed", l.Feed, "number", strconv.FormatUint(bundle, 10))
	case l.Serial < prev.Serial:
		ok, err := o.mayGoBack(l)
		if err != nil {
			return Verdict{}, err
		}
		if !ok {
			return Verdict{}, feed.NewFault(fmt.Errorf("serial %d after %d: %w", l.Serial, prev.Serial, feed.ErrRollback), "H-505", "feed", l.Feed)
		}
	}
	v, err := o.Verify(ctx, set, snap, prev)
	return v, o.coded(l, err)
}

// mayGoBack reports whether an order allows this feed to return to a serial.
func (o *ImportOptions) mayGoBack(l packager.FeedLine) (bool, error) {
	var orders []feed.Order
	if err := o.DB.View(func(tx state.Tx) (err error) { orders, err = tx.Orders(); return err }); err != nil {
		return false, err
	}
	for _, ord := range orders {
		if ord.Kind == feed.OrderRollback && ord.Feed == l.Feed && ord.Serial == l.Serial && ord.InForce(o.Clock()) {
			return true, nil
		}
	}
	return false, nil
}

// coded gives an error of verification its message code, unless it has one.
func (o *ImportOptions) coded(l packager.FeedLine, err error) error {
	var f *feed.Fault
	if err == nil || errors.As(err, &f) {
		return feed.About(l.Feed, err)
	}
	code := "H-702"
	switch {
	case errors.Is(err, feed.ErrRollback):
		code = "H-505"
	case errors.Is(err, feed.ErrUntrusted):
		code = "H-502"
	case errors.Is(err, feed.ErrHeld):
		code = "H-601"
	case !errors.Is(err, feed.ErrDamaged):
		return err
	}
	return feed.NewFault(err, code, "feed", l.Feed)
}

// reference is max(clock, floor): the rings' waits count from it, and a clock
// that is years behind must not end them at once.
func (o *ImportOptions) reference() (now time.Time, err error) {
	now = o.Clock().UTC()
	err = o.DB.View(func(tx state.Tx) error {
		floor, err := tx.Floor()
		if floor.After(now) {
			now = floor
		}
		return err
	})
	return now, err
}

// settle writes the feed's new state, or the problem beside the old one, with
// its audit record in one transaction.
func (o *ImportOptions) settle(res FeedResult, snap *cas.Snapshot, l packager.FeedLine, prev state.FeedState, v Verdict, in packager.Accepted, approved bool, problem error) FeedResult {
	now, err := o.reference()
	if err != nil {
		res.err = errors.Join(problem, err)
		return res
	}
	next, result := prev, "ok"
	if problem == nil {
		h := snap.Header()
		next = state.FeedState{Kind: h.Kind, Serial: h.Serial, ID: snap.ID(), Taken: h.Taken, State: h.State, Accepted: now,
			Marks: v.Marks, Withheld: v.Withheld, Weakest: v.Weakest, Bundle: in.Number, Tried: now, Unapproved: !approved}
		if res.Outcome = FeedAccepted; !approved {
			res.Outcome = FeedUnapproved
		}
	} else {
		res.Outcome, res.Problem, res.err = FeedRefused, problem.Error(), problem
		var f *feed.Fault
		if errors.As(problem, &f) {
			res.Code = f.Code
		}
		next.Kind, next.Tried, next.Problem, next.Code = l.Kind, now, res.Problem, res.Code
		if prev.Problem == "" {
			next.Since = now
		}
		result = res.Problem
	}
	err = o.DB.Update(func(tx state.Tx) error {
		put := tx.PutFeed(l.Feed, next)
		if problem == nil { // what came in a held set waits for "publish --late"
			put = Accept(tx, l.Feed, next, in.Held != "")
		}
		if put != nil {
			return put
		}
		floor, err := tx.Floor()
		if err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, Floor: floor, Who: o.Who, What: "accept feed", Result: result, Detail: map[string]string{
			"feed": l.Feed, "serial": strconv.FormatUint(l.Serial, 10), "snapshot": string(l.Snapshot), "bundle": strconv.FormatUint(in.Number, 10),
		}})
	})
	if err != nil {
		res.err = errors.Join(res.err, err)
	}
	return res
}

// audit records the import as a whole, refused ones too.
func (o *ImportOptions) audit(r *ImportReport, result error) error {
	text := "ok"
	if result != nil {
		text = result.Error()
	}
	detail := map[string]string{
		"bundle": strconv.FormatUint(r.Set.Number, 10), "set": string(r.ID), "blobs": strconv.FormatInt(r.Blobs, 10),
		"bytes": strconv.FormatInt(r.Bytes, 10), "damaged": strconv.Itoa(len(r.Damaged)),
	}
	if err := errors.Join(r.Refused...); err != nil { // sets on other media
		detail["refused"], detail["other"] = err.Error(), strings.Join(r.Other, " ")
	}
	return o.DB.Update(func(tx state.Tx) error {
		floor, err := tx.Floor()
		if err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: o.Clock().UTC(), Floor: floor, Who: o.Who, What: "import", Result: text, Detail: detail})
	})
}
