package wsus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/cab"
)

// dropDir is the directory of dirs.drop: below it, each .msu file, and each
// directory with a WSUSSCAN.cab beside the files it names, is one drop; a
// wsusscn2.cab is a source of its own.
const dropDir = "drop"

// Limits on the drop directory.
const (
	maxDrops   = 20_000
	maxEntries = 200_000
	maxPayload = 64 << 30
)

// errIncomplete: a drop that is still being copied, or lacks a file.
var errIncomplete = errors.New("incomplete")

// fetch is one run.
type fetch struct {
	fsys    fs.FS
	prev    feed.Content // may be nil
	dst     feed.Sink
	found   map[string]feed.Artifact
	ids     *revisions
	waiting []string
	taken   int
	offline *offlineSource // dropped
}

// Fetch implements feed.Feed: it takes every drop that is complete and stable.
func (f *updates) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	r := &fetch{prev: prev, dst: dst, found: map[string]feed.Artifact{}}
	if err := r.before(f.epoch); err != nil {
		return "", err
	}
	fsys, err := up.Dir(dropDir)
	switch {
	case err == nil:
		if err := r.fromDrops(ctx, fsys); err != nil {
			return "", err
		}
	case f.conf.Upstream == "" && f.conf.Offline == "" && !f.publishes(up) || !notNamed(err):
		return "", err
	}
	if f.conf.Upstream == "" {
		if err := f.fromOthers(ctx, up, r); err != nil {
			return "", err
		}
		return r.finish(ctx, "")
	}
	p, err := f.fromServer(ctx, up, r)
	if err == nil {
		err = f.fromOthers(ctx, up, r)
	}
	if err != nil {
		return "", err
	}
	p.Note = r.summary()
	return r.finish(ctx, p.String())
}

// notNamed: the config has no such directory. One that it names and that is
// not there is another matter: what lay in it must not vanish in silence.
func notNamed(err error) bool {
	_, missing := errors.AsType[*fs.PathError](err)
	return errors.Is(err, feed.ErrConfig) && !missing
}

// fromOthers adds what neither a drop nor a server brings.
func (f *updates) fromOthers(ctx context.Context, up feed.Upstream, r *fetch) error {
	if err := f.fromOffline(ctx, up, r); err != nil {
		return err
	}
	return f.fromPublish(ctx, up, r)
}

// fromDrops takes every drop that is complete and stable.
func (r *fetch) fromDrops(ctx context.Context, fsys fs.FS) error {
	r.fsys = fsys
	drops, offline, err := findDrops(fsys)
	if err != nil {
		return fmt.Errorf("drop directory: %w", err)
	}
	r.offline = offline
	for _, d := range drops {
		err := d.take(ctx, r)
		if errors.Is(err, errIncomplete) {
			r.waiting = append(r.waiting, fmt.Sprintf("%s: %v", d.name(), err))
			continue
		}
		if err != nil {
			return fmt.Errorf("drop %s: %w", d.name(), err)
		}
		r.taken++
	}
	return nil
}

func (r *fetch) summary() string {
	return fmt.Sprintf("%d taken, %d waiting, %d revisions", r.taken, len(r.waiting), len(r.ids.order))
}

// before takes over the revision ids of the last snapshot: they are for ever.
func (r *fetch) before(fresh func() epoch) error {
	r.ids = newRevisions(fresh())
	if r.prev == nil {
		return nil
	}
	ids, err := readRevisions(r.prev)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.ids = ids
	return err
}

// finish adds the artifacts, unless they are those of the last snapshot.
func (r *fetch) finish(ctx context.Context, state string) (string, error) {
	if len(r.found) == 0 {
		err := fmt.Errorf("no complete update (%s): %w", strings.Join(r.waiting, "; "), feed.ErrTransient)
		return "", feed.NewFault(err, "H-401", "file", dropDir)
	}
	text := r.ids.encode()
	b, err := r.dst.Put(ctx, "made:"+revisionsPath, bytes.NewReader(text))
	if err != nil {
		return "", err
	}
	r.found[revisionsPath] = feed.Artifact{Path: revisionsPath, Digest: b.Digest(), Class: feed.Metadata}
	if r.unchanged() {
		return "", feed.ErrUnchanged
	}
	for _, p := range slices.Sorted(maps.Keys(r.found)) {
		if err := r.dst.Add(r.found[p]); err != nil {
			return "", err
		}
	}
	if state == "" {
		state = r.summary()
	}
	return state, nil
}

