//go:build linux

// Command bench measures Hashike against a peer or a physical limit. It drives
// the real command, one process per step, as an operator would; only imports
// of the bound and the peers are its own. docs/benchmarks.md has results.
//
// Every comparison takes turns A B A B in one run and reports the median of
// the pairs' ratios: the machine's speed drifts, the ratio does not. Nothing
// here asserts a time.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// lab is where a benchmark works.
type lab struct {
	dir     string // scratch, on a real disk
	program string // the hashike command
	out     io.Writer
	runs    int   // pairs per comparison
	scale   int   // per cent of the full size; for trying the benchmarks out
	seconds int   // of each load on a server
	giant   int64 // bytes of the one huge artifact
	n       int   // repetitions of a proof; 0 is its full number
	seed    int   // of its randomness
}

// benchmark is one table of docs/benchmarks.md.
type benchmark struct {
	name, what string
	run        func(*lab) error
}

func benchmarks() []benchmark {
	return []benchmark{
		{"large", "import of large files against the bound of read, SHA-256, write and fsync", large},
		{"small", "import of small files: files per second, and against a raw loop", small},
		{"many", "100,000 artifacts: peak memory, a fetch with nothing new, start of serve", many},
		{"giant", "one artifact of 20 GB: peak memory and speed", giant},
		{"publish", "failed requests while generations change under load", publish},
		{"serve", "requests and bytes per second against http.FileServer and nginx", serve},
		{"carry", "pack and import against skopeo copy", carry},
		{"histories", "10,000 random carry histories of two years against the reference model", histories},
		{"flips", "1,000,000 byte flips over bundle and store", flips},
		{"damage", "1,000 damage patterns inside the parity guarantee, and need lists beyond it", damage},
		{"preflight", "dry run and memory with 500,000 files", preflight},
		{"size", "pack and import of 200 GiB (-n GiB) from a sparse source: memory and speed", bundleSize},
		{"cuts", "1,000 power cuts during imports (root, loop devices, btrfs)", cuts},
		{"fetch", "fetch of an archive against debmirror", fetch},
		{"mar", "verdicts on MAR files against the vendor's own libmar (downloads Debian's firefox-esr source, 700 MB)", archives},
		{"month", "what a month, a week and a day of a Debian suite weigh against the whole", month},
		{"diode", "the one-way line between two network namespaces: goodput at 0, 1 and 5 % loss, flat out, against udpcast (root)", oneWay},
		{"diode-runs", "200 transfers (-n) over the one-way line at 0, 1, 5 and 10 % loss with receiver restarts, all compared (root)", oneWayRuns},
		{"diode-soak", "an hour (-seconds) of bundles over the one-way line at 1 % loss: memory, nothing lost (root)", oneWaySoak},
		{"load", "10,000 Windows terminals over a compressed day and a herd of 3,000, over 20,000 revisions", terminalLoad},
		{"wsus", "100,000 revisions of Windows updates: opening and memory", updates},
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "fileserver" { // the peer of "serve", as a process of its own
		fail(fileServer(os.Args[2], os.Args[3]))
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "echo" { // the peer of "load"
		fail(echoServer(os.Args[2]))
		return
	}
	l := &lab{out: os.Stdout}
	flag.StringVar(&l.dir, "dir", "", "scratch directory that also holds the built command")
	flag.IntVar(&l.runs, "runs", 5, "pairs per comparison")
	flag.IntVar(&l.scale, "scale", 100, "per cent of the full sizes")
	flag.IntVar(&l.seconds, "seconds", 5, "seconds of each load")
	flag.Int64Var(&l.giant, "giant", 20_000_000_000, "bytes of the huge artifact")
	flag.IntVar(&l.n, "n", 0, "repetitions of a proof instead of its full number")
	flag.IntVar(&l.seed, "seed", 1, "seed of a proof")
	flag.Usage = usage
	flag.Parse()
	l.program = filepath.Join(l.dir, "hashike")
	name := flag.Arg(0)
	if flag.NArg() > 1 { // flags may follow the name
		fail(flag.CommandLine.Parse(flag.Args()[1:]))
	}
	if name == "" || l.dir == "" {
		usage()
		os.Exit(2)
	}
	found := false
	for _, b := range benchmarks() {
		if name != "all" && name != b.name {
			continue
		}
		found = true
		fmt.Fprintf(l.out, "## %s: %s\n\n%s\n\n", b.name, b.what, machine(l.dir))
		if err := b.run(l); err != nil {
			fail(fmt.Errorf("%s: %w", b.name, err))
		}
		fmt.Fprintln(l.out)
	}
	if !found {
		usage()
		os.Exit(2)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "bench/run NAME|all [-runs N] [-scale PERCENT] [-seconds N] [-giant BYTES] [-n N] [-seed N]")
	for _, b := range benchmarks() {
		fmt.Fprintf(os.Stderr, "  %-10s %s\n", b.name, b.what)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// of scales a count down for a trial run.
func (l *lab) of(n int) int { return max(n*l.scale/100, 1) }

// temp makes an empty directory, and a function that removes it.
func (l *lab) temp(name string) (string, func()) {
	dir, err := os.MkdirTemp(l.dir, name+"-")
	fail(err)
	return dir, func() { os.RemoveAll(dir) }
}

// machine is what a reader must know of where it ran: no name, no path.
func machine(dir string) string {
	field := func(path, key string) string {
		b, _ := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, key); ok {
				return strings.TrimSpace(strings.TrimLeft(v, " \t:"))
			}
		}
		return "?"
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	load, _ := os.ReadFile("/proc/loadavg")
	now := strings.Join(strings.Fields(string(load))[:3], " ")
	return fmt.Sprintf("%s, %d cores (%s), memory %s, Linux %s, %s, %s, load before %s", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(),
		field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal"), release, fileSystem(dir), runtime.Version(), now)
}

// fileSystem is the type of the mount that holds dir.
func fileSystem(dir string) string {
	b, _ := os.ReadFile("/proc/self/mounts")
	best, kind := "", "?"
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 2 && strings.HasPrefix(dir+"/", strings.TrimSuffix(f[1], "/")+"/") && len(f[1]) >= len(best) {
			best, kind = f[1], f[2]
		}
	}
	return kind
}

// spread is a sample of one quantity.
type spread []float64

func (s spread) sorted() spread { return slices.Sorted(slices.Values(s)) }

func (s spread) median() float64 {
	if len(s) == 0 {
		return 0
	}
	v := s.sorted()
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// text is the median with least and most: "1.02 (0.97–1.10)".
func (s spread) text(format string) string {
	if len(s) == 0 {
		return "-"
	}
	v := s.sorted()
	return fmt.Sprintf(format+" ("+format+"–"+format+")", s.median(), v[0], v[len(v)-1])
}

// ratios divides pair by pair.
func ratios(a, b spread) spread {
	var out spread
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	return out
}

// row prints one line of a Markdown table.
func (l *lab) row(cells ...string) { fmt.Fprintf(l.out, "| %s |\n", strings.Join(cells, " | ")) }

func (l *lab) head(cells ...string) {
	l.row(cells...)
	l.row(slices.Repeat([]string{"---"}, len(cells))...)
}
