package mozilla

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// The index (offers.json) is what the update service said when it was asked:
// for each stream (platform and language), which version leads to which. It is
// our own document, in one form only: as MarshalIndent writes it, lists in
// order. Nobody signs it; its digest stands in the snapshot's state, so that a
// snapshot cannot be put together with another one's index.

const (
	indexPath = "offers.json"
	maxIndex  = 1 << 20
	maxAsked  = 64 // versions of one stream
)

type index struct {
	Schema int `json:"schema"` // 1
	line
	Installers []string `json:"installers,omitempty"` // kinds, of the newest versions
	Streams    []stream `json:"streams"`              // by platform and locale
}

// stream is what terminals of one platform and language are offered.
type stream struct {
	Platform string  `json:"platform"`
	Locale   string  `json:"locale"`
	Asked    []asked `json:"asked"` // by version, each once
}

// asked is one version and what comes next for it.
type asked struct {
	Version string   `json:"version"`
	Build   string   `json:"build,omitempty"` // if known
	Offer   *release `json:"offer,omitempty"` // nil: it is the newest
}

// release is one version that is offered. Its build is the vendor's own time
// of it, YYYYMMDDhhmmss UTC.
type release struct {
	Version string `json:"version"` // "140.12.0"
	Build   string `json:"build"`
	Type    string `json:"type"` // "minor", "major"
}

const buildLayout = "20060102150405"

// time is when it was built; zero for a build that is no time.
func (r release) time() time.Time {
	t, _ := time.Parse(buildLayout, r.Build)
	return t
}

func (r release) valid() bool {
	return releaseVersion.MatchString(r.Version) && buildID.MatchString(r.Build) && !r.time().IsZero() && (r.Type == "minor" || r.Type == "major")
}

// encode writes the index in its one form.
func (x *index) encode() []byte {
	b, _ := json.MarshalIndent(x, "", " ") // strings and lists alone: does not fail
	return append(b, '\n')
}

// parseIndex reads an index; one that says the same in another form is refused.
func parseIndex(b []byte) (*index, error) {
	if len(b) > maxIndex {
		return nil, fmt.Errorf("%s: %d bytes", indexPath, len(b))
	}
	var x index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("%s: %w", indexPath, err)
	}
	if !bytes.Equal(x.encode(), b) {
		return nil, errors.New(indexPath + ": not in its one form")
	}
	if _, ok := products[x.Product]; !ok || x.Schema != 1 || x.Channel != esr && x.Channel != "release" || len(x.Streams) == 0 || len(x.Streams) > maxStreams {
		return nil, fmt.Errorf("%s: schema %d of %.40q on %.40q with %d streams", indexPath, x.Schema, x.Product, x.Channel, len(x.Streams))
	}
	for _, k := range x.Installers {
		if !slices.Contains(installerKinds, k) {
			return nil, fmt.Errorf("%s: installer %.40q", indexPath, k)
		}
	}
	last := ""
	for _, s := range x.Streams {
		if _, ok := platforms[s.Platform]; !ok || !localeOK(s.Locale) || s.key() <= last {
			return nil, fmt.Errorf("%s: stream %.80q", indexPath, s.key())
		}
		last = s.key()
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", indexPath, s.key(), err)
		}
	}
	return &x, nil
}

func localeOK(l string) bool { return l == "ja-JP-mac" || localeName.MatchString(l) }

// key names a stream: "win64 ja".
func (s stream) key() string { return s.Platform + " " + s.Locale }

func (s stream) check() error {
	if len(s.Asked) == 0 || len(s.Asked) > maxAsked {
		return fmt.Errorf("%d versions", len(s.Asked))
	}
	builds := map[string]string{}
	for i, a := range s.Asked {
		switch {
		case !releaseVersion.MatchString(a.Version) || a.Build != "" && !buildID.MatchString(a.Build):
			return fmt.Errorf("version %.40q, build %.40q", a.Version, a.Build)
		case i > 0 && compare(s.Asked[i-1].Version, a.Version) >= 0:
			return fmt.Errorf("version %s out of order", a.Version)
		case a.Offer == nil:
			continue
		case !a.Offer.valid():
			return fmt.Errorf("version %s leads to %+.200v", a.Version, *a.Offer)
		case compare(a.Offer.Version, a.Version) <= 0:
			return fmt.Errorf("version %s leads back to %s", a.Version, a.Offer.Version)
		}
		if b, ok := builds[a.Offer.Version]; ok && b != a.Offer.Build {
			return fmt.Errorf("version %s has two builds", a.Offer.Version)
		}
		builds[a.Offer.Version] = a.Offer.Build
	}
	return nil
}

// offered are the releases that terminals are led to, oldest first.
func (s stream) offered() []release {
	var out []release
	for _, a := range s.Asked {
		if a.Offer != nil && !slices.ContainsFunc(out, func(r release) bool { return r.Version == a.Offer.Version }) {
			out = append(out, *a.Offer)
		}
	}
	slices.SortFunc(out, func(a, b release) int { return compare(a.Version, b.Version) })
	return out
}

// newest is the newest of them; nil if every version asked for is the newest.
func (s stream) newest() *release {
	all := s.offered()
	if len(all) == 0 {
		return nil
	}
	return &all[len(all)-1]
}

// next is what a terminal is led to, as the service would: by the answer for
// the greatest version that was asked for and is not above its own. So it
// passes every version that those below it must pass. A terminal older than
// any that was asked for is offered nothing: what it must pass is not known.
// With a pin ("140.") it stays among the versions that begin with it.
func (s stream) next(version, build, pin string) *release {
	var at *asked
	for i := range s.Asked {
		if compare(s.Asked[i].Version, version) <= 0 {
			at = &s.Asked[i]
		}
	}
	if at == nil {
		return nil
	}
	to := at.Offer
	all := s.offered()
	if again := slices.IndexFunc(all, func(r release) bool { return compare(r.Version, version) == 0 }); again >= 0 && len(build) == len(buildLayout) && build < all[again].Build {
		to = &all[again] // the same version, built again
	}
	if to != nil && compare(to.Version, version) < 0 {
		return nil
	}
	if to == nil || pin == "" || strings.HasPrefix(to.Version+".", pin) {
		return to
	}
	for i := len(all) - 1; i >= 0; i-- {
		r := all[i]
		if strings.HasPrefix(r.Version+".", pin) && compare(r.Version, version) > 0 && compare(r.Version, to.Version) < 0 {
			return &r
		}
	}
	return nil
}

// find is the stream of a terminal.
func (x *index) find(platform, locale string) (stream, bool) {
	i := slices.IndexFunc(x.Streams, func(s stream) bool { return s.Platform == platform && s.Locale == locale })
	if i < 0 {
		return stream{}, false
	}
	return x.Streams[i], true
}

// readIndex reads a snapshot's index.
func readIndex(c feed.Content) (*index, error) {
	b, err := readSmall(c, indexPath, maxIndex)
	if err != nil {
		return nil, err
	}
	x, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, feed.ErrUntrusted)
	}
	return x, nil
}

// readSmall reads a stored file of a bounded size.
func readSmall(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, feed.ErrDamaged)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, feed.ErrDamaged)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: over %d bytes: %w", name, limit, feed.ErrUntrusted)
	}
	return b, nil
}
