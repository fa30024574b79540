package packager

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// candidate is one set among the media at hand, and the media that hold it.
type candidate struct {
	raw     []byte
	version int64 // by its own word; -1 is none
	media   []*medium
}

// openMedia opens the directories and groups them by set, the newest by its
// own word first. An image that was only found, not named, need not be ours.
func (b *Bundle) openMedia(dirs []string) ([]candidate, error) {
	var all []candidate
	var first error
	for _, dir := range dirs {
		for _, at := range volumesIn([]string{dir}) {
			m, raw, err := b.openSet(at)
			if err != nil && (at == dir || !isImage(at)) {
				return nil, err
			}
			if err != nil {
				b.other, first = append(b.other, at), cmp.Or(first, err)
				continue
			}
			i := slices.IndexFunc(all, func(c candidate) bool { return bytes.Equal(c.raw, raw) })
			if i < 0 {
				i, all = len(all), append(all, candidate{raw: raw, version: versionOf(raw)})
			}
			all[i].media = append(all[i].media, m)
		}
	}
	if len(all) == 0 {
		return nil, first
	}
	slices.SortStableFunc(all, func(x, y candidate) int { return cmp.Compare(y.version, x.version) })
	return all, nil
}

func (b *Bundle) openSet(at string) (*medium, []byte, error) {
	m, err := openMedium(at)
	if err != nil {
		return nil, nil, err
	}
	raw, err := m.readSet()
	if err != nil {
		m.close()
		return nil, nil, err
	}
	b.media = append(b.media, m) // so that it is closed
	return m, raw, nil
}

func versionOf(raw []byte) int64 {
	s, err := parseSet(raw)
	if err != nil {
		return -1
	}
	return s.Version
}

// believeOne takes the newest set that can be believed: a file that nobody
// signed must not keep a genuine medium beside it from being read. If none can,
// the error is the newest's.
func (b *Bundle) believeOne(all []candidate, site int) error {
	every := b.media
	for i, c := range all {
		b.media, b.setRaw, b.id = c.media, c.raw, feed.DigestOf(c.raw)
		err := b.judgeCopies(site)
		if err == nil {
			b.leave(slices.Delete(slices.Clone(all), i, i+1))
			return nil
		}
		if b.refused = append(b.refused, err); !isRefusal(err) {
			b.media = every
			return err
		}
	}
	b.media = every
	return b.refused[0]
}

// leave closes the media of other sets and names them.
func (b *Bundle) leave(others []candidate) {
	for _, c := range others {
		for _, m := range c.media {
			b.other = append(b.other, m.dir)
			m.close()
		}
	}
}

// isRefusal tells a set that is not believed from trouble with this machine.
func isRefusal(err error) bool {
	return slices.ContainsFunc([]error{feed.ErrDamaged, feed.ErrUntrusted, feed.ErrRollback, feed.ErrHeld}, func(class error) bool { return errors.Is(err, class) })
}

func isImage(name string) bool { return strings.EqualFold(filepath.Ext(name), ".iso") }

// volumesIn replaces a directory that holds volumes, or images of them, by these.
func volumesIn(dirs []string) []string {
	var out []string
	for _, dir := range dirs {
		var found []string
		if _, err := os.Lstat(filepath.Join(dir, nameSet)); err != nil {
			ents, _ := os.ReadDir(dir)
			found = volumeNames(dir, ents)
		}
		if len(found) == 0 {
			found = []string{dir}
		}
		out = append(out, found...)
	}
	return out
}

func volumeNames(dir string, ents []fs.DirEntry) (out []string) {
	for _, e := range ents {
		if e.Type().IsRegular() && isImage(e.Name()) || e.IsDir() && inVolume.MatchString(e.Name()) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}
