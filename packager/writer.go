package packager

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// Media types of the OCI layout (docs/bundle.md §5).
const (
	artifactType  = "application/vnd.hashike.snapshot.v1+json"
	mediaDocument = "application/vnd.hashike.document.v1+jsonl+zstd"
	mediaFile     = "application/vnd.hashike.file.v1"
	mediaSegment  = "application/vnd.hashike.segment.v1"
	mediaPack     = "application/vnd.hashike.pack.v1.tar"
	mediaParity   = "application/vnd.hashike.parity.v1"
	refName       = "org.opencontainers.image.ref.name"
)

func mediaType(t string) types.MediaType {
	return map[string]types.MediaType{typeDocument: mediaDocument, typeFile: mediaFile, typeSegment: mediaSegment, typePack: mediaPack, typeParity: mediaParity}[t]
}

// writer writes all volumes of one bundle.
type writer struct {
	ctx    context.Context
	o      PackOptions
	p      *plan
	number uint64
	dry    bool // only sizes are noted

	sizes   []int64 // of containers, dry
	vols    []*volume
	at      int      // containers so far
	rows    *os.File // blob map of all but parity, not compressed, beside the outside's data
	table   *tableWriter
	blocks  *os.File
	stream  *blockHasher
	names   []feed.Digest // of the containers
	starts  []int64       // where they begin in the stream
	carried map[sum]struct{}
	feed    string
	parts   int
	feeds   []FeedLine
	pack    *packWriter
	packed  Report
	written int64
}

// volume is one of them.
type volume struct {
	n      int // from 1
	dir    string
	syncFS bool            // one flush at the end covers all files
	layers []v1.Descriptor // of the manifest at hand
	medium string          // its registered number
	index  v1.IndexManifest
	line   VolumeLine
	rows   int64 // lines of the blob map
	ends   int64 // byte of writer.rows after them
	parity []Container
}

// dryRun goes through everything without writing: what it notes decides the layout.
func dryRun(ctx context.Context, o PackOptions, p *plan) (*writer, error) {
	w := &writer{ctx: ctx, o: o, p: p, dry: true, carried: map[sum]struct{}{}}
	return w, w.payload()
}

func newWriter(ctx context.Context, o PackOptions, p *plan, number uint64) (*writer, error) {
	w := &writer{ctx: ctx, o: o, p: p, number: number, carried: map[sum]struct{}{}}
	for n := range p.layout.volumes() {
		v := &volume{n: n + 1, dir: o.dir(n + 1)}
		if n < len(o.Media) {
			v.medium = o.Media[n]
		}
		v.line.Volume = v.n
		v.index = v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
		for _, d := range []string{dirTUF, dirTables, dirBlobs} {
			if err := os.MkdirAll(v.path(d), 0o755); err != nil {
				return w, err
			}
		}
		var err error
		if v.syncFS, err = durable.SyncFS(v.dir); err != nil {
			return w, err
		}
		w.vols = append(w.vols, v)
	}
	var err error
	if err = durable.Mkdir(o.work()); err == nil {
		err = durable.CleanTemps(o.work()) // of a killed run
	}
	if err != nil {
		return w, err
	}
	if w.rows, err = os.CreateTemp(o.work(), durable.TempPrefix); err != nil {
		return w, err
	}
	if w.blocks, err = os.CreateTemp(o.work(), durable.TempPrefix); err != nil {
		return w, err
	}
	w.stream = newBlockHasher(w.blocks)
	w.table, err = newTableWriter(w.rows, false)
	return w, err
}

// work is where tables grow until they are whole: not on a medium, which may be small.
func (o *PackOptions) work() string { return filepath.Join(o.Data.Outbox(), "pack") }

func (v *volume) path(name string) string { return filepath.Join(v.dir, filepath.FromSlash(name)) }

func (w *writer) close() {
	for _, f := range []*os.File{w.rows, w.blocks} {
		if f != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}
	if w.pack != nil && w.pack.t != nil {
		w.pack.t.Discard()
	}
}

// create begins a file of the medium, readable by whoever mounts it.
func (v *volume) create(dir string) (*durable.Temp, error) {
	t, err := durable.Create(v.path(dir))
	if err != nil {
		return nil, err
	}
	return t, errors.Join(t.Chmod(0o644))
}

// commit gives a file its name; it is durable after the flush before index.json at the latest.
func (v *volume) commit(t *durable.Temp, name string) error {
	if v.syncFS {
		return t.Rename(v.path(name))
	}
	return t.Commit(v.path(name))
}

func (v *volume) write(dir, name string, b []byte) error {
	t, err := v.create(dir)
	if err != nil {
		return err
	}
	defer t.Discard()
	if _, err := t.Write(b); err != nil {
		return err
	}
	return v.commit(t, name)
}

