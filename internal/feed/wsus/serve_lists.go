package wsus

import (
	"slices"
	"strings"
)

// Which revisions a downstream server is told of (MS-WSUSSS, GetRevisionIdList).

// idAndDelta is one category of a filter: with delta, only what is newer than
// the anchor; without, all of it again.
type idAndDelta struct {
	id    guid
	delta bool
}

// serverFilter is a decoded filter.
type serverFilter struct {
	cookie                      cookieFields
	anchor                      string
	config                      bool
	categories, classifications []idAndDelta
}

func (f *serverFilter) take(path, text string) (err error) {
	list := &f.categories
	if strings.HasPrefix(path, "filter/Classifications/") {
		list = &f.classifications
	}
	switch {
	case strings.HasPrefix(path, "cookie/"):
		return f.cookie.take(path, text)
	case path == "filter/Anchor":
		f.anchor = text
	case path == "filter/GetConfig":
		f.config = boolean(text)
	case strings.HasSuffix(path, "/IdAndDelta/Id"):
		g, err := parseGUID(strings.TrimSpace(text))
		if err != nil || len(*list) >= maxFilter {
			return invalid("filter")
		}
		*list = append(*list, idAndDelta{id: g})
	case strings.HasSuffix(path, "/IdAndDelta/Delta") && len(*list) > 0:
		(*list)[len(*list)-1].delta = boolean(text)
	}
	return nil
}

func boolean(text string) bool { t := strings.TrimSpace(text); return t == "true" || t == "1" }

func (s *server) getRevisionIDList(c *call) error {
	var f serverFilter
	if err := c.walk(f.take); err != nil {
		return err
	}
	_, v, err := s.downstream(c, f.cookie)
	if err != nil {
		return err
	}
	since, err := parseAnchor(f.anchor)
	if err != nil {
		return invalid("filter")
	}
	var list []int
	if f.config {
		list = v.configRevisions(since)
	} else {
		list = v.updateRevisions(since, f.categories, f.classifications)
	}
	c.begin("GetRevisionIdListResult")
	c.put("Anchor", v.anchor())
	c.begin("NewRevisions")
	for _, i := range list {
		c.identity(v.identityOf(i))
	}
	c.end(2)
	return nil
}

func (a *answer) identity(id identity) {
	a.begin("UpdateIdentity")
	a.put("UpdateID", id.Update.String())
	a.int("RevisionNumber", id.Number)
	a.end(1)
}

func (v *ringView) identityOf(i int) identity {
	r := &v.Revisions[i]
	return identity{v.Updates[r.Update], r.Number}
}

// documented finds the batch that holds a revision's document.
func (v *ringView) documented(i int) (string, bool) {
	for _, n := range v.Revisions[i].Sources {
		if p := v.Sources[n]; strings.HasPrefix(p, batchPrefix) && v.here(p) {
			return p, true
		}
	}
	return "", false
}

// configRevisions are categories, classifications and detectoids.
func (v *ringView) configRevisions(since uint64) []int {
	var out []int
	for i, r := range v.Revisions {
		if (r.Type == 'C' || r.Type == 'T') && r.Born > since && v.latest[r.Update] == i {
			if _, ok := v.documented(i); ok {
				out = append(out, i)
			}
		}
	}
	return v.ordered(out)
}

// updateRevisions are the updates of one of the categories and one of the
// classifications. Both lists must name something.
func (v *ringView) updateRevisions(since uint64, categories, classifications []idAndDelta) []int {
	byCategory, byClass := v.set(categories), v.set(classifications)
	var out []int
	for i, r := range v.Revisions {
		if r.Type != 'S' && r.Type != 'D' || v.latest[r.Update] != i {
			continue
		}
		a, b := among(r.Prereqs, byCategory), among(r.Prereqs, byClass)
		if a == nil || b == nil || r.Born <= since && a.delta && b.delta {
			continue
		}
		if _, ok := v.documented(i); ok {
			out = append(out, i)
		}
	}
	return v.ordered(out)
}

func (v *ringView) set(list []idAndDelta) map[int32]*idAndDelta {
	out := map[int32]*idAndDelta{}
	for i := range list {
		if n, ok := v.numbers[list[i].id]; ok {
			out[n] = &list[i]
		}
	}
	return out
}

func among(prereqs [][]int32, set map[int32]*idAndDelta) *idAndDelta {
	for _, clause := range prereqs {
		for _, n := range clause {
			if x, ok := set[n]; ok {
				return x
			}
		}
	}
	return nil
}

// ordered puts what others need before them, as a downstream server imports in
// the order received: members of bundles, and updates that updates build on.
func (v *ringView) ordered(list []int) []int {
	var out []int
	state := map[int]bool{}
	var visit func(i, depth int)
	visit = func(i, depth int) {
		if state[i] || depth > maxRounds {
			return
		}
		state[i] = true
		r := &v.Revisions[i]
		for _, b := range slices.Concat(r.Bundles...) {
			if n, ok := v.exact[b]; ok {
				visit(n, depth+1)
			}
		}
		for _, g := range slices.Concat(r.Prereqs...) {
			if n, ok := v.latest[g]; ok && (v.Revisions[n].Type == r.Type || r.Type == 'S' && v.Revisions[n].Type == 'D') {
				visit(n, depth+1)
			}
		}
		if _, ok := v.documented(i); ok {
			out = append(out, i)
		}
	}
	for _, i := range list {
		visit(i, 0)
	}
	return out
}
