// Package verifier decides what may be believed. Its engine runs a kind's
// Verify over one snapshot, holds the evidence against the floors, and writes
// it down; its files named after signature formats (openpgp.go, clamav.go,
// cms.go) are what kinds prove with. It has no network and no clock: time is
// the snapshot's (Trust.At), so that both sides come to the same verdict.
package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"strconv"

	"github.com/hashike/hashike/internal/feed"
)

// MaxWithheld is how many artifacts of one snapshot may be withheld; with more
// something is wrong with the whole, and the snapshot is refused.
const MaxWithheld = 10_000

// Job is one verification of one snapshot on one side.
type Job struct {
	Setup    feed.Setup
	Content  feed.Content
	Trust    feed.Trust // At zero means the snapshot's taken time
	Policy   Policy
	Marks    map[string]int64 // accepted before
	Verdicts Memory           // remembered verdicts; nil remembers nothing
	Evidence io.Writer        // takes the evidence document (zstd); nil drops it
	Side     string           // "outside" or "inside", for the evidence's header
}

// Verdict is what a snapshot that is not refused is worth.
type Verdict struct {
	Marks      map[string]int64  // to be remembered: the old ones, moved on
	Withheld   map[string]string // artifact path → reason
	Weakest    feed.Strength     // of what is not withheld; Signed if nothing is left
	Artifacts  int               // in the snapshot
	Exceptions []uint64          // numbers of the orders that were needed, ascending
}

// Run verifies a snapshot. Its errors refuse it whole: ErrUntrusted (H-502)
// for what does not hold, ErrRollback (H-505), ErrHeld (H-601) for what holds
// but is weaker than the floor, ErrDamaged for unreadable stored bytes. What
// is refused or weak in a group of its own is withheld alone; where that is
// all there is, it refuses the whole.
//
// The evidence document is complete, and says why, also for a refusal.
func Run(ctx context.Context, j Job) (Verdict, error) {
	h := j.Content.Header()
	if h.Feed != j.Setup.Name || j.Setup.Kind.Name != "" && h.Kind != j.Setup.Kind.Name {
		return Verdict{}, fmt.Errorf("snapshot of feed %s, kind %s, offered as feed %s, kind %s: %w",
			h.Feed, h.Kind, j.Setup.Name, j.Setup.Kind.Name, feed.ErrUntrusted)
	}
	if j.Trust.At.IsZero() {
		j.Trust.At = h.Taken
	}
	p, err := newProof(j)
	if err != nil {
		return Verdict{}, err
	}
	v, err := p.run(ctx)
	if j.Verdicts != nil {
		// Good verdicts stay good whatever came after. Losing them costs time
		// only: no reason to refuse what was just proved.
		_ = j.Verdicts.Flush()
	}
	if cerr := p.out.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Verdict{}, err
	}
	return v, nil
}

func (p *proof) run(ctx context.Context) (Verdict, error) {
	if err := p.call(ctx); err != nil {
		return Verdict{}, p.refusal(err)
	}
	if err := ctx.Err(); err != nil {
		return Verdict{}, err
	}
	if err := p.judge(ctx); err != nil {
		return Verdict{}, err
	}
	return p.verdict()
}

// call is the kind's Verify. A kind that panics over a snapshot has not proved it.
func (p *proof) call(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("kind %s panicked: %v: %w\n%s", p.job.Setup.Kind.Name, v, feed.ErrUntrusted, clip(string(debug.Stack())))
		}
	}()
	return p.job.Setup.Feed.Verify(ctx, p.job.Content, p.job.Trust, p)
}

// refusal gives a kind's error its code, unless it has one.
func (p *proof) refusal(err error) error {
	name := p.job.Setup.Name
	err = fmt.Errorf("feed %s: %w", name, err)
	var f *feed.Fault
	if errors.As(err, &f) || !errors.Is(err, feed.ErrUntrusted) {
		return err
	}
	return feed.NewFault(err, "H-502", "feed", name, "file", p.last, "signer", "")
}

// judge holds every artifact's strength against its floor, and gathers which
// groups are withheld.
func (p *proof) judge(ctx context.Context) error {
	for a, err := range p.job.Content.Artifacts() {
		if err != nil {
			return fmt.Errorf("feed %s: %w", p.job.Setup.Name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if d, ok := p.distrusted(a.Digest); ok {
			err := fmt.Errorf("%s is distrusted by order: %s: %w", a.Path, d.Reason, feed.ErrUntrusted)
			if err := p.fault(a, err, "H-502"); err != nil {
				return err
			}
			continue
		}
		got := p.strength[a.Path]
		need, order := p.job.Policy.floor(p.job.Setup, a, p.job.Trust.At, got)
		if order != 0 {
			p.exceptions[order] = true
		}
		if got >= need {
			continue
		}
		err := fmt.Errorf("%s: proved %q, at least %q is required: %w", a.Path, got, need, feed.ErrHeld)
		if err := p.fault(a, err, "H-601", "strength", got.String(), "floor", need.String()); err != nil {
			return err
		}
	}
	return nil
}

// fault withholds the artifact's group; without one it returns the refusal.
func (p *proof) fault(a feed.Artifact, err error, code string, args ...string) error {
	args = append([]string{"feed", p.job.Setup.Name, "file", a.Path, "signer", p.signer[a.Path]}, args...)
	whole := feed.NewFault(fmt.Errorf("feed %s: %w", p.job.Setup.Name, err), code, args...)
	if a.Group == "" {
		return whole
	}
	if p.first == nil {
		p.first = whole
	}
	if _, ok := p.withheld[a.Group]; !ok {
		p.withheld[a.Group] = err.Error()
	}
	return nil
}

// verdict names every artifact of every withheld group.
func (p *proof) verdict() (Verdict, error) {
	v := Verdict{Marks: maps.Clone(p.job.Marks), Withheld: map[string]string{}, Weakest: feed.Signed}
	if v.Marks == nil {
		v.Marks = map[string]int64{}
	}
	maps.Copy(v.Marks, p.marks)
	for a, err := range p.job.Content.Artifacts() {
		if err != nil {
			return Verdict{}, err
		}
		v.Artifacts++
		if why, held := p.withheld[a.Group]; held && a.Group != "" {
			v.Withheld[a.Path] = why
			continue
		}
		v.Weakest = min(v.Weakest, p.strength[a.Path])
	}
	if len(v.Withheld) > MaxWithheld {
		return Verdict{}, feed.NewFault(fmt.Errorf("feed %s: %d artifacts would be withheld, at most %d may: %w",
			p.job.Setup.Name, len(v.Withheld), MaxWithheld, feed.ErrUntrusted),
			"H-502", "feed", p.job.Setup.Name, "file", strconv.Itoa(len(v.Withheld)), "signer", "")
	}
	if v.Artifacts > 0 && len(v.Withheld) == v.Artifacts { // what was published before is more use than nothing
		return Verdict{}, p.first
	}
	v.Exceptions = sortedKeys(p.exceptions)
	return v, nil
}
