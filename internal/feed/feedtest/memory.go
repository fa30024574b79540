package feedtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"testing/fstest"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Memory is a snapshot in memory, and the keeping half of the sink that makes
// one, for tests that run a kind without the engines. One goroutine at a time.
type Memory struct {
	Head  feed.Header
	Named map[string]feed.Artifact
	Blobs map[feed.Digest][]byte // several snapshots may share them
	Time  time.Time              // of every file
}

// NewMemory is an empty snapshot with blobs of its own.
func NewMemory(h feed.Header) *Memory {
	return &Memory{Head: h, Named: map[string]feed.Artifact{}, Blobs: map[feed.Digest][]byte{}}
}

// Clone is a copy that may be changed; contents are shared.
func (m *Memory) Clone() *Memory {
	return &Memory{Head: m.Head, Named: maps.Clone(m.Named), Blobs: maps.Clone(m.Blobs), Time: m.Time}
}

// Set names a content: the artifact's digest and size are filled in.
func (m *Memory) Set(a feed.Artifact, body []byte) {
	a.Digest, a.Size = feed.DigestOf(body), int64(len(body))
	m.Named[a.Path], m.Blobs[a.Digest] = a, body
}

// Body is the content of an artifact, nil if there is none.
func (m *Memory) Body(p string) []byte { return m.Blobs[m.Named[p].Digest] }

// Keep stores a content.
func (m *Memory) Keep(body []byte) Blob {
	m.Blobs[feed.DigestOf(body)] = body
	return Blob(body)
}

// Put stores what is read, as a sink does.
func (m *Memory) Put(_ context.Context, _ string, r io.Reader) (feed.Blob, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return m.Keep(body), nil
}

// Add names what was stored before, as a sink does.
func (m *Memory) Add(a feed.Artifact) error {
	body, ok := m.Blobs[a.Digest]
	if !ok {
		return fmt.Errorf("%s was added before it was stored", a.Path)
	}
	a.Size = int64(len(body))
	m.Named[a.Path] = a
	return nil
}

// Paths lists the artifacts.
func (m *Memory) Paths() []string { return slices.Sorted(maps.Keys(m.Named)) }

func (m *Memory) Header() feed.Header { return m.Head }

func (m *Memory) Lookup(p string) (feed.Artifact, bool) {
	a, ok := m.Named[p]
	return a, ok
}

func (m *Memory) Artifacts() iter.Seq2[feed.Artifact, error] {
	return func(yield func(feed.Artifact, error) bool) {
		for _, p := range m.Paths() {
			if !yield(m.Named[p], nil) {
				return
			}
		}
	}
}

func (m *Memory) Open(p string) (fs.File, error) {
	a, ok := m.Named[p]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return fstest.MapFS{p: {Data: m.Blobs[a.Digest], ModTime: m.Time}}.Open(p)
}

// Blob is a content in memory as a feed.Blob.
type Blob []byte

func (b Blob) Size() int64                             { return int64(len(b)) }
func (b Blob) Digest() feed.Digest                     { return feed.DigestOf(b) }
func (b Blob) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(b).ReadAt(p, off) }
