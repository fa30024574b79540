package mirror

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// BenchmarkServe compares the mirror with http.FileServer over loopback, file
// sizes as terminals ask for; the two take turns in one run. It prints the ratio
// and asserts nothing (docs/benchmarks.md).
func BenchmarkServe(b *testing.B) {
	in := newInside(b, b.TempDir(), Rings{})
	dir := b.TempDir()
	files := map[string]string{}
	sizes := []int{1 << 20, 64 << 10, 100}
	for _, n := range sizes {
		name := fmt.Sprint("f", n, ".json") // a known type: FileServer need not sniff
		files[name] = strings.Repeat("x", n)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	in.accept("av", 10, files)
	in.advance()
	s := in.server()
	ours := listen(b, s.Handler(0))
	theirs := listen(b, http.FileServer(http.Dir(dir)))
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a, z := dial(b, ours), dial(b, theirs)
			var us, them time.Duration
			const turn = 5 // short turns: other work on the machine hits both alike
			rounds := 0
			for b.Loop() {
				for _, side := range []struct {
					c    *wire
					path string
					sum  *time.Duration
				}{{a, fmt.Sprint("/slow/av/f", n, ".json"), &us}, {z, fmt.Sprint("/f", n, ".json"), &them}} {
					t := time.Now()
					for range turn {
						side.c.get(b, side.path, n)
					}
					*side.sum += time.Since(t)
				}
				rounds++
			}
			b.ReportMetric(them.Seconds()/us.Seconds(), "×FileServer")
			b.ReportMetric(float64(turn*rounds)/us.Seconds(), "req/s")
		})
	}
}

func listen(b *testing.B, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	hs := newHTTPServer(h, NewPublisher(Options{}).Log)
	go hs.Serve(l)
	b.Cleanup(func() { hs.Close() })
	return l.Addr().String()
}

// wire is a client that costs little beside the server.
type wire struct {
	c net.Conn
	r *bufio.Reader
}

func dial(b *testing.B, addr string) *wire {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &wire{c, bufio.NewReaderSize(c, 256<<10)}
}

func (w *wire) get(b *testing.B, path string, n int) {
	fmt.Fprintf(w.c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	length := -1
	for {
		line, err := w.r.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		if v, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(v))
		}
		if line == "\r\n" {
			break
		}
	}
	if length != n {
		b.Fatalf("%s: %d bytes", path, length)
	}
	if _, err := w.r.Discard(n); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart is the time until a server with 100,000 artifacts can answer.
func BenchmarkStart(b *testing.B) {
	in := newInside(b, b.TempDir(), Rings{})
	d, n, err := in.store.Put(context.Background(), strings.NewReader("one blob for all"), "")
	if err != nil {
		b.Fatal(err)
	}
	build := in.store.NewSnapshot()
	for i := range 100_000 {
		if err := build.Add(feed.Artifact{Path: fmt.Sprintf("pool/main/a/package-%06d/package-%06d_1.0_amd64.deb", i, i), Digest: d, Size: n, Class: feed.Security}); err != nil {
			b.Fatal(err)
		}
	}
	snap, err := build.Commit(feed.Header{Feed: "av", Kind: "fake", Serial: 10, Taken: begin})
	if err != nil {
		b.Fatal(err)
	}
	in.acceptSnapshot(snap, false)
	in.advance()
	for b.Loop() {
		s := in.server()
		if w := ask(s.Handler(0), "10.1.1.1", "/slow/av/pool/main/a/package-050000/package-050000_1.0_amd64.deb"); w.Code != 200 {
			b.Fatal(got(w))
		}
		s.Close()
	}
}
