package wsus

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Definition updates come several times a day and each takes the place of all
// before it: without an end to them the metadata alone would grow by thousands
// of revisions a year. The newest few of each line are kept, documents and
// files; the rest is left out of the snapshot. Earlier publications keep what
// terminals may be in the middle of.
const keepDefinitions = 3

// line identifies updates that take each other's place: the same KB article
// for the same products. "" if d is no definition update.
func line(d *document) string {
	if d == nil || !d.Explicit {
		return ""
	}
	of := slices.Concat(d.Prereqs...)
	if !slices.Contains(of, classDefinition) {
		return ""
	}
	var b strings.Builder
	b.WriteString(d.KB)
	slices.SortFunc(of, func(a, b guid) int { return bytes.Compare(a[:], b[:]) })
	for _, g := range of {
		b.WriteString(" " + g.String())
	}
	return b.String()
}

// definitions are the newest revisions of definition updates: those that are
// kept, and those that are past.
func (m *mirror) definitions() (kept, past map[identity]bool) {
	lines := map[string][]identity{}
	for _, id := range newest(slices.Collect(maps.Keys(m.docs))) {
		if l := line(m.docs[id]); l != "" {
			lines[l] = append(lines[l], id)
		}
	}
	kept, past = map[identity]bool{}, map[identity]bool{}
	for _, ids := range lines {
		slices.SortFunc(ids, func(a, b identity) int { // newest first
			if c := strings.Compare(m.docs[b].Created, m.docs[a].Created); c != 0 {
				return c // RFC 3339 in UTC, as servers write it
			}
			return compareIdentity(b, a)
		})
		for i, id := range ids {
			if i < keepDefinitions {
				kept[id] = true
			} else {
				past[id] = true
			}
		}
	}
	return kept, past
}

// retired are past definition updates with the members of their bundles that
// no other update has.
func (m *mirror) retired() map[identity]bool {
	_, out := m.definitions()
	if len(out) == 0 {
		return out
	}
	used := map[identity]bool{}
	for id, d := range m.docs {
		if out[id] {
			continue
		}
		for _, member := range slices.Concat(d.Bundles...) {
			used[member] = true
		}
	}
	for todo := slices.Collect(maps.Keys(out)); len(todo) > 0; todo = todo[1:] {
		d := m.docs[todo[0]]
		if d == nil {
			continue
		}
		for _, member := range slices.Concat(d.Bundles...) {
			if !used[member] && !out[member] {
				out[member] = true
				todo = append(todo, member)
			}
		}
	}
	return out
}

// repack takes what is live out of batches that hold something retired: a batch
// is served whole.
func (m *mirror) repack(ctx context.Context, live, retired map[identity]bool) error {
	stale := map[string]bool{}
	for id, path := range m.held {
		if retired[id] {
			stale[path] = true
		}
	}
	var again []original
	for _, path := range slices.Sorted(maps.Keys(stale)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := m.prev.Open(path)
		if err != nil {
			return fmt.Errorf("%s: %w: %w", path, err, feed.ErrDamaged)
		}
		err = eachOriginal(f, func(o original) error {
			if m.held[o.identity] != path {
				return nil
			}
			delete(m.held, o.identity)
			if live[o.identity] {
				again = append(again, original{o.identity, m.pack.pack(o.body)})
			}
			return nil
		})
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	m.news = append(again, m.news...) // in the order received: what others need comes first
	return nil
}

// keepFiles keeps files of definition updates that are superseded but kept,
// where the last snapshot has them; none is fetched for them.
func (m *mirror) keepFiles(list map[string]feed.Artifact) {
	kept, _ := m.definitions()
	done := map[identity]bool{}
	for todo := slices.Collect(maps.Keys(kept)); len(todo) > 0; todo = todo[1:] {
		d := m.docs[todo[0]]
		if d == nil || d.Expired || done[todo[0]] {
			continue
		}
		done[todo[0]] = true
		for _, f := range d.Files {
			if _, ok := m.found[f.path()]; !ok && m.has(f.path(), f) {
				if a, ok := list[f.path()]; ok {
					m.found[a.Path] = a
				}
			}
		}
		todo = append(todo, slices.Concat(d.Bundles...)...)
	}
}
