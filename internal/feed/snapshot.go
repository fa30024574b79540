package feed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
)

// A snapshot document is JSON Lines: the header, then the artifacts in strict
// byte order of their paths. Its identity is the SHA-256 of the uncompressed
// bytes; on disk and in bundles it is zstd. It is written and read as a stream.

// MaxLine bounds one line of a snapshot or evidence document.
const MaxLine = 32 << 10

// SnapshotWriter writes one snapshot document.
type SnapshotWriter struct {
	z     *zstd.Encoder
	sum   hash.Hash
	last  string
	count int64
	bytes int64
}

// NewSnapshotWriter begins a document on w with h.
func NewSnapshotWriter(w io.Writer, h Header) (*SnapshotWriter, error) {
	h.Schema = SnapshotSchema
	h.Taken = wholeUTC(h.Taken)
	if err := h.check(); err != nil {
		return nil, err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	sw := &SnapshotWriter{z: z, sum: sha256.New()}
	return sw, sw.line(h)
}

func (w *SnapshotWriter) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) >= MaxLine {
		return fmt.Errorf("snapshot line of %d bytes: %w", len(b), ErrUpstream)
	}
	b = append(b, '\n')
	w.sum.Write(b)
	w.bytes += int64(len(b))
	_, err = w.z.Write(b)
	return err
}

// Add writes the next artifact. Paths must rise strictly.
func (w *SnapshotWriter) Add(a Artifact) error {
	a = a.normal()
	if err := a.check(); err != nil {
		return err
	}
	if w.count > 0 && a.Path <= w.last {
		return fmt.Errorf("artifact %s comes after %s: %w", a.Path, w.last, ErrDamaged)
	}
	w.last = a.Path
	w.count++
	return w.line(a)
}

// Close ends the document and returns its identity.
func (w *SnapshotWriter) Close() (Digest, error) {
	return DigestFrom(w.sum), w.z.Close()
}

// Count is the number of artifacts written so far.
func (w *SnapshotWriter) Count() int64 { return w.count }

// SnapshotReader reads one snapshot document from a source that may be hostile.
type SnapshotReader struct {
	Header Header
	z      *zstd.Decoder
	br     *bufio.Reader
	sum    hash.Hash
	err    error
	done   bool
}

// NewSnapshotReader reads the header. The caller closes the reader.
func NewSnapshotReader(r io.Reader) (*SnapshotReader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	s := &SnapshotReader{z: z, br: bufio.NewReaderSize(z, MaxLine), sum: sha256.New()}
	line, err := s.next()
	if err == nil {
		err = strictJSON(line, &s.Header)
	}
	if err == nil {
		err = s.Header.check()
	}
	if err != nil {
		z.Close()
		return nil, fmt.Errorf("snapshot header: %w", damaged(err))
	}
	return s, nil
}

func (s *SnapshotReader) next() ([]byte, error) {
	line, err := s.br.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	s.sum.Write(line)
	return bytes.TrimSuffix(line, []byte{'\n'}), nil
}

// Artifacts yields the artifacts once; an error ends the sequence.
func (s *SnapshotReader) Artifacts() iter.Seq2[Artifact, error] {
	return func(yield func(Artifact, error) bool) {
		last, first := "", true
		for s.err == nil {
			line, err := s.next()
			if errors.Is(err, io.EOF) {
				s.done = true
				return
			}
			var a Artifact
			if err == nil {
				err = strictJSON(line, &a)
			}
			if err == nil {
				err = a.check()
			}
			if err == nil && !first && a.Path <= last {
				err = fmt.Errorf("artifact %s is not after %s: %w", a.Path, last, ErrDamaged)
			}
			if err != nil {
				s.err = damaged(err)
				yield(Artifact{}, s.err)
				return
			}
			last, first = a.Path, false
			if !yield(a, nil) {
				return
			}
		}
	}
}

// Digest is the document's identity; it is an error to ask before the end.
func (s *SnapshotReader) Digest() (Digest, error) {
	if !s.done || s.err != nil {
		return "", fmt.Errorf("snapshot not read to its end: %w", ErrDamaged)
	}
	return DigestFrom(s.sum), nil
}

// Close frees the decoder.
func (s *SnapshotReader) Close() { s.z.Close() }

func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(b)) {
		return errors.New("more than one value on a line")
	}
	return nil
}

func damaged(err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrUpstream) {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrDamaged)
}
