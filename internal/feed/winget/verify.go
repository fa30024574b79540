package winget

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Verify implements feed.Feed: our outside's list, then the manifests that it
// names, whole and no others. What a manifest says is believed for published
// files only (catalogue.go); here it must be one, and lie where it belongs.
func (s *source) Verify(ctx context.Context, c feed.Content, _ feed.Trust, out feed.Proof) error {
	bad := func(p string, err error) error {
		err = fmt.Errorf("%s: %w: %w", p, err, feed.ErrUntrusted)
		return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", p, "detail", err.Error())
	}
	a, ok := c.Lookup(indexPath)
	if !ok {
		return bad(indexPath, fmt.Errorf("it is missing"))
	}
	if a.Class != feed.Metadata || a.Group != "" {
		return bad(indexPath, fmt.Errorf("in class %s and group %q", a.Class, a.Group))
	}
	body, err := read(c, a, maxIndex)
	if err != nil {
		return err
	}
	x, err := readIndex(body)
	if err != nil {
		return bad(indexPath, err)
	}
	if err := out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "made", Strength: feed.Attested, Note: "our outside's list of manifests"}); err != nil {
		return err
	}
	seen, marks := 0, map[string]int64{}
	for m, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if m.Path == indexPath {
			continue
		}
		if m.Class != feed.Feature || m.Group != "" || x.Manifests[m.Path] != m.Digest {
			return bad(m.Path, fmt.Errorf("not as the list has it"))
		}
		body, err := read(c, m, maxManifest)
		if err != nil {
			return err
		}
		d, err := parseDocument(body)
		if err != nil {
			return bad(m.Path, err)
		}
		if d.path() != m.Path || d.Version != m.Version {
			return bad(m.Path, fmt.Errorf("it is %s", d.path()))
		}
		seen++
		marks[d.ID] = max(marks[d.ID], order(d.Version))
		e := feed.Evidence{
			Path: m.Path, Subject: m.Digest, Method: "listed", Strength: feed.Attested, Via: a.Digest,
			Note: "an unsigned manifest: it counts only for files that are proved by themselves",
		}
		if err := out.Evidence(e); err != nil {
			return err
		}
	}
	if seen != len(x.Manifests) {
		return bad(indexPath, fmt.Errorf("names %d manifests, %d are here", len(x.Manifests), seen))
	}
	for id, n := range marks {
		if err := out.Mark("manifest "+id, n); err != nil {
			return err
		}
	}
	return nil
}

// order is a version as a number that grows with it, of four parts at most.
func order(version string) int64 {
	var n int64
	parts := strings.SplitN(version, ".", 5)
	for i := range 4 {
		var v int64
		if i < len(parts) {
			digits := parts[i]
			if j := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); j >= 0 {
				digits = digits[:j]
			}
			v, _ = strconv.ParseInt(digits, 10, 64)
		}
		most := int64(1<<16 - 1)
		if i == 0 {
			most = 1<<15 - 1
		}
		n = n<<16 | min(max(v, 0), most)
	}
	return n
}

// read returns a document that is about to be parsed, checked against its digest.
func read(c feed.Content, a feed.Artifact, limit int64) ([]byte, error) {
	if a.Size > limit {
		err := fmt.Errorf("%s: %d bytes: %w", a.Path, a.Size, feed.ErrUntrusted)
		return nil, feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", a.Path, "detail", err.Error())
	}
	f, err := c.Open(a.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	if feed.DigestOf(b) != a.Digest {
		return nil, fmt.Errorf("%s does not have its digest %s: %w", a.Path, a.Digest, feed.ErrDamaged)
	}
	return b, nil
}
