package wsus

import "slices"

// Bundles and prerequisites come from outside and may name each other in
// circles, or fan out: what follows from them is computed for all revisions at
// once, never by going down from one.

// maxNested is how deep bundles hold bundles; real ones hold none that do.
const maxNested = 8

// completed finds the revisions that can be downloaded: all their files are
// here, and one member of each clause of their bundle is such a revision.
func (c *catalog) completed(whole []bool) []bool {
	done := make([]bool, len(whole))
	var waiting []int
	for i, ok := range whole {
		if ok && len(c.Revisions[i].Bundles) > 0 {
			waiting = append(waiting, i)
		} else {
			done[i] = ok
		}
	}
	for range maxNested {
		var now []int
		waiting = slices.DeleteFunc(waiting, func(i int) bool {
			for _, clause := range c.Revisions[i].Bundles {
				if !slices.ContainsFunc(clause, func(b bundled) bool { n, ok := c.exact[b]; return ok && done[n] }) {
					return false
				}
			}
			now = append(now, i)
			return true
		})
		if len(now) == 0 {
			break
		}
		for _, i := range now {
			done[i] = true
		}
	}
	return done
}

// within restricts a scope to updates that reach one of the categories, for
// category scans; left are the deployed ones that do not.
func (s *scope) within(categories []guid) (sub *scope, left []int32) {
	sub = &scope{catalog: s.catalog, deploy: map[int]deployment{}}
	hit := map[int]bool{}
	for _, g := range categories {
		if n, ok := s.numbers[g]; ok {
			if i, ok := s.latest[n]; ok {
				hit[i] = true
				sub.reach(i, deployment{action: actEvaluate})
			}
		}
	}
	s.spread(hit)
	for _, i := range s.members {
		d := s.deploy[i]
		if d.action == actEvaluate || d.action == actBundle {
			continue
		}
		if hit[i] {
			sub.reach(i, d)
		} else {
			left = append(left, s.Revisions[i].ID)
		}
	}
	sub.sort()
	return sub, left
}

// spread adds to hit the members that reach one of it: by prerequisites, then
// also by the members of their bundles.
func (s *scope) spread(hit map[int]bool) {
	builds, holds := map[int][]int{}, map[int][]int{} // turned round
	for _, i := range s.members {
		for _, clause := range s.Revisions[i].Prereqs {
			for _, g := range clause {
				if n, ok := s.latest[g]; ok {
					builds[n] = append(builds[n], i)
				}
			}
		}
		for _, clause := range s.Revisions[i].Bundles {
			for _, b := range clause {
				if n, ok := s.exact[b]; ok && s.complete[n] {
					holds[n] = append(holds[n], i)
				}
			}
		}
	}
	for _, turned := range []map[int][]int{builds, holds} {
		stack := make([]int, 0, len(hit))
		for i := range hit {
			stack = append(stack, i)
		}
		for len(stack) > 0 {
			at := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, i := range turned[at] {
				if !hit[i] {
					hit[i] = true
					stack = append(stack, i)
				}
			}
		}
	}
}
