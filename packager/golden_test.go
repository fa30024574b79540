package packager_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// goldenDir holds one archive per bundle format, made once and never again:
// every later program reads all of them. The archive of a new format is made
// by HASHIKE_WRITE_GOLDEN=1 go test ./packager -run TestGolden, which does not
// replace one that is there.
const goldenDir = "../testdata/bundles"

// golden is what a reader must find in the archive's media, in golden.json.
type golden struct {
	Format      int
	Fingerprint string            // of setup/hashike-setup.json
	Clock       time.Time         // at which everything is read
	First       []string          // volumes of the complete bundle, with parity
	Second      string            // an incremental under the next root, with an order
	Files       map[string]string // feed/path → digest, after the second
	Receipt     string            // after the second
	Need        string            // with the first alone, without its volume 2
	Orders      int
}

func TestGolden(t *testing.T) {
	if os.Getenv("HASHIKE_WRITE_GOLDEN") == "1" {
		writeGolden(t, filepath.Join(goldenDir, "format-"+strconv.Itoa(packager.SetSchema)+".tar.zst"))
	}
	archives, err := filepath.Glob(filepath.Join(goldenDir, "format-*.tar.zst"))
	ok(t, err)
	if len(archives) != packager.SetSchema {
		t.Fatalf("%d golden archives for %d formats", len(archives), packager.SetSchema)
	}
	for _, a := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(a), ".tar.zst"), func(t *testing.T) { readGolden(t, a) })
	}
}

func readGolden(t *testing.T, archive string) {
	dir := t.TempDir()
	unpack(t, archive, dir)
	var g golden
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "golden.json")))(t), &g))
	clock := func() time.Time { return g.Clock }
	fresh := func() (state.Dir, *state.DB, *cas.Store) {
		in := state.Dir(filepath.Join(t.TempDir(), "inside"))
		ok(t, packager.Pair(in, filepath.Join(dir, "setup", packager.SetupName), g.Fingerprint))
		s := must(cas.Open(string(in), clock))(t)
		t.Cleanup(func() { s.Close() })
		return in, state.At(in, "test"), s
	}
	in, db, store := fresh()
	take := func(names ...string) packager.Absorbed {
		t.Helper()
		var dirs []string
		for _, n := range names {
			dirs = append(dirs, filepath.Join(dir, n))
		}
		b := must(packager.Open(context.Background(), dirs, packager.OpenOptions{Data: in, DB: db, Clock: clock}))(t)
		defer b.Close()
		a := must(b.Absorb(context.Background(), store))(t)
		ok(t, b.Accept(db, "tester"))
		return a
	}
	take(g.First[0])
	if n := must(packager.Lacking(db, store))(t).String(); n != g.Need {
		t.Errorf("need list %s, it was %s", n, g.Need)
	}
	back := must(packager.ParseNeed(g.Need))(t)
	if back.String() != g.Need {
		t.Errorf("need list read as %s", back)
	}
	take(g.Second)
	in, db, store = fresh()
	if a := take(g.First[1], g.First[0]); a.Left != 0 {
		t.Errorf("%d blobs of the first are missing", a.Left)
	}
	if a := take(g.Second); a.Left != 0 {
		t.Errorf("%d blobs of the second are missing", a.Left)
	}
	seen := 0
	for name, digest := range g.Files {
		f, path, _ := strings.Cut(name, "/")
		serials := must(store.Serials(f))(t)
		snap := must(store.Snapshot(f, serials[len(serials)-1]))(t)
		art, found := snap.Lookup(path)
		if !found || string(art.Digest) != digest {
			t.Errorf("%s is %s, it was %s", name, art.Digest, digest)
			continue
		}
		ok(t, store.Verify(context.Background(), art.Digest))
		seen++
	}
	if seen < 5 {
		t.Errorf("%d files", seen)
	}
	ok(t, db.View(func(tx state.Tx) error {
		orders, err := tx.Orders()
		if len(orders) != g.Orders {
			t.Errorf("%d orders, there were %d", len(orders), g.Orders)
		}
		return err
	}))
	r, err := packager.ShowReceipt(db, func([]packager.FeedLine) (int64, error) { return 0, nil }, "tester", g.Clock)
	ok(t, err)
	if r.Code != g.Receipt {
		t.Errorf("receipt %s, it was %s", r.Code, g.Receipt)
	}
}

// writeGolden makes the archive, unless it is there.
func writeGolden(t *testing.T, to string) {
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s: a golden archive is never made again (%v)", to, err)
	}
	w := newWorld(t)
	dir := t.TempDir()
	g := golden{Format: packager.SetSchema, Files: map[string]string{}, Orders: 1}
	g.Fingerprint = must(packager.WriteSetup(w.out, 1, filepath.Join(mkdir(t, dir, "setup"), packager.SetupName), w.now))(t)
	f := files{"empty": nil, "dir/日本語.txt": []byte("日本語\n"), "small": []byte("small"), "segments": bytes.Repeat([]byte("segment "), 5<<17),
		"large": bytes.Repeat([]byte("large "), 3<<18), "other": bytes.Repeat([]byte("other "), 2<<18)}
	first := w.volumes(filepath.Join(dir, "first"), 10<<20, 20, w.snapshot("alpha", f), w.snapshot("beta", files{"small": []byte("small"), "b": []byte("b")}))
	if first.Volumes != 2 {
		t.Fatalf("%d volumes", first.Volumes)
	}
	g.First = []string{"first/volume-1", "first/volume-2"}
	must2(t)(w.take(filepath.Join(dir, g.First[0])))
	g.Need = must(packager.Lacking(w.inDB, w.inCAS))(t).String()
	must2(t)(w.take(filepath.Join(dir, g.First[1])))
	ok(t, packager.SetBase(w.outDB, 1, first.Number, "tester", w.now))
	must(packager.Rotate(w.outDB, w.keys[:2], packager.Change{Bundle: true}, nil, "tester", w.now))(t)
	f["new"], f["small"] = []byte("new"), []byte("changed")
	delete(f, "other")
	b := files{"b": []byte("b"), "c": []byte("c")}
	w.now = w.now.Add(24 * time.Hour)
	o := w.options(filepath.Join(dir, "second"), w.snapshot("alpha", f), w.snapshot("beta", b))
	o.Base = &first.Packed
	_, _, err := packager.Issue(w.outDB, feed.Order{Schema: 1, Kind: feed.OrderPullBack, Feed: "beta", Serial: 2, Reason: "試験", Operator: "o", Issued: w.now}, nil, "o", nil, w.now)
	ok(t, err)
	must(packager.Pack(context.Background(), o))(t)
	g.Second, g.Clock = "second", w.now
	must2(t)(w.take(o.To))
	for name, content := range map[string]files{"alpha": f, "beta": b} {
		for path, c := range content {
			g.Files[name+"/"+path] = string(feed.DigestOf(c))
		}
	}
	r, err := packager.ShowReceipt(w.inDB, func([]packager.FeedLine) (int64, error) { return 0, nil }, "tester", w.now)
	ok(t, err)
	g.Receipt = r.Code
	text, err := json.MarshalIndent(g, "", "\t")
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(dir, "golden.json"), append(text, '\n'), 0o644))
	ok(t, os.MkdirAll(filepath.Dir(to), 0o755))
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	ok(t, tw.AddFS(os.DirFS(dir)))
	ok(t, tw.Close())
	z := must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression)))(t)
	ok(t, os.WriteFile(to, z.EncodeAll(raw.Bytes(), nil), 0o644))
}

func mkdir(t *testing.T, e ...string) string {
	dir := filepath.Join(e...)
	ok(t, os.MkdirAll(dir, 0o755))
	return dir
}

func unpack(t *testing.T, archive, to string) {
	t.Helper()
	f := must(os.Open(archive))(t)
	defer f.Close()
	z := must(zstd.NewReader(f))(t)
	defer z.Close()
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		ok(t, err)
		p := filepath.Join(to, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			mkdir(t, p)
			continue
		}
		mkdir(t, filepath.Dir(p))
		ok(t, os.WriteFile(p, must(io.ReadAll(tr))(t), 0o644))
	}
}
