package packager

import (
	"errors"
	"io"
	"slices"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Volumes of one bundle may arrive over several days. What an inside keeps
// between two of them is in the bucket that gc reads for digests that must
// stay: segments whose blob is not whole yet, and which volumes were at hand.
const (
	bucketPending = "pending"
	keyVolumes    = "volumes"
)

// Piece is a stored segment of a blob that is not whole yet.
type Piece struct {
	Digest feed.Digest `json:"digest"`
	Of     feed.Digest `json:"of"`
	At     int64       `json:"at"`
	Size   int64       `json:"size"`
	All    int64       `json:"all"`
}

// volumesSeen are the volumes of the accepted set that were at hand.
type volumesSeen struct {
	Set     feed.Digest `json:"set"`
	Volumes []int       `json:"volumes"`
}

// loadPieces reads which segments are stored.
func (a *absorber) loadPieces() error {
	return a.b.opt.DB.View(func(tx state.Tx) error {
		for key, decode := range tx.All(bucketPending, "") {
			var p Piece
			if key == keyVolumes {
				continue
			}
			if err := decode(&p); err != nil {
				return err
			}
			if n, ok := a.store.Stat(p.Digest); ok && n == p.Size {
				a.have(p)
			}
		}
		return nil
	})
}

func (a *absorber) have(p Piece) {
	of := sumOf(p.Of)
	if a.pieces[of] == nil {
		a.pieces[of] = map[int64]Piece{}
	}
	a.pieces[of][p.At] = p
}

// part is a segment and where it can be read.
type part struct {
	size int64
	open func() (io.ReadCloser, error)
}

// segments stores a large blob if all its segments are at hand or stored. If
// not, or if the whole does not have its digest, each segment is stored under
// its own digest, and the damaged one named.
func (a *absorber) segments(run []Container) error {
	of, all := run[0].Of, run[0].All
	if done, err := a.join(of, all, run); done || err != nil {
		return err
	}
	for _, c := range run { // which one is damaged is looked for
		if err := a.fromAny(&c, a.piece); err != nil {
			return err
		}
	}
	_, err := a.join(of, all, nil) // other media may have had what was damaged
	return err
}

// join stores a large blob from its segments; false if one is missing or bad.
func (a *absorber) join(of feed.Digest, all int64, run []Container) (bool, error) {
	parts := a.whole(of, all, run)
	if parts == nil {
		return false, nil
	}
	r := &chain{parts: parts}
	defer r.close()
	medium, err := a.put(&source{r: r}, of, all)
	if medium {
		return false, nil
	}
	return err == nil, err
}

// whole returns the parts of a blob from its first byte to its last; nil if one is missing.
func (a *absorber) whole(of feed.Digest, all int64, run []Container) []part {
	var out []part
	for at := int64(0); at < all; {
		i := slices.IndexFunc(run, func(c Container) bool { return c.At == at })
		p, stored := a.pieces[sumOf(of)][at]
		switch {
		case i >= 0:
			s := run[i]
			out = append(out, part{s.Size, func() (io.ReadCloser, error) { return openSized(a.b.present[s.Volume][0], &s) }})
			at += s.Size
		case stored && p.All == all && p.Size > 0:
			out = append(out, part{p.Size, func() (io.ReadCloser, error) { return a.store.File(p.Digest) }})
			at += p.Size
		default:
			return nil
		}
	}
	return out
}

// piece stores one segment under its own digest.
func (a *absorber) piece(m *medium, c *Container) error {
	p := Piece{c.Digest, c.Of, c.At, c.Size, c.All}
	if q := a.pieces[sumOf(p.Of)][p.At]; q == p {
		return a.checkOnly(m, c)
	}
	f, err := openSized(m, c)
	if err != nil {
		return badCopy{err}
	}
	defer f.Close()
	return a.putPiece(&source{r: io.LimitReader(f, p.Size+1)}, p, ended)
}

// putPiece stores a segment and notes it; bad is called if the source was bad.
func (a *absorber) putPiece(r *source, p Piece, bad func(error) error) error {
	_, _, err := a.store.Put(a.ctx, r, p.Digest)
	switch {
	case r.err != nil:
		return bad(r.err)
	case errors.Is(err, feed.ErrUntrusted):
		return bad(err)
	case err != nil:
		return a.full(err)
	}
	a.have(p)
	a.out.Pieces++
	return a.full(a.b.opt.DB.Update(func(tx state.Tx) error { return tx.Put(bucketPending, string(p.Digest), p) }))
}

// chain reads parts one after the other.
type chain struct {
	parts []part
	f     io.ReadCloser
	r     io.Reader
}

func (c *chain) Read(p []byte) (int, error) {
	for {
		if c.f == nil {
			if len(c.parts) == 0 {
				return 0, io.EOF
			}
			f, err := c.parts[0].open()
			if err != nil {
				return 0, err
			}
			c.f, c.r = f, io.LimitReader(f, c.parts[0].size)
		}
		n, err := c.r.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		c.close()
		c.parts = c.parts[1:]
		if n > 0 {
			return n, nil
		}
	}
}

func (c *chain) close() {
	if c.f != nil {
		c.f.Close()
		c.f = nil
	}
}

// settle notes which volumes were at hand, forgets segments that nothing wants
// any more (gc removes them), and finds the volumes that are still needed.
func (a *absorber) settle() error {
	seen := volumesSeen{Set: a.b.id}
	err := a.b.opt.DB.Update(func(tx state.Tx) error {
		var was volumesSeen
		if _, err := tx.Get(bucketPending, keyVolumes, &was); err != nil {
			return err
		}
		if was.Set == a.b.id {
			seen.Volumes = was.Volumes
		}
		for v := range a.b.present {
			seen.Volumes = append(seen.Volumes, v)
		}
		slices.Sort(seen.Volumes)
		seen.Volumes = slices.Compact(seen.Volumes)
		if err := a.forgetPieces(tx); err != nil || a.b.standing == Older {
			return err
		}
		return tx.Put(bucketPending, keyVolumes, seen)
	})
	if err != nil {
		return err
	}
	return a.needed(seen.Volumes)
}

func (a *absorber) forgetPieces(tx state.Tx) error {
	var gone []string
	for key, decode := range tx.All(bucketPending, "") {
		var p Piece
		if key == keyVolumes {
			continue
		}
		if err := decode(&p); err != nil {
			return err
		}
		if !a.wants(p.Of) {
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		if err := tx.Delete(bucketPending, key); err != nil {
			return err
		}
	}
	return nil
}

// needed lists the volumes never at hand that hold something still wanted.
func (a *absorber) needed(seen []int) error {
	if len(a.wanted) == 0 && !a.all || len(a.b.volumes) == 1 {
		return nil
	}
	need := map[int]bool{}
	err := a.eachOf(func(c *Container) error {
		if !need[c.Volume] && !slices.Contains(seen, c.Volume) && a.lacks(c) {
			need[c.Volume] = true
		}
		return nil
	})
	for v := range need {
		a.out.Needed = append(a.out.Needed, v)
	}
	slices.Sort(a.out.Needed)
	return err
}

// lacks reports whether a container holds something that is still wanted.
func (a *absorber) lacks(c *Container) bool {
	switch c.Type {
	case typeDocument:
		l, ok := a.docs[sumOf(c.Digest)]
		return ok && a.b.standing != Older && !a.holds(c.Digest, l)
	case typeFile:
		return a.wants(c.Digest)
	case typeSegment:
		_, stored := a.pieces[sumOf(c.Of)][c.At]
		return !stored && a.wants(c.Of)
	case typePack:
		return slices.ContainsFunc(c.Members, func(m Member) bool { return a.wants(m.Digest) })
	}
	return false
}

// holds reports whether a document of the set is stored.
func (a *absorber) holds(d feed.Digest, l FeedLine) bool {
	if d == l.Evidence {
		return fileDigest(a.b.opt.Data.Evidence(l.Feed, l.Serial, "outside")) == d
	}
	snap, err := a.store.Snapshot(l.Feed, l.Serial)
	return err == nil && snap.ID() == l.Snapshot
}

// eachOf calls fn for every container of the bundle, at hand or not.
func (a *absorber) eachOf(fn func(c *Container) error) error {
	f, err := a.b.table(nameBlobs, a.b.set.Blobs)
	if err != nil {
		return err
	}
	defer f.Close()
	for c, err := range containers(f, a.b.mapLines(), len(a.b.volumes)) {
		if err == nil {
			err = a.ctx.Err()
		}
		if err == nil {
			err = fn(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
