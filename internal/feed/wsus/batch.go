package wsus

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/feed"
)

// A batch holds update documents as an upstream server sent them, at most 100,
// in the order received: what others need comes first. It is compressed with
// zstd; inside,
//
//	hashike-wsus-updates 1
//	<UpdateID> <RevisionNumber> <bytes of the document>
//	<the document>                       and a line feed
//
// The documents are the truth; fragments and indexes are made of them.

const (
	batchMagic   = "hashike-wsus-updates 1\n"
	batchPrefix  = "metadata/updates-"
	batchUpdates = 100
	maxBatch     = 64 << 20 // packed
	maxBatchText = batchUpdates * maxDocument
)

// original is one document as received.
type original struct {
	identity
	body []byte
}

// encodeBatch makes the bytes of a batch. The same documents give the same bytes.
func encodeBatch(list []original) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(batchMagic)
	for _, o := range list {
		fmt.Fprintf(&b, "%s %d %d\n", o.Update, o.Number, len(o.body))
		b.Write(o.body)
		b.WriteByte('\n')
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.EncodeAll(b.Bytes(), nil), nil
}

// packer packs documents one by one.
type packer struct {
	w *zstd.Encoder
	r *zstd.Decoder
}

func newPacker() *packer {
	// Neither fails without a stream and with these options.
	w, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	r, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDocument))
	return &packer{w, r}
}

func (p *packer) pack(b []byte) []byte            { return bytes.Clone(p.w.EncodeAll(b, nil)) }
func (p *packer) unpack(b []byte) ([]byte, error) { return p.r.DecodeAll(b, nil) }

func (p *packer) close() {
	_ = p.w.Close()
	p.r.Close()
}

// eachOriginal calls f for every document of a batch. ErrUpstream if it is not
// of the form above.
func eachOriginal(r io.Reader, f func(original) error) error {
	z, err := zstd.NewReader(io.LimitReader(r, maxBatch), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return upstream("batch: %w", err)
	}
	defer z.Close()
	br := bufio.NewReaderSize(io.LimitReader(z, maxBatchText), 64<<10)
	head := make([]byte, len(batchMagic))
	if _, err := io.ReadFull(br, head); err != nil || string(head) != batchMagic {
		return upstream("batch without head")
	}
	for n := 0; ; n++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil || n >= batchUpdates {
			return upstream("batch: line %d: %w", n, errors.Join(err, errors.New("malformed")))
		}
		o, size, err := batchLine(string(line[:len(line)-1]))
		if err != nil {
			return err
		}
		o.body = make([]byte, size+1)
		if _, err := io.ReadFull(br, o.body); err != nil || o.body[size] != '\n' {
			return upstream("batch: %s is cut short", o.identity)
		}
		o.body = o.body[:size]
		if err := f(o); err != nil {
			return err
		}
	}
}

func batchLine(line string) (original, int, error) {
	e := strings.Split(line, " ")
	if len(e) != 3 {
		return original{}, 0, upstream("batch: line %.80q", line)
	}
	g, err := parseGUID(e[0])
	number, err2 := strconv.ParseInt(e[1], 10, 32)
	size, err3 := strconv.ParseInt(e[2], 10, 32)
	if err := errors.Join(err, err2, err3); err != nil || number < 0 || size < 0 || size > maxDocument {
		return original{}, 0, upstream("batch: line %.80q: %w", line, errors.Join(err, errors.New("malformed")))
	}
	return original{identity: identity{g, int32(number)}}, int(size), nil
}

// readBatch reads a batch as readScan reads a scan; numbers are places in it.
func readBatch(r io.ReaderAt, size int64, keep func(n int, p part, lang string, body []byte) error) (*scan, error) {
	if size > maxBatch {
		return nil, upstream("batch of %d bytes", size)
	}
	s := &scan{updates: map[int]*update{}, sums: map[identity][sha256.Size]byte{}, parts: map[int][][sha256.Size]byte{}}
	n := 0
	err := eachOriginal(io.NewSectionReader(r, 0, size), func(o original) error {
		d, err := parseDocument(o.body)
		if err != nil {
			return err
		}
		if d.identity != o.identity {
			return upstream("batch: %s is called %s", d.identity, o.identity)
		}
		s.parts[n] = [][sha256.Size]byte{sha256.Sum256(o.body)}
		u := d.update // alone: a pointer into d would hold all its fragments
		s.updates[n] = &u
		if at, err := time.Parse(time.RFC3339, d.Created); err == nil && at.After(s.created) {
			s.created = at.UTC().Truncate(time.Second)
		}
		for _, p := range d.Pieces {
			if keep == nil {
				break
			}
			if err := keep(n, p.part, p.lang, p.body); err != nil {
				return err
			}
		}
		n++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, upstream("batch without updates")
	}
	return s, s.sum()
}

func batchArtifact(d feed.Digest, created time.Time) feed.Artifact {
	p := batchPrefix + d.Hex()[:32] + ".zst"
	return feed.Artifact{Path: p, Digest: d, Class: feed.Metadata, Time: created, Group: p}
}

func isBatch(a feed.Artifact) bool {
	return a.Class == feed.Metadata && strings.HasPrefix(a.Path, batchPrefix)
}

// isSource reports that an artifact holds updates.
func isSource(a feed.Artifact) bool { return isScan(a) || isBatch(a) || isExtract(a) || isPublished(a) }

// readSource reads a scan, a batch, an extract or what was published here.
func readSource(a feed.Artifact, r io.ReaderAt, keep func(n int, p part, lang string, body []byte) error) (*scan, error) {
	if isBatch(a) {
		return readBatch(r, a.Size, keep)
	}
	if isExtract(a) {
		return readExtract(r, a.Size, keep)
	}
	if isPublished(a) {
		s, err := readBatch(r, a.Size, keep)
		if s != nil {
			s.alone = publishedGroup
		}
		return s, err
	}
	return readScan(r, a.Size, keep)
}

// sourceArtifact is what a source must be called.
func sourceArtifact(a feed.Artifact, s *scan) feed.Artifact {
	if isBatch(a) {
		return batchArtifact(a.Digest, s.created)
	}
	if isExtract(a) {
		x, _ := offlineArtifacts(s.head, a.Digest)
		return x
	}
	if isPublished(a) {
		return publishedArtifact(a.Digest, s.created)
	}
	return scanArtifact(a.Digest, s.created)
}
