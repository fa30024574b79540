//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"sync"
)

// many takes 100,000 artifacts of 4 KiB through every step, once as a tree and
// once as a whole apt suite, and measures on the way.
func many(l *lab) error {
	files := blobs("pool", l.of(100_000), 4096)
	for _, kind := range []string{"tree", "apt"} {
		if err := manyOf(l, kind, files); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

func manyOf(l *lab, kind string, files []blob) error {
	dir, done := l.temp("many")
	defer done()
	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.close()
	var v vendor = treeVendor{u}
	if kind == "apt" {
		v = aptVendor{u}
		err = aptVendor{u}.offer(files)
	} else {
		err = treeVendor{u}.offer(files)
	}
	if err != nil {
		return err
	}
	w, err := newWorld(l, dir, v)
	if err != nil {
		return err
	}
	fmt.Fprintf(l.out, "### %d artifacts of %s, kind %s\n\n", len(files), size(files[0].size), kind)
	l.head("step", "peak MiB", "seconds", "artifacts/s")
	for _, s := range w.steps() {
		c, err := w.run(s.side, "", s.args...)
		if err != nil {
			return err
		}
		l.row(s.args[0], fmt.Sprintf("%.0f", c.peakMiB), fmt.Sprintf("%.1f", c.seconds), fmt.Sprintf("%.0f", float64(len(files))/c.seconds))
	}
	if err := w.serveMany(files); err != nil {
		return err
	}
	if err := w.unchanged(u); err != nil {
		return err
	}
	return w.starts(files[len(files)/2])
}

// serveMany asks for every tenth file and tells the server's peak.
func (w *world) serveMany(files []blob) error {
	s, base, _, err := w.serve("/" + feedName + "/" + files[0].path)
	if err != nil {
		return err
	}
	peak := watch(s.cmd.Process.Pid)
	var wg sync.WaitGroup
	failed := make([]error, 4)
	for c := range failed {
		wg.Go(func() {
			client := &http.Client{}
			for i := c; i < len(files) && failed[c] == nil; i += 40 {
				_, failed[c] = get(client, base+"/"+feedName+"/"+files[i].path)
			}
		})
	}
	wg.Wait()
	s.stop()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	w.l.row("serve", fmt.Sprintf("%.0f", peak()), "", "")
	fmt.Fprintln(w.l.out)
	return nil
}

// unchanged fetches again and again what the outside has already.
func (w *world) unchanged(u *upstream) error {
	var seconds, peaks spread
	var requests, bytes int64
	for range max(w.l.runs, 5) {
		r, b := u.requests.Load(), u.bytes.Load()
		c, err := w.run("outside", "", "fetch")
		if err != nil {
			return err
		}
		seconds, peaks = append(seconds, c.seconds), append(peaks, c.peakMiB)
		requests, bytes = u.requests.Load()-r, u.bytes.Load()-b
	}
	w.l.head("fetch with nothing new: requests", "bytes", "seconds", "peak MiB")
	w.l.row(fmt.Sprint(requests), fmt.Sprint(bytes), seconds.text("%.2f"), peaks.text("%.0f"))
	fmt.Fprintln(w.l.out)
	return nil
}

// starts measures from the start of the process to the first 200.
func (w *world) starts(b blob) error {
	var took spread
	for range max(w.l.runs, 5) {
		s, _, d, err := w.serve("/" + feedName + "/" + b.path)
		if err != nil {
			return err
		}
		s.stop()
		took = append(took, d.Seconds())
	}
	w.l.head("start of serve to its first answer, seconds")
	w.l.row(took.text("%.3f"))
	fmt.Fprintln(w.l.out)
	return nil
}

// small imports 30,000 files into fresh insides, in turn with the raw loop.
func small(l *lab) error {
	dir, done := l.temp("small")
	defer done()
	files := blobs("pool", l.of(30_000), 4096)
	w, end, err := packedWorld(l, dir, files)
	if err != nil {
		return err
	}
	defer end()
	var ours, raw spread
	for range l.runs {
		c, done, err := w.importAndKeep()
		if err != nil {
			return err
		}
		defer done()
		s, err := rawLoop(dir, files)
		if err != nil {
			return err
		}
		ours, raw = append(ours, float64(len(files))/c.seconds), append(raw, float64(len(files))/s)
	}
	l.head("files", "import files/s", "raw loop files/s", "import / raw loop")
	l.row(fmt.Sprintf("%d × %s", len(files), size(files[0].size)), ours.text("%.0f"), raw.text("%.0f"), ratios(ours, raw).text("%.2f"))
	return nil
}

// giant takes one huge file through every step, once.
func giant(l *lab) error {
	dir, done := l.temp("giant")
	defer done()
	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.close()
	t := treeVendor{u}
	b := blob{path: "huge.bin", seed: 1, size: l.giant}
	b.hash()
	if err := t.offer([]blob{b}); err != nil {
		return err
	}
	w, err := newWorld(l, dir, t)
	if err != nil {
		return err
	}
	l.head("step, one file of "+fmt.Sprintf("%.0f GB", float64(b.size)/1e9), "peak MiB", "seconds", "MB/s")
	for _, s := range w.steps() {
		c, err := w.run(s.side, "", s.args...)
		if err != nil {
			return err
		}
		l.row(s.args[0], fmt.Sprintf("%.0f", c.peakMiB), fmt.Sprintf("%.1f", c.seconds), fmt.Sprintf("%.0f", float64(b.size)/1e6/c.seconds))
		if s.args[0] == "pack" { // two copies at a time are enough
			if err := os.RemoveAll(w.path("outside", "store")); err != nil {
				return err
			}
		}
	}
	return nil
}
