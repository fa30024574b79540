package packager

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// found is one file or directory of an older bundle.
type found struct {
	name string
	size int64
}

// oursIn lists an older bundle of ours in dir, whole or in part, in one volume
// or several. A file that is not ours is an error. What does not exist is empty.
func oursIn(dir string) (files []found, dirs []string, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	err = list(os.DirFS(dir), func(name string, d fs.DirEntry) error {
		if !ours.MatchString(inVolume.ReplaceAllString(name, "")) || d.Type()&^fs.ModeDir != 0 {
			return feed.NewFault(fmt.Errorf("%s holds %s, which is not part of a bundle: %w", dir, name, feed.ErrConfig), "H-806", "medium", dir, "detail", name)
		}
		if d.IsDir() {
			dirs = append(dirs, name)
			return nil
		}
		st, err := d.Info()
		if err == nil {
			files = append(files, found{name, st.Size()})
		}
		return err
	})
	if err == nil {
		err = foreignLayout(dir, files)
	}
	if err == nil {
		err = unmarked(dir, files)
	}
	return files, dirs, err
}

// clearMedia removes the older bundles that the media hold; each is in the log.
func (o *PackOptions) clearMedia() (out []Erased, err error) {
	for _, dir := range o.media() {
		on, err := LookAt(dir)
		if err != nil {
			return out, err
		}
		n, err := clearMedium(dir)
		if err != nil {
			return out, err
		}
		if n == 0 {
			continue
		}
		out = append(out, Erased{dir, n, on})
		err = o.DB.Update(func(tx state.Tx) error {
			return tx.Audit(state.Record{Time: o.Now, Who: o.Who, What: "wipe medium", Result: "ok", Detail: map[string]string{
				"medium": on.Medium, "bundle": strconv.FormatUint(on.Bundle, 10), "files": strconv.Itoa(n), "at": dir,
			}})
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// clearMedium makes dir empty if all it holds is an older bundle of ours (or
// part of one); a file that is not ours is an error, and nothing is removed.
func clearMedium(dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	files, dirs, err := oursIn(dir)
	if err != nil {
		return 0, err
	}
	// What makes it a bundle goes first: half an old one is none. What marks it
	// as ours goes last: the rest of a killed run is still ours.
	slices.SortStableFunc(files, func(a, b found) int { return cmp.Compare(rank(a.name), rank(b.name)) })
	slices.Reverse(dirs)
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	for _, name := range slices.Concat(names, dirs) {
		if err := durable.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return 0, err
		}
	}
	return len(files), durable.SyncDir(dir)
}

func rank(name string) int {
	return map[string]int{nameIndex: -2, nameSet: -1, nameReadme: 1}[path.Base(name)]
}
