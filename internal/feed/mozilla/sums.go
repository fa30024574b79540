package mozilla

import (
	"bytes"
	"fmt"

	"github.com/hashike/hashike/internal/feed"
)

const (
	maxSums     = 8 << 20 // bytes; Firefox's has half a megabyte
	maxSumLines = 1 << 16
	maxSumsSign = 64 << 10
)

// parseSums reads a release's SHA256SUMS: lines of a digest, two blanks and a
// path below the release's folder. Paths hold blanks.
func parseSums(b []byte) (map[string]feed.Digest, error) {
	out := map[string]feed.Digest{}
	n := 0
	for line := range bytes.Lines(b) {
		if n++; n > maxSumLines {
			return nil, fmt.Errorf("more than %d lines", maxSumLines)
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) < 67 || string(line[64:66]) != "  " {
			return nil, fmt.Errorf("line %d: %.100q", n, line)
		}
		d, err := feed.ParseDigest("sha256:" + string(line[:64]))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		p := string(line[66:])
		if !feed.ValidPath(p) {
			return nil, fmt.Errorf("line %d: path %.200q", n, p)
		}
		if _, twice := out[p]; twice {
			return nil, fmt.Errorf("line %d: %.200q is listed twice", n, p)
		}
		out[p] = d
	}
	if n == 0 {
		return nil, fmt.Errorf("no file is listed")
	}
	return out, nil
}
