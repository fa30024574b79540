package mirror_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// sh runs a tool of the system; the test ends as cannot says if it fails.
func sh(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		cannot(t, fmt.Sprintf("%s: %v %s", strings.Join(args, " "), err, out))
	}
	return strings.TrimSpace(string(out))
}

// mounted makes a mount point for a file system in an image.
func mounted(t *testing.T, image string, options string) (dir string, unmount func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "mnt")
	ok(t, os.Mkdir(dir, 0o755))
	sh(t, "mount", "-o", options, image, dir)
	gone := false
	unmount = func() {
		if !gone {
			gone = true
			if err := exec.Command("umount", dir).Run(); err != nil {
				exec.Command("umount", "-l", dir).Run()
			}
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// cutPlan is what the child of TestPowerCuts does.
type cutPlan struct {
	In    string
	Media []string
	Now   time.Time
}

// TestPowerCutChild imports and publishes one bundle after the other and says
// so after each: what it said must survive whatever comes.
func TestPowerCutChild(t *testing.T) {
	if os.Getenv("HASHIKE_CUT_PLAN") == "" {
		t.Skip("a child of TestPowerCuts")
	}
	var plan cutPlan
	ok(t, json.Unmarshal([]byte(os.Getenv("HASHIKE_CUT_PLAN")), &plan))
	x := insideOf(t, plan.In, plan.Now)
	for i, m := range plan.Media {
		_, err := x.take(m)
		ok(t, err)
		fmt.Printf("\nimported %d\n", i+1)
		for _, f := range x.feeds {
			_, err = x.publisher().Publish(context.Background(), f, "", mirror.PublishOptions{Now: true, By: "child"})
			ok(t, err)
		}
		fmt.Printf("\npublished %d\n", i+1)
	}
}

// insideOf is a crossing of which only the inside is there.
func insideOf(t testing.TB, dir string, now time.Time) *crossing {
	t.Helper()
	x := &crossing{t: t, now: now, feeds: []string{"alpha", "beta"}, in: state.Dir(dir)}
	x.inDB = state.At(x.in, "test")
	var err error
	x.inCAS, err = cas.Open(dir, x.clock)
	ok(t, err)
	return x
}

func (x *crossing) served() (out []feed.Setup) {
	for _, f := range x.feeds {
		out = append(out, feed.Setup{Name: f, Kind: feed.Kind{Name: "tiny"}, Feed: plain{}, Mount: "/" + f + "/"})
	}
	return out
}

func (x *crossing) publisher() *mirror.Publisher {
	return mirror.NewPublisher(mirror.Options{Data: x.in, DB: x.inDB, Store: x.inCAS, Feeds: x.served(), Clock: x.clock, Who: "tester"})
}

// Real power cuts: while imports write to ext4 on a loop device, its image is
// copied by reflink on btrfs, which is one instant of the block device. The
// copy is mounted, the journal replays, and everything that was said to be done
// is there, everything served is right, and the import goes on.
//
// HASHIKE_CUTS sets the number: 1,000 in bench/run cuts.
func TestPowerCuts(t *testing.T) {
	if os.Getuid() != 0 {
		cannot(t, "power cuts need root for loop devices and btrfs")
	}
	cuts := setting("HASHIKE_CUTS", 6)
	if os.Getenv("HASHIKE_CI") == "1" && !testing.Short() {
		cuts = setting("HASHIKE_CUTS", 40)
	}
	rnd := rand.New(rand.NewPCG(uint64(setting("HASHIKE_SEED", 1)), 10))
	pool := filepath.Join(memory(t), "pool.img")
	ok(t, os.WriteFile(pool, nil, 0o600))
	ok(t, os.Truncate(pool, 3<<30))
	sh(t, "mkfs.btrfs", "-q", pool)
	base, _ := mounted(t, pool, "loop")
	disk := filepath.Join(base, "disk.img")
	ok(t, os.WriteFile(disk, nil, 0o600))
	ok(t, os.Truncate(disk, 256<<20))
	sh(t, "mkfs.ext4", "-q", "-F", disk)
	dir, _ := mounted(t, disk, "loop")

	x := newCrossing(t, memory(t))
	var plan cutPlan
	contents := []map[string]map[string][]byte{}
	for i := range 6 {
		state := map[string]map[string][]byte{}
		for _, f := range x.feeds {
			state[f] = genuine(fmt.Sprint(f, i, "a"), fmt.Sprint(f, i, "b"), "same")
		}
		m, _ := x.pack(filepath.Join(memory(t), "m"), nil, x.snapshot("alpha", state["alpha"]), x.snapshot("beta", state["beta"]))
		plan.Media, contents = append(plan.Media, m), append(contents, state)
	}
	plan.In, plan.Now = filepath.Join(dir, "inside"), x.now.Add(time.Hour)
	x.now = plan.Now

	done, mid := 0, 0
	for done < cuts {
		ok(t, os.RemoveAll(plan.In))
		ok(t, os.CopyFS(plan.In, os.DirFS(string(x.in)))) // freshly paired
		sh(t, "sync", "-f", dir)
		var imported, published atomic.Int64
		child, ended := startCutChild(t, plan, &imported, &published)
		for running := true; running && done < cuts; {
			select {
			case err := <-ended:
				ok(t, err)
				running = false
			case <-time.After(time.Duration(rnd.IntN(120)) * time.Millisecond):
			}
			i, p := int(imported.Load()), int(published.Load()) // said before the cut
			crash := filepath.Join(base, "crash.img")
			sh(t, "cp", "--reflink=always", disk, crash)
			if done++; checkCut(t, x, crash, plan, contents, i, p) {
				mid++
			}
			ok(t, os.Remove(crash))
			if done%100 == 0 {
				t.Logf("%d cuts done, %d of them in the midst", done, mid)
			}
		}
		child.Process.Kill()
	}
	t.Logf("%d power cuts, %d of them in the midst of an import or publish", done, mid)
}

func startCutChild(t *testing.T, plan cutPlan, imported, published *atomic.Int64) (*exec.Cmd, chan error) {
	t.Helper()
	text, err := json.Marshal(plan)
	ok(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestPowerCutChild$")
	cmd.Env = append(os.Environ(), "HASHIKE_CUT_PLAN="+string(text))
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	ended := make(chan error, 1)
	go func() {
		var said []string
		for s := bufio.NewScanner(out); s.Scan(); {
			var n int64
			if _, err := fmt.Sscanf(s.Text(), "imported %d", &n); err == nil {
				imported.Store(n)
			} else if _, err := fmt.Sscanf(s.Text(), "published %d", &n); err == nil {
				published.Store(n)
			} else {
				said = append(said, s.Text())
			}
		}
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, strings.Join(said, "\n"))
		}
		ended <- err
	}()
	return cmd, ended
}

// checkCut mounts what was on the disk at the cut. It reports whether work was
// left to do.
func checkCut(t *testing.T, x *crossing, image string, plan cutPlan, contents []map[string]map[string][]byte, imported, published int) bool {
	t.Helper()
	dir, unmount := mounted(t, image, "loop")
	defer unmount()
	in := insideOf(t, filepath.Join(dir, "inside"), plan.Now)
	defer in.inCAS.Close()
	var a packager.Accepted
	ok(t, in.inDB.View(func(tx state.Tx) (err error) { a, _, err = packager.Current(tx); return err }))
	if int(a.Number) < imported {
		t.Fatalf("bundle %d was said to be imported, after the cut it is %d", imported, a.Number)
	}
	for _, f := range in.feeds {
		st := in.state(f)
		if imported > 0 && int(st.Bundle) < imported {
			t.Fatalf("%s: bundle %d was said to be imported, the state is of %d", f, imported, st.Bundle)
		}
		if st.Serial != 0 {
			in.whole(f)
		}
	}
	ok(t, in.inCAS.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
		return in.inCAS.Verify(context.Background(), d)
	}))
	at := serves(t, in, contents)
	if at < published {
		t.Fatalf("bundle %d was said to be published, after the cut %d is served", published, at)
	}
	if int(a.Number) == len(plan.Media) && at == len(plan.Media) {
		return false
	}
	// The next start goes on.
	_, err := in.take(plan.Media[len(plan.Media)-1])
	ok(t, err)
	for _, f := range in.feeds {
		in.whole(f)
		_, err := in.publisher().Publish(context.Background(), f, "", mirror.PublishOptions{Now: true, By: "tester"})
		ok(t, err)
	}
	if at := serves(t, in, contents); at != len(plan.Media) {
		t.Fatalf("after going on, bundle %d is served", at)
	}
	return true
}

