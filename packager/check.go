package packager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hashike/hashike/internal/feed"
)

func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// structure is what surrounds the payload of one volume.
type structure struct {
	line   VolumeLine
	files  map[string]bool // every name that is the bundle's, containers apart
	layers []Object        // of all manifests, in order
	worn   bool            // index or a manifest is damaged: layers and files are not all
}

// checkStructure compares each volume's layout, index, manifests and configs
// with what was signed, and lists foreign files. An importer goes by the blob
// map, so damage here is named and harmless; read-back, which must find it, is
// strict.
func (b *Bundle) checkStructure(ctx context.Context) error {
	for _, m := range b.media {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := b.readStructure(m)
		if err != nil {
			return err
		}
		b.volumeOf[m] = s.line.Volume
		b.present[s.line.Volume] = append(b.present[s.line.Volume], m)
		if err := b.checkContainers(m, s); err != nil {
			return err
		}
	}
	for _, media := range b.present {
		slices.SortStableFunc(media, func(x, y *medium) int { return b.wear(x) - b.wear(y) })
	}
	return nil
}

// wear is how many files of m were found damaged.
func (b *Bundle) wear(m *medium) (n int) {
	for _, w := range b.worn {
		if w.m == m {
			n++
		}
	}
	return n
}

// spoilt notes a damaged file of m that nothing depends on; a strict reader
// refuses it.
func (b *Bundle) spoilt(m *medium, name string, err error) error {
	if b.strict || errors.Is(err, errTooLong) {
		return err
	}
	if !slices.ContainsFunc(b.worn, func(w worn) bool { return w.m == m && w.name == name }) {
		b.worn = append(b.worn, worn{m, name, err})
	}
	return nil
}

// worn is a damaged file beside the payload, made good by another copy or by
// what else is signed.
type worn struct {
	m    *medium
	name string
	err  error
}

// identify finds which volume m is: by its index, which a bundle must have, or
// if that is damaged by its README or by a container of the blob map.
func (b *Bundle) identify(m *medium) (line VolumeLine, index []byte, err error) {
	index, err = m.read(nameIndex, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return line, nil, err
	}
	if err == nil {
		if i := slices.IndexFunc(b.volumes, func(l VolumeLine) bool { return l.Index == objectOf(index) }); i >= 0 {
			return b.volumes[i], index, nil
		}
		err = unreadable(nameIndex, errors.New("not the index of any volume of this bundle"))
	}
	if err := b.spoilt(m, nameIndex, err); err != nil {
		return line, nil, err
	}
	if raw, rerr := m.read(nameReadme, maxReadme); rerr == nil {
		if i := slices.IndexFunc(b.volumes, func(l VolumeLine) bool { return l.Readme == objectOf(raw) }); i >= 0 {
			return b.volumes[i], nil, nil
		}
	}
	v, ferr := b.volumeByContainer(m)
	if ferr != nil || v == 0 {
		return line, nil, errors.Join(err, ferr)
	}
	return b.volumes[v-1], nil, nil
}

// volumeByContainer is the volume of the first container that m has; 0 is none.
func (b *Bundle) volumeByContainer(m *medium) (int, error) {
	f, err := b.table(nameBlobs, b.set.Blobs)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for c, err := range containers(f, b.mapLines(), len(b.volumes)) {
		if err != nil {
			return 0, unreadable(nameBlobs, err)
		}
		if at, n, err := m.open(blobName(c.Digest)); err == nil {
			at.Close()
			if n == c.Size {
				return c.Volume, nil
			}
		}
	}
	return 0, nil
}

