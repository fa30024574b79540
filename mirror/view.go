package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// shown is a snapshot without the files that were withdrawn.
type shown struct {
	*cas.Snapshot
	hidden map[feed.Digest]bool
}

func show(s *cas.Snapshot, hidden map[feed.Digest]bool) feed.Content {
	if len(hidden) == 0 {
		return s
	}
	return shown{s, hidden}
}

func (c shown) Lookup(p string) (feed.Artifact, bool) {
	a, ok := c.Snapshot.Lookup(p)
	if !ok || c.hidden[a.Digest] {
		return feed.Artifact{}, false
	}
	return a, true
}

func (c shown) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for a, err := range c.Snapshot.Artifacts() {
			if err == nil && c.hidden[a.Digest] {
				continue
			}
			if !yield(a, err) {
				return
			}
		}
	}
}

func (c shown) Under(prefix string) iter.Seq[feed.Artifact] {
	return func(yield func(feed.Artifact) bool) {
		for a := range c.Snapshot.Under(prefix) {
			if !c.hidden[a.Digest] && !yield(a) {
				return
			}
		}
	}
}

func (c shown) Open(p string) (fs.File, error) {
	a, ok := c.Lookup(p)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return c.OpenArtifact(a)
}

func (c shown) OpenArtifact(a feed.Artifact) (fs.File, error) {
	if c.hidden[a.Digest] {
		return nil, &fs.PathError{Op: "open", Path: a.Path, Err: fs.ErrNotExist}
	}
	return c.Snapshot.OpenArtifact(a)
}

// snapshots opens each snapshot once, however many rings and generations name it.
type snapshots struct {
	store *cas.Store
	open  map[string]map[uint64]*cas.Snapshot
}

func (s *snapshots) get(name string, serial uint64) (*cas.Snapshot, error) {
	if snap, ok := s.open[name][serial]; ok {
		return snap, nil
	}
	snap, err := s.store.Snapshot(name, serial)
	if err != nil {
		return nil, err
	}
	put(s.open, name, serial, snap)
	return snap, nil
}

// forget drops a feed's snapshots that its views no longer use.
func (s *snapshots) forget(name string, used map[uint64]bool) {
	for n := range s.open[name] {
		if !used[n] {
			delete(s.open[name], n)
		}
	}
}

// rootedFS is a directory that can be let go: Windows removes none that is held.
type rootedFS struct {
	fs.FS
	root *os.Root
}

func (r rootedFS) Close() error { return r.root.Close() }

// view is what a generation lets terminals see. ErrDamaged if its snapshot is
// not the one it names.
func view(data state.Dir, snaps *snapshots, g Generation) (feed.View, error) {
	snap, err := snaps.get(g.Feed, g.Serial)
	if err != nil {
		return feed.View{}, fmt.Errorf("generation %s %s %d: %w", g.Ring, g.Feed, g.Number, err)
	}
	if snap.ID() != g.ID {
		return feed.View{}, fmt.Errorf("generation %s %s %d names %s, stored is %s: %w", g.Ring, g.Feed, g.Number, g.ID, snap.ID(), feed.ErrDamaged)
	}
	hidden := map[feed.Digest]bool{}
	for _, w := range g.Withdrawn {
		hidden[w.Digest] = true
	}
	v := feed.View{
		Content: show(snap, hidden), Withheld: g.Withheld, Decisions: g.Decisions,
		Number: g.Number, Published: g.Published,
	}
	for _, n := range g.Older {
		old, err := snaps.get(g.Feed, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return feed.View{}, fmt.Errorf("generation %s %s %d: %w", g.Ring, g.Feed, g.Number, err)
		}
		v.Older = append(v.Older, show(old, hidden))
	}
	if g.Derived {
		root, err := os.OpenRoot(data.Derived(g.Feed, g.Serial))
		if err != nil {
			return feed.View{}, fmt.Errorf("derived files of %s %d: %w", g.Feed, g.Serial, err)
		}
		v.Derived = rootedFS{root.FS(), root}
	}
	return v, nil
}
