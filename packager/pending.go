package packager

import (
	"errors"
	"fmt"
	"io"
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

// Pending is a bundle that came without its approval. Its blobs are in the
// store, under their own digests; of everything that says what they are, a copy
// lies in trust/pending-V as on the medium, to be opened and judged again from
// the start when the approval comes. Nothing of it is in force.
type Pending struct {
	Dir     string      `json:"dir"` // below trust/
	Number  uint64      `json:"number"`
	Version int64       `json:"version"`
	Set     feed.Digest `json:"set"`
	Created time.Time   `json:"created"`
	Since   time.Time   `json:"since"`
}

const pendingPrefix = "pending-"

// PendingBundle returns the bundle that waits for its approval; false if none does.
func PendingBundle(tx state.Tx) (Pending, bool, error) {
	var p Pending
	ok, err := tx.Get(bucketBundle, "pending", &p)
	return p, ok, err
}

// waits is the fault of a bundle that nobody approved yet.
func (b *Bundle) waits() error {
	return feed.NewFault(fmt.Errorf("bundle %d is not approved: %w", b.set.Number, feed.ErrHeld), "H-661", "number", strconv.FormatUint(b.set.Number, 10))
}

// keepPending copies what is not payload and remembers the bundle; a newer one
// that waits already stays. The error says that it waits.
func (b *Bundle) keepPending(db *state.DB, who string) error {
	var was Pending
	if err := db.View(func(tx state.Tx) (err error) { was, _, err = PendingBundle(tx); return err }); err != nil {
		return err
	}
	if was.Version > b.set.Version {
		return b.waits()
	}
	p := Pending{Dir: pendingPrefix + strconv.FormatInt(b.set.Version, 10), Number: b.set.Number, Version: b.set.Version, Set: b.id, Created: b.set.Created, Since: b.now}
	for v, media := range b.present {
		if err := b.copyVolume(v, media, filepath.Join(b.opt.Data.Trust(), p.Dir)); err != nil {
			return err
		}
	}
	err := db.Update(func(tx state.Tx) error {
		if err := tx.Put(bucketBundle, "pending", p); err != nil {
			return err
		}
		return tx.Audit(state.Record{Time: b.now, Floor: b.floor, Who: who, What: "hold bundle", Result: "not approved", Detail: map[string]string{
			"bundle": strconv.FormatUint(p.Number, 10), "set": string(p.Set)}})
	})
	if err != nil {
		return err
	}
	return errors.Join(b.waits(), dropPending(b.opt.Data, p.Dir))
}

// copyVolume copies a volume's signed files and its documents, each of these
// from a medium that gives it as it was signed, if one does.
func (b *Bundle) copyVolume(v int, media []*medium, to string) error {
	final := filepath.Join(to, "volume-"+strconv.Itoa(v))
	temp := filepath.Join(to, durable.TempPrefix+strconv.Itoa(v))
	if err := durable.RemoveAll(temp); err != nil {
		return err
	}
	s, err := b.readStructure(media[0])
	if err != nil {
		return err
	}
	f, err := b.table(nameBlobs, b.set.Blobs)
	if err != nil {
		return err
	}
	defer f.Close()
	for c, err := range containers(f, b.mapLines(), len(b.volumes)) {
		if err != nil {
			return unreadable(nameBlobs, err)
		}
		if c.Volume == v && c.Type == typeDocument {
			if err := copySmall(whichHas(media, c), blobName(c.Digest), temp); err != nil {
				return err
			}
		}
	}
	for name := range s.files {
		if err := copySmall(media[0], name, temp); err != nil {
			return err
		}
	}
	if err := durable.RemoveAll(final); err != nil {
		return err
	}
	if err := durable.Rename(temp, final); err != nil {
		return err
	}
	return durable.SyncDir(to)
}

// whichHas is the first medium that gives a container as it was signed, else the first.
func whichHas(media []*medium, c *Container) *medium {
	i := slices.IndexFunc(media, func(m *medium) bool {
		r, err := openContainer(m, c)
		if err == nil {
			defer r.close()
			err = r.end()
		}
		return err == nil
	})
	return media[max(i, 0)]
}

// copySmall copies one regular file; what is not there (a damaged document) is
// left out: it is compared with its digest when it is used.
func copySmall(m *medium, name, to string) error {
	path := filepath.Join(to, filepath.FromSlash(name))
	if err := durable.Mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	f, _, err := m.open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	return durable.WriteFrom(path, func(w io.Writer) error { _, err := io.Copy(w, f); return err })
}

// pendingMedia are the directories of the bundle that waits, if it is the one
// that an approval in one of the directories named approves.
func pendingMedia(db *state.DB, dirs []string) ([]string, error) {
	var p Pending
	var ok bool
	if err := db.View(func(tx state.Tx) (err error) { p, ok, err = PendingBundle(tx); return err }); err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		of, _, err := approvalsIn(dir, p.Number)
		if err != nil {
			return nil, err
		}
		if ok && len(of) > 0 {
			return volumesIn([]string{filepath.Join(string(db.Dir().Trust()), p.Dir)}), nil
		}
	}
	return nil, feed.NewFault(fmt.Errorf("no bundle here waits for this approval: %w", feed.ErrConfig), "H-662", "dir", strings.Join(dirs, ", "))
}

// dropPending removes the copies of bundles that wait no more.
func dropPending(data state.Dir, keep string) error {
	ents, err := os.ReadDir(data.Trust())
	if err != nil {
		return err
	}
	for _, e := range ents {
		if e.IsDir() && strings.HasPrefix(e.Name(), pendingPrefix) && e.Name() != keep {
			err = errors.Join(err, durable.RemoveAll(filepath.Join(data.Trust(), e.Name())))
		}
	}
	return err
}
