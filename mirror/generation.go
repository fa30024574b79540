package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// GenerationSchema is the newest generation format this program reads and the one it writes.
const GenerationSchema = 1

// Limits on a generation document.
const (
	maxGeneration = 16 << 20
	maxOlder      = 64
)

// Generation says what one ring sees of one feed from now on. Its file never changes.
type Generation struct {
	Schema    int               `json:"schema"`
	Number    uint64            `json:"number"` // within ring and feed
	Feed      string            `json:"feed"`
	Kind      string            `json:"kind"`
	Ring      string            `json:"ring"`
	Serial    uint64            `json:"serial"`
	ID        feed.Digest       `json:"id"` // the snapshot's identity
	Taken     time.Time         `json:"taken"`
	Accepted  time.Time         `json:"accepted"`
	Bundle    uint64            `json:"bundle,omitempty"`
	Weakest   feed.Strength     `json:"weakest"`
	Published time.Time         `json:"published"`
	Stopped   bool              `json:"stopped,omitempty"`   // withdrawn: nothing of this feed is served
	Withheld  map[string]string `json:"withheld,omitempty"`  // artifact path → reason
	Withdrawn []Withdrawal      `json:"withdrawn,omitempty"` // files stopped by a person or an order
	Older     []uint64          `json:"older,omitempty"`     // serials still reachable, newest first
	Decisions []feed.Decision   `json:"decisions,omitempty"`
	Policy    string            `json:"policy,omitempty"`  // fingerprint of the rules that were applied
	Derived   bool              `json:"derived,omitempty"` // derived/<feed>/<serial>/ was built for it
	Reason    string            `json:"reason,omitempty"`
	By        string            `json:"by"` // who: an account, or "rule"
}

// Withdrawal is one file that is no longer served, whatever snapshot names it.
type Withdrawal struct {
	Digest feed.Digest `json:"digest"`
	Path   string      `json:"path"`
	Reason string      `json:"reason"`
	By     string      `json:"by"`
	Time   time.Time   `json:"time"`
}

func generationPath(data state.Dir, ring, feedName string, number uint64) string {
	return filepath.Join(data.Published(ring, feedName), strconv.FormatUint(number, 10)+".json")
}

// write puts the generation's file in place. A file that is already there is kept.
func (g Generation) write(data state.Dir) error {
	dir := data.Published(g.Ring, g.Feed)
	if err := durable.Mkdir(dir); err != nil {
		return err
	}
	path := generationPath(data, g.Ring, g.Feed, g.Number)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	if len(b) > maxGeneration {
		return fmt.Errorf("generation %s %s %d: %d bytes", g.Ring, g.Feed, g.Number, len(b))
	}
	return durable.WriteFile(path, sealed(b))
}

// sealed is a document with its digest in a second line: a flipped bit must
// not turn a withheld path into another one.
func sealed(b []byte) []byte {
	return append(append(append(b, '\n'), feed.DigestOf(b)...), '\n')
}

// unsealed returns the document of a generation file. Files of before the
// digest was written have one line.
func unsealed(b []byte) ([]byte, error) {
	doc, seal, _ := bytes.Cut(b, []byte("\n"))
	if len(seal) > 0 && string(seal) != string(feed.DigestOf(doc))+"\n" {
		return nil, fmt.Errorf("has other bytes: %w", feed.ErrDamaged)
	}
	return doc, nil
}

// ReadGeneration reads one generation; ErrDamaged if it is not what its name says.
func ReadGeneration(data state.Dir, ring, feedName string, number uint64) (Generation, error) {
	path := generationPath(data, ring, feedName, number)
	f, err := os.Open(path)
	if err != nil {
		return Generation{}, err
	}
	defer f.Close()
	b, err := readCapped(f, maxGeneration)
	if err != nil {
		return Generation{}, fmt.Errorf("generation %s: %w", path, err)
	}
	if b, err = unsealed(b); err != nil {
		return Generation{}, fmt.Errorf("generation %s: %w", path, err)
	}
	g, err := parseGeneration(b)
	if err == nil && (g.Ring != ring || g.Feed != feedName || g.Number != number) {
		err = fmt.Errorf("is of %s %s %d: %w", g.Ring, g.Feed, g.Number, feed.ErrDamaged)
	}
	if err != nil {
		return Generation{}, fmt.Errorf("generation %s: %w", path, err)
	}
	return g, nil
}

func parseGeneration(b []byte) (Generation, error) {
	var v struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return Generation{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	if v.Schema > GenerationSchema {
		return Generation{}, fmt.Errorf("schema %d is newer than this program's %d", v.Schema, GenerationSchema)
	}
	var g Generation
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return Generation{}, fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	switch {
	case g.Schema < 1, g.Number == 0, !feed.ValidName(g.Feed), !slices.Contains(feed.Rings(), g.Ring),
		len(g.Older) > maxOlder, g.Serial == 0 && !g.Stopped:
		return Generation{}, fmt.Errorf("a field is out of range: %w", feed.ErrDamaged)
	}
	return g, nil
}

// generationNumbers lists the numbers of a ring's generation files, newest first, readable or not.
func generationNumbers(data state.Dir, ring, feedName string) ([]uint64, error) {
	ents, err := os.ReadDir(data.Published(ring, feedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, e := range ents {
		if base, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil && n > 0 {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out, nil
}

// Generations reads a ring's generations of a feed, newest first. Unreadable
// files are left out; their names are returned beside.
func Generations(data state.Dir, ring, feedName string) (gens []Generation, unreadable []error, err error) {
	numbers, err := generationNumbers(data, ring, feedName)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range numbers {
		g, err := ReadGeneration(data, ring, feedName, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gc took it meanwhile
		}
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		gens = append(gens, g)
	}
	return gens, unreadable, nil
}

// serials are all snapshots that a generation lets terminals reach.
func (g Generation) serials() []uint64 {
	if g.Serial == 0 {
		return g.Older
	}
	return append([]uint64{g.Serial}, g.Older...)
}

// accepted is the candidate that the generation published.
func (g Generation) accepted() Accepted {
	return Accepted{
		Kind: g.Kind, Serial: g.Serial, ID: g.ID, Taken: g.Taken, Accepted: g.Accepted,
		Withheld: g.Withheld, Weakest: g.Weakest, Bundle: g.Bundle,
	}
}
