package packager_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

// A file that could not be written is not the one file of its carry.
func TestAReturnFileThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	set := feed.DigestOf([]byte("set"))
	write := func(dir string) error {
		return packager.WriteReturn(w.inDB, dir, packager.Return{Receipt: "1"}, 7, set, w.now)
	}
	wantCode(t, write(filepath.Join(t.TempDir(), "gone")), "H-656")
	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o644))
	wantCode(t, write(file), "H-656")
	dir, other := t.TempDir(), t.TempDir()
	ok(t, write(dir))
	if got := must(packager.ReadReturn(dir))(t); got.Receipt != "1" {
		t.Errorf("%+v", got)
	}
	wantCode(t, write(dir), "H-649")
	wantCode(t, write(other), "H-649")
	if n := len(mediumFiles(t, other)); n != 0 {
		t.Errorf("%d files were left behind", n)
	}
}
