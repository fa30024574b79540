package packager_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/hashike/hashike/packager"
)

// The library's own client verifies a bundle from its directory: first root,
// three bundles, a root that replaces the bundle key; and refuses one byte more.
// Nothing of ours stands between but a file server.
func TestTheLibrarysOwnClientVerifies(t *testing.T) {
	w := newWorld(t)
	local := t.TempDir()
	first, _ := w.pack(w.snapshot("alpha", sample("0")))
	root := must(os.ReadFile(filepath.Join(first, "tuf/1.root.json")))(t)
	verify := func(dir string) error {
		t.Helper()
		srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
		defer srv.Close()
		cfg := must(config.New(srv.URL+"/tuf", root))(t)
		cfg.RemoteTargetsURL, cfg.PrefixTargetsWithHash = srv.URL, false // targets keep their names on the medium
		cfg.LocalMetadataDir, cfg.LocalTargetsDir = local, t.TempDir()
		up, err := updater.New(cfg)
		if err != nil {
			return err
		}
		up.UnsafeSetRefTime(w.now)
		if err := up.Refresh(); err != nil {
			return err
		}
		for _, name := range []string{"set.json", "orders.jsonl"} {
			info, err := up.GetTargetInfo(name)
			if err != nil {
				return err
			}
			if _, b, err := up.DownloadTarget(info, "", ""); err != nil {
				return err
			} else if string(b) != string(must(os.ReadFile(filepath.Join(dir, name)))(t)) {
				t.Errorf("%s differs", name)
			}
		}
		return nil
	}
	ok(t, verify(first))
	for i := range 3 {
		dir, _ := w.pack(w.snapshot("alpha", sample(strconv.Itoa(i))))
		ok(t, verify(dir))
		if i == 0 && verify(first) == nil {
			t.Error("the client went back to the first bundle")
		}
		if i == 1 {
			must(packager.Rotate(w.outDB, w.keys[:2], packager.Change{Bundle: true}, nil, "tester", w.now))(t)
		}
	}
	last, _ := w.pack(w.snapshot("alpha", sample("last")))
	for _, name := range []string{"set.json", "tuf/timestamp.json"} {
		bad := copyTree(t, last)
		b := must(os.ReadFile(filepath.Join(bad, name)))(t)
		b[len(b)/2] ^= 1
		ok(t, os.WriteFile(filepath.Join(bad, name), b, 0o644))
		if verify(bad) == nil {
			t.Errorf("a changed %s was taken", name)
		}
	}
	ok(t, verify(last))
}
