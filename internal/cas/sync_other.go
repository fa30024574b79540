//go:build !linux

package cas

import (
	"os"

	"github.com/hashike/hashike/internal/feed"
)

const (
	syncsWholeFS = false
	keepsIdle    = false
)

// open opens a blob through os.Root: a plain open blocks rename and removal on Windows.
func (s *Store) open(d feed.Digest) (*os.File, error) { return s.root.Open(name(d)) }
