package wsus

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// What a terminal may see (MS-WUSP 3.1.5.7, SyncUpdates). Deployed updates pull
// in their prerequisites and bundle members; of those a terminal gets what its
// installed non-leaf updates make visible, stage by stage.

// Actions on the wire (MS-WUSP 2.2.2.2.4, Deployment).
const (
	actEvaluate  = "Evaluate"
	actBundle    = "Bundle"
	actInstall   = "Install"
	actOptional  = "OptionalInstall"
	actUninstall = "Uninstall"
	actDetect    = "PreDeploymentCheck"
)

// words are the actions of a Decision; "decline" deploys nothing.
var words = map[string]string{"install": actInstall, "optional": actOptional, "uninstall": actUninstall, "detect": actDetect, "decline": ""}

// catalog is what one ring's publication holds.
type catalog struct {
	*index
	view     feed.View
	byID     map[int32]int            // revision ID → number
	exact    map[bundled]int          // (update, RevisionNumber) → number, of visible ones
	latest   map[int32]int            // update → number of its newest visible revision
	numbers  map[guid]int32           // UpdateID → update
	complete []bool                   // by number: it and enough of its bundle can be downloaded
	told     map[string]feed.Decision // "source\x00update\x00group"
	groups   map[string]bool          // that decisions name
	turns    []time.Time              // when rules' waits end, in order
	drivers  map[string][]driverOfRevision
}

func newCatalog(x *index, v feed.View) *catalog {
	c := &catalog{index: x, view: v, byID: map[int32]int{}, exact: map[bundled]int{}, latest: map[int32]int{},
		numbers: map[guid]int32{}, told: map[string]feed.Decision{}, groups: map[string]bool{}}
	for i, g := range x.Updates {
		c.numbers[g] = int32(i)
	}
	shown := make([]bool, len(x.Sources))
	for i, p := range x.Sources {
		shown[i] = c.here(p)
	}
	files := make([]bool, len(x.Files))
	for i, f := range x.Files {
		files[i] = c.here(f.Path)
	}
	whole := make([]bool, len(x.Revisions))
	for i, r := range x.Revisions {
		if !slices.ContainsFunc(r.Sources, func(s int32) bool { return shown[s] }) {
			continue
		}
		c.byID[r.ID] = i
		c.exact[bundled{r.Update, r.Number}] = i
		if old, ok := c.latest[r.Update]; !ok || x.Revisions[old].Number < r.Number {
			c.latest[r.Update] = i
		}
		whole[i] = !r.Lacking && !slices.ContainsFunc(r.Files, func(f int32) bool { return !files[f] })
	}
	c.complete = c.completed(whole)
	c.drivers = c.byHardware()
	for _, d := range v.Decisions {
		c.tell(d)
	}
	slices.SortFunc(c.turns, time.Time.Compare)
	c.turns = slices.CompactFunc(c.turns, time.Time.Equal)
	return c
}

func (c *catalog) tell(d feed.Decision) {
	if d.Source == "" {
		d.Source = feed.ByInside
	}
	c.told[d.Source+"\x00"+d.Key()] = d
	c.groups[strings.ToLower(d.Group)] = true
	if !d.From.IsZero() {
		c.turns = append(c.turns, d.From)
	}
}

// here reports whether terminals of this view get an artifact.
func (c *catalog) here(p string) bool {
	_, ok := c.view.Lookup(p)
	_, held := c.view.Withheld[p]
	return ok && !held
}

// deployment is what a terminal is to do with a revision.
type deployment struct {
	action   string
	deadline time.Time
}

// rank orders actions where several reach one revision.
func rank(action string) int {
	return slices.Index([]string{actEvaluate, actBundle, actDetect, actOptional, actInstall, actUninstall}, action)
}

// scope is all that one group of terminals may ever see.
type scope struct {
	*catalog
	members []int       // numbers: non-leaf first, then by ID
	asks    []int       // by place in members: number of its prerequisites in needs
	needs   [][][]int32 // the different prerequisites; thousands of updates share one
	deploy  map[int]deployment
	mark    uint64 // changes when a deployment does
	driven  bool   // a driver is deployed: else terminals need not ask for any
}

// decide finds the word on an update: a person's before a rule's, and of each
// the group's, the ring's, everybody's, and the inside's rules before the
// outside's; else what those say of all others, else install. false: the terminals are not to have it.
func (c *catalog) decide(update guid, ring, group string, now time.Time) (deployment, bool) {
	for _, subject := range []string{update.String(), "*"} {
		for _, source := range []string{feed.ByInside, feed.ByOutside, feed.BySuperseded, feed.ByRule, feed.ByOutsideRule} {
			for _, g := range []string{strings.ToLower(group), ring, ""} {
				d, ok := c.told[source+"\x00"+subject+"\x00"+g]
				if !ok || source == feed.BySuperseded && (d.Next || !c.offers(d.By)) {
					continue
				}
				action := words[strings.ToLower(d.Action)]
				return deployment{action, d.Deadline}, action != "" && !d.From.After(now)
			}
		}
	}
	return deployment{action: actInstall}, true
}

