package tree

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
)

// Installers implements feed.Catalogue: the Windows Installer packages of the
// tree, as their own tables describe them. Other programs do not say how they
// are installed without a question.
func (t *tree) Installers(c feed.Content) ([]feed.Installer, error) {
	var out []feed.Installer
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		if !strings.EqualFold(path.Ext(a.Path), ".msi") {
			continue
		}
		i, err := describe(c, a)
		if errors.Is(err, msi.ErrFormat) {
			continue // whatever it is, it installs no product
		}
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

func describe(c feed.Content, a feed.Artifact) (feed.Installer, error) {
	f, err := c.Open(a.Path)
	if err != nil {
		return feed.Installer{}, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return feed.Installer{}, fmt.Errorf("%s cannot be read in places: %w", a.Path, feed.ErrDamaged)
	}
	p, err := msi.Read(r, a.Size)
	if err != nil {
		return feed.Installer{}, fmt.Errorf("%s: %w", a.Path, err)
	}
	return p.Installer(a.Path)
}
