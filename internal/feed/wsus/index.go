package wsus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// What Derive leaves for Handler: "fragments", all fragments one after another,
// core ones escaped as they go into an answer; and "index", what scoping needs,
// with where the fragments lie. The index is read whole, the fragments are not.

const (
	indexName     = "index-4"
	fragmentsName = "fragments-4"
	maxIndex      = 1 << 30
)

// span is a piece of the fragments file.
type span struct {
	Off int64
	Len int32
}

// revision is one revision in the index; Prereqs hold numbers of index.Updates.
type revision struct {
	ID       int32
	Update   int32
	Number   int32 // RevisionNumber
	Type     byte  // 'S', 'D', 'C' (category), 'T' (detectoid)
	Explicit bool
	Sources  []int32 // numbers of index.Sources: any of them brings it
	Prereqs  [][]int32
	Bundles  [][]bundled
	Files    []int32 // numbers of index.Files
	Lacking  bool    // names a file that cannot be carried
	Born     uint64  // serial of the snapshot that first had it
	Core     span
	Extended span
	Texts    []text

	KB         string
	Created    string // as the document has it; empty from a drop's scan
	Category   string // of a category: Product, UpdateClassification, …
	Supersedes []int32
	Drivers    []driver
}

type bundled struct{ Update, Number int32 }

// text is a localized fragment.
type text struct {
	Lang string
	At   span
}

// payloadFile is one file of the index.
type payloadFile struct {
	Path string // artifact
	SHA1 [20]byte
	Size int64
}

// index is the derived index of one snapshot.
type index struct {
	Serial    uint64
	Epoch     epoch
	Sources   []string // artifact paths of scans
	Updates   []guid
	NonLeaf   []bool   // by update: something names it as a prerequisite
	Since     []uint64 // by update: the serial since when, if it was a leaf before
	Files     []payloadFile
	Revisions []revision // by ID
}

var typeLetters = map[string]byte{"Software": 'S', "Driver": 'D', "Category": 'C', "Detectoid": 'T'}

// indexer builds an index and writes the fragments on the way.
type indexer struct {
	index
	ids     *revisions
	updates map[guid]int32
	files   map[string]int32
	revs    map[identity]*revision
	out     io.Writer
	at      int64
}

// Derives implements feed.Deriver.
func (f *updates) Derives() []string { return []string{fragmentsName, indexName} }

// Derive implements feed.Deriver.
//
// The snapshot may hold scans that are withheld because they cannot be read:
// Handler shows nothing of a withheld scan, so they are passed over here.
func (f *updates) Derive(ctx context.Context, c feed.Content, prev fs.FS, out func(string, io.Reader) error) error {
	ids, err := readRevisions(c)
	if err != nil {
		return err
	}
	x := &indexer{ids: ids, updates: map[guid]int32{}, files: map[string]int32{}, revs: map[identity]*revision{}}
	x.Serial, x.Epoch = c.Header().Serial, ids.epoch
	r, w := io.Pipe()
	x.out = w
	done := make(chan error, 1)
	go func() {
		err := x.scans(ctx, c)
		w.CloseWithError(err)
		done <- err
	}()
	err = out(fragmentsName, r)
	r.CloseWithError(errors.New("not read to its end"))
	if err = errors.Join(<-done, err); err != nil {
		return err
	}
	x.finish(prev)
	b, err := x.encode()
	if err != nil {
		return err
	}
	return out(indexName, bytes.NewReader(b))
}

func (x *indexer) scans(ctx context.Context, c feed.Content) error {
	for a, err := range c.Artifacts() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if !isSource(a) {
			continue
		}
		if err := x.scan(c, a); err != nil && !errors.Is(err, feed.ErrUpstream) {
			return err
		}
	}
	return nil
}

// scan adds one scan. It is read twice: only when all of it has proved readable
// does anything of it go into the index.
func (x *indexer) scan(c feed.Content, a feed.Artifact) error {
	s, err := openSource(c, a)
	if err != nil {
		return err
	}
	source := int32(len(x.Sources))
	x.Sources = append(x.Sources, a.Path)
	fresh := map[int]*revision{}
	for _, n := range s.numbers() {
		u := s.updates[n]
		if had, ok := x.revs[u.identity]; ok {
			had.Sources = append(had.Sources, source)
			continue
		}
		if x.ids.ids[u.identity] == 0 {
			return upstream("%s has no revision id", u.identity)
		}
		fresh[n] = x.revision(u, source)
		x.revs[u.identity] = fresh[n]
	}
	if len(fresh) == 0 {
		return nil
	}
	f, err := c.Open(a.Path)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", a.Path, err, feed.ErrDamaged)
	}
	defer f.Close()
	_, err = readSource(a, f.(io.ReaderAt), func(n int, p part, lang string, body []byte) error {
		r, ok := fresh[n]
		if !ok || p == eula {
			return nil
		}
		if p == core && r.Type == 'D' {
			r.Drivers = parseDrivers(body)
		}
		return x.keep(r, p, lang, body)
	})
	return err
}

