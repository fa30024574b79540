package wsus

import (
	"encoding/xml"
	"slices"
	"strings"
)

// What a fetch leaves out beyond products and classifications: drivers for
// hardware that nobody here has, with their documents; and the files of what
// the rules decline for everyone. Documents of those stay: a rule is lifted
// sooner than a list is fetched anew.

// maxHardware bounds the patterns of a config.
const maxHardware = 1000

// hardwareIDs are the ids that a driver's document is for, lower case: the
// attribute HardwareID of each WindowsDriverMetaData among its rules.
func hardwareIDs(core []byte) (out []string) {
	d := fragment(core)
	for len(out) < maxFiles {
		t, err := d.Token()
		if err != nil {
			return out
		}
		if t, ok := t.(xml.StartElement); ok && t.Name.Local == "d.WindowsDriverMetaData" {
			if id := attr(t, "HardwareID"); id != "" && len(id) <= maxText {
				out = append(out, strings.ToLower(id))
			}
		}
	}
	return out
}

// foreign reports a driver for none of the hardware that the config names. An
// id begins with one of the patterns, whatever the case.
func (f *updates) foreign(d *document) bool {
	if d.Type != "Driver" || len(f.conf.Hardware) == 0 {
		return false
	}
	return !slices.ContainsFunc(hardwareIDs(d.piece(core)), func(id string) bool {
		return slices.ContainsFunc(f.conf.Hardware, func(p string) bool { return strings.HasPrefix(id, strings.ToLower(p)) })
	})
}

// declined reports that the rules decline an update for every group: the first
// that fits all groups does, and no group has a rule of its own that does not.
func (m *mirror) declined(d *document, names map[string][]guid) bool {
	general, of := "", map[string]string{}
	for _, r := range m.f.conf.Rules {
		if !within(d, r.Classification, names) || !within(d, r.Product, names) {
			continue
		}
		group := strings.ToLower(r.Group)
		if _, done := of[group]; done {
			continue
		}
		of[group] = r.Action
		if group == "" {
			general = r.Action
		}
	}
	for _, action := range of {
		if action != "decline" {
			return false
		}
	}
	return general == "decline"
}

// within reports that an update is of the category of that name or id.
func within(d *document, name string, names map[string][]guid) bool {
	if name == "" {
		return true
	}
	key := strings.ToLower(strings.TrimSpace(name))
	want := names[key]
	if g, err := parseGUID(key); err == nil {
		want = append(slices.Clone(want), g)
	}
	if g, ok := classifications[key]; ok {
		want = append(slices.Clone(want), g)
	}
	return slices.ContainsFunc(slices.Concat(d.Prereqs...), func(g guid) bool { return slices.Contains(want, g) })
}

// named are the categories by their titles in Japanese and English, lower case.
func (m *mirror) named() map[string][]guid {
	out := map[string][]guid{}
	for id, d := range m.docs {
		if d.Type != "Category" {
			continue
		}
		for _, l := range []string{"ja", "en"} {
			if t := strings.ToLower(d.title(l)); t != "" && !slices.Contains(out[t], id.Update) {
				out[t] = append(out[t], id.Update)
			}
		}
	}
	return out
}
