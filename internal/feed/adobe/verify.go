package adobe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
	"github.com/hashike/hashike/internal/format/pe"
	"github.com/hashike/hashike/verifier"
)

// Verify implements feed.Feed.
func (f *acrobat) Verify(ctx context.Context, c feed.Content, trust feed.Trust, out feed.Proof) error {
	var all []feed.Artifact
	var paths []string
	for a, err := range c.Artifacts() {
		if err != nil {
			return err
		}
		all, paths = append(all, a), append(paths, a.Path)
	}
	newest := tops(paths)
	for _, a := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, ok := parsePath(a.Path)
		if want := n.artifact(n.order() == newest[n.line()]); !ok || a.Group != want.Group || a.Class != want.Class || a.Version != want.Version {
			return feed.NewFault(fmt.Errorf("%s: a file of unknown form, or in the wrong group, class or version: %w", a.Path, feed.ErrUntrusted),
				"H-502", "feed", c.Header().Feed, "file", a.Path, "signer", "")
		}
		var err error
		if n.form == "dmg" {
			err = out.Evidence(seen(a))
		} else {
			err = out.Once(a, "authenticode "+n.path(), func(r io.ReaderAt, size int64) (feed.Evidence, error) { return prove(n, r, size, trust) })
		}
		if err != nil {
			return err
		}
	}
	if len(newest) == 0 {
		return feed.NewFault(fmt.Errorf("nothing in the snapshot: %w", feed.ErrUntrusted), "H-502", "feed", c.Header().Feed, "file", "*", "signer", "")
	}
	for line, order := range newest {
		if err := out.Mark(line, order); err != nil {
			return err
		}
	}
	return nil
}

// seen is what a disk image is worth: how our outside came by it.
func seen(a feed.Artifact) feed.Evidence {
	e := feed.Evidence{Path: a.Path, Subject: a.Digest, Method: "tls", Strength: feed.Attested, Signer: a.Origin.Peer,
		Note: "a disk image: macOS checks the signature of the program inside"}
	switch o := a.Origin; {
	case o.Inspected:
		e.Strength, e.Note = feed.None, "fetched through an inspecting proxy"
	case o.Peer == "":
		e.Method, e.Strength, e.Note = "transport", feed.None, "not from a TLS server"
	}
	return e
}

// prove: signed by the vendor, and of the version that its name says.
func prove(n file, r io.ReaderAt, size int64, trust feed.Trust) (feed.Evidence, error) {
	ev, err := verifier.Authenticode(r, size, publisher(), trust)
	if err != nil {
		return ev, err
	}
	if n.form == "exe" {
		var info pe.Info
		if info, err = pe.Read(r, size); err == nil && [3]int{int(info.File[0]), int(info.File[1]), int(info.File[2])} != [3]int{n.Year, n.Quarter, n.Build} {
			err = fmt.Errorf("is of version %s", info.File)
		}
		ev.Note = "product and language are those of its name; the signed program says the version alone"
	} else {
		var p *msi.Patch
		var need Version
		if p, err = msi.ReadPatch(r, size); err == nil {
			need, err = after(p, n.version)
		}
		if err == nil && need != (Version{}) {
			ev.Note = "applies to " + need.String() + " and what came after it in that quarter"
		}
	}
	if errors.Is(err, feed.ErrDamaged) {
		return feed.Evidence{}, err
	}
	if err != nil {
		return feed.Evidence{}, fmt.Errorf("%s: %w: %w", n.path(), err, feed.ErrUntrusted)
	}
	return ev, nil
}

// family begins every product code of Acrobat and Reader.
const family = "{AC76BA86-"

// after holds a patch against the version that its name says, and returns the
// quarterly version that must be installed before it: zero if it applies to the
// base installer. The transforms say from which versions they lead.
func after(p *msi.Patch, v Version) (Version, error) {
	for _, t := range p.Targets {
		if !strings.HasPrefix(t, family) {
			return Version{}, fmt.Errorf("applies to the product %s", t)
		}
	}
	if len(p.Steps) == 0 {
		return Version{}, errors.New("does not say its version")
	}
	var need Version
	base := false
	for _, s := range p.Steps {
		to, ok := ParseVersion(s.To)
		if !ok || to != v {
			return Version{}, fmt.Errorf("is of version %.40q", s.To)
		}
		from, ok := ParseVersion(s.From)
		switch {
		case !ok || !from.sameTrack(v) || from.order() >= v.order():
			return Version{}, fmt.Errorf("leads from version %.40q", s.From)
		case from.quarter() != v.quarter():
			base = true
		case from.order() > need.order():
			need = from
		}
	}
	if base {
		return Version{}, nil
	}
	return need, nil
}

// held is a stored file that can be read anywhere.
type held struct {
	fs.File
	io.ReaderAt
	size int64
}

func open(c feed.Content, p string) (held, error) {
	a, ok := c.Lookup(p)
	if !ok {
		return held{}, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
	}
	f, err := c.Open(p)
	if err != nil {
		return held{}, fmt.Errorf("%s: %w: %w", p, err, feed.ErrDamaged)
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		f.Close()
		return held{}, fmt.Errorf("%s cannot be read: %w", p, feed.ErrDamaged)
	}
	return held{f, r, a.Size}, nil
}
