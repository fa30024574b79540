// Package tooltest makes folders in memory for tests of vendors' rules.
package tooltest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/tooldir"
)

// Tree is a folder with these files.
func Tree(t testing.TB, files map[string][]byte) *tooldir.Tree {
	t.Helper()
	var list []tooldir.File
	for p, b := range files {
		list = append(list, tooldir.File{Path: p, Size: int64(len(b)), Digest: feed.DigestOf(b), Modified: time.Unix(1_790_000_000, 0)})
	}
	tree, err := tooldir.NewTree(context.Background(), list, func(p string) (io.ReaderAt, func(), error) {
		b, ok := files[p]
		if !ok {
			return nil, nil, fs.ErrNotExist
		}
		return bytes.NewReader(b), func() {}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// FuzzIndex fuzzes a vendor's rule with one index of a folder that is otherwise
// as seed has it: what is accepted has a version and a mark, and nothing panics.
func FuzzIndex(f *testing.F, read func(*tooldir.Tree) (tooldir.Release, error), seed map[string][]byte, index string) {
	f.Add(seed[index])
	f.Fuzz(func(t *testing.T, b []byte) {
		files := map[string][]byte{}
		for p, x := range seed {
			files[p] = x
		}
		files[index] = b
		rel, err := read(Tree(t, files))
		if err == nil && (rel.Version == "" || len(rel.Marks) == 0) {
			t.Fatalf("%+v", rel)
		}
	})
}
