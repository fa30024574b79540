//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"time"
)

// The long runs of tests that CI makes short: the same code, more of it. A
// failure prints the seed that repeats it.

func histories(l *lab) error {
	return l.tests("./mirror", "TestCarryHistories", "HASHIKE_HISTORIES", l.count(10_000))
}

func flips(l *lab) error {
	return l.tests("./mirror", "TestFlips", "HASHIKE_FLIPS", l.count(1_000_000))
}

func damage(l *lab) error {
	return l.tests("./packager", "TestDamageInsideTheGuaranteeIsRepaired|TestNeedListIsExactAndRepairs", "HASHIKE_PATTERNS", l.count(1000))
}

func cuts(l *lab) error { return l.tests("./mirror", "TestPowerCuts", "HASHIKE_CUTS", l.count(1000)) }

func preflight(l *lab) error {
	return l.tests("./packager", "TestPreflightOfManyFiles", "HASHIKE_FILES", l.count(500_000))
}

// bundleSize takes twice -n GiB of the scratch disk: medium and inside.
func bundleSize(l *lab) error {
	os.Setenv("TMPDIR", l.dir)
	return l.tests("./packager", "TestMemoryOfALargeBundle", "HASHIKE_GIB", l.count(200))
}

// count is -n, or the full number.
func (l *lab) count(full int) int {
	if l.n > 0 {
		return l.n
	}
	return full
}

// tests runs tests of a package from the working directory, which is the clone's.
func (l *lab) tests(pkg, run, env string, n int) error {
	began := time.Now()
	cmd := exec.Command("go", "test", pkg, "-count=1", "-v", "-timeout=0", "-run", "^("+run+")")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", env, n), fmt.Sprintf("HASHIKE_SEED=%d", l.seed))
	cmd.Stdout, cmd.Stderr = l.out, os.Stderr
	err := cmd.Run()
	fmt.Fprintf(l.out, "%d from seed %d in %s\n", n, l.seed, time.Since(began).Round(time.Second))
	return err
}
