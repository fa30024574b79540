//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashike/hashike/internal/feed/wsus/terminal"
)

// Load of Windows terminals. One simulated agent scans the mirror as an agent
// does, and what it said is recorded; each terminal of the load says the same
// under its own id and name, with the cookies that it gets itself. So requests
// and answers have their real sizes and order, and the clients cost little.

// message is one recorded request: cut where the terminal's id, its name and
// its cookie stand.
type message struct {
	op, path string
	pieces   []string // between the places
	places   []byte   // 'i', 'n' or 'c'
	request  int      // bytes
	answer   int
}

const (
	recordedID   = "6f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b"
	recordedName = "pc00000.town.example"
)

// record cuts a request up.
func record(request, answer []byte) message {
	text := string(request)
	m := message{path: "/ClientWebService/client.asmx", request: len(request), answer: len(answer)}
	switch {
	case strings.Contains(text, "SimpleAuthWebService\""):
		m.path = "/SimpleAuthWebService/SimpleAuth.asmx"
	case strings.Contains(text, `xmlns="http://www.microsoft.com/SoftwareDistribution"`):
		m.path = "/ReportingWebService/ReportingWebService.asmx"
	}
	_, op, _ := strings.Cut(text, "<s:Body><")
	m.op, _, _ = strings.Cut(op, " ")
	for {
		at, end, kind := len(text), len(text), byte(0)
		look := func(i, n int, k byte) {
			if i >= 0 && i < at {
				at, end, kind = i, i+n, k
			}
		}
		look(strings.Index(strings.ToLower(text), recordedID), len(recordedID), 'i')
		look(strings.Index(text, recordedName), len(recordedName), 'n')
		for _, tag := range []string{"<EncryptedData>", "<CookieData>"} {
			if i := strings.Index(text, tag); i >= 0 {
				i += len(tag)
				look(i, strings.IndexByte(text[i:], '<'), 'c')
			}
		}
		m.pieces = append(m.pieces, text[:at])
		if kind == 0 {
			return m
		}
		m.places, text = append(m.places, kind), text[end:]
	}
}

// body is what a terminal says.
func (m *message) body(id, name, cookie string) []byte {
	var b bytes.Buffer
	b.Grow(m.request + 200)
	for i, p := range m.pieces {
		b.WriteString(p)
		if i < len(m.places) {
			b.WriteString(map[byte]string{'i': id, 'n': name, 'c': cookie}[m.places[i]])
		}
	}
	return b.Bytes()
}

// scripts are what an agent says: at its first scan, and on any later day.
func scripts(base string) (first, daily []message, about string, err error) {
	var said []message
	a := &terminal.Terminal{Base: base, Do: http.DefaultClient.Do, ID: recordedID, Name: recordedName, Group: "Madoguchi",
		Machine: terminal.Machine{Version: [5]int{6, 3, 9600, 0, 0}, Product: 1, Suite: 256, Arch: 9, Packages: map[string]string{"Microsoft-Windows-Client-Features-Package": "6.3.9600.16384"}},
		Watch:   func(request, answer []byte) { said = append(said, record(request, answer)) }}
	report := func() error {
		var ids []string
		for _, u := range a.Needed() {
			ids = append(ids, strings.ToUpper(u.UpdateID))
		}
		return a.Report(terminal.Event{ID: 147, Instance: "00000001-0000-4000-8000-000000000000"},
			terminal.Event{ID: 156, Instance: "00000002-0000-4000-8000-000000000000", Misc: []string{"U=" + strings.Join(ids, ";")}})
	}
	if err := errors.Join(a.Begin(), a.Scan()); err != nil {
		return nil, nil, "", err
	}
	need := a.Needed()
	if len(need) == 0 {
		return nil, nil, "", errors.New("the simulated terminal needs nothing")
	}
	for part := range slices.Chunk(need, 50) {
		if _, _, err := a.Extended(part, "ja-JP", "ja", "en"); err != nil {
			return nil, nil, "", err
		}
	}
	if err := report(); err != nil {
		return nil, nil, "", err
	}
	about = fmt.Sprintf("a first scan: SyncUpdates rounds %v, %d revisions, %d installed and not leaf, %d needed", a.Rounds, a.Known(), a.NonLeaf(), len(need))
	first, said = said, nil
	if err := errors.Join(a.Renew(), a.Scan(), report()); err != nil {
		return nil, nil, "", err
	}
	return first, said, about, nil
}