func (r *fetch) unchanged() bool {
	if r.prev == nil {
		return false
	}
	n := 0
	for a, err := range r.prev.Artifacts() {
		if now, ok := r.found[a.Path]; err != nil || !ok || now.Digest != a.Digest {
			return false
		}
		n++
	}
	return n == len(r.found)
}

// drop is one thing to take: a packed .msu, or a directory that holds what one does.
type drop struct {
	msu   string            // path of the .msu; else
	scan  string            // path of WSUSSCAN.cab
	files map[string]string // lower-case name → path, of the directory
}

func (d drop) name() string {
	if d.msu != "" {
		return d.msu
	}
	return path.Dir(d.scan)
}

// findDrops walks the directory. A wsusscn2.cab in it is returned apart; two
// are one too many.
func findDrops(fsys fs.FS) (out []drop, offline *offlineSource, err error) {
	dirs := map[string]drop{}
	entries := 0
	err = fs.WalkDir(fsys, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entries++; entries > maxEntries {
			return upstream("over %d files", maxEntries)
		}
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			return nil
		}
		if strings.EqualFold(path.Ext(p), ".msu") {
			out = append(out, drop{msu: p})
			return nil
		}
		d := dirs[path.Dir(p)]
		if d.files == nil {
			d.files = map[string]string{}
		}
		switch {
		case strings.EqualFold(e.Name(), scanName):
			d.scan = p
		case strings.EqualFold(e.Name(), offlineName):
			if offline != nil {
				err := fmt.Errorf("%s and %s: only one of them can be taken: %w", offline.drop, p, feed.ErrConfig)
				return feed.NewFault(err, "H-202", "file", dropDir, "detail", err.Error())
			}
			offline = &offlineSource{drop: p, files: d.files}
		default:
			d.files[strings.ToLower(e.Name())] = p
		}
		dirs[path.Dir(p)] = d
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if d := dirs[dir]; d.scan != "" {
			out = append(out, d)
		}
	}
	if len(out) > maxDrops {
		return nil, nil, upstream("over %d updates", maxDrops)
	}
	return out, offline, nil
}

// take brings one drop: its metadata, then the files that it names.
func (d drop) take(ctx context.Context, r *fetch) error {
	if d.msu != "" {
		return d.takeMSU(ctx, r)
	}
	blob, err := r.put(ctx, d.scan)
	if err != nil {
		return err
	}
	return r.takeScan(ctx, blob, func(p payload) (feed.Blob, error) { return d.find(ctx, r, p) })
}

