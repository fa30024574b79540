package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Fetch implements feed.Feed. With nothing new it costs a listing of the
// folder, and a request for each watched page.
func (x *Intake) Fetch(ctx context.Context, up feed.Upstream, prev feed.Content, dst feed.Sink) (string, error) {
	dir, err := up.Dir(x.cfg.Dir)
	if err != nil {
		return "", err
	}
	names, listing, err := x.list(dir)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", unreadable(x.cfg.Dir, fmt.Errorf("nothing was handed in yet to folder %s: %w", x.cfg.Dir, feed.ErrTransient))
	}
	pages, changed, err := x.watch(ctx, up, prev, dst)
	if err != nil {
		return "", err
	}
	if prev != nil && !changed && strings.HasPrefix(prev.Header().State, listing+" ") {
		return "", feed.ErrUnchanged
	}
	var all []feed.Artifact
	for _, n := range names {
		more, err := x.take(ctx, dir, n, dst)
		if err != nil {
			return "", err
		}
		all = append(all, more...)
	}
	for _, a := range append(slices.Clone(all), pages...) {
		if err := dst.Add(a); err != nil {
			return "", err
		}
	}
	return listing + " " + stateOf(append(all, pages...)), nil
}

// stateOf binds what nobody signs, descriptors and pages, to the snapshot.
func stateOf(all []feed.Artifact) string {
	var lines []string
	for _, a := range all {
		if a.Class == feed.Metadata {
			lines = append(lines, a.Path+" "+string(a.Digest))
		}
	}
	slices.Sort(lines)
	return string(feed.DigestOf([]byte(strings.Join(lines, "\n"))))
}

func unreadable(file string, err error) error {
	return feed.NewFault(err, "H-401", "file", file, "detail", err.Error())
}

// list names the descriptors, and gives a fingerprint of what lies there.
func (x *Intake) list(dir fs.FS) (names []string, fingerprint string, err error) {
	var said []byte
	err = fs.WalkDir(dir, ".", func(n string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		e, ok := parsePath(n)
		if !ok || e.kind == isWatch {
			return nil // a download lies there, or a note
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if e.kind == isDescriptor {
			if names = append(names, n); len(names) > maxGroups {
				return fmt.Errorf("more than %d files: %w", maxGroups, feed.ErrUpstream)
			}
		}
		said = fmt.Appendf(said, "%q %d %d\n", n, st.Size(), st.ModTime().UnixNano())
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("folder %s: %w", x.cfg.Dir, err)
	}
	return names, feed.DigestOf(fmt.Appendf(said, "%s", x.cfg.Class)).Hex()[:16], nil
}

// take brings what one descriptor describes.
func (x *Intake) take(ctx context.Context, dir fs.FS, name string, dst feed.Sink) ([]feed.Artifact, error) {
	blob, err := x.put(ctx, dir, name, maxDescriptor, dst)
	if err != nil {
		return nil, err
	}
	text := make([]byte, blob.Size())
	if _, err := blob.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d, err := ParseDescriptor(text)
	if err == nil && d.path()+".toml" != name {
		err = fmt.Errorf("describes %s: %w", d.path(), feed.ErrUpstream)
	}
	if err != nil {
		return nil, unreadable(name, fmt.Errorf("%s: %w", name, err))
	}
	e, _ := parsePath(d.path())
	label := feed.Artifact{Class: feed.Metadata, Version: d.Version, Time: d.time(), Group: e.group()}
	out := []feed.Artifact{with(label, name, blob)}
	if blob, err = x.put(ctx, dir, d.path(), x.cfg.MaxFile, dst); err != nil {
		return nil, err
	}
	if blob.Digest() != d.SHA256 {
		return nil, unreadable(d.path(), fmt.Errorf("%s is not the file that was handed in: %w", d.path(), feed.ErrUpstream))
	}
	file := with(label, d.path(), blob)
	file.Class = x.cfg.Class
	out = append(out, file)
	if _, err := fs.Stat(dir, d.path()+".asc"); err == nil {
		if blob, err = x.put(ctx, dir, d.path()+".asc", maxDescriptor, dst); err != nil {
			return nil, err
		}
		out = append(out, with(label, d.path()+".asc", blob))
	}
	return out, nil
}

func with(a feed.Artifact, p string, b feed.Blob) feed.Artifact {
	a.Path, a.Digest = p, b.Digest()
	return a
}

// put copies a file that does not change meanwhile.
func (x *Intake) put(ctx context.Context, dir fs.FS, name string, limit int64, dst feed.Sink) (feed.Blob, error) {
	full := "dir:" + x.cfg.Dir + "/" + name
	f, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unreadable(name, fmt.Errorf("%s is not there: %w", full, feed.ErrUpstream))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full, err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", full, err)
	}
	if !before.Mode().IsRegular() || before.Size() > limit {
		return nil, unreadable(name, fmt.Errorf("%s: %s of %d bytes: %w", full, before.Mode(), before.Size(), feed.ErrUpstream))
	}
	b, err := dst.Put(ctx, full, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	after, err := fs.Stat(dir, name) // by name: it may have been replaced
	if err != nil || b.Size() != before.Size() || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, unreadable(name, fmt.Errorf("%s is being written: %w", full, feed.ErrTransient))
	}
	return b, nil
}
