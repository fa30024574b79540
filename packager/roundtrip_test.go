package packager_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

func TestRoundTripComplete(t *testing.T) {
	w := newWorld(t)
	a, b := w.snapshot("alpha", sample("a")), w.snapshot("beta", sample("b"))
	dir, r := w.pack(a, b)
	if r.Number != 1 || r.Blobs != 10 {
		t.Errorf("report %+v", r)
	}
	got, damaged, err := w.take(dir)
	ok(t, err)
	if len(damaged) != 0 || got.Blobs != 10 || got.Left != 0 {
		t.Errorf("absorbed %+v, damaged %v", got, damaged)
	}
	w.holds(a)
	w.holds(b)
	// Again: nothing to do, no error.
	got, _, err = w.take(dir)
	ok(t, err)
	if got.Blobs != 0 {
		t.Errorf("the second time %+v", got)
	}
}

func TestIncrementalCarriesOnlyWhatIsNew(t *testing.T) {
	w := newWorld(t)
	f := sample("1")
	a1 := w.snapshot("alpha", f)
	d1, r1 := w.pack(a1)
	if _, _, err := w.take(d1); err != nil {
		t.Fatal(err)
	}
	ok(t, packager.SetBase(w.outDB, 1, r1.Number, "tester", w.now))
	f["b/new.bin"] = random(2 << 20)
	f["a/small.txt"] = []byte("changed")
	a2 := w.snapshot("alpha", f)
	w.now = w.now.Add(time.Hour)
	o := w.options(filepath.Join(t.TempDir(), "m"), a2)
	var base packager.Packed
	ok(t, w.outDB.View(func(tx state.Tx) error {
		var found bool
		var err error
		base, found, err = packager.Base(tx, []int{1})
		if !found {
			t.Error("no base")
		}
		return err
	}))
	o.Base = &base
	r2, err := packager.Pack(context.Background(), o)
	ok(t, err)
	if r2.Blobs != 2 || r2.Base != 1 {
		t.Errorf("incremental carries %d blobs from base %d", r2.Blobs, r2.Base)
	}
	if _, _, err := w.take(o.To); err != nil {
		t.Fatal(err)
	}
	w.holds(a2)
}

// An inside that missed the base names exactly what is missing, and an older
// bundle then brings it (the gate for blobs).
func TestSkippedBundleIsFilledByOlderOne(t *testing.T) {
	w := newWorld(t)
	f := sample("1")
	d1, r1 := w.pack(w.snapshot("alpha", f))
	ok(t, packager.SetBase(w.outDB, 1, r1.Number, "tester", w.now))
	f["b/new.bin"] = random(2 << 20)
	a2 := w.snapshot("alpha", f)
	w.now = w.now.Add(time.Hour)
	o := w.options(filepath.Join(t.TempDir(), "m"), a2)
	o.Base = &r1.Packed
	must(packager.Pack(context.Background(), o))(t)
	got, _, err := w.take(o.To)
	ok(t, err)
	if got.Blobs != 1 || got.Left != 6 {
		t.Errorf("absorbed %+v, want 1 blob and 6 left", got)
	}
	w.now = w.now.Add(100 * 24 * time.Hour) // the older one has expired: its blobs count all the same
	got, _, err = w.take(d1)
	ok(t, err)
	if got.Blobs != 6 || got.Left != 0 {
		t.Errorf("older bundle: %+v", got)
	}
	w.holds(a2)
	// What the older one desired did not become the state.
	b := must(w.open(d1))(t)
	defer b.Close()
	if b.Accepted().Number != 2 || b.Info().Standing != packager.Older {
		t.Errorf("accepted %+v", b.Accepted())
	}
	wantCode(t, b.Useless(), "H-503")
}

// A blob larger than a segment crosses in pieces, spread over many manifests.
func TestSegmentsAndManifests(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", files{"big": random(10<<20 + 5), "other": random(1<<20 + 1), "small": []byte("x")})
	o := packager.Small(w.options(filepath.Join(t.TempDir(), "m"), a), 1<<20, 4)
	r := must(packager.Pack(context.Background(), o))(t)
	if r.Files != 2+11+2+1 { // documents, big, other in two, pack
		t.Errorf("%d containers", r.Files)
	}
	var idx struct{ Manifests []json.RawMessage }
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(o.To, "index.json")))(t), &idx))
	if len(idx.Manifests) != 4 {
		t.Errorf("%d manifests for 16 containers of at most 4", len(idx.Manifests))
	}
	// One damaged segment is named and the blob left out; then the good medium completes it.
	bad := copyTree(t, o.To)
	for _, name := range mediumFiles(t, bad) {
		p := filepath.Join(bad, name)
		if st := must(os.Stat(p))(t); strings.HasPrefix(name, "blobs/") && st.Size() == 5 {
			ok(t, os.WriteFile(p, []byte("wrong"), 0o644))
		}
	}
	got, damaged, err := w.take(bad)
	ok(t, err)
	if got.Blobs != 2 || got.Left != 1 || len(damaged) != 1 {
		t.Errorf("absorbed %+v, damaged %v", got, damaged)
	}
	if got, dam, err := w.take(o.To); err != nil || got.Blobs != 1 || len(dam) != 0 {
		t.Fatal(got, dam, err)
	}
	w.holds(a)
}