// find stores the file of a directory that the metadata names.
func (d drop) find(ctx context.Context, r *fetch, p payload) (feed.Blob, error) {
	at, ok := d.files[strings.ToLower(path.Base(strings.ReplaceAll(p.Name, `\`, "/")))]
	if !ok {
		return nil, fmt.Errorf("%.200q is not there: %w", p.Name, errIncomplete)
	}
	if st, err := fs.Stat(r.fsys, at); err != nil || st.Size() != p.file.Size {
		return nil, fmt.Errorf("%s has not the %d bytes of the metadata: %w", at, p.file.Size, errIncomplete)
	}
	return r.put(ctx, at)
}

// takeScan adds a scan and its payload. All of it, or nothing.
func (r *fetch) takeScan(ctx context.Context, blob feed.Blob, find func(payload) (feed.Blob, error)) error {
	s, err := readScan(blob, blob.Size(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errIncomplete) // cut short, or no scan at all
	}
	a := scanArtifact(blob.Digest(), s.created)
	list, err := s.payloads(a.Group)
	if err != nil {
		return err
	}
	for _, p := range list {
		if _, ok := r.found[p.Path]; ok || r.had(p) {
			continue
		}
		b, err := find(p)
		if err != nil {
			return err
		}
		if b.Digest() != p.SHA256 {
			return fmt.Errorf("%.200q is not the file of the metadata: %w", p.Name, errIncomplete)
		}
	}
	for _, p := range list {
		if _, ok := r.found[p.Path]; !ok {
			r.found[p.Path] = p.Artifact
		}
	}
	r.found[a.Path] = a
	for _, n := range s.numbers() {
		r.ids.add(s.updates[n].identity)
	}
	return nil
}

func scanArtifact(d feed.Digest, created time.Time) feed.Artifact {
	p := "metadata/scan-" + d.Hex()[:32] + ".cab"
	return feed.Artifact{Path: p, Digest: d, Class: feed.Metadata, Time: created, Group: p}
}

// had reports whether the last snapshot has the file already.
func (r *fetch) had(p payload) bool {
	if r.prev == nil {
		return false
	}
	a, ok := r.prev.Lookup(p.Path)
	return ok && a.Digest == p.SHA256
}

// put copies a file of the drop directory that does not change meanwhile.
func (r *fetch) put(ctx context.Context, name string) (feed.Blob, error) {
	return r.putFrom(ctx, dropDir, name)
}

func (r *fetch) putFrom(ctx context.Context, dir, name string) (feed.Blob, error) {
	f, before, err := r.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := r.dst.Put(ctx, "dir:"+dir+"/"+name, io.LimitReader(f, before.Size()+1))
	if err != nil {
		return nil, err
	}
	return b, r.stable(name, before, b.Size())
}

func (r *fetch) open(name string) (fs.File, fs.FileInfo, error) {
	f, err := r.fsys.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", err, errIncomplete)
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxPayload {
		f.Close()
		return nil, nil, fmt.Errorf("%s is no file of at most %d bytes: %w", name, int64(maxPayload), errIncomplete)
	}
	return f, st, nil
}

// stable makes sure that what was read is what lies there now, under the name.
func (r *fetch) stable(name string, before fs.FileInfo, read int64) error {
	after, err := fs.Stat(r.fsys, name)
	if err != nil || read != before.Size() || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s is being written: %w", name, errIncomplete)
	}
	return nil
}

// takeMSU takes a packed update. An .msu is a cabinet; the newest ones
// (Windows 11 24H2) are WIM files, which wait for another way.
func (d drop) takeMSU(ctx context.Context, r *fetch) error {
	f, st, err := r.open(d.msu)
	if err != nil {
		return err
	}
	defer f.Close()
	ra, ok := f.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("%s: no random access", d.msu)
	}
	c, err := cab.NewReader(ra, st.Size(), cab.Limits{Files: 1000, File: maxPayload, Total: maxPayload})
	if err != nil {
		return fmt.Errorf("%w: %w", err, errIncomplete)
	}
	blob, err := r.member(ctx, c, d.msu, scanName)
	if err != nil {
		return err
	}
	return r.takeScan(ctx, blob, func(p payload) (feed.Blob, error) {
		b, err := r.member(ctx, c, d.msu, p.Name)
		if err != nil {
			return nil, err
		}
		return b, r.stable(d.msu, st, st.Size())
	})
}

// member stores one file of an .msu.
func (r *fetch) member(ctx context.Context, c *cab.Reader, msu, name string) (feed.Blob, error) {
	for _, e := range c.Files() {
		if !strings.EqualFold(e.Name, name) {
			continue
		}
		_, body, err := c.Open(e.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errIncomplete)
		}
		b, err := r.dst.Put(ctx, "dir:"+dropDir+"/"+msu+"!"+e.Name, body)
		if errors.Is(err, cab.ErrFormat) {
			err = fmt.Errorf("%w: %w", err, errIncomplete)
		}
		return b, err
	}
	return nil, fmt.Errorf("%s without %.200q: %w", msu, name, errIncomplete)
}
