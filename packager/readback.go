package packager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
)

// readBack reads every byte of the medium again, past the page cache where the
// system allows it, as an inside would: signatures, tables, structure, every
// container and the block table.
func readBack(ctx context.Context, o PackOptions, dirs []string, want Set) error {
	chain, err := roots(o.Data.Trust())
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		forget(dir)
	}
	b, err := openForReadBack(dirs, chain, want)
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
func openForReadBack(dirs []string, chain [][]byte, want Set) (*Bundle, error) {
	raw, id, err := want.encode()
	if err != nil {
		return nil, err
	}
	b := &Bundle{set: want, setRaw: raw, id: id, present: map[int][]*medium{}, volumeOf: map[*medium]int{}, strict: true}
	fail := func(err error) (*Bundle, error) { b.Close(); return nil, err }
	for _, dir := range dirs {
		m, err := openMedium(dir)
		if err != nil {
			return fail(err)
		}
		b.media = append(b.media, m)
		got, err := m.read(nameSet, maxSet)
		if err == nil && !bytes.Equal(got, raw) {
			err = unreadable(nameSet, errors.New("is not what was written"))
		}
		if err != nil {
			return fail(err)
		}
	}
	if b.judged, err = judge(trusted{roots: chain}, b.media[0].load, approvals{}); err == nil {
		err = b.compareCopies(b.media[0])
	}
	if err != nil {
		return fail(err)
	}
	f, err := b.media[0].table(nameVolumes, want.Volumes)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if b.volumes, err = readVolumes(f, want.Volumes.Lines); err != nil {
		return fail(err)
	}
	if err := b.checkTables(); err != nil {
		return fail(err)
	}
	return b, nil
}

// rehash compares every container and every block of the stream.
func (b *Bundle) rehash(ctx context.Context, o PackOptions) error {
	table, err := b.media[0].table(nameBlocks, b.set.Blocks)
	if err != nil {
		return err
	}
	defer table.Close()
	data := blocksOf(b.set.Bytes) * blockSum
	stream := newBlockHasher(&matcher{r: io.NewSectionReader(table, 0, data)})
	parity := newBlockHasher(&matcher{r: io.NewSectionReader(table, data, b.set.Blocks.Size-data)})
	f, err := b.media[0].table(nameBlobs, b.set.Blobs)
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
		media, to := b.present[c.Volume], stream
		if len(media) == 0 {
			return unreadable(nameVolumes, fmt.Errorf("volume %d was written, but cannot be found", c.Volume))
		}
		if c.Type == typeParity {
			to = parity
		}
		if err := media[0].compare(c, to); err != nil {
			return err
		}
		done += c.Size
		if o.Progress != nil {
			o.Progress(Progress{Stage: "read-back", Name: blobName(c.Digest), Done: done, Total: b.total()})
		}
	}
	n, err := stream.Close()
	if err == nil && n != b.set.Bytes {
		err = fmt.Errorf("stream of %d bytes, signed were %d: %w", n, b.set.Bytes, feed.ErrDamaged)
	}
	if err == nil {
		if n, err = parity.Close(); err == nil && n != b.set.geometry().ParityBlocks()*blockSize {
			err = fmt.Errorf("parity of %d bytes: %w", n, feed.ErrDamaged)
		}
	}
	if err != nil {
		return unreadable(nameBlocks, err)
	}
	return nil
}

// total is the length of all containers.
func (b *Bundle) total() (n int64) {
	for _, v := range b.volumes {
		n += v.Bytes
	}
	return n
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
	r   io.Reader
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
