package diode

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cable is two network namespaces with a wire between them on which packets of
// the inside are dropped before the outside sees them.
type cable struct {
	t           testing.TB
	out, in     string
	returned    atomic.Int64 // frames that came from the inside
	outgoing    atomic.Int64 // frames of the outside, so that the counter is known to count
	stopCapture func()
}

func newCable(t testing.TB, loss int, segmentation bool) *cable {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft", "ethtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacking(t, tool+" is not here")
		}
	}
	id := fmt.Sprint(os.Getpid(), "-", time.Now().UnixNano()%1e6)
	id = strings.ReplaceAll(id, " ", "")
	c := &cable{t: t, out: "hko" + id, in: "hki" + id}
	for _, ns := range []string{c.out, c.in} {
		if b, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			lacking(t, "ip netns: "+string(b))
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		c.sh(ns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	c.sh(c.out, "ip", "link", "add", "vs", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "vr", "address", "02:00:00:00:00:02", "netns", c.in)
	c.sh(c.out, "ip", "addr", "add", "192.0.2.1/30", "dev", "vs")
	c.sh(c.in, "ip", "addr", "add", "192.0.2.2/30", "dev", "vr")
	c.sh(c.in, "ip", "link", "set", "vr", "up")
	c.sh(c.out, "ip", "link", "set", "vs", "up")
	c.sh(c.out, "ip", "neigh", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "nud", "permanent", "dev", "vs")
	c.sh(c.out, "nft", "add table inet d; add chain inet d in { type filter hook input priority 0; policy drop; }")
	if !segmentation {
		c.sh(c.out, "ethtool", "-K", "vs", "tx-udp-segmentation", "off")
	}
	c.lose(loss)
	c.capture()
	return c
}

func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HASHIKE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func (c *cable) sh(ns string, args ...string) {
	c.t.Helper()
	if b, err := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v\n%s", args, err, b)
	}
}

// lose drops so many of a hundred packets, each by itself, before the inside.
func (c *cable) lose(percent int) {
	c.t.Helper()
	c.sh(c.in, "nft", fmt.Sprintf("add table inet d; flush table inet d; add chain inet d pre { type filter hook prerouting priority -300; }; add rule inet d pre udp dport 7400 numgen random mod 100 < %d drop", percent))
}

// within runs f with the thread in a namespace; what f opens stays there.
func (c *cable) within(ns string, f func()) {
	c.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		fd, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET)
			fd.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		lacking(c.t, "setns: "+err.Error())
	}
}

// capture counts every frame on the outside's end, below any firewall.
func (c *cable) capture() {
	var fd int
	var err error
	c.within(c.out, func() {
		proto := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return
		}
		var in *net.Interface
		if in, err = net.InterfaceByName("vs"); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: in.Index})
		}
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	})
	if err != nil {
		c.t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64)
		for {
			_, from, err := unix.Recvfrom(fd, b, unix.MSG_TRUNC)
			if l, ok := from.(*unix.SockaddrLinklayer); err == nil && ok {
				if l.Pkttype == unix.PACKET_OUTGOING {
					c.outgoing.Add(1)
				} else {
					c.returned.Add(1)
				}
				continue
			}
			select {
			case <-stop:
				unix.Close(fd)
				return
			default:
			}
		}
	}()
	c.stopCapture = func() { close(stop); <-done; c.stopCapture = func() {} }
	c.t.Cleanup(func() { c.stopCapture() })
}

func (c *cable) listen() (in Inlet, b Buffer) {
	c.t.Helper()
	var err error
	c.within(c.in, func() { in, b, err = Listen("192.0.2.2:7400", "") })
	if err != nil {
		c.t.Fatal(err)
	}
	return in, b
}

func (c *cable) dial(way Batching) Wire {
	c.t.Helper()
	var w Wire
	var err error
	var close func() error
	c.within(c.out, func() { w, close, err = Dial("192.0.2.2:7400", way) })
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { close() })
	return w
}

// silent fails if anything came out of the inside, and if nothing went in.
func (c *cable) silent() {
	c.t.Helper()
	c.stopCapture()
	if c.returned.Load() != 0 || c.outgoing.Load() == 0 {
		c.t.Errorf("%d frames went from the inside to the outside, %d the other way", c.returned.Load(), c.outgoing.Load())
	}
}

