// Package packager makes bundles on the outside and opens them on the inside.
//
// A bundle is a signed statement of the desired state of every feed (the set)
// and the blobs the inside lacks, written to one or more volumes. Each volume
// is an OCI image layout with the signed set in front. docs/bundle.md gives
// every format to the byte; this package is its only reader and writer.
//
// What a medium says is believed in this order and no other: TUF metadata
// under the pinned root → set.json → the tables it names → containers and
// documents by digest → blobs by their own digest. Nothing is stored before
// the step above it holds, and the medium is only ever read.
package packager

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/hashike/hashike/internal/feed"
)

// Progress tells a caller where a long operation stands.
type Progress struct {
	Stage string // "write", "parity", "read-back", "check", "absorb", "repair"
	Name  string // the file at hand
	Done  int64  // bytes
	Total int64  // bytes; 0 is unknown
}

// sum is a raw SHA-256: half the memory of a feed.Digest in large sets.
type sum [sha256.Size]byte

func sumOf(d feed.Digest) sum { return sum(d.Sum()) }

// File names on a volume (docs/bundle.md §2).
const (
	nameSet      = "set.json"
	nameOrders   = "orders.jsonl"
	nameIndex    = "index.json"
	nameLayout   = "oci-layout"
	nameReadme   = "README.txt"
	dirTUF       = "tuf"
	dirTables    = "tables"
	dirBlobs     = "blobs/sha256"
	nameFeeds    = dirTables + "/feeds.jsonl.zst"
	nameBlobs    = dirTables + "/blobs.jsonl.zst"
	nameVolumes  = dirTables + "/volumes.jsonl"
	nameBlocks   = dirTables + "/blocks.bin"
	nameTime     = dirTUF + "/timestamp.json"
	layoutString = `{"imageLayoutVersion":"1.0.0"}`
)

func blobName(d feed.Digest) string { return dirBlobs + "/" + d.Hex() }

// Limits on what is read from a medium before anything is known of it, bytes.
const (
	maxSet      = 4096
	maxMetadata = 256 << 10
	maxRoots    = 1000
	maxIndex    = 4 << 20
	maxManifest = 1 << 20
	maxVolumes  = 4 << 20
	maxFeeds    = 16 << 20
	maxOrders   = 16 << 20
	maxBlobMap  = 1 << 30
	maxLine     = 256 << 10 // an order with a keyring in it
	maxRaw      = 8 << 30   // of an uncompressed table
)

// strict decodes one JSON value with known fields only, and refuses any
// spelling but our own: what is signed or compared has one form.
func strict(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	again, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if string(again) != string(b) {
		return fmt.Errorf("not in canonical form: %w", feed.ErrDamaged)
	}
	return nil
}
