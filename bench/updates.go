//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// updates measures how the index of Windows updates opens: it is Go's own
// benchmark in internal/feed/wsus, run once to make the files and then afresh,
// so that memory is that of opening alone. It needs HASHIKE_SAMPLES.
func updates(l *lab) error {
	if os.Getenv("HASHIKE_SAMPLES") == "" {
		return fmt.Errorf("HASHIKE_SAMPLES is not set")
	}
	dir, remove := l.temp("wsus")
	defer remove()
	bench := func() (string, error) {
		c := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkOpen$", "-benchtime", "1x", "./internal/feed/wsus")
		c.Env, c.Stderr = append(os.Environ(), "HASHIKE_WSUS_MADE="+dir), os.Stderr
		b, err := c.Output()
		return string(b), err
	}
	if _, err := bench(); err != nil {
		return err
	}
	got := map[string]spread{}
	var units []string
	for range l.runs {
		out, err := bench()
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkOpen") {
				continue
			}
			for i := 2; i+1 < len(f); i += 2 {
				var v float64
				if _, err := fmt.Sscan(f[i], &v); err != nil {
					return err
				}
				if got[f[i+1]] == nil {
					units = append(units, f[i+1])
				}
				got[f[i+1]] = append(got[f[i+1]], v)
			}
		}
	}
	l.head("quantity", "median (least–most)")
	for _, u := range units {
		l.row(u, got[u].text("%.4g"))
	}
	return nil
}
