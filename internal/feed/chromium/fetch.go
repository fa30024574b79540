package chromium

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/crx"
	"github.com/hashike/hashike/internal/format/msi"
)

// Limits on what a vendor may send.
const (
	maxPackage = 2 << 30
	maxList    = 16 << 20
	maxUpdates = 1 << 20
	edgeOf     = 64 << 10 // bytes compared at either end of a package
	again      = 7 * day  // a package that looks the same is taken once more after this
)

// Fetch implements feed.Feed.
func (f *browsers) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	r := &fetch{browsers: f, up: up, prev: prev, dst: dst, files: map[string]feed.Artifact{}, fresh: prev == nil}
	for _, a := range slices.Sorted(slices.Values(f.cfg.Chrome)) {
		if err := r.chromePackage(ctx, a); err != nil {
			return "", err
		}
	}
	if len(f.cfg.Edge) > 0 {
		if err := r.edgePackages(ctx); err != nil {
			return "", err
		}
	}
	for _, id := range slices.Sorted(slices.Values(f.cfg.Extensions)) {
		if err := r.extension(ctx, id); err != nil {
			return "", err
		}
	}
	if err := r.older(); err != nil {
		return "", err
	}
	if !r.fresh && !r.dropped() {
		return "", feed.ErrUnchanged
	}
	var state []string
	top := tops(slices.Collect(maps.Keys(r.files)))
	for _, p := range slices.Sorted(maps.Keys(r.files)) {
		a := r.files[p]
		f, _ := parsePath(p)
		v, _ := parseVersion(f.version)
		a.Group = f.artifact(v.order() == top[f.line()]).Group
		if err := dst.Add(a); err != nil {
			return "", err
		}
		state = append(state, r.files[p].Path)
	}
	return feed.DigestOf([]byte(strings.Join(state, "\n"))).Hex()[:16], nil
}

type fetch struct {
	*browsers
	up    feed.Upstream
	prev  feed.Content // may be nil
	dst   feed.Sink
	files map[string]feed.Artifact
	fresh bool // something is not as in prev
}

func upstream(name string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %w: %w", name, err, feed.ErrUpstream), "H-401", "file", name)
}

// add names a stored file.
func (r *fetch) add(f file, blob feed.Blob) {
	a := f.artifact(true)
	a.Digest = blob.Digest()
	if r.prev != nil {
		if old, ok := r.prev.Lookup(a.Path); ok && old.Digest == a.Digest {
			r.files[a.Path] = old
			return
		}
	}
	r.files[a.Path], r.fresh = a, true
}

// newestOf is prev's newest file of a line.
func (r *fetch) newestOf(line string) (a feed.Artifact, ok bool) {
	if r.prev == nil {
		return a, false
	}
	var top int64 = -1
	for x, err := range r.prev.Artifacts() {
		if err != nil {
			return a, false
		}
		if f, good := parsePath(x.Path); good && f.line() == line {
			if v, _ := parseVersion(f.version); v.order() > top {
				a, ok, top = x, true, v.order()
			}
		}
	}
	return a, ok
}

// chromePackage brings Chrome for one processor. Its address has no version
// and the package is large, so the first and last bytes are compared first.
func (r *fetch) chromePackage(ctx context.Context, arch string) error {
	f := file{product: "chrome", arch: arch}
	at := r.chrome.JoinPath(chromeFile(arch)).String()
	if a, ok := r.newestOf(f.line()); ok && r.alike(ctx, at, a) {
		r.files[a.Path] = a
		return nil
	}
	blob, err := r.dst.Load(ctx, feed.Request{URL: at, Limit: maxPackage}, feed.Want{})
	if err != nil {
		return fmt.Errorf("%s: %w", f.line(), err)
	}
	if f.version, err = packageVersion(blob, blob.Size()); err != nil {
		return upstream(at, err)
	}
	r.add(f, blob)
	return nil
}

