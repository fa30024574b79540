package cas

import (
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hashike/hashike/internal/feed"
)

// idle keeps the files of popular blobs open between two terminals, which
// spares four system calls of ten. A file is one reader's at a time (sendfile
// moves its offset). Linux only: elsewhere an open file blocks its removal.
type idle struct {
	mu    sync.Mutex
	files map[feed.Digest][]*idleFile
	n     int
	ended bool
}

// maxIdle bounds the files kept open. An unlinked one holds its space until
// CloseIdle.
const maxIdle = 128

// idleFile goes back to its store when closed.
type idleFile struct {
	*os.File
	s    *Store
	d    feed.Digest
	info fs.FileInfo
	out  bool // a reader has it
	used bool // since the last CloseIdle
}

// openIdle opens a blob for serving: a file that rests, or anew.
func (s *Store) openIdle(d feed.Digest) (fs.File, error) {
	if !keepsIdle {
		f, err := s.File(d)
		if err == nil {
			if _, err = s.prove(f, d); err != nil {
				f.Close()
				return nil, err
			}
		}
		return f, err
	}
	i := &s.idle
	i.mu.Lock()
	if rest := i.files[d]; len(rest) > 0 {
		f := rest[len(rest)-1]
		i.files[d] = rest[:len(rest)-1]
		i.n--
		f.out = true
		i.mu.Unlock()
		return f, nil
	}
	i.mu.Unlock()
	f, err := s.File(d)
	if err != nil {
		return nil, err
	}
	info, err := s.prove(f, d)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &idleFile{File: f, s: s, d: d, info: info, out: true}, nil
}

// Stat tells what the file was when it was opened.
func (f *idleFile) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *idleFile) Close() error {
	i := &f.s.idle
	i.mu.Lock()
	defer i.mu.Unlock()
	if !f.out {
		return os.ErrClosed // it may be another reader's by now
	}
	f.out = false
	if _, err := f.Seek(0, io.SeekStart); err != nil || i.n >= maxIdle || i.ended {
		return f.File.Close()
	}
	if i.files == nil {
		i.files = map[feed.Digest][]*idleFile{}
	}
	f.used = true
	i.files[f.d] = append(i.files[f.d], f)
	i.n++
	return nil
}

// CloseIdle closes the files that no one has asked for since the last call. A
// server calls it every second.
func (s *Store) CloseIdle() { s.idle.sweep(false) }

func (i *idle) sweep(all bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = i.ended || all
	for d, rest := range i.files {
		kept := rest[:0]
		for _, f := range rest {
			if f.used && !all {
				f.used = false
				kept = append(kept, f)
				continue
			}
			f.File.Close()
			i.n--
		}
		clear(rest[len(kept):])
		if i.files[d] = kept; len(kept) == 0 {
			delete(i.files, d)
		}
	}
}
