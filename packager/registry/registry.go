// Package registry carries a volume of a bundle through an OCI registry: the
// same blobs and manifests, under the digests they have on a medium, and the
// files around them (set, TUF metadata, tables) as one more artifact. What is
// pulled is the volume's directory byte for byte; import then judges it as it
// judges any medium. Nothing of a registry is believed: every manifest and
// blob is hashed here, and lengths are bounded by what announced them.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/hashike/hashike/internal/durable"
	"github.com/hashike/hashike/internal/feed"
)

// The artifact that holds the files of a volume besides blobs/ (docs/bundle.md §11).
const (
	typeBundle   = "application/vnd.hashike.bundle.v1+json"
	typePart     = "application/vnd.hashike.bundle.file.v1"
	typeEmpty    = "application/vnd.oci.empty.v1+json"
	titleKey     = "org.opencontainers.image.title"
	manifestType = types.OCIManifestSchema1

	maxManifest = 4 << 20 // bytes; what registries accept
	maxPart     = 1 << 30 // bytes of one file beside the blobs
	maxParts    = 2000
)

// part matches the names of a volume's files besides blobs/.
var part = regexp.MustCompile(`^(set\.json|orders\.jsonl|index\.json|oci-layout|README\.txt|tuf/([0-9]{1,20}\.(root|snapshot|targets)|timestamp)\.json|tables/(feeds\.jsonl\.zst|blobs\.jsonl\.zst|volumes\.jsonl|blocks\.bin))$`)

// Report is what was carried.
type Report struct {
	Digest    feed.Digest // of the artifact: say it aloud, or pull by it
	Manifests int
	Blobs     int
	Bytes     int64
}

// carrier is one push or pull.
type carrier struct {
	ctx  context.Context
	ref  name.Reference
	dir  string
	opts []remote.Option
	out  Report
}

func newCarrier(ctx context.Context, ref, dir string) (*carrier, error) {
	r, err := name.ParseReference(ref, name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, feed.ErrConfig)
	}
	return &carrier{ctx: ctx, ref: r, dir: dir, opts: []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}}, nil
}

// Push uploads the volume in dir as ref ("host/repository:tag"; http only for
// localhost). What the registry has already is not sent again. Errors:
// ErrDamaged for a directory that is no whole volume, ErrConfig for a name or
// a login the registry refuses, ErrTransient for a network that fails.
func Push(ctx context.Context, dir, ref string) (Report, error) {
	c, err := newCarrier(ctx, ref, dir)
	if err != nil {
		return Report{}, err
	}
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w: %w", dir, err, feed.ErrDamaged)
	}
	manifests, err := listed(index)
	if err != nil {
		return Report{}, err
	}
	for _, d := range manifests {
		if err := c.pushManifest(d); err != nil {
			return c.out, err
		}
	}
	return c.out, c.pushParts()
}

func listed(index []byte) ([]v1.Descriptor, error) {
	var i v1.IndexManifest
	if err := json.Unmarshal(index, &i); err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", err, feed.ErrDamaged)
	}
	return i.Manifests, nil
}

// blob is a file that goes up as it is.
type blob struct {
	path string
	desc v1.Descriptor
}

func (b blob) Digest() (v1.Hash, error)             { return b.desc.Digest, nil }
func (b blob) DiffID() (v1.Hash, error)             { return b.desc.Digest, nil }
func (b blob) Compressed() (io.ReadCloser, error)   { return os.Open(b.path) }
func (b blob) Uncompressed() (io.ReadCloser, error) { return os.Open(b.path) }
func (b blob) Size() (int64, error)                 { return b.desc.Size, nil }
func (b blob) MediaType() (types.MediaType, error)  { return b.desc.MediaType, nil }

// raw is a manifest as it is.
type raw struct {
	b []byte
}

func (r raw) RawManifest() ([]byte, error)        { return r.b, nil }
func (r raw) MediaType() (types.MediaType, error) { return manifestType, nil }
func (c *carrier) blobPath(h v1.Hash) string      { return filepath.Join(c.dir, "blobs", "sha256", h.Hex) }
func (c *carrier) at(h v1.Hash) name.Digest       { return c.ref.Context().Digest(h.String()) }
func (c *carrier) upload(b blob) error {
	if err := remote.WriteLayer(c.ref.Context(), b, c.opts...); err != nil {
		return told(b.path, err)
	}
	c.out.Blobs++
	c.out.Bytes += b.desc.Size
	return nil
}

