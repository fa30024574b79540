//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The benchmarks drive the real command. Here each of these runs once at a
// hundredth of its size, so that they go on working while commands change; no
// figure is judged.
func TestBenchmarksRun(t *testing.T) {
	if testing.Short() {
		t.Skip("the command is measured without the race detector")
	}
	if _, err := exec.LookPath("skopeo"); err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("no skopeo, which is the peer of carry")
	}
	dir := t.TempDir()
	out := new(bytes.Buffer)
	l := &lab{dir: dir, program: filepath.Join(dir, "hashike"), out: out, runs: 1, scale: 1, seconds: 1, giant: 8 << 20, n: 1, seed: 1}
	if b, err := exec.Command("go", "build", "-o", l.program, "../cmd/hashike").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for _, b := range benchmarks() {
		switch b.name {
		case "large", "small", "giant", "carry":
			t.Run(b.name, func(t *testing.T) {
				out.Reset()
				if err := b.run(l); err != nil {
					t.Fatal(err)
				}
				if rows := strings.Count(out.String(), "\n|"); rows < 2 {
					t.Errorf("no row:\n%s", out)
				}
			})
		}
	}
}
