package fetcher

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// Load downloads r into the store. See feed.Sink. With r.ETag or r.Modified
// set, a 304 comes back as feed.ErrUnchanged. A blob the store has is believed
// by its digest; a wanted SHA-1 is checked on download only.
func (r *run) Load(ctx context.Context, req feed.Request, want feed.Want) (feed.Blob, error) {
	limit := req.Limit
	if want.Size > 0 && (limit <= 0 || want.Size < limit) {
		limit = want.Size
	}
	if limit <= 0 {
		return nil, fmt.Errorf("%s: download without size or limit", redact(req.URL))
	}
	if b, err := r.stored(req, want); b != nil || err != nil {
		return b, err
	}
	key := partialKey(req, want)
	lock := r.name() + "/" + key
	if want.Digest != "" {
		lock = string(want.Digest) // feeds that want the same file wait for one download
	}
	unlock, err := r.f.loads.lock(ctx, lock)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b, err := r.stored(req, want); b != nil || err != nil {
		return b, err
	}
	if want.Digest == "" {
		if b, err := r.remembered(ctx, key, req); b != nil || err != nil {
			return b, err
		}
	}
	p, err := openPartial(r.f.partialDir(r.name()), key, redact(req.URL), want, limit)
	if err != nil {
		return nil, full(err)
	}
	d := &download{r: r, req: req, want: want, limit: limit, key: key, p: p}
	return d.run(ctx)
}

// stored answers from the store.
func (r *run) stored(req feed.Request, want feed.Want) (feed.Blob, error) {
	n, ok := r.f.Store.Stat(want.Digest)
	if !ok {
		return nil, nil
	}
	if want.Size > 0 && n != want.Size {
		return nil, r.wrong(req, fmt.Errorf("wanted with %d bytes, but %s has %d", want.Size, want.Digest, n))
	}
	r.mu.Lock()
	if _, known := r.asked[want.Digest]; !known {
		r.asked[want.Digest] = redact(req.URL)
	}
	r.mu.Unlock()
	return r.f.Store.Blob(want.Digest)
}

// wrong is content that is not what the vendor's list says.
func (r *run) wrong(req feed.Request, err error) error {
	err = fmt.Errorf("%s: %w: %w", redact(req.URL), err, feed.ErrUntrusted)
	return feed.NewFault(err, "H-502", "feed", r.name(), "file", redact(req.URL), "detail", err.Error())
}

// remembered answers with what this run loaded before it was interrupted, if
// the server still has the same.
func (r *run) remembered(ctx context.Context, key string, req feed.Request) (feed.Blob, error) {
	e, ok := r.journal.get(key)
	if _, have := r.f.Store.Stat(e.Digest); !ok || !have || req.ETag != "" || req.Modified != "" {
		return nil, nil
	}
	if e.ETag == "" && e.Modified == "" {
		if age := r.f.Clock().Sub(e.Origin.Fetched); age < 0 || age > journalFresh {
			return nil, nil
		}
		return r.f.Store.Blob(e.Digest)
	}
	req.ETag, req.Modified = e.ETag, e.Modified
	same := false
	err := r.tries(ctx, req.URL, func() (bool, error) {
		a, err := r.ask(ctx, req)
		if err != nil {
			return false, err
		}
		defer a.Body.Close()
		same = a.StatusCode == http.StatusNotModified
		if same || a.StatusCode == http.StatusOK {
			return false, nil
		}
		return false, r.status(req, a)
	})
	if err != nil || !same {
		return nil, err
	}
	return r.f.Store.Blob(e.Digest)
}

// download is one Load that needs the network.
type download struct {
	r      *run
	req    feed.Request
	want   feed.Want
	limit  int64
	key    string
	p      *partial
	anew   bool // second and last try after wrong bytes
	origin feed.Origin
	device string
	status int
}

// progress is what a try must bring to start the count of tries anew.
const progress = 16 << 10

// mismatch is content that is not what was wanted.
type mismatch struct{ what string }

func (m *mismatch) Error() string { return m.what }

func (d *download) run(ctx context.Context) (feed.Blob, error) {
	for {
		err := d.r.tries(ctx, d.req.URL, func() (bool, error) {
			before := d.p.n
			err := d.attempt(ctx)
			return d.p.n >= before+progress, err
		})
		if err == nil {
			err = d.check()
		}
		m, wrong := errors.AsType[*mismatch](err)
		switch {
		case err == nil:
			return d.adopt()
		case wrong && !d.anew:
			d.anew = true
			d.r.f.Log.Warn("download is not what was wanted, once more", "feed", d.r.name(), "url", redact(d.req.URL), "err", err)
			if err := d.p.reset(); err != nil {
				return nil, full(err)
			}
		case wrong && d.p.html && !wantsHTML(d.req):
			d.p.drop()
			return nil, d.r.page(d.req, d.status, d.device)
		case wrong:
			d.p.drop()
			return nil, d.r.wrong(d.req, m)
		default:
			d.keep(err)
			return nil, err
		}
	}
}

