package unpack

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/hashike/hashike/internal/feed"
)

func compress(t testing.TB, tool, text string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(tool, append(args, "-c")...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil && os.Getenv("HASHIKE_CI") == "1" {
		t.Fatalf("%s: %v", tool, err)
	}
	if err != nil {
		t.Skipf("%s: %v", tool, err)
	}
	return out
}

func open(name string, b []byte, limit int64) (string, error) {
	r, err := Open(name, bytes.NewReader(b), int64(len(b)), limit)
	if err != nil {
		return "", err
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	return string(out), err
}

// The tools that vendors use made these streams.
func TestRoundTripWithTheRealTools(t *testing.T) {
	text := strings.Repeat("Package: hashike\nVersion: 1\n\n", 50_000)
	for name, b := range map[string][]byte{
		"a":         []byte(text),
		"a.xz":      compress(t, "xz", text),
		"blocks.xz": compress(t, "xz", text, "--block-size=100000"),
		"best.xz":   compress(t, "xz", text, "-9e"),
		"a.gz":      compress(t, "gzip", text),
		"a.bz2":     compress(t, "bzip2", text),
	} {
		got, err := open(name, b, int64(len(text)))
		if err != nil || got != text {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, err := open(name, b, int64(len(text))-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: one byte over the limit: %v", name, err)
		}
	}
}

// A stream may ask for a 1.5 GiB dictionary in its block header; no real one does.
func TestHugeDictionaryIsRefusedBeforeAllocation(t *testing.T) {
	b := compress(t, "xz", "x", "--lzma2=dict=1536MiB")
	if _, err := open("a.xz", b, 10); !errors.Is(err, feed.ErrUpstream) {
		t.Errorf("got %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	var x bytes.Buffer
	w, _ := xz.NewWriter(&x)
	w.Write([]byte("hello hello hello"))
	w.Close()
	f.Add(".xz", x.Bytes())
	f.Add(".gz", []byte("\x1f\x8b"))
	f.Add(".bz2", []byte("BZh9"))
	f.Add(".zst", []byte("\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, ext string, b []byte) {
		if s, err := open("a"+ext, b, 1<<16); err == nil && len(s) > 1<<16 {
			t.Fatal("over the limit")
		}
	})
}
