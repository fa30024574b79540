package main

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	server "github.com/google/go-containerregistry/pkg/registry"
)

// By command: a bundle goes through a registry and is imported from there.
func TestPushAndPullByCommand(t *testing.T) {
	srv := httptest.NewServer(server.New(server.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	s := newCamp(t).siege(t)
	ref := strings.TrimPrefix(srv.URL, "http://") + "/town/updates:2"
	if out := s.w.ok("", "push", s.next, ref); !strings.Contains(out, "sha256:") {
		t.Errorf("push says %s", out)
	}
	s.w.ok("", "--lang", "en", "pull", ref, s.w.path("pulled"))
	s.w.inside("import", s.w.path("pulled"))
	if now := s.stand(); !strings.Contains(now, "tools") {
		t.Error(now)
	}
	s.w.fails(exitConfig, "H-306", "pull", ref+"-none", s.w.path("none"))
	s.w.fails(exitConfig, "H-306", "push", s.next, "no such/Name")
	srv.Close()
	s.w.fails(exitTransient, "H-306", "pull", ref, s.w.path("gone"))
	s.w.fails(exitDamaged, "H-70", "push", t.TempDir(), ref)
}
