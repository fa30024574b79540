package apt

import (
	"strings"
)

// chosen returns the packages to carry: the newest version of each named
// package and, over Depends and Pre-Depends, of what those need as far as the
// archive has it. What it has not (a security suite holds few) comes from the
// terminal's other sources. Of alternatives "a | b" the first that the archive
// has is enough; a virtual package is satisfied by its first provider.
func chosen(all []pkg, names []string) []pkg {
	byName, provider := map[string][]int{}, map[string][]int{}
	for i, p := range all {
		byName[p.name] = append(byName[p.name], i)
		for _, v := range strings.Split(p.provides, ",") {
			if n := relation(v); n != "" {
				provider[n] = append(provider[n], i)
			}
		}
	}
	take := map[int]bool{}
	var queue []string
	seen := map[string]bool{}
	want := func(name string) bool {
		at := byName[name]
		if len(at) == 0 {
			if at = provider[name]; len(at) == 0 {
				return false
			}
			name = all[at[0]].name
		}
		if !seen[name] {
			seen[name] = true
			queue = append(queue, name)
		}
		return true
	}
	for _, n := range names {
		want(n)
	}
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		for _, i := range newest(all, byName[name]) {
			take[i] = true
			for _, clause := range strings.Split(all[i].depends, ",") {
				for _, alt := range strings.Split(clause, "|") {
					if n := relation(alt); n != "" && want(n) {
						break
					}
				}
			}
		}
	}
	var out []pkg
	for i, p := range all {
		if take[i] {
			out = append(out, p)
		}
	}
	return out
}

// newest keeps, of one name, the highest version for each architecture.
func newest(all []pkg, at []int) []int {
	best := map[string]int{}
	for _, i := range at {
		j, ok := best[all[i].arch]
		if !ok || compareVersions(all[i].version, all[j].version) > 0 {
			best[all[i].arch] = i
		}
	}
	out := make([]int, 0, len(best))
	for _, i := range at {
		if best[all[i].arch] == i {
			out = append(out, i)
		}
	}
	return out
}

// relation is the package name of "name:any (>= 1) [arch] <profile>".
func relation(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, " (\n[<"); i >= 0 {
		s = s[:i]
	}
	s, _, _ = strings.Cut(s, ":")
	return s
}

// compareVersions orders Debian versions (Debian Policy §5.6.12).
func compareVersions(a, b string) int {
	ea, a := epoch(a)
	eb, b := epoch(b)
	if c := compareNumbers(ea, eb); c != 0 {
		return c
	}
	ua, ra := revision(a)
	ub, rb := revision(b)
	if c := compareParts(ua, ub); c != 0 {
		return c
	}
	return compareParts(ra, rb)
}

func epoch(v string) (string, string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		return e, rest
	}
	return "0", v
}

func revision(v string) (string, string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// compareParts compares alternating non-digit and digit runs.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a = run(a, false)
		y, b = run(b, false)
		if c := compareText(x, y); c != 0 {
			return c
		}
		x, a = run(a, true)
		y, b = run(b, true)
		if c := compareNumbers(x, y); c != 0 {
			return c
		}
	}
	return 0
}

func run(s string, digits bool) (string, string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9') == digits {
		i++
	}
	return s[:i], s[i:]
}

// order: "~" before the end, the end before letters, letters before the rest.
func order(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'A' && s[i] <= 'Z' || s[i] >= 'a' && s[i] <= 'z':
		return int(s[i])
	}
	return int(s[i]) + 256
}

func compareText(a, b string) int {
	for i := range max(len(a), len(b)) {
		if d := order(a, i) - order(b, i); d != 0 {
			return d
		}
	}
	return 0
}

func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
