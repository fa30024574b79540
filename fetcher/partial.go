package fetcher

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// An unfinished download is quarantine/partial/<feed>/<key>.part, its name the
// hash of what was asked, with <key>.json beside it: the validators under which
// a server may be asked for the rest, and how far the bytes are surely on the
// disk. Without that document the download begins anew.

// sidecar is the document beside a partial file.
type sidecar struct {
	URL       string `json:"url"`
	ETag      string `json:"etag,omitempty"`
	Modified  string `json:"modified,omitempty"`
	Total     int64  `json:"total,omitempty"` // 0 is unknown
	Synced    int64  `json:"synced"`          // flushed so far
	Peer      string `json:"peer,omitempty"`
	Inspected bool   `json:"inspected,omitempty"`
}

// checkpoint is how many bytes a power cut may cost.
const checkpoint = 64 << 20

// smallDownload is not worth a document of its own while it goes well.
const smallDownload = 1 << 20

type partial struct {
	path   string
	file   *os.File
	sums   hash.Hash
	sha1   hash.Hash // nil unless wanted
	n      int64
	meta   sidecar
	pinned bool // the digest is known: wrong bytes will be noticed
	html   bool
}

func partialKey(r feed.Request, want feed.Want) string {
	h := sha256.New()
	for _, s := range []string{r.Method, r.URL, string(want.Digest), strings.ToLower(want.SHA1), string(r.Body)} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// openPartial opens what an earlier try left, or an empty file.
func openPartial(dir, key, url string, want feed.Want, limit int64) (*partial, error) {
	if err := durable.Mkdir(dir); err != nil {
		return nil, err
	}
	p := &partial{path: filepath.Join(dir, key+".part"), pinned: want.Digest != ""}
	var err error
	if p.file, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	p.sums = sha256.New()
	if want.SHA1 != "" {
		p.sha1 = sha1.New()
	}
	if p.resume(url, limit) == nil {
		return p, nil
	}
	if err := p.reset(); err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

var errNothing = errors.New("nothing to resume")

func (p *partial) resume(url string, limit int64) error {
	b, err := os.ReadFile(p.metaPath())
	if err != nil || json.Unmarshal(b, &p.meta) != nil || p.meta.URL != url {
		return errNothing
	}
	st, err := p.file.Stat()
	if err != nil {
		return err
	}
	n := st.Size()
	if !p.pinned {
		// Nothing would notice a page that a power cut lost.
		n = min(n, p.meta.Synced)
	}
	if n > limit || (p.meta.Total > 0 && n > p.meta.Total) || (!p.pinned && p.ifRange() == "") {
		return errNothing
	}
	if err := p.file.Truncate(n); err != nil {
		return err
	}
	first := make([]byte, 512)
	k, _ := p.file.ReadAt(first[:min(n, 512)], 0)
	p.html = looksHTML(first[:k])
	p.n, err = io.Copy(p.hashes(), io.NewSectionReader(p.file, 0, n))
	if err == nil && p.n != n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (p *partial) metaPath() string { return strings.TrimSuffix(p.path, ".part") + ".json" }

func (p *partial) hashes() io.Writer {
	if p.sha1 != nil {
		return io.MultiWriter(p.sums, p.sha1)
	}
	return p.sums
}

// ifRange is the validator for the rest: a strong ETag or a date (RFC 9110 §13.1.5).
func (p *partial) ifRange() string {
	if p.meta.ETag != "" && !strings.HasPrefix(p.meta.ETag, "W/") {
		return p.meta.ETag
	}
	return p.meta.Modified
}

// reset begins anew.
func (p *partial) reset() error {
	p.n, p.html, p.meta = 0, false, sidecar{}
	p.sums.Reset()
	if p.sha1 != nil {
		p.sha1.Reset()
	}
	os.Remove(p.metaPath())
	return p.file.Truncate(0)
}

func (p *partial) write(b []byte) error {
	if p.n == 0 {
		p.html = looksHTML(b)
	}
	if _, err := p.file.WriteAt(b, p.n); err != nil {
		return err
	}
	p.hashes().Write(b)
	p.n += int64(len(b))
	if p.n-p.meta.Synced >= checkpoint {
		return p.park()
	}
	return nil
}

// park makes what has come so far survive a power cut.
func (p *partial) park() error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	p.meta.Synced = p.n
	return p.note()
}

func (p *partial) note() error {
	b, err := json.Marshal(p.meta)
	if err != nil {
		return err
	}
	return durable.WriteFile(p.metaPath(), b)
}

// drop removes both files.
func (p *partial) drop() {
	p.file.Close()
	os.Remove(p.metaPath())
	os.Remove(p.path)
}

// journal remembers, within an unfinished run, what came under which URL, so
// that a run after a crash neither asks again for what has no digest beforehand
// nor forgets where bytes came from. One JSON line a download; a torn line
// costs one more download.
type journal struct {
	mu       sync.Mutex
	path     string
	file     *os.File // nil until the first entry
	byKey    map[string]entry
	byDigest map[feed.Digest]feed.Origin
}

type entry struct {
	Key      string      `json:"key"`
	Digest   feed.Digest `json:"digest"`
	Origin   feed.Origin `json:"origin"`
	ETag     string      `json:"etag,omitempty"`
	Modified string      `json:"modified,omitempty"`
}

// journalFresh is how long a URL without validators is believed unchanged.
const journalFresh = time.Hour

func openJournal(dir string) *journal {
	j := &journal{path: filepath.Join(dir, "journal"), byKey: map[string]entry{}, byDigest: map[feed.Digest]feed.Origin{}}
	f, err := os.Open(j.path)
	if err != nil {
		return j
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, feed.MaxLine)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) == nil && e.Digest != "" {
			j.byKey[e.Key] = e
			j.byDigest[e.Digest] = e.Origin
		}
	}
	return j
}

func (j *journal) get(key string) (entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.byKey[key]
	return e, ok
}

func (j *journal) origin(d feed.Digest) (feed.Origin, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	o, ok := j.byDigest[d]
	return o, ok
}

func (j *journal) add(e entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		if err := durable.Mkdir(filepath.Dir(j.path)); err != nil {
			return err
		}
		if j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return err
		}
		b = append([]byte{'\n'}, b...) // ends a torn line
	}
	_, err = j.file.Write(append(b, '\n'))
	return err
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}

// clearPartial forgets a feed's unfinished downloads and its journal.
func (f *Fetcher) clearPartial(name string) {
	if err := os.RemoveAll(f.partialDir(name)); err != nil {
		f.Log.Warn("unfinished downloads not removed", "feed", name, "err", err)
	}
}

func (f *Fetcher) partialDir(name string) string { return filepath.Join(f.Data.Partial(), name) }

// keyed lets one goroutine at a time work on a key.
type keyed struct {
	mu sync.Mutex
	m  map[string]chan struct{}
}

func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		held, busy := k.m[key]
		if !busy {
			if k.m == nil {
				k.m = map[string]chan struct{}{}
			}
			done := make(chan struct{})
			k.m[key] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.m, key)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
