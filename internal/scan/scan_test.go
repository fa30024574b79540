package scan

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/cas"
	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// side is a data directory to scan in.
type side struct {
	t     testing.TB
	db    *state.DB
	store *cas.Store
	files []Subject
	now   time.Time
}

func newSide(t testing.TB) *side {
	t.Helper()
	dir := state.Dir(t.TempDir())
	s := &side{t: t, db: state.At(dir, "test"), now: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)}
	if err := s.db.Create("outside", 1); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.store, err = cas.Open(string(dir), time.Now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.store.Close() })
	return s
}

func (s *side) put(path string, b []byte) Subject {
	s.t.Helper()
	d, n, err := s.store.Put(context.Background(), bytes.NewReader(b), "")
	if err != nil {
		s.t.Fatal(err)
	}
	f := Subject{Feed: "tools", Path: path, Digest: d, Size: n}
	s.files = append(s.files, f)
	return f
}

func (s *side) all() iter.Seq2[Subject, error] {
	return func(yield func(Subject, error) bool) {
		for _, f := range s.files {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func (s *side) run(sc Scanner, orders ...feed.Order) (Summary, error) {
	return Run(context.Background(), Job{Scanner: sc, DB: s.db, Store: s.store, Orders: orders, Now: s.now, Stale: DefaultStale}, s.all())
}

// peer is what answers on the other end of a clamd's socket, as a test wants it.
func peer(t testing.TB, answer func(c net.Conn, command string)) *Clamd {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var cmd []byte
				for b := make([]byte, 1); ; {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					if b[0] == 0 {
						break
					}
					cmd = append(cmd, b[0])
				}
				answer(c, string(cmd))
			}()
		}
	}()
	return &Clamd{Silence: 30 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}}
}

// stream reads an INSTREAM body to its end.
func stream(c net.Conn) (body []byte, ok bool) {
	for {
		var n [4]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return body, false
		}
		size := binary.BigEndian.Uint32(n[:])
		if size == 0 {
			return body, true
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(c, b); err != nil {
			return body, false
		}
		body = append(body, b...)
	}
}

const version = "ClamAV 1.0.7/27123/Mon Nov 16 08:36:21 2026"

// good answers as clamd does; it finds every file that holds "virus".
func good(v *string, asked *int) func(net.Conn, string) {
	return func(c net.Conn, cmd string) {
		if cmd == "zVERSION" {
			io.WriteString(c, *v+"\x00")
			return
		}
		body, ok := stream(c)
		if !ok {
			return
		}
		*asked++
		switch {
		case len(body) > 4<<20:
			io.WriteString(c, "INSTREAM size limit exceeded. ERROR\x00")
		case bytes.Contains(body, []byte("virus")):
			io.WriteString(c, "stream: Test.Virus FOUND\x00")
		default:
			io.WriteString(c, "stream: OK\x00")
		}
	}
}

