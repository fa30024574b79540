package feed

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"
)

// Class says what a file is for; floors and waits are set per class.
type Class string

const (
	Metadata   Class = "metadata"   // indexes and signatures that clients read first
	Definition Class = "definition" // antivirus patterns: hours matter
	Security   Class = "security"   // payload of security updates
	Feature    Class = "feature"    // any other payload
)

func (c Class) valid() bool {
	return c == Metadata || c == Definition || c == Security || c == Feature
}

// Origin is where an artifact's bytes came from: the provenance on its origin card.
type Origin struct {
	URL       string    `json:"url,omitempty"`       // as asked, without credentials; "dir:NAME/path" for a drop directory
	Fetched   time.Time `json:"fetched,omitzero"`    // when the bytes were whole on the outside
	Peer      string    `json:"peer,omitempty"`      // TLS server: "CN=…; sha256:<leaf certificate>"; empty for plain HTTP and directories
	Inspected bool      `json:"inspected,omitempty"` // an inspecting proxy's extra root signed the peer: "attested" is worth nothing
}

// Artifact is one file as a terminal asks for it.
type Artifact struct {
	Path    string    `json:"path"` // see ValidPath; unique in its snapshot
	Digest  Digest    `json:"digest"`
	Size    int64     `json:"size"` // bytes
	Class   Class     `json:"class"`
	Version string    `json:"version,omitempty"` // the vendor's, for people
	Time    time.Time `json:"time,omitzero"`     // the vendor's release time, UTC, whole seconds
	Group   string    `json:"group,omitempty"`   // published whole or not at all; empty is the whole snapshot
	Origin  Origin    `json:"origin,omitzero"`
}

// Header begins a snapshot.
type Header struct {
	Schema int       `json:"schema"` // SnapshotSchema
	Feed   string    `json:"feed"`
	Kind   string    `json:"kind"`
	Serial uint64    `json:"serial"` // max(previous+1, Unix seconds): a rebuilt outside goes on
	Taken  time.Time `json:"taken"`  // when the fetch finished, UTC; Verify judges expiry at this time
	State  string    `json:"state,omitempty"`
}

// SnapshotSchema is the newest snapshot format this program reads and the one it writes.
const SnapshotSchema = 1

// Limits on one artifact; a snapshot that breaks them is refused whole.
const (
	MaxPath = 1024
	maxText = 4096
)

// ValidPath reports whether p may be an artifact's path: slash-separated,
// relative, clean (io/fs.ValidPath), printable UTF-8 without a backslash or
// colon, at most MaxPath bytes.
func ValidPath(p string) bool {
	if p == "." || len(p) > MaxPath || !fs.ValidPath(p) || !utf8.ValidString(p) {
		return false
	}
	for _, r := range p {
		if r < 0x20 || r == 0x7f || r == '\\' || r == ':' {
			return false
		}
	}
	return true
}

// ValidName reports whether s may name a feed: [a-z0-9-]{1,40}, and no name
// that Windows reserves for a device.
func ValidName(s string) bool {
	if len(s) < 1 || len(s) > 40 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	switch s {
	case "con", "prn", "aux", "nul":
		return false
	}
	if len(s) == 4 && (s[:3] == "com" || s[:3] == "lpt") && s[3] >= '0' && s[3] <= '9' {
		return false
	}
	return true
}

func (a *Artifact) check() error {
	switch {
	case !ValidPath(a.Path):
		return fmt.Errorf("artifact path %.200q: %w", a.Path, ErrUpstream)
	case a.Size < 0:
		return fmt.Errorf("artifact %s: negative size: %w", a.Path, ErrUpstream)
	case !a.Class.valid():
		return fmt.Errorf("artifact %s: class %.40q: %w", a.Path, a.Class, ErrUpstream)
	case len(a.Version) > maxText || len(a.Group) > maxText || len(a.Origin.URL) > maxText || len(a.Origin.Peer) > maxText:
		return fmt.Errorf("artifact %s: a field over %d bytes: %w", a.Path, maxText, ErrUpstream)
	}
	if _, err := ParseDigest(string(a.Digest)); err != nil {
		return fmt.Errorf("artifact %s: %w: %w", a.Path, err, ErrUpstream)
	}
	return nil
}

// normal gives times one form, so that equal artifacts encode to equal bytes.
func (a Artifact) normal() Artifact {
	a.Time = wholeUTC(a.Time)
	a.Origin.Fetched = wholeUTC(a.Origin.Fetched)
	return a
}

func wholeUTC(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}

func (h *Header) check() error {
	switch {
	case h.Schema > SnapshotSchema:
		return fmt.Errorf("snapshot schema %d is newer than this program's %d", h.Schema, SnapshotSchema)
	case h.Schema < 1:
		return fmt.Errorf("snapshot schema %d: %w", h.Schema, ErrDamaged)
	case !ValidName(h.Feed):
		return fmt.Errorf("snapshot of feed %.80q: %w", h.Feed, ErrDamaged)
	case h.Kind == "" || len(h.Kind) > 40 || strings.ContainsAny(h.Kind, "/\\"):
		return fmt.Errorf("snapshot of kind %.80q: %w", h.Kind, ErrDamaged)
	case h.Serial == 0:
		return errors.Join(errors.New("snapshot without a serial"), ErrDamaged)
	case len(h.State) > maxText:
		return fmt.Errorf("snapshot state over %d bytes: %w", maxText, ErrUpstream)
	}
	return nil
}
