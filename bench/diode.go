//go:build linux

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// oneway is a paired outside and inside, each in its network namespace, and a
// wire between them that brings nothing back.
type oneway struct {
	l       *lab
	dir     string
	out, in string // namespaces
}

const diodeAt = "192.0.2.2:7400"

func newOneway(l *lab, dir string) (*oneway, error) {
	o := &oneway{l: l, dir: dir, out: fmt.Sprintf("hkbo%d", os.Getpid()), in: fmt.Sprintf("hkbi%d", os.Getpid())}
	sheet, err := child(exec.Command(l.program, "--data", o.path("outside"), "--lang", "en", "init", "--side", "outside", "--name", "bench", "--keys-to", o.path("envelopes")))
	if err != nil {
		return nil, err
	}
	pair := exec.Command(l.program, "--data", o.path("inside"), "--lang", "en", "init", "--side", "inside", "--name", "bench", "--pair", o.path("outside", "outbox", "setup-1"))
	pair.Stdin = strings.NewReader(fingerprint(sheet.output) + "\n")
	if _, err := child(pair); err != nil {
		return nil, err
	}
	for _, ns := range []string{o.out, o.in} {
		if err := sh("ip", "netns", "add", ns); err != nil {
			return nil, err
		}
	}
	return o, errors.Join(
		o.within(o.out, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"),
		o.within(o.in, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"),
		o.within(o.out, "ip", "link", "add", "vs", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "vr", "address", "02:00:00:00:00:02", "netns", o.in),
		o.within(o.out, "ip", "addr", "add", "192.0.2.1/30", "broadcast", "192.0.2.3", "dev", "vs"),
		o.within(o.in, "ip", "addr", "add", "192.0.2.2/30", "broadcast", "192.0.2.3", "dev", "vr"),
		o.within(o.in, "ip", "link", "set", "vr", "up"),
		o.within(o.out, "ip", "link", "set", "vs", "up"),
		o.within(o.out, "ip", "neigh", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "nud", "permanent", "dev", "vs"),
		o.within(o.out, "nft", "add table inet d; add chain inet d in { type filter hook input priority 0; policy drop; }"))
}

func (o *oneway) path(e ...string) string { return filepath.Join(append([]string{o.dir}, e...)...) }

func (o *oneway) close() {
	for _, ns := range []string{o.out, o.in} {
		sh("ip", "netns", "del", ns)
	}
}

func sh(args ...string) error {
	if b, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, b)
	}
	return nil
}

func (o *oneway) within(ns string, args ...string) error {
	return sh(append([]string{"ip", "netns", "exec", ns}, args...)...)
}

func (o *oneway) command(ns, side string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns, o.l.program, "--data", o.path(side), "--lang", "en"}, args...)...)
}

// lose drops so many of a hundred UDP packets before the inside.
func (o *oneway) lose(percent int) error {
	return o.within(o.in, "nft", fmt.Sprintf("add table inet d; flush table inet d; add chain inet d pre { type filter hook prerouting priority -300; }; add rule inet d pre ip protocol udp numgen random mod 100 < %d drop", percent))
}

func (o *oneway) segmentation(on string) error {
	return o.within(o.out, "ethtool", "-K", "vs", "tx-udp-segmentation", on)
}

// content makes a directory of one large file and many small ones.
func (o *oneway) content(name string, large int64, small int, seed uint64) (string, error) {
	dir := o.path(name)
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return "", err
	}
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	rng := rand.New(src)
	put := func(n int64) error {
		b := make([]byte, n)
		src.Read(b)
		s := sha256.Sum256(b)
		return os.WriteFile(filepath.Join(dir, "blobs", "sha256", hex.EncodeToString(s[:])), b, 0o644)
	}
	if err := put(large); err != nil {
		return "", err
	}
	for range small {
		if err := put(200 + rng.Int64N(8000)); err != nil {
			return "", err
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "index.json"), []byte("{}"), 0o644)
}

// transfer is what one crossing took.
type transfer struct {
	ok            bool
	bytes         int64
	received      float64 // seconds from the table to the last right digest
	durable       float64 // and until it was in the inbox
	cpuOut, cpuIn float64
	peakIn        float64 // MiB
	drops, lost   int64
}

type lineDoc struct {
	Lost  int64 `json:"lost"`
	Drops int64 `json:"drops"`
	Done  []struct {
		ID    string    `json:"id"`
		Bytes int64     `json:"bytes"`
		Since time.Time `json:"since"`
		Whole time.Time `json:"whole"`
		At    time.Time `json:"at"`
	} `json:"done"`
}

