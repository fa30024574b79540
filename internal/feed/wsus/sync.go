package wsus

import (
	"slices"
	"strings"
)

// Limits of SyncUpdates: a real server refuses the 401st installed non-leaf id
// and pages by 30.
const (
	maxNonLeaf  = 400
	maxCached   = 100_000
	syncPage    = 30
	maxDrivers  = 100_000
	maxLocales  = 32
	maxRevision = 200 // of one GetExtendedUpdateInfo; told are 50
)

// syncRequest is what SyncUpdates asks.
type syncRequest struct {
	cookie     cookieFields
	installed  numbers
	cached     numbers
	drivers    numbers
	skip       bool // SkipSoftwareSync: the drivers' pass
	spec       bool // SystemSpec is there
	system     system
	two        bool // NeedTwoGroupOutOfScopeUpdates
	categories []guid
}

func (q *syncRequest) take(path, text string) error {
	const p = "parameters/"
	switch path {
	case p + "InstalledNonLeafUpdateIDs/int":
		return q.installed.add(text, "parameters.InstalledNonLeafUpdateIDs")
	case p + "OtherCachedUpdateIDs/int":
		return q.cached.add(text, "parameters.OtherCachedUpdateIDs")
	case p + "CachedDriverIDs/int":
		return q.drivers.add(text, "parameters.CachedDriverIDs")
	case p + "SkipSoftwareSync":
		q.skip = strings.TrimSpace(text) == "true"
	case p + "NeedTwoGroupOutOfScopeUpdates":
		q.two = strings.TrimSpace(text) == "true"
	case p + "FilterCategoryIds/CategoryIdentifier/Id":
		g, err := parseGUID(strings.TrimSpace(text))
		if err != nil || len(q.categories) >= maxCategories {
			return invalid("parameters.FilterCategoryIds")
		}
		q.categories = append(q.categories, g)
	case p + "ComputerSpec/HardwareIDs/guid":
		g, err := parseGUID(strings.TrimSpace(text))
		if err != nil || len(q.system.computers) >= maxComputers {
			return invalid("parameters.ComputerSpec")
		}
		q.system.computers = append(q.system.computers, g)
	case p + "FeatureScoreMatchingKey":
		q.system.feature = strings.TrimSpace(text)
	default:
		if below, ok := strings.CutPrefix(path, p+"SystemSpec/Device/"); ok {
			q.spec = true
			return q.system.take(below, text)
		}
		if strings.HasPrefix(path, p+"SystemSpec") {
			q.spec = true
			return nil
		}
		return q.cookie.take(path, text)
	}
	return nil
}

func (s *server) syncUpdates(c *call) error {
	q := syncRequest{installed: numbers{most: maxNonLeaf}, cached: numbers{most: maxCached}, drivers: numbers{most: maxDrivers}}
	if err := c.walkEnds(q.take); err != nil {
		return err
	}
	if q.spec && !q.skip {
		return invalid("parameters.SystemSpec")
	}
	k, v, sc, err := s.session(c, q.cookie)
	if err != nil {
		return err
	}
	c.begin("SyncUpdatesResult")
	if q.skip {
		err := s.putDrivers(c, v, sc, &q, &k)
		c.end(1)
		return err
	}
	var left []int32
	if len(q.categories) > 0 {
		sc, left = sc.within(q.categories)
	}
	if err := s.putScope(c, v, sc, &q, &k, left); err != nil {
		return err
	}
	c.end(1)
	return nil
}

