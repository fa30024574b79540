package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows/svc"

	"github.com/hashike/hashike/internal/state"
)

// These run on Windows, and under wine by TestWindows.

func TestUnquoted(t *testing.T) {
	got := unquoted([]string{"import", `E:"`, `F:\更新便 USB"`, "--reason", `say "yes"`})
	want := []string{"import", `E:\`, `F:\更新便 USB\`, "--reason", `say "yes"`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestService talks to the service as Windows' service manager does.
func TestService(t *testing.T) {
	data := os.Getenv("HASHIKE_WINDOWS_DATA") // under wine: an inside made before
	if data == "" {
		data = newWorld(t, "").path(inside)
	}
	s := &windowsService{args: []string{"--data", data, "serve"}}
	requests, status := make(chan svc.ChangeRequest), make(chan svc.Status, 10)
	code := make(chan uint32, 1)
	go func() { _, c := s.Execute(nil, requests, status); code <- c }()
	for _, want := range []svc.State{svc.StartPending, svc.Running} {
		if got := <-status; got.State != want {
			t.Fatalf("state %d, want %d", got.State, want)
		}
	}
	said := func() string {
		names, _ := filepath.Glob(filepath.Join(state.Dir(data).Logs(), "service-*.log"))
		if len(names) == 0 {
			return ""
		}
		b, _ := os.ReadFile(names[len(names)-1])
		return string(b)
	}
	for range 300 {
		if strings.Contains(said(), "127.0.0.1:") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	requests <- svc.ChangeRequest{Cmd: svc.Interrogate, CurrentStatus: svc.Status{State: svc.Running}}
	requests <- svc.ChangeRequest{Cmd: svc.Stop}
	for _, want := range []svc.State{svc.Running, svc.StopPending} {
		if got := <-status; got.State != want {
			t.Fatalf("state %d, want %d", got.State, want)
		}
	}
	if c := <-code; c != 0 || !strings.Contains(said(), "127.0.0.1:") {
		t.Errorf("exit %d, log:\n%s", c, said())
	}
}
