package diode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/fec"
)

// Files of a session's directory in the spool.
const (
	nameTable = "table" // as it arrived
	nameHave  = "have"  // bitmap of blocks that are on the disk
	nameSince = "since"
	dirFiles  = "files" // what becomes the received directory
	dirParts  = "parts" // blocks that are not whole, put aside
)

// largeFile is the size from which a file stays open and is hashed while it comes.
const largeFile = 4 << 20

// session is one table's content on its way to being whole.
type session struct {
	r       *Receiver
	id      ID
	t       *Table
	dir     string
	root    *os.Root            // of dirFiles
	dirs    map[string]*os.Root // of the first folders in it
	code    *fec.Code
	since   time.Time
	touched atomic.Int64 // when a block became whole, Unix ns
	over    atomic.Bool  // arrived or given up: nothing may be written any more

	open map[uint32]*openBlock // the sorting goroutine's

	io sync.Mutex // checkpoint and arrival exclude each other

	mu      sync.Mutex
	taken   bits // blocks that are written or being written
	done    bits // blocks that are written
	have    int64
	saved   int64 // have at the last checkpoint
	left    []int32
	whole   bits // files with the right digest
	wholeN  int
	hashes  map[int]*hashState
	handles map[int]*os.File
	spilled map[uint32]bool
	pass    int
	noted   int // pass on the disk
}

// hashState is how far the digest of a large file has come.
type hashState struct {
	h  hash.Hash
	at int64
}

type bits []uint64

func newBits(n int64) bits        { return make(bits, (n+63)/64) }
func (b bits) get(i int64) bool   { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int64)        { b[i/64] |= 1 << (i % 64) }
func (b bits) clear(i int64)      { b[i/64] &^= 1 << (i % 64) }
func (b bits) copyOf() (out bits) { return append(out, b...) }

func newSession(r *Receiver, id ID, t *Table, packed []byte) (*session, error) {
	dir := filepath.Join(r.spool(), hex.EncodeToString(id[:]))
	if err := durable.RemoveAll(dir); err != nil {
		return nil, err
	}
	since := r.o.Clock()
	if err := durable.Mkdir(dir); err != nil {
		return nil, err
	}
	if err := noteSince(dir, since, 0); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(dir, nameTable), packed); err != nil {
		return nil, err
	}
	return openSession(r, dir, id, t, since, nil)
}

// noteSince writes when a session began and how many passes of it ended.
func noteSince(dir string, since time.Time, pass int) error {
	return durable.WriteFile(filepath.Join(dir, nameSince), fmt.Appendf(nil, "%d %d", since.Unix(), pass))
}

// loadSession takes up a session where an earlier receiver left it.
func loadSession(r *Receiver, dir string, id ID) (*session, error) {
	packed, err := os.ReadFile(filepath.Join(dir, nameTable))
	if err != nil {
		return nil, err
	}
	t, err := decodeTable(packed, id)
	if err != nil {
		return nil, err
	}
	var since time.Time
	var pass int
	if b, err := os.ReadFile(filepath.Join(dir, nameSince)); err == nil {
		var n int64
		fmt.Sscan(string(b), &n, &pass)
		since = time.Unix(n, 0)
	}
	have, err := os.ReadFile(filepath.Join(dir, nameHave))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s, err := openSession(r, dir, id, t, since, have)
	if err == nil {
		s.pass, s.noted = pass, pass
	}
	return s, err
}

func openSession(r *Receiver, dir string, id ID, t *Table, since time.Time, have []byte) (*session, error) {
	s := &session{r: r, id: id, t: t, dir: dir, since: since, open: map[uint32]*openBlock{}, dirs: map[string]*os.Root{}, done: newBits(t.Blocks()),
		left: make([]int32, len(t.Files)), whole: newBits(int64(len(t.Files))), hashes: map[int]*hashState{}, handles: map[int]*os.File{}, spilled: map[uint32]bool{}}
	s.touched.Store(r.o.Clock().UnixNano())
	var err error
	if s.code, err = fec.NewCode(t.Data, t.Parity); err != nil {
		return nil, err
	}
	for i := range t.Blocks() {
		if int(i/8) < len(have) && have[i/8]&(1<<(i%8)) != 0 {
			s.done.set(i)
			s.have++
		}
	}
	s.taken, s.saved = s.done.copyOf(), s.have
	for i := range t.Files {
		from, to := s.blocksOf(i)
		for n := from; n < to; n++ {
			if !s.done.get(n) {
				s.left[i]++
			}
		}
	}
	for _, d := range []string{dirParts, dirFiles} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if s.root, err = os.OpenRoot(filepath.Join(dir, dirFiles)); err != nil {
		return nil, err
	}
	made := map[string]bool{".": true}
	for _, f := range t.Files {
		if d := path.Dir(f.Path); !made[d] {
			if err := s.root.MkdirAll(d, 0o700); err != nil {
				return nil, err
			}
			made[d] = true
			if len(s.dirs) < 64 {
				if s.dirs[d], err = s.root.OpenRoot(d); err != nil {
					return nil, err
				}
			}
		}
	}
	return s, s.loadParts()
}

// blocksOf is the range of blocks that hold a file.
func (s *session) blocksOf(i int) (from, to int64) {
	f := s.t.Files[i]
	if f.Size == 0 {
		return 0, 0
	}
	return f.at / s.t.Block(), (f.at+f.Size-1)/s.t.Block() + 1
}