// keep leaves the partial file for the next run, unless it is worth nothing.
func (d *download) keep(err error) {
	if d.p.n == 0 || errors.Is(err, feed.ErrUpstream) || errors.Is(err, feed.ErrUnchanged) || durable.IsFull(err) && d.p.n < smallDownload {
		d.p.drop()
		return
	}
	if perr := d.p.park(); perr != nil {
		d.r.f.Log.Warn("unfinished download not kept", "feed", d.r.name(), "err", perr)
	}
	d.p.file.Close()
}

// attempt asks for the file, or its rest, and appends what comes.
func (d *download) attempt(ctx context.Context) error {
	p := d.p
	if p.n > 0 && p.n == p.meta.Total {
		d.origin = feed.Origin{URL: redact(d.req.URL), Peer: p.meta.Peer, Inspected: p.meta.Inspected} // killed between the last byte and the rename
		return nil
	}
	req := d.req
	req.Header = d.header()
	a, err := d.r.ask(ctx, req)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	d.status, d.device = a.StatusCode, a.device
	resumed := req.Header.Get("Range") != ""
	switch {
	case a.StatusCode == http.StatusOK:
		if err := p.reset(); err != nil {
			return full(err)
		}
		p.meta = sidecar{URL: redact(d.req.URL), ETag: a.Header.Get("ETag"), Modified: a.Header.Get("Last-Modified"), Total: max(a.ContentLength, 0)}
	case a.StatusCode == http.StatusPartialContent && resumed:
		if !d.continues(a) {
			return d.restart("the rest does not follow")
		}
	case a.StatusCode == http.StatusRequestedRangeNotSatisfiable && resumed:
		if p.pinned && a.Header.Get("Content-Range") == "bytes */"+strconv.FormatInt(p.n, 10) {
			d.origin = a.origin
			return nil
		}
		return d.restart("the server has no rest")
	case a.StatusCode == http.StatusNotModified && (req.ETag != "" || req.Modified != ""):
		return feed.ErrUnchanged
	default:
		return d.r.status(req, a)
	}
	d.origin = a.origin
	d.origin.Inspected = d.origin.Inspected || p.meta.Inspected
	p.meta.Peer, p.meta.Inspected = d.origin.Peer, d.origin.Inspected
	return d.receive(ctx, a)
}

func (d *download) header() http.Header {
	h := d.req.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if d.anew {
		h.Set("Cache-Control", "no-cache")
	}
	if d.p.n > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", d.p.n))
		if v := d.p.ifRange(); v != "" {
			h.Set("If-Range", v)
		} else if !d.p.pinned {
			h.Del("Range")
		}
	}
	return h
}

