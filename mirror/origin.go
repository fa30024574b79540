package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Card is a file's way from the vendor's signature to the terminal: 来歴票.
type Card struct {
	Feed, Kind string
	Serial     uint64
	ID         feed.Digest // the snapshot's
	Taken      time.Time
	Artifact   feed.Artifact
	Stored     bool  // the blob is here
	Outside    Chain // what the outside's verification said
	Inside     Chain // what our own said
	Accepted   time.Time
	Bundle     uint64
	Rings      []RingDate
	Withheld   string // reason, if terminals do not get it
	Withdrawn  *Withdrawal
}

// RingDate is when a ring first saw the file's snapshot.
type RingDate struct {
	Ring      string
	Number    uint64
	Published time.Time
	By        string
}

// Chain leads from the file (first link) to the far end (last link).
type Chain struct {
	Known    bool // this side's evidence is here
	Links    []feed.Evidence
	Strength feed.Strength
	Refused  string
}

// ErrNoFile: nothing here has that path or digest.
var ErrNoFile = errors.New("no such file here")

// parseDigest accepts "sha256:…" and bare hex of either case.
func parseDigest(s string) (feed.Digest, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	return feed.DigestFromHex(strings.TrimPrefix(s, "sha256:"))
}

// Origin finds a file by digest, or by path: as a terminal asks for it (with
// the feed's mount point), as the snapshot has it, or "FEED:path". Published
// snapshots come first, newest first. It reads files only, never state.db.
func Origin(data state.Dir, store *cas.Store, feeds []feed.Setup, what string) (Card, error) {
	what = strings.TrimSpace(what)
	digest, _ := parseDigest(what)
	for _, s := range feeds {
		p := pathIn(s, what)
		if digest == "" && p == "" {
			continue
		}
		order, gens, err := serialsByInterest(data, store, s.Name)
		if err != nil {
			return Card{}, err
		}
		for _, n := range order {
			snap, err := store.Snapshot(s.Name, n)
			if err != nil {
				continue
			}
			if a, ok := find(snap, p, digest); ok {
				return card(data, store, s, snap, a, gens)
			}
		}
	}
	return Card{}, fmt.Errorf("%.200q: %w", what, ErrNoFile)
}

// pathIn is what as an artifact path of feed s; empty if it cannot be one.
func pathIn(s feed.Setup, what string) string {
	if name, p, ok := strings.Cut(what, ":"); ok {
		if name != s.Name {
			return ""
		}
		what = p
	} else if p, ok := strings.CutPrefix("/"+strings.TrimPrefix(what, "/"), s.Mount); ok && s.Mount != "" {
		what = p
	}
	p := strings.TrimPrefix(path.Clean("/"+what), "/")
	if !feed.ValidPath(p) {
		return ""
	}
	return p
}

func find(snap *cas.Snapshot, p string, d feed.Digest) (feed.Artifact, bool) {
	if d == "" {
		return snap.Lookup(p)
	}
	for a := range snap.Artifacts() {
		if a.Digest == d {
			return a, true
		}
	}
	return feed.Artifact{}, false
}

// serialsByInterest are the stored snapshots of a feed: those rings see, newest
// first, then the rest, newest first; and all readable generations.
func serialsByInterest(data state.Dir, store *cas.Store, name string) ([]uint64, []Generation, error) {
	var all []Generation
	var order []uint64
	for _, ring := range feed.Rings() {
		gens, _, err := Generations(data, ring, name)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, gens...)
		if len(gens) > 0 {
			order = append(order, gens[0].Serial)
		}
	}
	slices.SortFunc(order, func(a, b uint64) int { return cmpDown(a, b) })
	rest, err := store.Serials(name)
	if err != nil {
		return nil, nil, err
	}
	slices.Reverse(rest)
	for _, n := range rest {
		if !slices.Contains(order, n) {
			order = append(order, n)
		}
	}
	return slices.Compact(order), all, nil
}

