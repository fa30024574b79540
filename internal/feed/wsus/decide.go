package wsus

import (
	"fmt"
	"html"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Approvals: rules of the configuration, and the clean-up of what is superseded.
// Persons' words and the order of precedence are the engine's (feed.Decision).

// classifications have the same ids everywhere; drops do not bring their names.
var classifications = map[string]guid{
	"critical updates": classCritical, "security updates": classSecurity, "definition updates": classDefinition,
	"update rollups":  mustGUID("28bc880e-0592-4cbf-8f95-c79b17911d5f"),
	"updates":         mustGUID("cd5ffd1e-e932-4e3a-bf74-18bf0b1bbd83"),
	"feature packs":   mustGUID("b54e7d24-7add-428f-8b75-90a396fa584f"),
	"service packs":   mustGUID("68c5b0a3-d1a6-4553-ae49-01d3a7827828"),
	"tools":           mustGUID("b4832bd8-e735-4761-8daf-37f882276dab"),
	"drivers":         mustGUID("ebfc1fc5-71a4-4f7b-9aca-3b9a503104a0"),
	"upgrades":        mustGUID("3689bdc8-b205-4af4-8d4a-a63924c5e9d5"),
	"security update": classSecurity,
}

// Actions implements feed.Decider.
func (f *updates) Actions() []string {
	return []string{"install", "optional", "detect", "decline", "uninstall"}
}

// describer reads names from derived files.
type describer struct {
	*catalog
	ring  *ringView
	names map[int32]map[string]string // update → language → title, of categories
}

func describe(v feed.View) (*describer, error) {
	r, err := openRing(v, map[uint64]*index{})
	if err != nil {
		return nil, err
	}
	return &describer{r.catalog, r, map[int32]map[string]string{}}, nil
}

// close frees the fragments: unlike a handler's, they are read once.
func (d *describer) close() {
	if c, ok := d.ring.fragments.(io.Closer); ok {
		c.Close()
	}
}

// title is a revision's name in one language; the nearest if it has not that.
func (d *describer) title(r *revision, langs ...string) string {
	t, ok := r.pick(langs)
	if !ok {
		return ""
	}
	b, err := d.ring.fragment(t.At)
	if err != nil {
		return ""
	}
	return elementText([]byte(html.UnescapeString(string(b))), "Title")
}

func (d *describer) text(r *revision) feed.Text {
	return feed.Text{JA: d.title(r, "ja", "ja-jp"), EN: d.title(r, "en", "en-us")}
}

// category is a category's name in both languages; a classification's id is
// known without the category.
func (d *describer) category(n int32) feed.Text {
	if i, ok := d.latest[n]; ok {
		if t := d.text(&d.Revisions[i]); t.EN != "" {
			return t
		}
	}
	for name, g := range classifications {
		if g == d.Updates[n] && name != "security update" {
			return feed.Text{JA: name, EN: name}
		}
	}
	return feed.Text{}
}

// categories lists the update's classification and products.
func (d *describer) categories(r *revision) (class int32, products []int32) {
	class = -1
	for _, n := range slices.Concat(r.Prereqs...) {
		i, ok := d.latest[n]
		g := d.Updates[n]
		switch {
		case slices.Contains(slices.Collect(maps.Values(classifications)), g), ok && d.Revisions[i].Category == "UpdateClassification":
			class = n
		case ok && d.Revisions[i].Type == 'C':
			products = append(products, n)
		}
	}
	return class, products
}

// deployable are the updates that can be decided about, by revision id.
func (c *catalog) deployable() []int {
	var out []int
	for _, i := range c.latest {
		if r := &c.Revisions[i]; (r.Type == 'S' || r.Type == 'D') && r.Explicit {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b int) int { return int(c.Revisions[a].ID - c.Revisions[b].ID) })
	return out
}

// superseders says of each update which deployable ones supersede it.
func (c *catalog) superseders() map[int32][]int {
	out := map[int32][]int{}
	for _, i := range c.deployable() {
		for _, n := range c.Revisions[i].Supersedes {
			if n != c.Revisions[i].Update {
				out[n] = append(out[n], i)
			}
		}
	}
	return out
}

// Updates implements feed.Decider.
func (f *updates) Updates(v feed.View) ([]feed.Update, error) {
	d, err := describe(v)
	if err != nil {
		return nil, err
	}
	defer d.close()
	over := d.superseders()
	var out []feed.Update
	for _, i := range d.deployable() {
		r := &d.Revisions[i]
		u := feed.Update{ID: d.Updates[r.Update].String(), Title: d.text(r), Size: d.size(i, 0), Complete: d.complete[i]}
		if r.KB != "" {
			u.Name = "KB" + r.KB
		}
		u.Created, _ = time.Parse(time.RFC3339, r.Created) // zero is unknown
		class, products := d.categories(r)
		if class >= 0 {
			u.Class = d.category(class)
		}
		for _, n := range products {
			u.Products = append(u.Products, d.category(n))
		}
		for _, k := range over[r.Update] {
			u.Superseded = append(u.Superseded, d.Updates[d.Revisions[k].Update].String())
		}
		out = append(out, u)
	}
	return out, nil
}

// size is what a terminal would download at most.
func (d *describer) size(i, depth int) (n int64) {
	if depth > 8 {
		return 0
	}
	for _, f := range d.Revisions[i].Files {
		n += d.Files[f].Size
	}
	for _, b := range slices.Concat(d.Revisions[i].Bundles...) {
		if k, ok := d.exact[b]; ok {
			n += d.size(k, depth+1)
		}
	}
	return n
}

// Titles implements feed.Decider.
func (f *updates) Titles(derived fs.FS, ids []string) (map[string]feed.Text, error) {
	x, err := openIndex(derived)
	if err != nil {
		return nil, err
	}
	r, err := openFragments(derived)
	if err != nil {
		return nil, err
	}
	want := map[guid]bool{}
	for _, id := range ids {
		if g, err := parseGUID(id); err == nil {
			want[g] = true
		}
	}
	d := &describer{ring: &ringView{fragments: r}}
	defer d.close()
	out := map[string]feed.Text{}
	for i := range x.Revisions {
		if g := x.Updates[x.Revisions[i].Update]; want[g] {
			out[g.String()] = d.text(&x.Revisions[i])
		}
	}
	return out, nil
}

// fits reports whether a rule is about an update.
func (d *describer) fits(rule Rule, r *revision) bool {
	return d.in(rule.Classification, r) && d.in(rule.Product, r)
}

// in reports whether an update is of the category of that name or id.
func (d *describer) in(name string, r *revision) bool {
	if name == "" {
		return true
	}
	want, byID := classifications[strings.ToLower(name)]
	if g, err := parseGUID(name); err == nil {
		want, byID = g, true
	}
	for _, n := range slices.Concat(r.Prereqs...) {
		if byID && d.Updates[n] == want {
			return true
		}
		if i, ok := d.latest[n]; ok && d.Revisions[i].Type == 'C' && d.called(n, i, name) {
			return true
		}
	}
	return false
}

// called compares a category's names, which it remembers.
func (d *describer) called(n int32, i int, name string) bool {
	t, ok := d.names[n]
	if !ok {
		x := d.text(&d.Revisions[i])
		t = map[string]string{"ja": strings.ToLower(x.JA), "en": strings.ToLower(x.EN)}
		d.names[n] = t
	}
	name = strings.ToLower(name)
	return t["ja"] == name || t["en"] == name
}

// Decide implements feed.Decider.
func (f *updates) Decide(v feed.View, ring string, prev []feed.Decision, newer bool, now time.Time) ([]feed.Decision, error) {
	outside, err := parseRules(v.Rules.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.Rules.By, err)
	}
	d, err := describe(v)
	if err != nil {
		return nil, err
	}
	defer d.close()
	had := map[string]feed.Decision{}
	for _, p := range prev {
		had[p.Source+"\x00"+p.Key()] = p
	}
	out := f.rules(d, outside, v.Rules.By, ring, had, now)
	for _, x := range out {
		d.tell(x)
	}
	return append(out, f.cleanUp(d, ring, had, newer, now)...), nil
}

