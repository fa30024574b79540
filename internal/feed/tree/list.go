package tree

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Limits on a list.
const (
	maxList    = 64 << 20
	maxEntries = 1_000_000
	maxLine    = 4096
)

type entry struct {
	path   string // below the feed's root
	digest feed.Digest
}

// parseList reads a list of SHA-256 digests in the order it has:
//
//	<64 hex>  name      GNU, text mode
//	<64 hex> *name      GNU, binary mode
//	SHA256 (name) = <64 hex>
//
// Lines of other digests, blank lines and those that begin with # are passed
// over. Names are relative to dir, the list's own directory. Anything else,
// a name that leaves the tree, or two digests for one name is ErrUpstream.
func parseList(text []byte, dir string) ([]entry, error) {
	if len(text) > maxList {
		return nil, fmt.Errorf("list of %d bytes: %w", len(text), feed.ErrUpstream)
	}
	var out []entry
	seen := map[string]feed.Digest{}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		name, hexsum, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("list, line %d: %w: %w", n, err, feed.ErrUpstream)
		}
		if len(hexsum) != 64 {
			continue // another digest
		}
		d, err := feed.DigestFromHex(hexsum)
		if err != nil {
			return nil, fmt.Errorf("list, line %d: %w: %w", n, err, feed.ErrUpstream)
		}
		p := strings.TrimPrefix(name, "./")
		if dir != "." && feed.ValidPath(p) {
			p = path.Join(dir, p)
		}
		if !feed.ValidPath(p) {
			return nil, fmt.Errorf("list, line %d: name %.200q: %w", n, name, feed.ErrUpstream)
		}
		if old, twice := seen[p]; twice {
			if old != d {
				return nil, fmt.Errorf("list, line %d: %.200q has two digests: %w", n, p, feed.ErrUpstream)
			}
			continue
		}
		if len(out) == maxEntries {
			return nil, fmt.Errorf("list of more than %d files: %w", maxEntries, feed.ErrUpstream)
		}
		seen[p] = d
		out = append(out, entry{p, d})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("list without a SHA-256: %w", feed.ErrUpstream)
	}
	return out, nil
}

func parseLine(line []byte) (name, hexsum string, err error) {
	if len(line) > maxLine {
		return "", "", fmt.Errorf("%d bytes long", len(line))
	}
	s := string(line)
	// BSD: the name may hold parentheses and equal signs; the last ones count.
	if i, j := strings.Index(s, " ("), strings.LastIndex(s, ") = "); i > 0 && j > i && !isHex(s[:i]) && !strings.ContainsAny(s[:i], " \t") {
		name, hexsum = s[i+2:j], s[j+4:]
		if s[:i] != "SHA256" {
			hexsum = "" // a digest of the same length may have another algorithm
		} else if len(hexsum) != 64 || !isHex(hexsum) {
			return "", "", fmt.Errorf("digest %.80q", hexsum)
		}
		return name, hexsum, nil
	}
	sum, rest, ok := strings.Cut(s, " ")
	if !ok || len(rest) < 2 || (rest[0] != ' ' && rest[0] != '*') || !isHex(sum) {
		return "", "", fmt.Errorf("%.80q is neither a GNU nor a BSD digest line", s)
	}
	switch len(sum) {
	case 32, 40, 56, 64, 96, 128:
		return rest[1:], sum, nil
	}
	return "", "", fmt.Errorf("digest of %d digits", len(sum))
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return s != ""
}

// clearText is the text inside a clear-signed document, unproved: Fetch learns
// from it what to load. Verify reads only what the signature covers.
func clearText(doc []byte) ([]byte, error) {
	_, rest, ok := bytes.Cut(normal(doc), []byte("-----BEGIN PGP SIGNED MESSAGE-----\n"))
	if !ok {
		return nil, fmt.Errorf("list is not clear-signed: %w", feed.ErrUpstream)
	}
	_, rest, ok = bytes.Cut(rest, []byte("\n\n"))
	text, _, ok2 := bytes.Cut(rest, []byte("\n-----BEGIN PGP SIGNATURE-----"))
	if !ok || !ok2 {
		return nil, fmt.Errorf("clear-signed list is cut off: %w", feed.ErrUpstream)
	}
	var out []byte
	for line := range bytes.Lines(text) {
		out = append(out, bytes.TrimPrefix(line, []byte("- "))...)
	}
	return out, nil
}

func normal(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }
