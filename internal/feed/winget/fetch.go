package winget

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

const (
	indexPath = "source.json"
	folder    = "manifests/"
	maxFiles  = 20_000 // manifests of one source
	maxIndex  = 8 << 20
)

// index is source.json: our outside's list of the manifests, so that one cannot
// be changed, added or left out on the way without a trace.
type index struct {
	Schema    int                    `json:"schema"`
	Manifests map[string]feed.Digest `json:"manifests"` // by path
}

func (x index) encode() []byte {
	b, err := json.Marshal(x)
	if err != nil {
		panic(err) // a map of strings
	}
	return append(b, '\n')
}

// readIndex accepts what encode writes and nothing else.
func readIndex(b []byte) (index, error) {
	var x index
	if err := json.Unmarshal(b, &x); err != nil {
		return x, fmt.Errorf("%s: %w: %w", indexPath, err, feed.ErrUntrusted)
	}
	if x.Schema != 1 || x.Manifests == nil || !bytes.Equal(x.encode(), b) {
		return x, fmt.Errorf("%s is not as it is written: %w", indexPath, feed.ErrUntrusted)
	}
	return x, nil
}

// Fetch implements feed.Feed: the manifests in the folder, each under its
// identifier and version, whatever the files are called.
func (s *source) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	x := index{Schema: 1, Manifests: map[string]feed.Digest{}}
	if s.cfg.Dir != "" {
		dir, err := up.Dir(s.cfg.Dir)
		if err != nil {
			return "", err
		}
		docs := map[string][]*document{}
		if err := s.collect(ctx, dir, dst, x.Manifests, docs); err != nil {
			return "", err
		}
		for at, d := range docs {
			if _, err := join(d); err != nil { // somebody may be copying
				return "", feed.NewFault(fmt.Errorf("folder %s: %w: %w", s.cfg.Dir, err, feed.ErrTransient), "H-401", "file", at, "detail", err.Error())
			}
		}
	}
	body := x.encode()
	state := feed.DigestOf(body).Hex()
	if prev != nil && prev.Header().State == state {
		return "", feed.ErrUnchanged
	}
	b, err := dst.Put(ctx, "made:"+indexPath, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	return state, dst.Add(feed.Artifact{Path: indexPath, Digest: b.Digest(), Class: feed.Metadata})
}

func (s *source) collect(ctx context.Context, dir fs.FS, dst feed.Sink, into map[string]feed.Digest, docs map[string][]*document) error {
	roots := []string{"."}
	if len(s.cfg.Packages) > 0 {
		roots = s.roots(dir)
	}
	for _, root := range roots {
		err := fs.WalkDir(dir, root, func(n string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if ext := strings.ToLower(path.Ext(n)); !d.Type().IsRegular() || ext != ".yaml" && ext != ".yml" {
				return ctx.Err()
			}
			if len(into) == maxFiles {
				return fmt.Errorf("more than %d manifests: %w", maxFiles, feed.ErrUpstream)
			}
			return s.take(ctx, dir, n, dst, into, docs)
		})
		if err != nil {
			return fmt.Errorf("folder %s: %w", s.cfg.Dir, err)
		}
	}
	return nil
}

// roots are the folders of the wanted packages, in the community repository's
// layout, with and without its first two levels.
func (s *source) roots(dir fs.FS) []string {
	var out []string
	for _, id := range s.cfg.Packages {
		p := strings.ReplaceAll(id, ".", "/")
		for _, root := range []string{"manifests/" + strings.ToLower(id[:1]) + "/" + p, strings.ToLower(id[:1]) + "/" + p, p, id} {
			if st, err := fs.Stat(dir, root); err == nil && st.IsDir() && fs.ValidPath(root) {
				out = append(out, root)
				break
			}
		}
	}
	return out
}

// take adds one manifest file. A file of the folder that is no manifest of a
// form known here stops the fetch: whoever put it there should know.
func (s *source) take(ctx context.Context, dir fs.FS, name string, dst feed.Sink, into map[string]feed.Digest, docs map[string][]*document) error {
	f, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return err
	}
	d, err := parseDocument(body)
	if errors.Is(err, errSkip) {
		return nil
	}
	if err != nil {
		return feed.NewFault(fmt.Errorf("%s: %w: %w", name, err, feed.ErrUpstream), "H-401", "file", name, "detail", err.Error())
	}
	if len(s.cfg.Packages) > 0 && !slices.ContainsFunc(s.cfg.Packages, func(p string) bool { return strings.EqualFold(p, d.ID) }) {
		return nil
	}
	at := d.path()
	digest := feed.DigestOf(body)
	if old, twice := into[at]; twice && old != digest {
		return feed.NewFault(fmt.Errorf("%s: %s is there twice: %w", name, at, feed.ErrUpstream), "H-401", "file", name, "detail", "two manifests for "+at)
	}
	if _, twice := into[at]; twice {
		return nil
	}
	b, err := dst.Put(ctx, "dir:"+s.cfg.Dir+"/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	into[at] = b.Digest()
	docs[path.Dir(at)] = append(docs[path.Dir(at)], d)
	return dst.Add(feed.Artifact{Path: at, Digest: b.Digest(), Class: feed.Feature, Version: d.Version})
}
