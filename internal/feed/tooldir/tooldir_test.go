package tooldir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// plain is a vendor whose index holds the version alone: nothing but the rest
// period tells a finished folder from one at work.
func plain() Vendor {
	return Vendor{Name: "plain", Maker: "Plain", Index: func(p string) bool { return p == "index.ini" },
		Read: func(t *Tree) (Release, error) {
			s, err := t.Text("index.ini")
			if errors.Is(err, fs.ErrNotExist) {
				return Release{}, ErrIncomplete
			}
			n, _ := Order(strings.TrimSpace(s))
			return Release{Version: s, Marks: map[string]int64{"index": n}}, err
		}}
}

// busy is a folder that somebody writes into while it is read: each access
// takes a while of the bubble's time.
type busy struct {
	mu    sync.Mutex
	files fstest.MapFS
}

func (b *busy) put(name string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[name] = &fstest.MapFile{Data: body, ModTime: time.Now(), Mode: 0o600}
}

func (b *busy) remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.files, name)
}

func (b *busy) copy() fstest.MapFS {
	time.Sleep(time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	out := fstest.MapFS{}
	for p, f := range b.files {
		one := *f
		out[p] = &one
	}
	return out
}

func (b *busy) Open(p string) (fs.File, error) {
	f, err := b.copy().Open(p)
	if err != nil {
		return nil, err
	}
	if d, ok := f.(fs.ReadDirFile); ok {
		return d, nil
	}
	return &torn{f, b, p, 0}, nil
}

// torn reads what the file holds at each moment, as a file that is overwritten in place does.
type torn struct {
	fs.File
	b   *busy
	p   string
	off int
}

func (t *torn) Read(p []byte) (int, error) {
	now, ok := t.b.copy()[t.p]
	if !ok || t.off >= len(now.Data) {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 3)], now.Data[t.off:])
	t.off += n
	return n, nil
}

// sink keeps what was taken; it is also the snapshot that was made of it.
type sink struct{ *feedtest.Memory }

func newSink() *sink { return &sink{feedtest.NewMemory(feed.Header{})} }

func (s *sink) Load(context.Context, feed.Request, feed.Want) (feed.Blob, error) {
	return nil, errors.New("nothing is downloaded")
}

type source struct{ fs.FS }

func (s source) Dir(string) (fs.FS, error) { return s.FS, nil }
func (s source) Do(context.Context, feed.Request) (*feed.Response, error) {
	return nil, errors.New("nothing is asked")
}