func (c *carrier) pushManifest(d v1.Descriptor) error {
	b, err := os.ReadFile(c.blobPath(d.Digest))
	if err != nil {
		return fmt.Errorf("%w: %w", err, feed.ErrDamaged)
	}
	m, err := parseManifest(b, d)
	if err != nil {
		return err
	}
	for _, l := range append(slices.Clone(m.Layers), m.Config) {
		if err := c.upload(blob{c.blobPath(l.Digest), l}); err != nil {
			return err
		}
	}
	if err := remote.Put(c.at(d.Digest), raw{b}, c.opts...); err != nil {
		return told(d.Digest.String(), err)
	}
	c.out.Manifests++
	return nil
}

// parseManifest believes a manifest that has the digest and size announced.
func parseManifest(b []byte, d v1.Descriptor) (v1.Manifest, error) {
	var m v1.Manifest
	if string(feed.DigestOf(b)) != d.Digest.String() || int64(len(b)) != d.Size {
		return m, fmt.Errorf("manifest %s has other bytes: %w", d.Digest, feed.ErrDamaged)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("manifest %s: %w: %w", d.Digest, err, feed.ErrDamaged)
	}
	for _, l := range append(slices.Clone(m.Layers), m.Config) {
		if _, err := feed.ParseDigest(l.Digest.String()); err != nil || l.Size < 0 {
			return m, fmt.Errorf("manifest %s names %q of %d bytes: %w", d.Digest, l.Digest, l.Size, feed.ErrDamaged)
		}
	}
	return m, nil
}

// pushParts uploads what lies beside the blobs, last: what has a tag is whole.
func (c *carrier) pushParts() error {
	empty := []byte("{}")
	m := v1.Manifest{SchemaVersion: 2, MediaType: manifestType, Config: describe(empty, typeEmpty)}
	temp, err := os.CreateTemp("", "hashike-empty-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if _, err := temp.Write(empty); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := c.upload(blob{temp.Name(), m.Config}); err != nil {
		return err
	}
	err = fs.WalkDir(os.DirFS(c.dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !part.MatchString(p) {
			return err
		}
		file := filepath.Join(c.dir, filepath.FromSlash(p))
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		l := describe(b, typePart)
		l.Annotations = map[string]string{titleKey: p}
		m.Layers = append(m.Layers, l)
		return c.upload(blob{file, l})
	})
	if err != nil {
		return err
	}
	b, err := json.Marshal(struct {
		v1.Manifest
		ArtifactType string `json:"artifactType"`
	}{m, typeBundle})
	if err != nil {
		return err
	}
	if err := remote.Put(c.ref, raw{b}, c.opts...); err != nil {
		return told(c.ref.Name(), err)
	}
	c.out.Manifests++
	c.out.Digest = feed.DigestOf(b)
	return nil
}

func describe(b []byte, t types.MediaType) v1.Descriptor {
	return v1.Descriptor{MediaType: t, Size: int64(len(b)), Digest: v1.Hash{Algorithm: "sha256", Hex: feed.DigestOf(b).Hex()}}
}

// Pull downloads a volume into dir, which must not exist or be empty. index.json
// comes last: a directory without it is no bundle. Errors as those of Push;
// ErrDamaged also for a registry that gives other bytes than were named.
func Pull(ctx context.Context, ref, dir string) (Report, error) {
	c, err := newCarrier(ctx, ref, dir)
	if err != nil {
		return Report{}, err
	}
	if ents, err := os.ReadDir(dir); err == nil && len(ents) > 0 {
		return Report{}, fmt.Errorf("%s is not empty: %w", dir, feed.ErrConfig)
	}
	top, err := remote.Get(c.ref, c.opts...)
	if err != nil {
		return Report{}, told(c.ref.Name(), err)
	}
	if len(top.Manifest) > maxManifest {
		return Report{}, fmt.Errorf("%s: a manifest of %d bytes: %w", ref, len(top.Manifest), feed.ErrDamaged)
	}
	c.out.Digest = feed.DigestOf(top.Manifest)
	if d, ok := c.ref.(name.Digest); ok && d.DigestStr() != string(c.out.Digest) {
		return Report{}, fmt.Errorf("%s has other bytes: %w", ref, feed.ErrDamaged)
	}
	m, err := parseManifest(top.Manifest, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: c.out.Digest.Hex()}, Size: int64(len(top.Manifest))})
	if err != nil {
		return Report{}, err
	}
	c.out.Manifests++
	return c.out, c.pullAll(m)
}