// putScope writes what is new, gone and changed for the terminal.
func (s *server) putScope(c *call, v *ringView, sc *scope, q *syncRequest, k *cookie, left []int32) error {
	cached := map[int32]bool{}
	for _, id := range slices.Concat(q.installed.list, q.cached.list) {
		cached[id] = true
	}
	var fresh, changed []int
	for _, i := range sc.needed(q.installed.list) {
		r := &v.Revisions[i]
		switch {
		case !cached[r.ID]:
			fresh = append(fresh, i)
		case v.Since[r.Update] > k.serial, k.mark != sc.mark && sc.deploy[i].action != actEvaluate:
			changed = append(changed, i)
			fallthrough
		default:
			delete(cached, r.ID)
		}
	}
	truncated := len(fresh) > syncPage
	c.begin("NewUpdates")
	for _, i := range fresh[:min(len(fresh), syncPage)] {
		core, err := v.fragment(v.Revisions[i].Core)
		if err != nil {
			return err
		}
		putUpdate(&c.answer, v, sc, i, core, nil)
	}
	c.end(1)
	var gone, filtered []int32
	kept := map[int32]bool{}
	for _, id := range left {
		kept[id] = q.two
	}
	for id := range cached { // what is left was not needed
		if kept[id] {
			filtered = append(filtered, id)
		} else {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	slices.Sort(filtered)
	c.ints("OutOfScopeRevisionIDs", gone)
	if len(changed) > 0 {
		c.begin("ChangedUpdates")
		for _, i := range changed {
			putUpdate(&c.answer, v, sc, i, nil, nil)
		}
		c.end(1)
	}
	c.flag("Truncated", truncated)
	if len(q.categories) == 0 { // a category scan tells nothing of the rest
		k.serial, k.mark = v.Serial, sc.mark
	}
	s.putCookie(&c.answer, "NewCookie", *k)
	c.ints("DeployedOutOfScopeRevisionIds", filtered)
	c.flag("DriverSyncNotNeeded", len(q.categories) > 0 || !sc.driven)
	return nil
}

// putUpdate writes an UpdateInfo; hardware are the ids that a driver was chosen by.
func putUpdate(a *answer, v *ringView, sc *scope, i int, core []byte, hardware []string) {
	a.begin("UpdateInfo")
	a.int("ID", v.Revisions[i].ID)
	putDeployment(a, v, i, sc.deploy[i], hardware)
	a.flag("IsLeaf", sc.leaf(i))
	if core != nil {
		a.begin("Xml")
		a.Write(core)
		a.end(1)
	}
	a.end(1)
}

// putDeployment writes a Deployment; a revision and its deployment have one number.
func putDeployment(a *answer, v *ringView, i int, d deployment, hardware []string) {
	a.begin("Deployment")
	a.int("ID", v.Revisions[i].ID)
	a.put("Action", d.action)
	if !d.deadline.IsZero() {
		a.put("Deadline", stamp(d.deadline))
	}
	a.flag("IsAssigned", d.action != actOptional)
	a.put("LastChangeTime", v.view.Published.UTC().Format("2006-01-02"))
	if len(hardware) > 0 {
		a.begin("HardwareIds")
		for _, id := range hardware {
			a.put("string", id)
		}
		a.end(1)
	}
	a.put("AutoSelect", "0")
	a.put("AutoDownload", "0")
	a.put("SupersedenceBehavior", "0")
	a.end(1)
}

func (s *server) getExtendedUpdateInfo(c *call) error {
	var f cookieFields
	ids := numbers{most: maxRevision}
	var kinds, langs []string
	err := c.walk(func(path, text string) (err error) {
		switch path {
		case "revisionIDs/int":
			return ids.add(text, "revisionIDs")
		case "infoTypes/XmlUpdateFragmentType":
			kinds, err = texts(kinds, text, "infoTypes", 16)
		case "locales/string":
			langs, err = texts(langs, text, "locales", maxLocales)
		default:
			err = f.take(path, text)
		}
		return err
	})
	if err != nil {
		return err
	}
	_, v, sc, err := s.session(c, f)
	if err != nil {
		return err
	}
	var gone []int32
	files := map[int32]bool{}
	c.begin("GetExtendedUpdateInfoResult", "Updates")
	kinds = slices.Compact(slices.Sorted(slices.Values(kinds)))
	for _, id := range distinct(ids.list) {
		if c.Len() > maxReply {
			return invalid("revisionIDs")
		}
		i, ok := v.byID[id]
		if _, in := sc.deploy[i]; !ok || !in {
			gone = append(gone, id)
			continue
		}
		if err := putFragments(c, v, &v.Revisions[i], kinds, langs); err != nil {
			return err
		}
		for _, n := range v.Revisions[i].Files {
			files[n] = true
		}
	}
	c.end(1)
	c.begin("FileLocations")
	for n, file := range v.Files {
		if files[int32(n)] && v.here(file.Path) {
			s.putLocation(c, file)
		}
	}
	c.end(1)
	c.ints("OutOfScopeRevisionIDs", gone)
	c.end(1)
	return nil
}

// maxReply is where an answer is large enough: what is left out must be asked
// for again. Real answers stay below 2 MB.
const maxReply = 16 << 20

// distinct keeps the first of each, in their order.
func distinct[T comparable](list []T) []T {
	had := make(map[T]bool, len(list))
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool {
		twice := had[x]
		had[x] = true
		return twice
	})
}

// putFragments writes one Update per fragment that was asked for.
func putFragments(c *call, v *ringView, r *revision, kinds, langs []string) error {
	for _, kind := range kinds {
		at := span{}
		switch kind {
		case "Core":
			at = r.Core
		case "Extended":
			at = r.Extended
		case "LocalizedProperties":
			if t, ok := r.pick(langs); ok {
				at = t.At
			}
		}
		if at.Len == 0 {
			continue
		}
		b, err := v.fragment(at)
		if err != nil {
			return err
		}
		c.begin("Update")
		c.int("ID", r.ID)
		c.begin("Xml")
		c.Write(b)
		c.end(2)
	}
	return nil
}
