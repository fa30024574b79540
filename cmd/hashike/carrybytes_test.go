package main

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"testing"
)

// onMedium counts a medium's bytes, and those of its payload.
func onMedium(t *testing.T, dir string) (all, blobs int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		all += st.Size()
		if filepath.Base(filepath.Dir(p)) == "sha256" {
			blobs += st.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, blobs
}

// A daily carry of ClamAV on consecutive versions: what the medium holds
// against a complete copy. The vendor's own increments (cdiffs) cross as they
// are; the database of the day crosses with them.
func TestDailyAntivirusCarryBytes(t *testing.T) {
	files, spool := clamavFiles(t), t.TempDir()
	spoolTo(t, files, spool, 2, 3)
	w := newWorld(t, clamavBlock(spool))
	code := regexp.MustCompile(`[0-9]{24}`)
	for n := 4; n <= 6; n++ {
		w.carry()
		w.outside("receipt", "enter", code.FindString(w.inside("receipt", "show", "--json")))
		spoolTo(t, files, spool, 2, n)
		w.outside("fetch", "--now")
		w.pack("--parity", "0")
		all, blobs := onMedium(t, w.path("media"))
		w.pack("--parity", "0", "--full")
		fullAll, fullBlobs := onMedium(t, w.path("media"))
		t.Logf("version %d: %d bytes on the medium (%d payload), complete %d (%d)", n, all, blobs, fullAll, fullBlobs)
		if blobs >= fullBlobs {
			t.Errorf("version %d: the increment is no smaller than the copy", n)
		}
	}
}
