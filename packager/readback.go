package packager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashike/hashike/internal/feed"
)

// readBack reads every byte of the medium again, past the page cache where the
// system allows it, as an inside would: signatures, tables, structure, every
// container and the block table.
func readBack(ctx context.Context, o PackOptions, v *volume, want Set) error {
	chain, err := roots(o.Data.Trust())
	if err != nil {
		return err
	}
	forget(o.To)
	b, err := openForReadBack(o.To, chain, want)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.checkStructure(ctx); err != nil {
		return err
	}
	if b.nForeign > 0 {
		return unreadable(b.foreign[0], errors.New("appeared while the bundle was written"))
	}
	return b.rehash(ctx, o)
}

// openForReadBack judges the medium with nothing accepted before.
func openForReadBack(dir string, chain [][]byte, want Set) (*Bundle, error) {
	raw, id, err := want.encode()
	if err != nil {
		return nil, err
	}
	m, err := openMedium(dir)
	if err != nil {
		return nil, err
	}
	b := &Bundle{media: []*medium{m}, set: want, setRaw: raw, id: id, present: map[int]*medium{}}
	fail := func(err error) (*Bundle, error) { b.Close(); return nil, err }
	got, err := m.read(nameSet, maxSet)
	if err == nil && !bytes.Equal(got, raw) {
		err = unreadable(nameSet, errors.New("is not what was written"))
	}
	if err != nil {
		return fail(err)
	}
	if b.judged, err = judge(trusted{roots: chain}, b.load); err != nil {
		return fail(err)
	}
	f, err := m.table(nameVolumes, want.Volumes)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if b.volumes, err = readVolumes(f, want.Volumes.Lines); err != nil {
		return fail(err)
	}
	for name, ref := range map[string]Ref{nameFeeds: want.Feeds, nameBlobs: want.Blobs, nameOrders: want.Orders} {
		t, err := m.table(name, ref)
		if err != nil {
			return fail(err)
		}
		t.Close()
	}
	return b, nil
}

// rehash compares every container and every block of the stream.
func (b *Bundle) rehash(ctx context.Context, o PackOptions) error {
	m := b.media[0]
	table, err := m.table(nameBlocks, b.set.Blocks)
	if err != nil {
		return err
	}
	defer table.Close()
	stream := newBlockHasher(&matcher{r: table})
	f, err := m.table(nameBlobs, b.set.Blobs)
	if err != nil {
		return err
	}
	defer f.Close()
	done := int64(0)
	for c, err := range containers(f, b.mapLines(), len(b.volumes)) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := m.compare(c, stream); err != nil {
			return err
		}
		done += c.Size
		if o.Progress != nil {
			o.Progress(Progress{Stage: "read-back", Name: blobName(c.Digest), Done: done, Total: b.set.Bytes})
		}
	}
	n, err := stream.Close()
	if err == nil && n != b.set.Bytes {
		err = fmt.Errorf("stream of %d bytes, signed were %d: %w", n, b.set.Bytes, feed.ErrDamaged)
	}
	if err != nil {
		return unreadable(nameBlocks, err)
	}
	return nil
}

// compare reads one container into the stream and holds it against its digest.
func (m *medium) compare(c *Container, stream io.Writer) error {
	r, err := openContainer(m, c)
	if err != nil {
		return err
	}
	defer r.close()
	if _, err = io.CopyBuffer(struct{ io.Writer }{stream}, r, make([]byte, 1<<20)); err == nil {
		err = r.end()
	}
	if err != nil {
		return unreadable(blobName(c.Digest), err)
	}
	return nil
}

// matcher is a writer that wants to be told exactly what r holds.
type matcher struct {
	r   *os.File
	buf [blockSum]byte
}

func (m *matcher) Write(p []byte) (int, error) {
	if _, err := io.ReadFull(m.r, m.buf[:len(p)]); err != nil {
		return 0, err
	}
	if !bytes.Equal(m.buf[:len(p)], p) {
		return 0, fmt.Errorf("a block of the stream is not what was signed: %w", feed.ErrDamaged)
	}
	return len(p), nil
}
