package packager

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// forget drops the medium's clean pages from the cache, so that reading back
// reads the medium. Best effort: a file system may ignore it.
func forget(dir string) {
	list(os.DirFS(dir), func(name string, d fs.DirEntry) error {
		if d.Type().IsRegular() {
			if f, err := os.Open(filepath.Join(dir, name)); err == nil {
				unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
				f.Close()
			}
		}
		return nil
	})
}
