package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"

	"github.com/hashike/hashike/internal/feed"
)

// A watched page is kept as its lines that hold one of the words, newest
// first, each with whether it was there when the page was first seen. What came
// later is told (Notices) until a file is handed in after it, or it goes away.

const (
	watchFolder = "watch"
	maxPage     = 8 << 20
	maxLines    = 500
	maxLine     = 300
)

// page is watch/NAME.json.
type page struct {
	Schema int    `json:"schema"` // 1
	URL    string `json:"url"`
	Lines  []line `json:"lines"` // as on the page
}

type line struct {
	Text string `json:"text"`
	// New is the Unix time at which the line was first seen; 0 if it was there
	// from the beginning.
	New int64 `json:"new,omitempty"`
}

func parsePage(b []byte) (p page, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Schema != 1 || len(p.Lines) > maxLines {
		return p, fmt.Errorf("watched page: schema %d, %d lines: %v: %w", p.Schema, len(p.Lines), err, feed.ErrUntrusted)
	}
	return p, nil
}

func (p page) encode() []byte {
	b, _ := json.MarshalIndent(p, "", " ") // strings and numbers alone: does not fail
	return append(b, '\n')
}

// watch looks at the pages. One that cannot be had stays as it was: watching
// never stops what was handed in.
func (x *Intake) watch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (out []feed.Artifact, changed bool, err error) {
	had := map[string]feed.Artifact{}
	if prev != nil {
		for a, err := range prev.Artifacts() {
			if err != nil {
				return nil, false, err
			}
			if e, ok := parsePath(a.Path); ok && e.kind == isWatch {
				had[e.file] = a
			}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(x.cfg.Watch)) {
		old, known := had[n]
		delete(had, n)
		res, err := up.Do(ctx, feed.Request{URL: x.cfg.Watch[n], Limit: maxPage})
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if err != nil {
			if known {
				out = append(out, old)
			}
			continue
		}
		var before *page
		if known {
			if b, err := read(prev, old.Path, maxPage); err == nil {
				if p, err := parsePage(b); err == nil && p.URL == x.cfg.Watch[n] {
					before = &p
				}
			}
		}
		now := x.compare(x.cfg.Watch[n], res, before)
		if before != nil && bytes.Equal(before.encode(), now.encode()) {
			out = append(out, old)
			continue
		}
		p := watchFolder + "/" + n + ".json"
		blob, err := dst.Put(ctx, x.cfg.Watch[n], bytes.NewReader(now.encode()))
		if err != nil {
			return nil, false, err
		}
		out, changed = append(out, feed.Artifact{Path: p, Digest: blob.Digest(), Class: feed.Metadata, Group: p}), true
	}
	return out, changed || len(had) > 0, nil
}

func (x *Intake) compare(url string, res *feed.Response, before *page) page {
	now := page{Schema: 1, URL: url, Lines: []line{}}
	known := map[string]int64{}
	if before != nil {
		for _, l := range before.Lines {
			known[l.Text] = l.New
		}
	}
	for _, text := range titles(res.Body, x.cfg.Words) {
		l := line{Text: text}
		if at, ok := known[text]; ok {
			l.New = at
		} else if before != nil {
			l.New = res.Origin.Fetched.Unix()
		}
		now.Lines = append(now.Lines, l)
	}
	return now
}

var (
	hidden = regexp.MustCompile(`(?is)<(script|style|head)\b.*?</(script|style|head)\s*>|<!--.*?-->`)
	breaks = regexp.MustCompile(`(?i)</?(p|br|div|li|ul|ol|tr|td|th|dt|dd|h[1-6]|table|section|article|a)\b[^>]*>`)
	tags   = regexp.MustCompile(`<[^>]*>`)
)

// titles are the lines of a page's text that hold one of the words, each once.
func titles(b []byte, words []string) []string {
	if !utf8.Valid(b) {
		for _, e := range []interface{ String(string) (string, error) }{japanese.ShiftJIS.NewDecoder(), japanese.EUCJP.NewDecoder()} {
			if s, err := e.String(string(b)); err == nil && !strings.ContainsRune(s, utf8.RuneError) {
				b = []byte(s)
				break
			}
		}
	}
	s := strings.ToValidUTF8(string(b), "\uFFFD")
	s = html.UnescapeString(tags.ReplaceAllString(breaks.ReplaceAllString(hidden.ReplaceAllString(s, "\n"), "\n"), ""))
	var out []string
	seen := map[string]bool{}
	for l := range strings.Lines(s) {
		l = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, l)), " ")
		if r := []rune(l); len(r) > maxLine {
			l = string(r[:maxLine])
		}
		wanted := len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(l, w) })
		if l == "" || !wanted || seen[l] {
			continue
		}
		if seen[l] = true; len(out) == maxLines {
			break
		}
		out = append(out, l)
	}
	return out
}

// Notices implements feed.Noticer: titles that came after the last file was
// handed in.
func (x *Intake) Notices(c feed.Content) []feed.Notice {
	var last int64
	var pages []feed.Artifact
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil
		}
		e, ok := parsePath(a.Path)
		switch {
		case ok && e.kind == isWatch:
			pages = append(pages, a)
		case ok && e.kind == isDescriptor:
			if b, err := read(c, a.Path, maxDescriptor); err == nil {
				if d, err := ParseDescriptor(b); err == nil {
					last = max(last, d.Added.Unix())
				}
			}
		}
	}
	var out []feed.Notice
	for _, a := range pages {
		b, err := read(c, a.Path, maxPage)
		if err != nil {
			continue
		}
		p, err := parsePage(b)
		if err != nil {
			continue
		}
		for _, l := range p.Lines {
			if l.New > last {
				out = append(out, feed.Notice{Text: l.Text, URL: p.URL, Since: l.New})
			}
		}
	}
	return out
}
