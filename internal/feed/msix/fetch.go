package msix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/appx"
)

// Fetch implements feed.Feed. With nothing new, a folder costs a listing, an
// address one small request, or a download where the server has no validators.
func (p *packages) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	if p.cfg.Dir != "" {
		return p.fetchDir(ctx, up, prev, dst)
	}
	return p.fetchURLs(ctx, up, prev, dst)
}

// add names a package by what its manifest says.
func (p *packages) add(b feed.Blob, from string, seen map[string]string, dst feed.Sink) error {
	ext := extension(from)
	if u, err := url.Parse(from); err == nil && ext == "" {
		ext = extension(u.Path)
	}
	k, err := describe(b, b.Size(), ext)
	if errors.Is(err, appx.ErrFormat) {
		return unreadable(from, fmt.Errorf("%s: %w: %w", from, err, feed.ErrUpstream))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if other, twice := seen[strings.ToLower(k.path)]; twice {
		if other == string(b.Digest()) {
			return nil
		}
		return unreadable(from, fmt.Errorf("%s: there is another %s with other content: %w", from, k.FullName(), feed.ErrUpstream))
	}
	seen[strings.ToLower(k.path)] = string(b.Digest())
	return dst.Add(feed.Artifact{Path: k.path, Digest: b.Digest(), Class: p.cfg.Class, Version: k.Version, Time: k.packed, Group: k.path})
}

func unreadable(file string, err error) error {
	return feed.NewFault(err, "H-401", "file", file, "detail", err.Error())
}

func (p *packages) fetchDir(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	dir, err := up.Dir(p.cfg.Dir)
	if err != nil {
		return "", err
	}
	names, state, err := p.list(dir)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", unreadable(p.cfg.Dir, fmt.Errorf("no package in folder %s: %w", p.cfg.Dir, feed.ErrTransient))
	}
	if prev != nil && prev.Header().State == state {
		return "", feed.ErrUnchanged
	}
	seen := map[string]string{}
	for _, n := range names {
		b, err := p.put(ctx, dir, n, dst)
		if err != nil {
			return "", err
		}
		if err := p.add(b, n, seen, dst); err != nil {
			return "", err
		}
	}
	return state, nil
}

// list names the packages in a folder and below, and a fingerprint of the listing.
func (p *packages) list(dir fs.FS) (names []string, state string, err error) {
	var said []byte
	err = fs.WalkDir(dir, ".", func(n string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || extension(n) == "" || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if len(names) == maxPackages {
			return fmt.Errorf("more than %d packages: %w", maxPackages, feed.ErrUpstream)
		}
		names = append(names, n)
		said = fmt.Appendf(said, "%q %d %d\n", n, st.Size(), st.ModTime().UnixNano())
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("folder %s: %w", p.cfg.Dir, err)
	}
	return names, "dir=" + string(feed.DigestOf(fmt.Appendf(said, "%s", p.cfg.Class))), nil
}

// put copies a file that does not change meanwhile.
func (p *packages) put(ctx context.Context, dir fs.FS, name string, dst feed.Sink) (feed.Blob, error) {
	full := "dir:" + p.cfg.Dir + "/" + name
	f, err := dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full, err)
	}
	if !before.Mode().IsRegular() || before.Size() > p.cfg.MaxFile {
		return nil, unreadable(name, fmt.Errorf("%s: %s of %d bytes: %w", full, before.Mode(), before.Size(), feed.ErrUpstream))
	}
	b, err := dst.Put(ctx, full, io.LimitReader(f, p.cfg.MaxFile+1))
	if err != nil {
		return nil, err
	}
	after, err := fs.Stat(dir, name) // by name: it may have been replaced
	if err != nil || b.Size() != before.Size() || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, unreadable(name, fmt.Errorf("%s is being written: %w", full, feed.ErrTransient))
	}
	return b, nil
}

// mark is what Fetch must know at the next run of each address: its validators
// and the digest of what it gave.
type mark struct{ validators, digest string }

func (p *packages) marks(prev feed.Content) map[string]mark {
	out := map[string]mark{}
	if prev == nil {
		return out
	}
	v, err := url.ParseQuery(prev.Header().State)
	if err != nil || v.Get("class") != string(p.cfg.Class) {
		return out
	}
	for k, l := range v {
		if n, ok := strings.CutPrefix(k, "v:"); ok {
			out[n] = mark{l[0], v.Get("d:" + n)}
		}
	}
	return out
}

// short identifies an address in the state, which must stay small.
func short(u string) string { return feed.DigestOf([]byte(u)).Hex()[:16] }

func (p *packages) fetchURLs(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	was, state := p.marks(prev), url.Values{"class": {string(p.cfg.Class)}}
	digests := map[string]feed.Artifact{}
	if prev != nil {
		for a, err := range prev.Artifacts() {
			if err != nil {
				return "", err
			}
			digests[string(a.Digest)] = a
		}
	}
	seen, fresh := map[string]string{}, len(was) != len(p.cfg.URLs)
	for _, u := range p.cfg.URLs {
		k := short(u)
		now := p.ask(ctx, up, u)
		old, known := digests[was[k].digest]
		if known && now != "" && now == was[k].validators {
			state.Set("v:"+k, now)
			state.Set("d:"+k, string(old.Digest))
			if seen[strings.ToLower(old.Path)] == "" {
				seen[strings.ToLower(old.Path)] = string(old.Digest)
				if err := dst.Add(old); err != nil {
					return "", err
				}
			}
			continue
		}
		b, err := dst.Load(ctx, feed.Request{URL: u, Limit: p.cfg.MaxFile}, feed.Want{})
		if err != nil {
			return "", fmt.Errorf("%s: %w", u, err)
		}
		fresh = fresh || string(b.Digest()) != was[k].digest
		state.Set("v:"+k, now)
		state.Set("d:"+k, string(b.Digest()))
		if err := p.add(b, u, seen, dst); err != nil {
			return "", err
		}
	}
	if !fresh {
		return "", feed.ErrUnchanged
	}
	return state.Encode(), nil
}

// ask returns a server's validators for what an address holds now, "" if it has
// none: then only the bytes can tell. Whatever else is wrong, the download says.
func (p *packages) ask(ctx context.Context, up feed.Upstream, u string) string {
	r, err := up.Do(ctx, feed.Request{URL: u, Header: http.Header{"Range": {"bytes=0-0"}}, Limit: 4096})
	if err != nil || r.Status != http.StatusPartialContent {
		return ""
	}
	parts := []string{r.Header.Get("ETag"), r.Header.Get("Last-Modified")}
	if slices.Equal(parts, []string{"", ""}) {
		return ""
	}
	return feed.DigestOf([]byte(strings.Join(append(parts, r.Header.Get("Content-Range")), "\n"))).Hex()[:32]
}