// alike reports whether the file at an address has the size, the first and the
// last bytes of what is held. A difference elsewhere is found after a week by
// the server's clock, when it is taken whole again.
func (r *fetch) alike(ctx context.Context, at string, a feed.Artifact) bool {
	held, err := r.prev.Open(a.Path)
	if err != nil {
		return false
	}
	defer held.Close()
	ra, ok := held.(io.ReaderAt)
	if !ok {
		return false
	}
	n := min(a.Size, edgeOf)
	for _, from := range []int64{0, a.Size - n} {
		res, err := r.up.Do(ctx, feed.Request{URL: at, Limit: n, Header: http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, from+n-1)}}})
		mine := make([]byte, n)
		if err != nil || res.Status != http.StatusPartialContent || stale(res.Header, a) || !strings.HasSuffix(res.Header.Get("Content-Range"), fmt.Sprintf("/%d", a.Size)) {
			return false
		}
		if _, err := ra.ReadAt(mine, from); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(mine, res.Body) {
			return false
		}
	}
	return true
}

func stale(h http.Header, a feed.Artifact) bool {
	now, err := http.ParseTime(h.Get("Date"))
	return err == nil && now.Sub(a.Origin.Fetched) > again
}

// packageVersion is the browser's version as the package says: the first word
// of its comments ("137.0.7151.104 Copyright …"), since ProductVersion is
// another number made from it; where there is none, ProductVersion.
func packageVersion(r io.ReaderAt, size int64) (string, error) {
	p, err := msi.Read(r, size)
	if err != nil {
		return "", err
	}
	word, _, _ := strings.Cut(p.Comments, " ")
	if _, ok := parseVersion(word); ok && strings.Count(word, ".") == 3 {
		return word, nil
	}
	v := p.Properties["ProductVersion"]
	if _, ok := parseVersion(v); !ok {
		return "", fmt.Errorf("version %.40q", v)
	}
	return v, nil
}

// release is one of Edge's (edgeupdates.microsoft.com, view enterprise).
type release struct {
	Platform, Architecture, ProductVersion string
	Artifacts                              []struct {
		ArtifactName, Location, Hash, HashAlgorithm string
		SizeInBytes                                 int64
	}
}

// edgePackages brings Edge's newest packages, as its list has them.
func (r *fetch) edgePackages(ctx context.Context) error {
	res, err := r.up.Do(ctx, feed.Request{URL: r.edge.String(), Limit: maxList})
	if err != nil {
		return fmt.Errorf("list of Edge: %w", err)
	}
	for _, arch := range slices.Sorted(slices.Values(r.cfg.Edge)) {
		best, err := newestEdge(res.Body, r.cfg.EdgeChannel, arch)
		if err != nil {
			return upstream("list of Edge", err)
		}
		if err := r.edgePackage(ctx, arch, best); err != nil {
			return err
		}
	}
	return nil
}

// newestEdge is the newest release for Windows in Edge's list.
func newestEdge(list []byte, channel, arch string) (best release, err error) {
	var products []struct {
		Product  string
		Releases []release
	}
	if err := json.Unmarshal(bytes.TrimPrefix(list, []byte("\xef\xbb\xbf")), &products); err != nil {
		return best, err
	}
	top := int64(-1)
	for _, p := range products {
		for _, x := range p.Releases {
			v, ok := parseVersion(x.ProductVersion)
			if ok && p.Product == channel && x.Platform == "Windows" && strings.EqualFold(x.Architecture, arch) && v.order() > top {
				best, top = x, v.order()
			}
		}
	}
	if top < 0 {
		return best, fmt.Errorf("nothing for %s, Windows %s", channel, arch)
	}
	return best, nil
}

func (r *fetch) edgePackage(ctx context.Context, arch string, x release) error {
	f := file{product: "edge", channel: r.cfg.EdgeChannel, arch: arch, version: x.ProductVersion}
	for _, a := range x.Artifacts {
		if !strings.EqualFold(a.ArtifactName, "msi") {
			continue
		}
		want := feed.Want{Size: a.SizeInBytes}
		if strings.EqualFold(a.HashAlgorithm, "SHA256") {
			d, err := feed.DigestFromHex(strings.ToLower(a.Hash))
			if err != nil {
				return upstream("list of Edge", err)
			}
			want.Digest = d
		}
		if want.Size < 0 || want.Size > maxPackage {
			return upstream("list of Edge", fmt.Errorf("%d bytes", want.Size))
		}
		at, err := url.Parse(a.Location)
		if err != nil {
			return upstream("list of Edge", err)
		}
		blob, err := r.dst.Load(ctx, feed.Request{URL: r.edge.ResolveReference(at).String(), Limit: maxPackage}, want)
		if err != nil {
			return replaced(f, err)
		}
		r.add(f, blob)
		return nil
	}
	return upstream("list of Edge", fmt.Errorf("no package for %s %s", arch, x.ProductVersion))
}

