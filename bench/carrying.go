//go:build linux

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// freshInside pairs one more inside, so that the same bundle is new again. The
// returned function removes it.
func (w *world) freshInside() (dir string, done func(), err error) {
	dir, err = os.MkdirTemp(w.dir, "inside-")
	if err != nil {
		return "", nil, err
	}
	done = func() { os.RemoveAll(dir) }
	side := filepath.Base(dir)
	sheet, err := w.run("outside", "", "setup-medium")
	if err != nil {
		return dir, done, err
	}
	if _, err = w.run(side, fingerprint(sheet.output)+"\n", "init", "--side", "inside", "--name", "bench", "--pair", w.path("outside", "outbox", "setup-1")); err != nil {
		return dir, done, err
	}
	return dir, done, w.configure(side, w.v.block())
}

// importOnce imports the medium into a fresh inside, and removes that again.
func (w *world) importOnce() (cost, error) {
	c, done, err := w.importAndKeep()
	if err != nil {
		return cost{}, err
	}
	done()
	return c, nil
}

// importAndKeep is importOnce for many small files: whoever creates files where
// many were removed within the last 35 s measures ext4 looking for an inode
// that was not (recently_deleted in fs/ext4/ialloc.c), 0.7 ms a file here, so
// done waits for the last run.
func (w *world) importAndKeep() (cost, func(), error) {
	dir, done, err := w.freshInside()
	if err != nil {
		return cost{}, nil, err
	}
	settle(w.dir)
	c, err := w.run(filepath.Base(dir), "", "import", w.path("media"), "--approved-by", "bench")
	if err != nil {
		done()
	}
	return c, done, err
}

// settle writes out what earlier work left in memory: it is not this run's.
func settle(dir string) { exec.Command("sync", "-f", dir).Run() }

// packedWorld has fetched and packed the files.
func packedWorld(l *lab, dir string, files []blob) (*world, func(), error) {
	u, err := newUpstream()
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*world, func(), error) { u.close(); return nil, nil, err }
	t := treeVendor{u}
	if err := t.offer(files); err != nil {
		return fail(err)
	}
	w, err := newWorld(l, dir, t)
	if err != nil {
		return fail(err)
	}
	for _, s := range w.steps()[:2] {
		if _, err := w.run(s.side, "", s.args...); err != nil {
			return fail(err)
		}
	}
	return w, u.close, nil
}

// large imports 2 GiB in large files, in turn with the bound.
func large(l *lab) error {
	dir, done := l.temp("large")
	defer done()
	files := blobs("pool", l.of(20), 100<<20)
	w, end, err := packedWorld(l, dir, files)
	if err != nil {
		return err
	}
	defer end()
	mb := float64(int64(len(files))*files[0].size) / 1e6
	var ours, bounds spread
	for range l.runs {
		c, err := w.importOnce()
		if err != nil {
			return err
		}
		settle(dir)
		s, err := bound(w.path("media"), dir)
		if err != nil {
			return err
		}
		ours, bounds = append(ours, mb/c.seconds), append(bounds, mb/s)
	}
	l.head("files", "import MB/s", "bound MB/s", "import / bound")
	l.row(fmt.Sprintf("%d × %s", len(files), size(files[0].size)), ours.text("%.0f"), bounds.text("%.0f"), ratios(ours, bounds).text("%.2f"))
	return nil
}

