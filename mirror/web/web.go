// Package web makes the pages of a mirror: for terminals' users (update status,
// client settings) and for the operator (feeds, origin cards, generations,
// problems, orders). Plain HTML in Japanese and English, no JavaScript, made to
// be printed on A4. Pages only show; nothing is changed here.
package web

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/mirror"
)

//go:embed templates/*.html style.css
var files embed.FS

// site is the pages of one listener.
type site struct {
	b     *mirror.Board
	admin bool
	text  text
	html  *template.Template
	langs language.Matcher
}

// Pages makes the pages of a listener: mirror.ServerOptions.Pages.
func Pages(b *mirror.Board, admin bool) http.Handler {
	t, err := loadText()
	if err != nil {
		panic(err) // embedded in the program: a test reads it
	}
	s := &site{
		b: b, admin: admin, text: t,
		html:  template.Must(template.New("").ParseFS(files, "templates/*.html")),
		langs: language.NewMatcher([]language.Tag{language.Japanese, language.English}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+mirror.PagePrefix+"style.css", s.style)
	if admin {
		mux.HandleFunc("GET /{$}", s.feeds)
		mux.HandleFunc("GET /feeds/{feed}", s.feed)
		mux.HandleFunc("GET /origin", s.origin)
		mux.HandleFunc("GET /problems", s.problems)
		mux.HandleFunc("GET /orders", s.orders)
		mux.HandleFunc("GET /terminals", s.terminals)
		mux.HandleFunc("GET /coverage", s.coverage)
	} else {
		mux.HandleFunc("GET /{$}", s.freshness)
		mux.HandleFunc("GET "+mirror.PagePrefix+"{$}", s.freshness)
		mux.HandleFunc("GET "+mirror.PagePrefix+"settings", s.settings)
		mux.HandleFunc("GET "+mirror.PagePrefix+"settings/{feed}/{n}", s.setting)
		mux.HandleFunc("GET "+mirror.PagePrefix+"coverage", s.coverage)
		mux.HandleFunc("GET "+mirror.PagePrefix+"ca.crt", s.ca)
	}
	mux.HandleFunc("/", s.notFound)
	return mux
}

func headers(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
}

// show renders a page whole before it sends the first byte.
func (s *site) show(w http.ResponseWriter, r *http.Request, status int, name, title string, data any) {
	p := s.page(w, r)
	p.Title, p.Data = title, data
	if key, ok := strings.CutPrefix(title, "page."); ok {
		p.Title = p.T("page." + key)
	}
	var b bytes.Buffer
	if err := s.html.ExecuteTemplate(&b, name, p); err != nil {
		http.Error(w, "page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	headers(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Language", p.Lang)
	w.Header().Set("Vary", "Accept-Language, Cookie")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(b.Bytes())
	}
}

// lang is the reader's language: asked for, remembered, or the browser's.
func (s *site) lang(w http.ResponseWriter, r *http.Request) string {
	if q := r.URL.Query().Get("lang"); q == "ja" || q == "en" {
		http.SetCookie(w, &http.Cookie{Name: "lang", Value: q, Path: "/", MaxAge: 365 * 24 * 3600, SameSite: http.SameSiteLaxMode, HttpOnly: true})
		return q
	}
	if c, err := r.Cookie("lang"); err == nil && (c.Value == "ja" || c.Value == "en") {
		return c.Value
	}
	tags, _, err := language.ParseAcceptLanguage(r.Header.Get("Accept-Language"))
	if err != nil || len(tags) == 0 {
		return "ja"
	}
	if _, i, sure := s.langs.Match(tags...); i == 1 && sure >= language.High {
		return "en"
	}
	return "ja"
}

// asked is how this reader reaches us.
func asked(r *http.Request) (scheme, host string) {
	if r.TLS != nil {
		return "https", r.Host
	}
	return "http", r.Host
}

func (s *site) style(w http.ResponseWriter, r *http.Request) {
	headers(w)
	w.Header().Set("Cache-Control", "max-age=3600")
	http.ServeFileFS(w, r, files, "style.css")
}

func (s *site) notFound(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, http.StatusNotFound, "problem-page", "page.not-found", nil)
}

// overview reads what pages show, or answers that it cannot be read.
func (s *site) overview(w http.ResponseWriter, r *http.Request) (mirror.Overview, bool) {
	o, err := s.b.Overview()
	if err != nil {
		s.show(w, r, http.StatusInternalServerError, "problem-page", "page.unreadable", err.Error())
		return o, false
	}
	return o, true
}

func (s *site) freshness(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.overview(w, r); ok {
		s.show(w, r, http.StatusOK, "freshness", "page.freshness", o)
	}
}

func (s *site) settings(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, http.StatusOK, "settings", "page.settings", map[string]any{"CA": len(s.b.CA()) > 0, "Feeds": s.b.Settings(asked(r))})
}

