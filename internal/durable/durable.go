// Package durable makes file operations that survive a power cut.
//
// The order is always: write a temporary file in the same directory, flush
// it, rename it, flush the directory. What returns nil is on the disk. (On
// Linux: fsync(2) of file and directory, or syncfs(2) for many files at once;
// on Windows FlushFileBuffers of each file; NTFS journals
// the rename, which a power cut soon after may undo, whole:
// docs/windows-acceptance.md §5.)
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// TempPrefix begins the name of every unfinished file; CleanTemps removes them.
const TempPrefix = ".tmp-"

// Mkdir makes dir and its parents (0700) and flushes every directory that gained an entry.
func Mkdir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := Mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// Temp is a file that does not exist yet under its final name.
type Temp struct {
	*os.File
	done bool
}

// Create begins a file that Commit will give a name in dir.
func Create(dir string) (*Temp, error) {
	f, err := os.CreateTemp(dir, TempPrefix)
	if err != nil {
		return nil, err
	}
	return &Temp{File: f}, nil
}

// SetTime gives the file its modification time, which outlives Commit.
func (t *Temp) SetTime(at time.Time) error { return setTime(t.File, at) }

// Commit flushes the file, gives it its final name and flushes the directory.
// An existing file of that name is replaced.
func (t *Temp) Commit(path string) error {
	Step("before flush " + filepath.Base(path))
	if err := t.Sync(); err != nil {
		return err
	}
	if err := t.Rename(path); err != nil {
		return err
	}
	err := SyncDir(filepath.Dir(path))
	Step("after commit " + filepath.Base(path))
	return err
}

// Rename closes the file and gives it its final name without flushing anything:
// for a caller that flushes many at once with SyncFS.
func (t *Temp) Rename(path string) error {
	if err := t.Close(); err != nil {
		return err
	}
	Step("before rename " + filepath.Base(path))
	if err := Rename(t.Name(), path); err != nil {
		return err
	}
	t.done = true
	Step("after rename " + filepath.Base(path))
	return nil
}

// Discard removes the file unless it was committed. Safe to defer.
func (t *Temp) Discard() {
	if !t.done {
		t.Close()
		os.Remove(t.Name())
		t.done = true
	}
}

// WriteFile puts data at path: whole and flushed, or not at all.
func WriteFile(path string, data []byte) error {
	return WriteFrom(path, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// WriteFrom is WriteFile for content that fill produces.
func WriteFrom(path string, fill func(io.Writer) error) error {
	t, err := Create(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer t.Discard()
	if err := fill(t); err != nil {
		return err
	}
	return t.Commit(path)
}

// Remove removes the file or empty directory, waiting a little where another
// process holds it open (Windows). A missing file is no error.
func Remove(path string) error {
	Step("before remove " + filepath.Base(path))
	var err error
	for try := range 6 {
		if err = os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !Held(err) {
			return err
		}
		time.Sleep(time.Duration(1<<try) * 10 * time.Millisecond)
	}
	return err
}

// RemoveAll removes path and what is below it, file by file with the patience
// of Remove. (os.RemoveAll deletes on Windows in a way that some file systems,
// and wine, do not know, and gives up on a file that a virus scanner reads.)
func RemoveAll(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() {
		ents, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range ents {
			if err := RemoveAll(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return Remove(path)
}

// CleanTemps removes unfinished files that an earlier process left in dir.
func CleanTemps(dir string) error {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), TempPrefix) && e.Type().IsRegular() {
			if err := Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rename renames a file or directory without flushing anything, waiting a
// little where another process holds it open (Windows).
func Rename(from, to string) error {
	var err error
	for try := range 6 {
		if err = os.Rename(from, to); err == nil || !Held(err) {
			return err
		}
		time.Sleep(time.Duration(1<<try) * 10 * time.Millisecond)
	}
	return err
}
