//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// cost is what a whole process took, from its start to its exit.
type cost struct {
	seconds float64
	peakMiB float64 // VmHWM: the most memory it held at once
	output  string
}

// child runs a command to its end.
func child(cmd *exec.Cmd) (cost, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return cost{}, err
	}
	peak := watch(cmd.Process.Pid)
	err := cmd.Wait()
	c := cost{seconds: time.Since(began).Seconds(), peakMiB: peak(), output: out.String()}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	return c, err
}

// watch reads a process's high-water mark until it is gone, and returns a
// function for the last value. The mark only rises, so that what is missed is
// at most a rise in the last few milliseconds.
func watch(pid int) func() float64 {
	var mu sync.Mutex
	var peak float64
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			v, err := highWater(pid)
			if err != nil {
				return
			}
			mu.Lock()
			peak = max(peak, v)
			mu.Unlock()
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return func() float64 {
		<-gone
		mu.Lock()
		defer mu.Unlock()
		return peak
	}
}

func highWater(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), "VmHWM:")
	if !ok {
		return 0, errors.New("ended")
	}
	var kib float64
	_, err = fmt.Sscan(rest, &kib)
	return kib / 1024, err
}

// server is a process that runs until stop.
type server struct {
	cmd *exec.Cmd
	out *bytes.Buffer
}

func startServer(cmd *exec.Cmd) (*server, error) {
	s := &server{cmd: cmd, out: new(bytes.Buffer)}
	cmd.WaitDelay = 2 * time.Second // a grandchild may keep the output open
	cmd.Stdout, cmd.Stderr = s.out, s.out
	return s, cmd.Start()
}

func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait()
}

// cpuSeconds is the processor time that a process and its children have used.
func cpuSeconds(pid int) float64 {
	ticks := 0.0
	list, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range list {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ") // proc(5): after the name, state is field 3
		f := strings.Fields(rest)
		if len(f) < 13 || f[1] != strconv.Itoa(pid) && filepath.Base(filepath.Dir(p)) != strconv.Itoa(pid) {
			continue
		}
		user, _ := strconv.ParseFloat(f[11], 64)
		system, _ := strconv.ParseFloat(f[12], 64)
		ticks += user + system
	}
	return ticks / 100 // USER_HZ
}