// payload writes documents, large blobs and packs of every feed, in this order.
func (w *writer) payload() error {
	for _, c := range w.o.Feeds {
		h := c.Snapshot.Header()
		w.feed, w.parts = h.Feed, 0
		line := FeedLine{Feed: h.Feed, Kind: h.Kind, Serial: h.Serial, Snapshot: c.Snapshot.ID()}
		var err error
		if line.Document, err = w.document(w.o.Store.SnapshotPath(h.Feed, h.Serial)); err != nil {
			return w.full(fmt.Errorf("snapshot of %s: %w", h.Feed, err))
		}
		if c.Evidence != "" {
			if line.Evidence, err = w.document(c.Evidence); err != nil {
				return w.full(fmt.Errorf("evidence of %s: %w", h.Feed, err))
			}
		}
		w.feeds = append(w.feeds, line)
		for _, step := range []func(*cas.Snapshot) error{w.large, w.small} {
			if err := step(c.Snapshot); err != nil {
				return w.full(fmt.Errorf("feed %s: %w", h.Feed, err))
			}
		}
		for _, v := range w.vols {
			if err := w.manifest(v); err != nil {
				return w.full(err)
			}
		}
	}
	if !w.dry && w.at != len(w.p.sizes) {
		return w.changed()
	}
	return nil
}

func (w *writer) changed() error {
	return fmt.Errorf("what is to be packed changed meanwhile: pack again: %w", feed.ErrConfig)
}

func (w *writer) full(err error) error {
	if durable.IsFull(err) {
		return feed.NewFault(err, "H-801", "number", "", "need", "", "free", "0")
	}
	return err
}

// fresh reports whether a blob must be written, and notes it.
func (w *writer) fresh(d feed.Digest) bool {
	s := sumOf(d)
	if _, ok := w.carried[s]; ok {
		return false
	}
	if _, ok := w.p.base[s]; ok {
		w.packed.Known++
		return false
	}
	if w.p.only != nil {
		if _, ok := w.p.only[s]; !ok {
			return false
		}
	}
	w.carried[s] = struct{}{}
	return true
}

// document carries a stored document as its bytes are now.
func (w *writer) document(path string) (feed.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	d := feed.DigestFrom(h)
	if _, ok := w.carried[sumOf(d)]; ok {
		return d, nil
	}
	w.carried[sumOf(d)] = struct{}{}
	return d, w.container(f, Container{Type: typeDocument, Digest: d, Size: st.Size()})
}

// large writes the blobs that are containers of their own.
func (w *writer) large(s *cas.Snapshot) error {
	for a, err := range s.Artifacts() {
		if err == nil {
			err = w.ctx.Err()
		}
		if err != nil {
			return err
		}
		if a.Size < w.p.threshold || !w.fresh(a.Digest) {
			continue
		}
		if err := w.blob(a); err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
		w.packed.Blobs++
		w.packed.BlobBytes += a.Size
	}
	return nil
}

func (w *writer) blob(a feed.Artifact) error {
	limit := w.o.limits.segment
	if w.dry {
		for left := a.Size; left > 0; left -= limit {
			w.note(min(limit, left))
		}
		return nil
	}
	f, err := w.o.Store.File(a.Digest)
	if err != nil {
		return w.kept(a, err)
	}
	defer f.Close()
	if a.Size <= limit {
		return w.container(f, Container{Type: typeFile, Digest: a.Digest, Size: a.Size})
	}
	whole := sha256.New()
	for at := int64(0); at < a.Size; at += limit {
		n := min(limit, a.Size-at)
		err := w.container(io.TeeReader(io.LimitReader(f, n), whole), Container{Type: typeSegment, Size: n, Of: a.Digest, At: at, All: a.Size})
		if err != nil {
			return err
		}
	}
	if d := feed.DigestFrom(whole); d != a.Digest {
		return feed.NewFault(fmt.Errorf("stored blob %s reads as %s: %w", a.Digest, d, feed.ErrDamaged), "H-702", "file", a.Path, "digest", string(a.Digest))
	}
	return nil
}

// kept is the error for a stored blob that cannot be opened. That it vanished
// or is locked is another program's doing, as a rule an antivirus product's
// that watches the disk; it says nothing about the bytes.
func (w *writer) kept(a feed.Artifact, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || durable.Held(err) || durable.Infected(err) {
		return feed.NewFault(err, "H-820", "feed", w.feed, "file", a.Path, "digest", string(a.Digest))
	}
	return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrDamaged), "H-702", "feed", w.feed, "file", a.Path, "digest", string(a.Digest))
}