// continues reports whether a 206 is the rest of what we have.
func (d *download) continues(a *answer) bool {
	p := d.p
	spec, ok := strings.CutPrefix(a.Header.Get("Content-Range"), "bytes ")
	span, total, ok2 := strings.Cut(spec, "/")
	from, _, ok3 := strings.Cut(span, "-")
	start, err := strconv.ParseInt(from, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || start != p.n {
		return false
	}
	if t, err := strconv.ParseInt(total, 10, 64); err == nil {
		if p.meta.Total > 0 && t != p.meta.Total {
			return false
		}
		p.meta.Total = t
	}
	tag := a.Header.Get("ETag")
	return tag == "" || p.meta.ETag == "" || tag == p.meta.ETag
}

func (d *download) restart(why string) error {
	if err := d.p.reset(); err != nil {
		return full(err)
	}
	return &again{err: unreachable(d.r.name(), hostOf(d.req.URL), "cut", errors.New(why))}
}

// receive appends the body to the partial file.
func (d *download) receive(ctx context.Context, a *answer) error {
	p, r := d.p, d.r
	total := p.meta.Total
	if total > d.limit || (d.want.Size > 0 && total > 0 && total != d.want.Size) {
		return d.tooMuch(a)
	}
	if err := r.f.room(total - p.n); err != nil {
		return err
	}
	if total == 0 || total-p.n > smallDownload {
		if err := p.note(); err != nil {
			return full(err)
		}
	}
	buf := make([]byte, min(max(total-p.n, 4<<10), 256<<10))
	if total == 0 {
		buf = make([]byte, 64<<10)
	}
	told := p.n
	for {
		n, err := a.Body.Read(buf)
		r.bytes.Add(int64(n))
		if p.n+int64(n) > d.limit {
			return d.tooMuch(nil)
		}
		if n > 0 {
			if werr := p.write(buf[:n]); werr != nil {
				return full(werr)
			}
		}
		if p.html && !p.pinned && !wantsHTML(d.req) {
			p.reset()
			return r.page(d.req, a.StatusCode, a.device)
		}
		if p.n-told >= 512<<10 || errors.Is(err, io.EOF) {
			told = p.n
			r.f.Progress(Event{Feed: r.name(), Stage: "load", Name: redact(d.req.URL), Done: p.n, Total: total})
		}
		switch {
		case errors.Is(err, io.EOF) && (total > 0 && p.n < total || d.want.Size > 0 && p.n < d.want.Size):
			return r.cut(ctx, d.req, io.ErrUnexpectedEOF)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return r.cut(ctx, d.req, err)
		}
	}
}

// tooMuch refuses a body of the wrong length: against a known size it is
// wrong content (perhaps a page), against a limit an unreadable upstream.
func (d *download) tooMuch(a *answer) error {
	if d.want.Size <= 0 || d.limit < d.want.Size {
		d.p.reset()
		return tooLong(d.r.name(), d.req, d.limit)
	}
	if a != nil {
		first := make([]byte, 512)
		n, _ := io.ReadFull(a.Body, first)
		d.p.html = d.p.html || looksHTML(first[:n])
	}
	return &mismatch{fmt.Sprintf("not of %d bytes", d.want.Size)}
}

// check compares what came with what was wanted.
func (d *download) check() error {
	got := feed.DigestFrom(d.p.sums)
	switch {
	case d.want.Digest != "" && got != d.want.Digest:
		return &mismatch{fmt.Sprintf("digest %s, not %s", got, d.want.Digest)}
	case d.want.Size > 0 && d.p.n != d.want.Size:
		return &mismatch{fmt.Sprintf("%d bytes, not %d", d.p.n, d.want.Size)}
	case d.want.SHA1 != "" && !strings.EqualFold(hex.EncodeToString(d.p.sha1.Sum(nil)), d.want.SHA1):
		return &mismatch{"SHA-1 differs"}
	}
	return nil
}

// adopt makes the finished file a blob.
func (d *download) adopt() (feed.Blob, error) {
	p, r := d.p, d.r
	sum := feed.DigestFrom(p.sums)
	d.origin.Fetched = r.f.Clock().UTC()
	p.file.Close()
	if err := r.f.Store.Adopt(p.path, sum); err != nil {
		return nil, full(err)
	}
	os.Remove(p.metaPath())
	r.mu.Lock()
	r.origins[sum] = d.origin
	r.mu.Unlock()
	e := entry{Key: d.key, Digest: sum, Origin: d.origin, ETag: p.meta.ETag, Modified: p.meta.Modified}
	if err := r.journal.add(e); err != nil {
		return nil, full(err)
	}
	return r.f.Store.Blob(sum)
}

// reserve stays free whatever a download needs.
const reserve = 64 << 20

// room refuses a download that the disk cannot hold.
func (f *Fetcher) room(need int64) error {
	if need < smallDownload {
		return nil
	}
	free, err := durable.Free(string(f.Data))
	if err != nil || free >= need+reserve {
		return nil
	}
	return noRoom(errors.New("disk too full for the download"), need, free)
}

func noRoom(err error, need, free int64) error {
	return feed.NewFault(err, "H-801", "need", strconv.FormatInt(need, 10), "free", strconv.FormatInt(free, 10))
}

// full gives a full disk its message code.
func full(err error) error {
	if durable.IsFull(err) {
		return noRoom(err, 0, 0)
	}
	return err
}

// Put stores r's bytes; the origin is name.
func (r *run) Put(ctx context.Context, name string, rd io.Reader) (feed.Blob, error) {
	d, _, err := r.f.Store.Put(ctx, rd, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, full(err))
	}
	r.mu.Lock()
	o, ok := r.answers[redact(name)] // bytes that Do brought: the peer is known
	if !ok {
		o = feed.Origin{URL: redact(name), Fetched: r.f.Clock().UTC()}
	}
	r.origins[d] = o
	r.mu.Unlock()
	return r.f.Store.Blob(d)
}

// Add names an artifact and says where its bytes came from. A kind may name
// the URL; when, from which peer, and whether an inspecting proxy stood
// between is what this engine saw.
func (r *run) Add(a feed.Artifact) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	url := a.Origin.URL
	a.Origin = r.origin(a)
	if url != "" {
		a.Origin.URL = redact(url)
	}
	return r.builder.Add(a)
}

func (r *run) origin(a feed.Artifact) feed.Origin {
	if o, ok := r.origins[a.Digest]; ok {
		return o
	}
	if r.prev != nil {
		if p, ok := r.prev.Lookup(a.Path); ok && p.Digest == a.Digest {
			return p.Origin
		}
	}
	if o, ok := r.journal.origin(a.Digest); ok {
		return o
	}
	if r.prev != nil && r.byPrev == nil {
		r.byPrev = map[feed.Digest]feed.Origin{}
		for p := range r.prev.Artifacts() {
			r.byPrev[p.Digest] = p.Origin
		}
	}
	if o, ok := r.byPrev[a.Digest]; ok {
		return o
	}
	// Another feed brought the same bytes: no peer of ours to name.
	return feed.Origin{URL: r.asked[a.Digest]}
}