// What clean, detected and too large files come to, and what is remembered how long.
func TestVerdictsAreRemembered(t *testing.T) {
	s, v, asked := newSide(t), version, 0
	c := peer(t, good(&v, &asked))
	s.put("a", []byte("one"))
	s.put("b", []byte("two"))
	s.files = append(s.files, Subject{Feed: "again", Path: "a", Digest: s.files[0].Digest, Size: 3})
	bad := s.put("bad", []byte("a virus"))
	s.put("big", make([]byte, 5<<20))
	sum, err := s.run(c)
	if err != nil || sum.Files != 4 || sum.Scanned != 4 || asked != 4 || len(sum.Infected) != 1 || sum.Infected[0].Name != "Test.Virus" || sum.Infected[0].Path != "bad" ||
		sum.Over != 1 || sum.OverLimit[0].Path != "big" || sum.Engine != "ClamAV 1.0.7" || sum.Definitions != "27123" {
		t.Fatalf("%+v, asked %d: %v", sum, asked, err)
	}
	check := func(what string, want int) {
		t.Helper()
		asked = 0
		sum, err := s.run(c)
		if err != nil || asked != want || sum.Files != 4 || sum.Scanned != int64(want) || sum.Remembered != int64(4-want) || len(sum.Infected) != 1 || sum.Over != 1 {
			t.Errorf("%s: asked %d, want %d: %+v %v", what, asked, want, sum, err)
		}
	}
	check("the same definitions: only what is over the limit", 1)
	v = "ClamAV 1.0.7/27130/Mon Nov 23 08:36:21 2026"
	check("seven days newer: the detection too", 2)
	v = "ClamAV 1.0.7/27131/Tue Nov 24 08:36:21 2026"
	check("eight days newer: everything", 4)
	v = "ClamAV 1.1.0/27131/Tue Nov 24 08:36:21 2026"
	check("another engine: everything", 4)
	// An exception is for this file and this detection, and ends.
	ex := feed.Order{Schema: 1, Number: 7, Kind: feed.OrderException, Digest: bad.Digest, Detection: "Test.Virus", Reason: "false alarm",
		Operator: "a", Approver: "b", Issued: s.now, Until: s.now.AddDate(0, 1, 0)}
	if sum, err := s.run(c, ex); err != nil || len(sum.Infected) != 0 || len(sum.Released) != 1 || sum.Released[0].Order != 7 {
		t.Errorf("with an exception: %+v %v", sum, err)
	}
	for name, wrong := range map[string]func(*feed.Order){
		"another file":      func(o *feed.Order) { o.Digest = s.files[0].Digest },
		"another detection": func(o *feed.Order) { o.Detection = "Test.Other" },
		"a strength only":   func(o *feed.Order) { o.Detection = "" },
		"ended":             func(o *feed.Order) { o.Until = s.now.Add(-time.Second) },
		"another feed":      func(o *feed.Order) { o.Feed = "others" },
		"nobody approved":   func(o *feed.Order) { o.Approver = "" },
	} {
		o := ex
		wrong(&o)
		if sum, err := s.run(c, o); err != nil || len(sum.Infected) != 1 {
			t.Errorf("%s releases it: %+v %v", name, sum, err)
		}
	}
	n := 0
	err = s.db.Update(func(tx state.Tx) (err error) {
		n, err = Forget(tx, func(d feed.Digest) bool { return d == bad.Digest })
		return err
	})
	if err != nil || n != 3 {
		t.Errorf("forgot %d: %v", n, err)
	}
}

// Whatever a scanner does, it is a verdict only if it is one.
func TestHostileScanners(t *testing.T) {
	answers := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			stream(c)
			io.WriteString(c, text)
		}
	}
	for name, act := range map[string]func(net.Conn){
		"hangs":                        func(c net.Conn) { io.Copy(io.Discard, c) },
		"hangs and does not read":      func(c net.Conn) { <-time.After(2 * time.Second) },
		"closes at once":               func(net.Conn) {},
		"closes in mid-stream":         func(c net.Conn) { io.CopyN(io.Discard, c, 100<<10) },
		"closes after the stream":      func(c net.Conn) { stream(c) },
		"says OK early":                func(c net.Conn) { io.WriteString(c, "stream: OK\x00"); io.Copy(io.Discard, c) },
		"says OK early, does not read": func(c net.Conn) { io.WriteString(c, "stream: OK\x00"); <-time.After(2 * time.Second) },
		"garbage":                      answers("\xff\xfe\x01\x02OK\x00"),
		"OK without an end":            answers("stream: OK"),
		"an empty answer":              answers("\x00"),
		"OK of another":                answers("stream2: OK\x00"),
		"OK and more":                  answers("stream: OK, perhaps\x00"),
		"two answers in one":           answers("stream: Test FOUND\nstream: OK\x00"),
		"an error":                     answers("stream: Can't allocate memory ERROR\x00"),
		"found without a name":         answers("stream:  FOUND\x00"),
		"control characters":           answers("stream: \x1b[2JTest FOUND\x00"),
		"endless":                      func(c net.Conn) { stream(c); io.Copy(c, rand1{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSide(t)
			s.put("file", bytes.Repeat([]byte("x"), 24<<20)) // more than sockets hold
			c := peer(t, func(c net.Conn, cmd string) {
				if cmd == "zVERSION" {
					io.WriteString(c, version+"\x00")
					return
				}
				act(c)
			})
			c.Silence = 500 * time.Millisecond
			if strings.HasPrefix(name, "hangs") {
				c.Silence = 100 * time.Millisecond
			}
			sum, err := s.run(slow{c})
			if !errors.Is(err, ErrUnavailable) || sum.Scanned != 0 {
				t.Errorf("%+v %v", sum, err)
			}
			again := 0
			s.db.View(func(tx state.Tx) error {
				for range tx.All(scansBucket, "") {
					again++
				}
				return nil
			})
			if again != 0 {
				t.Error("a verdict was remembered")
			}
		})
	}
}

