package tree

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
)

const (
	sumA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
	sumB = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
)

func TestParseList(t *testing.T) {
	text := "# comment\r\n\n" + sumA + "  a\r\n" + strings.ToUpper(sumB) + " *./sub/b (1) = x\n" +
		"SHA256 (c (2) = y) = " + sumA + "\n" +
		"MD5 (a) = 0cc175b9c0f1b6a831c399e269772661\nSHA512/256 (a) = " + sumB + "\n0cc175b9c0f1b6a831c399e269772661  a\n" +
		sumA + "  a\n"
	got, err := parseList([]byte(text), ".")
	want := []entry{{"a", "sha256:" + sumA}, {"sub/b (1) = x", "sha256:" + sumB}, {"c (2) = y", "sha256:" + sumA}}
	if err != nil || cmp.Diff(want, got, cmp.AllowUnexported(entry{})) != "" {
		t.Error(err, cmp.Diff(want, got, cmp.AllowUnexported(entry{})))
	}
	if got, err = parseList([]byte(sumA+"  a"), "dists/x"); err != nil || got[0].path != "dists/x/a" {
		t.Error(got, err)
	}
	for name, bad := range map[string]string{
		"empty":       "",
		"rubbish":     "<html>\n",
		"traversal":   sumA + "  ../a\n",
		"absolute":    sumA + "  /etc/a\n",
		"inner":       sumA + "  a/../../b\n",
		"backslash":   "\\" + sumA + "  a\\nb\n",
		"drive":       sumA + "  c:x\n",
		"control":     sumA + "  a\x01\n",
		"two digests": sumA + "  a\n" + sumB + "  a\n",
		"short":       sumA[:63] + "  a\n",
		"bsd short":   "SHA256 (a) = " + sumA[:63] + "\n",
		"no name":     sumA + "  \n",
		"long":        sumA + "  " + strings.Repeat("a", maxLine) + "\n",
		"md5 only":    "0cc175b9c0f1b6a831c399e269772661  a\n",
	} {
		for _, dir := range []string{".", "sub"} {
			if got, err := parseList([]byte(bad), dir); !errors.Is(err, feed.ErrUpstream) {
				t.Errorf("%s: %v %v", name, got, err)
			}
		}
	}
}

// TestParseListAgainstCoreutils: what sha256sum writes is read as it meant it.
func TestParseListAgainstCoreutils(t *testing.T) {
	tool, err := exec.LookPath("sha256sum")
	if err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("sha256sum is missing")
		}
		t.Skip("sha256sum is not installed")
	}
	dir := t.TempDir()
	files := map[string]string{"a": "1", "b c": "2", "日本語.txt": "3", "d (x) = y": "4", "- e": "5", "*f": "6"}
	var names []string
	want := map[string]feed.Digest{}
	for n, body := range files {
		os.WriteFile(filepath.Join(dir, n), []byte(body), 0o600)
		names = append(names, n)
		want[n] = feed.DigestOf([]byte(body))
	}
	for _, mode := range []string{"--text", "--binary", "--tag"} {
		cmd := exec.Command(tool, append([]string{mode, "--"}, names...)...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(mode, err)
		}
		entries, err := parseList(out, ".")
		got := map[string]feed.Digest{}
		for _, e := range entries {
			got[e.path] = e.digest
		}
		if err != nil || cmp.Diff(want, got) != "" {
			t.Error(mode, err, cmp.Diff(want, got))
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte(sumA+"  a\n"+sumB+" *b/c\nSHA256 (d) = "+sumA+"\n"), "x/y")
	f.Add([]byte("SHA256 () = \n \\"+sumA+"  ..\n#\n"), ".")
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n- "+sumA+"  a\n-----BEGIN PGP SIGNATURE-----\n"), ".")
	f.Fuzz(func(t *testing.T, text []byte, dir string) {
		if dir != "." && !feed.ValidPath(dir) {
			dir = "."
		}
		if inner, err := clearText(text); err == nil {
			parseList(inner, dir)
		}
		entries, err := parseList(text, dir)
		if (err == nil) == (len(entries) == 0) {
			t.Fatalf("%d entries and %v", len(entries), err)
		}
		seen := map[string]bool{}
		for _, e := range entries {
			_, derr := feed.ParseDigest(string(e.digest))
			if !feed.ValidPath(e.path) || seen[e.path] || derr != nil || (dir != "." && !strings.HasPrefix(e.path, dir+"/")) {
				t.Fatalf("entry %+v below %q", e, dir)
			}
			seen[e.path] = true
		}
	})
}