func (x *indexer) revision(u *update, source int32) *revision {
	r := &revision{ID: x.ids.ids[u.identity], Update: x.number(u.Update), Number: u.identity.Number,
		Type: typeLetters[u.Type], Explicit: u.Explicit, Sources: []int32{source},
		KB: u.KB, Created: u.Created, Category: u.Category}
	for _, g := range u.Supersedes {
		r.Supersedes = append(r.Supersedes, x.number(g))
	}
	for _, clause := range u.Prereqs {
		var c []int32
		for _, g := range clause {
			c = append(c, x.number(g))
		}
		r.Prereqs = append(r.Prereqs, c)
	}
	for _, clause := range u.Bundles {
		var c []bundled
		for _, id := range clause {
			c = append(c, bundled{x.number(id.Update), id.Number})
		}
		r.Bundles = append(r.Bundles, c)
	}
	for _, f := range u.Files {
		if f.SHA256 == "" {
			r.Lacking = true
			continue
		}
		p := f.path()
		n, ok := x.files[p]
		if !ok {
			n = int32(len(x.Files))
			x.files[p] = n
			x.Files = append(x.Files, payloadFile{p, f.SHA1, f.Size})
		}
		r.Files = append(r.Files, n)
	}
	return r
}

func (x *indexer) number(g guid) int32 {
	n, ok := x.updates[g]
	if !ok {
		n = int32(len(x.Updates))
		x.updates[g] = n
		x.Updates = append(x.Updates, g)
	}
	return n
}

func (x *indexer) keep(r *revision, p part, lang string, body []byte) error {
	var esc bytes.Buffer
	if err := xml.EscapeText(&esc, bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF"))); err != nil {
		return err
	}
	at := span{x.at, int32(esc.Len())}
	n, err := x.out.Write(esc.Bytes())
	x.at += int64(n)
	if err != nil {
		return err
	}
	switch p {
	case core:
		r.Core = at
	case extended:
		r.Extended = at
	case localized:
		r.Texts = append(r.Texts, text{lang, at})
	}
	return nil
}

// finish sorts, and finds what something builds on. When that becomes true of
// an update that terminals know as a leaf, they must be told.
func (x *indexer) finish(prev fs.FS) {
	for _, r := range x.revs {
		x.Revisions = append(x.Revisions, *r)
	}
	slices.SortFunc(x.Revisions, func(a, b revision) int { return int(a.ID - b.ID) })
	x.NonLeaf, x.Since = make([]bool, len(x.Updates)), make([]uint64, len(x.Updates))
	for _, r := range x.Revisions {
		for _, g := range slices.Concat(r.Prereqs...) {
			x.NonLeaf[g] = true
		}
	}
	for i := range x.Revisions {
		x.Revisions[i].Born = x.Serial
	}
	before, err := openIndex(prev)
	if err != nil || before.Epoch != x.Epoch {
		return
	}
	born := map[int32]uint64{}
	for _, r := range before.Revisions {
		born[r.ID] = r.Born
	}
	for i := range x.Revisions {
		if n, ok := born[x.Revisions[i].ID]; ok {
			x.Revisions[i].Born = n
		}
	}
	for i, g := range before.Updates {
		if n, ok := x.updates[g]; ok {
			x.Since[n] = before.Since[i]
			if x.NonLeaf[n] != before.NonLeaf[i] {
				x.Since[n] = x.Serial
			}
		}
	}
}

func (x *indexer) encode() ([]byte, error) {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(&x.index); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b.Bytes())
	b.Write(sum[:])
	return b.Bytes(), nil
}

// openIndex reads a derived index. It is our own file: a checksum comes first.
func openIndex(fsys fs.FS) (*index, error) {
	if fsys == nil {
		return nil, fmt.Errorf("wsus index: %w", fs.ErrNotExist)
	}
	f, err := fsys.Open(indexName)
	if err != nil {
		return nil, fmt.Errorf("wsus index: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIndex))
	if err != nil || len(b) < sha256.Size {
		return nil, fmt.Errorf("wsus index: unreadable: %w", feed.ErrDamaged)
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, fmt.Errorf("wsus index: checksum: %w", feed.ErrDamaged)
	}
	x := &index{}
	if err := gob.NewDecoder(bytes.NewReader(body)).Decode(x); err != nil {
		return nil, fmt.Errorf("wsus index: %w: %w", err, feed.ErrDamaged)
	}
	return x, nil
}

// pick chooses the text for a terminal's languages, in its order; else English,
// else the first.
func (r *revision) pick(langs []string) (text, bool) {
	for _, l := range append(slices.Clone(langs), "en") {
		for _, t := range r.Texts {
			if strings.EqualFold(t.Lang, l) {
				return t, true
			}
		}
	}
	if len(r.Texts) > 0 {
		return r.Texts[0], true
	}
	return text{}, false
}