// slow does not wait for a file's size: tests would.
type slow struct{ *Clamd }

func (s slow) Scan(ctx context.Context, f *os.File, size int64) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := s.Clamd.Scan(ctx, f, size)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return v, err
}

type rand1 struct{}

func (rand1) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte('a' + rand.IntN(26))
	}
	return len(p), nil
}

func TestHostileVersions(t *testing.T) {
	for _, text := range []string{"", "OK", "UNKNOWN COMMAND", "ClamAV 1.0.7/27123", "ClamAV 1.0.7/27123/yesterday", "ClamAV \x1b[2J/1/Mon Nov 16 08:36:21 2026", "Other 1"} {
		c := peer(t, func(c net.Conn, _ string) { io.WriteString(c, text+"\x00") })
		if id, err := c.Identify(context.Background()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%q is %+v, %v", text, id, err)
		}
	}
	c := &Clamd{Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("no such socket") }}
	if _, err := c.Identify(context.Background()); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// An interrupted scan ends at once and is no finding.
func TestScanIsInterrupted(t *testing.T) {
	s := newSide(t)
	s.put("file", []byte("x"))
	ctx, cancel := context.WithCancel(context.Background())
	c := peer(t, func(c net.Conn, cmd string) {
		if cmd == "zVERSION" {
			io.WriteString(c, version+"\x00")
			return
		}
		cancel()
		io.Copy(io.Discard, c)
	})
	if _, err := Run(ctx, Job{Scanner: c, DB: s.db, Store: s.store, Now: s.now}, s.all()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A file that a resident product takes is reported as that, before, during
// and after the scan; a damaged one is not.
func TestResidentAntivirus(t *testing.T) {
	v, asked := version, 0
	var s *side
	c := peer(t, good(&v, &asked))
	s = newSide(t)
	f := s.put("file", []byte("x"))
	if err := s.store.Delete(f.Digest); err != nil {
		t.Fatal(err)
	}
	var gone *GoneError
	if _, err := s.run(c); !errors.As(err, &gone) || gone.Path != "file" || errors.Is(err, feed.ErrDamaged) {
		t.Errorf("before: %v", err)
	}
	f = s.put("other", []byte("y"))
	s.files = s.files[1:]
	if _, err := s.run(takes{c, s, f.Digest}); !errors.As(err, &gone) || gone.Path != "other" {
		t.Errorf("after: %v", err)
	}
	for _, err := range []error{fs.ErrPermission, &os.PathError{Op: "read", Path: "x", Err: fs.ErrPermission}} {
		if !Guarded(err) || !errors.As(fmt.Errorf("x: %w", gone1(err)), &gone) {
			t.Errorf("%v is no sign of a resident product", err)
		}
	}
	if Guarded(io.ErrUnexpectedEOF) || Guarded(feed.ErrDamaged) {
		t.Error("damage is taken for a resident product's work")
	}
}

func gone1(err error) error { return gone(Subject{}, err) }

// takes removes the file while it is scanned.
type takes struct {
	Scanner
	s *side
	d feed.Digest
}

func (k takes) Scan(ctx context.Context, f *os.File, size int64) (Verdict, error) {
	v, err := k.Scanner.Scan(ctx, f, size)
	k.s.store.Delete(k.d)
	return v, err
}

// Our own limit is for files that clamd would wave through.
func TestOwnLimit(t *testing.T) {
	s, v, asked := newSide(t), version, 0
	c := peer(t, good(&v, &asked))
	c.Limit = 10
	s.put("small", []byte("0123456789"))
	s.put("large", []byte("01234567890"))
	if sum, err := s.run(c); err != nil || asked != 1 || sum.Over != 1 || sum.OverLimit[0].Path != "large" {
		t.Errorf("%+v, asked %d: %v", sum, asked, err)
	}
}

// Exit codes of commands: 0 nothing, 1 a detection, anything else no verdict.
func TestCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands here are for a POSIX shell")
	}
	sh := func(script string) *Command {
		return &Command{Args: []string{"sh", "-c", script + ` # "$1"`, "sh", Placeholder}, Timeout: 2 * time.Second}
	}
	for script, want := range map[string]Result{
		`grep -q one "$1"`:                    Clean, // the file is handed over
		`exit 0`:                              Clean,
		`echo; echo Some.Virus; echo; exit 1`: Infected,
		`exit 2`:                              "",
		`exit 127`:                            "",
		`kill -9 $$`:                          "",
		`sleep 60`:                            "",
		`yes | head -c 1000000; echo Found; exit 1`: Infected,
	} {
		s := newSide(t)
		s.put("file", []byte("one"))
		c := sh(script)
		c.Args[2] = script
		sum, err := s.run(c)
		switch want {
		case "":
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %+v %v", script, sum, err)
			}
		case Clean:
			if err != nil || len(sum.Infected) != 0 || sum.Scanned != 1 {
				t.Errorf("%s: %+v %v", script, sum, err)
			}
		default:
			if err != nil || len(sum.Infected) != 1 || sum.Infected[0].Name == "" {
				t.Errorf("%s: %+v %v", script, sum, err)
			}
		}
	}
	if _, err := (&Command{Args: []string{"no-such-scanner", Placeholder}}).Identify(context.Background()); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// What MpCmdRun is expected to print, by its documentation; no run on a real Windows has confirmed it.
