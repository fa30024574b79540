package tree

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"

	"github.com/hashike/hashike/internal/feed"
)

// Handler implements feed.Feed: the tree as it is. Files of older publications
// stay reachable for a client that read the list before.
func (t *tree) Handler(s feed.Serving) (http.Handler, error) { return feed.FileHandler(s), nil }

// Settings implements feed.ClientSettings.
func (t *tree) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	list := below(base, t.cfg.List)
	name := path.Base(t.cfg.List)
	body := fmt.Sprintf("curl -fO %s\n", list)
	if t.cfg.Signature == inClear {
		body += fmt.Sprintf("gpgv --keyring KEYRING --output %s.text %s\nsha256sum -c --ignore-missing %s.text\n", name, name, name)
	} else {
		if t.detached() {
			body += fmt.Sprintf("curl -fO %s\ngpgv --keyring KEYRING %s %s\n",
				below(base, t.cfg.Signature), path.Base(t.cfg.Signature), name)
		}
		body += fmt.Sprintf("sha256sum -c --ignore-missing %s\n", name)
	}
	return []feed.Setting{{
		Title: feed.Text{JA: "ファイルの場所と確かめ方", EN: "Where the files are, and how to check them"},
		Body:  body,
		Note: feed.Text{
			JA: "一覧と署名は提供元のものをそのまま配信しています。",
			EN: "List and signature are served exactly as the vendor has them.",
		},
	}}, nil
}

// Probe implements feed.Prober: reads the list, and one file that it names,
// and compares both with the snapshot.
func (t *tree) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	paths := []string{t.cfg.List}
	for a, err := range c.Artifacts() {
		if err != nil {
			return nil, err
		}
		if a.Class != feed.Metadata {
			paths = append(paths, a.Path)
			break
		}
	}
	var told []string
	for _, p := range paths {
		a, ok := c.Lookup(p)
		if !ok {
			return told, fmt.Errorf("%s is not in the snapshot: %w", p, feed.ErrDamaged)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, below(base, p), nil)
		if err != nil {
			return told, err
		}
		res, err := do(req)
		if err != nil {
			return told, fmt.Errorf("%s: %w", p, err)
		}
		h := sha256.New()
		n, err := io.Copy(h, io.LimitReader(res.Body, a.Size+1))
		res.Body.Close()
		if err == nil && (res.StatusCode != http.StatusOK || feed.DigestFrom(h) != a.Digest) {
			err = fmt.Errorf("answered %s with %d bytes that are not the file: %w", res.Status, n, feed.ErrDamaged)
		}
		if err != nil {
			return told, fmt.Errorf("%s: %w", p, err)
		}
		told = append(told, fmt.Sprintf("%s: %d bytes, sha256 %s", p, n, a.Digest.Hex()))
	}
	return told, nil
}
