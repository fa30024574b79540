package adobe

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// terminal is Windows Installer as Adobe's guide for enterprises has it: a base
// installer, at most one quarterly patch on it and at most one that belongs to
// that quarter.
type terminal struct{ installed, quarterly Version }

// take installs a patch, or does not (1642).
func (t *terminal) take(p Patch) bool {
	if p.Version.sameTrack(t.installed) && p.Version.order() > t.installed.order() {
		if p.After == (Version{}) {
			t.installed, t.quarterly = p.Version, p.Version
			return true
		}
		if t.quarterly == p.After {
			t.installed = p.Version
			return true
		}
	}
	return false
}

// reach is the newest version that any order of patches leads to, and the least
// number of them: tried out, not thought out.
func reach(t terminal, all []Patch) (best Version, steps int) {
	best = t.installed
	for _, p := range all {
		next := t
		if !next.take(p) {
			continue
		}
		if v, n := reach(next, all); v.order() > best.order() || v == best && n+1 < steps {
			best, steps = v, n+1
		}
	}
	return best, steps
}

// history is a vendor's releases on one track.
func history(t *rapid.T, year, track int) (quarterlies []Patch, all []Patch) {
	for y := year; y < year+2; y++ {
		for q := 1; q <= rapid.IntRange(0, 2).Draw(t, "quarters"); q++ {
			v := Version{y, q, track + y*100 + q*10}
			p := Patch{Path: v.String(), Version: v}
			quarterlies, all = append(quarterlies, p), append(all, p)
			for i := range rapid.IntRange(0, 2).Draw(t, "between") {
				w := v
				w.Build += i + 1
				all = append(all, Patch{Path: w.String(), Version: w, After: v})
			}
		}
	}
	return quarterlies, all
}

// TestPatchRoute: every route works on a terminal step by step and leads as far,
// in as few steps, as any order of patches could; what is missing is named.
func TestPatchRoute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, all := history(t, 22, 20000)
		var carried []Patch
		for _, p := range all {
			if rapid.IntRange(0, 3).Draw(t, "carried") > 0 {
				carried = append(carried, p)
			}
		}
		mine := slices.Clone(carried)
		_, other := history(t, 22, 30000)
		carried = append(carried, other...) // a classic track beside it
		carried = rapid.Permutation(carried).Draw(t, "order")
		start := terminal{installed: Version{15, 7, 20033}}
		for _, p := range all {
			if rapid.Bool().Draw(t, "had") {
				start.take(p)
			}
		}
		best, steps := reach(start, mine)
		r := PatchRoute(start.installed, carried)
		end := start
		for _, p := range r.Steps {
			if !end.take(p) {
				t.Fatalf("%v on %+v does not apply", p, end)
			}
		}
		if end.installed != best || len(r.Steps) != steps || len(r.Steps) > 2 {
			t.Fatalf("%v leads to %v in %d, %v in %d can be", r, end.installed, len(r.Steps), best, steps)
		}
		newest := start.installed
		var of Patch
		for _, p := range mine {
			if p.Version.order() > newest.order() {
				newest, of = p.Version, p
			}
		}
		if want := (Version{}); newest != best {
			want = of.After
			if r.Missing != want || slices.ContainsFunc(mine, func(p Patch) bool { return p.Version == want }) {
				t.Fatalf("missing %v, want %v", r.Missing, want)
			}
		} else if r.Missing != want {
			t.Fatalf("missing %v, and nothing is", r.Missing)
		}
	})
}

func TestVersions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`\d{2}\.\d{3}\.\d{5}|[0-9.]{0,14}`).Draw(t, "version")
		if v, ok := ParseVersion(s); ok && v.String() != s {
			t.Fatalf("%q is %v", s, v)
		}
	})
	for _, bad := range []string{"", "25.001.20577 ", "25.1.20577", "25.001.205770", "２5.001.20577"} {
		if v, ok := ParseVersion(bad); ok {
			t.Errorf("%q is %v", bad, v)
		}
	}
}