// A tool writes generation after generation, in any order, in place, and never
// pauses for the quiet period within one. Whatever the moments at which the
// folder is looked at, what is taken is one generation, whole; and every rest
// that is long enough is used.
func TestTornFolderIsNeverTaken(t *testing.T) {
	const quiet = 200 * time.Millisecond
	taken, later := 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rnd, reader := rand.New(rand.NewPCG(seed, 7)), rand.New(rand.NewPCG(seed, 8))
			f, _ := plain().feed(Config{Quiet: feed.Duration(quiet), Yellow: 1, Red: 1})
			dir := &busy{files: fstest.MapFS{}}
			generations := map[string]map[string]string{}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				last := map[string]string{}
				for n := 1; ctx.Err() == nil; n++ {
					whole := map[string]string{"index.ini": fmt.Sprint(n)}
					for i := range 2 + rnd.IntN(4) {
						if p := fmt.Sprintf("d/%d.bin", i); last[p] != "" && rnd.IntN(3) == 0 {
							whole[p] = last[p] // not written again
							continue
						}
						whole[fmt.Sprintf("d/%d.bin", i)] = strings.Repeat(fmt.Sprintf("%d-%d ", n, i), 1+rnd.IntN(3))
					}
					same := last
					last = whole
					dir.mu.Lock()
					old := dir.copyNames()
					generations[fmt.Sprint(n)] = whole
					dir.mu.Unlock()
					steps := append(old, slices.Sorted(maps.Keys(whole))...)
					rnd.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
					for _, p := range steps {
						if body, ok := whole[p]; ok && same[p] == body {
							continue
						} else if ok {
							dir.put(p, []byte(body[:rnd.IntN(len(body)+1)]))
							time.Sleep(time.Duration(rnd.Int64N(int64(quiet))))
							dir.put(p, []byte(body))
						} else {
							dir.remove(p)
						}
						time.Sleep(time.Duration(rnd.Int64N(int64(quiet))))
					}
					time.Sleep(time.Duration(rnd.Int64N(int64(6 * quiet))))
				}
			}()
			var held *sink
			for range 25 {
				s := newSink()
				var prev feed.Content // what is not new comes from it
				if held != nil {
					prev = held
					maps.Copy(s.Blobs, held.Blobs)
				}
				state, err := f.Fetch(t.Context(), source{dir}, prev, s)
				if errors.Is(err, feed.ErrUnchanged) {
					time.Sleep(quiet)
					continue
				}
				if err != nil {
					if later++; !errors.Is(err, feed.ErrTransient) {
						t.Error(err)
					}
					time.Sleep(time.Duration(reader.Int64N(int64(quiet))))
					continue
				}
				taken++
				s.Head.State = state
				if reader.IntN(3) > 0 {
					held = s
				}
				dir.mu.Lock()
				whole := generations[string(s.Body("index.ini"))]
				dir.mu.Unlock()
				if len(s.Named) != len(whole)+1 {
					t.Errorf("seed %d: %d files of %d", seed, len(s.Named)-1, len(whole))
				}
				for p, body := range whole {
					if got := string(s.Body(p)); got != body {
						t.Errorf("seed %d: %s is %q, not %q", seed, p, got, body)
					}
				}
			}
			stop()
			<-done
		})
	}
	if taken < 20 || later < 20 {
		t.Fatalf("%d folders were taken, %d left for later: the test shows nothing", taken, later)
	}
}