// The block table, computed here by another way than the packager's: layers in
// the order of index and manifests.
func TestBlockTableIsTheStreamOfLayers(t *testing.T) {
	w := newWorld(t)
	dir, _ := w.pack(w.snapshot("alpha", sample("a")), w.snapshot("beta", sample("b")))
	type desc struct{ Digest string }
	var idx struct{ Manifests []desc }
	blob := func(d string) []byte {
		return must(os.ReadFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))))(t)
	}
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "index.json")))(t), &idx))
	var stream []byte
	for _, m := range idx.Manifests {
		var man struct{ Layers []desc }
		ok(t, json.Unmarshal(blob(m.Digest), &man))
		for _, l := range man.Layers {
			stream = append(stream, blob(l.Digest)...)
		}
	}
	var want []byte
	for len(stream) > 0 {
		n := min(len(stream), 1<<20)
		s := sha256.Sum256(stream[:n])
		want, stream = append(want, s[:]...), stream[n:]
	}
	if got := must(os.ReadFile(filepath.Join(dir, "tables", "blocks.bin")))(t); string(got) != string(want) {
		t.Error("block table differs")
	}
}

func TestPackReplacesOnlyItsOwn(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("a"))
	dir, _ := w.pack(a)
	old := mediumFiles(t, dir)
	b := w.snapshot("alpha", sample("b"))
	w.now = w.now.Add(time.Hour)
	must(packager.Pack(context.Background(), w.options(dir, b)))(t)
	if _, _, err := w.take(dir); err != nil {
		t.Fatal(err)
	}
	w.holds(b)
	if n := len(mediumFiles(t, dir)); n != len(old) {
		t.Errorf("%d files after the second run, %d after the first", n, len(old))
	}
	ok(t, os.Mkdir(filepath.Join(dir, "System Volume Information"), 0o755))
	ok(t, os.WriteFile(filepath.Join(dir, "letter.docx"), []byte("x"), 0o644))
	_, err := packager.Pack(context.Background(), w.options(dir, b))
	if !errors.Is(err, feed.ErrConfig) || !strings.Contains(err.Error(), "letter.docx") {
		t.Errorf("a stranger's file: %v", err)
	}
	if _, _, err := w.take(dir); err != nil {
		t.Errorf("the old bundle was touched: %v", err)
	}
}

func TestForeignFilesAreNamedAndIgnored(t *testing.T) {
	w := newWorld(t)
	dir, _ := w.pack(w.snapshot("alpha", sample("a")))
	ok(t, os.WriteFile(filepath.Join(dir, "virus.exe"), []byte("MZ"), 0o644))
	ok(t, os.WriteFile(filepath.Join(dir, "blobs/sha256", strings.Repeat("0", 64)), []byte("x"), 0o644))
	ok(t, os.Symlink("/etc/passwd", filepath.Join(dir, "tuf", "99.root.json.bak")))
	b := must(w.open(dir))(t)
	defer b.Close()
	if i := b.Info(); i.Foreigns != 3 || len(i.Foreign) != 3 {
		t.Errorf("foreign files %v", i.Foreign)
	}
}

func TestReadOnlyMedium(t *testing.T) {
	w := newWorld(t)
	a := w.snapshot("alpha", sample("a"))
	dir, _ := w.pack(a)
	before := map[string]string{}
	for _, f := range mediumFiles(t, dir) {
		before[f] = string(must(os.ReadFile(filepath.Join(dir, f)))(t))
		ok(t, os.Chmod(filepath.Join(dir, f), 0o444))
	}
	for _, d := range []string{"", "tuf", "tables", "blobs", "blobs/sha256"} {
		ok(t, os.Chmod(filepath.Join(dir, d), 0o555))
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, d), 0o755) })
	}
	if _, _, err := w.take(dir); err != nil {
		t.Fatal(err)
	}
	w.holds(a)
	if n := len(mediumFiles(t, dir)); n != len(before) {
		t.Errorf("%d files became %d", len(before), n)
	}
	for f, c := range before {
		if string(must(os.ReadFile(filepath.Join(dir, f)))(t)) != c {
			t.Errorf("%s changed", f)
		}
	}
}

func TestSkopeoReadsTheLayout(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("skopeo is not installed")
		}
		t.Skip("skopeo is not installed")
	}
	w := newWorld(t)
	dir, _ := w.pack(w.snapshot("alpha", sample("a")))
	out, err := exec.Command(skopeo, "inspect", "oci:"+dir+":alpha-1-v1-1").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo inspect: %v\n%s", err, out)
	}
	var seen struct {
		Layers       []string
		Architecture string
	}
	ok(t, json.Unmarshal(out, &seen))
	if len(seen.Layers) != 5 || seen.Architecture != "unknown" { // two documents, two large files, one pack
		t.Errorf("skopeo sees %s", out)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command(skopeo, "--insecure-policy", "copy", "oci:"+dir+":alpha-1-v1-1", "oci:"+to+":x").CombinedOutput(); err != nil {
		t.Fatalf("skopeo copy: %v\n%s", err, out)
	}
	for _, l := range seen.Layers {
		b := must(os.ReadFile(filepath.Join(to, "blobs/sha256", strings.TrimPrefix(l, "sha256:"))))(t)
		if string(feed.DigestOf(b)) != l {
			t.Errorf("%s was changed by copying", l)
		}
	}
}
