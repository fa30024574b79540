package packager

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/format/iso"
)

// ISOMargin is what an image takes beyond the files of a volume, at most: the
// directories and the rest of each file's last sector. A volume that is to
// become an image is made that much smaller.
const ISOMargin = 24 << 20

// ISOName is the file name of a volume's image.
func ISOName(number uint64, volume, of int) string {
	return fmt.Sprintf("hashike-%05d-%dof%d.iso", number, volume, of)
}

// WriteISO makes an image of a volume's directory (package iso), reads every
// file in it back and compares it with what the directory gave, and only then
// gives it its name. It returns the image's length. What is at path is
// replaced. Errors: H-801 if it does not fit, H-805 if it does not give back
// what was written.
func WriteISO(ctx context.Context, dir, path string, number uint64, volume int, at time.Time) (int64, error) {
	n, err := writeISO(ctx, dir, path, fmt.Sprintf("HASHIKE_%05d_%d", number, volume), at)
	switch {
	case durable.IsFull(err):
		return 0, feed.NewFault(err, "H-801", "number", strconv.FormatUint(number, 10), "need", "", "free", "0")
	case errors.Is(err, feed.ErrDamaged):
		return 0, feed.NewFault(err, "H-805", "medium", path)
	case err != nil:
		return 0, fmt.Errorf("image %s: %w", path, err)
	}
	return n, nil
}

func writeISO(ctx context.Context, dir, path, label string, at time.Time) (int64, error) {
	temp, err := durable.Create(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	defer temp.Discard()
	var files []iso.File
	sums := map[string]*hashed{}
	err = list(os.DirFS(dir), func(name string, d fs.DirEntry) error {
		if d.IsDir() {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		files = append(files, iso.File{Name: name, Size: st.Size(), Open: func() (io.ReadCloser, error) {
			f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
			if err != nil || ctx.Err() != nil {
				return nil, errors.Join(err, ctx.Err())
			}
			h := sha256.New()
			sums[name] = &hashed{File: f, r: io.TeeReader(f, h), sum: func() feed.Digest { return feed.DigestFrom(h) }}
			return sums[name], nil
		}})
		return nil
	})
	if err != nil {
		return 0, err
	}
	buf := bufio.NewWriterSize(temp, 1<<20)
	n, err := iso.Write(buf, label, at, files)
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = temp.Sync()
	}
	if err != nil {
		return n, err
	}
	forget(filepath.Dir(path))
	if err := compareISO(ctx, sums, temp.Name(), n); err != nil {
		return n, err
	}
	return n, errors.Join(temp.Chmod(0o644), temp.Commit(path))
}

// hashed is a file that is hashed while it is read.
type hashed struct {
	*os.File
	r   io.Reader
	sum func() feed.Digest
}

func (h *hashed) Read(p []byte) (int, error) { return h.r.Read(p) }

// compareISO reads every file of the image and holds it against what went in.
func compareISO(ctx context.Context, want map[string]*hashed, image string, size int64) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != size {
		return fmt.Errorf("the image has %d bytes, %d were written: %w", st.Size(), size, errors.Join(err, feed.ErrDamaged))
	}
	fsys, err := iso.Open(f, size)
	if err != nil {
		return err
	}
	n := 0
	err = list(fsys, func(name string, d fs.DirEntry) error {
		if err := ctx.Err(); err != nil || d.IsDir() {
			return err
		}
		n++
		h := sha256.New()
		r, err := fsys.Open(name)
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 1<<20))
		}
		if w := want[name]; err != nil || w == nil || w.sum() != feed.DigestFrom(h) {
			return fmt.Errorf("%s in the image is not what was written: %w", name, errors.Join(err, feed.ErrDamaged))
		}
		return nil
	})
	if err == nil && n != len(want) {
		err = fmt.Errorf("the image holds %d files, %d were written: %w", n, len(want), feed.ErrDamaged)
	}
	return err
}
