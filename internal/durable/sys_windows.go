package durable

import (
	"errors"
	"fmt"
	"os"
	"time"

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

// Held reports that another process has the file open, so that a later try may succeed.
func Held(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED) ||
		errors.Is(err, windows.ERROR_LOCK_VIOLATION)
}

// Infected reports that the system denied the file because an antivirus
// product found something in it.
func Infected(err error) bool {
	return errors.Is(err, windows.ERROR_VIRUS_INFECTED) || errors.Is(err, windows.ERROR_VIRUS_DELETED)
}

// Private lets only the current user, the administrators and the system into
// dir and what is or will be below it: what mode 0700 does elsewhere. A file
// system without access lists (FAT) is an error.
func Private(dir string) error {
	u, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return err
	}
	// Protected from inheritance; full access, inherited by files and directories.
	const ace = "(A;OICI;FA;;;%s)"
	sd, err := windows.SecurityDescriptorFromString(fmt.Sprintf("D:P"+ace+ace+ace, "SY", "BA", u.User.Sid))
	if err != nil {
		return err
	}
	acl, _, err := sd.DACL()
	if err != nil {
		return err
	}
	err = windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, acl, nil)
	if err != nil {
		return fmt.Errorf("access list of %s: %w", dir, err)
	}
	return nil
}

// setTime goes through the file's own handle: NTFS puts the time of the last
// write over one that another handle set while this one was open.
func setTime(f *os.File, at time.Time) error {
	ft := windows.NsecToFiletime(at.UnixNano())
	if err := windows.SetFileTime(windows.Handle(f.Fd()), nil, &ft, &ft); err != nil {
		return &os.PathError{Op: "SetFileTime", Path: f.Name(), Err: err}
	}
	return nil
}
