package apt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/unpack"
)

// tries is how often a fetch starts over when the archive is published anew meanwhile.
const tries = 3

// errMoved: the archive changed during the fetch.
var errMoved = errors.New("the archive was published anew during the fetch")

// Fetch implements feed.Feed: Release first, indexes by hash, pool files, then
// Release again, which must not have changed.
func (f *archive) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	for try := 1; ; try++ {
		state, err := f.fetchOnce(ctx, up, prev, dst)
		if !errors.Is(err, errMoved) {
			return state, err
		}
		if try == tries {
			return "", fmt.Errorf("%s: %w %d times: %w", f.base, err, try, feed.ErrTransient)
		}
		// Blobs that are still right are in the store and cost nothing again.
	}
}

// suiteDoc is what a suite's signed entry point looked like at one moment.
type suiteDoc struct {
	suite string
	files map[string][]byte // artifact path → bytes: InRelease, or Release and Release.gpg
	rel   *release
}

func (f *archive) fetchOnce(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	docs := make([]*suiteDoc, 0, len(f.cfg.Suites))
	for _, s := range f.cfg.Suites {
		d, err := f.entryPoint(ctx, up, s)
		if err != nil {
			return "", fmt.Errorf("suite %s: %w", s, err)
		}
		docs = append(docs, d)
	}
	state := f.state(docs)
	if prev != nil && prev.Header().State == state {
		return "", feed.ErrUnchanged
	}
	var arts []feed.Artifact
	var all []pkg
	for _, d := range docs {
		a, p, err := f.suite(ctx, d, dst)
		if err != nil {
			return "", f.moved(ctx, up, docs, fmt.Errorf("suite %s: %w", d.suite, err))
		}
		arts, all = append(arts, a...), append(all, p...)
	}
	if len(f.cfg.Packages) > 0 {
		if all = chosen(all, f.cfg.Packages); len(all) == 0 {
			return "", fmt.Errorf("none of the chosen packages is in %s: %w", strings.Join(f.cfg.Suites, ", "), feed.ErrConfig)
		}
	}
	pool, err := f.pool(ctx, all, dst)
	if err != nil {
		return "", f.moved(ctx, up, docs, err)
	}
	if err := f.moved(ctx, up, docs, nil); err != nil {
		return "", err
	}
	for _, a := range append(arts, pool...) {
		if err := dst.Add(a); err != nil {
			return "", err
		}
	}
	return state, nil
}

// state is our mark of what was fetched: the signed documents and this feed's choice.
func (f *archive) state(docs []*suiteDoc) string {
	h := sha256.New()
	cfg, _ := json.Marshal(f.cfg)
	h.Write(cfg)
	for _, d := range docs {
		for _, p := range []string{"InRelease", "Release", "Release.gpg"} {
			b, ok := d.files[path.Join("dists", d.suite, p)]
			fmt.Fprintf(h, "%s %v %d\n", p, ok, len(b))
			h.Write(b)
		}
	}
	return feed.DigestFrom(h).Hex()
}

// entryPoint gets InRelease, or Release with Release.gpg where there is none.
func (f *archive) entryPoint(ctx context.Context, up feed.Upstream, suite string) (*suiteDoc, error) {
	d := &suiteDoc{suite: suite, files: map[string][]byte{}}
	get := func(name string) ([]byte, error) {
		p := path.Join("dists", suite, name)
		// A cache on the way must not hand out an InRelease older than its indexes.
		r, err := up.Do(ctx, feed.Request{URL: f.url(p), Limit: maxRelease, Header: http.Header{"Cache-Control": {"max-age=0"}}})
		if err != nil {
			return nil, err
		}
		d.files[p] = r.Body
		return r.Body, nil
	}
	body, err := get("InRelease")
	if err == nil {
		text, cerr := clearText(body)
		if cerr != nil {
			return nil, cerr
		}
		d.rel, err = parseRelease(strings.NewReader(text))
		return d, err
	}
	if st := (*feed.StatusError)(nil); !errors.As(err, &st) || st.Status != http.StatusNotFound {
		return nil, err
	}
	if body, err = get("Release"); err != nil {
		return nil, err
	}
	if _, err = get("Release.gpg"); err != nil {
		return nil, err
	}
	d.rel, err = parseRelease(bytes.NewReader(body))
	return d, err
}

