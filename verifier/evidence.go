package verifier

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/feed"
)

// EvidenceSchema is the newest evidence document this program reads and the
// one it writes.
const EvidenceSchema = 1

// EvidenceHeader begins an evidence document: JSON Lines, zstd; then one
// feed.Evidence a line in the order in which it was found.
type EvidenceHeader struct {
	Schema int       `json:"schema"`
	Feed   string    `json:"feed"`
	Serial uint64    `json:"serial"`
	Side   string    `json:"side"`
	Epoch  string    `json:"epoch"`
	At     time.Time `json:"at"`
}

type evidenceWriter struct{ z *zstd.Encoder }

func newEvidenceWriter(w io.Writer, h EvidenceHeader) (*evidenceWriter, error) {
	if w == nil {
		return &evidenceWriter{}, nil
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	e := &evidenceWriter{z}
	return e, e.line(h)
}

func (w *evidenceWriter) line(v any) error {
	if w.z == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) >= feed.MaxLine {
		return fmt.Errorf("evidence line of %d bytes: %w", len(b), feed.ErrUpstream)
	}
	_, err = w.z.Write(append(b, '\n'))
	return err
}

func (w *evidenceWriter) close() error {
	if w.z == nil {
		return nil
	}
	return w.z.Close()
}

// ReadEvidence reads an evidence document, which may come from the other side
// and may be hostile: lines are capped, memory is bounded. The sequence can be
// used once; an error (ErrDamaged) ends it.
func ReadEvidence(r io.Reader) (EvidenceHeader, iter.Seq2[feed.Evidence, error], error) {
	var h EvidenceHeader
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return h, nil, err
	}
	br := bufio.NewReaderSize(z, feed.MaxLine)
	next := func(v any) error {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return io.EOF
		}
		if err == nil {
			d := json.NewDecoder(bytes.NewReader(line))
			d.DisallowUnknownFields()
			err = d.Decode(v)
		}
		if err != nil {
			return fmt.Errorf("evidence: %w: %w", noEOF(err), feed.ErrDamaged)
		}
		return nil
	}
	if err := next(&h); err != nil {
		z.Close()
		return h, nil, fmt.Errorf("evidence header: %w: %w", noEOF(err), feed.ErrDamaged)
	}
	if h.Schema > EvidenceSchema || h.Schema < 1 {
		z.Close()
		return h, nil, fmt.Errorf("evidence schema %d, this program knows %d: install the newer program", h.Schema, EvidenceSchema)
	}
	return h, func(yield func(feed.Evidence, error) bool) {
		defer z.Close()
		for {
			var e feed.Evidence
			err := next(&e)
			if errors.Is(err, io.EOF) || !yield(e, err) || err != nil {
				return
			}
		}
	}, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