func (c *carrier) pullAll(m v1.Manifest) error {
	var index *v1.Descriptor
	if len(m.Layers) > maxParts {
		return fmt.Errorf("%d files: %w", len(m.Layers), feed.ErrDamaged)
	}
	for _, l := range m.Layers {
		title := l.Annotations[titleKey]
		if !part.MatchString(title) || l.Size > maxPart {
			return fmt.Errorf("the registry names %.80q of %d bytes, which is not part of a bundle: %w", title, l.Size, feed.ErrDamaged)
		}
		if title == "index.json" {
			index = &l
			continue
		}
		if err := c.pullTo(l, title); err != nil {
			return err
		}
	}
	if index == nil {
		return fmt.Errorf("%s holds no bundle: %w", c.ref.Name(), feed.ErrDamaged)
	}
	b, err := c.small(*index)
	if err != nil {
		return err
	}
	manifests, err := listed(b)
	if err != nil {
		return err
	}
	for _, d := range manifests {
		if err := c.pullManifest(d); err != nil {
			return err
		}
	}
	return c.pullTo(*index, "index.json")
}

// small reads a blob that fits into memory.
func (c *carrier) small(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("%s of %d bytes: %w", d.Digest, d.Size, feed.ErrDamaged)
	}
	r, err := c.open(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, told(d.Digest.String(), err)
	}
	if int64(len(b)) != d.Size || string(feed.DigestOf(b)) != d.Digest.String() {
		return nil, fmt.Errorf("%s has other bytes: %w", d.Digest, feed.ErrDamaged)
	}
	return b, nil
}

func (c *carrier) open(d v1.Descriptor) (io.ReadCloser, error) {
	l, err := remote.Layer(c.at(d.Digest), c.opts...)
	if err != nil {
		return nil, told(d.Digest.String(), err)
	}
	r, err := l.Compressed()
	if err != nil {
		return nil, told(d.Digest.String(), err)
	}
	return r, nil
}

func (c *carrier) pullManifest(d v1.Descriptor) error {
	if _, err := feed.ParseDigest(d.Digest.String()); err != nil || d.Size > maxManifest {
		return fmt.Errorf("index.json names %q of %d bytes: %w", d.Digest, d.Size, feed.ErrDamaged)
	}
	got, err := remote.Get(c.at(d.Digest), c.opts...)
	if err != nil {
		return told(d.Digest.String(), err)
	}
	m, err := parseManifest(got.Manifest, d)
	if err != nil {
		return err
	}
	for _, l := range append(slices.Clone(m.Layers), m.Config) {
		if _, err := os.Stat(c.blobPath(l.Digest)); err == nil {
			continue // one config may be many manifests'
		}
		if err := c.pullTo(l, path.Join("blobs/sha256", l.Digest.Hex)); err != nil {
			return err
		}
	}
	c.out.Manifests++
	return c.write(path.Join("blobs/sha256", d.Digest.Hex), func(w io.Writer) error { _, err := w.Write(got.Manifest); return err })
}

// pullTo downloads a blob to its place, hashed before it has its name.
func (c *carrier) pullTo(d v1.Descriptor, to string) error {
	r, err := c.open(d)
	if err != nil {
		return err
	}
	defer r.Close()
	err = c.write(to, func(w io.Writer) error {
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, d.Size+1))
		if err == nil && (n != d.Size || string(feed.DigestFrom(h)) != d.Digest.String()) {
			err = fmt.Errorf("%s has other bytes: %w", d.Digest, feed.ErrDamaged)
		}
		return err
	})
	if err != nil {
		return told(to, err)
	}
	c.out.Blobs++
	c.out.Bytes += d.Size
	return nil
}

func (c *carrier) write(to string, fill func(io.Writer) error) error {
	p := filepath.Join(c.dir, filepath.FromSlash(to))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	return durable.WriteFrom(p, fill)
}

// told gives an error of the registry or the network its class.
func told(what string, err error) error {
	var answer *transport.Error
	switch {
	case errors.Is(err, feed.ErrDamaged), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), durable.IsFull(err), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", what, err)
	case strings.Contains(err.Error(), "error verifying"): // ggcr's own check of a blob, which has no type
		return fmt.Errorf("%s: %w: %w", what, err, feed.ErrDamaged)
	case errors.As(err, &answer) && answer.StatusCode < http.StatusInternalServerError && answer.StatusCode != http.StatusTooManyRequests:
		return fmt.Errorf("%s: %w: %w", what, err, feed.ErrConfig)
	}
	return fmt.Errorf("%s: %w: %w", what, err, feed.ErrTransient)
}
