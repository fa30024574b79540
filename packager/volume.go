package packager

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/signature"

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
	refName       = "org.opencontainers.image.ref.name"
)

func mediaType(t string) types.MediaType {
	return map[string]types.MediaType{typeDocument: mediaDocument, typeFile: mediaFile, typeSegment: mediaSegment, typePack: mediaPack}[t]
}

// volume writes one volume.
type volume struct {
	ctx    context.Context
	o      PackOptions
	p      plan
	number uint64
	n      int // volume number

	syncFS  bool // one flush at the end covers all files
	blobMap *os.File
	table   *tableWriter
	blocks  *os.File
	stream  *blockHasher
	carried map[sum]struct{}
	layers  []v1.Descriptor // of the manifest at hand
	feed    string
	parts   int
	index   v1.IndexManifest
	feeds   []FeedLine
	line    VolumeLine
	pack    *packWriter
	packed  Report
	rootLen int
}

func newVolume(ctx context.Context, o PackOptions, p plan, number uint64) (*volume, error) {
	v := &volume{ctx: ctx, o: o, p: p, number: number, n: 1, carried: map[sum]struct{}{}}
	v.line.Volume = v.n
	v.index = v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	for _, d := range []string{dirTUF, dirTables, dirBlobs} {
		if err := os.MkdirAll(v.path(d), 0o755); err != nil {
			return v, err
		}
	}
	var err error
	if v.syncFS, err = durable.SyncFS(o.To); err != nil {
		return v, err
	}
	if v.blobMap, err = os.CreateTemp(v.path(dirTables), durable.TempPrefix); err != nil {
		return v, err
	}
	if v.blocks, err = os.CreateTemp(v.path(dirTables), durable.TempPrefix); err != nil {
		return v, err
	}
	v.stream = newBlockHasher(v.blocks)
	v.table, err = newTableWriter(v.blobMap, true)
	return v, err
}

func (v *volume) path(name string) string { return filepath.Join(v.o.To, filepath.FromSlash(name)) }

func (v *volume) close() {
	for _, f := range []*os.File{v.blobMap, v.blocks} {
		if f != nil {
			f.Close()
			os.Remove(f.Name()) // unless it has its name by now
		}
	}
	if v.pack != nil {
		v.pack.t.Discard()
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
func (v *volume) payload() error {
	for _, c := range v.o.Feeds {
		h := c.Snapshot.Header()
		v.feed, v.parts = h.Feed, 0
		line := FeedLine{Feed: h.Feed, Kind: h.Kind, Serial: h.Serial, Snapshot: c.Snapshot.ID()}
		var err error
		if line.Document, err = v.document(v.o.Store.SnapshotPath(h.Feed, h.Serial)); err != nil {
			return v.full(fmt.Errorf("snapshot of %s: %w", h.Feed, err))
		}
		if c.Evidence != "" {
			if line.Evidence, err = v.document(c.Evidence); err != nil {
				return v.full(fmt.Errorf("evidence of %s: %w", h.Feed, err))
			}
		}
		v.feeds = append(v.feeds, line)
		for _, step := range []func(*cas.Snapshot) error{v.large, v.small} {
			if err := step(c.Snapshot); err != nil {
				return v.full(fmt.Errorf("feed %s: %w", h.Feed, err))
			}
		}
		if err := v.manifest(); err != nil {
			return v.full(err)
		}
	}
	return nil
}

func (v *volume) full(err error) error {
	if durable.IsFull(err) {
		return feed.NewFault(err, "H-801", "number", "", "need", "", "free", "0")
	}
	return err
}

// fresh reports whether a blob must be written, and notes it.
func (v *volume) fresh(d feed.Digest) bool {
	s := sumOf(d)
	if _, ok := v.carried[s]; ok {
		return false
	}
	if _, ok := v.p.base[s]; ok {
		v.packed.Known++
		return false
	}
	v.carried[s] = struct{}{}
	return true
}

// document carries a stored document as its bytes are now.
func (v *volume) document(path string) (feed.Digest, error) {
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
	if _, ok := v.carried[sumOf(d)]; ok {
		return d, nil
	}
	v.carried[sumOf(d)] = struct{}{}
	return d, v.container(f, Container{Type: typeDocument, Digest: d, Size: st.Size()})
}

// large writes the blobs that are containers of their own.
func (v *volume) large(s *cas.Snapshot) error {
	for a, err := range s.Artifacts() {
		if err == nil {
			err = v.ctx.Err()
		}
		if err != nil {
			return err
		}
		if a.Size < v.p.threshold || !v.fresh(a.Digest) {
			continue
		}
		if err := v.blob(a); err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
		v.packed.Blobs++
		v.packed.BlobBytes += a.Size
	}
	return nil
}

func (v *volume) blob(a feed.Artifact) error {
	f, err := v.o.Store.File(a.Digest)
	if err != nil {
		return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrDamaged), "H-702", "file", a.Path, "digest", string(a.Digest))
	}
	defer f.Close()
	if a.Size <= v.o.limits.segment {
		return v.container(f, Container{Type: typeFile, Digest: a.Digest, Size: a.Size})
	}
	whole := sha256.New()
	for at := int64(0); at < a.Size; at += v.o.limits.segment {
		n := min(v.o.limits.segment, a.Size-at)
		err := v.container(io.TeeReader(io.LimitReader(f, n), whole), Container{Type: typeSegment, Size: n, Of: a.Digest, At: at, All: a.Size})
		if err != nil {
			return err
		}
	}
	if d := feed.DigestFrom(whole); d != a.Digest {
		return feed.NewFault(fmt.Errorf("stored blob %s reads as %s: %w", a.Digest, d, feed.ErrDamaged), "H-702", "file", a.Path, "digest", string(a.Digest))
	}
	return nil
}

