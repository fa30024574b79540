package clamav

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/clamav"
)

// web is an HTTPS mirror. The engine's User-Agent is honest: the vendor's own
// CDN lets only its tools through, and pretending to be one is not for us.
type web struct {
	base *url.URL
	up   feed.Upstream
	dst  feed.Sink
}

func (w *web) head(ctx context.Context, db string) ([]byte, error) {
	name := db + ".cvd"
	res, err := w.up.Do(ctx, feed.Request{
		URL:    w.base.JoinPath(name).String(),
		Header: http.Header{"Range": {fmt.Sprintf("bytes=0-%d", clamav.HeaderSize-1)}},
		Limit:  clamav.HeaderSize,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(res.Body) != clamav.HeaderSize {
		return nil, feed.NewFault(fmt.Errorf("%s: header of %d bytes: %w", name, len(res.Body), feed.ErrUpstream), "H-401", "file", name)
	}
	return res.Body, nil
}

func (w *web) load(ctx context.Context, name string, limit int64) (feed.Blob, error) {
	b, err := w.dst.Load(ctx, feed.Request{URL: w.base.JoinPath(name).String(), Limit: limit}, feed.Want{})
	var status *feed.StatusError
	if errors.As(err, &status) && (status.Status == http.StatusNotFound || status.Status == http.StatusGone) {
		return nil, fmt.Errorf("%s: %w: %w", name, err, fs.ErrNotExist)
	}
	return b, err
}

func (w *web) cheap() bool { return false }