func (s *site) setting(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	for _, f := range s.b.Settings(asked(r)) {
		if f.Feed == r.PathValue("feed") && err == nil && n >= 0 && n < len(f.Settings) {
			// A terminal's path may be one of Windows.
			name := path.Base(strings.ReplaceAll(f.Settings[n].File, `\`, "/"))
			download(w, name, "application/octet-stream", []byte(f.Settings[n].Body))
			return
		}
	}
	s.notFound(w, r)
}

func (s *site) ca(w http.ResponseWriter, r *http.Request) {
	if pem := s.b.CA(); pem != nil {
		download(w, "hashike-ca.crt", "application/x-x509-ca-cert", pem)
		return
	}
	s.notFound(w, r)
}

func download(w http.ResponseWriter, name, kind string, body []byte) {
	headers(w)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	w.Write(body)
}

func (s *site) coverage(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, http.StatusOK, "coverage", "page.coverage", s.b.Coverage())
}

// problem is a feed that somebody must look at: not accepted, or stopped.
type problem struct {
	Feed, Code, Problem string
	Stopped             []string // rings
	Since               time.Time
}

func problems(o mirror.Overview) (out []problem) {
	for _, f := range o.Feeds {
		if f.Problem != "" {
			out = append(out, problem{Feed: f.Feed, Code: f.Code, Problem: strings.TrimPrefix(f.Problem, f.Code+": "), Since: f.Since})
		}
		stop := problem{Feed: f.Feed}
		for _, r := range f.Rings {
			if r.Stopped {
				stop.Stopped, stop.Since = append(stop.Stopped, r.Ring), r.Published
			}
		}
		if len(stop.Stopped) > 0 {
			out = append(out, stop)
		}
	}
	return out
}

func (s *site) feeds(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.overview(w, r); ok {
		s.show(w, r, http.StatusOK, "feeds", "page.feeds", map[string]any{"Overview": o, "Problems": len(problems(o)), "Line": s.b.Line()})
	}
}

func (s *site) problems(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.overview(w, r); ok {
		s.show(w, r, http.StatusOK, "problems", "page.problems", problems(o))
	}
}

func (s *site) orders(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.overview(w, r); ok {
		now := s.b.Now()
		s.show(w, r, http.StatusOK, "orders", "page.orders", slices.DeleteFunc(o.Orders, func(x feed.Order) bool { return !x.InForce(now) }))
	}
}

// maxListed is how many terminals and updates a page lists.
const maxListed = 500

func (s *site) terminals(w http.ResponseWriter, r *http.Request) {
	c, err := s.b.Compliance()
	if err != nil {
		s.show(w, r, http.StatusInternalServerError, "problem-page", "page.unreadable", err.Error())
		return
	}
	late := c.Stragglers()
	open := slices.DeleteFunc(slices.Clone(c.Updates), func(u mirror.UpdateCompliance) bool { return u.Needed+u.Failed+u.Pending == 0 })
	s.show(w, r, http.StatusOK, "terminals", "page.terminals", map[string]any{"All": c,
		"Late": late[:min(len(late), maxListed)], "More": max(len(late)-maxListed, 0), "Updates": open[:min(len(open), maxListed)]})
}

func (s *site) feed(w http.ResponseWriter, r *http.Request) {
	o, ok := s.overview(w, r)
	if !ok {
		return
	}
	name := r.PathValue("feed")
	i := slices.IndexFunc(o.Feeds, func(f mirror.FeedStatus) bool { return f.Feed == name })
	if i < 0 {
		s.notFound(w, r)
		return
	}
	type ring struct {
		Ring        string
		Generations []mirror.Generation
	}
	var rings []ring
	for _, rs := range o.Feeds[i].Rings {
		gens, err := s.b.History(rs.Ring, name)
		if err != nil {
			s.show(w, r, http.StatusInternalServerError, "problem-page", "page.unreadable", err.Error())
			return
		}
		rings = append(rings, ring{rs.Ring, gens})
	}
	s.show(w, r, http.StatusOK, "feed", name, map[string]any{"Status": o.Feeds[i], "Rings": rings})
}

func (s *site) origin(w http.ResponseWriter, r *http.Request) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	data := struct {
		Q       string
		Missing bool
		Card    *mirror.Card
	}{Q: q}
	status := http.StatusOK
	if q != "" {
		c, err := s.b.Origin(q)
		switch {
		case errors.Is(err, mirror.ErrNoFile):
			data.Missing, status = true, http.StatusNotFound
		case err != nil:
			s.show(w, r, http.StatusInternalServerError, "problem-page", "page.unreadable", err.Error())
			return
		default:
			data.Card = &c
		}
	}
	s.show(w, r, status, "origin", "page.origin", data)
}
