package diode

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Dial opens the wire to an address of the inside, "192.0.2.1:7400". Nothing is
// ever read from it. A multicast or broadcast address is as good.
func Dial(to string, batch Batching) (Wire, func() error, error) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: sendControl}
	c, err := d.DialContext(context.Background(), "udp", to)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", to, err)
	}
	w, err := newWire(c.(*net.UDPConn), batch)
	return w, c.Close, err
}

// Batching is how packets are handed to the kernel.
type Batching int

// Ways to hand packets over, the best first. A kernel or device that does not
// know one gets the next.
const (
	Segments Batching = iota // one write, the kernel or the device cuts it (UDP_SEGMENT)
	Many                     // sendmmsg
	Plain                    // one write per packet
)

// single writes packet by packet.
func single(c *net.UDPConn, b []byte, size int) error {
	for ; len(b) >= size; b = b[size:] {
		if err := tolerate(func() error { _, err := c.Write(b[:size]); return err }); err != nil {
			return err
		}
	}
	return nil
}

// tolerate repeats a write while the device's queue is full, for up to a
// second, and ignores what the network says: there is no way back on a diode,
// so whoever says that the peer is away is not the peer. The kernel tells such
// a word by refusing the next write, once: what was refused is written again,
// or anybody could stop a transfer by saying it often.
func tolerate(write func() error) error {
	var err error
	for said, full := 0, 0; said < 8 && full < 500; {
		switch err = write(); {
		case err == nil:
			return nil
		case deaf(err):
			said++
		case crowded(err):
			full++
			time.Sleep(2 * time.Millisecond)
		default:
			return err
		}
	}
	if deaf(err) { // no route just now: lost, as on any line
		return nil
	}
	return err
}

// Inlet is where packets arrive.
type Inlet interface {
	// Read waits for packets until the deadline that SetReadDeadline gave and
	// calls fn for each; the bytes are fn's until it returns.
	Read(fn func(b []byte)) error
	SetReadDeadline(t time.Time) error
	// Drops are the packets that the kernel dropped because this program did
	// not read fast enough; -1 where nobody counts them.
	Drops() int64
	Close() error
}

// Buffer is what the kernel gave for packets that wait to be read.
type Buffer struct{ Got, Wanted int }

// Short reports that it is less than wanted: then packets are lost whenever
// this program waits for the processor.
func (b Buffer) Short() bool { return b.Got < b.Wanted }

// WantedBuffer is half a second at 1 Gbit/s.
const WantedBuffer = 64 << 20

// Listen opens an address of the inside for packets. interfaceName may be
// empty; it names where a multicast group is joined.
func Listen(at, interfaceName string) (Inlet, Buffer, error) {
	a, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		return nil, Buffer{}, err
	}
	var c *net.UDPConn
	if a.IP.IsMulticast() {
		var in *net.Interface
		if interfaceName != "" {
			if in, err = net.InterfaceByName(interfaceName); err != nil {
				return nil, Buffer{}, err
			}
		}
		c, err = net.ListenMulticastUDP("udp", in, a)
	} else {
		c, err = net.ListenUDP("udp", a)
	}
	if err != nil {
		return nil, Buffer{}, err
	}
	got := growBuffer(c, WantedBuffer)
	in, err := newInlet(c)
	return in, Buffer{got, WantedBuffer}, err
}