func TestDefenderOutput(t *testing.T) {
	found := "Scan starting...\r\nScan finished.\r\nScanning C:\\x found 1 threats.\r\nCleaning started...\r\n" +
		"<===========================LIST OF DETECTED THREATS==========================>\r\n----------------------------- Threat information ------------------------------\r\n" +
		"Threat                  : Virus:DOS/EICAR_Test_File\r\nResources               : 1 total\r\n    file                : C:\\x\r\n"
	for out, want := range map[string]struct {
		exit int
		v    Verdict
		ok   bool
	}{
		found: {2, Verdict{Infected, "Virus:DOS/EICAR_Test_File"}, true},
		"Scan starting...\r\nScan finished.\r\nScanning C:\\x found no threats.\r\n":       {0, Verdict{Result: Clean}, true},
		"Scan starting...\r\nCmdTool: Failed with hr = 0x80508023. Check C:\\MpCmdRun.log": {2, Verdict{}, false},
		"Scan starting...\r\nScanning C:\\x was skipped.\r\n":                              {0, Verdict{OverLimit, "skipped"}, true},
	} {
		v, err := readDefender(want.exit, out)
		if v != want.v || (err == nil) != want.ok {
			t.Errorf("%q: %+v %v", out, v, err)
		}
	}
	id := parseDefender(`{"t":"2026-11-21T18:02:11Z","v":"1.421.55.0","p":"4.18.26100.5"}`+"\r\n", Identity{Engine: "Microsoft Defender"})
	if id.Engine != "Microsoft Defender 4.18.26100.5" || id.Definitions != "1.421.55.0" || id.Date.Day() != 21 {
		t.Errorf("%+v", id)
	}
	if id := parseDefender("garbage", Identity{Engine: "x"}); id != (Identity{Engine: "x"}) {
		t.Errorf("%+v", id)
	}
}

