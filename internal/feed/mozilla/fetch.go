package mozilla

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/mar"
)

const (
	tries        = 3
	maxInstaller = 1 << 30 // bytes; the list does not say sizes
	loads        = 3       // downloads at a time
)

// errMoved: the service began to offer something else during the fetch.
var errMoved = errors.New("the vendor published a version during the fetch")

// Fetch implements feed.Feed: ask the service, then take from the release tree
// what it offers, then ask again, which must give the same.
func (f *updates) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	for try := 1; ; try++ {
		state, err := f.fetchOnce(ctx, up, prev, dst)
		if !errors.Is(err, errMoved) {
			return state, err
		}
		if try == tries {
			return "", fmt.Errorf("%s: %w %d times: %w", f.service, err, try, feed.ErrTransient)
		}
	}
}

func (f *updates) fetchOnce(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	before := f.before(prev)
	r := &fetch{f: f, up: up, dst: dst, answers: map[string]*answer{}, files: map[string]feed.Artifact{}}
	x, err := r.index(ctx, before)
	if err != nil {
		return "", err
	}
	doc := x.encode()
	if before != nil && bytes.Equal(before.encode(), doc) {
		return "", feed.ErrUnchanged
	}
	if err := r.releases(ctx, x); err != nil {
		return "", r.moved(ctx, before, doc, err)
	}
	if err := r.moved(ctx, before, doc, nil); err != nil {
		return "", err
	}
	b, err := dst.Put(ctx, f.service.String(), bytes.NewReader(doc))
	if err != nil {
		return "", err
	}
	r.files[indexPath] = feed.Artifact{Path: indexPath, Digest: b.Digest(), Class: feed.Metadata, Origin: feed.Origin{URL: f.service.String() + "/"}}
	for _, p := range slices.Sorted(maps.Keys(r.files)) {
		if err := dst.Add(r.files[p]); err != nil {
			return "", err
		}
	}
	return stateOf(x, b.Digest()), nil
}

// stateOf names the newest version for people, and the index.
func stateOf(x *index, d feed.Digest) string {
	newest := ""
	for _, s := range x.Streams {
		if r := s.newest(); r != nil && (newest == "" || compare(r.Version, newest) > 0) {
			newest = r.Version
		}
	}
	return x.dir(newest) + " " + string(d)
}

// before is the previous snapshot's index; nil if there is none of this line.
func (f *updates) before(prev feed.Content) *index {
	if prev == nil {
		return nil
	}
	x, err := readIndex(prev)
	if err != nil || x.line != (line{f.cfg.Product, f.cfg.Channel}) {
		return nil
	}
	return x
}

// fetch is one run.
type fetch struct {
	f       *updates
	up      feed.Upstream
	dst     feed.Sink
	answers map[string]*answer // by question
	files   map[string]feed.Artifact
}

// index asks for every stream.
func (r *fetch) index(ctx context.Context, before *index) (*index, error) {
	cfg := r.f.cfg
	x := &index{Schema: 1, line: line{cfg.Product, cfg.Channel}, Installers: slices.Compact(slices.Sorted(slices.Values(cfg.Installers)))}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(cfg.Platforms))) {
		for _, l := range slices.Compact(slices.Sorted(slices.Values(cfg.Locales))) {
			s := stream{Platform: p, Locale: localeOn(p, l)}
			var known []asked
			if before != nil {
				old, _ := before.find(s.Platform, s.Locale)
				known = old.Asked
			}
			if err := r.stream(ctx, &s, known); err != nil {
				return nil, fmt.Errorf("%s: %w", s.key(), err)
			}
			x.Streams = append(x.Streams, s)
		}
	}
	slices.SortFunc(x.Streams, func(a, b stream) int { return compareKeys(a.key(), b.key()) })
	x.Streams = slices.CompactFunc(x.Streams, func(a, b stream) bool { return a.key() == b.key() })
	if !slices.ContainsFunc(x.Streams, func(s stream) bool { return s.newest() != nil }) {
		return nil, fmt.Errorf("the service offers nothing to versions %v: give an older one in versions: %w", cfg.Versions, feed.ErrConfig)
	}
	return x, nil
}

// stream asks what is offered to the versions of the configuration and to the
// newest of those that were offered before, and follows every answer to its end.
func (r *fetch) stream(ctx context.Context, s *stream, known []asked) error {
	all := map[string]asked{}
	for _, a := range known {
		if a.Build != "" {
			all[a.Version] = asked{Version: a.Version, Build: a.Build}
		}
	}
	kept := slices.Collect(maps.Values(all))
	for _, v := range r.f.cfg.Versions {
		if _, ok := all[v]; !ok {
			all[v] = asked{Version: v}
		}
	}
	if err := r.follow(ctx, s, all); err != nil {
		return err
	}
	for _, a := range all {
		if a.Offer != nil {
			kept = append(kept, asked{Version: a.Offer.Version})
		}
	}
	slices.SortFunc(kept, func(a, b asked) int { return compare(b.Version, a.Version) })
	kept = slices.CompactFunc(kept, func(a, b asked) bool { return a.Version == b.Version })
	stay := slices.Clone(r.f.cfg.Versions)
	for _, a := range kept[:min(len(kept), r.f.cfg.Keep+1)] {
		stay = append(stay, a.Version)
	}
	for i := 0; i < len(stay); i++ { // grows: with a version stays what it leads to
		a, ok := all[stay[i]]
		if !ok || slices.ContainsFunc(s.Asked, func(b asked) bool { return b.Version == a.Version }) {
			continue
		}
		s.Asked = append(s.Asked, a)
		if a.Offer != nil {
			stay = append(stay, a.Offer.Version)
		}
	}
	slices.SortFunc(s.Asked, func(a, b asked) int { return compare(a.Version, b.Version) })
	if err := s.check(); err != nil {
		return fmt.Errorf("the service contradicts itself: %w: %w", err, feed.ErrUpstream)
	}
	return nil
}

