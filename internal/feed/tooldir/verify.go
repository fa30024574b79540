package tooldir

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
)

// Verify implements feed.Feed: the snapshot is one folder as one tool left it,
// complete by its own indexes, not older than before; and what carries a
// signature bears it out. How strong the rest is, it says and does not embellish.
func (f *folder) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	m, err := f.bound(ctx, c)
	if err != nil {
		return err
	}
	tree, err := NewTree(ctx, m.Files, func(p string) (io.ReaderAt, func(), error) { return openIn(c, p) })
	if err != nil {
		return f.untrusted(c, Manifest, err)
	}
	rel, err := f.read(tree)
	if err != nil {
		return f.untrusted(c, "*", err)
	}
	for a, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		if a.Version != rel.Version || !a.Time.Equal(rel.Time) {
			return f.untrusted(c, a.Path, fmt.Errorf("the folder is version %s of %s, the snapshot says %.80q of %s", rel.Version, rel.Time, a.Version, a.Time))
		}
	}
	if f.v.Prove != nil {
		if err := f.v.Prove(tree, f.cfg, trust, out); err != nil {
			return f.untrusted(c, "*", err)
		}
	}
	// Every file gets a line: with Prove's a second one, which adds no strength.
	own, _ := c.Lookup(Manifest)
	if err := out.Evidence(feed.Evidence{Path: Manifest, Subject: own.Digest, Method: "folder", Strength: feed.Attested, Note: "made by our own outside"}); err != nil {
		return err
	}
	for _, x := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := feed.Evidence{Path: x.Path, Subject: x.Digest, Method: "folder", Strength: feed.None, Via: own.Digest, Note: f.v.Tier}
		if err := out.Evidence(e); err != nil {
			return err
		}
	}
	for stream, order := range rel.Marks {
		if err := out.Mark(stream, order); err != nil {
			return err
		}
	}
	return nil
}

// bound holds the snapshot to its manifest: the same files, the same bytes, in
// the class and the group that this side's program gives them.
func (f *folder) bound(ctx context.Context, c feed.Content) (manifest, error) {
	m, err := readManifest(c)
	if err != nil {
		return m, f.untrusted(c, Manifest, err)
	}
	named := make(map[string]File, len(m.Files))
	for i, x := range m.Files {
		if !feed.ValidPath(x.Path) || i > 0 && x.Path <= m.Files[i-1].Path {
			return m, f.untrusted(c, Manifest, fmt.Errorf("names %.200q out of order", x.Path))
		}
		named[x.Path] = x
	}
	n := 0
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return m, err
		}
		if a.Class != f.class(a.Path) || a.Group != "" {
			return m, f.untrusted(c, a.Path, errors.New("in the wrong group or class"))
		}
		if a.Path == Manifest {
			continue
		}
		n++
		if x, ok := named[a.Path]; !ok || x.Digest != a.Digest || x.Size != a.Size {
			return m, f.untrusted(c, a.Path, errors.New("is not what lay in the folder"))
		}
	}
	if n != len(m.Files) || m.Kind != f.v.Name {
		return m, f.untrusted(c, Manifest, fmt.Errorf("names %d files of %.40q, here are %d", len(m.Files), m.Kind, n))
	}
	return m, nil
}

// untrusted refuses the snapshot; what is no verdict passes as it is.
func (f *folder) untrusted(c feed.Content, p string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, feed.ErrDamaged) {
		return err
	}
	if _, ok := errors.AsType[*feed.Fault](err); ok && errors.Is(err, feed.ErrUntrusted) {
		return err
	}
	err = fmt.Errorf("%s: %w: %w", p, err, feed.ErrUntrusted)
	return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", p, "signer", f.v.Maker, "detail", err.Error())
}
