package diode

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendControl lets the socket reach a broadcast address.
func sendControl(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }); cerr != nil {
		return cerr
	}
	return err
}

// deaf errors come from the network and mean nothing on a line without a way back.
func deaf(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTDOWN)
}

// crowded errors pass: a full queue, or a firewall whose rules are being replaced.
func crowded(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM)
}

// wire sends by the best way that works.
type wire struct {
	c    *net.UDPConn
	raw  syscall.RawConn
	way  Batching
	size int // of the segments that the socket cuts now
	msgs []mmsghdr
	iovs []unix.Iovec
}

// mmsghdr is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func newWire(c *net.UDPConn, way Batching) (Wire, error) {
	_ = c.SetWriteBuffer(4 << 20)
	raw, err := c.SyscallConn()
	return &wire{c: c, raw: raw, way: way}, err
}

func (w *wire) Write(b []byte, size int) error {
	if len(b) == size || w.way == Plain {
		return w.plain(b, size)
	}
	if w.way == Segments {
		err := w.segment(size)
		if err == nil {
			err = tolerate(func() error { _, err := w.c.Write(b); return err })
		}
		if err == nil || !unsupported(err) {
			return err
		}
		w.way = Many
		if err := w.segment(0); err != nil && !unsupported(err) {
			return err
		}
	}
	return w.many(b, size)
}

func (w *wire) plain(b []byte, size int) error {
	if w.size != 0 {
		if err := w.segment(0); err != nil {
			return err
		}
	}
	return single(w.c, b, size)
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EMSGSIZE)
}

// segment tells the socket to cut every write into packets of size; 0 is not.
func (w *wire) segment(size int) error {
	if w.size == size {
		return nil
	}
	var err error
	if cerr := w.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) }); cerr != nil {
		return cerr
	}
	if err == nil {
		w.size = size
	}
	return err
}

// many sends with sendmmsg; where it is not known, packet by packet.
func (w *wire) many(b []byte, size int) error {
	n := len(b) / size
	if len(w.msgs) < n {
		w.msgs, w.iovs = make([]mmsghdr, n), make([]unix.Iovec, n)
	}
	for i := range n {
		w.iovs[i].Base = &b[i*size]
		w.iovs[i].SetLen(size)
		w.msgs[i] = mmsghdr{hdr: unix.Msghdr{Iov: &w.iovs[i]}}
		w.msgs[i].hdr.SetIovlen(1)
	}
	for at := 0; at < n; {
		var sent int
		err := tolerate(func() error {
			var errno syscall.Errno
			werr := w.raw.Write(func(fd uintptr) bool {
				r, _, e := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.msgs[at])), uintptr(n-at), 0, 0, 0)
				sent, errno = int(r), e
				return e != unix.EAGAIN
			})
			if werr != nil {
				return werr
			}
			if errno != 0 {
				sent = 0
				return errno
			}
			return nil
		})
		if errors.Is(err, unix.ENOSYS) {
			w.way = Plain
			return single(w.c, b[at*size:], size)
		}
		if err != nil {
			return err
		}
		at += max(sent, 1) // one that the network refused is lost
	}
	return nil
}

// growBuffer asks for a receive buffer and returns what the kernel gave.
func growBuffer(c *net.UDPConn, want int) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	got := 0
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, want) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, want)
		}
		got, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	return got / 2 // the kernel doubles it for its own records
}

// inlet reads with recvmmsg, each message of it perhaps many packets (UDP_GRO).
type inlet struct {
	c     *net.UDPConn
	raw   syscall.RawConn
	msgs  []mmsghdr
	iovs  []unix.Iovec
	bufs  []byte
	oob   []byte
	drops atomic.Int64
	last  uint32
}

const (
	inletMessages = 64
	inletMessage  = 64 << 10
	inletControl  = 128
)

func newInlet(c *net.UDPConn) (Inlet, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := raw.Control(func(fd uintptr) {
		// Without these it works, more slowly and without a count.
		unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	}); err != nil {
		return nil, err
	}
	in := &inlet{c: c, raw: raw, msgs: make([]mmsghdr, inletMessages), iovs: make([]unix.Iovec, inletMessages),
		bufs: make([]byte, inletMessages*inletMessage), oob: make([]byte, inletMessages*inletControl)}
	for i := range in.msgs {
		in.iovs[i].Base = &in.bufs[i*inletMessage]
		in.iovs[i].SetLen(inletMessage)
	}
	return in, nil
}

func (in *inlet) Read(fn func(b []byte)) error {
	for i := range in.msgs {
		h := &in.msgs[i].hdr
		*h = unix.Msghdr{Iov: &in.iovs[i], Control: &in.oob[i*inletControl]}
		h.SetIovlen(1)
		h.SetControllen(inletControl)
	}
	var n int
	var errno syscall.Errno
	err := in.raw.Read(func(fd uintptr) bool {
		r, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.msgs[0])), inletMessages, unix.MSG_DONTWAIT, 0, 0)
		n, errno = int(r), e
		return e != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	if errno == unix.EINTR || deaf(errno) {
		return nil
	}
	if errno != 0 {
		return errno
	}
	for i := range n {
		b := in.bufs[i*inletMessage:][:in.msgs[i].len]
		size := in.control(in.oob[i*inletControl:][:in.msgs[i].hdr.Controllen])
		if size <= 0 || size > len(b) {
			size = len(b)
		}
		for len(b) > 0 {
			k := min(size, len(b))
			fn(b[:k])
			b = b[k:]
		}
	}
	return nil
}

// control reads the size of the packets that the kernel joined, and the drops.
func (in *inlet) control(b []byte) (size int) {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return size
		}
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 2:
			size = int(*(*uint16)(unsafe.Pointer(&data[0])))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			now := *(*uint32)(unsafe.Pointer(&data[0]))
			in.drops.Add(int64(now - in.last)) // it wraps
			in.last = now
		}
		b = rest
	}
	return size
}

func (in *inlet) Drops() int64 { return in.drops.Load() }

func (in *inlet) SetReadDeadline(t time.Time) error { return in.c.SetReadDeadline(t) }
func (in *inlet) Close() error                      { return in.c.Close() }
