package wsus

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/authenticode"
	"github.com/hashike/hashike/internal/format/cab"
	"github.com/hashike/hashike/verifier"
)

// offlineSource is a wsusscn2.cab to take: from the drop directory, with the
// files that lie beside it, or from an address, with files from the addresses
// in it.
type offlineSource struct {
	url   string
	drop  string            // path; else
	files map[string]string // lower-case name → path, beside it
}

// fromOffline adds what the configured or dropped wsusscn2.cab has.
func (f *updates) fromOffline(ctx context.Context, up feed.Upstream, r *fetch) error {
	src := r.offline
	switch {
	case f.conf.Offline == "" && src == nil:
		return nil
	case f.conf.Offline != "" && src != nil:
		err := fmt.Errorf("%s lies in the drop directory, and offline names an address: %w", src.drop, feed.ErrConfig)
		return feed.NewFault(err, "H-202", "file", "hashike.toml", "detail", err.Error())
	case src == nil:
		src = &offlineSource{url: f.conf.Offline}
	}
	if len(f.conf.Products) == 0 || len(f.conf.Classifications) == 0 {
		err := fmt.Errorf("%s needs products and classifications: %w", offlineName, feed.ErrConfig)
		return feed.NewFault(err, "H-202", "file", "hashike.toml", "detail", err.Error())
	}
	o := &offlineFetch{fetch: r, f: f, up: up, src: src}
	err := o.run(ctx)
	if errors.Is(err, errIncomplete) {
		r.waiting = append(r.waiting, fmt.Sprintf("%s: %v", src.drop, err))
		return nil
	}
	return err
}

// offlineFetch is one taking.
type offlineFetch struct {
	*fetch
	f    *updates
	up   feed.Upstream
	src  *offlineSource
	blob feed.Blob
	cab  *offlineCab
}

func (o *offlineFetch) run(ctx context.Context) error {
	if err := o.load(ctx); err != nil {
		return err
	}
	x, c, s, err := o.extract(ctx)
	if err != nil {
		return err
	}
	if err := o.payloads(ctx, s); err != nil {
		return err
	}
	o.found[x.Path], o.found[c.Path] = x, c
	for _, n := range s.numbers() {
		o.ids.add(s.updates[n].identity)
	}
	o.taken++
	return nil
}

// load brings the cabinet into the store. One that is still being copied waits.
func (o *offlineFetch) load(ctx context.Context) (err error) {
	if o.src.url == "" {
		o.blob, err = o.put(ctx, o.src.drop)
	} else {
		o.blob, err = o.fromURL(ctx)
	}
	if err != nil {
		return err
	}
	if _, err := cab.NewReader(o.blob, o.blob.Size(), cab.Limits{}); err != nil && o.src.url == "" {
		return fmt.Errorf("%w: %w", err, errIncomplete)
	}
	return nil
}

// fromURL loads the cabinet, unless it is the one of the last snapshot: a
// gigabyte is not asked for to learn that. A signature says what it is of, so
// two small requests, for header and signature, tell.
func (o *offlineFetch) fromURL(ctx context.Context) (feed.Blob, error) {
	if a, f := o.lastCab(); f != nil {
		defer f.Close()
		same := authenticode.Unchanged(f, a.Size, func(from, to int64) ([]byte, error) {
			h := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
			res, err := o.up.Do(ctx, feed.Request{URL: o.src.url, Header: h, Limit: to - from})
			if err != nil {
				return nil, err
			}
			return res.Body, nil
		})
		if same {
			return o.dst.Load(ctx, feed.Request{URL: o.src.url, Limit: maxOffline}, feed.Want{Digest: a.Digest, Size: a.Size})
		}
	}
	return o.dst.Load(ctx, feed.Request{URL: o.src.url, Limit: maxOffline}, feed.Want{})
}

// lastCab opens the cabinet of the last snapshot; nil without one.
func (o *offlineFetch) lastCab() (a feed.Artifact, f interface {
	io.ReaderAt
	io.Closer
}) {
	if o.prev == nil {
		return a, nil
	}
	for a, err := range o.prev.Artifacts() {
		if err != nil || !isOfflineCab(a) {
			continue
		}
		file, err := o.prev.Open(a.Path)
		if err != nil {
			return a, nil
		}
		if r, ok := file.(interface {
			io.ReaderAt
			io.Closer
		}); ok {
			return a, r
		}
		file.Close()
	}
	return a, nil
}

