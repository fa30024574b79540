package msix

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
)

// pack is what one package says of itself.
type pack struct {
	appx.Info
	path      string // in the snapshot
	packed    time.Time
	signature feed.Digest
}

const (
	maxSignature = 1 << 20
	folder       = "packages/"
)

// describe reads a package. ext is its file name's; if that says nothing, the
// newer of the two families is meant. Nothing is proved here.
func describe(r io.ReaderAt, size int64, ext string) (pack, error) {
	q, err := appx.Open(r, size)
	if err != nil {
		return pack{}, err
	}
	i, err := q.Info()
	if err != nil {
		return pack{}, err
	}
	p := pack{Info: i, packed: q.Modified()}
	sig, err := q.SignatureBlock(maxSignature)
	if err != nil {
		return pack{}, err
	}
	if sig != nil {
		p.signature = feed.DigestOf(append([]byte("PKCX"), sig...))
	}
	if i.Bundle {
		p.fromInner(q)
	}
	family := "msix"
	if strings.HasPrefix(ext, ".appx") {
		family = "appx"
	}
	if i.Bundle {
		family += "bundle"
	}
	p.path = folder + i.FullName() + "." + family
	return p, nil
}

// fromInner takes what a bundle's manifest does not say from its packages'.
func (p *pack) fromInner(q *appx.Package) {
	for _, in := range p.Packages {
		if in.Resource {
			continue
		}
		inner, err := q.Open(in)
		if err != nil {
			continue
		}
		j, err := inner.Info()
		if err != nil {
			continue
		}
		if p.Display == "" {
			p.Display, p.Vendor, p.Description, p.MinOS = j.Display, j.Vendor, j.Description, j.MinOS
		}
		for _, d := range j.Dependencies {
			if !slices.Contains(p.Dependencies, d) {
				p.Dependencies = append(p.Dependencies, d)
			}
		}
	}
}

// name is what people call the package. A text that lies in the package's
// resources is not read: then it is the identity's.
func (p pack) name() string { return shown(p.Display, p.Name) }

func (p pack) vendor() string {
	for part := range strings.SplitSeq(p.Publisher, ",") {
		if o, ok := strings.CutPrefix(strings.TrimSpace(part), "O="); ok {
			return shown(p.Vendor, strings.Trim(o, `"`))
		}
	}
	return shown(p.Vendor, p.Publisher)
}

func shown(text, else_ string) string {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" || strings.HasPrefix(text, "ms-resource:") || len(text) > 256 {
		return else_
	}
	return text
}

// architectures are those that the package installs on.
func (p pack) architectures() []string {
	if !p.Bundle {
		return []string{known(p.Architecture)}
	}
	var out []string
	for _, in := range p.Packages {
		if a := known(in.Architecture); !in.Resource && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return out
}

func known(arch string) string {
	if arch == "x86a64" || arch == "" {
		return "neutral"
	}
	return arch
}

// order is a version as a number that grows with it. The first part has 15 bits
// of its 16: no package comes near.
func order(version string) int64 {
	var n int64
	for i, s := range strings.SplitN(version, ".", 4) {
		v, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return 0
		}
		if i == 0 {
			v = min(v, 1<<15-1)
		}
		n = n<<16 | int64(v)
	}
	return n
}

func compareVersions(a, b string) int { return cmp.Compare(order(a), order(b)) }

// read describes an artifact of a snapshot.
func read(c feed.Content, a feed.Artifact) (pack, error) {
	f, err := c.Open(a.Path)
	if err != nil {
		return pack{}, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return pack{}, fmt.Errorf("%s cannot be read in places: %w", a.Path, feed.ErrDamaged)
	}
	p, err := describe(r, a.Size, extension(a.Path))
	if errors.Is(err, appx.ErrFormat) {
		return pack{}, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrUntrusted)
	}
	if err != nil {
		return pack{}, fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	return p, nil
}

// readAll describes all packages, in the order of their paths.
func readAll(c feed.Content, withheld map[string]string) ([]pack, error) {
	var out []pack
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		if _, held := withheld[a.Path]; held {
			continue
		}
		p, err := read(c, a)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// satisfies reports whether f is the framework that d asks for, on arch.
func (p pack) satisfies(d appx.Dependency, arch string) bool {
	return p.Name == d.Name && p.Publisher == d.Publisher && compareVersions(p.Version, d.Min) >= 0 &&
		(arch == "neutral" || known(p.Architecture) == arch || known(p.Architecture) == "neutral")
}

// missing are the dependencies of p for which all has nothing.
func missing(p pack, all []pack) []appx.Dependency {
	var out []appx.Dependency
	for _, d := range p.Dependencies {
		if !slices.ContainsFunc(p.architectures(), func(arch string) bool {
			return slices.ContainsFunc(all, func(f pack) bool { return f.satisfies(d, arch) })
		}) {
			out = append(out, d)
		}
	}
	return out
}
