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
}

// checkStructure compares each volume's layout, index, manifests and configs
// with what was signed, and lists foreign files. Damage here refuses the
// volume before anything is stored; damage of the payload does not.
func (b *Bundle) checkStructure(ctx context.Context) error {
	for _, m := range b.media {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := b.readStructure(m)
		if err != nil {
			return err
		}
		if b.present[s.line.Volume] == nil { // the same volume twice is harmless
			b.present[s.line.Volume] = m
		}
		if err := b.checkContainers(m, s); err != nil {
			return err
		}
	}
	return nil
}

// readStructure finds which volume m is, by its index, and reads it.
func (b *Bundle) readStructure(m *medium) (*structure, error) {
	raw, err := m.read(nameIndex, maxIndex)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(b.volumes, func(l VolumeLine) bool { return l.Index == objectOf(raw) })
	if i < 0 {
		return nil, unreadable(nameIndex, errors.New("not the index of any volume of this bundle"))
	}
	s := &structure{line: b.volumes[i], files: map[string]bool{}}
	for name, o := range map[string]Object{nameLayout: s.line.Layout, nameReadme: s.line.Readme} {
		if _, err := m.readObject(name, o, maxManifest); err != nil {
			return nil, err
		}
	}
	for _, n := range []string{nameSet, nameOrders, nameIndex, nameLayout, nameReadme, nameFeeds, nameBlobs, nameVolumes, nameBlocks,
		nameTime, snapshotName(b.judged.version), targetsName(b.judged.version), dirTUF, dirTables, "blobs", dirBlobs} {
		s.files[n] = true
	}
	for v := int64(1); v <= int64(len(b.judged.roots)); v++ {
		if _, err := m.read(rootName(v), maxMetadata); err != nil && v <= b.set.Root {
			return nil, err
		}
		s.files[rootName(v)] = true
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, unreadable(nameIndex, err)
	}
	for _, d := range index.Manifests {
		if err := s.readManifest(m, d); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func object(d v1.Descriptor) Object {
	return Object{feed.Digest(d.Digest.String()), d.Size}
}

// readManifest reads one manifest and its config, both by digest.
func (s *structure) readManifest(m *medium, d v1.Descriptor) error {
	o := object(d)
	if _, err := feed.ParseDigest(string(o.Digest)); err != nil {
		return unreadable(nameIndex, err)
	}
	raw, err := m.readObject(blobName(o.Digest), o, maxManifest)
	if err != nil {
		return err
	}
	var man v1.Manifest
	if err := json.Unmarshal(raw, &man); err != nil {
		return unreadable(blobName(o.Digest), err)
	}
	c := object(man.Config)
	if _, err := feed.ParseDigest(string(c.Digest)); err != nil || len(man.Layers) > maxLayers {
		return unreadable(blobName(o.Digest), errors.New("not a manifest of ours"))
	}
	if _, err := m.readObject(blobName(c.Digest), c, maxManifest); err != nil {
		return err
	}
	s.files[blobName(o.Digest)], s.files[blobName(c.Digest)] = true, true
	for _, l := range man.Layers {
		s.layers = append(s.layers, object(l))
	}
	return nil
}

// checkContainers holds the manifests' layers against the blob map, line by
// line, notes what is missing or has another size, and names foreign files.
func (b *Bundle) checkContainers(m *medium, s *structure) error {
	f, err := m.table(nameBlobs, b.set.Blobs)
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
		if n >= int64(len(s.layers)) || s.layers[n] != (Object{c.Digest, c.Size}) {
			return unreadable(nameIndex, fmt.Errorf("layer %d is not the blob map's", n+1))
		}
		n, size = n+1, size+c.Size
		mine[sumOf(c.Digest)] = true
	}
	if n != int64(len(s.layers)) || n != s.line.Containers || size != s.line.Bytes {
		return unreadable(nameVolumes, fmt.Errorf("%d containers of %d bytes, signed were %d of %d", n, size, s.line.Containers, s.line.Bytes))
	}
	return b.findForeign(m, s.files, mine)
}

// mapLines is the number of lines of the blob map.
func (b *Bundle) mapLines() int64 { return b.set.Blobs.Lines }

// findForeign names files that are not the bundle's. They are never opened.
func (b *Bundle) findForeign(m *medium, files map[string]bool, blobs map[sum]bool) error {
	return m.list(func(name string, d fs.DirEntry) error {
		if files[name] || name == approvalName(b.set.Number) {
			return nil
		}
		if h, ok := strings.CutPrefix(name, dirBlobs+"/"); ok {
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
