package packager

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

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

// parseDropList reads a list; false if it is none, or not whole.
func parseDropList(raw []byte) (dropHead, []DropFile, bool) {
	var head dropHead
	first, body, ok := bytes.Cut(raw, []byte{'\n'})
	if !ok || strict(first, &head) != nil || head.Format != dropFormat || head.Schema != 1 || head.Number == 0 || head.Number > MaxNumber ||
		head.Files < 1 || head.Files >= dropMaxFile || feed.DigestOf(body) != head.Sum {
		return head, nil, false
	}
	var out []DropFile
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		var f DropFile
		if err := strict(lines.Bytes(), &f); err != nil || !fs.ValidPath(f.Path) || path.Base(f.Name) != f.Name || f.Size < 0 || seen[f.Path] {
			return head, nil, false
		}
		if _, err := feed.ParseDigest(string(f.Digest)); err != nil {
			return head, nil, false
		}
		seen[f.Path] = true
		out = append(out, f)
	}
	return head, out, lines.Err() == nil && len(out) == head.Files
}

// dropView is a whole drop seen as a volume: path → file in the directory.
type dropView struct {
	number uint64
	at     map[string]string
}

// IsDrop reports whether a directory holds a drop's list, whole or not.
func IsDrop(dir string) bool {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer r.Close()
	bySize, err := dropFiles(r)
	if err != nil {
		return false
	}
	return len(dropLists(r, bySize)) > 0
}

// dropFiles are the regular files of a directory by size.
func dropFiles(r *os.Root) (map[int64][]string, error) {
	ents, err := fs.ReadDir(r.FS(), ".")
	if err != nil {
		return nil, err
	}
	out := map[int64][]string{}
	for i, e := range ents {
		if i == dropMaxSeen {
			return nil, fmt.Errorf("more than %d files: %w", dropMaxSeen, feed.ErrConfig)
		}
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
			out[st.Size()] = append(out[st.Size()], e.Name())
		}
	}
	return out, nil
}

// dropLists are the files that begin as a list does.
func dropLists(r *os.Root, bySize map[int64][]string) (out []string) {
	for size, names := range bySize {
		if size < int64(len(dropStart)) || size > dropMaxList {
			continue
		}
		for _, name := range names {
			if f, err := r.Open(name); err == nil {
				b := make([]byte, len(dropStart))
				if _, err := io.ReadFull(f, b); err == nil && string(b) == dropStart {
					out = append(out, name)
				}
				f.Close()
			}
		}
	}
	slices.Sort(out)
	return out
}

// openDrop finds the newest drop of a directory that is whole. Without a list
// it returns nil. If none is whole the error is ErrHeld, H-623, naming what
// the newest lacks.
func openDrop(r *os.Root, dir string) (*dropView, error) {
	bySize, err := dropFiles(r)
	if err != nil {
		return nil, nil
	}
	names := dropLists(r, bySize)
	if len(names) == 0 {
		return nil, nil
	}
	type candidate struct {
		head  dropHead
		files []DropFile
	}
	var all []candidate
	for _, name := range names {
		f, err := r.Open(name)
		if err != nil {
			continue
		}
		raw, err := io.ReadAll(io.LimitReader(f, dropMaxList+1))
		f.Close()
		if head, files, ok := parseDropList(raw); err == nil && ok {
			all = append(all, candidate{head, files})
		}
	}
	if len(all) == 0 {
		return nil, dropLacks(dir, 0, []string{strings.Join(names, ", ")})
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return int(b.head.Number) - int(a.head.Number) })
	hashes := map[string]feed.Digest{}
	var refusal error
	for _, c := range all {
		view, lacks := assembleDrop(r, c.files, bySize, hashes)
		if len(lacks) == 0 {
			return &dropView{c.head.Number, view}, nil
		}
		if refusal == nil {
			refusal = dropLacks(dir, c.head.Number, lacks)
		}
	}
	return nil, refusal
}

// assembleDrop finds each file of a list. Nothing is hashed while a file of
// the right size is missing for any.
func assembleDrop(r *os.Root, files []DropFile, bySize map[int64][]string, hashes map[string]feed.Digest) (view map[string]string, lacks []string) {
	for _, f := range files {
		if len(bySize[f.Size]) == 0 {
			lacks = append(lacks, f.Name)
		}
	}
	if len(lacks) > 0 {
		return nil, lacks
	}
	view = map[string]string{}
	for _, f := range files {
		names := slices.Clone(bySize[f.Size])
		slices.SortStableFunc(names, func(a, b string) int { return likeness(b, f.Name) - likeness(a, f.Name) })
		for _, name := range names {
			d, known := hashes[name]
			if !known {
				d = digestOf(r, name)
				hashes[name] = d
			}
			if d == f.Digest {
				view[f.Path] = name
				break
			}
		}
		if view[f.Path] == "" {
			lacks = append(lacks, f.Name)
		}
	}
	return view, lacks
}

// likeness orders candidates so that as little as possible is hashed: the name
// itself, then names that a gateway made of it.
func likeness(name, want string) int {
	stem := strings.TrimSuffix(want, path.Ext(want))
	switch {
	case strings.EqualFold(name, want):
		return 2
	case strings.Contains(strings.ToLower(name), stem):
		return 1
	}
	return 0
}

func digestOf(r *os.Root, name string) feed.Digest {
	f, err := r.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return ""
	}
	return feed.DigestFrom(h)
}

// maxLacks is how many missing files a message names.
const maxLacks = 10

func dropLacks(dir string, number uint64, lacks []string) error {
	slices.Sort(lacks)
	shown := strings.Join(lacks[:min(len(lacks), maxLacks)], ", ")
	if len(lacks) > maxLacks {
		shown += " …"
	}
	return feed.NewFault(fmt.Errorf("%s: bundle %d has not arrived whole, %d files are missing (%s): %w", dir, number, len(lacks), shown, feed.ErrHeld),
		"H-623", "dir", dir, "number", strconv.FormatUint(number, 10), "count", strconv.Itoa(len(lacks)), "file", shown)
}