// moved looks at the entry points again. If one changed, everything so far may
// be of two states: errMoved. Otherwise the error stands.
func (f *archive) moved(ctx context.Context, up feed.Upstream, docs []*suiteDoc, err error) error {
	if err != nil && (errors.Is(err, feed.ErrHeld) || errors.Is(err, feed.ErrConfig) || ctx.Err() != nil) {
		return err
	}
	for _, d := range docs {
		now, derr := f.entryPoint(ctx, up, d.suite)
		if derr != nil {
			return errors.Join(err, derr)
		}
		for p, b := range d.files {
			if !bytes.Equal(now.files[p], b) {
				return errMoved
			}
		}
	}
	return err
}

// suite loads a suite's index files and returns their artifacts and the packages they list.
func (f *archive) suite(ctx context.Context, d *suiteDoc, dst feed.Sink) ([]feed.Artifact, []pkg, error) {
	dir := path.Join("dists", d.suite)
	var arts []feed.Artifact
	for p, b := range d.files {
		bl, err := dst.Put(ctx, f.url(p), bytes.NewReader(b))
		if err != nil {
			return nil, nil, err
		}
		arts = append(arts, feed.Artifact{Path: p, Digest: bl.Digest(), Class: feed.Metadata, Time: d.rel.date, Origin: feed.Origin{URL: f.url(p)}})
	}
	paths, isPackages, err := f.wanted(d.rel)
	if err != nil {
		return nil, nil, err
	}
	var all []pkg
	for _, p := range paths {
		e := d.rel.files[p]
		if e.size > maxIndex {
			return nil, nil, fmt.Errorf("%s: %d bytes: %w", p, e.size, feed.ErrUpstream)
		}
		at := path.Join(dir, p)
		if d.rel.byHash {
			at = path.Join(dir, byHash(p, e.digest))
		}
		bl, err := dst.Load(ctx, feed.Request{URL: f.url(at), Limit: e.size + 1}, feed.Want{Digest: e.digest, Size: e.size})
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p, err)
		}
		origin := feed.Origin{URL: f.url(at)}
		names := []string{path.Join(dir, p)}
		if d.rel.byHash {
			names = append(names, path.Join(dir, byHash(p, e.digest)))
		}
		for _, n := range names {
			arts = append(arts, feed.Artifact{Path: n, Digest: e.digest, Size: bl.Size(), Class: feed.Metadata, Time: d.rel.date, Origin: origin})
		}
		if !isPackages[p] {
			continue
		}
		if all, err = f.list(all, p, bl, d.suite); err != nil {
			return nil, nil, err
		}
	}
	return dedupe(arts), all, nil
}

// dedupe drops repeated names: two components can name one empty index.
func dedupe(arts []feed.Artifact) []feed.Artifact {
	seen := map[string]bool{}
	out := arts[:0]
	for _, a := range arts {
		if !seen[a.Path] {
			seen[a.Path] = true
			out = append(out, a)
		}
	}
	return out
}

func (f *archive) list(all []pkg, name string, bl feed.Blob, suite string) ([]pkg, error) {
	r, err := unpack.Open(name, bl, bl.Size(), maxUnpacked)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	err = readPackages(r, f.cfg.Recommends, func(p pkg) error {
		all = append(all, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// pool loads the package files, a few at a time.
func (f *archive) pool(ctx context.Context, all []pkg, dst feed.Sink) ([]feed.Artifact, error) {
	class := f.payloadClass()
	byPath := make(map[string]pkg, len(all))
	for _, p := range all {
		if q, ok := byPath[p.file]; ok && q.digest != p.digest {
			return nil, fmt.Errorf("%s is listed with two digests: %w", p.file, feed.ErrUpstream)
		}
		byPath[p.file] = p
	}
	arts := make([]feed.Artifact, 0, len(byPath))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for file, p := range byPath {
		at := f.url(file)
		arts = append(arts, feed.Artifact{Path: poolPath(file), Digest: p.digest, Size: p.size, Class: class, Version: p.name + " " + p.version,
			Group: poolPath(file), Origin: feed.Origin{URL: at}})
		g.Go(func() error {
			if _, err := dst.Load(gctx, feed.Request{URL: at, Limit: p.size}, feed.Want{Digest: p.digest, Size: p.size}); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return nil
		})
	}
	return arts, g.Wait()
}

// payloadClass: what comes from a security suite waits less inside.
func (f *archive) payloadClass() feed.Class {
	for _, s := range f.cfg.Suites {
		if strings.Contains(s, "security") {
			return feed.Security
		}
	}
	return feed.Feature
}

// since is how far a date may lie after the time of the fetch: clocks differ.
const since = 24 * time.Hour
