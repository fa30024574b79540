package cas

import (
	"os"
	"syscall"

	"github.com/hashike/hashike/internal/feed"
)

const (
	syncsWholeFS = true
	keepsIdle    = true
)

// open opens a blob with two system calls. os.Root takes three times as long,
// and os.Open tries to put the regular file into the poller (five calls that
// always end in EPERM). A name made of hex digits cannot lead elsewhere.
func (s *Store) open(d feed.Digest) (*os.File, error) {
	path := s.path(d)
	for {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case syscall.EINTR:
			continue
		}
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
}