// follow asks for every version in all, and for those that the answers name.
func (r *fetch) follow(ctx context.Context, s *stream, all map[string]asked) error {
	queue := slices.SortedFunc(maps.Keys(all), compare)
	for i := 0; i < len(queue); i++ {
		if i == maxAsked {
			return fmt.Errorf("more than %d versions: %w", maxAsked, feed.ErrUpstream)
		}
		a := all[queue[i]]
		ans, err := r.ask(ctx, *s, a.Version, a.Build)
		if err != nil {
			return err
		}
		// What is not newer is no offer to the client either.
		if ans == nil || compare(ans.Version, a.Version) <= 0 {
			continue
		}
		a.Offer = &ans.release
		all[a.Version] = a
		if next, ok := all[ans.Version]; !ok {
			all[ans.Version] = asked{Version: ans.Version, Build: ans.Build}
			queue = append(queue, ans.Version)
		} else if next.Build == "" {
			next.Build = ans.Build
			all[ans.Version] = next
		}
	}
	return nil
}

func (r *fetch) ask(ctx context.Context, s stream, version, build string) (*answer, error) {
	u := r.f.question(s, version, build)
	res, err := r.up.Do(ctx, feed.Request{URL: u, Limit: maxAnswer})
	if err != nil {
		return nil, err
	}
	a, err := parseAnswer(res.Body)
	if err != nil {
		return nil, feed.NewFault(fmt.Errorf("%s: %w: %w", u, err, feed.ErrUpstream), "H-401", "file", "update.xml")
	}
	r.answers[s.key()+" "+version] = a
	return a, nil
}

// moved asks the service again. If it offers something else now, everything so
// far may be of two states: errMoved. Otherwise the error stands.
func (r *fetch) moved(ctx context.Context, before *index, doc []byte, err error) error {
	if err != nil && (errors.Is(err, feed.ErrHeld) || errors.Is(err, feed.ErrConfig) || ctx.Err() != nil) {
		return err
	}
	again := &fetch{f: r.f, up: r.up, answers: map[string]*answer{}}
	x, xerr := again.index(ctx, before)
	if xerr != nil {
		return errors.Join(err, xerr)
	}
	if !bytes.Equal(x.encode(), doc) {
		return errMoved
	}
	return err
}

// releases loads the lists, then the files that they name.
func (r *fetch) releases(ctx context.Context, x *index) error {
	lists := map[string]map[string]feed.Digest{}
	for _, w := range x.wants() {
		if _, ok := lists[w.version]; !ok {
			sums, err := r.list(ctx, x, w.version)
			if err != nil {
				return err
			}
			lists[w.version] = sums
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(loads)
	for _, w := range x.wants() {
		name, d, ok := w.listed(x, lists[w.version])
		if !ok && w.optional {
			continue
		}
		if !ok {
			_ = g.Wait()
			return fmt.Errorf("%s is not in the vendor's list: %w", w.names[0], feed.ErrUpstream)
		}
		r.files[name] = w.artifact(name, d)
		g.Go(func() error { return r.load(gctx, w, name, d) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for p, a := range r.files {
		a.Origin = feed.Origin{URL: r.f.url(p)}
		r.files[p] = a
	}
	return nil
}

// list stores a release's SHA256SUMS and its signature.
func (r *fetch) list(ctx context.Context, x *index, version string) (map[string]feed.Digest, error) {
	var sums map[string]feed.Digest
	for _, p := range []string{x.sums(version), x.sumsSign(version)} {
		limit := int64(maxSumsSign)
		if sums == nil {
			limit = maxSums
		}
		res, err := r.up.Do(ctx, feed.Request{URL: r.f.url(p), Limit: limit})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if sums == nil {
			if sums, err = parseSums(res.Body); err != nil {
				return nil, feed.NewFault(fmt.Errorf("%s: %w: %w", p, err, feed.ErrUpstream), "H-401", "file", p)
			}
		}
		b, err := r.dst.Put(ctx, r.f.url(p), bytes.NewReader(res.Body))
		if err != nil {
			return nil, err
		}
		r.files[p] = x.listArtifact(p, version, b.Digest())
	}
	return sums, nil
}

// load downloads one file. Where the service names its size and hash, they must
// be the same: if not, the vendor is in the middle of something.
func (r *fetch) load(ctx context.Context, w want, name string, d feed.Digest) error {
	limit := int64(maxInstaller)
	var said patch
	if w.mar {
		limit = mar.MaxSize
		said = w.said(r.answers)
	}
	if said.size > 0 {
		limit = said.size
	}
	b, err := r.dst.Load(ctx, feed.Request{URL: r.f.url(name), Limit: limit}, feed.Want{Digest: d})
	if err != nil || said.size == 0 {
		return err
	}
	h := sha512.New()
	if said.hash != "" {
		if _, err := io.Copy(h, io.NewSectionReader(b, 0, b.Size())); err != nil {
			return fmt.Errorf("%s: %w: %w", name, err, feed.ErrDamaged)
		}
	}
	if b.Size() != said.size || said.hash != "" && hex.EncodeToString(h.Sum(nil)) != said.hash {
		return feed.NewFault(fmt.Errorf("%s: list and update service name different files: %w", name, feed.ErrTransient), "H-401", "file", name)
	}
	return nil
}
