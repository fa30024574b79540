//go:build !linux && !windows

package durable

import (
	"errors"
	"os"
	"syscall"
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

func held(error) bool { return false }
