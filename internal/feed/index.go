package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Index is a snapshot in a form that answers Lookup without decoding JSON: one
// immutable byte slice, so that serving 100,000 artifacts starts at once and
// costs what its file costs. It is derived data: built from the snapshot
// document, thrown away and built again when it does not fit.
//
// Layout, little-endian: magic, identity of the snapshot (32 bytes), length
// and JSON of the header, number of records, offsets (u32, count+1), records,
// SHA-256 of all before.
type Index struct {
	id      Digest
	header  Header
	offsets []byte // 4 bytes each
	records []byte
	count   int
}

const indexMagic = "hashike-index-1\n"

// IndexBuilder collects a snapshot's artifacts in order.
type IndexBuilder struct {
	offsets []byte
	records []byte
}

// Add appends the next artifact, in path order.
func (b *IndexBuilder) Add(a Artifact) {
	b.offsets = binary.LittleEndian.AppendUint32(b.offsets, uint32(len(b.records)))
	r := b.records
	r = appendText(r, a.Path)
	r = append(r, a.Digest.Sum()...)
	r = binary.AppendVarint(r, a.Size)
	r = appendText(r, string(a.Class))
	r = appendText(r, a.Version)
	r = appendTime(r, a.Time)
	r = appendText(r, a.Group)
	r = appendText(r, a.Origin.URL)
	r = appendTime(r, a.Origin.Fetched)
	r = appendText(r, a.Origin.Peer)
	var inspected byte
	if a.Origin.Inspected {
		inspected = 1
	}
	b.records = append(r, inspected)
}

func appendText(r []byte, s string) []byte {
	return append(binary.AppendUvarint(r, uint64(len(s))), s...)
}

func appendTime(r []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(r, 0)
	}
	return binary.AppendVarint(r, t.Unix())
}

// Bytes finishes the index of the snapshot with identity id.
func (b *IndexBuilder) Bytes(id Digest, h Header) ([]byte, error) {
	if uint64(len(b.records)) > 1<<32-1 {
		return nil, errors.New("snapshot index over 4 GiB")
	}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(indexMagic)+72+len(head)+len(b.offsets)+len(b.records)+sha256.Size)
	out = append(out, indexMagic...)
	out = append(out, id.Sum()...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(head)))
	out = append(out, head...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b.offsets)/4))
	out = append(out, b.offsets...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b.records)))
	out = append(out, b.records...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// OpenIndex reads an index made by Bytes. The slice is kept, not copied.
func OpenIndex(b []byte) (*Index, error) {
	bad := func(what string) (*Index, error) { return nil, fmt.Errorf("snapshot index: %s: %w", what, ErrDamaged) }
	if len(b) < len(indexMagic)+32+4+4+4+sha256.Size || string(b[:len(indexMagic)]) != indexMagic {
		return bad("magic")
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return bad("checksum")
	}
	r := body[len(indexMagic):]
	x := &Index{id: DigestFromSum(r[:32])}
	r = r[32:]
	n := binary.LittleEndian.Uint32(r)
	if r = r[4:]; uint64(n)+4 > uint64(len(r)) {
		return bad("header")
	}
	if err := json.Unmarshal(r[:n], &x.header); err != nil {
		return bad("header")
	}
	r = r[n:]
	x.count = int(binary.LittleEndian.Uint32(r))
	if r = r[4:]; uint64(x.count)*4+4 > uint64(len(r)) {
		return bad("count")
	}
	x.offsets, x.records = r[:x.count*4+4], r[x.count*4+4:]
	return x, nil
}

// ID is the snapshot's identity; Header its header; Len its number of artifacts.
func (x *Index) ID() Digest     { return x.id }
func (x *Index) Header() Header { return x.header }
func (x *Index) Len() int       { return x.count }

func (x *Index) record(i int) []byte {
	from := binary.LittleEndian.Uint32(x.offsets[i*4:])
	return x.records[from:]
}

func (x *Index) path(i int) []byte {
	r := x.record(i)
	n, w := binary.Uvarint(r)
	return r[w : w+int(n)]
}

// find is the first record whose path is not before p.
func (x *Index) find(p string) int {
	lo, hi := 0, x.count
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if string(x.path(mid)) < p {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Lookup finds one artifact by path.
func (x *Index) Lookup(p string) (Artifact, bool) {
	i := x.find(p)
	if i == x.count || string(x.path(i)) != p {
		return Artifact{}, false
	}
	return x.at(i), true
}

// Under yields the artifacts whose path begins with prefix.
func (x *Index) Under(prefix string) iter.Seq[Artifact] {
	return func(yield func(Artifact) bool) {
		for i := x.find(prefix); i < x.count; i++ {
			if a := x.at(i); !strings.HasPrefix(a.Path, prefix) || !yield(a) {
				return
			}
		}
	}
}

// Artifacts yields all, by path.
func (x *Index) Artifacts() iter.Seq2[Artifact, error] {
	return func(yield func(Artifact, error) bool) {
		for i := range x.count {
			if !yield(x.at(i), nil) {
				return
			}
		}
	}
}

func (x *Index) at(i int) Artifact {
	r := cursor(x.record(i))
	var a Artifact
	a.Path = r.text()
	a.Digest = DigestFromSum(r[:32])
	r = r[32:]
	a.Size = r.varint()
	a.Class = Class(r.text())
	a.Version = r.text()
	a.Time = r.time()
	a.Group = r.text()
	a.Origin.URL = r.text()
	a.Origin.Fetched = r.time()
	a.Origin.Peer = r.text()
	a.Origin.Inspected = r[0] == 1
	return a
}

// cursor reads the fields of a record that a checksum already vouches for.
type cursor []byte

func (c *cursor) varint() int64 {
	v, n := binary.Varint(*c)
	*c = (*c)[n:]
	return v
}

func (c *cursor) text() string {
	n, w := binary.Uvarint(*c)
	s := string((*c)[w : w+int(n)])
	*c = (*c)[w+int(n):]
	return s
}

func (c *cursor) time() time.Time {
	if v := c.varint(); v != 0 {
		return time.Unix(v, 0).UTC()
	}
	return time.Time{}
}