// offers reports whether an update can be downloaded: one that supersedes
// another may have been withdrawn since.
func (c *catalog) offers(id string) bool {
	g, err := parseGUID(id)
	if err != nil {
		return false
	}
	n, known := c.numbers[g]
	i, shown := c.latest[n]
	return known && shown && c.complete[i]
}

// scope computes the closure of what is deployed.
func (c *catalog) scope(ring, group string, now time.Time) *scope {
	s := &scope{catalog: c, deploy: map[int]deployment{}}
	for _, i := range c.latest {
		r := &c.Revisions[i]
		if r.Type != 'S' && r.Type != 'D' || !r.Explicit || !c.complete[i] {
			continue
		}
		if d, ok := c.decide(c.Updates[r.Update], ring, group, now); ok {
			s.reach(i, d)
		}
	}
	s.sort()
	return s
}

// reach adds a revision and all that it needs.
func (s *scope) reach(i int, d deployment) {
	type step struct {
		number int
		deployment
	}
	for todo := []step{{i, d}}; len(todo) > 0; {
		now := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		had, known := s.deploy[now.number]
		if known && rank(had.action) >= rank(now.action) {
			continue
		}
		s.deploy[now.number] = now.deployment
		r := &s.Revisions[now.number]
		if !known {
			for _, g := range slices.Concat(r.Prereqs...) {
				if n, ok := s.latest[g]; ok {
					todo = append(todo, step{n, deployment{action: actEvaluate}})
				}
			}
		}
		if now.action == actEvaluate {
			continue
		}
		for _, b := range slices.Concat(r.Bundles...) {
			if n, ok := s.exact[b]; ok && s.complete[n] {
				todo = append(todo, step{n, deployment{action: actBundle}})
			}
		}
	}
}

func (s *scope) sort() {
	s.members = s.members[:0]
	for i := range s.deploy {
		s.members = append(s.members, i)
	}
	slices.SortFunc(s.members, func(a, b int) int {
		x, y := &s.Revisions[a], &s.Revisions[b]
		if s.leaf(a) != s.leaf(b) {
			if s.leaf(a) {
				return 1
			}
			return -1
		}
		return cmp.Compare(x.ID, y.ID)
	})
	s.share()
	h := fnv.New64a()
	for _, i := range s.members {
		if d := s.deploy[i]; d.action != actEvaluate {
			_ = binary.Write(h, binary.LittleEndian, []int64{int64(s.Revisions[i].ID), int64(rank(d.action)), d.deadline.Unix()})
		}
	}
	s.mark = h.Sum64()
}

// share finds which members have the same prerequisites, so that a scan judges
// each of those once and not each update.
func (s *scope) share() {
	s.asks, s.needs = nil, nil
	known := map[string]int{}
	var key []byte
	for _, i := range s.members {
		key = key[:0]
		for _, clause := range s.Revisions[i].Prereqs {
			for _, g := range clause {
				key = binary.LittleEndian.AppendUint32(key, uint32(g))
			}
			key = append(key, 0xFF, 0xFF, 0xFF, 0xFF) // no update has this number
		}
		n, ok := known[string(key)]
		if !ok {
			n = len(s.needs)
			known[string(key)] = n
			s.needs = append(s.needs, s.Revisions[i].Prereqs)
		}
		s.asks = append(s.asks, n)
		s.driven = s.driven || len(s.Revisions[i].Drivers) > 0 && s.deploy[i].action != actEvaluate
	}
}

func (s *scope) leaf(i int) bool { return !s.NonLeaf[s.Revisions[i].Update] }

// needed lists the members that are not drivers and whose prerequisites the
// installed updates meet.
func (s *scope) needed(installed []int32) []int {
	have := s.installed(installed)
	met := make([]bool, len(s.needs))
	for n, prereqs := range s.needs {
		met[n] = meets(prereqs, have)
	}
	var out []int
	for at, i := range s.members {
		if met[s.asks[at]] && s.Revisions[i].Type != 'D' {
			out = append(out, i)
		}
	}
	return out
}

// installed are the updates of revisions.
func (c *catalog) installed(ids []int32) map[int32]bool {
	have := make(map[int32]bool, len(ids))
	for _, id := range ids {
		if i, ok := c.byID[id]; ok {
			have[c.Revisions[i].Update] = true
		}
	}
	return have
}

// meets reports whether the updates a terminal has meet prerequisites.
func meets(prereqs [][]int32, have map[int32]bool) bool {
	for _, clause := range prereqs {
		if !slices.ContainsFunc(clause, func(g int32) bool { return have[g] }) {
			return false
		}
	}
	return true
}