// note is a container of the dry run.
func (w *writer) note(size int64) { w.sizes = append(w.sizes, size) }

// next is the volume for the next container, which must be as planned.
func (w *writer) next(size int64) (*volume, error) {
	if w.at >= len(w.p.sizes) || size >= 0 && w.p.sizes[w.at] != size {
		return nil, w.changed()
	}
	return w.vols[w.p.layout.of[w.at]], nil
}

// container writes one payload file, hashing on the way. c.Digest, if set,
// must be what was read: the store is not believed either.
func (w *writer) container(r io.Reader, c Container) error {
	if w.dry {
		w.note(c.Size)
		return nil
	}
	v, err := w.next(c.Size)
	if err != nil {
		return err
	}
	t, err := v.create(dirBlobs)
	if err != nil {
		return err
	}
	defer t.Discard()
	h := sha256.New()
	n, err := copyHashed(io.MultiWriter(t, w.stream), h, io.LimitReader(r, c.Size+1))
	if err != nil {
		return err
	}
	d := feed.DigestFrom(h)
	if n != c.Size || (c.Digest != "" && d != c.Digest) {
		return feed.NewFault(fmt.Errorf("stored %s reads as %s, %d bytes instead of %d: %w", c.Digest, d, n, c.Size, feed.ErrDamaged),
			"H-702", "file", "", "digest", string(c.Digest))
	}
	c.Digest = d
	if err := v.commit(t, blobName(d)); err != nil {
		return err
	}
	return w.enter(v, c)
}

// copyHashed copies and hashes, the hash in a goroutine of its own.
func copyHashed(w io.Writer, h hash.Hash, r io.Reader) (int64, error) {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.CopyBuffer(h, pr, make([]byte, 1<<20))
	}()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.TeeReader(r, pw), make([]byte, 1<<20))
	pw.Close()
	<-done
	return n, err
}

// enter names a written container in blob map and manifest.
func (w *writer) enter(v *volume, c Container) error {
	c.Volume = v.n
	c.Count = len(c.Members)
	if err := w.table.line(c); err != nil {
		return err
	}
	for _, m := range c.Members {
		if err := w.table.line(m); err != nil {
			return err
		}
	}
	v.rows += 1 + int64(c.Count)
	w.names, w.starts = append(w.names, c.Digest), append(w.starts, w.stream.n-c.Size)
	w.at++
	if w.at == len(w.p.sizes) || w.p.layout.of[w.at] != v.n-1 {
		if err := w.lastOf(v); err != nil {
			return err
		}
	}
	return w.layer(v, c)
}

// lastOf notes where the lines of a volume end.
func (w *writer) lastOf(v *volume) error {
	var err error
	v.ends, err = w.rows.Seek(0, io.SeekCurrent)
	return err
}

// layer adds a container to its volume's manifest at hand.
func (w *writer) layer(v *volume, c Container) error {
	v.line.Containers++
	v.line.Bytes += c.Size
	w.written += c.Size
	if f := w.o.Progress; f != nil {
		f(Progress{Stage: "write", Name: blobName(c.Digest), Done: w.written, Total: w.p.payload()})
	}
	v.layers = append(v.layers, descriptor(mediaType(c.Type), c.Digest, c.Size))
	if len(v.layers) == w.o.limits.layers {
		return w.manifest(v)
	}
	return nil
}

func descriptor(t types.MediaType, d feed.Digest, n int64) v1.Descriptor {
	return v1.Descriptor{MediaType: t, Size: n, Digest: v1.Hash{Algorithm: "sha256", Hex: d.Hex()}}
}

// manifest writes the manifest of the layers at hand and its config, and
// enters it in the index.
func (w *writer) manifest(v *volume) error {
	if len(v.layers) == 0 {
		return nil
	}
	w.parts++
	config := v1.ConfigFile{Architecture: "unknown", OS: "unknown", RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range v.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
	}
	c, err := v.json(config)
	if err != nil {
		return err
	}
	m, err := v.json(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType,
		Config: descriptor(types.OCIConfigJSON, c.Digest, c.Size), Layers: v.layers})
	if err != nil {
		return err
	}
	d := descriptor(types.OCIManifestSchema1, m.Digest, m.Size)
	d.ArtifactType = artifactType
	d.Annotations = map[string]string{refName: fmt.Sprintf("%s-%d-v%d-%d", w.feed, w.number, v.n, w.parts)}
	v.index.Manifests = append(v.index.Manifests, d)
	v.layers = nil
	return nil
}

// json writes a small blob.
func (v *volume) json(doc any) (Object, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return Object{}, err
	}
	o := objectOf(b)
	return o, v.write(dirBlobs, blobName(o.Digest), b)
}
