package durable

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SyncDir flushes a directory's entries.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// SyncFS flushes the whole file system that holds dir: one call for thousands
// of small files. It reports true: files need no flush of their own.
func SyncFS(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return true, err
	}
	defer f.Close()
	return true, unix.Syncfs(int(f.Fd()))
}

// IsFull reports whether err means that the disk or a quota is full.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// Free is the number of bytes an ordinary user may still write below dir.
func Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// Held reports that another process has the file open, so that a later try may
// succeed: never here.
func Held(error) bool { return false }

// Infected reports that the system denied the file because an antivirus
// product found something in it: here that is a plain refusal of access.
func Infected(error) bool { return false }

// Private is what directories are made with here (0700).
func Private(string) error { return nil }

// setTime gives the file its modification time.
func setTime(f *os.File, at time.Time) error { return os.Chtimes(f.Name(), at, at) }
