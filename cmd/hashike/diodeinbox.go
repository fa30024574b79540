package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/hashike/hashike/internal/durable"
)

// receivedDir is a folder of the inbox that the diode's receiver made.
var receivedDir = regexp.MustCompile(`^diode-[0-9a-f]{32}$`)

// imported notes that a folder of the inbox was imported and removes those
// received folders that were imported before the newest few. What was not
// imported stays until a person removes it: nobody sends it again.
func (s *station) imported(dir string) error {
	name := filepath.Base(dir)
	if !receivedDir.MatchString(name) {
		return nil
	}
	if err := durable.Mkdir(s.diodeDir()); err != nil { // a directory by this name may come from elsewhere
		return err
	}
	at := filepath.Join(s.diodeDir(), "imported.json")
	var list []string // oldest first
	b, err := os.ReadFile(at)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		list = nil // it only says what may be removed
	}
	list = append(slices.DeleteFunc(list, func(n string) bool { return n == name || !receivedDir.MatchString(n) }), name)
	for len(list) > s.cfg.Diode.Keep {
		if err := durable.RemoveAll(filepath.Join(s.dir.Inbox(), list[0])); err != nil {
			return err
		}
		list = list[1:]
	}
	if b, err = json.Marshal(list); err != nil {
		return err
	}
	return durable.WriteFile(at, b)
}