// container writes one payload file, hashing on the way. c.Digest, if set,
// must be what was read: the store is not believed either.
func (v *volume) container(r io.Reader, c Container) error {
	t, err := v.create(dirBlobs)
	if err != nil {
		return err
	}
	defer t.Discard()
	h := sha256.New()
	n, err := copyHashed(io.MultiWriter(t, v.stream), h, io.LimitReader(r, c.Size+1))
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
	return v.enter(c)
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
func (v *volume) enter(c Container) error {
	c.Volume = v.n
	c.Count = len(c.Members)
	if err := v.table.line(c); err != nil {
		return err
	}
	for _, m := range c.Members {
		if err := v.table.line(m); err != nil {
			return err
		}
	}
	v.line.Containers++
	v.line.Bytes += c.Size
	if f := v.o.Progress; f != nil {
		f(Progress{Stage: "write", Name: blobName(c.Digest), Done: v.line.Bytes, Total: v.p.bytes})
	}
	v.layers = append(v.layers, descriptor(mediaType(c.Type), c.Digest, c.Size))
	if len(v.layers) == v.o.limits.layers {
		return v.manifest()
	}
	return nil
}

func descriptor(t types.MediaType, d feed.Digest, n int64) v1.Descriptor {
	return v1.Descriptor{MediaType: t, Size: n, Digest: v1.Hash{Algorithm: "sha256", Hex: d.Hex()}}
}

// small packs the blobs below the threshold.
func (v *volume) small(s *cas.Snapshot) error {
	for a, err := range s.Artifacts() {
		if err == nil {
			err = v.ctx.Err()
		}
		if err != nil {
			return err
		}
		if a.Size >= v.p.threshold || !v.fresh(a.Digest) {
			continue
		}
		if err := v.member(a); err != nil {
			return fmt.Errorf("%s: %w", a.Path, err)
		}
		v.packed.Blobs++
		v.packed.BlobBytes += a.Size
	}
	return v.endPack()
}

// packWriter is the pack at hand.
type packWriter struct {
	t       *durable.Temp
	tw      *tar.Writer
	count   *counted
	members []Member
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

// member adds one blob to the pack at hand. In the tar it is named by its
// digest: names of artifacts are the snapshot's business.
func (v *volume) member(a feed.Artifact) error {
	if v.pack == nil {
		t, err := v.create(dirBlobs)
		if err != nil {
			return err
		}
		c := &counted{w: t}
		v.pack = &packWriter{t: t, tw: tar.NewWriter(c), count: c}
	}
	f, err := v.o.Store.File(a.Digest)
	if err != nil {
		return feed.NewFault(fmt.Errorf("%w: %w", err, feed.ErrDamaged), "H-702", "file", a.Path, "digest", string(a.Digest))
	}
	defer f.Close()
	p := v.pack
	if err := p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: a.Digest.Hex(), Size: a.Size, Mode: 0o444, Format: tar.FormatUSTAR}); err != nil {
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
	if p.count.n >= packTarget || len(p.members) >= packMembers {
		return v.endPack()
	}
	return nil
}

// endPack closes the pack at hand and feeds it to the stream, in which its
// place is known only now.
func (v *volume) endPack() error {
	p := v.pack
	if p == nil {
		return nil
	}
	defer p.t.Discard()
	v.pack = nil
	if err := p.tw.Close(); err != nil {
		return err
	}
	if _, err := p.t.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	n, err := copyHashed(v.stream, h, p.t)
	if err != nil {
		return err
	}
	c := Container{Type: typePack, Digest: feed.DigestFrom(h), Size: n, Members: p.members}
	if err := v.commit(p.t, blobName(c.Digest)); err != nil {
		return err
	}
	return v.enter(c)
}

// manifest writes the manifest of the layers at hand and its config, and
// enters it in the index.
func (v *volume) manifest() error {
	if len(v.layers) == 0 {
		return nil
	}
	v.parts++
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
	d.Annotations = map[string]string{refName: fmt.Sprintf("%s-%d-v%d-%d", v.feed, v.number, v.n, v.parts)}
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

// finishTable ends a table that grew in a temporary file and names it.
func (v *volume) finishTable(f **os.File, name string, lines int64) (Ref, error) {
	h := sha256.New()
	if _, err := (*f).Seek(0, io.SeekStart); err != nil {
		return Ref{}, err
	}
	n, err := io.Copy(h, *f)
	if err != nil {
		return Ref{}, err
	}
	temp := (*f).Name()
	err = errors.Join((*f).Chmod(0o644), (*f).Sync(), (*f).Close())
	*f = nil
	if err != nil {
		return Ref{}, err
	}
	durable.Step("before table " + name)
	return Ref{feed.DigestFrom(h), n, lines}, durable.Rename(temp, v.path(name))
}

// sign ends the tables, makes and signs the set and writes it: set.json and
// index.json last, after everything they name is on the disk.
func (v *volume) sign(key signature.Signer, chain [][]byte, c counter) (Set, error) {
	set, err := v.set(c, int64(len(chain)))
	if err != nil {
		return set, v.full(err)
	}
	raw, _, err := set.encode()
	if err != nil {
		return set, err
	}
	orders, err := ordersBytes(v.o.Orders)
	if err != nil {
		return set, err
	}
	meta, err := signBundle(key, c.Version, set.Expires, raw, orders)
	if err != nil {
		return set, err
	}
	for i, r := range chain {
		meta[rootName(int64(i+1))] = r
	}
	for name, b := range meta {
		if err := v.write(dirTUF, name, b); err != nil {
			return set, v.full(err)
		}
	}
	index, err := json.Marshal(v.index)
	if err != nil {
		return set, err
	}
	durable.Step("before medium flush")
	if _, err := durable.SyncFS(v.o.To); err != nil {
		return set, v.full(err)
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{nameOrders, orders}, {nameSet, raw}, {nameIndex, index}} {
		if err := v.last(f.name, f.b); err != nil {
			return set, v.full(err)
		}
	}
	_, err = durable.SyncFS(v.o.To)
	return set, err
}

func (v *volume) last(name string, b []byte) error {
	t, err := v.create(".")
	if err != nil {
		return err
	}
	defer t.Discard()
	if _, err := t.Write(b); err != nil {
		return err
	}
	return t.Commit(v.path(name))
}

// set ends tables, README and layout file, and describes them.
func (v *volume) set(c counter, root int64) (Set, error) {
	s := Set{Schema: SetSchema, Format: setFormat, Sites: v.o.Sites, Number: c.Number, Version: c.Version, Root: root,
		Created: v.o.Now, Expires: v.o.Now.Add(v.o.Validity)}
	if v.o.Base != nil {
		s.Base = &BaseRef{v.o.Base.Number, v.o.Base.Set}
	}
	var err error
	if s.Bytes, err = v.stream.Close(); err != nil {
		return s, err
	}
	if err := v.table.Close(); err != nil {
		return s, err
	}
	if s.Blobs, err = v.finishTable(&v.blobMap, nameBlobs, v.table.lines); err != nil {
		return s, err
	}
	if s.Blocks, err = v.finishTable(&v.blocks, nameBlocks, blocksOf(s.Bytes)); err != nil {
		return s, err
	}
	index, err := json.Marshal(v.index)
	if err != nil {
		return s, err
	}
	readme := readme(s, v.n, 1)
	v.line.Index, v.line.Layout, v.line.Readme = objectOf(index), objectOf([]byte(layoutString)), objectOf(readme)
	if len(index) > maxIndex {
		return s, fmt.Errorf("index of %d bytes, at most %d fit", len(index), maxIndex)
	}
	if err := errors.Join(v.write(".", nameLayout, []byte(layoutString)), v.write(".", nameReadme, readme)); err != nil {
		return s, err
	}
	if s.Volumes, err = writeTable(v, nameVolumes, false, []VolumeLine{v.line}); err != nil {
		return s, err
	}
	if s.Feeds, err = writeTable(v, nameFeeds, true, v.feeds); err != nil {
		return s, err
	}
	orders, err := ordersBytes(v.o.Orders)
	if err != nil {
		return s, err
	}
	s.Orders = Ref{feed.DigestOf(orders), int64(len(orders)), int64(len(v.o.Orders))}
	return s, s.check()
}

func writeTable[T any](v *volume, name string, compressed bool, lines []T) (Ref, error) {
	var buf bytes.Buffer
	t, err := newTableWriter(&buf, compressed)
	if err != nil {
		return Ref{}, err
	}
	for _, l := range lines {
		if err := t.line(l); err != nil {
			return Ref{}, err
		}
	}
	if err := t.Close(); err != nil {
		return Ref{}, err
	}
	return Ref{feed.DigestOf(buf.Bytes()), int64(buf.Len()), t.lines}, v.write(dirTables, name, buf.Bytes())
}

func (v *volume) report(s Set, c counter) Report {
	_, id, _ := s.encode()
	r := v.packed
	r.Packed = Packed{Number: c.Number, Set: id, Sites: s.Sites, Created: s.Created, Expires: s.Expires, Bytes: s.Bytes, Feeds: v.feeds}
	if s.Base != nil {
		r.Base = s.Base.Number
	}
	r.Volumes, r.Files, r.StreamHash = 1, v.line.Containers, s.Blocks.Digest
	return r
}

// readme tells a finder what this is. It holds no person, host name or address.
func readme(s Set, n, of int) []byte {
	date := s.Created.In(feed.JST()).Format("2006-01-02 15:04")
	return fmt.Appendf(nil, "\ufeff艀 (Hashike) 更新便 第%d便  %d枚中%d枚目  %s 作成 (JST)\r\n\r\n"+
		"これは、インターネットにつながらないネットワークへ、製造元の更新プログラムを運ぶための媒体です。\r\n"+
		"中のファイルを開いたり、消したり、書き足したりしないでください。取り込みは「hashike import」で行います。\r\n"+
		"拾った方は、お手数ですが媒体のラベルにある組織へお返しください。個人情報は入っていません。\r\n\r\n"+
		"Hashike bundle %d, volume %d of %d, made %s (JST)\r\n\r\n"+
		"This medium carries vendors' software updates to a network without internet.\r\n"+
		"Do not open, remove or add files. It is read with \"hashike import\".\r\n"+
		"If you found it, please return it to the organisation on its label. It holds no personal data.\r\n",
		s.Number, of, n, date, s.Number, n, of, date)
}