// serves asks a mirror for every file of every feed: each feed serves one
// bundle's state, byte for byte. It returns the oldest; 0 is nothing.
func serves(t *testing.T, in *crossing, contents []map[string]map[string][]byte) int {
	t.Helper()
	s, err := mirror.NewServer(mirror.ServerOptions{Data: in.in, Store: in.inCAS, Feeds: in.served(), Listen: []mirror.Listen{{Addr: "127.0.0.1:0"}}, Clock: in.clock})
	ok(t, err)
	defer s.Close()
	oldest := len(contents)
	for _, f := range in.feeds {
		ask := func(name string) (int, string) {
			w := httptest.NewRecorder()
			s.Handler(0).ServeHTTP(w, httptest.NewRequest("GET", "/"+f+"/"+name, nil))
			return w.Code, w.Body.String()
		}
		at := 0
		_, large := ask("large")
		for i, c := range contents {
			if large == string(c[f]["large"]) {
				at = i + 1
			}
		}
		if oldest = min(oldest, at); at == 0 {
			if code, _ := ask("large"); code == 200 {
				t.Fatalf("%s serves bytes of no bundle", f)
			}
			continue
		}
		for name, c := range contents[at-1][f] {
			if code, b := ask(name); code != 200 || b != string(c) {
				t.Fatalf("%s/%s of bundle %d: %d", f, name, at, code)
			}
		}
	}
	return oldest
}

