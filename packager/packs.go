package packager

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// packWriter is the pack at hand.
type packWriter struct {
	v       *volume
	t       *durable.Temp
	tw      *tar.Writer
	count   *counted
	members []Member
	n       int // members
}

type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

const tarBlock = 512

// small packs the blobs below the threshold.
func (w *writer) small(s *cas.Snapshot) error {
	for a, err := range s.Artifacts() {
		if err == nil {
			err = w.ctx.Err()
		}
		if err != nil {
			return err
		}
		if a.Size >= w.p.threshold || !w.fresh(a.Digest) {
			continue
		}
		if err := w.member(a); err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
		w.packed.Blobs++
		w.packed.BlobBytes += a.Size
	}
	return w.endPack()
}

// beginPack starts the pack at hand.
func (w *writer) beginPack() error {
	w.pack = &packWriter{count: &counted{}}
	if w.dry {
		return nil
	}
	v, err := w.next(-1)
	if err != nil {
		return err
	}
	t, err := v.create(dirBlobs)
	if err != nil {
		return err
	}
	w.pack.v, w.pack.t, w.pack.count.w = v, t, t
	w.pack.tw = tar.NewWriter(w.pack.count)
	return nil
}

// member adds one blob to the pack at hand. In the tar it is named by its
// digest: names of artifacts are the snapshot's business.
func (w *writer) member(a feed.Artifact) error {
	if w.pack == nil {
		if err := w.beginPack(); err != nil {
			return err
		}
	}
	p := w.pack
	if w.dry { // as the tar writer pads: before the next header
		p.count.n = (p.count.n+tarBlock-1)/tarBlock*tarBlock + tarBlock + a.Size
	} else if err := w.tarMember(a); err != nil {
		return err
	}
	p.n++
	if p.count.n >= w.o.limits.pack || p.n >= packMembers {
		return w.endPack()
	}
	return nil
}

func (w *writer) tarMember(a feed.Artifact) error {
	f, err := w.o.Store.File(a.Digest)
	if err != nil {
		return w.kept(a, err)
	}
	defer f.Close()
	p := w.pack
	if err := p.tw.WriteHeader(tarHeader(a.Digest, a.Size)); err != nil {
		return err
	}
	at, h := p.count.n, sha256.New()
	n, err := io.Copy(p.tw, io.TeeReader(io.LimitReader(f, a.Size), h))
	if err != nil {
		return err
	}
	if d := feed.DigestFrom(h); n != a.Size || d != a.Digest {
		return feed.NewFault(fmt.Errorf("stored blob %s reads as %s: %w", a.Digest, d, feed.ErrDamaged), "H-702", "file", a.Path, "digest", string(a.Digest))
	}
	p.members = append(p.members, Member{a.Digest, at, a.Size})
	return nil
}

func tarHeader(d feed.Digest, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: d.Hex(), Size: size, Mode: 0o444, Format: tar.FormatUSTAR}
}

// endPack closes the pack at hand and feeds it to the stream, in which its
// place is known only now.
func (w *writer) endPack() error {
	p := w.pack
	if p == nil {
		return nil
	}
	w.pack = nil
	if w.dry {
		w.note((p.count.n+tarBlock-1)/tarBlock*tarBlock + 2*tarBlock)
		return nil
	}
	defer p.t.Discard()
	if err := p.tw.Close(); err != nil {
		return err
	}
	if _, err := w.next(p.count.n); err != nil {
		return err
	}
	if _, err := p.t.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	n, err := copyHashed(w.stream, h, p.t)
	if err != nil {
		return err
	}
	c := Container{Type: typePack, Digest: feed.DigestFrom(h), Size: n, Members: p.members}
	if err := p.v.commit(p.t, blobName(c.Digest)); err != nil {
		return err
	}
	return w.enter(p.v, c)
}
