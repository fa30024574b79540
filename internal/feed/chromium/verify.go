package chromium

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
	"github.com/hashike/hashike/verifier"
)

// publishers are who must have signed.
func publisher(product string) string {
	if product == "edge" {
		return "Microsoft Corporation"
	}
	return "Google LLC"
}

// Verify implements feed.Feed.
func (f *browsers) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	var paths []string
	for a, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		paths = append(paths, a.Path)
	}
	newest := tops(paths)
	var edges []feed.Artifact
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		n, ok := parsePath(a.Path)
		v, _ := parseVersion(n.version)
		if want := n.artifact(v.order() == newest[n.line()]); !ok || a.Group != want.Group || a.Class != want.Class || a.Version != want.Version {
			return feed.NewFault(fmt.Errorf("%s: a file of unknown form, or in the wrong group, class or version: %w", a.Path, feed.ErrUntrusted),
				"H-502", "feed", c.Header().Feed, "file", a.Path, "signer", "")
		}
		switch n.product {
		case "extensions":
			err = verifyExtension(a, n, trust, out)
		case "edge":
			edges = append(edges, a)
			fallthrough
		default:
			err = verifyPackage(a, n, trust, out)
		}
		if err != nil {
			return err
		}
	}
	if err := inStep(c, edges, out); err != nil {
		return err
	}
	for line, order := range newest {
		if err := out.Mark(line, order); err != nil {
			return err
		}
	}
	if len(newest) == 0 {
		return feed.NewFault(fmt.Errorf("nothing in the snapshot: %w", feed.ErrUntrusted), "H-502", "feed", c.Header().Feed, "file", "*", "signer", "")
	}
	return nil
}

// verifyPackage: signed by the vendor, for this processor, of this version as
// far as the package says one.
func verifyPackage(a feed.Artifact, n file, trust feed.Trust, out feed.Proof) error {
	by := verifier.Publisher{Roots: use, Names: []string{publisher(n.product)}}
	return out.Once(a, "authenticode "+n.path(), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		ev, err := verifier.Authenticode(r, size, by, trust)
		if err != nil {
			return ev, err
		}
		p, err := msi.Read(r, size)
		if err == nil && p.Arch() != n.arch {
			err = fmt.Errorf("for %s", p.Arch())
		}
		if err == nil && n.product == "chrome" {
			var v string
			if v, err = packageVersion(r, size); err == nil && v != n.version {
				err = fmt.Errorf("is of version %s", v)
			}
		}
		if err == nil && product(p) != n.product {
			err = fmt.Errorf("is of product %.100q", p.Properties["ProductName"])
		}
		if errors.Is(err, feed.ErrDamaged) {
			return feed.Evidence{}, err
		}
		if err != nil {
			return feed.Evidence{}, fmt.Errorf("%s: %w: %w", n.path(), err, feed.ErrUntrusted)
		}
		if n.product == "edge" {
			ev.Note = "the version is the vendor's list's; the package says " + p.Properties["ProductVersion"]
		}
		return ev, nil
	})
}

// inStep refuses packages of Edge whose own number, which is signed, does not
// rise with the version that the vendor's list gave them: one of them is
// another version's. Nobody can tell which.
func inStep(c feed.Content, edges []feed.Artifact, out feed.Proof) error {
	type own struct {
		a             feed.Artifact
		line          string
		listed, inner int64
	}
	var all []own
	for _, a := range edges {
		f, _ := parsePath(a.Path)
		i, err := installer(c, a, f)
		if err != nil {
			continue // withheld already
		}
		v, _ := parseVersion(f.version)
		p, ok := parseVersion(i.Entries[0].Version)
		if !ok {
			continue
		}
		all = append(all, own{a, f.line(), v.order(), p.order()})
	}
	for _, x := range all {
		for _, y := range all {
			if x.line != y.line || x.listed == y.listed || (x.listed < y.listed) == (x.inner < y.inner) && x.inner != y.inner {
				continue
			}
			why := "its own number is not in step with that of " + y.a.Path
			if err := out.Evidence(feed.Evidence{Path: x.a.Path, Subject: x.a.Digest, Method: "chromium", Signer: publisher("edge"), Refused: why}); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// product tells what a package installs: a genuine package of the same vendor
// for something else is refused.
func product(p *msi.Package) string {
	switch p.Properties["ProductName"] {
	case "Google Chrome":
		return "chrome"
	case "Microsoft Edge":
		return "edge"
	}
	return ""
}

func verifyExtension(a feed.Artifact, n file, trust feed.Trust, out feed.Proof) error {
	return out.Once(a, "crx3 "+n.path(), func(r io.ReaderAt, size int64) (feed.Evidence, error) {
		p, ev, err := verifier.Extension(r, size, n.id, trust)
		if err == nil && p.Version != n.version {
			err = fmt.Errorf("is of version %s: %w", p.Version, feed.ErrUntrusted)
		}
		return ev, err
	})
}
