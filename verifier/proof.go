package verifier

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/hashike/hashike/internal/feed"
)

// proof collects what one Verify finds. Safe for concurrent use by a kind.
type proof struct {
	job Job
	out *evidenceWriter

	mu         sync.Mutex
	strength   map[string]feed.Strength   // path → strongest chain so far
	proved     map[[32]byte]feed.Strength // the same by digest, for Via
	signer     map[string]string          // path → signer, where a signature was met at the path itself
	withheld   map[string]string          // group → reason
	first      error                      // the first fault that withholds
	marks      map[string]int64
	exceptions map[uint64]bool
	last       string // the path last refused, for messages
}

func newProof(j Job) (*proof, error) {
	h := j.Content.Header()
	out, err := newEvidenceWriter(j.Evidence, EvidenceHeader{
		Schema: EvidenceSchema, Feed: h.Feed, Serial: h.Serial, Side: j.Side, Epoch: j.Trust.Epoch, At: j.Trust.At.UTC(),
	})
	return &proof{
		job: j, out: out,
		strength: map[string]feed.Strength{}, proved: map[[32]byte]feed.Strength{}, signer: map[string]string{},
		withheld: map[string]string{}, marks: map[string]int64{}, exceptions: map[uint64]bool{},
	}, err
}

// Evidence records one reason; see feed.Proof and feed.Evidence.
func (p *proof) Evidence(e feed.Evidence) error {
	a, ok := p.job.Content.Lookup(e.Path)
	if !ok {
		return fmt.Errorf("evidence for %.200q, which the snapshot does not have: %w", e.Path, feed.ErrUntrusted)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record(a, e)
}

func (p *proof) record(a feed.Artifact, e feed.Evidence) error {
	if e.Refused != "" {
		return p.refuse(a, e, fmt.Errorf("%s: %s: %w", a.Path, e.Refused, feed.ErrUntrusted))
	}
	if e.Subject != a.Digest {
		e.Refused = fmt.Sprintf("the vendor names %s, the file is %s", e.Subject, a.Digest)
		return p.refuse(a, e, fmt.Errorf("%s: %s: %w", a.Path, e.Refused, feed.ErrUntrusted))
	}
	if e.Strength < feed.None || e.Strength > feed.Signed {
		return fmt.Errorf("%s: evidence of strength %d: %w", a.Path, e.Strength, feed.ErrUntrusted)
	}
	// What our outside saw through an inspecting proxy is worth nothing.
	if e.Strength == feed.Attested && a.Origin.Inspected {
		e.Strength = feed.None
	}
	reach := e.Strength
	if e.Via != "" {
		via, ok := p.proved[[32]byte(sumOf(e.Via))]
		if !ok {
			return fmt.Errorf("%s: evidence by way of %s, which is not proved: %w", a.Path, e.Via, feed.ErrUntrusted)
		}
		reach = min(reach, via)
	} else if e.Signer != "" {
		p.signer[a.Path] = e.Signer
	}
	if err := p.out.line(e); err != nil {
		return err
	}
	if old, seen := p.strength[a.Path]; !seen || reach > old {
		p.strength[a.Path] = reach
	}
	key := [32]byte(a.Digest.Sum())
	if old, seen := p.proved[key]; !seen || reach > old {
		p.proved[key] = reach
	}
	return nil
}

// refuse writes a refusal down and withholds the artifact's group, or returns
// err as a fault for the snapshot.
func (p *proof) refuse(a feed.Artifact, e feed.Evidence, err error) error {
	p.last = a.Path
	if e.Signer != "" {
		p.signer[a.Path] = e.Signer
	}
	e.Path, e.Subject, e.Strength = a.Path, a.Digest, feed.None
	e.Refused = clip(e.Refused)
	return errors.Join(p.out.line(e), p.fault(a, err, "H-502"))
}

// Once runs a costly check unless its verdict is remembered; see feed.Proof.
func (p *proof) Once(a feed.Artifact, method string, f func(io.ReaderAt, int64) (feed.Evidence, error)) error {
	named, ok := p.job.Content.Lookup(a.Path)
	if !ok || named.Digest != a.Digest || named.Size != a.Size || named.Group != a.Group {
		return fmt.Errorf("%.200q is not in the snapshot as it was asked for: %w", a.Path, feed.ErrUntrusted)
	}
	e, ok := feed.Evidence{}, false
	if p.job.Verdicts != nil {
		e, ok = p.job.Verdicts.Recall(a.Digest, method, p.job.Trust.Epoch)
	}
	if !ok {
		var err error
		if e, err = p.check(a, f); errors.Is(err, feed.ErrUntrusted) && e.Refused == "" {
			e.Refused = err.Error()
		} else if err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
	}
	if e.Method == "" {
		e.Method = method
	}
	e.Path, e.Subject = a.Path, a.Digest
	if !ok && e.Refused == "" && p.job.Verdicts != nil {
		_ = p.job.Verdicts.Remember(a.Digest, method, p.job.Trust.Epoch, e) // see Run
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record(named, e)
}

// check opens the artifact's blob for f.
func (p *proof) check(a feed.Artifact, f func(io.ReaderAt, int64) (feed.Evidence, error)) (feed.Evidence, error) {
	file, err := p.job.Content.Open(a.Path)
	if err != nil {
		return feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return feed.Evidence{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	r, ok := file.(io.ReaderAt)
	if !ok || st.Size() != a.Size {
		return feed.Evidence{}, fmt.Errorf("stored file of %d bytes, the snapshot says %d: %w", st.Size(), a.Size, feed.ErrDamaged)
	}
	return f(r, a.Size)
}

// Mark holds the snapshot's place in a vendor's order against what was accepted before.
func (p *proof) Mark(stream string, order int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, known := p.job.Marks[stream]
	if known && order < old && !p.job.Policy.AllowRollback {
		return feed.NewFault(
			fmt.Errorf("feed %s: %s is at %d, %d was accepted before: %w", p.job.Setup.Name, stream, order, old, feed.ErrRollback),
			"H-505", "feed", p.job.Setup.Name, "stream", stream,
			"offered", strconv.FormatInt(order, 10), "accepted", strconv.FormatInt(old, 10))
	}
	if said, twice := p.marks[stream]; twice && said != order {
		return fmt.Errorf("feed %s: %s is at %d and at %d in one snapshot: %w", p.job.Setup.Name, stream, said, order, feed.ErrUntrusted)
	}
	p.marks[stream] = order
	return nil
}

func (p *proof) distrusted(d feed.Digest) (feed.Distrust, bool) {
	i := slices.IndexFunc(p.job.Trust.Distrust, func(x feed.Distrust) bool { return x.Digest != "" && x.Digest == d })
	if i < 0 {
		return feed.Distrust{}, false
	}
	return p.job.Trust.Distrust[i], true
}

// sumOf is the raw digest; an invalid one gives a value that nothing has.
func sumOf(d feed.Digest) []byte {
	if s := d.Sum(); s != nil {
		return s
	}
	return make([]byte, 32)
}

func clip(s string) string {
	const most = 2000
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

func sortedKeys(m map[uint64]bool) []uint64 { return slices.Sorted(maps.Keys(m)) }
