//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// layoutRefs are the names of an OCI layout's manifests.
func layoutRefs(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	err = json.Unmarshal(b, &index)
	var out []string
	for _, m := range index.Manifests {
		out = append(out, m.Annotations["org.opencontainers.image.ref.name"])
	}
	return out, err
}

// fetch mirrors a generated archive from nothing, in turn with debmirror.
func fetch(l *lab) error {
	if _, err := exec.LookPath("debmirror"); err != nil {
		return errors.New("debmirror is needed: apt-get install debmirror")
	}
	dir, done := l.temp("fetch")
	defer done()
	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.close()
	a := aptVendor{u}
	files := blobs("pool", l.of(2000), 100_000)
	if err := a.offer(files); err != nil {
		return err
	}
	var ours, theirs spread
	for range l.runs {
		s, err := fetchOnce(l, dir, a)
		if err != nil {
			return err
		}
		ours = append(ours, s)
		if s, err = debmirror(dir, u); err != nil {
			return err
		}
		theirs = append(theirs, s)
	}
	l.head("archive", "hashike fetch s (each file flushed)", "debmirror + sync s", "hashike / debmirror")
	l.row(fmt.Sprintf("%d packages of %d kB", len(files), files[0].size/1000), ours.text("%.1f"), theirs.text("%.1f"), ratios(ours, theirs).text("%.2f"))
	return nil
}

func fetchOnce(l *lab, dir string, v vendor) (float64, error) {
	sub, err := os.MkdirTemp(dir, "world-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(sub)
	w, err := newWorld(l, sub, v)
	if err != nil {
		return 0, err
	}
	settle(dir)
	c, err := w.run("outside", "", "fetch")
	return c.seconds, err
}

// debmirror does not check the archive's signature here (its keyring would be
// gpg's own); it checks sizes and digests as it always does.
func debmirror(dir string, u *upstream) (float64, error) {
	to, err := os.MkdirTemp(dir, "debmirror-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(to)
	conf := filepath.Join(to, "debmirror.conf") // not the machine's
	if err := os.WriteFile(conf, []byte("1;\n"), 0o600); err != nil {
		return 0, err
	}
	settle(dir)
	c, err := child(exec.Command("debmirror", "--method=http", "--host="+strings.TrimPrefix(u.url, "http://"), "--root=/", "--dist=bench", "--section=main",
		"--arch=amd64", "--nosource", "--no-check-gpg", "--diff=none", "--rsync-extra=none", "--config-file="+conf, filepath.Join(to, "archive")))
	if err != nil {
		return 0, err
	}
	if got := treeSize(filepath.Join(to, "archive", "pool")); got == 0 {
		return 0, fmt.Errorf("debmirror brought nothing:\n%s", c.output)
	}
	s, err := child(exec.Command("sync", "-f", to))
	return c.seconds + s.seconds, err
}
