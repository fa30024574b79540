package diode

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// Limits of a table.
const (
	maxFiles    = 200_000
	maxTable    = 48 << 20 // bytes of JSON Lines
	maxPacked   = 24 << 20 // as sent
	maxPath     = 240
	maxName     = 80      // bytes
	maxStream   = 1 << 46 // 64 TiB
	maxDepth    = 8
	tableFormat = "hashike-diode"
)

// Profile is how a stream is coded.
type Profile struct {
	Data       int `json:"k"`          // K: shards of a block
	Parity     int `json:"p"`          // P: parity shards of a block
	Shard      int `json:"shard"`      // bytes, a multiple of 64
	Interleave int `json:"interleave"` // blocks whose shards are sent in turns
}

// Block is the number of stream bytes in a block.
func (p Profile) Block() int64 { return int64(p.Data) * int64(p.Shard) }

// Share is what of the wire's bytes is content: K/(K+P) × shard/frame.
func (p Profile) Share() float64 {
	return float64(p.Data) / float64(p.Data+p.Parity) * float64(p.Shard) / float64(p.Shard+headerSize+tagSize+Frame)
}

// Check refuses what no program of ours sends.
func (p Profile) Check() error {
	if p.Data < 1 || p.Parity < 1 || p.Data+p.Parity > maxCode || p.Shard < minShard || p.Shard > maxShard || p.Shard%64 != 0 ||
		p.Interleave < 1 || p.Interleave > 256 {
		return fmt.Errorf("profile %d+%d of %d bytes, interleave %d", p.Data, p.Parity, p.Shard, p.Interleave)
	}
	return nil
}

// File is one file of a session.
type File struct {
	Path   string // with slashes
	Size   int64
	Digest [sha256.Size]byte
	at     int64 // in the stream
}

// Table says what a session carries. Its identity is the SHA-256 of its lines.
type Table struct {
	Profile
	Name  string // for people: the number of the bundle
	Bytes int64  // of the stream
	Files []File
}

type tableHead struct {
	Format string `json:"format"`
	Schema int    `json:"schema"`
	Name   string `json:"name"`
	Profile
	Bytes int64 `json:"bytes"`
	Files int   `json:"files"`
}

type tableLine struct {
	Path   string `json:"f"`
	Size   int64  `json:"n"`
	Digest string `json:"d,omitempty"` // hex; left out if the path ends with it
}

// Blocks is the number of blocks of the stream.
func (t *Table) Blocks() int64 { return (t.Bytes + t.Block() - 1) / t.Block() }

// shards is the number of data shards of block i that are sent: the last
// block's missing ones are zeros at both ends.
func (t *Table) shards(i int64) int {
	left := t.Bytes - i*t.Block()
	return int(min((left+int64(t.Shard)-1)/int64(t.Shard), int64(t.Data)))
}

// encode returns the table as it is sent, and its identity.
func (t *Table) encode() ([]byte, ID, error) {
	var raw bytes.Buffer
	e := json.NewEncoder(&raw)
	e.SetEscapeHTML(false)
	if err := e.Encode(tableHead{tableFormat, 1, t.Name, t.Profile, t.Bytes, len(t.Files)}); err != nil {
		return nil, ID{}, err
	}
	for _, f := range t.Files {
		l := tableLine{Path: f.Path, Size: f.Size}
		if d := hex.EncodeToString(f.Digest[:]); path.Base(f.Path) != d {
			l.Digest = d
		}
		if err := e.Encode(l); err != nil {
			return nil, ID{}, err
		}
	}
	sum := sha256.Sum256(raw.Bytes())
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, ID{}, err
	}
	packed := z.EncodeAll(raw.Bytes(), nil)
	if raw.Len() > maxTable || len(packed) > maxPacked {
		return nil, ID{}, fmt.Errorf("table of %d bytes: too many files for one session", raw.Len())
	}
	return packed, ID(sum[:16]), nil
}

// decodeTable reads a table that arrived and compares it with its identity.
func decodeTable(packed []byte, id ID) (*Table, error) {
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(maxTable))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	raw, err := io.ReadAll(io.LimitReader(z, maxTable+1))
	if err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	if sum := sha256.Sum256(raw); len(raw) > maxTable || ID(sum[:16]) != id {
		return nil, errors.New("table: another one than announced")
	}
	return parseTable(raw)
}

