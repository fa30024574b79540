package packager

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/hashike/hashike/internal/feed"
)

// FeedLine is one line of the feeds table: the snapshot of one feed that the
// inside shall reach.
type FeedLine struct {
	Feed     string      `json:"feed"`
	Kind     string      `json:"kind"`
	Serial   uint64      `json:"serial"`
	Snapshot feed.Digest `json:"snapshot"`           // identity: SHA-256 of the uncompressed document
	Document feed.Digest `json:"document"`           // the document as carried
	Evidence feed.Digest `json:"evidence,omitempty"` // the outside's evidence as carried
}

func (l *FeedLine) check() error {
	if !feed.ValidName(l.Feed) || l.Kind == "" || len(l.Kind) > 40 || l.Serial == 0 || l.Snapshot == "" || l.Document == "" {
		return fmt.Errorf("feeds table names %.60q of %.40q with serial %d: %w", l.Feed, l.Kind, l.Serial, feed.ErrDamaged)
	}
	return nil
}

// VolumeLine is one line of the volume table.
type VolumeLine struct {
	Volume     int    `json:"volume"`     // from 1
	Containers int64  `json:"containers"` // in the blob map
	Bytes      int64  `json:"bytes"`      // of these containers
	Index      Object `json:"index"`
	Layout     Object `json:"layout"`
	Readme     Object `json:"readme"`
}

// Object is a file by its bytes.
type Object struct {
	Digest feed.Digest `json:"digest"`
	Size   int64       `json:"size"`
}

func objectOf(b []byte) Object { return Object{feed.DigestOf(b), int64(len(b))} }

// What a container holds.
const (
	typeDocument = "document" // a snapshot or evidence document
	typeFile     = "file"     // one blob, byte for byte
	typeSegment  = "segment"  // at most 1 GiB of one blob
	typePack     = "pack"     // ustar of small blobs
	typeParity   = "parity"   // blocks of the parity stream; not in the set's stream
)

// Container is one payload file of a volume: one line of the blob map, and for
// a pack one more for each member.
type Container struct {
	Volume int         `json:"v"`
	Type   string      `json:"t"`
	Digest feed.Digest `json:"c"`
	Size   int64       `json:"n"`
	Of     feed.Digest `json:"of,omitempty"`  // segment: the whole blob
	At     int64       `json:"at,omitempty"`  // segment: where in it
	All    int64       `json:"all,omitempty"` // segment: the blob's size
	Count  int         `json:"k,omitempty"`   // pack: members that follow

	Members []Member `json:"-"`
}

// Member is a blob within a pack.
type Member struct {
	Digest feed.Digest `json:"d"`
	Offset int64       `json:"o"` // of its first byte in the pack
	Size   int64       `json:"n"`
}

// Limits of the payload.
const (
	packTarget  = 64 << 20 // a pack is closed at this size
	packMembers = 20_000   // or at this many members
	maxMembers  = 1 << 16
	maxPack     = 256 << 20
	segmentSize = 1 << 30
	smallest    = 1 << 20 // a file from here on is a container of its own
	maxDocument = 4 << 30
	maxLayers   = 400 // of a manifest
)

func (c *Container) check(volumes int) error {
	ok := c.Volume >= 1 && c.Volume <= volumes && c.Digest != "" && c.Size >= 0
	switch c.Type {
	case typeDocument:
		ok = ok && c.Size <= maxDocument
	case typeFile:
		ok = ok && c.Size <= segmentSize
	case typeSegment:
		ok = ok && c.Size > 0 && c.Size <= segmentSize && c.Of != "" && c.At >= 0 && c.All > 0 && c.At <= c.All-c.Size
	case typeParity:
		ok = ok && c.Size > 0 && c.Size <= segmentSize && c.Size%blockSize == 0
	case typePack:
		ok = ok && c.Size <= maxPack && c.Count >= 1 && c.Count <= maxMembers
	default:
		ok = false
	}
	if c.Type != typeSegment {
		ok = ok && c.Of == "" && c.At == 0 && c.All == 0
	}
	if c.Type != typePack {
		ok = ok && c.Count == 0
	}
	if !ok {
		return fmt.Errorf("blob map: container %.80q of type %.20q: %w", c.Digest, c.Type, feed.ErrDamaged)
	}
	return nil
}

// tableWriter writes JSON Lines, compressed with zstd or plain.
type tableWriter struct {
	out   io.Writer
	z     *zstd.Encoder
	lines int64
}

func newTableWriter(w io.Writer, compressed bool) (*tableWriter, error) {
	t := &tableWriter{out: w}
	if !compressed {
		return t, nil
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	t.z, t.out = z, z
	return t, err
}

func (t *tableWriter) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) >= maxLine {
		return fmt.Errorf("table line of %d bytes", len(b))
	}
	t.lines++
	_, err = t.out.Write(append(b, '\n'))
	return err
}

func (t *tableWriter) Close() error {
	if t.z == nil {
		return nil
	}
	return t.z.Close()
}

