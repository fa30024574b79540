package packager_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
)

// peak is this process's high-water mark of memory, MiB.
func peak(t testing.TB) int {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/status"))(t))) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			return must(strconv.Atoi(f[1]))(t) >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

const maxPeak = 512 // MiB

// Many files: the dry run before anything is written, and its memory.
// HASHIKE_FILES sets the number; bench/run preflight takes 500,000.
func TestPreflightOfManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector's own memory is more than what is measured")
	}
	n := 2000
	if v, err := strconv.Atoi(os.Getenv("HASHIKE_FILES")); err == nil {
		n = v
	}
	w := newWorldIn(t, memory(t))
	b := w.outCAS.NewSnapshot()
	group := w.outCAS.Group()
	defer group.Close()
	ctx := context.Background()
	for i := range n {
		c := []byte(fmt.Sprintf("file %d", i))
		_, _, err := group.Put(ctx, strings.NewReader(string(c)), feed.DigestOf(c))
		ok(t, err)
	}
	ok(t, group.Flush())
	for i := range n {
		c := []byte(fmt.Sprintf("file %d", i))
		ok(t, b.Add(feed.Artifact{Path: fmt.Sprintf("dir%03d/file%06d", i%997, i), Digest: feed.DigestOf(c), Size: int64(len(c)), Class: feed.Security}))
	}
	s := must(b.Commit(feed.Header{Feed: "alpha", Kind: "tiny", Serial: 1, Taken: w.now}))(t)
	began := time.Now()
	e := must(packager.Preflight(ctx, w.options(filepath.Join(memory(t), "m"), packager.Carry{Snapshot: s})))(t)
	t.Logf("%d files: pre-flight %s, peak %d MiB", e.Blobs, time.Since(began).Round(time.Millisecond), peak(t))
	if e.Blobs != int64(n) {
		t.Errorf("%d blobs of %d", e.Blobs, n)
	}
	if p := peak(t); p > maxPeak {
		t.Errorf("peak %d MiB", p)
	}
}

// A bundle of many large blobs whose source is sparse: pack and import within
// 512 MiB of memory. HASHIKE_GIB sets the size; the medium and the inside are
// written in full, so it needs twice that on the disk of TMPDIR.
func TestMemoryOfALargeBundle(t *testing.T) {
	gib, err := strconv.Atoi(os.Getenv("HASHIKE_GIB"))
	if err != nil {
		t.Skip("HASHIKE_GIB is not set: bench/run size")
	}
	w := newWorld(t)
	b := w.outCAS.NewSnapshot()
	const size = 2<<30 + 12345 // segments
	total := int64(0)
	for i := range gib / 2 {
		d := sparse(t, w.out, i, size)
		ok(t, b.Add(feed.Artifact{Path: fmt.Sprint("f", i), Digest: d, Size: size, Class: feed.Feature}))
		total += size
	}
	s := must(b.Commit(feed.Header{Feed: "alpha", Kind: "tiny", Serial: 1, Taken: w.now}))(t)
	o := w.options(filepath.Join(t.TempDir(), "m"), packager.Carry{Snapshot: s})
	o.Parity = 10
	began := time.Now()
	e := must(packager.Preflight(context.Background(), o))(t)
	t.Logf("pre-flight of %d bytes: %s", e.BlobBytes, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	r := must(packager.Pack(context.Background(), o))(t)
	took := time.Since(began)
	t.Logf("pack of %d bytes in %s (%.0f MB/s; read back in %s), peak %d MiB", r.BlobBytes, took.Round(time.Second), float64(total)/1e6/took.Seconds(), r.ReadBack.Round(time.Second), peak(t))
	began = time.Now()
	got, damaged, err := w.take(o.To)
	if err != nil || len(damaged) != 0 || got.Bytes != total {
		t.Fatal(got, damaged, err)
	}
	took = time.Since(began)
	t.Logf("import in %s (%.0f MB/s), peak %d MiB", took.Round(time.Second), float64(total)/1e6/took.Seconds(), peak(t))
	if p := peak(t); p > maxPeak {
		t.Errorf("peak %d MiB", p)
	}
}

// sparse puts a blob into the store that takes no space: a number and zeros.
func sparse(t *testing.T, data state.Dir, i int, size int64) feed.Digest {
	t.Helper()
	head := binary.BigEndian.AppendUint64(nil, uint64(i+1))
	h := sha256.New()
	h.Write(head)
	_, err := io.CopyN(h, zeros{}, size-int64(len(head)))
	ok(t, err)
	d := feed.DigestFrom(h)
	p := filepath.Join(string(data), "store", "sha256", d.Hex()[:2], d.Hex())
	ok(t, os.WriteFile(p, head, 0o600))
	ok(t, os.Truncate(p, size))
	return d
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