func parseTable(raw []byte) (*Table, error) {
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 4096)
	var head tableHead
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &head) != nil || head.Format != tableFormat || head.Schema != 1 {
		return nil, errors.New("table: no head of ours")
	}
	if err := head.Profile.Check(); err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	if head.Files < 1 || head.Files > maxFiles || head.Bytes < 0 || head.Bytes > maxStream || len(head.Name) > maxName {
		return nil, fmt.Errorf("table of %d files, %d bytes", head.Files, head.Bytes)
	}
	t := &Table{Profile: head.Profile, Name: printable(head.Name)}
	for lines.Scan() {
		var l tableLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("table: %w", err)
		}
		f := File{Path: l.Path, Size: l.Size, at: t.Bytes}
		if l.Digest == "" {
			l.Digest = path.Base(l.Path)
		}
		if d, err := hex.DecodeString(l.Digest); err != nil || len(d) != sha256.Size || l.Size < 0 || l.Size > maxStream || len(t.Files) == head.Files {
			return nil, fmt.Errorf("table: file %d", len(t.Files)+1)
		} else {
			f.Digest = [sha256.Size]byte(d)
		}
		if t.Bytes += f.Size; t.Bytes > head.Bytes {
			return nil, errors.New("table: more bytes than announced")
		}
		t.Files = append(t.Files, f)
	}
	if lines.Err() != nil || len(t.Files) != head.Files || t.Bytes != head.Bytes || t.Blocks() > 1<<32-1 {
		return nil, fmt.Errorf("table: %d files of %d, %d bytes of %d", len(t.Files), head.Files, t.Bytes, head.Bytes)
	}
	return t, checkPaths(t.Files)
}

// checkPaths accepts paths that mean the same on every system and lie below
// the session's directory: no two differ in case only, none is another's folder.
func checkPaths(files []File) error {
	seen, folders := make(map[string]bool, len(files)), map[string]bool{}
	for _, f := range files {
		if !validPath(f.Path) {
			return fmt.Errorf("table: path %.80q", f.Path)
		}
		low := strings.ToLower(f.Path)
		if seen[low] || folders[low] {
			return fmt.Errorf("table: path %.80q twice", f.Path)
		}
		seen[low] = true
		for d := path.Dir(low); d != "."; d = path.Dir(d) {
			if seen[d] {
				return fmt.Errorf("table: file %.80q is a folder too", d)
			}
			folders[d] = true
		}
	}
	return nil
}

func validPath(p string) bool {
	if len(p) > maxPath || !fs.ValidPath(p) || p == "." || strings.Count(p, "/") >= maxDepth || !filepath.IsLocal(filepath.FromSlash(p)) {
		return false
	}
	for _, e := range strings.Split(p, "/") {
		stem, _, _ := strings.Cut(strings.ToLower(e), ".")
		if e[0] == '.' || e[len(e)-1] == '.' || slices.Contains([]string{"con", "prn", "aux", "nul"}, stem) ||
			len(stem) == 4 && (strings.HasPrefix(stem, "com") || strings.HasPrefix(stem, "lpt")) {
			return false
		}
		for _, c := range e {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)) {
				return false
			}
		}
	}
	return true
}

func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, s)
}

// Scan makes the table of a directory. The small files come first, in order of
// their names, so that what says what the rest is arrives first. A file named
// by its own digest is believed here: the receiver computes it.
func Scan(dir, name string, p Profile) (*Table, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	for len(name) > maxName {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	t := &Table{Profile: p, Name: name}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		if err != nil || !st.Mode().IsRegular() {
			return err
		}
		f := File{Path: filepath.ToSlash(rel), Size: st.Size()}
		if !validPath(f.Path) { // what systems leave on media is not carried
			return nil
		}
		if len(t.Files) == maxFiles {
			return fmt.Errorf("%s: more than %d files", dir, maxFiles)
		}
		t.Files = append(t.Files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(t.Files) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	slices.SortFunc(t.Files, func(a, b File) int {
		if x, y := isBlob(a.Path), isBlob(b.Path); x != y {
			if y {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
	for i := range t.Files {
		f := &t.Files[i]
		f.at = t.Bytes
		t.Bytes += f.Size
		if d, err := hex.DecodeString(path.Base(f.Path)); err == nil && len(d) == sha256.Size {
			f.Digest = [sha256.Size]byte(d)
		} else if f.Digest, err = digestOf(filepath.Join(dir, filepath.FromSlash(f.Path))); err != nil {
			return nil, err
		}
	}
	return t, checkPaths(t.Files)
}

// isBlob reports whether a file lies below blobs/ of a volume.
func isBlob(p string) bool { return strings.Contains("/"+p, "/blobs/") }

func digestOf(at string) ([sha256.Size]byte, error) {
	f, err := os.Open(at)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// eachFile calls fn for the parts of files that stream bytes [from, to) are.
func (t *Table) eachFile(from, to int64, fn func(i int, off, n int64) error) error {
	i, _ := slices.BinarySearchFunc(t.Files, from, func(f File, at int64) int {
		if f.at+f.Size <= at {
			return -1
		}
		return 1
	})
	for ; i < len(t.Files) && t.Files[i].at < to; i++ {
		f := &t.Files[i]
		a, b := max(from, f.at), min(to, f.at+f.Size)
		if a >= b {
			continue
		}
		if err := fn(i, a-f.at, b-a); err != nil {
			return err
		}
	}
	return nil
}
