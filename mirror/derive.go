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
	"strconv"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
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
		return derive(ctx, p.Data, p.Store, k, name, s.snap.Serial)
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
// A folder of another program's format gets this one's files beside the others,
// so that the older program can come back; what came before is built first, as
// it tells when a thing was new.
func derive(ctx context.Context, data state.Dir, store *cas.Store, k feed.Deriver, name string, serial uint64) error {
	final := data.Derived(name, serial)
	if derivedWhole(final, k) {
		return nil
	}
	snap, err := store.Snapshot(name, serial)
	if err != nil {
		return err
	}
	parent := filepath.Dir(final)
	if err := durable.Mkdir(parent); err != nil {
		return err
	}
	prev, err := previousDerived(ctx, data, store, k, name, serial)
	if err != nil {
		return err
	}
	if prev != nil {
		defer prev.Close()
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
	if err := k.Derive(ctx, snap, rootFS(prev), func(file string, r io.Reader) error { return writeDerived(root, file, r) }); err != nil {
		return fmt.Errorf("derived files of %s %d: %w", name, serial, err)
	}
	durable.Step("derived files written")
	if _, err := durable.SyncFS(dir); err != nil {
		return err
	}
	root.Close() // Windows renames no directory that is held
	if err := nameDerived(dir, final, k); err != nil {
		return err
	}
	durable.Step("derived files named")
	return durable.SyncDir(parent)
}

// derivedWhole reports whether a folder has all that this program derives.
func derivedWhole(dir string, k feed.Deriver) bool {
	for _, name := range k.Derives() {
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return false
		}
	}
	_, err := os.Stat(dir)
	return err == nil
}

// nameDerived puts what was built in place. A killed process leaves a folder
// that is not whole, and the next start builds it again. publish and serve may
// both do this after a new program was put in place: they build the same.
func nameDerived(dir, final string, k feed.Deriver) error {
	if _, err := os.Stat(final); err != nil {
		if err = durable.Rename(dir, final); err == nil || !derivedWhole(final, k) {
			return err
		}
		return nil
	}
	for _, name := range k.Derives() {
		to := filepath.Join(final, filepath.FromSlash(name))
		err := durable.Mkdir(filepath.Dir(to))
		if err == nil {
			err = durable.Rename(filepath.Join(dir, filepath.FromSlash(name)), to)
		}
		if err != nil {
			return err
		}
	}
	return durable.SyncDir(final)
}

// deriveFor is derive for a generation that may have been published by an older program.
func deriveFor(ctx context.Context, data state.Dir, store *cas.Store, s feed.Setup, g Generation) error {
	k, ok := s.Feed.(feed.Deriver)
	if !ok || !g.Derived || g.Stopped {
		return nil
	}
	return derive(ctx, data, store, k, g.Feed, g.Serial)
}

// renew derives anew for what is published, where an older program did.
func (p *Publisher) renew(ctx context.Context, d *desk, s feed.Setup) error {
	for _, ring := range feed.Rings() {
		if g := d.published[ring][s.Name]; g.Number > 0 {
			if err := deriveFor(ctx, p.Data, p.Store, s, g); err != nil {
				return err
			}
		}
	}
	return nil
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
func previousDerived(ctx context.Context, data state.Dir, store *cas.Store, k feed.Deriver, name string, serial uint64) (*os.Root, error) {
	ents, err := os.ReadDir(filepath.Dir(data.Derived(name, serial)))
	if err != nil {
		return nil, err
	}
	var best uint64
	for _, e := range ents {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && n < serial {
			best = max(best, n)
		}
	}
	if best == 0 {
		return nil, nil
	}
	if err := derive(ctx, data, store, k, name, best); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // a snapshot that is gone leaves what was derived as it is
	}
	return os.OpenRoot(data.Derived(name, best))
}

func rootFS(r *os.Root) fs.FS {
	if r == nil {
		return nil
	}
	return r.FS()
}