// cleanUp declines what is superseded by something that the same terminals are
// offered and can download, from the next newer publication on: sites with a
// slow line finish what they began (microsoft.md 2.5).
func (f *updates) cleanUp(d *describer, ring string, had map[string]feed.Decision, newer bool, now time.Time) []feed.Decision {
	over := d.superseders()
	var out []feed.Decision
	for _, i := range d.deployable() {
		r := &d.Revisions[i]
		for _, group := range slices.Sorted(maps.Keys(mapsWith(d.groups, ""))) {
			k := slices.IndexFunc(over[r.Update], func(n int) bool {
				w, ok := d.decide(d.Updates[d.Revisions[n].Update], ring, group, now)
				return ok && (w.action == actInstall || w.action == actOptional) && d.complete[n] && !slices.Contains(over[d.Revisions[n].Update], i)
			})
			if k < 0 {
				continue
			}
			x := feed.Decision{Subject: d.Updates[r.Update].String(), Group: group, Action: "decline", Source: feed.BySuperseded, Since: now, Next: true,
				By: d.Updates[d.Revisions[over[r.Update][k]].Update].String()}
			if was, ok := had[x.Source+"\x00"+x.Key()]; ok {
				x.Since, x.Next = was.Since, was.Next && !newer
			}
			out = append(out, x)
		}
	}
	return out
}

// mapsWith is the keys of a set and one more.
func mapsWith(set map[string]bool, more string) map[string]bool {
	out := maps.Clone(set)
	out[more] = true
	return out
}
