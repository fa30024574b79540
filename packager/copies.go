package packager

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashike/hashike/internal/feed"
)

// judgeCopies believes the set by the metadata of the first medium on which it
// holds, or says why it does not on the first of all. Copies that differ from
// the believed one are damage of their media.
func (b *Bundle) judgeCopies(site int) error {
	var first error
	for _, m := range b.media {
		err := b.judgeSet(site, m)
		if err == nil {
			return b.compareCopies(m)
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, feed.ErrDamaged) && !errors.Is(err, feed.ErrUntrusted) {
			break // not a matter of copies
		}
	}
	return first
}

func (b *Bundle) compareCopies(good *medium) error {
	names := []string{nameTime, snapshotName(b.judged.version), targetsName(b.judged.version), nameOrders}
	for v := int64(1); v <= int64(len(b.judged.roots)); v++ {
		names = append(names, rootName(v))
	}
	for _, name := range names {
		limit := int64(maxMetadata)
		if name == nameOrders {
			limit = maxOrders
		}
		want, lost := good.read(name, limit)
		if lost != nil && b.carriesFile(name) {
			return lost
		}
		if lost != nil {
			continue // a root that is newer here than in the bundle
		}
		for _, m := range b.media {
			got, err := m.read(name, limit)
			if err == nil && !bytes.Equal(got, want) {
				err = unreadable(name, fmt.Errorf("differs between %s and %s", good.dir, m.dir))
			}
			if err != nil {
				if err := b.spoilt(m, name, err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// carriesFile reports whether the bundle has this metadata file: a root up to
// the set's, or any other.
func (b *Bundle) carriesFile(name string) bool {
	for v := b.set.Root + 1; v <= int64(len(b.judged.roots)); v++ {
		if name == rootName(v) {
			return false
		}
	}
	return true
}

// table opens a signed table where a medium has it undamaged.
func (b *Bundle) table(name string, ref Ref) (mediumFile, error) {
	var first error
	for _, m := range b.media {
		f, err := m.table(name, ref)
		if err == nil {
			return f, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// checkTables compares the copies on every medium with what was signed. One
// good copy of each is enough.
func (b *Bundle) checkTables() error {
	for name, ref := range map[string]Ref{nameFeeds: b.set.Feeds, nameVolumes: b.set.Volumes, nameBlobs: b.set.Blobs, nameBlocks: b.set.Blocks, nameOrders: b.set.Orders} {
		var good int
		var all error
		for _, m := range b.media {
			f, err := m.table(name, ref)
			if err == nil {
				f.Close()
				good++
			} else if all = errors.Join(all, err); len(b.media) > 1 {
				if err := b.spoilt(m, name, err); err != nil {
					return err
				}
			}
		}
		if good == 0 {
			return all
		}
	}
	return nil
}
