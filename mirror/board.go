package mirror

import (
	"slices"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Board is what pages may read of a server: files only, no state.db.
type Board struct{ s *Server }

// Side heads every page: side and network.
func (b *Board) Side() feed.Text { return b.s.o.Side }

// Now is the server's clock.
func (b *Board) Now() time.Time { return b.s.o.Clock() }

// Contact is whom to call, by role.
func (b *Board) Contact() map[string]string { return b.s.o.Contact }

// Feeds are the configured feeds.
func (b *Board) Feeds() []feed.Setup { return b.s.o.Feeds }

// Overview is what the write path last said, and what rings see now.
func (b *Board) Overview() (Overview, error) {
	d, err := readStatus(b.s.o.Data)
	if err != nil {
		return Overview{}, err
	}
	if d.Side == "" {
		d.Side = "inside" // nothing was ever published here
	}
	return overview(b.s.o.Data, d, b.s.o.Feeds, b.s.o.Rings, b.s.ages, b.Now())
}

// Line is the one-way line's state; nil without one.
func (b *Board) Line() *Line {
	if b.s.o.Line == nil {
		return nil
	}
	return b.s.o.Line()
}

// History is a feed's generations of one ring, newest first.
func (b *Board) History(ring, name string) ([]Generation, error) {
	gens, _, err := Generations(b.s.o.Data, ring, name)
	return gens, err
}

// Dated is a snapshot's release time and version by its vendor.
func (b *Board) Dated(name string, serial uint64) (time.Time, string) {
	i := slices.IndexFunc(b.s.o.Feeds, func(s feed.Setup) bool { return s.Name == name })
	if i < 0 {
		return time.Time{}, ""
	}
	return b.s.ages.of(b.s.o.Feeds[i], serial)
}

// Origin is the origin card of a file by path or digest.
func (b *Board) Origin(what string) (Card, error) {
	return Origin(b.s.o.Data, b.s.o.Store, b.s.o.Feeds, what)
}

// FeedSettings are one feed's settings for terminals.
type FeedSettings struct {
	Feed     string
	Kind     feed.Kind
	Settings []feed.Setting
	Err      error
}

// Settings are what to put on terminals, for feeds that say so and are
// published. Where the configuration does not say how terminals reach this
// server, scheme and host are the reader's own.
func (b *Board) Settings(scheme, host string) []FeedSettings {
	var out []FeedSettings
	t := b.s.watch.tree.Load()
	for _, s := range b.s.o.Feeds {
		k, ok := s.Feed.(feed.ClientSettings)
		if !ok {
			continue
		}
		v, ok := t.feeds[s.Name].view("all")
		if !ok {
			continue
		}
		fs := FeedSettings{Feed: s.Name, Kind: s.Kind}
		fs.Settings, fs.Err = k.Settings(v.Content, b.s.o.baseFor(s, scheme, host))
		out = append(out, fs)
	}
	return out
}

// CA is the private CA's certificate in PEM, for terminals; nil without one.
func (b *Board) CA() []byte {
	if b.s.ca == nil {
		return nil
	}
	return b.s.ca.pem()
}

// Compliance is what terminals report, with the names of the updates: for the
// admin listener only.
func (b *Board) Compliance() (Compliance, error) {
	list, err := Terminals(b.s.o.Data)
	if err != nil {
		return Compliance{}, err
	}
	c := Comply(list, StaleAfter, b.Now())
	return c, Titles(b.s.o.Data, b.s.o.Feeds, &c)
}

// CoverageHere is one line of the coverage board, with this server's feeds.
type CoverageHere struct {
	feed.Coverage
	Here []string `json:"here,omitempty"`
}

// Coverage is what this build carries, and which feeds here carry it.
func (b *Board) Coverage() []CoverageHere { return Covered(b.s.o.Coverage, b.s.o.Feeds) }

// Covered joins the board with the configured feeds.
func Covered(board []feed.Coverage, feeds []feed.Setup) []CoverageHere {
	var out []CoverageHere
	for _, c := range board {
		h := CoverageHere{Coverage: c}
		for _, f := range feeds {
			if slices.Contains(c.Kinds, f.Kind.Name) {
				h.Here = append(h.Here, f.Name)
			}
		}
		out = append(out, h)
	}
	return out
}
