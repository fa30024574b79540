//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fileServer is the peer: what Go's own library does with a directory.
func fileServer(dir, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return (&http.Server{Handler: http.FileServer(http.Dir(dir)), ErrorLog: log.New(io.Discard, "", 0)}).Serve(l)
}

// nginxConfig is the other peer: Debian's nginx as most sites run it, with the
// file cache and the access log that the mirror has too.
const nginxConfig = `daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log crit;
worker_processes %[4]d;
events { worker_connections 512; }
http {
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    access_log %[1]s/access.log combined buffer=64k flush=1s;
    client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi;
    uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
    types { application/vnd.debian.binary-package deb; }
    server { listen %[2]s; root %[3]s; }
}
`

// serve loads the mirror, http.FileServer and nginx in turn with wrk.
func serve(l *lab) error {
	for _, tool := range []string{"wrk", "nginx"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is needed: apt-get install %s", tool, tool)
		}
	}
	dir, done := l.temp("serve")
	defer done()
	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.close()
	sizes := []int64{1 << 20, 64 << 10, 100}
	var files []blob
	plain := filepath.Join(dir, "plain")
	for i, n := range sizes {
		b := blob{path: fmt.Sprintf("f%d.deb", n), seed: uint64(i), size: n}
		b.hash()
		files = append(files, b)
		var buf bytes.Buffer
		b.write(&buf)
		fail(os.MkdirAll(filepath.Join(plain, feedName), 0o755))
		fail(os.WriteFile(filepath.Join(plain, feedName, b.path), buf.Bytes(), 0o644))
	}
	fail(os.Chmod(dir, 0o755)) // nginx's workers are another user
	fail(os.Chmod(l.dir, 0o755))
	t := treeVendor{u}
	if err := t.offer(files); err != nil {
		return err
	}
	w, err := newWorld(l, dir, t)
	if err != nil {
		return err
	}
	if err := w.cross(); err != nil {
		return err
	}
	// The same bytes must lie the same way in the page cache for every server:
	// a file just written in one piece is cached in larger pages than one that
	// came in by parts. Where this is not allowed, the run goes on as it is.
	exec.Command("sync").Run()
	os.WriteFile("/proc/sys/vm/drop_caches", []byte("1\n"), 0o200)
	first := "/" + feedName + "/" + files[0].path
	ours, base, _, err := w.serve(first)
	if err != nil {
		return err
	}
	defer ours.stop()
	peers := []peer{{"Hashike", base, ours}}
	for _, start := range []func(string, string) (peer, error){startFileServer, startNginx} {
		p, err := start(dir, plain)
		if err != nil {
			return err
		}
		defer p.s.stop()
		if err := waitFor(p.base + first); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		peers = append(peers, p)
	}
	drained := false
	l.head("file", "Hashike req/s", "Hashike MB/s", "http.FileServer req/s", "nginx req/s", "× http.FileServer", "× nginx", "CPU µs per request: Hashike, http.FileServer, nginx")
	for _, f := range append([]blob{files[0]}, files...) {
		load, how := load, size(f.size)
		if !drained { // the first row
			drained, load, how = true, drain, how+", dropped by the client's kernel"
		}
		got, cpu := make([]spread, len(peers)), make([]spread, len(peers))
		for run := range l.runs {
			for i := range peers {
				i := (i + run) % len(peers) // no one always comes first
				before := cpuSeconds(peers[i].s.cmd.Process.Pid)
				v, n, err := load(peers[i].base+"/"+feedName+"/"+f.path, l.seconds)
				if err != nil {
					return fmt.Errorf("%s: %w", peers[i].name, err)
				}
				got[i] = append(got[i], v)
				cpu[i] = append(cpu[i], (cpuSeconds(peers[i].s.cmd.Process.Pid)-before)*1e6/n)
			}
		}
		l.row(how, got[0].text("%.0f"), fmt.Sprintf("%.0f", got[0].median()*float64(f.size)/1e6), got[1].text("%.0f"), got[2].text("%.0f"),
			ratios(got[0], got[1]).text("%.2f"), ratios(got[0], got[2]).text("%.2f"),
			fmt.Sprintf("%.0f, %.0f, %.0f", cpu[0].median(), cpu[1].median(), cpu[2].median()))
	}
	return nil
}

type peer struct {
	name, base string
	s          *server
}

func startFileServer(_, plain string) (peer, error) {
	exe, err := os.Executable()
	if err != nil {
		return peer{}, err
	}
	addr, err := freeAddr()
	if err != nil {
		return peer{}, err
	}
	s, err := startServer(exec.Command(exe, "fileserver", plain, addr))
	return peer{"http.FileServer", "http://" + addr, s}, err
}

