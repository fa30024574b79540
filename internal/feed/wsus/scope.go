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
	members []int // numbers: non-leaf first, then by ID
	deploy  map[int]deployment
	mark    uint64 // changes when a deployment does
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
	h := fnv.New64a()
	for _, i := range s.members {
		if d := s.deploy[i]; d.action != actEvaluate {
			_ = binary.Write(h, binary.LittleEndian, []int64{int64(s.Revisions[i].ID), int64(rank(d.action)), d.deadline.Unix()})
		}
	}
	s.mark = h.Sum64()
}

func (s *scope) leaf(i int) bool { return !s.NonLeaf[s.Revisions[i].Update] }

// needed lists the members that are not drivers and whose prerequisites the
// installed updates meet.
func (s *scope) needed(installed []int32) []int {
	met := s.meets(installed)
	var out []int
	for _, i := range s.members {
		if s.Revisions[i].Type != 'D' && met(i) {
			out = append(out, i)
		}
	}
	return out
}

// meets returns whether the installed updates meet a revision's prerequisites.
func (s *scope) meets(installed []int32) func(i int) bool {
	have := map[int32]bool{}
	for _, id := range installed {
		if i, ok := s.byID[id]; ok {
			have[s.Revisions[i].Update] = true
		}
	}
	return func(i int) bool {
		for _, clause := range s.Revisions[i].Prereqs {
			if !slices.ContainsFunc(clause, func(g int32) bool { return have[g] }) {
				return false
			}
		}
		return true
	}
}
