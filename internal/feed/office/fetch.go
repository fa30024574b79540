package office

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
)

// Limits on what one channel may send.
const (
	maxVersionCab = 4 << 20
	maxDescriptor = 4 << 20 // VersionDescriptor.xml; the samples have 100 kB
	maxList       = 4 << 20
	maxFiles      = 2000 // of one build in all languages
	maxCab        = 512 << 20
	maxCatalogue  = 16 << 20
	maxStream     = 16 << 30
)

// Fetch implements feed.Feed.
func (f *office) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	r := &fetch{office: f, up: up, prev: prev, dst: dst, files: map[string]feed.Artifact{}}
	for _, ch := range slices.Sorted(slices.Values(f.cfg.Channels)) {
		for _, arch := range slices.Sorted(slices.Values(f.cfg.Arch)) {
			if err := r.newest(ctx, ch, arch); err != nil {
				return "", err
			}
		}
	}
	state := strings.Join(r.state, " ")
	if prev != nil && prev.Header().State == state && r.same() {
		return "", feed.ErrUnchanged
	}
	for _, h := range r.heads {
		if err := r.build(ctx, h); err != nil {
			return "", err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(r.files)) {
		if err := dst.Add(r.files[p]); err != nil {
			return "", err
		}
	}
	return state, nil
}

type fetch struct {
	*office
	up    feed.Upstream
	prev  feed.Content // may be nil
	dst   feed.Sink
	heads []head
	files map[string]feed.Artifact
	state []string
}

// head is the newest build of one channel for one processor.
type head struct {
	channel, arch string
	build         build
	cab           feed.Artifact // v64.cab
}

func upstream(name string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w: %w", name, err, feed.ErrUpstream), "H-401", "file", name)
}

// newest reads the cabinet that names the newest build.
func (r *fetch) newest(ctx context.Context, channel, arch string) error {
	at := file{channel: channel, arch: arch, role: newest}
	blob, err := r.dst.Load(ctx, feed.Request{URL: r.on(channel, "v"+bits(arch)+".cab"), Limit: maxVersionCab}, feed.Want{})
	if err != nil {
		return fmt.Errorf("%s: %w", at.path(), err)
	}
	b, made, err := readVersion(blob, blob.Size())
	if err != nil {
		return upstream(at.path(), err)
	}
	a := feed.Artifact{Path: at.path(), Digest: blob.Digest(), Class: at.class(), Version: b.String(), Time: made, Group: at.group()}
	r.heads = append(r.heads, head{channel, arch, b, a})
	r.state = append(r.state, fmt.Sprintf("%s/%s:%s(%s,%d)", channel, arch, b, strings.Join(r.cfg.Languages, ","), r.cfg.Keep))
	return nil
}

// same reports whether prev has all these newest cabinets, byte for byte.
func (r *fetch) same() bool {
	for _, h := range r.heads {
		if a, ok := r.prev.Lookup(h.cab.Path); !ok || a.Digest != h.cab.Digest {
			return false
		}
	}
	return true
}

// on is a file of a channel on the distribution servers.
func (r *fetch) on(channel, name string) string {
	return r.cdn.JoinPath(channels()[channel], "office", "data", name).String()
}

// build brings the newest build of a channel and keeps older ones.
func (r *fetch) build(ctx context.Context, h head) error {
	r.files[h.cab.Path] = h.cab
	ver := file{channel: h.channel, arch: h.arch, role: version, build: h.build}
	if err := r.load(ctx, ver, "v"+bits(h.arch)+"_"+h.build.String()+".cab", maxVersionCab); err != nil {
		return err
	}
	for _, lang := range r.cfg.Languages {
		list, err := r.ask(ctx, h, lang)
		if err != nil {
			return err
		}
		for _, f := range list {
			limit := int64(maxCab)
			switch f.role {
			case stream:
				limit = maxStream
			case catalogue:
				limit = maxCatalogue
			}
			if err := r.load(ctx, f, h.build.String()+"/"+f.name, limit); err != nil {
				return err
			}
		}
	}
	return r.older(h)
}

// load brings one file, unless prev has it: a build's files never change.
func (r *fetch) load(ctx context.Context, f file, name string, limit int64) error {
	p := f.path()
	if _, have := r.files[p]; have {
		return nil
	}
	if r.prev != nil {
		if a, ok := r.prev.Lookup(p); ok {
			r.files[p] = a
			return nil
		}
	}
	blob, err := r.dst.Load(ctx, feed.Request{URL: r.on(f.channel, name), Limit: limit}, feed.Want{})
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	r.files[p] = feed.Artifact{Path: p, Digest: blob.Digest(), Class: f.class(), Version: f.build.String(), Group: f.group()}
	return nil
}

