package wsus

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
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
//
// The epoch is random; a rebuilt outside makes a new one, and terminals are
// then told ServerChanged and ask again (MS-WUSP 2.2.2.4).

const (
	revisionsPath  = "metadata/revisions.txt"
	revisionsMagic = "hashike-wsus-revisions 1 "
	maxRevisions   = 4_000_000
)

type epoch [16]byte

// revisions is the map.
type revisions struct {
	epoch epoch
	ids   map[identity]int32
	order []identity // order[i] has id i+1
}

func newRevisions() *revisions {
	r := &revisions{ids: map[identity]int32{}}
	rand.Read(r.epoch[:]) // never fails (crypto/rand)
	return r
}

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
	return b.Bytes()
}

// parseRevisions reads a map: ErrUpstream unless it is exactly of this form.
func parseRevisions(rd io.Reader) (*revisions, error) {
	r := &revisions{ids: map[identity]int32{}}
	s := bufio.NewScanner(rd)
	s.Buffer(make([]byte, 256), 256)
	if !s.Scan() {
		return nil, upstream("revisions: no first line")
	}
	h, ok := strings.CutPrefix(s.Text(), revisionsMagic)
	b, err := hex.DecodeString(h)
	if !ok || err != nil || len(b) != len(r.epoch) {
		return nil, upstream("revisions: first line %.80q", s.Text())
	}
	r.epoch = epoch(b)
	for s.Scan() {
		g, n, _ := strings.Cut(s.Text(), " ")
		u, err := parseGUID(g)
		v, err2 := strconv.ParseUint(n, 10, 31)
		id := identity{u, int32(v)}
		if _, twice := r.ids[id]; err != nil || err2 != nil || twice || len(r.order) >= maxRevisions {
			return nil, upstream("revisions: line %d: %.80q", len(r.order)+2, s.Text())
		}
		r.add(id)
	}
	if err := s.Err(); err != nil {
		return nil, upstream("revisions: %w", err)
	}
	return r, nil
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
