package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Damage is one stored file that no longer has the bytes it was accepted with.
type Damage struct {
	Digest feed.Digest
	Feed   string // one feed that names it; empty if none does
	Path   string
}

// ScrubReport says what was read again.
type ScrubReport struct {
	Blobs   int
	Bytes   int64
	Damaged []Damage
}

// scrubPlace is where the next scrub goes on: the first byte of digests.
type scrubPlace struct {
	Next int       `json:"next"`
	At   time.Time `json:"at"`
}

// Scrub reads a fraction of the store again (1.0/7 a day covers it in a week),
// going on where the last one ended. A damaged blob is moved to
// quarantine/damaged, so that the next import brings it again; the error is
// ErrDamaged, H-702, naming the first file and feed.
func (p *Publisher) Scrub(ctx context.Context, fraction float64) (ScrubReport, error) {
	var r ScrubReport
	err := busy(p.DB.Lock(ctx, "scrub", func(ctx context.Context) error {
		var place scrubPlace
		if err := p.DB.View(func(tx state.Tx) error { _, err := tx.Get("meta", "scrub", &place); return err }); err != nil {
			return err
		}
		span := min(max(int(math.Ceil(fraction*256)), 1), 256)
		in := func(d feed.Digest) bool { return (int(d.Sum()[0])-place.Next+256)%256 < span }
		if err := p.reread(ctx, in, &r); err != nil {
			return err
		}
		p.whose(r.Damaged)
		now := p.Clock()
		return p.DB.Update(func(tx state.Tx) error {
			if err := tx.Put("meta", "scrub", scrubPlace{Next: (place.Next + span) % 256, At: now.UTC()}); err != nil {
				return err
			}
			detail := map[string]string{"files": strconv.Itoa(r.Blobs), "damaged": strconv.Itoa(len(r.Damaged))}
			for i, g := range r.Damaged[:min(len(r.Damaged), 20)] {
				detail["damaged."+strconv.Itoa(i+1)] = string(g.Digest) + " " + g.Feed + " " + g.Path
			}
			return p.audit(tx, "scrub", now, detail)
		})
	}))
	if err == nil && len(r.Damaged) > 0 {
		g := r.Damaged[0]
		err = fmt.Errorf("%d stored files are damaged, first %s of %s (%s): %w", len(r.Damaged), g.Path, g.Feed, g.Digest, feed.ErrDamaged)
		err = feed.NewFault(err, "H-702", "feed", g.Feed, "file", g.Path, "count", strconv.Itoa(len(r.Damaged)))
	}
	return r, err
}

func (p *Publisher) reread(ctx context.Context, in func(feed.Digest) bool, r *ScrubReport) error {
	return p.Store.Walk(ctx, func(d feed.Digest, size int64, _ time.Time) error {
		if !in(d) {
			return nil
		}
		err := p.Store.Verify(ctx, d)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // gc took it meanwhile
		case err != nil: // other bytes, or the disk cannot read it: damaged either way
			p.Log.Error("stored file is damaged", "digest", d, "error", err)
			r.Damaged = append(r.Damaged, Damage{Digest: d})
			if err := p.moveAside(d); err != nil {
				return err
			}
		}
		r.Blobs++
		r.Bytes += size
		return nil
	})
}

// moveAside copies what can be read for whoever investigates, then takes the
// blob out of the store.
func (p *Publisher) moveAside(d feed.Digest) error {
	dir := filepath.Join(p.Data.Quarantine(), "damaged")
	if err := durable.Mkdir(dir); err != nil {
		return err
	}
	if f, err := p.Store.File(d); err == nil {
		err = durable.WriteFrom(filepath.Join(dir, d.Hex()), func(w io.Writer) error { _, err := io.Copy(w, f); return err })
		f.Close()
		if err != nil {
			p.Log.Warn("damaged file not kept", "digest", d, "error", err)
		}
	}
	return p.Store.Delete(d)
}

// whose finds a feed and path for each damaged blob.
func (p *Publisher) whose(damaged []Damage) {
	if len(damaged) == 0 {
		return
	}
	at := map[feed.Digest]int{}
	for i, g := range damaged {
		at[g.Digest] = i
	}
	names, _ := p.Store.Feeds()
	for _, name := range names {
		serials, _ := p.Store.Serials(name)
		for _, n := range serials {
			snap, err := p.Store.Snapshot(name, n)
			if err != nil {
				continue
			}
			for a := range snap.Artifacts() {
				if i, ok := at[a.Digest]; ok {
					damaged[i].Feed, damaged[i].Path = name, a.Path
				}
			}
		}
	}
}