// fileList is the release service's answer; what else it says is not used.
type fileList struct {
	Version string `json:"version"`
	Files   []struct {
		URL          string `json:"url"`
		Name         string `json:"name"`
		RelativePath string `json:"relativePath"`
	} `json:"files"`
}

// ask asks which files a build has in one language. Only names are taken from
// the answer, and only of forms that are known: nothing in it is believed
// about content.
func (r *fetch) ask(ctx context.Context, h head, lang string) ([]file, error) {
	u := *r.list
	u.RawQuery = url.Values{"Channel": {h.channel}, "Version": {h.build.String()}, "Arch": {h.arch}, "Lid": {lang}}.Encode()
	res, err := r.up.Do(ctx, feed.Request{URL: u.String(), Limit: maxList})
	if err != nil {
		return nil, fmt.Errorf("list of %s %s: %w", h.channel, h.build, err)
	}
	what := fmt.Sprintf("list of %s %s", h.channel, h.build)
	var l fileList
	if err := json.Unmarshal(bytes.TrimPrefix(res.Body, []byte("\xef\xbb\xbf")), &l); err != nil {
		return nil, upstream(what, err)
	}
	if len(l.Files) > maxFiles {
		return nil, upstream(what, fmt.Errorf("%d files", len(l.Files)))
	}
	var out []file
	payload := false
	for _, e := range l.Files {
		dir := strings.Trim(e.RelativePath, "/")
		if dir == "office/data" {
			continue // v64.cab and its twin, which are taken by their own names
		}
		f, ok := inBuild(h.channel, h.arch, h.build, e.Name)
		if !ok || dir != "office/data/"+h.build.String() {
			return nil, upstream(what, fmt.Errorf("a file of unknown form: %.100q in %.100q", e.Name, e.RelativePath))
		}
		payload = payload || f.role == stream
		out = append(out, f)
	}
	if !payload {
		return nil, upstream(what, errors.New("names no payload"))
	}
	return out, nil
}

// older keeps earlier builds of prev, the newest of them.
func (r *fetch) older(h head) error {
	if r.prev == nil {
		return nil
	}
	by := map[build][]feed.Artifact{}
	for a, err := range r.prev.Artifacts() {
		if err != nil {
			return err
		}
		f, ok := parsePath(a.Path)
		if ok && f.role != newest && f.channel == h.channel && f.arch == h.arch && f.build.order() < h.build.order() {
			by[f.build] = append(by[f.build], a)
		}
	}
	builds := slices.SortedFunc(maps.Keys(by), func(a, b build) int { return int(min(max(b.order()-a.order(), -1), 1)) })
	for _, b := range builds[:min(len(builds), r.cfg.Keep-1)] {
		for _, a := range by[b] {
			r.files[a.Path] = a
		}
	}
	return nil
}

// readVersion reads VersionDescriptor.xml of a version cabinet: the build that
// is available, and when the descriptor was made.
func readVersion(r io.ReaderAt, size int64) (build, time.Time, error) {
	c, err := cab.NewReader(r, size, cab.Limits{Files: 100, File: maxDescriptor, Total: 2 * maxDescriptor})
	if err != nil {
		return build{}, time.Time{}, err
	}
	f, body, err := c.Open("VersionDescriptor.xml")
	if err != nil {
		return build{}, time.Time{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxDescriptor+1))
	if err != nil {
		return build{}, time.Time{}, err
	}
	b, err := parseDescriptor(raw)
	return b, f.Modified, err
}

// parseDescriptor reads <Version><Available Build="16.0.…"/>.
func parseDescriptor(raw []byte) (build, error) {
	d := xml.NewDecoder(bytes.NewReader(raw))
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return build{}, fmt.Errorf("VersionDescriptor.xml: names no build: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth++; depth == 1 && t.Name.Local != "Version" || depth > 100 {
				return build{}, errors.New("VersionDescriptor.xml: another document")
			}
			if depth == 2 && t.Name.Local == "Available" {
				for _, a := range t.Attr {
					if b, ok := parseBuild(a.Value); a.Name.Local == "Build" && ok {
						return b, nil
					}
				}
				return build{}, errors.New("VersionDescriptor.xml: no build that can be read")
			}
		case xml.EndElement:
			depth--
		}
	}
}
