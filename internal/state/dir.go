package state

import (
	"path/filepath"
	"strconv"
)

// Dir is a data directory: everything one side (and one site inside) keeps.
type Dir string

// The layout of a data directory (docs/design.md). Package cas owns store/ and snapshots/.
func (d Dir) join(e ...string) string { return filepath.Join(append([]string{string(d)}, e...)...) }

func (d Dir) Config() string     { return d.join("hashike.toml") }
func (d Dir) DB() string         { return d.join("state.db") }
func (d Dir) Keys() string       { return d.join("keys") }
func (d Dir) Trust() string      { return d.join("trust") } // accepted bundle metadata, orders
func (d Dir) Quarantine() string { return d.join("quarantine") }
func (d Dir) Partial() string    { return d.join("quarantine", "partial") } // unfinished downloads
func (d Dir) Inbox() string      { return d.join("inbox") }
func (d Dir) Outbox() string     { return d.join("outbox") }
func (d Dir) Logs() string       { return d.join("logs") }
func (d Dir) Terminals() string  { return d.join("terminals.db") }

// Evidence is where one side's evidence about one snapshot lies; by is "outside" or "inside".
func (d Dir) Evidence(feedName string, serial uint64, by string) string {
	return d.join("evidence", feedName, strconv.FormatUint(serial, 10)+"."+by+".jsonl.zst")
}

// Published is a ring's directory of generations of one feed.
func (d Dir) Published(ring, feedName string) string { return d.join("published", ring, feedName) }

// PublishedRoot is the parent of all rings.
func (d Dir) PublishedRoot() string { return d.join("published") }

// Derived holds what a kind built for a snapshot at publish.
func (d Dir) Derived(feedName string, serial uint64) string {
	return d.join("derived", feedName, strconv.FormatUint(serial, 10))
}