// write puts a block's data into its files. What was found whole is never touched again.
func (s *session) write(b *openBlock) error {
	from := int64(b.n) * s.t.Block()
	data := b.buf
	return s.t.eachFile(from, min(from+s.t.Block(), s.t.Bytes), func(i int, off, n int64) error {
		part := data[:n]
		data = data[n:]
		s.mu.Lock()
		whole := s.whole.get(int64(i))
		s.mu.Unlock()
		if whole {
			return nil
		}
		f, done, err := s.file(i)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(part, off)
		err = errors.Join(err, done())
		if size := s.t.Files[i].Size; err == nil && n == size && size < largeFile && sha256.Sum256(part) == s.t.Files[i].Digest {
			s.mu.Lock() // most small files lie in one block: they need not be read again
			s.whole.set(int64(i))
			s.wholeN++
			s.mu.Unlock()
		}
		return err
	})
}

// file opens a file for writing and reading; done must be called.
func (s *session) file(i int) (f *os.File, done func() error, err error) {
	large := s.t.Files[i].Size >= largeFile
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.handles[i]; f != nil {
		return f, func() error { return nil }, nil
	}
	at, root := s.t.Files[i].Path, s.root
	if d := s.dirs[path.Dir(at)]; d != nil {
		at, root = path.Base(at), d
	}
	f, err = root.OpenFile(filepath.FromSlash(at), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if large && len(s.handles) < 128 {
		s.handles[i] = f
		return f, func() error { return nil }, nil
	}
	return f, func() error { return f.Close() }, nil
}

func (s *session) endPass(n int) {
	s.mu.Lock()
	s.pass = max(s.pass, n)
	s.mu.Unlock()
}

// missing are the blocks that are not written.
func (s *session) missing() []Span {
	var out []Span
	for i := int64(0); i < s.t.Blocks(); i++ {
		if s.done.get(i) {
			continue
		}
		if k := len(out); k > 0 && out[k-1].To == i {
			out[k-1].To++
		} else {
			out = append(out, Span{i, i + 1})
		}
	}
	return out
}

func (s *session) status() SessionStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := SessionStatus{Name: s.t.Name, ID: hex.EncodeToString(s.id[:]), Bytes: s.t.Bytes, Blocks: s.t.Blocks(), Have: s.have,
		Files: len(s.t.Files), Whole: s.wholeN, Since: s.since, Pass: s.pass}
	if (s.pass > 0 || s.r.o.Clock().Sub(time.Unix(0, s.touched.Load())) > needAfter) && s.have < o.Blocks {
		n := Need{Blocks: coarse(s.missing(), MaxSpans)}
		copy(n.Session[:], s.id[:])
		o.Need = n.String()
	}
	return o
}

// needAfter is how long a session without the end of a pass has been still when
// its need list is shown all the same: its end packets may be lost too.
const needAfter = 10 * time.Minute

// complete reports whether every block is there.
func (s *session) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have == s.t.Blocks()
}

// checkpoint flushes what was written, then the bitmap that says so.
func (s *session) checkpoint() error {
	s.io.Lock()
	defer s.io.Unlock()
	if s.over.Load() {
		return nil
	}
	s.mu.Lock()
	have, done, pass := s.have, s.done.copyOf(), s.pass
	same, ended := have == s.saved, pass != s.noted
	s.saved, s.noted = have, pass
	s.mu.Unlock()
	var err error
	if ended {
		err = noteSince(s.dir, s.since, pass)
	}
	if !same && err == nil {
		err = s.save(done)
	}
	if err != nil { // again at the next checkpoint
		s.mu.Lock()
		s.saved, s.noted = -1, -1
		s.mu.Unlock()
	}
	return err
}

// save writes the bitmap of blocks once they are durable.
func (s *session) save(done bits) error {
	if err := s.flush(); err != nil {
		return err
	}
	b := make([]byte, (s.t.Blocks()+7)/8)
	for i := range s.t.Blocks() {
		if done.get(i) {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return durable.WriteFile(filepath.Join(s.dir, nameHave), b)
}

// flush makes everything written durable.
func (s *session) flush() error {
	if all, err := durable.SyncFS(s.dir); all || err != nil {
		return err
	}
	return filepath.WalkDir(filepath.Join(s.dir, dirFiles), func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.OpenFile(at, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// abandon forgets the session and what it had. The caller holds count.mu,
// which whoever holds s.io may be waiting for: the disk is cleared apart.
func (s *session) abandon() {
	s.over.Store(true)
	for n, b := range s.open {
		delete(s.open, n)
		s.r.pool.give(b.buf)
	}
	s.r.removal.Go(func() {
		s.io.Lock()
		defer s.io.Unlock()
		s.shut()
		if err := durable.RemoveAll(s.dir); err != nil {
			s.r.trouble(err)
		}
		s.r.count.mu.Lock()
		defer s.r.count.mu.Unlock()
		delete(s.r.leaving, s.id)
	})
}

// shut closes every file.
func (s *session) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.handles {
		f.Close()
		delete(s.handles, i)
	}
	for _, d := range s.dirs {
		d.Close()
	}
	s.root.Close()
}
