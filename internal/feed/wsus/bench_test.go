package wsus

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// manyRevisions writes index and fragments of so many revisions: the real ones
// again and again under other ids, each copy's updates related among each other.
func manyRevisions(t testing.TB, dir string, most int) {
	t.Helper()
	real, s := realRevisions(t)
	x := &indexer{ids: newRevisions(epoch{1}), updates: map[guid]int32{}, files: map[string]int32{}, revs: map[identity]*revision{}}
	x.Serial, x.Epoch, x.Sources = 1, epoch{1}, []string{batchPrefix + "0.zst"}
	f, err := os.Create(filepath.Join(dir, fragmentsName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x.out = f
	for k := 0; len(x.revs) < most; k++ {
		other := func(g guid) guid {
			binary.BigEndian.PutUint32(g[12:], binary.BigEndian.Uint32(g[12:])+uint32(k))
			return g
		}
		for _, n := range s.numbers() {
			if len(x.revs) >= most {
				break
			}
			u := *s.updates[n]
			u.Update = other(u.Update)
			u.Prereqs, u.Bundles, u.Files = nil, nil, slices.Clone(u.Files)
			for _, clause := range s.updates[n].Prereqs {
				var c []guid
				for _, g := range clause {
					c = append(c, other(g))
				}
				u.Prereqs = append(u.Prereqs, c)
			}
			for _, clause := range s.updates[n].Bundles {
				var c []identity
				for _, id := range clause {
					c = append(c, identity{other(id.Update), id.Number})
				}
				u.Bundles = append(u.Bundles, c)
			}
			for i := range u.Files {
				binary.BigEndian.PutUint32(u.Files[i].SHA1[:], uint32(k))
			}
			x.ids.add(u.identity)
			r := x.revision(&u, 0)
			x.revs[u.identity] = r
			err := x.keep(r, core, "", []byte(real[n].core))
			if err == nil && real[n].extended != "" {
				err = x.keep(r, extended, "", []byte(real[n].extended))
			}
			for i, body := range real[n].texts {
				if err == nil {
					err = x.keep(r, localized, fmt.Sprint("l", i), []byte(body))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	x.finish(os.DirFS(t.TempDir()))
	b, err := x.encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, indexName), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// resident is this process's memory in MiB: now, or at its highest since reset.
func resident(field string) float64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return float64(n) / 1024
		}
	}
	return 0
}

// BenchmarkOpen opens 100,000 revisions as serve does at its start: index,
// catalogue, and the scope of a terminal. Prepare and open are processes of
// their own, so that memory is that of opening (bench/run wsus):
// HASHIKE_WSUS_MADE names a directory; where it is empty, it is filled.
func BenchmarkOpen(b *testing.B) {
	dir := os.Getenv("HASHIKE_WSUS_MADE")
	if dir == "" {
		dir = b.TempDir()
	}
	if _, err := os.Stat(filepath.Join(dir, indexName)); err != nil {
		manyRevisions(b, dir, 100_000)
	}
	runtime.GC()
	for b.Loop() {
		x, err := openIndex(os.DirFS(dir))
		if err != nil {
			b.Fatal(err)
		}
		opened := b.Elapsed()
		arts := map[string]feed.Artifact{x.Sources[0]: {Path: x.Sources[0]}}
		for _, f := range x.Files {
			arts[f.Path] = feed.Artifact{Path: f.Path}
		}
		made := time.Now()
		c := newCatalog(x, feed.View{Content: &snapshot{Named: arts}, Published: taken})
		cat := time.Since(made)
		sc := c.scope("all", "", taken)
		all := time.Since(made)
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(len(x.Revisions)), "revisions")
		b.ReportMetric(float64(len(sc.members)), "in-scope")
		b.ReportMetric(cat.Seconds(), "catalogue-s")
		b.ReportMetric((all - cat).Seconds(), "scope-s")
		b.ReportMetric(opened.Seconds()/float64(b.N+1), "index-s")
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
		b.ReportMetric(resident("VmHWM"), "peak-RSS-MiB")
		runtime.KeepAlive(sc)
	}
}
