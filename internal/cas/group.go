package cas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// A Group makes many small blobs durable at once: temporary files, one flush
// of the file system, all renames, one flush more (measured: ten times the
// files per second of one flush each). Nothing is visible before a Flush.
// Not safe for concurrent use.
type Group struct {
	s     *Store
	items []item
	have  map[feed.Digest]bool
	bytes int64
}

type item struct {
	t *durable.Temp
	d feed.Digest
}

// A group flushes itself when it holds this much (DESIGN §6).
const (
	groupBytes = 256 << 20
	groupFiles = 1000
)

// Group begins an empty group. The caller ends it with Flush and Close.
func (s *Store) Group() *Group { return &Group{s: s, have: map[feed.Digest]bool{}} }

// Put adds r's bytes. With want set, other bytes are ErrUntrusted and leave
// nothing; what the group or the store already has is not kept twice.
func (g *Group) Put(ctx context.Context, r io.Reader, want feed.Digest) (feed.Digest, int64, error) {
	t, err := durable.Create(g.s.blobs)
	if err != nil {
		return "", 0, err
	}
	d, n, err := g.s.fill(ctx, t, r)
	if err == nil && want != "" && d != want {
		err = fmt.Errorf("content has digest %s, not %s: %w", d, want, feed.ErrUntrusted)
	}
	if err != nil {
		t.Discard()
		return "", 0, err
	}
	if _, stored := g.s.Stat(d); stored || g.have[d] {
		t.Discard()
		return d, n, nil
	}
	// Hold no descriptor: a group may be large. Where each file needs its own
	// flush, that is now.
	if err := g.settle(t); err != nil {
		t.Discard()
		return "", 0, err
	}
	g.items = append(g.items, item{t, d})
	g.have[d] = true
	g.bytes += n
	if g.bytes >= groupBytes || len(g.items) >= groupFiles {
		return d, n, g.Flush()
	}
	return d, n, nil
}

func (g *Group) settle(t *durable.Temp) error {
	if err := t.SetTime(g.s.clock()); err != nil {
		return err
	}
	if !syncsWholeFS {
		if err := t.Sync(); err != nil {
			return err
		}
	}
	return t.File.Close()
}

// Flush makes everything put so far durable and visible.
func (g *Group) Flush() error {
	if len(g.items) == 0 {
		return nil
	}
	durable.Step("before group flush")
	if _, err := durable.SyncFS(g.s.blobs); err != nil {
		return err
	}
	for i, it := range g.items {
		if i == 0 || i == len(g.items)/2 {
			durable.Step("in group renames")
		}
		if err := durable.Rename(it.t.Name(), g.s.path(it.d)); err != nil {
			return err
		}
	}
	durable.Step("after group renames")
	whole, err := durable.SyncFS(g.s.blobs)
	if err == nil && !whole {
		for _, it := range g.items {
			err = errors.Join(err, durable.SyncDir(filepath.Dir(g.s.path(it.d))))
		}
	}
	g.items, g.bytes = g.items[:0], 0
	clear(g.have)
	return err
}

// Close discards what was not flushed.
func (g *Group) Close() {
	for _, it := range g.items {
		os.Remove(it.t.Name())
	}
	g.items = nil
}