// tableReader reads JSON Lines from a source that may be hostile: memory is
// bounded by the window and one line, work by the number of lines announced.
type tableReader struct {
	z    *zstd.Decoder
	br   *bufio.Reader
	left int64
}

func newTableReader(r io.Reader, compressed bool, lines int64) (*tableReader, error) {
	t := &tableReader{left: max(lines, 0)}
	if compressed {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		t.z, r = z, z
	}
	t.br = bufio.NewReaderSize(io.LimitReader(r, maxRaw), maxLine)
	return t, nil
}

// next decodes the next line into v; io.EOF after exactly the announced number.
func (t *tableReader) next(v any) error {
	line, err := t.br.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0 && t.left == 0:
		return io.EOF
	case errors.Is(err, io.EOF):
		return fmt.Errorf("table ends %d lines early: %w", t.left, feed.ErrDamaged)
	case err != nil:
		return fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	case t.left == 0:
		return fmt.Errorf("table goes on after its last line: %w", feed.ErrDamaged)
	}
	t.left--
	return strict(bytes.TrimSuffix(line, []byte{'\n'}), v)
}

func (t *tableReader) Close() {
	if t.z != nil {
		t.z.Close()
	}
}

// readLines reads a whole small table.
func readLines[T any](r io.Reader, compressed bool, lines int64, check func(*T) error) ([]T, error) {
	t, err := newTableReader(r, compressed, lines)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var out []T
	for {
		var v T
		err := t.next(&v)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err == nil {
			err = check(&v)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
}

// readFeeds reads the feeds table: feeds rise strictly by name.
func readFeeds(r io.Reader, lines int64) ([]FeedLine, error) {
	last := ""
	owner := map[feed.Digest]string{} // a document names its feed: it cannot be two feeds'
	return readLines(r, true, lines, func(l *FeedLine) error {
		if l.Feed <= last {
			return fmt.Errorf("feeds table: %.60q after %.60q: %w", l.Feed, last, feed.ErrDamaged)
		}
		if of := owner[l.Document]; of != "" {
			return fmt.Errorf("feeds table: the snapshot of %s is given to %s too: %w", of, l.Feed, feed.ErrUntrusted)
		}
		last, owner[l.Document] = l.Feed, l.Feed
		return l.check()
	})
}

// readVolumes reads the volume table: volumes count from 1.
func readVolumes(r io.Reader, lines int64) ([]VolumeLine, error) {
	n := 0
	return readLines(r, false, lines, func(l *VolumeLine) error {
		n++
		if l.Volume != n || l.Containers < 0 || l.Bytes < 0 || l.Index.Size < 0 || l.Index.Size > maxIndex ||
			l.Index.Digest == "" || l.Layout.Digest == "" || l.Readme.Digest == "" {
			return fmt.Errorf("volume table, line %d: %w", n, feed.ErrDamaged)
		}
		return nil
	})
}

// readOrders reads the orders' envelopes: numbers rise strictly. Signatures are
// the caller's matter.
func readOrders(r io.Reader, lines int64) ([]SignedOrder, error) {
	var out []SignedOrder
	last := uint64(0)
	_, err := readLines(r, false, lines, func(e *dsse.Envelope) error {
		o, err := openOrder(*e)
		if err != nil {
			return err
		}
		if o.Number <= last {
			return fmt.Errorf("order %d after %d: %w", o.Number, last, feed.ErrDamaged)
		}
		last, out = o.Number, append(out, o)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// containers yields the blob map. The container and its Members are reused:
// they hold until the next one is asked for.
func containers(r io.Reader, lines int64, volumes int) iter.Seq2[*Container, error] {
	return func(yield func(*Container, error) bool) {
		t, err := newTableReader(r, true, lines)
		if err != nil {
			yield(nil, err)
			return
		}
		defer t.Close()
		var members []Member
		volume := 1
		for {
			var c Container
			if err = t.next(&c); errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				err = c.check(volumes)
			}
			if err == nil && c.Volume < volume {
				err = fmt.Errorf("blob map: volume %d after %d: %w", c.Volume, volume, feed.ErrDamaged)
			}
			if err == nil {
				members, err = readMembers(t, &c, members[:0])
			}
			if err != nil {
				yield(nil, err)
				return
			}
			volume, c.Members = c.Volume, members
			if !yield(&c, nil) {
				return
			}
		}
	}
}

// readMembers reads a pack's members: they rise and do not overlap.
func readMembers(t *tableReader, c *Container, out []Member) ([]Member, error) {
	end := int64(0)
	for range c.Count {
		var m Member
		if err := t.next(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("blob map ends within a pack: %w", feed.ErrDamaged)
			}
			return out, err
		}
		if m.Digest == "" || m.Offset < end || m.Size < 0 || m.Size > c.Size || m.Offset > c.Size-m.Size {
			return out, fmt.Errorf("blob map: member at %d of a pack of %d bytes: %w", m.Offset, c.Size, feed.ErrDamaged)
		}
		end = m.Offset + m.Size
		out = append(out, m)
	}
	return out, nil
}
