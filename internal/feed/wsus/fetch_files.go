package wsus

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// wanted are the revisions whose files terminals may need: what can be
// installed, neither expired nor declined for everyone nor, unless asked for,
// superseded by something that is here; and the members of their bundles.
func (m *mirror) wanted(live map[identity]bool) map[identity]bool {
	superseded := map[guid]bool{}
	for id := range live {
		if d := m.docs[id]; !d.Expired {
			for _, g := range d.Superseded {
				superseded[g] = true
			}
		}
	}
	out := map[identity]bool{}
	var add func(id identity)
	add = func(id identity) {
		d := m.docs[id]
		if d == nil || out[id] {
			return
		}
		out[id] = true
		for _, member := range slices.Concat(d.Bundles...) {
			add(member)
		}
	}
	names := m.named()
	for id := range live {
		d := m.docs[id]
		if d.Explicit && !d.Expired && (m.f.conf.Superseded || !superseded[id.Update]) && !m.declined(d, names) {
			add(id)
		}
	}
	return out
}

// files loads what is wanted, by the digests that the documents name.
func (m *mirror) files(ctx context.Context, live map[identity]bool) error {
	wanted := m.wanted(live)
	need := map[string]file{} // by path
	by := map[string]identity{}
	for id := range wanted {
		for _, f := range m.docs[id].Files {
			if f.SHA256 != "" {
				need[f.path()], by[f.path()] = f, id
			}
		}
	}
	list, err := m.payloadsOf()
	if err != nil {
		return err
	}
	var lack []identity
	for p, f := range need {
		if _, ok := m.found[p]; ok {
			delete(need, p) // from a drop
			continue
		}
		if m.has(p, f) {
			m.found[p] = list[p]
			delete(need, p)
		} else if m.urls[f.SHA1] == "" {
			lack = append(lack, by[p])
		}
	}
	m.keepFiles(list)
	if err := m.locate(ctx, lack); err != nil {
		return err
	}
	for p, f := range need {
		at, err := m.address(f)
		if err != nil {
			return err
		}
		want := feed.Want{Digest: f.SHA256, Size: f.Size, SHA1: hex.EncodeToString(f.SHA1[:])}
		if _, err := m.dst.Load(ctx, feed.Request{URL: at, Limit: maxPayload, Roots: m.srv.roots}, want); err != nil {
			return fmt.Errorf("%.200q: %w", f.Name, err)
		}
		m.found[p] = list[p]
	}
	return nil
}

// has reports that the last snapshot holds a file.
func (m *mirror) has(p string, f file) bool {
	if m.prev == nil {
		return false
	}
	a, ok := m.prev.Lookup(p)
	return ok && a.Digest == f.SHA256
}

// locate asks again where files are whose documents came in an earlier fetch.
func (m *mirror) locate(ctx context.Context, ids []identity) error {
	slices.SortFunc(ids, compareIdentity)
	for ids = slices.Compact(ids); len(ids) > 0; {
		part := ids[:min(len(ids), m.srv.most)]
		list, urls, err := m.srv.data(ctx, part)
		if err != nil {
			return err
		}
		ids = without(ids[len(part):], part, list)
		for sum, at := range urls {
			m.urls[sum] = at
		}
	}
	return nil
}

// address is where a file is fetched from: where the server says, or on the
// server itself.
func (m *mirror) address(f file) (string, error) {
	at := m.urls[f.SHA1]
	if at == "" {
		return m.srv.base + "/" + f.path(), nil
	}
	base, err := url.Parse(m.srv.base + "/")
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", m.srv.base, err, feed.ErrConfig)
	}
	u, err := base.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || strings.ContainsAny(at, "\r\n") {
		return "", upstream("%.200q is fetched from %.200q", f.Name, at)
	}
	return u.String(), nil
}

// payloadsOf are the files of every batch as artifacts, as Verify will want them.
func (m *mirror) payloadsOf() (map[string]feed.Artifact, error) {
	out := map[string]feed.Artifact{}
	for _, p := range sortedBatches(m.found) {
		s, err := m.batch(p)
		if err != nil {
			return nil, err
		}
		list, err := s.payloads("")
		if err != nil {
			return nil, err
		}
		for _, x := range list {
			if _, ok := out[x.Path]; !ok { // Verify takes the first, in the order of the paths
				out[x.Path] = x.Artifact
			}
		}
	}
	return out, nil
}
