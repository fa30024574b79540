package packager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// Holder is one line of the custody book (鍵管理簿): who keeps which key. It
// holds nothing secret and never travels.
type Holder struct {
	Slot int       `json:"slot,omitempty"` // of a root key, 1 to 3; 0 is an approver's key
	Name string    `json:"name"`           // the office, not the person: 課長
	Key  string    `json:"key"`            // TUF key id
	Made time.Time `json:"made"`
	// Ended is a key that the newest root does not name any more.
	Ended bool `json:"-"`
}

type custody struct {
	Schema int      `json:"schema"`
	Keys   []Holder `json:"keys"`
}

func custodyPath(data state.Dir) string { return filepath.Join(data.Keys(), "custody.json") }

func readCustody(data state.Dir) (custody, error) {
	c := custody{Schema: 1}
	b, err := os.ReadFile(custodyPath(data))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil && c.Schema != 1 {
		err = fmt.Errorf("schema %d is newer than this program's 1", c.Schema)
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", custodyPath(data), err)
	}
	return c, nil
}

// keep notes holders before the root that names their keys is written.
func (c custody) keep(data state.Dir, add ...Holder) error {
	c.Keys = append(c.Keys, add...)
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(custodyPath(data), b)
}

// Custody lists the holders of root and approver keys, those whose key has
// ended too, oldest first, and the version and expiry of the newest root.
func Custody(data state.Dir) (holders []Holder, version int64, ends time.Time, err error) {
	root, err := newestRoot(data)
	if err != nil {
		return nil, 0, ends, err
	}
	c, err := readCustody(data)
	if err != nil {
		return nil, 0, ends, err
	}
	for i, h := range c.Keys {
		role := metadata.ROOT
		if h.Slot == 0 {
			role = metadata.TARGETS
		}
		c.Keys[i].Ended = !slices.Contains(root.Signed.Roles[role].KeyIDs, h.Key)
	}
	return c.Keys, root.Signed.Version, root.Signed.Expires, nil
}

// CheckHolders refuses fewer or more than three holders, one holder with two
// keys, and the operator.
func CheckHolders(names []string, operator string) error {
	seen := map[string]bool{strings.TrimSpace(operator): true, "担当者": true, "operator": true, "": true}
	if len(names) != rootKeys {
		return fmt.Errorf("%d holders for %d root keys: %w", len(names), rootKeys, feed.ErrConfig)
	}
	for _, n := range names {
		n = strings.TrimSpace(n)
		if seen[n] {
			return fmt.Errorf("%q may not hold a root key (the operator, or named twice): %w", n, feed.ErrConfig)
		}
		seen[n] = true
	}
	return nil
}