func (b *busy) copyNames() (out []string) {
	for p := range b.files {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func TestDecode(t *testing.T) {
	const want = "[サーバ]\r\nVersion=1\r\n"
	sjis := []byte("[\x83\x54\x81\x5b\x83\x6f]\r\nVersion=1\r\n")
	var le, be []byte
	for _, r := range want {
		le, be = append(le, byte(r), byte(r>>8)), append(be, byte(r>>8), byte(r))
	}
	for name, b := range map[string][]byte{"UTF-8": []byte(want), "with a mark": []byte("\uFEFF" + want), "Shift_JIS": sjis,
		"UTF-16LE": append([]byte{0xFF, 0xFE}, le...), "UTF-16BE": append([]byte{0xFE, 0xFF}, be...), "UTF-16LE bare": le, "UTF-16BE bare": be} {
		got, err := Decode(b)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, b := range []string{"a\x00b\x00\x00", "\xFF\xFE\x00", "x\x00\x00\xD8", "\xEF\xBB\xBF\xFF", "a\xFFb", "ab\x00c"} {
		if got, err := Decode([]byte(b)); err == nil {
			t.Errorf("%q is read as %q", b, got)
		}
	}
}

func TestINI(t *testing.T) {
	got, err := ParseINI("; note\r\n[Server]\r\nServer.1 = http://x/ \n#x\n[PATTERN]\nP.4=pattern/a.zip,17.1,9\np.5=b\nbare\n")
	if err != nil || len(got) != 2 || got[1].Name != "PATTERN" || len(got[1].Keys) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	if v, ok := got[1].Get("P.5"); !ok || v != "b" {
		t.Errorf("%q", v)
	}
	for _, bad := range []string{"[open", "[a] b", "[a]\nx=" + strings.Repeat("y", maxLine)} {
		if _, err := ParseINI(bad); err == nil {
			t.Errorf("%.20q is read", bad)
		}
	}
}

func TestXML(t *testing.T) {
	var names []string
	rest, err := WalkXML("<?xml version='1.0' encoding='Shift_JIS'?><a><b x='1'/></a>;tail", func(e Element) error {
		names = append(names, fmt.Sprintf("%s%d%v%s", e.Name, e.Depth, e.End, e.Attrs["x"]))
		return nil
	})
	if err != nil || rest != ";tail" || strings.Join(names, " ") != "a1false b2false1 b2true a1true" {
		t.Errorf("%q %q %v", names, rest, err)
	}
	for _, bad := range []string{"", "<a>", "<a></b>", "<!DOCTYPE a [<!ENTITY x 'y'>]><a/>", "<a>&x;</a>", "<a x='1' x='2'/>", strings.Repeat("<a>", 40)} {
		if _, err := WalkXML(bad, func(Element) error { return nil }); err == nil {
			t.Errorf("%.30q is read", bad)
		}
	}
}

func TestOrder(t *testing.T) {
	last := int64(0)
	for _, v := range []string{"1.2", "1.2.3", "1.10", "17.123.00", "17.123.1"} {
		n, ok := Order(v)
		if !ok || n <= last {
			t.Errorf("%s is %d after %d", v, n, last)
		}
		last = n
	}
	for _, v := range []string{"", "x", "1.x", "1.2.3.4.5", "-1", "1.99999", "0.0"} {
		if n, ok := Order(v); ok {
			t.Errorf("%q is %d", v, n)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{}, {Quiet: feed.Duration(2 * time.Hour), Yellow: 1, Red: 1}, {Quiet: feed.Duration(time.Minute), Yellow: 2, Red: 1},
		{Quiet: feed.Duration(time.Minute), Yellow: 1, Red: 1, Exclude: []string{"["}}, {Quiet: feed.Duration(time.Minute), Yellow: 1, Red: 1, Keys: []string{"AB"}}} {
		if _, err := plain().feed(c); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	f := &folder{cfg: Config{Exclude: []string{"*.log", "logs/**", "a/b.x"}}}
	for p, want := range map[string]bool{"x.log": true, "d/x.log": true, "logs/y": true, "logs": true, "a/b.x": true, "c/a/b.x": false, "x.zip": false} {
		if f.excluded(p) != want {
			t.Errorf("%s: %v", p, !want)
		}
	}
}

// What cannot be carried refuses the folder; it never becomes a path.
func TestStrangeFolders(t *testing.T) {
	f, _ := plain().feed(Config{Quiet: feed.Duration(minQuiet), Yellow: 1, Red: 1})
	take := func(dir fs.FS) error {
		_, err := f.Fetch(t.Context(), source{dir}, nil, newSink())
		return err
	}
	one := func(names ...string) fstest.MapFS {
		m := fstest.MapFS{"index.ini": &fstest.MapFile{Data: []byte("5")}}
		for _, n := range names {
			m[n] = &fstest.MapFile{Data: []byte("x")}
		}
		return m
	}
	if err := take(one("a.bin")); err != nil {
		t.Fatal(err)
	}
	link := one("a.bin")
	link["b"] = &fstest.MapFile{Mode: os.ModeSymlink}
	for name, m := range map[string]fstest.MapFS{"our own name": one(strings.ToUpper(Manifest)), "two cases": one("a.bin", "A.bin"),
		"a colon": one("c:x"), "a backslash": one(`a\b`), "a link": link} {
		if err := take(m); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := take(fstest.MapFS{}); !errors.Is(err, feed.ErrTransient) {
		t.Errorf("empty: %v", err)
	}
	for _, name := range []string{"../x", "/x", "a//b", `a\b`, "", ".", "a:b", "x/..", Manifest} {
		if at, err := Below(".", name); err == nil {
			t.Errorf("%q is %q", name, at)
		}
	}
	if at, err := Below("d", "e/f"); err != nil || at != path.Join("d", "e", "f") {
		t.Error(at, err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("[a]\nb=c\n"))
	f.Add([]byte("<a b='c'><d/></a>x"))
	f.Add([]byte("\xFF\xFE[\x00a\x00]\x00"))
	f.Add([]byte("[\x83\x54]\nx=\x81\x5b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		if len(s) > 3*len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(s))
		}
		_, _ = ParseINI(s)
		_, _ = WalkXML(s, func(Element) error { return nil })
		_, _ = Order(s)
	})
}