// replaced is the error for a file that its list names: one that is not there
// is just being replaced, and the next run will find the new one.
func replaced(f file, err error) error {
	var status *feed.StatusError
	if errors.As(err, &status) && status.Status == http.StatusNotFound {
		return feed.NewFault(fmt.Errorf("%s: %w: %w", f.path(), err, feed.ErrTransient), "H-401", "file", f.path())
	}
	return fmt.Errorf("%s: %w", f.path(), err)
}

// gupdate is the answer of an extensions' update service
// (developer.chrome.com, "Host on Linux": update manifest).
type gupdate struct {
	XMLName xml.Name `xml:"gupdate"`
	Apps    []struct {
		ID    string `xml:"appid,attr"`
		Check struct {
			Codebase string `xml:"codebase,attr"`
			Version  string `xml:"version,attr"`
			Status   string `xml:"status,attr"`
		} `xml:"updatecheck"`
	} `xml:"app"`
}

// extension brings an extension's newest package.
func (r *fetch) extension(ctx context.Context, id string) error {
	u := *r.store
	q := u.Query()
	q.Set("response", "updatecheck")
	q.Set("acceptformat", "crx3")
	q.Set("prodversion", "9999.0.0.0")
	q.Set("x", "id="+id+"&uc")
	u.RawQuery = q.Encode()
	res, err := r.up.Do(ctx, feed.Request{URL: u.String(), Limit: maxUpdates})
	if err != nil {
		return fmt.Errorf("extension %s: %w", id, err)
	}
	version, codebase, err := updateOf(res.Body, id)
	if err != nil {
		return upstream("extension "+id, err)
	}
	f := file{product: "extensions", id: id, version: version}
	if r.prev != nil {
		if a, ok := r.prev.Lookup(f.path()); ok {
			r.files[a.Path] = a
			return nil
		}
	}
	blob, err := r.dst.Load(ctx, feed.Request{URL: r.store.ResolveReference(codebase).String(), Limit: crx.MaxSize}, feed.Want{})
	if err != nil {
		return replaced(f, err)
	}
	r.add(f, blob)
	return nil
}

// updateOf reads what the update service says of one extension.
func updateOf(answer []byte, id string) (version string, codebase *url.URL, err error) {
	var g gupdate
	if err := xml.Unmarshal(answer, &g); err != nil {
		return "", nil, err
	}
	for _, app := range g.Apps {
		if app.ID != id || app.Check.Codebase == "" {
			continue
		}
		if !crx.ValidVersion(app.Check.Version) {
			return "", nil, fmt.Errorf("version %.40q", app.Check.Version)
		}
		codebase, err = url.Parse(app.Check.Codebase)
		return app.Check.Version, codebase, err
	}
	return "", nil, errors.New("the service does not know it")
}

// older keeps earlier versions of what is still configured.
func (r *fetch) older() error {
	if r.prev == nil {
		return nil
	}
	have := map[string]int64{} // line → its newest version's order
	for p := range r.files {
		f, _ := parsePath(p)
		v, _ := parseVersion(f.version)
		have[f.line()] = v.order()
	}
	old := map[string][]feed.Artifact{}
	for a, err := range r.prev.Artifacts() {
		if err != nil {
			return err
		}
		f, ok := parsePath(a.Path)
		v, _ := parseVersion(f.version)
		if top, wanted := have[f.line()]; ok && wanted && v.order() < top {
			old[f.line()] = append(old[f.line()], a)
		}
	}
	for _, list := range old {
		slices.SortFunc(list, func(a, b feed.Artifact) int {
			x, _ := parseVersion(a.Version)
			y, _ := parseVersion(b.Version)
			return cmp.Compare(y.order(), x.order())
		})
		for _, a := range list[:min(len(list), r.cfg.Keep-1)] {
			r.files[a.Path] = a
		}
	}
	return nil
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
