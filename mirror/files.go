package mirror

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/hashike/hashike/internal/feed"
	"github.com/klauspost/compress/zstd"
)

// readCapped reads all of r, at most limit bytes.
func readCapped(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("over %d bytes: %w", limit, feed.ErrDamaged)
	}
	return b, nil
}

// lines yields the lines of a zstd file without their ends; a line holds until
// the next. Lines over feed.MaxLine end the sequence with ErrDamaged.
func lines(path string) iter.Seq2[[]byte, error] { return linesUpTo(path, feed.MaxLine) }

func linesUpTo(path string, most int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			yield(nil, err)
			return
		}
		defer z.Close()
		br := bufio.NewReaderSize(z, most)
		for {
			line, err := br.ReadSlice('\n')
			if errors.Is(err, io.EOF) && len(line) == 0 {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("%s: %w: %w", path, err, feed.ErrDamaged))
				return
			}
			if !yield(bytes.TrimSuffix(line, []byte{'\n'}), nil) {
				return
			}
		}
	}
}
