// Package scan asks an antivirus product about stored files, before they are
// packed outside and before they are published inside. It says what was
// checked, by which product and with definitions of which day, and no more:
// a file that the product did not look at is never called clean.
//
// What a verdict rests on is the file's digest. A clean one is remembered, so
// that a daily bundle does not scan a whole store again; see Job.Stale for
// when a file is scanned anew. A detection is remembered only until the
// definitions change.
package scan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// ErrUnavailable: no verdict could be had from the product. The step for which
// the scan is required must not go on.
var ErrUnavailable = errors.New("the malware scanner gave no verdict")

// Identity is which product answers, and how old its definitions are.
type Identity struct {
	Engine      string    `json:"engine"`                // "ClamAV 1.0.7"
	Definitions string    `json:"definitions,omitempty"` // the product's own number of them
	Date        time.Time `json:"date,omitzero"`         // of the definitions; zero is unknown
}

// Result is what was found in one file.
type Result string

// Results. OverLimit is a file the product did not look at, or not at all of
// it, because of a limit of its own.
const (
	Clean     Result = "clean"
	Infected  Result = "infected"
	OverLimit Result = "over-limit"
)

// Verdict is a product's word on one file.
type Verdict struct {
	Result Result
	Name   string // of what was detected, or of the limit
}

// Scanner is one product. Every error is ErrUnavailable, a context's, or one
// of reading the file.
type Scanner interface {
	Identify(ctx context.Context) (Identity, error)
	// Scan judges a stored file from its beginning; size is its length.
	Scan(ctx context.Context, f *os.File, size int64) (Verdict, error)
}

// Subject is one stored file to be judged.
type Subject struct {
	Feed   string
	Path   string
	Digest feed.Digest
	Size   int64
}

// Finding is a file about which there is something to say.
type Finding struct {
	Subject
	Verdict
	Order uint64 // the exception that releases it; 0 is none
}

// maxFindings is how many findings of a kind are kept by name.
const maxFindings = 100

// Summary is what a scan found.
type Summary struct {
	Identity
	Oldest     time.Time // date of the oldest definitions that any verdict here rests on
	Files      int64     // different files asked about
	Scanned    int64     // of these, by the product now
	Remembered int64     // of these, by an earlier verdict
	Infected   []Finding // not released
	Released   []Finding // detections that an exception releases
	OverLimit  []Finding // at most maxFindings
	Over       int64     // how many there are
}

// GoneError is a file that the store should have and that cannot be opened:
// the work of an antivirus product that watches the disk, as a rule.
type GoneError struct {
	Subject
	Err error
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s of %s (%s) was removed from the store or locked by another program: %v", e.Path, e.Feed, e.Digest, e.Err)
}
func (e *GoneError) Unwrap() error { return e.Err }

// Guarded reports whether err, of opening or reading a stored file, is what a
// resident antivirus product leaves behind: the file vanished, or access to it
// is denied. A damaged file reads otherwise.
func Guarded(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || durable.Held(err) || durable.Infected(err)
}

// DefaultStale is how much older than the present definitions those may be
// that an accepted verdict rests on.
const DefaultStale = 7 * 24 * time.Hour

// Job is one scan.
type Job struct {
	Scanner Scanner
	DB      *state.DB
	Store   *cas.Store
	Orders  []feed.Order // exceptions in force at Now release detections
	Now     time.Time
	// Stale: a clean verdict by the same engine counts while its definitions are
	// at most so much older than the present ones. 0 scans everything again
	// whenever the definitions change.
	Stale    time.Duration
	Progress func(s Subject, done int64) // bytes so far; may be nil
}

// batch is how many files are looked up, and how many verdicts written, at once.
const batch = 256

// Run judges every subject, each digest once. A detection is no error: see
// Summary.Infected. Errors: ErrUnavailable, *GoneError, the sequence's own.
// The summary is valid as far as it goes, and what was found is remembered.
func Run(ctx context.Context, j Job, subjects iter.Seq2[Subject, error]) (Summary, error) {
	id, err := j.Scanner.Identify(ctx)
	if err != nil {
		return Summary{}, err
	}
	r := run{Job: j, sum: Summary{Identity: id}, seen: map[feed.Digest]struct{}{}}
	if err = r.all(ctx, subjects); err == nil {
		err = r.flush(ctx)
	}
	return r.sum, errors.Join(err, r.remember())
}

