package apt

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/deb822"
)

// Caps on what an archive may send. Debian's largest Packages is about 70 MiB unpacked.
const (
	maxRelease  = 8 << 20
	maxIndex    = 256 << 20
	maxUnpacked = 2 << 30
)

// release is a parsed Release file.
type release struct {
	suite, codename string
	date, until     time.Time // until is zero where the suite does not expire
	byHash          bool
	noAll           bool // architecture-independent packages are in every binary-<arch> index
	archs           []string
	files           map[string]entry // by path below dists/<suite>
}

type entry struct {
	digest feed.Digest
	size   int64
}

// parseRelease reads the text of a Release file: for an InRelease, what lies
// inside the signature.
func parseRelease(r io.Reader) (*release, error) {
	p, err := deb822.NewReader(r).Next()
	if err != nil {
		return nil, fmt.Errorf("Release: %w", notEOF(err))
	}
	rel := &release{
		suite: p.Get("Suite"), codename: p.Get("Codename"),
		byHash: p.Get("Acquire-By-Hash") == "yes",
		noAll:  strings.Contains(p.Get("No-Support-for-Architecture-all"), "Packages"),
		archs:  strings.Fields(p.Get("Architectures")),
		files:  map[string]entry{},
	}
	if rel.date, err = parseDate(p.Get("Date")); err != nil {
		return nil, fmt.Errorf("Release: Date: %w", err)
	}
	if v := p.Get("Valid-Until"); v != "" {
		if rel.until, err = parseDate(v); err != nil {
			return nil, fmt.Errorf("Release: Valid-Until: %w", err)
		}
	}
	for line := range strings.Lines(p.Get("SHA256")) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("Release: list line %.100q: %w", line, feed.ErrUpstream)
		}
		d, err := feed.DigestFromHex(f[0])
		n, nerr := strconv.ParseInt(f[1], 10, 64)
		if err != nil || nerr != nil || n < 0 || !feed.ValidPath(f[2]) {
			return nil, fmt.Errorf("Release: list line %.100q: %w", line, feed.ErrUpstream)
		}
		rel.files[f[2]] = entry{d, n}
	}
	if len(rel.files) == 0 {
		return nil, fmt.Errorf("Release: no SHA256 list: %w", feed.ErrUpstream)
	}
	return rel, nil
}

// parseDate reads the dates of Release files: RFC 1123 in UTC.
func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, 2 Jan 2006 15:04:05 MST", "Mon, 2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("date %.60q: %w", s, feed.ErrUpstream)
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("empty: %w", feed.ErrUpstream)
	}
	return err
}

// clearText takes the text out of a clear-signed document (RFC 9580 §7)
// without looking at the signature: enough to know what to fetch. Verify reads
// the text that the signature covers, never this.
func clearText(doc []byte) (string, error) {
	s := strings.ReplaceAll(string(doc), "\r\n", "\n")
	_, s, ok := strings.Cut(s, "-----BEGIN PGP SIGNED MESSAGE-----\n")
	if ok {
		_, s, ok = strings.Cut(s, "\n\n")
	}
	if ok {
		s, _, ok = strings.Cut(s, "\n-----BEGIN PGP SIGNATURE-----")
	}
	if !ok {
		return "", fmt.Errorf("InRelease is not clear-signed: %w", feed.ErrUpstream)
	}
	return strings.ReplaceAll("\n"+s, "\n- ", "\n")[1:] + "\n", nil
}

// pkg is what one paragraph of a Packages file says.
type pkg struct {
	name, version, arch string
	file                string
	size                int64
	digest              feed.Digest
	depends             string // Depends and Pre-Depends, and Recommends if wanted
	provides            string
}

// readPackages calls fn for every package of an index.
func readPackages(r io.Reader, recommends bool, fn func(pkg) error) error {
	d := deb822.NewReader(r)
	for {
		p, err := d.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		x := pkg{name: p.Get("Package"), version: p.Get("Version"), arch: p.Get("Architecture"), file: strings.TrimPrefix(p.Get("Filename"), "./"),
			provides: p.Get("Provides"), depends: p.Get("Pre-Depends") + "," + p.Get("Depends")}
		if recommends {
			x.depends += "," + p.Get("Recommends")
		}
		if x.name == "" || !feed.ValidPath(poolPath(x.file)) {
			return fmt.Errorf("package %.80q: file %.200q: %w", x.name, x.file, feed.ErrUpstream)
		}
		if x.size, err = strconv.ParseInt(p.Get("Size"), 10, 64); err != nil || x.size <= 0 {
			return fmt.Errorf("package %.80q: size: %w", x.name, feed.ErrUpstream)
		}
		if x.digest, err = feed.DigestFromHex(p.Get("SHA256")); err != nil {
			return fmt.Errorf("package %.80q: %w: %w", x.name, err, feed.ErrUpstream)
		}
		if err := fn(x); err != nil {
			return err
		}
	}
}

// poolPath is where an artifact of a package file lies. Versions with an epoch
// keep their colon in some archives' file names; artifact paths have none.
func poolPath(file string) string { return strings.ReplaceAll(file, ":", "%3a") }

// wanted lists the index files of a suite that this feed carries, as their
// paths in the Release list: one compression of each, the one that apt takes
// first. packages marks the ones to read.
func (f *archive) wanted(rel *release) (paths []string, packages map[string]bool, err error) {
	packages = map[string]bool{}
	add := func(base string, isPackages, required bool) error {
		p, ok := rel.pick(base)
		if !ok {
			if required {
				return fmt.Errorf("suite %s has no %s: %w", rel.codename, base, feed.ErrUpstream)
			}
			return nil
		}
		paths = append(paths, p)
		packages[p] = isPackages
		return nil
	}
	for _, comp := range f.cfg.Components {
		archs := f.cfg.Architectures
		if !rel.noAll && contains(rel.archs, "all") {
			archs = append([]string{"all"}, archs...)
		}
		for _, arch := range archs {
			if err := add(path.Join(comp, "binary-"+arch, "Packages"), true, arch != "all"); err != nil {
				return nil, nil, err
			}
			if f.cfg.Installer && arch != "all" {
				if err := add(path.Join(comp, "debian-installer", "binary-"+arch, "Packages"), true, false); err != nil {
					return nil, nil, err
				}
			}
			if f.cfg.Contents {
				for _, at := range []string{path.Join(comp, "Contents-"+arch), "Contents-" + arch} {
					if err := add(at, false, false); err != nil {
						return nil, nil, err
					}
				}
			}
		}
		for _, lang := range f.cfg.Translations {
			if err := add(path.Join(comp, "i18n", "Translation-"+lang), false, false); err != nil {
				return nil, nil, err
			}
		}
	}
	return paths, packages, nil
}

// pick finds the compression of an index that apt prefers (apt 2.6:
// APT::Configuration::getCompressionTypes: xz, bz2, lzma, gz, lz4, zst). An
// index listed with size 0 has nothing behind it.
func (rel *release) pick(base string) (string, bool) {
	for _, ext := range []string{".xz", ".bz2", ".gz", ".zst", ""} {
		if _, ok := rel.files[base+ext]; ok {
			return base + ext, true
		}
	}
	return "", false
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// byHash is the second name of an index file, under which it survives the next publication.
func byHash(p string, d feed.Digest) string {
	return path.Join(path.Dir(p), "by-hash", "SHA256", d.Hex())
}
