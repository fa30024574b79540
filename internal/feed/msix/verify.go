package msix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/verifier"
)

// Verify implements feed.Feed. Each package is a group of its own: one that does
// not hold is withheld alone. Its signature proves its bytes; its manifest
// proves its path and version; each name and architecture never goes back
// without an order.
func (p *packages) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	good, by := map[string]pack{}, p.publisher()
	method := "authenticode " + feed.DigestOf([]byte(strings.Join(by.Names, "\n"))).Hex()[:16]
	var held []feed.Artifact
	var first error // why the first that does not hold is refused
	for a, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if a.Class != p.cfg.Class || a.Group != a.Path {
			return p.refused(c, a, fmt.Errorf("in class %s and group %q: %w", a.Class, a.Group, feed.ErrUntrusted))
		}
		k, why := p.read(c, a)
		if errors.Is(why, feed.ErrDamaged) {
			return why
		}
		if why != nil {
			first = cmp.Or(first, p.refused(c, a, fmt.Errorf("%w: %w", why, feed.ErrUntrusted)))
			if err := out.Evidence(feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "authenticode", Refused: why.Error()}); err != nil {
				return err
			}
			continue
		}
		good[a.Path] = k
		err = out.Once(a, method, func(r io.ReaderAt, size int64) (feed.Evidence, error) {
			ev, err := verifier.Authenticode(r, size, by, trust)
			if err != nil {
				delete(good, a.Path)
				first = cmp.Or(first, p.refused(c, a, err))
			}
			return ev, err
		})
		if err != nil {
			return err
		}
		if _, ok := good[a.Path]; ok {
			held = append(held, a)
		}
	}
	if len(held) == 0 {
		return first
	}
	return p.settle(c, held, good, out)
}

// read describes one package and holds it against its labels. The error is why
// it is refused.
func (p *packages) read(c feed.Content, a feed.Artifact) (pack, error) {
	k, err := read(c, a)
	switch {
	case err != nil:
		return k, err
	case k.path != a.Path:
		return k, fmt.Errorf("it is %s, and lies at %s", k.path, a.Path)
	case k.Version != a.Version:
		return k, fmt.Errorf("it is version %s, called %s", k.Version, a.Version)
	case !a.Time.Equal(k.packed):
		return k, fmt.Errorf("it was packed at %s, not %s", k.packed, a.Time)
	}
	return k, nil
}

// settle marks the newest version of each name and says what is missing.
func (p *packages) settle(c feed.Content, held []feed.Artifact, good map[string]pack, out feed.Proof) error {
	var all []pack
	newest := map[string]string{}
	for _, a := range held {
		k := good[a.Path]
		all = append(all, k)
		s := stream(k)
		if compareVersions(k.Version, newest[s]) >= 0 {
			newest[s] = k.Version
		}
	}
	for _, a := range held {
		k := good[a.Path]
		lacks := missing(k, all)
		if len(lacks) == 0 {
			continue
		}
		var names []string
		for _, d := range lacks {
			names = append(names, d.Name+" "+d.Min)
		}
		e := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "dependencies", Strength: feed.Signed, Via: a.Digest,
			Note: "needs, and this feed does not have: " + strings.Join(names, ", ")}
		if p.cfg.Require {
			e = feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "dependencies", Refused: e.Note}
		}
		if err := out.Evidence(e); err != nil {
			return err
		}
	}
	for _, a := range held {
		if s := stream(good[a.Path]); newest[s] != "" {
			if err := out.Mark(s, order(newest[s])); err != nil {
				return err
			}
			newest[s] = ""
		}
	}
	return nil
}

// stream is what has an order of its own.
func stream(k pack) string {
	arch := known(k.Architecture)
	if k.Bundle {
		arch = "bundle"
	}
	return k.FamilyName() + "/" + arch + "/" + k.ResourceID
}

func (p *packages) refused(c feed.Content, a feed.Artifact, err error) error {
	err = fmt.Errorf("%s: %w", a.Path, err)
	return feed.NewFault(err, "H-502", "feed", c.Header().Feed, "file", a.Path, "detail", err.Error())
}