// Real sockets over a wire that loses packets and brings none back: every way
// of sending, each profile of the documentation.
func TestOverTheWire(t *testing.T) {
	for _, c := range []struct {
		name   string
		loss   int
		way    Batching
		gso    bool
		k, p   int
		passes int
		rate   int64
	}{
		{"segments no loss", 0, Segments, true, 224, 32, 1, 400e6},
		{"segments cut in software, 1 %", 1, Segments, false, 224, 32, 1, 200e6},
		{"sendmmsg 5 %", 5, Many, false, 216, 40, 1, 200e6},
		{"plain 5 % two passes", 5, Plain, false, 224, 32, 2, 200e6},
		{"10 %", 10, Segments, false, 192, 64, 1, 200e6},
	} {
		if testing.Short() && c.loss != 5 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			w := newCable(t, c.loss, c.gso)
			key := RandomKey()
			src := tree(t, 30, 200, 8<<20)
			in, b := w.listen()
			if b.Got < 1<<20 {
				t.Errorf("receive buffer %+v", b)
			}
			g := newRig(t, key)
			g.o.Block = 32 << 20
			g.o.checkpoint = time.Second
			g.start(in)
			o := SendOptions{Rate: c.rate, Key: key, Warm: 50 * time.Millisecond, Trail: 50 * time.Millisecond}
			send(t, w.dial(c.way), o, job(t, src, Profile{c.k, c.p, 1408, 32}, c.passes))
			same(t, src, g.wait())
			st := g.r.Status()
			if c.loss > 0 && (st.Lost == 0 || st.Rebuilt == 0) {
				t.Errorf("nothing was lost: %+v", st)
			}
			w.silent()
			g.stop()
			in.Close()
		})
	}
}

// A sender whose packets nobody takes, on a machine that may even be told so,
// sends to the end and waits for nothing.
func TestNobodyListens(t *testing.T) {
	w := newCable(t, 0, false)
	key := RandomKey()
	src := tree(t, 31, 20, 1<<20)
	o := SendOptions{Rate: 200e6, Key: key, Warm: 10 * time.Millisecond, Trail: 10 * time.Millisecond}
	for _, way := range []Batching{Segments, Many, Plain} {
		send(t, w.dial(way), o, job(t, src, Profile{224, 32, 1408, 32}, 1))
	}
	w.sh(w.out, "ip", "link", "set", "vs", "down")
	w.sh(w.out, "ip", "link", "set", "vs", "up") // the neighbour is forgotten: ARP is never answered
	send(t, w.dial(Segments), o, job(t, src, Profile{224, 32, 1408, 32}, 1))
}

// What a test of the line measures is what was lost.
func TestMeasure(t *testing.T) {
	w := newCable(t, 5, false)
	key := RandomKey()
	in, _ := w.listen()
	defer in.Close()
	got := make(chan Measured, 1)
	go func() {
		m, err := Measure(t.Context(), in, key, time.Second)
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	s, err := NewSender(w.dial(Segments), SendOptions{Rate: 100e6, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pad(t.Context(), 1500*time.Millisecond, 1408); err != nil {
		t.Fatal(err)
	}
	m := <-got
	if m.Loss() < 0.03 || m.Loss() > 0.08 || m.Drops > 0 {
		t.Errorf("%+v: loss %.3f of 0.05", m, m.Loss())
	}
	if p := Choose(m.Loss()); p.Parity < 40 {
		t.Errorf("profile %+v for 5 %%", p)
	}
}

// Whoever says that nobody listens, and says it all the time, costs no packet.
func TestRefusalsCostNothing(t *testing.T) {
	gone, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := gone.LocalAddr().String()
	gone.Close() // the kernel answers each packet with "port unreachable"
	for _, way := range []Batching{Segments, Many, Plain} {
		wire, done, err := Dial(at, way)
		if err != nil {
			t.Fatal(err)
		}
		const size, count = 600, 400
		before := sentPackets(t)
		for range count / 4 {
			if err := wire.Write(make([]byte, 4*size), size); err != nil {
				t.Fatal(err)
			}
		}
		if err := done(); err != nil {
			t.Fatal(err)
		}
		want := int64(count)
		if way == Segments { // the kernel counts writes
			want /= 4
		}
		if n := sentPackets(t) - before; n < want {
			t.Errorf("way %d: %d of %d packets were sent", way, n, want)
		}
	}
}

// sentPackets is the kernel's count of UDP packets sent.
func sentPackets(t *testing.T) (n int64) {
	// /proc/net is the main thread's namespace, which another test may have
	// taken elsewhere.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if f[0] != "Udp:" {
			continue
		}
		if i := slices.Index(names, "OutDatagrams"); i > 0 {
			n, _ = strconv.ParseInt(f[i], 10, 64)
		}
		names = f
	}
	return n
}