// readStructure finds which volume m is and reads what surrounds its payload.
func (b *Bundle) readStructure(m *medium) (*structure, error) {
	line, raw, err := b.identify(m)
	if err != nil {
		return nil, err
	}
	s := &structure{line: line, files: map[string]bool{}, worn: raw == nil}
	for name, o := range map[string]Object{nameLayout: s.line.Layout, nameReadme: s.line.Readme} {
		if _, err := m.readObject(name, o, maxManifest); err != nil {
			if err := b.spoilt(m, name, err); err != nil {
				return nil, err
			}
		}
	}
	for _, n := range []string{nameSet, nameOrders, nameIndex, nameLayout, nameReadme, nameFeeds, nameBlobs, nameVolumes, nameBlocks,
		nameTime, snapshotName(b.judged.version), targetsName(b.judged.version), dirTUF, dirTables, "blobs", dirBlobs} {
		s.files[n] = true
	}
	for v := int64(1); v <= int64(len(b.judged.roots)); v++ {
		s.files[rootName(v)] = true
	}
	if s.worn {
		return s, nil
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, unreadable(nameIndex, err)
	}
	for _, d := range index.Manifests {
		if err := b.readManifest(m, d, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func object(d v1.Descriptor) Object {
	return Object{feed.Digest(d.Digest.String()), d.Size}
}

// readManifest reads one manifest and its config, both by digest.
func (b *Bundle) readManifest(m *medium, d v1.Descriptor, s *structure) error {
	o := object(d)
	if _, err := feed.ParseDigest(string(o.Digest)); err != nil {
		return unreadable(nameIndex, err)
	}
	s.files[blobName(o.Digest)] = true
	raw, err := m.readObject(blobName(o.Digest), o, maxManifest)
	if err != nil {
		s.worn = true
		return b.spoilt(m, blobName(o.Digest), err)
	}
	var man v1.Manifest
	if err := json.Unmarshal(raw, &man); err != nil {
		return unreadable(blobName(o.Digest), err)
	}
	c := object(man.Config)
	if _, err := feed.ParseDigest(string(c.Digest)); err != nil || len(man.Layers) > maxLayers {
		return unreadable(blobName(o.Digest), errors.New("not a manifest of ours"))
	}
	s.files[blobName(c.Digest)] = true
	if _, err := m.readObject(blobName(c.Digest), c, maxManifest); err != nil {
		if err := b.spoilt(m, blobName(c.Digest), err); err != nil {
			return err
		}
	}
	for _, l := range man.Layers {
		s.layers = append(s.layers, object(l))
	}
	return nil
}

// checkContainers holds the manifests' layers against the blob map, line by
// line, notes what is missing or has another size, and names foreign files.
func (b *Bundle) checkContainers(m *medium, s *structure) error {
	f, err := b.table(nameBlobs, b.set.Blobs)
	if err != nil {
		return err
	}
	defer f.Close()
	var n, size int64
	mine := map[sum]bool{}
	for c, err := range containers(f, b.mapLines(), len(b.volumes)) {
		if err != nil {
			return unreadable(nameBlobs, err)
		}
		if c.Volume != s.line.Volume {
			continue
		}
		if !s.worn && (n >= int64(len(s.layers)) || s.layers[n] != (Object{c.Digest, c.Size})) {
			return unreadable(nameIndex, fmt.Errorf("layer %d is not the blob map's", n+1))
		}
		n, size = n+1, size+c.Size
		mine[sumOf(c.Digest)] = true
	}
	if !s.worn && n != int64(len(s.layers)) || n != s.line.Containers || size != s.line.Bytes {
		return unreadable(nameVolumes, fmt.Errorf("%d containers of %d bytes, signed were %d of %d", n, size, s.line.Containers, s.line.Bytes))
	}
	return b.findForeign(m, s, mine)
}

// mapLines is the number of lines of the blob map.
func (b *Bundle) mapLines() int64 { return b.set.Blobs.Lines }

// findForeign names files that are not the bundle's. They are never opened.
// Where the structure is damaged, a manifest cannot be told from a foreign blob.
func (b *Bundle) findForeign(m *medium, s *structure, blobs map[sum]bool) error {
	return m.list(func(name string, d fs.DirEntry) error {
		if s.files[name] || name == approvalName(b.set.Number) {
			return nil
		}
		if h, ok := strings.CutPrefix(name, dirBlobs+"/"); ok {
			if s.worn {
				return nil
			}
			if g, err := feed.ParseDigest("sha256:" + h); err == nil && blobs[sumOf(g)] {
				return nil
			}
		}
		b.nForeign++
		if len(b.foreign) < maxForeign {
			b.foreign = append(b.foreign, name)
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// inVolume is the directory of one volume of several.
var inVolume = regexp.MustCompile(`^volume-[1-9][0-9]{0,2}(/|$)`)

// ours matches every name that a bundle of any number may have on a medium.
var ours = regexp.MustCompile(`^(|` + strings.Join([]string{
	`set\.json`, `approval-[1-9][0-9]{0,4}\.json`, `orders\.jsonl`, `index\.json`, `oci-layout`, `README\.txt`, `hashike-return\.txt`,
	`tuf`, `tuf/[0-9]{1,20}\.(root|snapshot|targets)\.json`, `tuf/timestamp\.json`,
	`tables`, `tables/(feeds|blobs)\.jsonl\.zst`, `tables/volumes\.jsonl`, `tables/blocks\.bin`,
	`blobs`, `blobs/sha256`, `blobs/sha256/[0-9a-f]{64}`,
	`(|tuf/|tables/|blobs/sha256/)\.tmp-[0-9]+`,
}, "|") + `)$`)
