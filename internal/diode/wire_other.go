//go:build !linux

package diode

import (
	"errors"
	"net"
	"syscall"
	"time"
)

func sendControl(_, _ string, _ syscall.RawConn) error { return nil }

// deaf errors come from the network and mean nothing on a line without a way back.
func deaf(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, wsaeConnReset)
}

// wsaeConnReset is what Windows makes of "port unreachable".
const wsaeConnReset = syscall.Errno(10054)

func crowded(err error) bool {
	return errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EAGAIN)
}

type wire struct{ c *net.UDPConn }

func newWire(c *net.UDPConn, _ Batching) (Wire, error) {
	_ = c.SetWriteBuffer(4 << 20)
	return wire{c}, nil
}

func (w wire) Write(b []byte, size int) error { return single(w.c, b, size) }

// growBuffer asks for a receive buffer; the system does not say what it gave.
func growBuffer(c *net.UDPConn, want int) int {
	for n := want; n >= 1<<16; n /= 2 {
		if c.SetReadBuffer(n) == nil {
			return n
		}
	}
	return 0
}

type inlet struct {
	c   *net.UDPConn
	buf []byte
}

func newInlet(c *net.UDPConn) (Inlet, error) { return &inlet{c, make([]byte, 64<<10)}, nil }

func (in *inlet) Read(fn func(b []byte)) error {
	n, _, err := in.c.ReadFromUDPAddrPort(in.buf)
	if err != nil {
		if deaf(err) {
			return nil
		}
		return err
	}
	fn(in.buf[:n])
	return nil
}

func (in *inlet) Drops() int64                      { return -1 }
func (in *inlet) SetReadDeadline(t time.Time) error { return in.c.SetReadDeadline(t) }
func (in *inlet) Close() error                      { return in.c.Close() }