// extract takes the last snapshot's if it is of the same cabinet and choice;
// else it checks the signature first, for the cabinet is large, and reads.
func (o *offlineFetch) extract(ctx context.Context) (x, c feed.Artifact, s *scan, err error) {
	if o.prev != nil {
		for a, err := range o.prev.Artifacts() {
			if err != nil || !isExtract(a) {
				continue
			}
			if s, err = openSource(o.prev, a); err == nil && s.head.cabinet == o.blob.Digest() && s.head.choice == o.f.offlineChoice() {
				x, c = offlineArtifacts(s.head, a.Digest)
				return x, c, s, nil
			}
		}
	}
	trust := feed.Trust{Anchors: o.f.anchors, At: o.f.now()}
	if _, err := verifier.Authenticode(o.blob, o.blob.Size(), verifier.Microsoft(), trust); err != nil {
		err = fmt.Errorf("%s: %w", offlineName, err)
		return x, c, nil, feed.NewFault(err, "H-502", "feed", "wsus", "file", offlineName, "signer", "Microsoft Corporation", "detail", err.Error())
	}
	if err := o.open(); err != nil {
		return x, c, nil, err
	}
	h := extractHead{cabinet: o.blob.Digest(), choice: o.f.offlineChoice()}
	if h.created, err = o.cab.created(); err != nil {
		return x, c, nil, err
	}
	all, err := readCatalogue(o.cab)
	if err != nil {
		return x, c, nil, err
	}
	products, err := all.resolve(o.f.conf.Products, false)
	classes, err2 := all.resolve(o.f.conf.Classifications, true)
	if err := errors.Join(err, err2); err != nil {
		return x, c, nil, feed.NewFault(err, "H-202", "file", "hashike.toml", "detail", err.Error())
	}
	chosen := all.choose(products, classes)
	if len(chosen) == 0 {
		return x, c, nil, upstream("%s has nothing of what is chosen", offlineName)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeExtract(pw, o.cab, h, chosen)) }()
	b, err := o.dst.Put(ctx, "made:"+extractPrefix+"*.zst", pr)
	pr.CloseWithError(errors.New("not read to its end"))
	if err != nil {
		return x, c, nil, err
	}
	x, c = offlineArtifacts(h, b.Digest())
	s, err = readExtract(b, b.Size(), nil)
	return x, c, s, err
}

func (o *offlineFetch) open() (err error) {
	if o.cab == nil {
		o.cab, err = openOffline(o.blob, o.blob.Size())
	}
	return err
}

// payloads brings the files of what is worth installing: from beside a dropped
// cabinet what lies there, from an address all that the cabinet says where it is.
func (o *offlineFetch) payloads(ctx context.Context, s *scan) error {
	list, err := s.payloads("")
	if err != nil {
		return err
	}
	wanted := s.wanted(o.f.conf.Superseded)
	lack := map[[20]byte]bool{}
	var later []payload
	for _, p := range list {
		if _, ok := o.found[p.Path]; ok || !wanted[p.Path] {
			continue // a drop or a server has it, or nobody needs it
		}
		if o.had(p) {
			o.found[p.Path] = p.Artifact
			continue
		}
		if o.src.url != "" {
			lack[p.SHA1] = true
			later = append(later, p)
			continue
		}
		if err := o.beside(ctx, p); err != nil {
			return err
		}
	}
	if len(later) == 0 {
		return nil
	}
	if err := o.open(); err != nil {
		return err
	}
	at, err := o.cab.locations(lack)
	if err != nil {
		return err
	}
	for _, p := range later {
		if at[p.SHA1] == "" {
			continue // Handler does not offer it
		}
		want := feed.Want{Digest: p.SHA256, Size: p.file.Size, SHA1: hex.EncodeToString(p.SHA1[:])}
		if _, err := o.dst.Load(ctx, feed.Request{URL: at[p.SHA1], Limit: maxPayload}, want); err != nil {
			return fmt.Errorf("%.200q: %w", p.Name, err)
		}
		o.found[p.Path] = p.Artifact
	}
	return nil
}

// beside takes a file that lies with the cabinet, if it is the one that is named.
func (o *offlineFetch) beside(ctx context.Context, p payload) error {
	at, ok := o.src.files[strings.ToLower(path.Base(strings.ReplaceAll(p.Name, `\`, "/")))]
	if !ok {
		return nil
	}
	if st, err := fs.Stat(o.fsys, at); err != nil || st.Size() != p.file.Size {
		return nil
	}
	b, err := o.put(ctx, at)
	if errors.Is(err, errIncomplete) {
		return nil
	}
	if err == nil && b.Digest() == p.SHA256 {
		o.found[p.Path] = p.Artifact
	}
	return err
}

// wanted are the paths of the files that terminals may need: of what can be
// deployed and is not superseded by something here, and of the members of its
// bundles.
func (s *scan) wanted(superseded bool) map[string]bool {
	over := map[guid]bool{}
	exact := map[identity]*update{}
	for _, u := range s.updates {
		exact[u.identity] = u
		for _, g := range u.Supersedes {
			if g != u.Update {
				over[g] = true
			}
		}
	}
	out, done := map[string]bool{}, map[identity]bool{}
	var todo []*update
	for _, u := range s.updates {
		if u.Explicit && (superseded || !over[u.Update]) {
			todo = append(todo, u)
		}
	}
	for len(todo) > 0 {
		u := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if done[u.identity] {
			continue
		}
		done[u.identity] = true
		for _, f := range u.Files {
			out[f.path()] = true
		}
		for _, id := range slices.Concat(u.Bundles...) {
			if m := exact[id]; m != nil {
				todo = append(todo, m)
			}
		}
	}
	return out
}

// offlineChoice identifies what is taken of a catalogue.
func (f *updates) offlineChoice() string {
	list := slices.Concat(slices.Sorted(maps.Keys(set(f.conf.Products))), []string{""}, slices.Sorted(maps.Keys(set(f.conf.Classifications))))
	return feed.DigestOf([]byte(strings.ToLower(strings.Join(list, "\x00")))).Hex()[:16]
}

func set(list []string) map[string]bool {
	out := map[string]bool{}
	for _, s := range list {
		out[s] = true
	}
	return out
}