// The test file is the one of eicar.org; its MD5 is published.
func TestTestFile(t *testing.T) {
	h := md5.Sum(TestFile())
	if hex.EncodeToString(h[:]) != "44d88612fea8a8f36de82e1278abb02f" {
		t.Errorf("%x", h)
	}
}

// Debian's own clamd, with a signature of ours.
func TestRealClamd(t *testing.T) {
	c := RunClamd(t, "StreamMaxLength 3M", "MaxFileSize 2M", "AlertExceedsMax yes")
	s := newSide(t)
	s.put("clean", []byte("nothing"))
	s.put("empty", nil)
	s.put("eicar", TestFile())
	s.put("over StreamMaxLength", bytes.Repeat([]byte("abcdefgh"), 1<<20))
	s.put("over MaxFileSize", bytes.Repeat([]byte("abcd"), 600<<10))
	sum, err := s.run(c)
	if err != nil || sum.Files != 5 || len(sum.Infected) != 1 || sum.Infected[0].Path != "eicar" || sum.Over != 2 {
		t.Fatalf("%+v %v", sum, err)
	}
	if !strings.HasPrefix(sum.Engine, "ClamAV ") || !strings.Contains(sum.Infected[0].Name, "Eicar") {
		t.Errorf("%+v", sum)
	}
	if v, taken, err := Try(context.Background(), c, t.TempDir()); err != nil || taken || v.Result != Infected {
		t.Errorf("the trial: %+v %v %v", v, taken, err)
	}
}

// RunClamd starts Debian's clamd with a private configuration on a socket of
// its own, and stops it with the test.
func RunClamd(t testing.TB, settings ...string) *Clamd {
	t.Helper()
	program, err := exec.LookPath("clamd")
	if err != nil {
		program = "/usr/sbin/clamd"
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("HASHIKE_CI") == "1" {
			t.Fatal("clamd is not here")
		}
		t.Skip("clamd is not here")
	}
	dir, err := os.MkdirTemp("", "clamd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db := filepath.Join(dir, "db")
	h := md5.Sum(TestFile())
	if err := errors.Join(os.Mkdir(db, 0o755), os.WriteFile(filepath.Join(db, "test.hdb"), fmt.Appendf(nil, "%x:68:Test.Eicar\n", h), 0o644)); err != nil {
		t.Fatal(err)
	}
	conf := append([]string{"LocalSocket " + filepath.Join(dir, "s"), "DatabaseDirectory " + db, "Foreground yes", "TemporaryDirectory " + dir}, settings...)
	if os.Getuid() == 0 {
		conf = append(conf, "User root")
	}
	file := filepath.Join(dir, "clamd.conf")
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	c := &Clamd{Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "s"))
	}}
	for range 300 {
		if _, err = c.Identify(context.Background()); err == nil {
			return c
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("clamd does not answer: %v", err)
	return nil
}

func FuzzClamdAnswer(f *testing.F) {
	for _, s := range []string{"stream: OK\x00", "stream: A FOUND\x00", "INSTREAM size limit exceeded. ERROR\x00", version + "\x00", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(text) > clamdAnswer {
			t.Error("too long")
		}
		if id, err := parseVersion(text); err == nil && (id.Engine == "" || printable(id.Engine) != id.Engine) {
			t.Errorf("%q", id.Engine)
		}
		v, err := answer{text: text}.verdict()
		if err == nil && v.Result == Clean && text != "stream: OK" {
			t.Errorf("%q is clean", text)
		}
		if early, err := (answer{text: text, early: true}).verdict(); err == nil && early.Result != OverLimit {
			t.Errorf("%q before the end is %v", text, early)
		}
	})
}

func FuzzDefender(f *testing.F) {
	f.Add(2, "Threat : X\n")
	f.Fuzz(func(t *testing.T, exit int, out string) {
		if v, err := readDefender(exit, out); err == nil && v.Result == Clean && exit != 0 {
			t.Errorf("exit %d is clean", exit)
		}
		parseDefender(out, Identity{})
	})
}