// A medium pulled in mid-import: the image behind it is cut off, reads fail as
// those of a removed stick do, and the mount goes. The message says so, and
// with the medium back the import goes on.
func TestPulledMedium(t *testing.T) {
	if os.Getuid() != 0 {
		cannot(t, "needs root to mount an image")
	}
	x := newCrossing(t, memory(t))
	files := genuine("1")
	for i := range 8 {
		files[fmt.Sprint("large", i)] = random(4 << 20)
	}
	good, _ := x.pack(filepath.Join(memory(t), "m"), nil, x.snapshot("alpha", files))
	image := filepath.Join(memory(t), "stick.img")
	ok(t, os.WriteFile(image, nil, 0o600))
	ok(t, os.Truncate(image, 96<<20))
	sh(t, "mkfs.ext4", "-q", "-F", image)
	dir, unmount := mounted(t, image, "loop")
	ok(t, os.CopyFS(filepath.Join(dir, "bundle"), os.DirFS(good)))
	unmount()
	dir, unmount = mounted(t, image, "loop,ro")
	back := image + ".back"
	sh(t, "cp", "--sparse=always", image, back)
	o := x.options()
	pulled := false
	o.Progress = func(p packager.Progress) {
		if p.Stage == "absorb" && p.Done > 9<<20 && !pulled {
			pulled = true
			ok(t, os.Truncate(image, 0))
			exec.Command("umount", "-l", dir).Run()
			ok(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0o200))
		}
	}
	_, err := mirror.Import(context.Background(), o, []string{filepath.Join(dir, "bundle")})
	if code(err) != "H-803" || !pulled {
		t.Fatalf("pulled %v: %v", pulled, err)
	}
	if x.state("alpha").Serial != 0 {
		t.Error("accepted what was not read")
	}
	stored := 0
	ok(t, x.inCAS.Walk(context.Background(), func(d feed.Digest, _ int64, _ time.Time) error {
		stored++
		return x.inCAS.Verify(context.Background(), d)
	}))
	again, _ := mounted(t, back, "loop,ro")
	r, err := x.take(filepath.Join(again, "bundle"))
	ok(t, err)
	if x.whole("alpha"); stored == 0 || int(r.Blobs) > len(files)-stored {
		t.Errorf("%d blobs were stored before the medium went, %d again", stored, r.Blobs)
	}
	t.Logf("%d of %d blobs were kept from before", stored, len(files))
}

// Importing changes nothing on a medium that could be written: no name, no
// content, no time of change of any file or directory.
func TestImportLeavesTheMediumAlone(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	dir, _ := x.pack(filepath.Join(t.TempDir(), "m"), nil, x.snapshot("alpha", genuine("1")))
	look := func() string {
		var b strings.Builder
		ok(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := os.Lstat(p)
			if err != nil {
				return err
			}
			sys := st.Sys().(*syscall.Stat_t)
			sum := feed.Digest("")
			if d.Type().IsRegular() {
				raw, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				sum = feed.DigestOf(raw)
			}
			fmt.Fprintln(&b, p, st.Mode(), st.Size(), sys.Mtim, sys.Ctim, sys.Nlink, sum)
			return nil
		}))
		return b.String()
	}
	before := look()
	for range 2 {
		_, err := x.take(dir)
		ok(t, err)
	}
	x.whole("alpha")
	if after := look(); after != before {
		t.Errorf("the medium was changed:\n%s\nbefore:\n%s", after, before)
	}
}
