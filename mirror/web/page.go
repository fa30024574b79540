package web

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/i18n"
	"github.com/hashike/hashike/mirror"
)

// page is what templates see. Its methods put things into words.
type page struct {
	Lang, Title, Side string
	Nav               []link
	Contact           []contact
	Now               time.Time
	Data              any
	s                 *site
	query             url.Values
}

type link struct{ Path, Name string }

type contact struct{ Role, Who string }

func (s *site) page(w http.ResponseWriter, r *http.Request) *page {
	p := &page{Lang: s.lang(w, r), Now: s.b.Now(), s: s, query: r.URL.Query()}
	p.Side = s.b.Side().In(p.Lang)
	nav := []link{{mirror.PagePrefix, "page.freshness"}, {mirror.PagePrefix + "settings", "page.settings"}, {mirror.PagePrefix + "coverage", "page.coverage"}}
	if s.admin {
		nav = []link{{"/", "page.feeds"}, {"/origin", "page.origin"}, {"/problems", "page.problems"}, {"/orders", "page.orders"}, {"/terminals", "page.terminals"}, {"/coverage", "page.coverage"}}
	}
	for _, l := range nav {
		p.Nav = append(p.Nav, link{l.Path, p.T(l.Name)})
	}
	people := s.b.Contact()
	for _, role := range []string{"info", "approver", "incident", "cloud", "maintainer"} {
		if who, ok := people[role]; ok {
			p.Contact = append(p.Contact, contact{p.T("role." + role), who})
		}
	}
	return p
}

// T is a text of the catalogue.
func (p *page) T(key string, args ...any) string { return p.s.text.in(p.Lang, key, args...) }

// Text is a kind's own words.
func (p *page) Text(t feed.Text) string { return t.In(p.Lang) }

// With is this page about one part of its data.
func (p *page) With(data any) *page {
	q := *p
	q.Data = data
	return &q
}

// Other is this page in the other language.
func (p *page) Other(lang string) string {
	q := maps.Clone(p.query)
	q.Set("lang", lang)
	return "?" + q.Encode()
}

// Mbit is a rate in megabits per second.
func (p *page) Mbit(bits float64) string { return fmt.Sprintf("%.1f", bits/1e6) }

// Percent is a share.
func (p *page) Percent(v float64) string { return fmt.Sprintf("%.2f%%", v*100) }

// Date is a time as people here write it.
func (p *page) Date(t time.Time) string { return i18n.Date(t, p.Lang) }

// LastDay is the last day before an end: an exception "until" holds all of it.
func (p *page) LastDay(end time.Time) string {
	if end.IsZero() {
		return i18n.Dash
	}
	return i18n.Day(end.Add(-time.Second), p.Lang)
}

// Reason of an order in words.
func (p *page) Reason(o feed.Order) string {
	if o.Kind == feed.OrderVoid && o.Reason == feed.LostMedium {
		return p.T("order-lost", o.Bundle)
	}
	return o.Reason
}

// Age is the number of days since the vendor's release.
func (p *page) Age(released time.Time, age feed.Duration) string {
	switch days := int(time.Duration(age) / (24 * time.Hour)); {
	case released.IsZero():
		return p.T("no-date")
	case days == 0:
		return p.T("today")
	default:
		return p.T("days", days)
	}
}

// The next put the program's words into the reader's.

func (p *page) Level(l mirror.Level) string     { return p.T("level-name." + string(l)) }
func (p *page) Ring(r string) string            { return p.T("ring-name." + r) }
func (p *page) Strength(s feed.Strength) string { return p.T("strength-name." + s.String()) }
func (p *page) Order(k feed.OrderKind) string   { return p.T("order-name." + string(k)) }
func (p *page) Carried(c feed.Carried) string   { return p.T("carried." + string(c)) }
func (p *page) Method(m string) string          { return m }
func (p *page) Card(feedName, path string) string {
	return "/origin?q=" + url.QueryEscape(feedName+":"+path)
}

// Standing is where a terminal stands, in words.
func (p *page) Standing(s mirror.Standing) string {
	out := p.T("terminals." + s.Standing)
	if s.Cloned {
		out += " / " + p.T("terminals.cloned")
	}
	return out
}

// Bundle is 第412便.
func (p *page) Bundle(n uint64) string {
	if n == 0 {
		return i18n.Dash
	}
	return p.T("bundle-number", n)
}

// By is who published: a person, or the rule of the waits.
func (p *page) By(who string) string {
	if who == "rule" {
		return p.T("by-rule")
	}
	return p.Dash(who)
}

// Person is somebody named in an order, or in words the role that stands for
// one: a medium names nobody.
func (p *page) Person(who string) string {
	if who == "operator" || who == "approver" {
		return p.T(who)
	}
	return p.Dash(who)
}

// Dash shows that there is nothing to show.
func (p *page) Dash(s string) string {
	if s == "" {
		return i18n.Dash
	}
	return s
}

// Kind is the title of a feed's kind.
func (p *page) Kind(name string) string {
	for _, s := range p.s.b.Feeds() {
		if s.Name == name {
			return s.Kind.Title.In(p.Lang)
		}
	}
	return i18n.Dash
}

// Version is the vendor's version of a snapshot.
func (p *page) Version(name string, serial uint64) string {
	_, v := p.s.b.Dated(name, serial)
	return v
}

// About says what an order is about.
func (p *page) About(o feed.Order) string {
	var out []string
	if o.Feed != "" {
		out = append(out, o.Feed)
	}
	if o.Serial != 0 {
		out = append(out, fmt.Sprintf("%s %d", p.T("serial"), o.Serial))
	}
	if o.Digest != "" {
		out = append(out, string(o.Digest))
	}
	if o.Distrust != nil {
		out = append(out, o.Distrust.KeyID, string(o.Distrust.Digest))
	}
	if o.Anchor != nil {
		out = append(out, o.Anchor.Name)
	}
	if o.Detection != "" {
		out = append(out, o.Detection)
	} else if o.Kind == feed.OrderException {
		out = append(out, p.Strength(o.Strength))
	}
	return p.Dash(strings.Join(slices.DeleteFunc(out, func(s string) bool { return s == "" }), " "))
}

// Size is "3.8 GB", with the exact bytes beside.
func (p *page) Size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s (%d B)", v, units[i], n)
}
