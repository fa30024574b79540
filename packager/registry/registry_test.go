package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	server "github.com/google/go-containerregistry/pkg/registry"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
	"github.com/hashike/hashike/packager"
	"github.com/hashike/hashike/packager/registry"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bundle makes a complete bundle with small and large files and parity.
func bundle(t *testing.T) string {
	t.Helper()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	out := state.Dir(filepath.Join(t.TempDir(), "outside"))
	db := state.At(out, "test")
	ok(t, db.Create("outside", 0))
	ok(t, packager.CreateKeys(out, []string{"a", "b", "c"}, now, func([]packager.RootKey) error { return nil }))
	store, err := cas.Open(string(out), func() time.Time { return now })
	ok(t, err)
	defer store.Close()
	b := store.NewSnapshot()
	for name, c := range map[string][]byte{"small": []byte("small"), "empty": nil, "large": bytes.Repeat([]byte("large"), 1<<19)} {
		d, _, err := store.Put(context.Background(), bytes.NewReader(c), "")
		ok(t, err)
		ok(t, b.Add(feed.Artifact{Path: name, Digest: d, Class: feed.Security}))
	}
	s, err := b.Commit(feed.Header{Feed: "alpha", Kind: "tiny", Serial: 1, Taken: now})
	ok(t, err)
	to := filepath.Join(t.TempDir(), "m")
	_, err = packager.Pack(context.Background(), packager.PackOptions{Data: out, DB: db, Store: store, Feeds: []packager.Carry{{Snapshot: s}}, Sites: []int{1}, To: to,
		Parity: 10, Now: now, Who: "tester"})
	ok(t, err)
	return to
}

// tree is every file below dir with its bytes.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	ok(t, fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, rerr := os.ReadFile(filepath.Join(dir, p))
			out[p], err = string(b), rerr
		}
		return err
	}))
	return out
}

func same(t *testing.T, a, b map[string]string) {
	t.Helper()
	if len(a) != len(b) {
		t.Errorf("%d files became %d", len(a), len(b))
	}
	for p, c := range a {
		if b[p] != c {
			t.Errorf("%s differs", p)
		}
	}
}

// there and back: byte for byte.
func thereAndBack(t *testing.T, host string) {
	dir := bundle(t)
	ref := host + "/town/updates:412"
	sent, err := registry.Push(context.Background(), dir, ref)
	ok(t, err)
	for _, from := range []string{ref, host + "/town/updates@" + string(sent.Digest)} {
		to := filepath.Join(t.TempDir(), "pulled")
		got, err := registry.Pull(context.Background(), from, to)
		ok(t, err)
		if got.Digest != sent.Digest || got.Manifests != sent.Manifests {
			t.Errorf("sent %+v, got %+v", sent, got)
		}
		same(t, tree(t, dir), tree(t, to))
		if _, err := registry.Pull(context.Background(), from, to); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("into a directory that is not empty: %v", err)
		}
	}
	again, err := registry.Push(context.Background(), dir, ref)
	if err != nil || again.Digest != sent.Digest {
		t.Errorf("again %+v, %v", again, err)
	}
	if _, err := registry.Pull(context.Background(), host+"/town/updates:none", filepath.Join(t.TempDir(), "x")); !errors.Is(err, feed.ErrConfig) {
		t.Errorf("a tag that is not there: %v", err)
	}
}

func memoryRegistry() http.Handler {
	return server.New(server.Logger(log.New(io.Discard, "", 0)))
}

func TestThereAndBack(t *testing.T) {
	srv := httptest.NewServer(memoryRegistry())
	defer srv.Close()
	thereAndBack(t, strings.TrimPrefix(srv.URL, "http://"))
}

// The registry of the CNCF, distribution v3, built with "go install" by
// .ci/test install; HASHIKE_REGISTRY names it.
func TestDistribution(t *testing.T) {
	program := os.Getenv("HASHIKE_REGISTRY")
	if program == "" {
		if p, err := exec.LookPath("registry"); err == nil {
			program = p
		} else if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("no distribution registry: HASHIKE_REGISTRY is not set")
		} else {
			t.Skip("no distribution registry: HASHIKE_REGISTRY is not set")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	addr := l.Addr().String()
	ok(t, l.Close())
	config := filepath.Join(t.TempDir(), "config.yml")
	ok(t, os.WriteFile(config, []byte(fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", t.TempDir(), addr)), 0o600))
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	ok(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if res, err := http.Get("http://" + addr + "/v2/"); err == nil {
			res.Body.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	thereAndBack(t, addr)
}

// A registry that lies: other bytes, no end, names that lead elsewhere.
func TestHostileRegistry(t *testing.T) {
	dir := bundle(t)
	good := memoryRegistry()
	var lie func(path string, body []byte) []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		good.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if lie != nil && r.Method == "GET" {
			body = lie(r.URL.Path, body)
		}
		for k, v := range rec.Header() {
			if k != "Content-Length" && k != "Docker-Content-Digest" {
				w.Header()[k] = v
			}
		}
		w.WriteHeader(rec.Code)
		w.Write(body)
	}))
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/town/updates:1"
	_, err := registry.Push(context.Background(), dir, ref)
	ok(t, err)
	for name, f := range map[string]func(path string, body []byte) []byte{
		"flipped blobs": func(p string, b []byte) []byte {
			if strings.Contains(p, "/blobs/") && len(b) > 0 {
				b = bytes.Clone(b)
				b[len(b)/2] ^= 1
			}
			return b
		},
		"longer blobs": func(p string, b []byte) []byte {
			if strings.Contains(p, "/blobs/") {
				b = append(bytes.Clone(b), make([]byte, 1<<20)...)
			}
			return b
		},
		"shorter blobs": func(p string, b []byte) []byte {
			if strings.Contains(p, "/blobs/") && len(b) > 0 {
				b = b[:len(b)-1]
			}
			return b
		},
		"a name outside": func(p string, b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"oci-layout"`), []byte(`"../escape"`))
		},
		"an absolute name": func(p string, b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"oci-layout"`), []byte(`"/tmp/escaped"`))
		},
		"flipped manifests": func(p string, b []byte) []byte {
			if strings.Contains(p, "/manifests/sha256:") {
				b = bytes.Replace(bytes.Clone(b), []byte(`"schemaVersion":2`), []byte(`"schemaVersion":3`), 1)
			}
			return b
		},
		"no manifest": func(p string, b []byte) []byte {
			if strings.Contains(p, "/manifests/1") {
				b = []byte(`{"schemaVersion":2}`)
			}
			return b
		},
	} {
		lie = f
		to := filepath.Join(t.TempDir(), "pulled")
		_, err := registry.Pull(context.Background(), ref, to)
		if err == nil || !errors.Is(err, feed.ErrDamaged) && !errors.Is(err, feed.ErrTransient) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(to, "index.json")); err == nil {
			t.Errorf("%s: a bundle remains", name)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(to), "escape")); err == nil {
			t.Errorf("%s: a file outside", name)
		}
	}
	lie = nil
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := registry.Pull(ctx, ref, filepath.Join(t.TempDir(), "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