func cmpDown(a, b uint64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

func card(data state.Dir, store *cas.Store, s feed.Setup, snap *cas.Snapshot, a feed.Artifact, gens []Generation) (Card, error) {
	h := snap.Header()
	c := Card{Feed: s.Name, Kind: h.Kind, Serial: h.Serial, ID: snap.ID(), Taken: h.Taken, Artifact: a}
	_, c.Stored = store.Stat(a.Digest)
	c.dates(gens)
	if doc, err := readStatus(data); err == nil {
		if acc, ok := doc.Accepted[s.Name][h.Serial]; ok {
			c.Accepted, c.Bundle = acc.Accepted, acc.Bundle
			c.Withheld = acc.Withheld[a.Path]
		}
	}
	var err error
	if c.Outside, err = chain(data.Evidence(s.Name, h.Serial, "outside"), a); err != nil {
		return c, err
	}
	c.Inside, err = chain(data.Evidence(s.Name, h.Serial, "inside"), a)
	return c, err
}

// dates fills in what generations say: when each ring first saw the snapshot.
func (c *Card) dates(gens []Generation) {
	at := map[string]int{}
	for _, g := range gens {
		for _, w := range g.Withdrawn {
			if w.Digest == c.Artifact.Digest {
				c.Withdrawn = &w
			}
		}
		if g.Serial != c.Serial || g.Stopped {
			continue
		}
		c.Accepted, c.Bundle = g.Accepted, g.Bundle
		if why, ok := g.Withheld[c.Artifact.Path]; ok {
			c.Withheld = why
		}
		d := RingDate{Ring: g.Ring, Number: g.Number, Published: g.Published, By: g.By}
		i, seen := at[g.Ring]
		if !seen {
			at[g.Ring] = len(c.Rings)
			c.Rings = append(c.Rings, d)
		} else if d.Published.Before(c.Rings[i].Published) {
			c.Rings[i] = d
		}
	}
}

// maxChain bounds how many documents lead from a file to a signature.
const maxChain = 16

// chain reads one side's evidence and follows it from the file to its far end,
// by the strongest way.
func chain(file string, a feed.Artifact) (Chain, error) {
	known := map[feed.Digest][]feed.Evidence{}
	want := []feed.Digest{a.Digest}
	for depth := 0; len(want) > 0 && depth < maxChain; depth++ {
		found, err := evidenceOf(file, want)
		if errors.Is(err, fs.ErrNotExist) {
			return Chain{}, nil
		}
		if err != nil {
			return Chain{}, err
		}
		want = nil
		for _, e := range found {
			known[e.Subject] = append(known[e.Subject], e)
		}
		for _, e := range found {
			if _, have := known[e.Via]; e.Via != "" && !have && !slices.Contains(want, e.Via) {
				want = append(want, e.Via)
			}
		}
	}
	c := Chain{Known: true}
	c.Links, c.Strength = strongest(known, a.Digest, a.Path, 0)
	for _, e := range known[a.Digest] {
		if e.Refused != "" && e.Path == a.Path {
			c.Refused, c.Links, c.Strength = e.Refused, []feed.Evidence{e}, feed.None
			break
		}
		if e.Via == a.Digest && e.Path == a.Path && e.Note != "" && len(c.Links) > 0 { // a word on a file that is proved otherwise
			c.Links = slices.Clone(c.Links)
			c.Links[0].Note = strings.TrimPrefix(c.Links[0].Note+"; "+e.Note, "; ")
		}
	}
	return c, nil
}

// evidenceOf reads the lines about the subjects. A file may have a line for
// each of 100,000 artifacts: only those that contain a wanted digest are decoded.
func evidenceOf(file string, subjects []feed.Digest) ([]feed.Evidence, error) {
	var out []feed.Evidence
	for line, err := range lines(file) {
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(subjects, func(d feed.Digest) bool { return bytes.Contains(line, []byte(d)) }) {
			continue
		}
		var e feed.Evidence
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", file, err, feed.ErrDamaged)
		}
		if slices.Contains(subjects, e.Subject) {
			out = append(out, e)
		}
	}
	return out, nil
}

func strongest(known map[feed.Digest][]feed.Evidence, d feed.Digest, path string, depth int) ([]feed.Evidence, feed.Strength) {
	var best []feed.Evidence
	strength := feed.None
	for _, e := range known[d] {
		if e.Refused != "" || path != "" && e.Path != path || depth >= maxChain {
			continue
		}
		links, s := []feed.Evidence{e}, e.Strength
		if e.Via != "" {
			rest, rs := strongest(known, e.Via, "", depth+1)
			if len(rest) == 0 {
				rs = feed.None // the document it leans on is not proved here
			}
			links, s = append(links, rest...), min(s, rs)
		}
		if best == nil || s > strength || s == strength && len(links) < len(best) {
			best, strength = links, s
		}
	}
	return best, strength
}
