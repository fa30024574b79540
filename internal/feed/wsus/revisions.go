package wsus

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// Terminals cache 32-bit revision ids for years, so an id once given stays.
// The outside gives them and the map travels as an artifact, so that all
// mirrors of one outside agree:
//
//	hashike-wsus-revisions 1 <epoch: 32 hex digits>
//	<UpdateID> <RevisionNumber>          line n+1 has id n
//	sha256 <of all lines before, hex>
//
// The sum is against accidents; what carries the map is signed.
// The epoch is random; a rebuilt outside makes a new one, and terminals are
// then told ServerChanged and ask again (MS-WUSP 2.2.2.4).

const (
	revisionsPath  = "metadata/revisions.txt"
	revisionsMagic = "hashike-wsus-revisions 1 "
	revisionsSum   = "sha256 "
	maxRevisions   = 4_000_000
)

type epoch [16]byte

// revisions is the map.
type revisions struct {
	epoch epoch
	ids   map[identity]int32
	order []identity // order[i] has id i+1
}

func newEpoch() (e epoch) {
	rand.Read(e[:]) // never fails (crypto/rand)
	return e
}

func newRevisions(e epoch) *revisions { return &revisions{epoch: e, ids: map[identity]int32{}} }

// add gives an identity its id, if it has none.
func (r *revisions) add(id identity) {
	if _, ok := r.ids[id]; !ok {
		r.order = append(r.order, id)
		r.ids[id] = int32(len(r.order))
	}
}

func (r *revisions) encode() []byte {
	var b bytes.Buffer
	b.WriteString(revisionsMagic + hex.EncodeToString(r.epoch[:]) + "\n")
	for _, id := range r.order {
		fmt.Fprintf(&b, "%s %d\n", id.Update, id.Number)
	}
	sum := sha256.Sum256(b.Bytes())
	b.WriteString(revisionsSum + hex.EncodeToString(sum[:]) + "\n")
	return b.Bytes()
}

// parseRevisions reads a map: ErrUpstream unless it is exactly of this form.
func parseRevisions(rd io.Reader) (*revisions, error) {
	r := &revisions{ids: map[identity]int32{}}
	sum := sha256.New()
	br := bufio.NewReaderSize(rd, 256)
	for n := 0; ; n++ {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return nil, upstream("revisions: line %d: %w", n+1, err)
		}
		text := string(line[:len(line)-1])
		if h, ok := strings.CutPrefix(text, revisionsSum); ok && n > 0 {
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) || h != hex.EncodeToString(sum.Sum(nil)) {
				return nil, upstream("revisions: changed after they were written")
			}
			return r, nil
		}
		sum.Write(line)
		if err := r.line(n, text); err != nil {
			return nil, upstream("revisions: line %d, %.80q: %w", n+1, text, err)
		}
	}
}

// line takes one line: the first is the head.
func (r *revisions) line(n int, text string) error {
	if n == 0 {
		h, ok := strings.CutPrefix(text, revisionsMagic)
		b, err := hex.DecodeString(h)
		if !ok || err != nil || len(b) != len(r.epoch) {
			return errors.New("no head")
		}
		r.epoch = epoch(b)
		return nil
	}
	g, number, _ := strings.Cut(text, " ")
	u, err := parseGUID(g)
	if err != nil {
		return err
	}
	v, err := strconv.ParseUint(number, 10, 31)
	id := identity{u, int32(v)}
	if _, twice := r.ids[id]; err != nil || twice || n > maxRevisions {
		return errors.New("no revision, or known")
	}
	r.add(id)
	return nil
}

// readRevisions reads the map of a snapshot; fs.ErrNotExist if it has none.
func readRevisions(c feed.Content) (*revisions, error) {
	if _, ok := c.Lookup(revisionsPath); !ok {
		return nil, fmt.Errorf("%s: %w", revisionsPath, fs.ErrNotExist)
	}
	f, err := c.Open(revisionsPath)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", revisionsPath, err, feed.ErrDamaged)
	}
	defer f.Close()
	return parseRevisions(f)
}