// sample collects times of requests.
type sample struct {
	mu     sync.Mutex
	times  map[string]spread // by operation, seconds
	errors map[string]int
	bytes  atomic.Int64
}

func (s *sample) add(op string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[op] = append(s.times[op], took.Seconds())
	if err != nil {
		s.errors[op+": "+err.Error()]++
	}
}

// quantile of all operations together, in milliseconds.
func (s *sample) quantile(q float64) float64 {
	var all spread
	for _, t := range s.times {
		all = append(all, t...)
	}
	if len(all) == 0 {
		return 0
	}
	all = all.sorted()
	return 1000 * all[min(int(q*float64(len(all))), len(all)-1)]
}

func (s *sample) count() (n int) {
	for _, t := range s.times {
		n += len(t)
	}
	return n
}

// run plays a script for one terminal. With echo, the same bytes go to and
// come from a handler that does nothing else.
func (s *sample) run(c *http.Client, base string, script []message, id, name string, echo bool) {
	cookie := "AQID"
	for i := range script {
		m := &script[i]
		url := base + m.path
		if echo {
			url = base + "/?n=" + strconv.Itoa(m.answer)
		}
		req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(m.body(id, name, cookie)))
		if err != nil {
			s.add(m.op, 0, err)
			return
		}
		req.Header.Set("Content-Type", "text/xml; charset=utf-8")
		req.Header.Set("User-Agent", "Windows-Update-Agent/10.0.10011.16384 Client-Protocol/2.90")
		began := time.Now()
		res, err := c.Do(req)
		if err != nil {
			s.add(m.op, time.Since(began), errors.New("no answer"))
			return
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		took := time.Since(began)
		s.bytes.Add(int64(len(b)))
		switch {
		case err != nil:
		case res.StatusCode != http.StatusOK:
			err = errors.New(res.Status)
		case !echo && (len(b) < m.answer*9/10 || len(b) > m.answer*11/10+200):
			err = fmt.Errorf("another answer: %d bytes instead of %d", len(b), m.answer)
		}
		s.add(m.op, took, err)
		if err != nil {
			return
		}
		if n := newCookie(b); n != "" && !echo {
			cookie = n
		}
	}
}

func newCookie(b []byte) string {
	for _, tag := range []string{"<EncryptedData>", "<CookieData>"} {
		if _, rest, ok := bytes.Cut(b, []byte(tag)); ok {
			v, _, _ := bytes.Cut(rest, []byte("<"))
			return string(v)
		}
	}
	return ""
}

// echoServer answers with as many bytes as asked for, after reading the request.
func echoServer(addr string) error {
	fill := bytes.Repeat([]byte("<int>123456</int>"), 1<<16)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		n = min(n, len(fill))
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(fill[:n])
	}))
}

// wave is many terminals over some time.
type wave struct {
	name      string
	terminals int
	over      time.Duration // as it runs
	script    []message
	at        func(*rand.Rand) float64 // when a terminal comes, 0 to 1
}

// play runs a wave; no terminal waits for another.
func (w wave) play(base string, seed uint64, echo bool) (*sample, time.Duration) {
	s := &sample{times: map[string]spread{}, errors: map[string]int{}}
	rnd := rand.New(rand.NewPCG(seed, 1))
	starts := make([]float64, w.terminals)
	for i := range starts {
		starts[i] = w.at(rnd)
	}
	slices.Sort(starts)
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 10 * time.Second}, Timeout: 2 * time.Minute}
	defer c.CloseIdleConnections()
	var all sync.WaitGroup
	began := time.Now()
	for i, at := range starts {
		time.Sleep(time.Until(began.Add(time.Duration(at * float64(w.over)))))
		all.Go(func() {
			s.run(c, base, w.script, fmt.Sprintf("%08x-0d3b-4b4a-9f0a-1c2d3e4f5a6b", i+1), fmt.Sprintf("pc%05d.town.example", i), echo)
		})
	}
	all.Wait()
	return s, time.Since(began)
}

