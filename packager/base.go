package packager

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Packed is what the outside keeps of each bundle it made.
type Packed struct {
	Number  uint64      `json:"number"`
	Set     feed.Digest `json:"set"`
	Sites   []int       `json:"sites"`
	Created time.Time   `json:"created"`
	Expires time.Time   `json:"expires"`
	Bytes   int64       `json:"bytes"`
	Base    uint64      `json:"base,omitempty"`
	Feeds   []FeedLine  `json:"feeds"`
	// What the outside alone remembers.
	Urgent   bool     `json:"urgent,omitempty"`
	Operator string   `json:"operator,omitempty"` // who packed it: may not approve it
	Account  string   `json:"account,omitempty"`  // his, unless a PIN told him from others who use it
	Media    []string `json:"media,omitempty"`    // registered numbers
}

// counter is the outside's own memory: numbers and versions are never used twice.
type counter struct {
	Number  uint64 `json:"number"`
	Version int64  `json:"version"`
}

// Base returns the bundle from which the next incremental for these sites is
// computed: the oldest of their bases. False if one of them has none yet.
func Base(tx state.Tx, sites []int) (Packed, bool, error) {
	all, err := SiteBases(tx, sites)
	if err != nil || len(all) == 0 {
		return Packed{}, false, err
	}
	return all[0], true, nil
}

// SiteBases returns the different bases of these sites, the oldest first; none
// if one of the sites has no base yet.
func SiteBases(tx state.Tx, sites []int) ([]Packed, error) {
	var out []Packed
	for _, site := range sites {
		var number uint64
		var p Packed
		ok, err := tx.Get(bucketBases, strconv.Itoa(site), &number)
		if err == nil && ok {
			ok, err = tx.Get(bucketPacked, numberKey(number), &p)
		}
		if err != nil || !ok {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(o Packed) bool { return o.Number == p.Number }) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Packed) int { return cmp.Compare(a.Number, b.Number) })
	return out, nil
}

// Bases yields every bundle that is a base: gc keeps its snapshots' documents.
func Bases(tx state.Tx) ([]Packed, error) {
	var out []Packed
	for _, decode := range tx.All(bucketBases, "") {
		var number uint64
		var p Packed
		if err := decode(&number); err != nil {
			return nil, err
		}
		if ok, err := tx.Get(bucketPacked, numberKey(number), &p); err != nil {
			return nil, err
		} else if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// SetBase makes bundle number the base of a site, on an operator's word: that
// inside is known to hold its state. H-205 for a site without a set-up medium,
// H-663 for a bundle that was not for it.
func SetBase(db *state.DB, site int, number uint64, who string, now time.Time) error {
	return db.Update(func(tx state.Tx) error {
		var p Packed
		ok, err := tx.Get(bucketPacked, numberKey(number), &p)
		if err != nil {
			return err
		}
		if !ok {
			return feed.NewFault(fmt.Errorf("bundle %d was not made here: %w: %w", number, fs.ErrNotExist, feed.ErrConfig), "H-205", "name", strconv.FormatUint(number, 10))
		}
		paired, err := PairedSites(db.Dir())
		if err == nil && !slices.Contains(paired, site) {
			err = feed.NewFault(fmt.Errorf("no set-up medium was made for site %d: %w", site, feed.ErrConfig), "H-205", "name", strconv.Itoa(site))
		}
		if err = errors.Join(err, p.For(site)); err != nil {
			return err
		}
		if err := tx.Put(bucketBases, strconv.Itoa(site), number); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, Who: who, What: "set base", Result: "ok", Detail: map[string]string{
			"site": strconv.Itoa(site), "bundle": strconv.FormatUint(number, 10),
		}})
	})
}

// For refuses a site that this bundle was not for (H-663): what it holds is not
// known by that.
func (p Packed) For(site int) error {
	if slices.Contains(p.Sites, site) {
		return nil
	}
	return feed.NewFault(fmt.Errorf("bundle %d was for sites %v, not for %d: %w", p.Number, p.Sites, site, feed.ErrConfig), "H-663",
		"number", strconv.FormatUint(p.Number, 10), "site", strconv.Itoa(site))
}

// Resume tells a rebuilt outside the number of the last bundle its
// predecessor made (from the paper, or any later number): the next one is
// higher. TUF versions and serials go on by the clock.
func Resume(db *state.DB, last uint64, who string, now time.Time) error {
	if last >= MaxNumber {
		return fmt.Errorf("bundle number %d: %w", last, feed.ErrConfig)
	}
	return db.Update(func(tx state.Tx) error {
		var c counter
		if _, err := tx.Get(bucketBundle, "counter", &c); err != nil {
			return err
		}
		c.Number = max(c.Number, last)
		if err := tx.Put(bucketBundle, "counter", c); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: now, Who: who, What: "resume", Result: "ok", Detail: map[string]string{"bundle": strconv.FormatUint(last, 10)}})
	})
}

// reserve takes the next number and version before anything is written: a
// killed run leaves a gap, never two sets with one number.
func reserve(db *state.DB, now time.Time) (counter, error) {
	var c counter
	err := db.Update(func(tx state.Tx) error {
		if _, err := tx.Get(bucketBundle, "counter", &c); err != nil {
			return err
		}
		c.Number, c.Version = c.Number+1, max(c.Version+1, now.Unix())
		switch {
		case c.Number > MaxNumber:
			return fmt.Errorf("bundle numbers are used up: %w", feed.ErrConfig)
		case c.Version > now.Add(versionAhead).Unix():
			return feed.NewFault(errors.Join(errors.New("an earlier bundle was signed with this clock far ahead"), feed.ErrConfig), "H-802",
				"clock", now.Format(time.RFC3339), "floor", time.Unix(c.Version, 0).UTC().Format(time.RFC3339))
		}
		return tx.Put(bucketBundle, "counter", c)
	})
	return c, err
}

// PackedAs returns what the bundle of this number carried; false if this
// outside never packed it.
func PackedAs(tx state.Tx, number uint64) (Packed, bool, error) {
	var p Packed
	ok, err := tx.Get(bucketPacked, numberKey(number), &p)
	return p, ok, err
}

// LastPacked returns the bundle made last; the zero value before the first.
func LastPacked(tx state.Tx) (Packed, error) {
	var c counter
	if _, err := tx.Get(bucketBundle, "counter", &c); err != nil {
		return Packed{}, err
	}
	for n := c.Number; n > 0; n-- { // a killed run leaves gaps
		if p, ok, err := PackedAs(tx, n); err != nil || ok {
			return p, err
		}
	}
	return Packed{}, nil
}
