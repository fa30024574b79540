//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
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

// bundleSize takes twice -n GiB of the scratch disk: medium and inside. Where
// the disk has not so much, root gets it by compression: the payload is zeros
// but for a number in each file. The bytes are hashed, coded and read all the
// same; only the disk's speed is not measured then.
func bundleSize(l *lab) error {
	gib := l.count(200)
	dir, done, err := roomFor(l, int64(gib)*23/10<<30)
	if err != nil {
		return err
	}
	defer done()
	os.Setenv("TMPDIR", dir)
	return l.tests("./packager", "TestMemoryOfALargeBundle", "HASHIKE_GIB", gib)
}

// roomFor is the scratch directory, or a compressing file system in it.
func roomFor(l *lab, need int64) (string, func(), error) {
	var st unix.Statfs_t
	if err := unix.Statfs(l.dir, &st); err != nil {
		return "", nil, err
	}
	if int64(st.Bavail)*st.Bsize > need {
		return l.dir, func() {}, nil
	}
	image, at := filepath.Join(l.dir, "room.img"), filepath.Join(l.dir, "room")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, need), os.Mkdir(at, 0o700)); err != nil {
		return "", nil, err
	}
	for _, c := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop,compress-force=zstd:1", image, at}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("%d bytes are needed, and %s: %w: %s", need, c[0], err, out)
		}
	}
	fmt.Fprintln(l.out, "on a compressing file system: the disk has no room")
	return at, func() { exec.Command("umount", at).Run() }, nil
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
