package packager

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/hashike/hashike/internal/fec"
	"github.com/hashike/hashike/internal/feed"
)

// SetSchema is the newest bundle format this program reads and the one it writes.
const SetSchema = 1

// Limits of a set's numbers.
const (
	MaxNumber = 99_999 // five digits on receipts and labels
	maxSites  = 64
	maxSite   = 9999
)

// Ref names one table by its bytes on the medium.
type Ref struct {
	Digest feed.Digest `json:"digest"`
	Size   int64       `json:"size"`
	Lines  int64       `json:"lines"` // records: JSON lines, or 32-byte entries of the block table
}

// BaseRef is the bundle whose state the inside is known to hold.
type BaseRef struct {
	Number uint64      `json:"number"`
	Set    feed.Digest `json:"set"`
}

// Set is the signed descriptor of a bundle: the TUF target "set.json". Its
// identity is the SHA-256 of its bytes, at most 4,096 of them.
type Set struct {
	Schema  int       `json:"schema"` // SetSchema
	Format  string    `json:"format"` // "hashike-set"
	Sites   []int     `json:"sites"`  // rising, 1–9999
	Number  uint64    `json:"number"` // counter of this outside, shown to people: 第412便
	Version int64     `json:"version"`
	Root    int64     `json:"root"` // version of the newest root on the medium
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Base    *BaseRef  `json:"base,omitempty"` // absent: complete
	Bytes   int64     `json:"bytes"`          // length of the stream
	Feeds   Ref       `json:"feeds"`
	Blobs   Ref       `json:"blobs"`
	Volumes Ref       `json:"volumes"`
	Blocks  Ref       `json:"blocks"`
	Orders  Ref       `json:"orders"`
	Parity  *Parity   `json:"parity,omitempty"`
	Repairs *BaseRef  `json:"repairs,omitempty"` // a repair bundle: whose need list it answers
	Urgent  bool      `json:"urgent,omitempty"`  // may be approved by telephone first
	// Only names the feeds whose blobs are carried, rising; the others are as
	// the bundle before stated them and come with it. Empty is all feeds.
	Only []string `json:"only,omitempty"`
}

// Partial reports whether some feeds come with other bundles.
func (s *Set) Partial() bool { return len(s.Only) > 0 }

// Carries reports whether a feed's blobs are this bundle's to bring, and so
// whether approving it approves them.
func (s *Set) Carries(feedName string) bool { return !s.Partial() || slices.Contains(s.Only, feedName) }

// Parity is the geometry of the set's parity (package fec).
type Parity struct {
	Groups int64 `json:"groups"`
	Data   int64 `json:"data"`   // blocks of the fullest group
	Parity int64 `json:"parity"` // blocks of every group
}

// geometry of the set's stream; without groups if it has no parity.
func (s *Set) geometry() fec.Geometry {
	g := fec.Geometry{Blocks: blocksOf(s.Bytes)}
	if s.Parity != nil {
		g.Groups, g.Data, g.Parity = s.Parity.Groups, s.Parity.Data, s.Parity.Parity
	}
	return g
}

const setFormat = "hashike-set"

// encode returns the set's bytes and identity.
func (s Set) encode() ([]byte, feed.Digest, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, "", err
	}
	if len(b) > maxSet {
		return nil, "", fmt.Errorf("set of %d bytes, at most %d fit", len(b), maxSet)
	}
	return b, feed.DigestOf(b), nil
}

// parseSet reads a set; every field is checked for itself.
func parseSet(b []byte) (Set, error) {
	var s Set
	if len(b) > maxSet {
		return s, fmt.Errorf("%s over %d bytes: %w", nameSet, maxSet, feed.ErrDamaged)
	}
	var head struct {
		Schema int    `json:"schema"`
		Format string `json:"format"`
	}
	if json.Unmarshal(b, &head) == nil && head.Format == setFormat && head.Schema > SetSchema {
		return s, fmt.Errorf("this bundle was made by a newer program (format %d, this one reads %d): install the newer program", head.Schema, SetSchema)
	}
	if err := strict(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", nameSet, err)
	}
	if err := s.check(); err != nil {
		return s, fmt.Errorf("%s: %w: %w", nameSet, err, feed.ErrDamaged)
	}
	return s, nil
}

func (s *Set) check() error {
	switch {
	case s.Schema != SetSchema || s.Format != setFormat:
		return fmt.Errorf("schema %d of %.40q", s.Schema, s.Format)
	case len(s.Sites) == 0 || len(s.Sites) > maxSites || s.Sites[0] < 1 || s.Sites[len(s.Sites)-1] > maxSite ||
		!slices.IsSorted(s.Sites) || len(slices.Compact(slices.Clone(s.Sites))) != len(s.Sites):
		return fmt.Errorf("sites %v", s.Sites)
	case s.Number == 0 || s.Number > MaxNumber:
		return fmt.Errorf("number %d", s.Number)
	case s.Version < 1 || s.Root < 1 || s.Root > maxRoots:
		return fmt.Errorf("version %d under root %d", s.Version, s.Root)
	case s.Created.IsZero() || !s.Expires.After(s.Created):
		return fmt.Errorf("created %s, expires %s", s.Created, s.Expires)
	case s.Base != nil && (s.Base.Number == 0 || s.Base.Number >= s.Number || s.Base.Set == ""):
		return fmt.Errorf("base %d of number %d", s.Base.Number, s.Number)
	case s.Repairs != nil && (s.Repairs.Number == 0 || s.Repairs.Number >= s.Number || s.Repairs.Set == ""):
		return fmt.Errorf("repair of %d in number %d", s.Repairs.Number, s.Number)
	case s.Bytes < 0 || s.Bytes > maxRaw*1024 || s.geometry().Check() != nil || s.Parity != nil && s.Parity.Groups == 0:
		return fmt.Errorf("stream of %d bytes with parity %v", s.Bytes, s.Parity)
	case s.Blocks.Lines != blocksOf(s.Bytes)+s.geometry().ParityBlocks() || s.Blocks.Size != s.Blocks.Lines*blockSum:
		return fmt.Errorf("stream of %d bytes with %d blocks", s.Bytes, s.Blocks.Lines)
	}
	for _, t := range []struct {
		r     Ref
		bytes int64
		lines int64
	}{{s.Feeds, maxFeeds, 10_000}, {s.Blobs, maxBlobMap, 1 << 31}, {s.Volumes, maxVolumes, 10_000},
		{s.Blocks, maxBlobMap, 1 << 31}, {s.Orders, maxOrders, 100_000}} {
		if t.r.Digest == "" || t.r.Size < 0 || t.r.Size > t.bytes || t.r.Lines < 0 || t.r.Lines > t.lines {
			return fmt.Errorf("table of %d bytes, %d lines", t.r.Size, t.r.Lines)
		}
	}
	return nil
}