type run struct {
	Job
	sum   Summary
	seen  map[feed.Digest]struct{}
	queue []Subject
	fresh map[feed.Digest]remembered
	done  int64
}

func (r *run) all(ctx context.Context, subjects iter.Seq2[Subject, error]) error {
	for s, err := range subjects {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if _, ok := r.seen[s.Digest]; ok {
			continue
		}
		r.seen[s.Digest] = struct{}{}
		r.sum.Files++
		if r.queue = append(r.queue, s); len(r.queue) == batch {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush judges what is queued: by memory, else by the product.
func (r *run) flush(ctx context.Context) error {
	known, err := recall(r.DB, r.queue)
	if err != nil {
		return err
	}
	for _, s := range r.queue {
		if err := ctx.Err(); err != nil {
			return err
		}
		if k, ok := known[s.Digest]; ok && k.holds(r.sum.Identity, r.Now, r.Stale) {
			r.sum.Remembered++
			r.take(s, k.verdict(), k.date())
		} else if err := r.scan(ctx, s); err != nil {
			return err
		}
		r.done += s.Size
		if r.Progress != nil {
			r.Progress(s, r.done)
		}
	}
	r.queue = r.queue[:0]
	return r.remember()
}

func (r *run) scan(ctx context.Context, s Subject) error {
	f, err := r.Store.File(s.Digest)
	if err != nil {
		return gone(s, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return gone(s, err)
	}
	if st.Size() != s.Size {
		return fmt.Errorf("%s of %s has %d bytes instead of %d: %w", s.Path, s.Feed, st.Size(), s.Size, feed.ErrDamaged)
	}
	v, err := r.Scanner.Scan(ctx, f, s.Size)
	if err != nil {
		return gone(s, err)
	}
	if _, there := r.Store.Stat(s.Digest); !there { // taken away because it was looked at
		return &GoneError{s, fs.ErrNotExist}
	}
	r.sum.Scanned++
	if r.fresh == nil {
		r.fresh = map[feed.Digest]remembered{}
	}
	r.fresh[s.Digest] = remember(v, r.sum.Identity, r.Now)
	r.take(s, v, r.sum.Date)
	return nil
}

// gone names a file that another program keeps from us.
func gone(s Subject, err error) error {
	if !errors.Is(err, ErrUnavailable) && Guarded(err) {
		return &GoneError{s, err}
	}
	return fmt.Errorf("%s of %s: %w", s.Path, s.Feed, err)
}

// take enters a verdict in the summary.
func (r *run) take(s Subject, v Verdict, defs time.Time) {
	if !defs.IsZero() && (r.sum.Oldest.IsZero() || defs.Before(r.sum.Oldest)) {
		r.sum.Oldest = defs
	}
	f := Finding{Subject: s, Verdict: v}
	switch v.Result {
	case Infected:
		if f.Order = released(r.Orders, s, v.Name, r.Now); f.Order != 0 {
			r.sum.Released = append(r.sum.Released, f)
		} else {
			r.sum.Infected = append(r.sum.Infected, f)
		}
	case OverLimit:
		if r.sum.Over++; len(r.sum.OverLimit) < maxFindings {
			r.sum.OverLimit = append(r.sum.OverLimit, f)
		}
	}
}

// released finds the exception that names this very file and this very
// detection: a signed one, with reason, approver and end date.
func released(orders []feed.Order, s Subject, name string, at time.Time) uint64 {
	i := slices.IndexFunc(orders, func(o feed.Order) bool {
		return o.Kind == feed.OrderException && o.Detection != "" && o.Detection == name && o.Digest == s.Digest &&
			(o.Feed == "" || o.Feed == s.Feed) && o.InForce(at) && o.Check() == nil
	})
	if i < 0 {
		return 0
	}
	return orders[i].Number
}