func startNginx(dir, plain string) (peer, error) {
	addr, err := freeAddr()
	if err != nil {
		return peer{}, err
	}
	home := filepath.Join(dir, "nginx")
	if err := os.Mkdir(home, 0o755); err != nil {
		return peer{}, err
	}
	conf := filepath.Join(home, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, home, addr, plain, 2), 0o644); err != nil {
		return peer{}, err
	}
	s, err := startServer(exec.Command("nginx", "-c", conf, "-p", home))
	return peer{"nginx", "http://" + addr, s}, err
}

// A report of wrk.
var (
	perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	inAll     = regexp.MustCompile(`([0-9]+) requests in`)
)

// load is requests per second over 8 connections, and how many there were; any
// failed request is an error.
func load(url string, seconds int) (rate, n float64, err error) {
	out, err := exec.Command("wrk", "-t1", "-c8", fmt.Sprintf("-d%ds", seconds), url).CombinedOutput()
	r, all := perSecond.FindSubmatch(out), inAll.FindSubmatch(out)
	if err != nil || r == nil || all == nil || bytes.Contains(out, []byte("Non-2xx")) || bytes.Contains(out, []byte("Socket errors")) {
		return 0, 0, fmt.Errorf("wrk: %w\n%s", errors.Join(err, errors.New("failed requests")), out)
	}
	rate, err = strconv.ParseFloat(string(r[1]), 64)
	n, err2 := strconv.ParseFloat(string(all[1]), 64)
	return rate, n, errors.Join(err, err2)
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// publish lets clients download without pause while new generations appear,
// and counts every answer that is not whole and right.
func publish(l *lab) error {
	dir, done := l.temp("publish")
	defer done()
	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.close()
	t := treeVendor{u}
	files := blobs("pool", 200, 200_000)
	if err := t.offer(files); err != nil {
		return err
	}
	w, err := newWorld(l, dir, t)
	if err != nil {
		return err
	}
	if err := w.cross(); err != nil {
		return err
	}
	ours, base, _, err := w.serve("/" + feedName + "/SHA256SUMS")
	if err != nil {
		return err
	}
	defer ours.stop()
	c := &clients{base: base + "/" + feedName + "/", files: files, stop: make(chan struct{}), lists: map[string]bool{}}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { c.run(i) })
	}
	generations := l.of(20)
	for g := range generations {
		if g%2 == 0 { // a new publication: every tenth file is replaced
			for i := g % 10; i < len(files); i += 10 {
				files = append(files, blob{})
				files[len(files)-1] = blob{path: fmt.Sprintf("pool/new/%d-%d.deb", g, i), seed: uint64(g*1000 + i + 500_000), size: 50_000}
				files[len(files)-1].hash()
			}
			if err := t.offer(files); err != nil {
				return err
			}
			err = w.cross()
		} else { // a file is withdrawn: a new generation of the same publication
			_, err = w.run("inside", "", "withdraw", feedName, "--file", files[len(files)-g].path, "--reason", "benchmark")
		}
		if err != nil {
			return err
		}
		time.Sleep(1100 * time.Millisecond) // the server looks once a second
	}
	close(c.stop)
	wg.Wait()
	l.head("generations published", "list versions that clients saw", "requests", "failed requests")
	l.row(fmt.Sprint(generations), fmt.Sprint(len(c.lists)), fmt.Sprint(c.asked.Load()), fmt.Sprint(c.failed.Load()))
	if c.first != "" {
		fmt.Fprintln(l.out, "\nfirst failure:", c.first)
	}
	return nil
}

type clients struct {
	base   string
	files  []blob
	stop   chan struct{}
	asked  atomic.Int64
	failed atomic.Int64
	mu     sync.Mutex
	lists  map[string]bool
	first  string
}

func (c *clients) run(from int) {
	client := &http.Client{}
	for i := from; ; i += 4 {
		select {
		case <-c.stop:
			return
		default:
		}
		if i%16 == from {
			c.list(client)
			continue
		}
		f := c.files[i%len(c.files)]
		body, err := get(client, c.base+f.path)
		c.asked.Add(1)
		var want bytes.Buffer
		f.write(&want)
		if err == nil && !bytes.Equal(body, want.Bytes()) {
			err = fmt.Errorf("%s: other bytes", f.path)
		}
		c.note(err)
	}
}

func (c *clients) list(client *http.Client) {
	body, err := get(client, c.base+"SHA256SUMS")
	c.asked.Add(1)
	if err == nil && !strings.HasSuffix(string(body), "\n") {
		err = fmt.Errorf("a list cut short")
	}
	c.note(err)
	c.mu.Lock()
	c.lists[string(body)] = true
	c.mu.Unlock()
}

func (c *clients) note(err error) {
	if err == nil {
		return
	}
	c.failed.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == "" {
		c.first = err.Error()
	}
}

func get(client *http.Client, url string) ([]byte, error) {
	res, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return b, err
}
