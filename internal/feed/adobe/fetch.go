package adobe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/msi"
)

// Limits on what the vendor may send.
const (
	maxFile = 4 << 30
	maxText = 4096
)

// Fetch implements feed.Feed. With nothing new it asks once for each product.
func (f *acrobat) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	r := &fetch{acrobat: f, up: up, prev: prev, dst: dst, files: map[string]feed.Artifact{}, fresh: prev == nil}
	for _, p := range f.products {
		if err := r.product(ctx, p); err != nil {
			return "", err
		}
	}
	if err := r.older(); err != nil {
		return "", err
	}
	if !r.fresh && !r.dropped() {
		return "", feed.ErrUnchanged
	}
	paths := slices.Sorted(maps.Keys(r.files))
	top := tops(paths)
	for _, p := range paths {
		a := r.files[p]
		n, _ := parsePath(p)
		a.Group = n.artifact(n.order() == top[n.line()]).Group
		if err := dst.Add(a); err != nil {
			return "", err
		}
	}
	return feed.DigestOf([]byte(strings.Join(paths, "\n"))).Hex()[:16], nil
}

type fetch struct {
	*acrobat
	up       feed.Upstream
	prev     feed.Content // may be nil
	dst      feed.Sink
	files    map[string]feed.Artifact
	fresh    bool                        // something is not as in prev
	listings map[string]map[string]entry // catalogues already read, by name
	after    map[string]Version          // what patches that were read need, by path
}

func upstream(name string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w: %w", name, err, feed.ErrUpstream), "H-401", "file", name)
}

// product brings one product's newest files and the quarterly patches that its
// patches need.
func (r *fetch) product(ctx context.Context, p product) error {
	v, err := r.newest(ctx, p)
	if err != nil {
		return err
	}
	quarterly := Version{}
	wanted := r.wanted(p, v)
	slices.SortStableFunc(wanted, func(a, b file) int { return -cmp.Compare(a.form, b.form) }) // patches tell the quarter
	for _, f := range wanted {
		if f.form == "exe" {
			if err := r.installer(ctx, f, quarterly); err != nil {
				return err
			}
			continue
		}
		if err := r.take(ctx, f); err != nil {
			return replaced(f, err)
		}
		if f.form != "msp" {
			continue
		}
		if quarterly, err = r.needs(f); err != nil || quarterly == (Version{}) {
			continue // Verify says what is wrong with it, or it needs nothing
		}
		q := f
		q.version = quarterly
		if err := r.take(ctx, q); err != nil && !gone(err) { // PatchRoute names what is not there
			return fmt.Errorf("%s: %w", q.path(), err)
		}
	}
	return nil
}

// take brings a file, unless prev has it.
func (r *fetch) take(ctx context.Context, f file) error {
	p := f.path()
	if r.prev != nil {
		if a, ok := r.prev.Lookup(p); ok {
			r.files[p] = a
			return nil
		}
	}
	list, err := r.listing(ctx, f.product)
	if err != nil {
		return err
	}
	want := feed.Want{}
	if e, ok := list[p[strings.LastIndexByte(p, '/')+1:]]; ok {
		want = feed.Want{SHA1: e.sha1, Size: e.size}
	}
	blob, err := r.dst.Load(ctx, feed.Request{URL: r.archive.JoinPath(p).String(), Limit: maxFile}, want)
	if err != nil {
		return err
	}
	a := f.artifact(true)
	a.Digest = blob.Digest()
	r.files[p], r.fresh = a, true
	if f.form == "msp" {
		r.read(p, blob, blob.Size())
	}
	return nil
}

// installer brings the whole installer of a version. Not every version has
// one: then that of the quarter, and else the one that is held stays.
func (r *fetch) installer(ctx context.Context, f file, quarterly Version) error {
	err := r.take(ctx, f)
	if gone(err) && quarterly != (Version{}) {
		f.version = quarterly
		err = r.take(ctx, f)
	}
	if gone(err) && r.prev != nil {
		var best file
		for a, aerr := range r.prev.Artifacts() {
			if aerr != nil {
				return aerr
			}
			if x, ok := parsePath(a.Path); ok && x.line() == f.line() && x.order() > best.order() {
				best = x
			}
		}
		if best.order() > 0 {
			return r.take(ctx, best)
		}
	}
	if err != nil {
		return replaced(f, err)
	}
	return nil
}

// gone reports whether the vendor has no such file.
func gone(err error) bool {
	var s *feed.StatusError
	return errors.As(err, &s) && (s.Status == http.StatusNotFound || s.Status == http.StatusGone || s.Status == http.StatusForbidden)
}

// replaced is the error for a file that the vendor names: one that is not there
// is being put there, and a later run will find it.
func replaced(f file, err error) error {
	if gone(err) {
		return feed.NewFault(fmt.Errorf("%s: %w: %w", f.path(), err, feed.ErrTransient), "H-401", "file", f.path())
	}
	return fmt.Errorf("%s: %w", f.path(), err)
}

// needs is the quarterly version without which a patch does not apply; zero if
// it applies to the base.
func (r *fetch) needs(f file) (Version, error) {
	p := f.path()
	if v, ok := r.after[p]; ok {
		return v, nil
	}
	if r.prev == nil {
		return Version{}, nil
	}
	held, err := open(r.prev, p)
	if err != nil {
		return Version{}, err
	}
	defer held.Close()
	r.read(p, held, held.size)
	return r.after[p], nil
}

// read keeps what a patch says of itself; one that cannot be read says nothing.
func (r *fetch) read(p string, from io.ReaderAt, size int64) {
	x, err := msi.ReadPatch(from, size)
	if err != nil {
		return
	}
	f, _ := parsePath(p)
	if after, err := after(x, f.version); err == nil {
		if r.after == nil {
			r.after = map[string]Version{}
		}
		r.after[p] = after
	}
}

// older keeps earlier versions of what is still configured, and the quarterly
// patches that they need.
func (r *fetch) older() error {
	if r.prev == nil {
		return nil
	}
	newest := tops(slices.Collect(maps.Keys(r.files)))
	old := map[string][]file{}
	for a, err := range r.prev.Artifacts() {
		if err != nil {
			return err
		}
		f, ok := parsePath(a.Path)
		if top, wanted := newest[f.line()]; ok && wanted && f.order() < top {
			old[f.line()] = append(old[f.line()], f)
		}
	}
	for _, list := range old {
		slices.SortFunc(list, func(a, b file) int { return cmp.Compare(b.order(), a.order()) })
		for _, f := range list[:min(len(list), r.cfg.Keep-1)] {
			r.keep(f)
			if f.form != "msp" {
				continue
			}
			v, err := r.needs(f)
			if err != nil {
				return err
			}
			if f.version = v; v != (Version{}) {
				r.keep(f)
			}
		}
	}
	return nil
}

// keep takes over what prev has of it.
func (r *fetch) keep(f file) {
	if a, ok := r.prev.Lookup(f.path()); ok {
		r.files[a.Path] = a
	}
}

// dropped reports whether prev has files that the new snapshot has not.
func (r *fetch) dropped() bool {
	for a, err := range r.prev.Artifacts() {
		if _, ok := r.files[a.Path]; !ok || err != nil {
			return true
		}
	}
	return false
}
