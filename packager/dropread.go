package packager

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Whoever fills the directory of a drop may put lists of his own beside ours,
// so of lists only the heads are kept, and few are read.
const (
	dropMaxHead  = 512
	dropMaxTried = 64
)

// dropName is what DropOptions.name makes.
var dropName = regexp.MustCompile(`^[a-z][a-z0-9]{7}\.[a-z0-9]{1,8}$`)

// parseDropHead reads a list's first line; false if it is none.
func parseDropHead(line []byte) (head dropHead, ok bool) {
	return head, strict(line, &head) == nil && head.Format == dropFormat && head.Schema == 1 && head.Number > 0 && head.Number <= MaxNumber &&
		head.Files > 0 && head.Files < dropMaxFile
}

// parseDropList reads a list; false if it is none, or not whole.
func parseDropList(raw []byte) (dropHead, []DropFile, bool) {
	first, body, ok := bytes.Cut(raw, []byte{'\n'})
	head, good := parseDropHead(first)
	if !ok || !good || feed.DigestOf(body) != head.Sum {
		return head, nil, false
	}
	var out []DropFile
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		var f DropFile
		if err := strict(lines.Bytes(), &f); err != nil || !fs.ValidPath(f.Path) || !dropName.MatchString(f.Name) || f.Size < 0 || seen[f.Path] {
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

// foundList is a file that begins as a list does.
type foundList struct {
	name   string
	number uint64 // 0: its first line is not whole
	sum    feed.Digest
}

// dropLists are the lists by their heads, the newest first.
func dropLists(r *os.Root, bySize map[int64][]string) (out []foundList) {
	for size, names := range bySize {
		if size < int64(len(dropStart)) || size > dropMaxList {
			continue
		}
		for _, name := range names {
			if head, is := readDropHead(r, name); is {
				out = append(out, foundList{name, head.Number, head.Sum})
			}
		}
	}
	slices.SortFunc(out, func(a, b foundList) int {
		return cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(a.name, b.name))
	})
	return out
}

func readDropHead(r *os.Root, name string) (head dropHead, is bool) {
	f, err := r.Open(name)
	if err != nil {
		return head, false
	}
	defer f.Close()
	b := make([]byte, dropMaxHead)
	n, _ := io.ReadFull(f, b)
	if !bytes.HasPrefix(b[:n], []byte(dropStart)) {
		return head, false
	}
	if line, _, whole := bytes.Cut(b[:n], []byte{'\n'}); whole {
		if h, ok := parseDropHead(line); ok {
			head = h
		}
	}
	return head, true
}

func readDropList(r *os.Root, name string) ([]DropFile, bool) {
	f, err := r.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, dropMaxList+1))
	if err != nil {
		return nil, false
	}
	_, files, ok := parseDropList(raw)
	return files, ok
}

// openDrop finds the newest drop of a directory that is whole. Without a list
// it returns nil. If none is whole the error is ErrHeld, H-623, naming what
// the newest lacks.
func openDrop(r *os.Root, dir string) (*dropView, error) {
	bySize, err := dropFiles(r)
	if err != nil {
		return nil, nil
	}
	lists := dropLists(r, bySize)
	if len(lists) == 0 {
		return nil, nil
	}
	find := finder{r: r, bySize: bySize, byDigest: map[feed.Digest]string{}}
	read := map[feed.Digest]bool{} // repetitions of one list have one sum
	var refusal error
	tried := 0
	for _, l := range lists {
		if l.number == 0 || read[l.sum] {
			continue
		}
		if tried++; tried > dropMaxTried {
			break
		}
		files, ok := readDropList(r, l.name)
		if !ok {
			continue
		}
		read[l.sum] = true
		view, lacks := find.all(files)
		if len(lacks) == 0 {
			return &dropView{l.number, view}, nil
		}
		if refusal == nil {
			refusal = dropLacks(dir, l.number, lacks)
		}
	}
	if refusal == nil {
		refusal = dropLacks(dir, 0, namesOf(lists))
	}
	return nil, refusal
}

func namesOf(lists []foundList) (out []string) {
	for _, l := range lists {
		out = append(out, l.name)
	}
	return out
}

// finder finds files by size and digest; none is hashed twice.
type finder struct {
	r        *os.Root
	bySize   map[int64][]string // not hashed yet
	byDigest map[feed.Digest]string
}

// all finds each file of a list. Nothing is hashed while a file of the right
// size is missing for any.
func (d *finder) all(files []DropFile) (view map[string]string, lacks []string) {
	for _, f := range files {
		if _, known := d.byDigest[f.Digest]; !known && len(d.bySize[f.Size]) == 0 {
			lacks = append(lacks, f.Name)
		}
	}
	if len(lacks) > 0 {
		return nil, lacks
	}
	view = map[string]string{}
	for _, f := range files {
		if name := d.one(f); name != "" {
			view[f.Path] = name
		} else {
			lacks = append(lacks, f.Name)
		}
	}
	return view, lacks
}

// one hashes files of the right size, the likeliest first, until one has the digest.
func (d *finder) one(f DropFile) string {
	for like := 2; like >= 0; like-- {
		for i := 0; ; {
			if name, ok := d.byDigest[f.Digest]; ok {
				return name
			}
			left := d.bySize[f.Size]
			if i >= len(left) {
				break
			}
			if likeness(left[i], f.Name) < like {
				i++
				continue
			}
			d.byDigest[digestOf(d.r, left[i])] = left[i]
			d.bySize[f.Size] = slices.Delete(left, i, i+1)
		}
	}
	return ""
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
