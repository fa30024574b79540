package tooldir

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Settings implements feed.ClientSettings.
func (f *folder) Settings(c feed.Content, base *url.URL) ([]feed.Setting, error) {
	m, err := readManifest(c)
	if err != nil {
		return nil, err
	}
	t, err := NewTree(context.Background(), m.Files, func(p string) (io.ReaderAt, func(), error) { return openIn(c, p) })
	if err != nil {
		return nil, err
	}
	return f.v.Settings(t, strings.TrimSuffix(base.String(), "/")), nil
}

// maxProbed is how many indexes a probe reads.
const maxProbed = 20

// Probe implements feed.Prober: it reads the indexes and one file as a terminal
// does, and compares them with the snapshot.
func (f *folder) Probe(ctx context.Context, do func(*http.Request) (*http.Response, error), c feed.Content, base *url.URL) ([]string, error) {
	var told []string
	indexes, files := 0, 0
	for a, err := range c.Artifacts() {
		if err != nil {
			return told, err
		}
		if a.Path == Manifest || a.Class == feed.Metadata && indexes == maxProbed || a.Class != feed.Metadata && files == 1 {
			continue
		}
		if indexes++; a.Class != feed.Metadata {
			indexes, files = indexes-1, files+1
		}
		n, err := same(ctx, do, a, base.JoinPath(strings.Split(a.Path, "/")...).String())
		if err != nil {
			return told, fmt.Errorf("%s: %w", a.Path, err)
		}
		told = append(told, fmt.Sprintf("%s of release %s, %d bytes", a.Path, a.Version, n))
	}
	if len(told) == 0 {
		return nil, fmt.Errorf("no file in the snapshot: %w", feed.ErrDamaged)
	}
	return told, nil
}

func same(ctx context.Context, do func(*http.Request) (*http.Response, error), a feed.Artifact, at string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, err
	}
	res, err := do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(res.Body, a.Size+1))
	if err == nil && (res.StatusCode != http.StatusOK || feed.DigestFrom(h) != a.Digest) {
		err = fmt.Errorf("answered %s with %d bytes that are not the file: %w", res.Status, n, feed.ErrDamaged)
	}
	return n, err
}
