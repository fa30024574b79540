package wsus

import (
	"bytes"
	"context"
	"fmt"
	"slices"
)

// maxRounds bounds how deep updates build on others.
const maxRounds = 16

// complete brings what the updates build on: members of bundles by revision,
// prerequisites in their newest revision.
func (m *mirror) complete(ctx context.Context) error {
	for range maxRounds {
		var members []identity
		var ids []guid
		have := map[guid]bool{}
		for id := range m.docs {
			have[id.Update] = true
		}
		for _, d := range m.docs {
			for _, id := range slices.Concat(d.Bundles...) {
				if m.docs[id] == nil {
					members = append(members, id)
				}
			}
			for _, g := range slices.Concat(d.Prereqs...) {
				if !have[g] {
					have[g] = true
					ids = append(ids, g)
				}
			}
		}
		if len(members) == 0 && len(ids) == 0 {
			return nil
		}
		before := len(m.docs)
		for part := range slices.Chunk(ids, batchUpdates) {
			list, err := m.srv.related(ctx, part)
			if err != nil {
				return err
			}
			members = append(members, newest(list)...)
		}
		slices.SortFunc(members, compareIdentity)
		if err := m.bring(ctx, slices.Compact(members)); err != nil {
			return err
		}
		if len(m.docs) == before { // a clause of alternatives may name what nobody has
			return nil
		}
	}
	return upstream("updates that build on others more than %d deep", maxRounds)
}

func compareIdentity(a, b identity) int {
	if c := bytes.Compare(a.Update[:], b.Update[:]); c != 0 {
		return c
	}
	return int(a.Number) - int(b.Number)
}

// newest keeps the highest revision of each update.
func newest(list []identity) []identity {
	best := map[guid]int32{}
	for _, id := range list {
		if n, ok := best[id.Update]; !ok || id.Number > n {
			best[id.Update] = id.Number
		}
	}
	var out []identity
	for g, n := range best {
		out = append(out, identity{g, n})
	}
	return out
}

// maxBatchFill is how many bytes of documents go into one batch.
const maxBatchFill = 32 << 20

// batches packs documents, whose bodies come packed one by one. Members of a bundle go before it and into the same
// batch where they fit: a file's class comes from the bundle.
func (m *mirror) batches(list []original) ([][]byte, error) {
	bodies := map[identity][]byte{}
	for _, o := range list {
		bodies[o.identity] = o.body
	}
	var packed [][]byte
	var open []original
	size := 0
	flush := func() error {
		if len(open) == 0 {
			return nil
		}
		b, err := encodeBatch(open)
		packed, open, size = append(packed, b), nil, 0
		return err
	}
	for _, o := range list {
		group := m.family(o.identity, bodies)
		if len(open) > 0 && len(open)+len(group) > batchUpdates {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		for _, id := range group {
			body, err := m.pack.unpack(bodies[id])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", id, err)
			}
			if len(open) == batchUpdates || size+len(body) > maxBatchFill {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			open, size = append(open, original{id, body}), size+len(body)
			delete(bodies, id)
		}
	}
	return packed, flush()
}

// family is a revision behind the members of its bundles that still wait. Those
// beyond maxClauses come later by themselves. Bundles may name each other.
func (m *mirror) family(id identity, waiting map[identity][]byte) (out []identity) {
	seen := map[identity]bool{}
	var visit func(identity)
	visit = func(id identity) {
		if waiting[id] == nil || seen[id] || len(seen) >= maxClauses {
			return
		}
		seen[id] = true
		for _, clause := range m.docs[id].Bundles {
			for _, member := range clause {
				visit(member)
			}
		}
		out = append(out, id)
	}
	visit(id)
	return out
}
