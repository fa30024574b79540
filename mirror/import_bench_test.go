package mirror_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	mrand "math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager"
)

// big stores a snapshot of count random files of one size, and the signature.
func (x *crossing) big(count int, size int64) packager.Carry {
	x.t.Helper()
	b, g := x.outCAS.NewSnapshot(), x.outCAS.Group()
	defer g.Close()
	digests := make([]feed.Digest, count)
	for i := range digests {
		var err error
		digests[i], _, err = g.Put(context.Background(), io.LimitReader(mrand.New(mrand.NewSource(int64(i))), size), "")
		ok(x.t, err)
	}
	d, _, err := g.Put(context.Background(), strings.NewReader("genuine"), "")
	ok(x.t, err)
	ok(x.t, g.Flush())
	for i, d := range digests {
		ok(x.t, b.Add(feed.Artifact{Path: fmt.Sprintf("pool/main/%06d.deb", i), Digest: d, Class: feed.Security}))
	}
	ok(x.t, b.Add(feed.Artifact{Path: "signature", Digest: d, Class: feed.Metadata}))
	x.serial++
	s, err := b.Commit(feed.Header{Feed: "alpha", Kind: "tiny", Serial: x.serial, Taken: x.now})
	ok(x.t, err)
	return packager.Carry{Snapshot: s}
}

// BenchmarkImportSmall: files per second for 30,000 files of 4 KiB.
func BenchmarkImportSmall(b *testing.B) {
	for range b.N {
		b.StopTimer()
		x := newCrossing(b, b.TempDir())
		dir, _ := x.pack(filepath.Join(b.TempDir(), "m"), nil, x.big(30_000, 4096))
		b.StartTimer()
		began := time.Now()
		r, err := x.take(dir)
		ok(b, err)
		b.ReportMetric(float64(r.Blobs)/time.Since(began).Seconds(), "files/s")
	}
}

// BenchmarkImportLarge: speed for 2 files of 700 MiB as a ratio to the bound
// of read + sha256 + write + fsync, measured before and after in the same run.
func BenchmarkImportLarge(b *testing.B) {
	for range b.N {
		b.StopTimer()
		x := newCrossing(b, b.TempDir())
		dir, _ := x.pack(filepath.Join(b.TempDir(), "m"), nil, x.big(2, 700<<20))
		before := bound(b, dir, string(x.in))
		b.StartTimer()
		began := time.Now()
		r, err := x.take(dir)
		ok(b, err)
		speed := float64(r.Bytes) / time.Since(began).Seconds()
		b.StopTimer()
		after := bound(b, dir, string(x.in))
		b.ReportMetric(speed/1e6, "MB/s")
		b.ReportMetric(speed/max(before, after), "of-bound")
	}
}

// bound copies the medium's blobs, hash in a goroutine of its own, each flushed.
func bound(t testing.TB, dir, to string) float64 {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	ok(t, err)
	began, total := time.Now(), int64(0)
	for _, p := range blobs {
		total += copyBound(t, p, filepath.Join(to, "bound"))
	}
	ok(t, os.Remove(filepath.Join(to, "bound")))
	return float64(total) / time.Since(began).Seconds()
}

func copyBound(t testing.TB, from, to string) int64 {
	t.Helper()
	in, err := os.Open(from)
	ok(t, err)
	defer in.Close()
	out, err := os.Create(to)
	ok(t, err)
	defer out.Close()
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.CopyBuffer(sha256.New(), pr, make([]byte, 1<<20))
	}()
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.TeeReader(in, pw), make([]byte, 1<<20))
	ok(t, err)
	pw.Close()
	<-done
	ok(t, out.Sync())
	return n
}

// BenchmarkImportMemory: peak memory of both sides together for a hundred
// thousand artifacts; it fails above 256 MiB.
func BenchmarkImportMemory(b *testing.B) {
	for range b.N {
		x := newCrossing(b, b.TempDir())
		dir, _ := x.pack(filepath.Join(b.TempDir(), "m"), nil, x.big(100_000, 100))
		_, err := x.take(dir)
		ok(b, err)
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			b.Skip("no /proc here")
		}
		_, peak, _ := bytes.Cut(status, []byte("VmHWM:"))
		var kib int64
		fmt.Sscanf(string(peak), "%d", &kib)
		b.ReportMetric(float64(kib)/1024, "peak-MiB")
		if kib > 256<<10 {
			b.Errorf("peak of %d KiB", kib)
		}
	}
}
