package main

import (
	"crypto/sha256"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func noise(n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return string(b)
}

// sums is the digest of every file below dir, by name.
func sums(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[filepath.ToSlash(rel)] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Images of several volumes, each within its size: what independent tools take
// out of them imports, and so do the images themselves.
func TestImages(t *testing.T) {
	xorriso, isoinfo := need(t, "xorriso"), need(t, "isoinfo")
	files := map[string]string{"big.bin": noise(70 << 20), "other.bin": noise(60<<20 + 7), "third.bin": noise(30 << 20)}
	for _, n := range []string{"a", "b", "c", "d"} {
		files[n] = noise(1000 + len(files))
	}
	w := treeWorld(t, files)
	w.outside("fetch")
	to := w.path("images")
	out := w.outside("pack", "--to", to, "--iso", "--volume-size", "100MB", "--clock-checked", "test")
	images, err := filepath.Glob(filepath.Join(to, "*"))
	if err != nil || len(images) < 3 || !strings.Contains(out, "hashike-00001-1of") {
		t.Fatalf("%v %v\n%s", images, err, out)
	}
	if _, err := os.Stat(w.path(outside, "outbox", "iso")); err == nil {
		t.Error("the volumes were left behind")
	}
	var dirs []string
	for i, image := range images {
		st, err := os.Stat(image)
		if err != nil || st.Size() > 100e6 || st.Size()%2048 != 0 {
			t.Errorf("%s: %d bytes, %v", image, st.Size(), err)
		}
		dir := w.path("taken", filepath.Base(image))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, exec.Command(xorriso, "-osirrox", "on", "-indev", image, "-extract", "/", dir))
		must(t, exec.Command("chmod", "-R", "u+w", dir))
		dirs = append(dirs, dir)
		if i > 0 {
			continue
		}
		for name := range sums(t, dir) {
			cmd := exec.Command(isoinfo, "-J", "-i", image, "-x", "/"+name)
			got, err := cmd.Output()
			if want := sums(t, dir)[name]; err != nil || sha256.Sum256(got) != want {
				t.Errorf("isoinfo: %s has %d bytes, %v", name, len(got), err)
			}
			break
		}
		list := must(t, exec.Command(isoinfo, "-J", "-f", "-i", image))
		for name := range sums(t, dir) {
			if !strings.Contains(list, "/"+name) {
				t.Errorf("isoinfo lacks %s", name)
			}
		}
	}
	w.inside("import", dirs[1]) // as a directory
	w.inside("import", images[2])
	bad := w.path("bad.iso") // a scratch beyond what parity could do, and then the good one
	b, err := os.ReadFile(images[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := 2 << 20; i < len(b)-(2<<20); i += 1 << 20 {
		b[i] ^= 1
	}
	if err := os.WriteFile(bad, b, 0o644); err != nil {
		t.Fatal(err)
	}
	w.fails(exitDamaged, "H-701", "--data", w.path(inside), "import", bad)
	w.fails(exitConfig, "H-213", "--data", w.path(inside), "import", filepath.Join(w.path(outside), "hashike.toml"))
	w.inside("import", to) // the folder of images
	w.inside("publish", "--now")
	if w.serial(inside, "tools") != w.serial(outside, "tools") {
		t.Error("the images did not bring the state")
	}
	// What cannot be asked for.
	for _, args := range [][]string{{"--volume-size", "usb"}, {"--to", w.path("second")}} {
		if _, _, code := w.run("", append([]string{"--data", w.path(outside), "pack", "--to", to, "--iso", "--clock-checked", "test"}, args...)...); code != exitConfig {
			t.Errorf("%v: exit %d", args, code)
		}
	}
}