// ends are the two programs of a crossing; a disturbance may replace them.
type ends struct {
	in, out       *server
	receive, send func() (*server, error)
}

// disturbance is what happens to a crossing. late is how long after the sender
// the receiver starts.
type disturbance struct {
	name   string
	late   time.Duration
	passes int // more of them than without
	during func(*ends) error
}

// cross sends a directory once and compares what arrived.
func (o *oneway) cross(dir string, d disturbance, args ...string) (transfer, error) {
	var t transfer
	for _, gone := range []string{"diode", "inbox"} {
		if err := os.RemoveAll(o.path("inside", gone)); err != nil {
			return t, err
		}
	}
	e := &ends{
		receive: func() (*server, error) {
			return startServer(o.command(o.in, "inside", "diode", "receive", "--listen", diodeAt, "--count", "1"))
		},
		send: func() (*server, error) {
			return startServer(o.command(o.out, "outside", append([]string{"diode", "send", dir, "--to", diodeAt}, args...)...))
		},
	}
	first, second, gap := func() (err error) { e.in, err = e.receive(); return }, func() (err error) { e.out, err = e.send(); return }, 600*time.Millisecond
	if d.late > 0 {
		first, second, gap = second, first, d.late
	}
	if err := first(); err != nil {
		return t, err
	}
	time.Sleep(gap)
	if err := second(); err != nil {
		return t, err
	}
	peak := watch(e.in.cmd.Process.Pid)
	if d.during != nil {
		if err := d.during(e); err != nil {
			return t, err
		}
	}
	in, out := e.in, e.out
	if err := out.cmd.Wait(); err != nil {
		in.stop()
		return t, fmt.Errorf("%w\n%s", err, out.out)
	}
	t.cpuOut = (out.cmd.ProcessState.UserTime() + out.cmd.ProcessState.SystemTime()).Seconds()
	ended := make(chan struct{})
	go func() { in.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		in.cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	t.peakIn = peak()
	t.cpuIn = (in.cmd.ProcessState.UserTime() + in.cmd.ProcessState.SystemTime()).Seconds()
	b, err := os.ReadFile(o.path("inside", "diode", "status.json"))
	if err != nil {
		return t, err
	}
	var line lineDoc
	if err := json.Unmarshal(b, &line); err != nil {
		return t, err
	}
	t.lost, t.drops = line.Lost, line.Drops
	if len(line.Done) == 0 {
		return t, nil
	}
	f := line.Done[0]
	t.bytes, t.received, t.durable = f.Bytes, f.Whole.Sub(f.Since).Seconds(), f.At.Sub(f.Since).Seconds()
	if err := sh("diff", "-r", dir, o.path("inside", "inbox", "diode-"+f.ID)); err != nil {
		return t, fmt.Errorf("what arrived is another: %w", err)
	}
	t.ok = true
	return t, nil
}

func (t transfer) goodput() float64 { return float64(t.bytes) * 8 / t.received / 1e6 }

// share is 0.95 × rate × K/(K+P) × shard/frame in Mbit/s.
func share(rate float64, k, p int) float64 {
	return 0.95 * rate * float64(k) / float64(k+p) * 1408 / (1408 + 64 + 66)
}

// oneWay measures goodput.
func oneWay(l *lab) error {
	dir, clean := l.temp("diode")
	defer clean()
	o, err := newOneway(l, dir)
	if err != nil {
		return err
	}
	defer o.close()
	large, err := o.content("large", int64(l.of(500))<<20, 0, 1)
	if err != nil {
		return err
	}
	small, err := o.content("small", 1<<20, l.of(20_000), 2)
	if err != nil {
		return err
	}
	l.head("content", "wire rate", "loss %", "code, passes", "segments", "goodput Mbit/s", "bound", "whole", "lost packets", "kernel drops", "CPU s out + in", "receiver MiB")
	best := map[int]float64{}
	line := func(name, content, rate string, mbit float64, loss, k, p, passes int, gso string) error {
		if err := errors.Join(o.lose(loss), o.segmentation(gso)); err != nil {
			return err
		}
		var g, drops, cpuOut, cpuIn, peak, lost spread
		whole := 0
		for range l.runs {
			t, err := o.cross(content, disturbance{}, "--rate", rate, "--profile", fmt.Sprintf("%d+%d", k, p), "--passes", strconv.Itoa(passes))
			if err != nil {
				return err
			}
			if t.ok {
				whole++
				g = append(g, t.goodput())
			}
			lost, drops, cpuOut, cpuIn, peak = append(lost, float64(t.lost)), append(drops, float64(t.drops)), append(cpuOut, t.cpuOut), append(cpuIn, t.cpuIn), append(peak, t.peakIn)
		}
		if content == large {
			best[loss] = max(best[loss], g.median())
		}
		l.row(name, rate, strconv.Itoa(loss), fmt.Sprintf("%d+%d, %d", k, p, passes), gso, g.text("%.0f"), fmt.Sprintf("%.0f", share(mbit, k, p)), fmt.Sprintf("%d of %d", whole, l.runs),
			lost.text("%.0f"), drops.text("%.0f"), fmt.Sprintf("%.1f + %.1f", cpuOut.median(), cpuIn.median()), fmt.Sprintf("%.0f", peak.median()))
		return nil
	}
	for _, x := range []struct {
		name, content, rate string
		mbit                float64
		loss, k, p, passes  int
		gso                 string
	}{
		{"500 MiB", large, "1G", 1000, 0, 224, 32, 1, "off"},
		{"500 MiB", large, "1G", 1000, 1, 224, 32, 1, "off"},
		{"500 MiB", large, "1G", 1000, 5, 224, 32, 1, "off"},
		{"500 MiB", large, "1G", 1000, 5, 216, 40, 1, "off"},
		{"500 MiB", large, "1G", 1000, 10, 192, 64, 1, "off"},
		{"20,000 files", small, "1G", 1000, 5, 224, 32, 1, "off"},
		{"500 MiB", large, "2500M", 2500, 0, 224, 32, 1, "on"},
		{"500 MiB", large, "4G", 4000, 0, 224, 32, 1, "on"},
		{"500 MiB", large, "3200M", 3200, 1, 224, 32, 1, "on"},
		{"500 MiB", large, "2500M", 2500, 5, 192, 64, 1, "on"}, // here a lost packet is a whole batch
		{"500 MiB", large, "2G", 2000, 5, 224, 32, 1, "off"},
	} {
		if err := line(x.name, x.content, x.rate, x.mbit, x.loss, x.k, x.p, x.passes, x.gso); err != nil {
			return err
		}
	}
	return o.udpcast(large, best)
}

// udpcast runs Debian's udpcast in the settings that were found to work, over
// the same wire.
func (o *oneway) udpcast(dir string, ours map[int]float64) error {
	if _, err := exec.LookPath("udp-sender"); err != nil {
		fmt.Fprintln(o.l.out, "\nudpcast is not installed: no comparison.")
		return nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("large content: %v %v", files, err)
	}
	st, err := os.Stat(files[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(o.l.out)
	o.l.head("udpcast", "loss %", "rate", "FEC", "goodput Mbit/s", "ours / udpcast's best")
	for _, loss := range []int{0, 1, 5} {
		if err := errors.Join(o.lose(loss), o.segmentation("off")); err != nil {
			return err
		}
		best := 0.0
		for _, s := range [][2]string{{"900m", "8x8/128"}, {"500m", "8x8/128"}, {"500m", "8x24/128"}} {
			v, err := o.udpcastOnce(files[0], st.Size(), s[0], s[1])
			if err != nil {
				return err
			}
			text := "fails"
			if v > 0 {
				text = fmt.Sprintf("%.0f", v)
			}
			best = max(best, v)
			o.l.row("", strconv.Itoa(loss), s[0], s[1], text, "")
		}
		ratio := "-"
		if best > 0 {
			ratio = fmt.Sprintf("%.2f", ours[loss]/best)
		}
		o.l.row("best", strconv.Itoa(loss), "", "", fmt.Sprintf("%.0f", best), ratio)
	}
	return nil
}

func (o *oneway) udpcastOnce(file string, size int64, rate, fec string) (float64, error) {
	got := o.path("udpcast.out")
	os.Remove(got)
	in := exec.Command("ip", "netns", "exec", o.in, "timeout", "60", "udp-receiver", "--file", got, "--nokbd", "--interface", "vr", "--rcvbuf", "4194304")
	if err := in.Start(); err != nil {
		return 0, err
	}
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	exec.Command("ip", "netns", "exec", o.out, "timeout", "60", "udp-sender", "--file", file, "--async", "--broadcast", "--rexmit-hello-interval", "200", "--max-bitrate", rate,
		"--fec", fec, "--blocksize", "1456", "--autostart", "3", "--nokbd", "--interface", "vs").Run()
	took := time.Since(began).Seconds()
	ended := make(chan struct{})
	go func() { in.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		in.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	if exec.Command("cmp", "-s", file, got).Run() != nil {
		return 0, nil
	}
	return float64(size) * 8 / took / 1e6, nil
}

// sideRoad adds a second wire between the namespaces, narrow and with a queue:
// of the packets, so many of a hundred go that way and arrive up to 100 ms late,
// behind thousands that were sent after them; as many others arrive twice.
func (o *oneway) sideRoad(percent int, mbit int) error {
	return errors.Join(
		o.within(o.out, "ip", "link", "add", "vs2", "address", "02:00:00:00:00:03", "type", "veth", "peer", "name", "vr2", "address", "02:00:00:00:00:04", "netns", o.in),
		o.within(o.out, "ip", "link", "set", "vs2", "up"),
		o.within(o.in, "ip", "link", "set", "vr2", "up"),
		o.within(o.in, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.vr2.rp_filter=0"),
		o.within(o.out, "ethtool", "-K", "vs2", "tx-udp-segmentation", "off"),
		o.within(o.out, "tc", "qdisc", "add", "dev", "vs2", "root", "tbf", "rate", fmt.Sprintf("%dmbit", mbit), "burst", "32kb", "latency", "100ms"),
		o.within(o.out, "ip", "neigh", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:04", "nud", "permanent", "dev", "vs2"),
		o.within(o.out, "ip", "route", "add", "192.0.2.2/32", "dev", "vs2", "table", "7"),
		o.within(o.out, "ip", "rule", "add", "fwmark", "7", "lookup", "7"),
		o.within(o.out, "nft", fmt.Sprintf("add table ip road; add chain ip road late { type route hook output priority mangle; }; add chain ip road twice { type filter hook output priority 10; };"+
			"add rule ip road late udp dport 7400 numgen random mod 100 < %d meta mark set 7 counter;"+
			"add rule ip road twice udp dport 7400 numgen random mod 100 < %d counter dup to 192.0.2.2 device vs", percent, percent)))
}

// trouble is what the runs go through by turns, besides loss.
func (o *oneway) trouble(rng *rand.Rand) []disturbance {
	pause := func(least, most int) {
		time.Sleep(time.Duration(least+rng.IntN(most-least)) * time.Millisecond)
	}
	return []disturbance{
		{name: "none"},
		{name: "receiver stalls of 100 ms", during: func(e *ends) error {
			for range 5 {
				pause(200, 500)
				e.in.cmd.Process.Signal(syscall.SIGSTOP)
				time.Sleep(100 * time.Millisecond)
				e.in.cmd.Process.Signal(syscall.SIGCONT)
			}
			return nil
		}},
		{name: "receiver killed, started again", passes: 1, during: func(e *ends) (err error) {
			pause(500, 4000)
			e.in.cmd.Process.Kill()
			e.in.cmd.Wait()
			e.in, err = e.receive()
			return err
		}},
		{name: "sender killed, started again", during: func(e *ends) (err error) {
			pause(500, 4000)
			e.out.cmd.Process.Kill()
			e.out.cmd.Wait()
			e.out, err = e.send()
			return err
		}},
		{name: "receiver starts late", passes: 1, late: time.Duration(500+rng.IntN(3000)) * time.Millisecond},
	}
}

// oneWayRuns repeats transfers and counts those that are identical.
func oneWayRuns(l *lab) error {
	dir, clean := l.temp("diode")
	defer clean()
	o, err := newOneway(l, dir)
	if err != nil {
		return err
	}
	defer o.close()
	if err := errors.Join(o.segmentation("off"), o.sideRoad(2, 19)); err != nil {
		return err
	}
	content, err := o.content("content", int64(l.of(500))<<20, l.of(20_000), uint64(l.seed))
	if err != nil {
		return err
	}
	n := l.n
	if n == 0 {
		n = 200
	}
	rng := rand.New(rand.NewPCG(uint64(l.seed), 1))
	fmt.Fprintln(l.out, "800 Mbit/s on the wire; in all runs 2 % of the packets arrive up to 100 ms late and 2 % twice")
	l.head("loss %", "code, passes", "disturbance", "identical")
	type setting struct{ loss, k, p, passes int }
	whole, tried := map[string]int{}, map[string]int{}
	var order []string
	all := 0
	for i := range n {
		s := []setting{{0, 224, 32, 1}, {1, 216, 40, 1}, {5, 216, 40, 1}, {5, 224, 32, 2}, {10, 192, 64, 1}}[i%5]
		d := o.trouble(rng)[i/5%5]
		s.passes += d.passes
		if err := o.lose(s.loss); err != nil {
			return err
		}
		t, err := o.cross(content, d, "--rate", "800M", "--profile", fmt.Sprintf("%d+%d", s.k, s.p), "--passes", strconv.Itoa(s.passes))
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%d | %d+%d, %d | %s", s.loss, s.k, s.p, s.passes, d.name)
		if tried[key]++; tried[key] == 1 {
			order = append(order, key)
		}
		if t.ok {
			whole[key]++
			all++
		} else {
			fmt.Fprintf(os.Stderr, "run %d (%s) is not whole: %d lost, %d dropped by the kernel\n", i+1, key, t.lost, t.drops)
		}
		if (i+1)%10 == 0 {
			fmt.Fprintf(os.Stderr, "%d of %d runs identical\n", all, i+1)
		}
	}
	for _, k := range order {
		l.row(k, fmt.Sprintf("%d of %d", whole[k], tried[k]))
	}
	l.row("all", "", "", fmt.Sprintf("%d of %d", all, n))
	rules, err := exec.Command("ip", "netns", "exec", o.out, "nft", "list", "table", "ip", "road").Output()
	fmt.Fprintf(l.out, "\nBatches that took the side road, and that were sent twice:\n\n%s", rules)
	return err
}

// oneWaySoak sends bundle after bundle and watches the receiver's memory.
func oneWaySoak(l *lab) error {
	dir, clean := l.temp("diode")
	defer clean()
	o, err := newOneway(l, dir)
	if err != nil {
		return err
	}
	defer o.close()
	if err := errors.Join(o.lose(1), o.segmentation("off")); err != nil {
		return err
	}
	length := time.Hour
	if l.seconds != 5 { // the flag's default is for loads
		length = time.Duration(l.seconds) * time.Second
	}
	in, err := startServer(o.command(o.in, "inside", "diode", "receive", "--listen", diodeAt))
	if err != nil {
		return err
	}
	defer in.stop()
	time.Sleep(time.Second)
	l.head("minutes", "bundles sent", "arrived identical", "receiver MiB now", "peak")
	sent, arrived := 0, 0
	began, told := time.Now(), time.Time{}
	for time.Since(began) < length {
		sent++
		name := fmt.Sprintf("b%d", sent)
		content, err := o.content(name, 20<<20, 100, uint64(sent))
		if err != nil {
			return err
		}
		if _, err := child(o.command(o.out, "outside", "diode", "send", content, "--to", diodeAt, "--rate", "200M", "--passes", "1")); err != nil {
			return err
		}
		if o.taken(content) {
			arrived++
		}
		os.RemoveAll(content)
		if time.Since(told) > length/6 {
			told = time.Now()
			if err := o.soakRow(in, sent, arrived, time.Since(began)); err != nil {
				return err
			}
		}
	}
	return o.soakRow(in, sent, arrived, length)
}

// taken waits for a directory in the inbox that is the same to the byte, and
// removes it.
func (o *oneway) taken(content string) bool {
	for range 100 {
		found, _ := filepath.Glob(o.path("inside", "inbox", "diode-*"))
		for _, dir := range found {
			if sh("diff", "-r", content, dir) == nil {
				return os.RemoveAll(dir) == nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

func (o *oneway) soakRow(in *server, sent, arrived int, at time.Duration) error {
	peak, err := highWater(in.cmd.Process.Pid)
	if err != nil {
		return err
	}
	now := 0.0
	if m, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", in.cmd.Process.Pid)); err == nil {
		if f := strings.Fields(string(m)); len(f) > 1 {
			pages, _ := strconv.ParseFloat(f[1], 64)
			now = pages * float64(os.Getpagesize()) / (1 << 20)
		}
	}
	o.l.row(fmt.Sprintf("%.1f", at.Minutes()), strconv.Itoa(sent), strconv.Itoa(arrived), fmt.Sprintf("%.0f", now), fmt.Sprintf("%.0f", peak))
	return nil
}
