package adobe

import (
	"cmp"
	"slices"
)

// Patch is one patch (.msp) that is there. A quarterly one contains all that is
// newer than the base installer and replaces every patch before it: After is
// zero. One between two quarters contains what came since the last quarterly,
// which must be there: After. Patches never add up otherwise: of one quarter
// only the newest is needed.
type Patch struct {
	Path    string
	Version Version
	After   Version
}

// applies reports whether the patch may be installed on a version (Windows
// Installer else answers 1642).
func (p Patch) applies(installed Version) bool {
	switch {
	case !p.Version.sameTrack(installed) || installed.order() >= p.Version.order():
		return false
	case p.After == Version{}:
		return true
	}
	return installed.quarter() == p.After.quarter() && installed.order() >= p.After.order()
}

// Route is what brings an installed version as far as the patches that are
// there can: at most a quarterly one and one after it.
type Route struct {
	Steps []Patch
	// Missing is the quarterly patch that the newest patch needs and that is
	// not there; zero if Steps leads to the newest.
	Missing Version
}

// PatchRoute finds the route of an installed version among the patches of one
// product and language. Those of another track are passed over.
func PatchRoute(installed Version, all []Patch) Route {
	var mine []Patch
	for _, p := range all {
		if p.Version.sameTrack(installed) && p.Version.order() > installed.order() {
			mine = append(mine, p)
		}
	}
	slices.SortFunc(mine, func(a, b Patch) int { return cmp.Compare(b.Version.order(), a.Version.order()) })
	var r Route
	for i, p := range mine {
		if p.applies(installed) {
			r.Steps = []Patch{p}
			return r
		}
		for _, q := range mine[i+1:] {
			if q.applies(installed) && p.applies(q.Version) {
				r.Steps = []Patch{q, p}
				return r
			}
		}
		if r.Missing == (Version{}) {
			r.Missing = p.After
		}
	}
	return r
}
