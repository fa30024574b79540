package packager

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/iso"
)

// medium is one volume, opened for reading only: a directory, an image of
// one, or a drop. os.Root keeps every access below the directory; what is not a regular
// file does not exist.
type medium struct {
	dir   string
	root  *os.Root // of a directory
	image *iso.FS
	file  *os.File // the image's
	drop  *dropView
}

// mediumFile is an open file of either.
type mediumFile interface {
	io.Reader
	io.ReaderAt
	io.Seeker
	io.Closer
}

func openMedium(dir string) (*medium, error) {
	m, err := openPlain(dir)
	if err != nil || m.image != nil {
		return m, err
	}
	if _, err := m.root.Lstat(nameSet); err == nil {
		return m, nil
	}
	if m.drop, err = openDrop(m.root, dir); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// openPlain opens a directory or an image for the names it has, without
// looking for a drop, which is hashed all over.
func openPlain(dir string) (*medium, error) {
	if st, err := os.Stat(dir); err == nil && st.Mode().IsRegular() {
		return openImage(dir)
	}
	r, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noMedium(dir, "bundle", err)
	}
	if err != nil {
		return nil, unreadable(dir, err)
	}
	return &medium{dir: dir, root: r}, nil
}

func openImage(path string) (*medium, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	st, err := f.Stat()
	var fsys *iso.FS
	if err == nil {
		fsys, err = iso.Open(f, st.Size())
	}
	if err != nil {
		f.Close()
		if !strings.EqualFold(filepath.Ext(path), ".iso") { // no image at all
			return nil, noMedium(path, "bundle", err)
		}
		return nil, unreadable(path, err)
	}
	return &medium{dir: path, image: fsys, file: f}, nil
}

// list calls fn for every name of the volume; see list. A drop holds what its
// list names and is not looked at for anything else.
func (m *medium) list(fn func(name string, d fs.DirEntry) error) error {
	switch {
	case m.drop != nil:
		return nil
	case m.image != nil:
		return list(m.image, fn)
	}
	return list(m.root.FS(), fn)
}

// top lists what lies at the medium's top.
func (m *medium) top() ([]fs.DirEntry, error) {
	if m.image != nil {
		return fs.ReadDir(m.image, ".")
	}
	return fs.ReadDir(m.root.FS(), ".")
}

// unreadable is a fault of the medium itself.
func unreadable(name string, err error) error {
	if !errors.Is(err, feed.ErrDamaged) {
		err = fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	return feed.NewFault(fmt.Errorf("%s: %w", name, err), "H-701", "file", name)
}

// noMedium is a place where a medium of ours was expected and is not: nothing
// of it was read. wanted is "bundle", "setup" or "return".
func noMedium(dir, wanted string, err error) error {
	return feed.NewFault(fmt.Errorf("%s: %s: %w", dir, err, feed.ErrConfig), "H-213", "dir", dir, "wanted", wanted, "detail", err.Error())
}

// readSet reads the set. A medium without one that has nothing else of a
// bundle either is none of ours; one that lost it is damaged.
func (m *medium) readSet() ([]byte, error) {
	raw, err := m.read(nameSet, maxSet)
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	ents, terr := m.top()
	if terr != nil || slices.ContainsFunc(ents, func(e fs.DirEntry) bool {
		return slices.Contains([]string{"tuf", "tables", "blobs", nameIndex}, e.Name())
	}) {
		return nil, err
	}
	return nil, noMedium(m.dir, "bundle", errors.New(nameSet))
}

// open opens a regular file and returns its size.
func (m *medium) open(name string) (mediumFile, int64, error) {
	if m.image != nil {
		return m.inImage(name)
	}
	if m.drop != nil {
		at, ok := m.drop.at[name]
		if !ok {
			return nil, 0, unreadable(name, fs.ErrNotExist)
		}
		name = at
	}
	st, err := m.root.Lstat(name)
	if err != nil {
		return nil, 0, unreadable(name, err)
	}
	if !st.Mode().IsRegular() {
		return nil, 0, unreadable(name, errNotRegular)
	}
	f, err := m.root.Open(name)
	if err != nil {
		return nil, 0, unreadable(name, err)
	}
	if st, err = f.Stat(); err == nil && !st.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		f.Close()
		return nil, 0, unreadable(name, err)
	}
	return f, st.Size(), nil
}