// bound copies the medium's blobs one after the other, the hash in a goroutine
// of its own, each flushed, and returns the seconds.
func bound(media, dir string) (float64, error) {
	to, err := os.MkdirTemp(dir, "bound-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(to)
	names, err := filepath.Glob(filepath.Join(media, "blobs", "sha256", "*"))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for _, from := range names {
		if err := copyHashed(from, filepath.Join(to, filepath.Base(from))); err != nil {
			return 0, err
		}
	}
	return time.Since(began).Seconds(), nil
}

// packBound is the least that a pack can do with the medium's blobs: copy them
// with a hash, flush, and read them back from the disk with a hash.
func packBound(media, dir string) (float64, error) {
	to, err := os.MkdirTemp(dir, "back-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(to)
	names, err := filepath.Glob(filepath.Join(media, "blobs", "sha256", "*"))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for _, from := range names {
		if err := copyHashed(from, filepath.Join(to, filepath.Base(from))); err != nil {
			return 0, err
		}
	}
	for _, from := range names {
		if err := hashCold(filepath.Join(to, filepath.Base(from))); err != nil {
			return 0, err
		}
	}
	return time.Since(began).Seconds(), nil
}

// hashCold hashes a file that memory has forgotten.
func hashCold(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	_, err = io.CopyBuffer(sha256.New(), f, make([]byte, 1<<20))
	return err
}

func copyHashed(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	free, full, done := make(chan []byte, 4), make(chan []byte, 4), make(chan struct{})
	for range 4 {
		free <- make([]byte, 1<<20)
	}
	go func() {
		defer close(done)
		h := sha256.New()
		for b := range full {
			h.Write(b)
			free <- b[:cap(b)]
		}
	}()
	for {
		b := <-free
		n, rerr := io.ReadFull(in, b)
		if n > 0 {
			if _, err = out.Write(b[:n]); err != nil {
				break
			}
			full <- b[:n]
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if err = rerr; err != nil {
			break
		}
	}
	close(full)
	<-done
	return errors.Join(err, out.Sync())
}

// rawLoop is what writing many small files costs without reading, hashing or
// checking anything: temporary files, one syncfs for a thousand, renames. What
// it wrote stays in dir (see importAndKeep).
func rawLoop(dir string, files []blob) (float64, error) {
	to, err := os.MkdirTemp(dir, "raw-")
	if err != nil {
		return 0, err
	}
	root, err := os.Open(to)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	for i := range 256 {
		if err := os.Mkdir(filepath.Join(to, fmt.Sprintf("%02x", i)), 0o700); err != nil {
			return 0, err
		}
	}
	settle(dir)
	began := time.Now()
	for at := 0; at < len(files); at += 1000 {
		part := files[at:min(at+1000, len(files))]
		for _, f := range part {
			if err := writeOne(filepath.Join(to, f.sum), f); err != nil {
				return 0, err
			}
		}
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			return 0, err
		}
		for _, f := range part {
			if err := os.Rename(filepath.Join(to, f.sum), filepath.Join(to, f.sum[:2], f.sum)); err != nil {
				return 0, err
			}
		}
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			return 0, err
		}
	}
	return time.Since(began).Seconds(), nil
}

func writeOne(path string, b blob) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(b.write(f), f.Close())
}

// carry compares with the tool that people copy OCI layouts with. It checks
// digests on the way, but no signature, and flushes nothing: sync does it here.
func carry(l *lab) error {
	if _, err := exec.LookPath("skopeo"); err != nil {
		return errors.New("skopeo is needed: apt-get install skopeo")
	}
	dir, done := l.temp("carry")
	defer done()
	files := blobs("pool", l.of(20), 100<<20)
	w, end, err := packedWorld(l, dir, files)
	if err != nil {
		return err
	}
	defer end()
	var packs, imports, copies, bounds spread
	for range l.runs {
		if err := os.RemoveAll(w.path("media")); err != nil {
			return err
		}
		settle(dir)
		c, err := w.run("outside", "", "pack", "--to", w.path("media"), "--full", "--no-scan-reason", "benchmark")
		if err != nil {
			return err
		}
		packs = append(packs, c.seconds)
		if c, err = w.importOnce(); err != nil {
			return err
		}
		imports = append(imports, c.seconds)
		refs, err := layoutRefs(w.path("media"))
		if err != nil {
			return err
		}
		s, err := skopeo(w, refs)
		if err != nil {
			return err
		}
		copies = append(copies, s)
		settle(dir)
		if s, err = packBound(w.path("media"), dir); err != nil {
			return err
		}
		bounds = append(bounds, s)
	}
	l.head("payload", "pack s (writes, signs, reads back)", "import s (checks, verifies again)", "skopeo copy + sync s", "copy, hash, flush, read back s", "pack / skopeo", "import / skopeo", "pack / copy and read back")
	l.row(fmt.Sprintf("%d × %s", len(files), size(files[0].size)), packs.text("%.1f"), imports.text("%.1f"), copies.text("%.1f"), bounds.text("%.1f"),
		ratios(packs, copies).text("%.2f"), ratios(imports, copies).text("%.2f"), ratios(packs, bounds).text("%.2f"))
	return nil
}

func skopeo(w *world, refs []string) (float64, error) {
	to, err := os.MkdirTemp(w.dir, "skopeo-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(to)
	settle(w.dir)
	total := 0.0
	for _, r := range refs {
		c, err := child(exec.Command("skopeo", "--insecure-policy", "copy", "oci:"+w.path("media")+":"+r, "oci:"+filepath.Join(to, "copy")+":"+r))
		if err != nil {
			return 0, err
		}
		total += c.seconds
	}
	c, err := child(exec.Command("sync", "-f", to))
	return total + c.seconds, err
}

// treeSize adds up the files below dir.
func treeSize(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if st, err := d.Info(); err == nil {
				n += st.Size()
			}
		}
		return nil
	})
	return n
}
