package wsus

import (
	"bytes"
	"context"
	"slices"

	"github.com/hashike/hashike/internal/feed"
)

// store keeps the documents that count and loads the files of those worth
// installing.
func (m *mirror) store(ctx context.Context) error {
	retired := m.retired()
	for id := range m.foreign {
		retired[id] = true
	}
	live := m.live(retired)
	if err := m.repack(ctx, live, retired); err != nil {
		return err
	}
	for path := range m.batchesWith(live) {
		a, _ := m.prev.Lookup(path)
		m.found[path] = a
	}
	var fresh []original
	for _, o := range m.news {
		if live[o.identity] {
			fresh = append(fresh, o)
		}
	}
	packed, err := m.batches(fresh)
	if err != nil {
		return err
	}
	for _, b := range packed {
		s, err := readBatch(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			return err
		}
		blob, err := m.dst.Put(ctx, m.f.conf.Upstream+pathServerSync, bytes.NewReader(b))
		if err != nil {
			return err
		}
		a := batchArtifact(blob.Digest(), s.created)
		m.found[a.Path], m.made[a.Path] = a, s
		m.taken++
	}
	for _, o := range fresh {
		m.ids.add(o.identity)
	}
	return m.files(ctx, live)
}

// batch reads one of the batches found.
func (m *mirror) batch(path string) (*scan, error) {
	if s, ok := m.made[path]; ok {
		return s, nil
	}
	return openSource(m.prev, m.found[path])
}

func sortedBatches(found map[string]feed.Artifact) []string {
	var out []string
	for p, a := range found {
		if isBatch(a) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// live are the newest revisions but those retired, and the members of their bundles.
func (m *mirror) live(retired map[identity]bool) map[identity]bool {
	var all []identity
	for id := range m.docs {
		all = append(all, id)
	}
	live := map[identity]bool{}
	for todo := newest(all); len(todo) > 0; {
		id := todo[0]
		todo = todo[1:]
		if live[id] || retired[id] || m.docs[id] == nil {
			continue
		}
		live[id] = true
		todo = append(todo, slices.Concat(m.docs[id].Bundles...)...)
	}
	return live
}

// batchesWith are the batches of the last snapshot that still hold something.
func (m *mirror) batchesWith(live map[identity]bool) map[string]bool {
	out := map[string]bool{}
	for id, path := range m.held {
		if live[id] {
			out[path] = true
		}
	}
	return out
}