func (m *medium) inImage(name string) (mediumFile, int64, error) {
	f, err := m.image.Open(name)
	if err != nil {
		return nil, 0, unreadable(name, err)
	}
	st, err := f.Stat()
	r, ok := f.(mediumFile)
	if err == nil && (!ok || !st.Mode().IsRegular()) {
		err = errNotRegular
	}
	if err != nil {
		f.Close()
		return nil, 0, unreadable(name, err)
	}
	return r, st.Size(), nil
}

// errNotRegular is a name that is no file: a link, a device, a pipe. It is not opened.
var errNotRegular = errors.New("not a regular file")

// errTooLong is a file longer than anything of ours may be: no scratch, an attack.
var errTooLong = errors.New("too long")

// read reads a small file: at most limit bytes, refused before any is read.
func (m *medium) read(name string, limit int64) ([]byte, error) {
	f, n, err := m.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if n > limit {
		return nil, unreadable(name, fmt.Errorf("%w: %d bytes, at most %d are expected", errTooLong, n, limit))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("over %d bytes", limit)
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	return b, nil
}

// readObject reads a small file that must have the given bytes.
func (m *medium) readObject(name string, o Object, limit int64) ([]byte, error) {
	if o.Size > limit {
		return nil, unreadable(name, fmt.Errorf("%d bytes announced, at most %d are expected", o.Size, limit))
	}
	b, err := m.read(name, o.Size)
	if err == nil && (int64(len(b)) != o.Size || feed.DigestOf(b) != o.Digest) {
		err = unreadable(name, errors.New("not the bytes that were signed"))
	}
	return b, err
}

// table opens a signed table after hashing all of it. Reading goes over the
// file again: what it yields is used only to find blobs that are hashed anyway.
func (m *medium) table(name string, ref Ref) (mediumFile, error) {
	f, n, err := m.open(name)
	if err != nil {
		return nil, err
	}
	if n != ref.Size {
		err = fmt.Errorf("%d bytes, signed were %d", n, ref.Size)
	}
	if err == nil {
		h := sha256.New()
		if _, err = io.Copy(h, f); err == nil && feed.DigestFrom(h) != ref.Digest {
			err = errors.New("not the bytes that were signed")
		}
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, unreadable(name, err)
	}
	return f, nil
}

// vanished tells a pulled medium from a damaged file.
func (m *medium) vanished() bool {
	at := filepath.Join(m.dir, nameSet)
	if m.image != nil || m.drop != nil {
		at = m.dir
	}
	_, err := os.Stat(at)
	return err != nil
}

func (m *medium) close() {
	if m.image != nil {
		m.file.Close()
		return
	}
	m.root.Close()
}

// maxForeign is how many foreign files are named; the rest is counted.
const maxForeign = 100

// tolerated are directories that operating systems put on every medium.
func tolerated() []string {
	return []string{"System Volume Information", "$RECYCLE.BIN", "lost+found", ".Trashes", ".Spotlight-V100", ".fseventsd"}
}

// list calls fn for every name below the medium, directories of operating
// systems left out; fn says whether to go into a directory.
func list(fsys fs.FS, fn func(name string, d fs.DirEntry) error) error {
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." {
			return nil
		}
		if d.IsDir() && slices.ContainsFunc(tolerated(), func(t string) bool { return strings.EqualFold(t, name) }) {
			return fs.SkipDir
		}
		return fn(name, d)
	})
}

// load reads one metadata file.
func (m *medium) load(name string) ([]byte, error) { return m.read(name, maxMetadata) }
