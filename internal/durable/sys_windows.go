package durable

import (
	"errors"

	"golang.org/x/sys/windows"
)

// SyncDir has no counterpart on Windows: NTFS journals directory changes.
func SyncDir(string) error { return nil }

// SyncFS reports false: each file must be flushed by itself.
func SyncFS(string) (bool, error) { return false, nil }

// IsFull reports whether err means that the disk or a quota is full.
func IsFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// Free is the number of bytes this user may still write below dir.
func Free(dir string) (int64, error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, nil, nil); err != nil {
		return 0, err
	}
	return int64(free), nil
}

// held reports that another process has the file open, so that a later try may succeed.
func held(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED) ||
		errors.Is(err, windows.ERROR_LOCK_VIOLATION)
}
