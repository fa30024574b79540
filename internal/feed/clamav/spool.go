package clamav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/hashike/hashike/internal/feed"
)

// spool is a directory that freshclam or cvdupdate fills. Those write without
// regard to readers, so nothing read here is believed to be whole.
type spool struct {
	fsys fs.FS
	dst  feed.Sink
	have map[string]bool
}

func openSpool(up feed.Upstream, dst feed.Sink) (*spool, error) {
	fsys, err := up.Dir("spool")
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("spool directory: %w", err)
	}
	s := &spool{fsys: fsys, dst: dst, have: map[string]bool{}}
	for _, e := range entries {
		s.have[e.Name()] = true
	}
	return s, nil
}

func (s *spool) head(_ context.Context, db string) ([]byte, error) {
	name := db + ".cvd"
	switch {
	case s.have[name]:
	case s.have[db+".cld"]:
		return nil, feed.NewFault(fmt.Errorf("only %s.cld is in the spool directory: freshclam made it by patching, "+
			"it has no vendor signature of its own and cannot be served; use cvdupdate, or freshclam with \"ScriptedUpdates no\": %w", db, feed.ErrConfig),
			"H-401", "file", db+".cld")
	default:
		return nil, feed.NewFault(fmt.Errorf("%s is not in the spool directory (has freshclam or cvdupdate run?): %w", name, feed.ErrTransient),
			"H-401", "file", name)
	}
	b, err := readHead(s.fsys, name)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil, feed.NewFault(fmt.Errorf("%s is incomplete: %w", name, feed.ErrTransient), "H-401", "file", name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// load copies a file that does not change meanwhile.
func (s *spool) load(ctx context.Context, name string, limit int64) (feed.Blob, error) {
	if !s.have[name] {
		return nil, fs.ErrNotExist
	}
	f, err := s.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() || before.Size() > limit {
		return nil, fmt.Errorf("%s: %s of %d bytes: %w", name, before.Mode(), before.Size(), feed.ErrUpstream)
	}
	b, err := s.dst.Put(ctx, "dir:spool/"+name, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	after, err := fs.Stat(s.fsys, name) // by name: the file may have been replaced
	if err != nil || b.Size() != before.Size() || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, feed.NewFault(fmt.Errorf("%s is being written: %w", name, feed.ErrTransient), "H-401", "file", name)
	}
	return b, nil
}

func (s *spool) cheap() bool { return true }
