//go:build !linux && !windows

package durable

import (
	"errors"
	"os"
	"syscall"
	"time"
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

// SyncFS reports false: each file must be flushed by itself.
func SyncFS(string) (bool, error) { return false, nil }

// IsFull reports whether err means that the disk or a quota is full.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// Free is unknown here.
func Free(string) (int64, error) { return 1 << 62, nil }

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
