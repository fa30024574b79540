package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// prepare makes sure that a step's snapshot can be served: it is the one that
// was accepted, its blobs are here, and what its kind derives is built.
func (p *Publisher) prepare(ctx context.Context, what string, s step, d *desk) error {
	name := s.setup.Name
	snap, err := p.Store.Snapshot(name, s.snap.Serial)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	if err == nil && snap.ID() != s.snap.ID {
		err = fmt.Errorf("snapshot %s %d is %s, accepted was %s: %w", name, s.snap.Serial, snap.ID(), s.snap.ID, feed.ErrDamaged)
	}
	if err != nil {
		return feed.NewFault(err, "H-702", "feed", name, "file", "", "count", "1")
	}
	missing, one := 0, ""
	for a := range snap.Missing() {
		if _, held := s.snap.Withheld[a.Path]; !held {
			missing, one = missing+1, a.Path
		}
	}
	if missing > 0 {
		err := fmt.Errorf("snapshot %s %d: %d files are not in the store (%s): %w", name, s.snap.Serial, missing, one, feed.ErrDamaged)
		return feed.NewFault(err, "H-702", "feed", name, "file", one, "count", fmt.Sprint(missing))
	}
	if p.Scan != nil && what == "publish" {
		if err := p.Scan(ctx, s.setup, s.snap, reachable(snap, s.snap)); err != nil {
			return err
		}
	}
	if k, ok := s.setup.Feed.(feed.Deriver); ok {
		return p.derive(ctx, k, name, s.snap.Serial, d.accepted[name])
	}
	return nil
}

// reachable are the files of a snapshot that terminals can get.
func reachable(snap *cas.Snapshot, a Accepted) iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for f, err := range snap.Artifacts() {
			if _, held := a.Withheld[f.Path]; held && err == nil {
				continue
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// derive builds derived/<feed>/<serial>/ beside its final name and renames it.
func (p *Publisher) derive(ctx context.Context, k feed.Deriver, name string, serial uint64, known map[uint64]Accepted) error {
	final := p.Data.Derived(name, serial)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	snap, err := p.Store.Snapshot(name, serial)
	if err != nil {
		return err
	}
	parent := filepath.Dir(final)
	if err := durable.Mkdir(parent); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, durable.TempPrefix)
	if err != nil {
		return err
	}
	defer durable.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	prev := p.previousDerived(name, serial, known)
	if prev != nil {
		defer prev.Close()
	}
	if err := k.Derive(ctx, snap, rootFS(prev), func(file string, r io.Reader) error { return writeDerived(root, file, r) }); err != nil {
		return fmt.Errorf("derived files of %s %d: %w", name, serial, err)
	}
	durable.Step("derived files written")
	if _, err := durable.SyncFS(dir); err != nil {
		return err
	}
	root.Close() // Windows renames no directory that is held
	if err := durable.Rename(dir, final); err != nil {
		return err
	}
	durable.Step("derived files named")
	return durable.SyncDir(parent)
}

func writeDerived(root *os.Root, name string, r io.Reader) error {
	if !feed.ValidPath(name) {
		return fmt.Errorf("derived file %.200q: not a valid path", name)
	}
	if dir := filepath.Dir(filepath.FromSlash(name)); dir != "." {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	f, err := root.Create(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// previousDerived opens what was derived for the newest snapshot before serial.
func (p *Publisher) previousDerived(name string, serial uint64, known map[uint64]Accepted) *os.Root {
	var best uint64
	for n := range known {
		if n < serial && n > best {
			if _, err := os.Stat(p.Data.Derived(name, n)); err == nil {
				best = n
			}
		}
	}
	if best == 0 {
		return nil
	}
	root, err := os.OpenRoot(p.Data.Derived(name, best))
	if err != nil {
		return nil
	}
	return root
}

func rootFS(r *os.Root) fs.FS {
	if r == nil {
		return nil
	}
	return r.FS()
}
