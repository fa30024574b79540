//go:build crashtest

package diode

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestCrashChild is the receiver that is killed. It listens until its input ends.
func TestCrashChild(t *testing.T) {
	dir, at := os.Getenv("HASHIKE_TEST_DIR"), os.Getenv("HASHIKE_TEST_AT")
	if dir == "" {
		t.Skip("only run by TestKilledReceiver")
	}
	in, buffer, err := Listen(at, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReceiver(ReceiveOptions{Dir: filepath.Join(dir, "diode"), Inbox: filepath.Join(dir, "inbox"), Key: crashKey(), Block: 4 << 20, Ring: 1 << 20,
		Report: func(err error) { t.Log(err) }, Arrived: func(Finished, string) {}, checkpoint: 40 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := r.Run(ctx, in, buffer); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// crashKey is known to parent and child.
func crashKey() Key { return LineKey(bytes.Repeat([]byte{7}, 32)) }

// receiverChild is one life of the receiver.
type receiverChild struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	text bytes.Buffer
}

func startChild(t *testing.T, dir, at string, step int) *receiverChild {
	t.Helper()
	c := &receiverChild{cmd: exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1", "-test.v")}
	c.cmd.Env = append(os.Environ(), "HASHIKE_TEST_DIR="+dir, "HASHIKE_TEST_AT="+at, "HASHIKE_CRASH_AT="+strconv.Itoa(step))
	c.cmd.Stdout, c.cmd.Stderr = &c.text, &c.text
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill() })
	return c
}

// whole waits until the directory arrived, and says whether the child lived to
// see it. Everything is compared, nothing may be left of the way.
func (c *receiverChild) whole(t *testing.T, src, dir string) bool {
	t.Helper()
	died := make(chan error, 1)
	go func() { died <- c.cmd.Wait() }()
	for range 1500 {
		found, _ := filepath.Glob(filepath.Join(dir, "inbox", "diode-*"))
		left, _ := os.ReadDir(filepath.Join(dir, "diode", "spool"))
		if len(found) == 1 && len(left) == 0 {
			same(t, src, found[0])
			c.in.Close()
			if err := <-died; err != nil {
				var exit *exec.ExitError
				if errors.As(err, &exit) && exit.ExitCode() == -1 {
					return false // at a step after the arrival
				}
				t.Fatalf("%v\n%s", err, c.text.String())
			}
			return true
		}
		select {
		case err := <-died:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != -1 {
				t.Fatalf("the child failed: %v\n%s", err, c.text.String())
			}
			for _, f := range found { // what is in the inbox is whole, always
				same(t, src, f)
			}
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("nothing arrived\n%s", c.text.String())
	return false
}

// Killed with SIGKILL at every durable step, and at random moments: what is in
// the inbox is whole, and the next life goes on and ends.
func TestKilledReceiver(t *testing.T) {
	src := tree(t, 11, 60, 3<<20)
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.LocalAddr().String()
	l.Close()
	wire, closeWire, err := Dial(at, Segments)
	if err != nil {
		t.Fatal(err)
	}
	defer closeWire()
	o := SendOptions{Rate: 300_000_000, Key: crashKey(), Warm: time.Millisecond, Trail: time.Millisecond, TableEvery: 50 * time.Millisecond, BeatEvery: 50 * time.Millisecond,
		Report: func(error) {}} // nobody listens between two lives
	s, err := NewSender(wire, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s.Add(job(t, src, Profile{60, 6, 1408, 8}, 0)) // endless
	go func() { done <- s.Run(ctx, false) }()
	defer func() {
		cancel()
		<-done
	}()

	died := 0
	for step := 1; ; step++ {
		dir := t.TempDir()
		if startChild(t, dir, at, step).whole(t, src, dir) {
			break
		}
		died++
		if !startChild(t, dir, at, 0).whole(t, src, dir) {
			t.Fatalf("step %d: the next life died too", step)
		}
		os.RemoveAll(dir)
	}
	if died < 10 {
		t.Errorf("only %d steps", died)
	}

	rnd := rand.New(rand.NewPCG(1, 12))
	dir, kills := t.TempDir(), 0
	for range 12 {
		c := startChild(t, dir, at, 0)
		time.Sleep(time.Duration(20+rnd.IntN(150)) * time.Millisecond)
		c.cmd.Process.Kill()
		c.cmd.Wait()
		kills++
	}
	if !startChild(t, dir, at, 0).whole(t, src, dir) {
		t.Fatal("the last life died")
	}
	t.Logf("killed at %d steps and %d random moments", died, kills)
}
