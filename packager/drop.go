package packager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// A drop is one volume as plain files in one directory, for approval gateways
// and diodes that take files one by one, refuse odd names and depths, rename
// what they pass, and keep no order (docs/bundle.md §9). A list says which
// file is which part of the volume; it is recognised by its beginning, and the
// files by size and digest, so that names do not matter at the other end. The
// list is not signed: what it leads to is judged as on any medium.
const (
	dropFormat  = "hashike-drop"
	dropStart   = `{"format":"hashike-drop",`
	dropMaxList = 32 << 20
	dropMaxFile = 46_656 // 36³
	dropMaxSeen = 200_000
	maxRepeat   = 26
)

// dropHead is the first line of the list.
type dropHead struct {
	Format string      `json:"format"`
	Schema int         `json:"schema"`
	Number uint64      `json:"number"`
	Files  int         `json:"files"`
	Sum    feed.Digest `json:"sum"` // of all lines after this one
}

// DropFile is one file of a drop, a line of its list.
type DropFile struct {
	Name   string      `json:"name"` // as it was written
	Path   string      `json:"path"` // in the volume; empty is the list itself
	Size   int64       `json:"size"`
	Digest feed.Digest `json:"digest"`
}

// DropOptions says how files are named and how often they are written.
type DropOptions struct {
	Number uint64
	Ext    string // 1–8 of a-z, 0-9; empty is "dat"
	Repeat int    // times each file is written, under names of their own: 1–26; 0 is 1
}

var dropExt = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

func (o *DropOptions) check() error {
	if o.Ext == "" {
		o.Ext = "dat"
	}
	o.Repeat = max(o.Repeat, 1)
	if !dropExt.MatchString(o.Ext) || o.Repeat > maxRepeat {
		return fmt.Errorf("drop: an extension is 1 to 8 of a-z and 0-9, and files are written 1 to %d times: %w", maxRepeat, feed.ErrConfig)
	}
	return nil
}

// name is eight characters and the extension: which repetition (a–z), the
// bundle in four digits of base 36, the file in three.
func (o *DropOptions) name(repetition, i int) string {
	return fmt.Sprintf("%c%04s%03s.%s", 'a'+repetition, strconv.FormatUint(o.Number, 36), strconv.FormatInt(int64(i), 36), o.Ext)
}

// WriteDrop turns the volume in dir into a drop in to and returns the files of
// the last repetition, the list as the last of them. An appliance may take
// each file away as soon as it has its name: it is whole and was read back by
// then. Lists come last. Other files in to are left alone; dir is used up.
func WriteDrop(ctx context.Context, dir, to string, o DropOptions) ([]DropFile, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	out, err := dropPlan(ctx, dir)
	if err != nil {
		return nil, err
	}
	for r := range o.Repeat {
		last := r == o.Repeat-1
		for i := range out {
			out[i].Name = o.name(r, i+1)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := putDrop(filepath.Join(dir, filepath.FromSlash(out[i].Path)), filepath.Join(to, out[i].Name), out[i].Digest, last); err != nil {
				return nil, dropFault(to, err)
			}
		}
	}
	raw, err := dropList(o.Number, out)
	if err != nil {
		return nil, err
	}
	for r := range o.Repeat {
		if err := durable.WriteFile(filepath.Join(to, o.name(r, 0)), raw); err != nil {
			return nil, dropFault(to, err)
		}
	}
	return append(out, DropFile{Name: o.name(o.Repeat-1, 0), Size: int64(len(raw)), Digest: feed.DigestOf(raw)}), nil
}

// dropPlan lists and hashes the volume's files.
func dropPlan(ctx context.Context, dir string) ([]DropFile, error) {
	var out []DropFile
	err := list(os.DirFS(dir), func(name string, d fs.DirEntry) error {
		if err := ctx.Err(); err != nil || d.IsDir() {
			return err
		}
		if len(out) == dropMaxFile-1 {
			return fmt.Errorf("drop: more than %d files: %w", dropMaxFile-1, feed.ErrConfig)
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		f := DropFile{Path: name, Size: st.Size(), Digest: fileDigest(filepath.Join(dir, filepath.FromSlash(name)))}
		if f.Digest == "" {
			return fmt.Errorf("%s cannot be read again: %w", name, feed.ErrDamaged)
		}
		out = append(out, f)
		return nil
	})
	return out, dropFault(dir, err)
}

func dropFault(to string, err error) error {
	switch {
	case durable.IsFull(err):
		return feed.NewFault(err, "H-801", "number", "", "need", "", "free", "0")
	case errors.Is(err, feed.ErrDamaged):
		return feed.NewFault(err, "H-805", "medium", to)
	}
	return err
}

// putDrop gives a file its name in a drop. The last time it is moved, if both are
// on one file system; else it is copied and read back.
func putDrop(from, to string, want feed.Digest, move bool) error {
	if move && os.Chmod(from, 0o644) == nil && os.Rename(from, to) == nil {
		return durable.SyncDir(filepath.Dir(to))
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := durable.Create(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer t.Discard()
	n, err := io.CopyBuffer(struct{ io.Writer }{t}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err == nil {
		err = errors.Join(t.Chmod(0o644), t.Sync())
	}
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(t, 0, n), make([]byte, 1<<20)); err != nil || feed.DigestFrom(h) != want {
		return fmt.Errorf("%s is not what was written: %w", to, errors.Join(err, feed.ErrDamaged))
	}
	return t.Commit(to)
}

func dropList(number uint64, files []DropFile) ([]byte, error) {
	var body bytes.Buffer
	for _, f := range files {
		b, err := json.Marshal(f)
		if err != nil {
			return nil, err
		}
		body.Write(append(b, '\n'))
	}
	head, err := json.Marshal(dropHead{dropFormat, 1, number, len(files), feed.DigestOf(body.Bytes())})
	return append(append(head, '\n'), body.Bytes()...), err
}
