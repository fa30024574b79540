package clamav

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/clamav"
)

// source is where files come from: a spool directory or an HTTPS mirror.
type source interface {
	// head returns the first 512 bytes of a database; fs.ErrNotExist if there is none.
	head(ctx context.Context, db string) ([]byte, error)
	// load stores a file; fs.ErrNotExist if there is none.
	load(ctx context.Context, name string, limit int64) (feed.Blob, error)
	// cheap reports whether asking for what is not there costs nothing.
	cheap() bool
}

// fetch is one run.
type fetch struct {
	cfg   Config
	src   source
	prev  feed.Content // may be nil
	dst   feed.Sink
	files map[string]feed.Artifact // by path: the new snapshot
	fresh bool                     // something is not as in prev
	state []string
}

// Fetch implements feed.Feed.
func (f *databases) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	r := &fetch{cfg: f.cfg, prev: prev, dst: dst, files: map[string]feed.Artifact{}, fresh: prev == nil}
	if f.base != nil {
		r.src = &web{base: f.base, up: up, dst: dst}
	} else {
		dir, err := openSpool(up, dst)
		if err != nil {
			return "", err
		}
		r.src = dir
	}
	for _, db := range slices.Sorted(slices.Values(f.cfg.Databases)) {
		if err := r.database(ctx, db); err != nil {
			return "", err
		}
	}
	if !r.fresh && !r.dropped() {
		return "", feed.ErrUnchanged
	}
	for _, p := range slices.Sorted(maps.Keys(r.files)) {
		if err := dst.Add(r.files[p]); err != nil {
			return "", err
		}
	}
	return strings.Join(r.state, " "), nil
}

// dropped reports whether prev has files that the new snapshot does not have.
func (r *fetch) dropped() bool {
	for a, err := range r.prev.Artifacts() {
		if _, ok := r.files[a.Path]; !ok || err != nil {
			return true
		}
	}
	return false
}

// database brings one database, its patches first: a terminal that sees the
// new database finds the way to it.
func (r *fetch) database(ctx context.Context, db string) error {
	head, err := r.src.head(ctx, db)
	if err != nil {
		return err
	}
	h, err := clamav.ParseHeader(head)
	if err != nil || h.Version == 0 {
		return feed.NewFault(fmt.Errorf("%s.cvd: %w: %w", db, errors.Join(err), feed.ErrUpstream), "H-401", "file", db+".cvd")
	}
	r.state = append(r.state, fmt.Sprintf("%s:%d", db, h.Version))
	if err := r.patches(ctx, db, h.Version); err != nil {
		return err
	}
	cvd := file{role: database, db: db}
	a, ok := r.before(cvd.name())
	if ok && r.sameHead(cvd.name(), head) {
		r.files[a.Path] = a
	} else if err := r.whole(ctx, cvd, head, h); err != nil {
		return err
	}
	_, err = r.extra(ctx, file{role: databaseSign, db: db, version: h.Version}, clamav.MaxSign, true)
	return err
}

// before is the artifact as the previous snapshot has it.
func (r *fetch) before(path string) (feed.Artifact, bool) {
	if r.prev == nil {
		return feed.Artifact{}, false
	}
	return r.prev.Lookup(path)
}

// sameHead reports whether the previous snapshot's database begins with these
// 512 bytes. The header holds the MD5 of the rest and its signature: if it is
// the same, so is the database, and 200 MB need not be read.
func (r *fetch) sameHead(path string, head []byte) bool {
	b, err := readHead(r.prev, path)
	return err == nil && bytes.Equal(b, head)
}

// whole stores a database, and makes sure that it is the one whose header was
// seen and that it is all there: a file that is just being written, or
// replaced on the mirror between two requests, is for the next run.
func (r *fetch) whole(ctx context.Context, cvd file, head []byte, h clamav.Header) error {
	b, err := r.src.load(ctx, cvd.name(), clamav.MaxDatabase)
	if err != nil {
		return err
	}
	got := make([]byte, clamav.HeaderSize)
	if _, err := b.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	sum := md5.New()
	if _, err := io.Copy(sum, io.NewSectionReader(b, clamav.HeaderSize, b.Size()-clamav.HeaderSize)); err != nil {
		return err
	}
	// Whoever forges a database sets this right too: that is Verify's to find.
	if !bytes.Equal(got, head) || hex.EncodeToString(sum.Sum(nil)) != h.MD5 {
		return feed.NewFault(fmt.Errorf("%s is incomplete or being replaced: %w", cvd.name(), feed.ErrTransient), "H-401", "file", cvd.name())
	}
	a := cvd.artifact()
	a.Version, a.Time, a.Digest = strconv.FormatInt(h.Version, 10), h.Time, b.Digest()
	r.files[a.Path], r.fresh = a, true
	return nil
}

// patches brings the patches that lead to version, newest first, as far as
// they are wanted and without a gap: beyond one, terminals take the whole
// database anyway. A server is asked only for those it did not have last time.
func (r *fetch) patches(ctx context.Context, db string, version int64) error {
	var known int64
	if r.prev != nil {
		known = currentVersion(r.prev, db)
	}
	for n := version; n > max(version-int64(r.cfg.KeepCdiffs), 1); n-- {
		ask := n > known || r.src.cheap()
		there, err := r.extra(ctx, file{role: patch, db: db, version: n}, clamav.MaxDiff, ask)
		if err != nil || !there {
			return err
		}
		if _, err := r.extra(ctx, file{role: patchSign, db: db, version: n}, clamav.MaxSign, ask); err != nil {
			return err
		}
	}
	return nil
}

// extra brings a file whose name says its version: what was there before stays.
func (r *fetch) extra(ctx context.Context, f file, limit int64, ask bool) (bool, error) {
	if a, ok := r.before(f.name()); ok {
		r.files[a.Path] = a
		return true, nil
	}
	if !ask {
		return false, nil
	}
	b, err := r.src.load(ctx, f.name(), limit)
	if errors.Is(err, fs.ErrNotExist) || err == nil && b.Size() == 0 {
		// An empty patch is how the vendor says: take the whole database. So do we (serve.go).
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a := f.artifact()
	a.Digest = b.Digest()
	r.files[a.Path], r.fresh = a, true
	return true, nil
}

func readHead(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, clamav.HeaderSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	return b, nil
}