// terminalLoad measures the mirror under terminals that scan.
func terminalLoad(l *lab) error {
	samples := os.Getenv("HASHIKE_SAMPLES")
	if samples == "" {
		return errors.New("HASHIKE_SAMPLES is not set")
	}
	dir, done := l.temp("load")
	defer done()
	v, err := newWindows(samples, l.of(20_000))
	if err != nil {
		return err
	}
	defer v.http.Close()
	w, err := pairedWorld(l, dir, v.block())
	if err != nil {
		return err
	}
	for _, s := range w.steps() {
		if s.args[0] == "pack" {
			s.args = append(s.args, "--clock-checked", "genuine old updates")
		}
		c, err := w.run(s.side, "", s.args...)
		if err != nil {
			return err
		}
		fmt.Fprintf(l.out, "%s: %.1f s, peak %.0f MiB\n\n", s.args[0], c.seconds, c.peakMiB)
	}
	srv, base, took, err := w.serve("/hashike/")
	if err != nil {
		return err
	}
	defer srv.stop()
	first, daily, about, err := scripts(base)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, srv.out)
	}
	fmt.Fprintf(l.out, "%d revisions; serve answered after %.2f s; %s; %d and %d requests\n\n", len(v.docs), took.Seconds(), about, len(first), len(daily))
	echoAddr, err := freeAddr()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	echo, err := startServer(exec.Command(self, "echo", echoAddr))
	if err != nil {
		return err
	}
	defer echo.stop()
	if err := waitFor("http://" + echoAddr + "/?n=1"); err != nil {
		return err
	}
	uniform := func(r *rand.Rand) float64 { return r.Float64() }
	// Half of a town hall comes within the hour and a half after 8:15.
	morning := func(r *rand.Rand) float64 {
		if r.IntN(2) == 0 {
			return (8.25 + 1.5*r.Float64()) / 24
		}
		return r.Float64()
	}
	seconds := time.Duration(l.seconds) * time.Second
	waves := []wave{
		{"a day: 10,000 terminals, their daily scan", l.of(10_000), 24 * time.Hour / dayInto(seconds), daily, morning},
		{"a herd: 3,000 terminals, their first scan", l.of(3_000), 10 * time.Minute / herdInto(seconds), first, uniform},
	}
	l.head("wave", "compressed", "terminals", "requests", "not 200", "requests/s", "p50 ms", "p99 ms", "most ms", "CPU ms/scan", "echo CPU ms/scan", "ratio", "peak MiB")
	for i, wv := range waves {
		full := []time.Duration{24 * time.Hour, 10 * time.Minute}[i]
		before := cpuSeconds(srv.cmd.Process.Pid)
		s, ran := wv.play(base, uint64(l.seed), false)
		cpu := (cpuSeconds(srv.cmd.Process.Pid) - before) / float64(wv.terminals) * 1000
		peak, err := highWater(srv.cmd.Process.Pid)
		if err != nil {
			return err
		}
		e := wv
		e.terminals = min(wv.terminals, 1000)
		e.over = wv.over * time.Duration(e.terminals) / time.Duration(wv.terminals)
		before = cpuSeconds(echo.cmd.Process.Pid)
		e.play("http://"+echoAddr, uint64(l.seed), true)
		bare := (cpuSeconds(echo.cmd.Process.Pid) - before) / float64(e.terminals) * 1000
		bad := 0
		for what, n := range s.errors {
			bad += n
			fmt.Fprintf(os.Stderr, "%d × %s\n", n, what)
		}
		l.row(wv.name, fmt.Sprintf("× %.0f", full.Seconds()/wv.over.Seconds()), fmt.Sprint(wv.terminals), fmt.Sprint(s.count()), fmt.Sprint(bad),
			fmt.Sprintf("%.0f", float64(s.count())/ran.Seconds()), fmt.Sprintf("%.1f", s.quantile(0.5)), fmt.Sprintf("%.1f", s.quantile(0.99)), fmt.Sprintf("%.0f", s.quantile(1)),
			fmt.Sprintf("%.2f", cpu), fmt.Sprintf("%.2f", bare), fmt.Sprintf("%.1f", cpu/bare), fmt.Sprintf("%.0f", peak))
	}
	return nil
}

// dayInto and herdInto are how much the waves are compressed: into so many
// seconds (-seconds), the herd into twice as many, at most to its own time.
func dayInto(s time.Duration) time.Duration  { return max(24*time.Hour/s, 1) }
func herdInto(s time.Duration) time.Duration { return max(10*time.Minute/(2*s), 1) }
