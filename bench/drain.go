//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// drain is load with a client that lets the kernel drop the bodies
// (MSG_TRUNC, tcp(7)) instead of copying them out: of large files over
// loopback a copying client takes more time than any server, and what it
// measures is itself.
func drain(at string, seconds int) (rate, n float64, err error) {
	u, err := url.Parse(at)
	if err != nil {
		return 0, 0, err
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, connections)
	began := time.Now()
	end := began.Add(time.Duration(seconds) * time.Second)
	for range connections {
		wg.Go(func() {
			if err := drainOne(u, end, &done); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	select {
	case err := <-errs:
		return 0, 0, fmt.Errorf("%s: %w", at, err)
	default:
	}
	n = float64(done.Load())
	return n / took, n, nil
}

// connections are as many as wrk has.
const connections = 8

func drainOne(u *url.URL, end time.Time, done *atomic.Int64) error {
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	ask := []byte("GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\n\r\n")
	scratch := make([]byte, 1<<20)
	for time.Now().Before(end) {
		if _, err := c.Write(ask); err != nil {
			return err
		}
		in := bufio.NewReaderSize(c, 4096)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", res.Status)
		}
		left := res.ContentLength - int64(in.Buffered())
		for left > 0 {
			var got int
			var rerr error
			if err := raw.Read(func(fd uintptr) bool {
				got, _, rerr = unix.Recvfrom(int(fd), scratch[:min(left, int64(len(scratch)))], unix.MSG_TRUNC)
				return rerr != unix.EAGAIN
			}); err != nil {
				return err
			}
			if rerr == nil && got == 0 {
				rerr = io.ErrUnexpectedEOF
			}
			if rerr != nil && rerr != unix.EINTR {
				return rerr
			}
			left -= int64(max(got, 0))
		}
		done.Add(1)
	}
	return nil
}
