package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// choose takes the feeds, the base or need list, and what makes a bundle urgent.
func (s *station) choose(p *packager.PackOptions, o *packOptions) (err error) {
	if p.Feeds, p.NewestSigned, err = s.carries(); err != nil {
		return err
	}
	if !o.full {
		if err := s.db.View(func(tx state.Tx) error { return base(tx, *o, p) }); err != nil {
			return err
		}
	}
	if o.need != "" {
		n, err := s.readNeed(o.need)
		if err != nil {
			return err
		}
		p.Need = &n
	}
	if o.urgent && len(o.feeds) == 0 {
		return s.needsWith("--urgent", "--feed", "flag.packfeed")
	}
	if p.Urgent, p.Only = o.urgent, o.feeds; len(o.feeds) > 0 && p.Need == nil {
		p.Feeds, err = s.asPacked(p.Feeds, o.feeds)
	}
	return err
}

// asPacked is what a bundle of some feeds states: these as they are now, the
// others as the last bundle stated them, whose medium may still be on its way.
func (s *station) asPacked(now []packager.Carry, some []string) ([]packager.Carry, error) {
	var last packager.Packed
	err := s.db.View(func(tx state.Tx) (err error) { last, err = packager.LastPacked(tx); return err })
	if err != nil {
		return nil, err
	}
	for i, c := range now {
		name := c.Snapshot.Header().Feed
		at := slices.IndexFunc(last.Feeds, func(l packager.FeedLine) bool { return l.Feed == name })
		if at < 0 || slices.Contains(some, name) {
			continue
		}
		l := last.Feeds[at]
		snap, err := s.store.Snapshot(name, l.Serial)
		if err != nil || snap.ID() != l.Snapshot {
			continue // no longer stored: state the newest, which the next bundle brings
		}
		now[i] = packager.Carry{Snapshot: snap}
		if path := s.dir.Evidence(name, l.Serial, outside); l.Evidence != "" {
			if _, err := os.Stat(path); err != nil {
				return nil, err
			}
			now[i].Evidence = path
		}
	}
	return now, nil
}

// readNeed takes a need list from a file of that name, from the keyboard or a
// scanner that types ("-"), else as typed.
func (s *station) readNeed(text string) (packager.Need, error) {
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(s.in, 4<<20))
		if err != nil {
			return packager.Need{}, err
		}
		text = string(b)
	} else if st, err := os.Stat(text); err == nil && st.Mode().IsRegular() && st.Size() < 4<<20 {
		b, err := os.ReadFile(text)
		if err != nil {
			return packager.Need{}, err
		}
		text = string(b)
	} else if err := noFile(text, err); err != nil {
		return packager.Need{}, err
	}
	return packager.ParseNeed(text)
}

// noFile says that a list named as a file is not there: a typed list has
// letters, digits and dashes alone, a path has more.
func noFile(text string, err error) error {
	if errors.Is(err, fs.ErrNotExist) && (strings.ContainsAny(text, `/\`) || strings.HasSuffix(text, ".txt")) {
		return named(text, err)
	}
	return nil
}

// base is what the next bundle is computed from: the bundle named, else the
// oldest of the sites' recorded bases; none is a complete bundle.
func base(tx state.Tx, o packOptions, p *packager.PackOptions) error {
	if o.base != 0 {
		b, ok, err := packager.PackedAs(tx, o.base)
		if err == nil && !ok {
			err = feed.NewFault(fmt.Errorf("bundle %d: %w", o.base, feed.ErrConfig), "H-205", "name", fmt.Sprint(o.base))
		}
		for i := 0; err == nil && i < len(o.sites); i++ {
			err = b.For(o.sites[i])
		}
		p.Base = &b
		return err
	}
	all, err := packager.SiteBases(tx, o.sites)
	if err == nil && len(all) > 0 {
		p.Base, p.Others = &all[0], all[1:]
	}
	return err
}

// sites are the insides that a bundle is for: those named, all of them, or the
// only one that a set-up medium was made for.
func (s *station) sites(o packOptions) ([]int, error) {
	paired, err := packager.PairedSites(s.dir)
	if err != nil {
		return nil, err
	}
	if len(o.sites) == 0 && !o.allSites && len(paired) > 1 {
		return nil, usageError{errors.New(s.cat.T("pack.whichsite", fmt.Sprint(paired)))}
	}
	if len(o.sites) == 0 {
		return paired, nil
	}
	for _, n := range o.sites {
		if !slices.Contains(paired, n) {
			return nil, feed.NewFault(fmt.Errorf("no set-up medium was made for site %d: %w", n, feed.ErrConfig), "H-205", "name", fmt.Sprint(n))
		}
	}
	return o.sites, nil
}

// carries lists what was accepted, and the newest time a vendor's signature
// among it proves: an outside whose clock contradicts that must not sign.
func (s *station) carries() (out []packager.Carry, newest time.Time, err error) {
	var feeds map[string]state.FeedState
	if err := s.db.View(func(tx state.Tx) (err error) { feeds, err = tx.Feeds(); return err }); err != nil {
		return nil, newest, err
	}
	names := make([]string, 0, len(feeds))
	for n, f := range feeds {
		if f.Serial != 0 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if _, err := s.cfg.Feed(n); err != nil {
			continue // no longer configured: no longer desired
		}
		snap, err := s.store.Snapshot(n, feeds[n].Serial)
		if err != nil {
			return nil, newest, fmt.Errorf("feed %s: %w", n, err)
		}
		at := s.dir.Evidence(n, feeds[n].Serial, outside)
		out = append(out, packager.Carry{Snapshot: snap, Evidence: at})
		signed, err := newestSigned(at)
		if err != nil {
			return nil, newest, fmt.Errorf("feed %s: %w", n, err)
		}
		if signed.After(newest) {
			newest = signed
		}
	}
	return out, newest, nil
}

// newestSigned is the newest signing time in an evidence document.
func newestSigned(path string) (time.Time, error) {
	var newest time.Time
	for e, err := range evidence(path) {
		if err != nil {
			return newest, err
		}
		if e.SignedAt.After(newest) {
			newest = e.SignedAt
		}
	}
	return newest, nil
}

// ontoMedia runs f, which writes on the media at dirs. A medium's directory is
// made, but not those above it: a stick that is not mounted would end on the
// local disk. What f did not write on is left as it was.
func (s *station) ontoMedia(dirs []string, f func() error) error {
	var made []string
	for _, dir := range dirs {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(string(s.dir), abs)
		if err == nil && filepath.IsLocal(rel) { // of our own, such as the diode's outbox
			continue
		}
		if _, err := os.Stat(filepath.Dir(abs)); err != nil {
			return named(filepath.Dir(abs), err)
		}
		if _, err := os.Stat(abs); errors.Is(err, fs.ErrNotExist) {
			made = append(made, abs)
		}
	}
	err := f()
	if err != nil {
		for _, dir := range made {
			os.Remove(dir) // if it is empty
		}
	}
	return err
}
