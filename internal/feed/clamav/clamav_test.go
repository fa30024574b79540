package clamav

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hashike/hashike/internal/feed"
)

func TestConfig(t *testing.T) {
	for name, set := range map[string]func(*Config){
		"no database":   func(c *Config) { c.Databases = nil },
		"twice":         func(c *Config) { c.Databases = []string{"main", "main"} },
		"a path":        func(c *Config) { c.Databases = []string{"../main"} },
		"a version":     func(c *Config) { c.Databases = []string{"main-5"} },
		"capital":       func(c *Config) { c.Databases = []string{"Main"} },
		"not a URL":     func(c *Config) { c.URL = "ftp://example.jp/" },
		"negative":      func(c *Config) { c.KeepCdiffs = -1 },
		"too many":      func(c *Config) { c.KeepCdiffs = maxKeep + 1 },
		"with password": func(c *Config) { c.URL = "https://example.jp/?key=1" },
	} {
		_, err := newFeed(func(into any) error { set(into.(*Config)); return nil })
		if !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newKind(t, nil)
	if got := f.(feed.Reacher).Reaches(); !slices.Equal(got, []string{"https://database.clamav.net/"}) {
		t.Errorf("reaches %v", got)
	}
}

func TestNames(t *testing.T) {
	for _, n := range []string{"daily.cvd", "daily-27780.cdiff", "daily-27780.cdiff.sign", "main-62.cvd.sign"} {
		if f, ok := parseName(n); !ok || f.name() != n {
			t.Errorf("%s: %+v %v", n, f, ok)
		}
	}
	for _, n := range []string{"daily.cld", "daily-1.cvd", "daily.cdiff", "daily-01.cdiff", "daily-0.cdiff", "DAILY.cvd", "a/daily.cvd",
		"daily.cvd.sign", "daily.cvd\n", "daily-99999999999.cdiff", "../x.cvd", ""} {
		if f, ok := parseName(n); ok {
			t.Errorf("%q: %+v", n, f)
		}
	}
}

func TestFetchFromSpool(t *testing.T) {
	f := newKind(t, func(c *Config) { c.KeepCdiffs = 3 })
	spool := spoolOf(t, "test-2.cdiff", "test-3.cdiff", "test-3.cdiff.sign", "test-4.cdiff")
	version(t, spool, 4)
	o := newOutside(spool)
	first, err := o.fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"test-2.cdiff", "test-3.cdiff", "test-3.cdiff.sign", "test-4.cdiff", "test.cvd"}
	if diff := cmp.Diff(first.Paths(), want); diff != "" || first.Head.State != "test:4" {
		t.Error(diff, first.Head.State)
	}
	if a := first.Named["test.cvd"]; a.Class != feed.Definition || a.Version != "4" || a.Time.Year() != 2021 || a.Group != "" {
		t.Errorf("%+v", a)
	}
	if _, err := o.fetch(t, f, first); !errors.Is(err, feed.ErrUnchanged) || len(o.puts) > 0 {
		t.Errorf("second fetch: %v, read %v", err, o.puts)
	}
	// cvdupdate removed the older patches; the new version came: what was held goes on.
	for _, n := range []string{"test-2.cdiff", "test-3.cdiff", "test-3.cdiff.sign"} {
		delete(spool, n)
	}
	version(t, spool, 5)
	put(t, spool, "test-5.cdiff", "test-5.cdiff")
	put(t, spool, "test-5.cvd.sign", "test-5.cvd.sign")
	second, err := o.fetch(t, f, first)
	if err != nil {
		t.Fatal(err)
	}
	want = []string{"test-3.cdiff", "test-3.cdiff.sign", "test-4.cdiff", "test-5.cdiff", "test-5.cvd.sign", "test.cvd"}
	if diff := cmp.Diff(second.Paths(), want); diff != "" {
		t.Error(diff)
	}
	if v, err := judge(t, f, second, testTrust(t), map[string]int64{"test": 4}); err != nil || len(v.Withheld) > 0 || v.Marks["test"] != 5 {
		t.Errorf("%+v %v", v, err)
	}
	if _, err := judge(t, f, first, testTrust(t), map[string]int64{"test": 5}); !errors.Is(err, feed.ErrRollback) {
		t.Errorf("step back: %v", err)
	}
}

func TestSpoolProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(fstest.MapFS, *outside)
		err    error
		says   string
	}{
		"nothing there": {func(s fstest.MapFS, _ *outside) { delete(s, "test.cvd") }, feed.ErrTransient, "test.cvd"},
		"only a cld": {func(s fstest.MapFS, _ *outside) { s["test.cld"] = s["test.cvd"]; delete(s, "test.cvd") },
			feed.ErrConfig, "test.cld"},
		"half written": {func(s fstest.MapFS, _ *outside) { s["test.cvd"].Data = s["test.cvd"].Data[:5000] }, feed.ErrTransient, "incomplete"},
		"header only":  {func(s fstest.MapFS, _ *outside) { s["test.cvd"].Data = s["test.cvd"].Data[:100] }, feed.ErrTransient, "incomplete"},
		"growing": {func(s fstest.MapFS, o *outside) {
			o.onPut = func(string) { s["test.cvd"].Data = append(bytes.Clone(s["test.cvd"].Data), 0) }
		}, feed.ErrTransient, "being written"},
		"replaced": {func(s fstest.MapFS, o *outside) {
			o.onPut = func(string) {
				s["test.cvd"] = &fstest.MapFile{Data: s["test.cvd"].Data, ModTime: taken.Add(time.Second)}
			}
		}, feed.ErrTransient, "being written"},
		"web page": {func(s fstest.MapFS, _ *outside) { s["test.cvd"].Data = []byte(strings.Repeat("<html>", 200)) }, feed.ErrUpstream, "test.cvd"},
	} {
		spool := fstest.MapFS{}
		version(t, spool, 6)
		o := newOutside(spool)
		tt.change(spool, o)
		if _, err := o.fetch(t, newKind(t, nil), nil); !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFetchFromMirror(t *testing.T) {
	files := http.NewServeMux()
	held := map[string][]byte{}
	files.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, ok := held[strings.TrimPrefix(r.URL.Path, "/db/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	})
	srv := httptest.NewServer(files)
	defer srv.Close()
	f := newKind(t, func(c *Config) { c.URL = srv.URL + "/db/" })
	o := newOutside(nil)
	held["test.cvd"] = clamFile(t, "test-4.cvd")
	for _, n := range []string{"test-4.cdiff", "test-3.cdiff", "test-4.cvd.sign"} {
		held[n] = clamFile(t, n)
	}
	first, err := o.fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Paths(), []string{"test-3.cdiff", "test-4.cdiff", "test-4.cvd.sign", "test.cvd"}); diff != "" {
		t.Error(diff)
	}
	if _, err := o.fetch(t, f, first); !errors.Is(err, feed.ErrUnchanged) || !slices.Equal(o.requests, []string{"/db/test.cvd"}) {
		t.Errorf("nothing new: %v, asked %v", err, o.requests)
	}
	held["test.cvd"], held["test-6.cdiff"], held["test-5.cdiff"] = clamFile(t, "test-6.cvd"), clamFile(t, "test-6.cdiff"), clamFile(t, "test-5.cdiff")
	second, err := o.fetch(t, f, first)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(second.Paths(), []string{"test-3.cdiff", "test-4.cdiff", "test-5.cdiff", "test-6.cdiff", "test.cvd"}); diff != "" {
		t.Error(diff)
	}
	last := slices.Index(o.requests, "/db/test-5.cdiff")
	if i := slices.Index(o.requests[1:], "/db/test.cvd") + 1; i < last || last < 0 {
		t.Errorf("whole database before its patches: %v", o.requests)
	}
	if _, err := judge(t, f, second, testTrust(t), nil); err != nil {
		t.Error(err)
	}
	delete(held, "test.cvd")
	var status *feed.StatusError
	if _, err := o.fetch(t, f, second); !errors.As(err, &status) {
		t.Errorf("gone: %v", err)
	}
}

// published fetches version n with patches from..n out of a spool.
func published(t testing.TB, f feed.Feed, from, n int, sign bool) *snapshot {
	t.Helper()
	spool := fstest.MapFS{}
	version(t, spool, n)
	for i := from; i <= n; i++ {
		put(t, spool, fmt.Sprintf("test-%d.cdiff", i), fmt.Sprintf("test-%d.cdiff", i))
		if sign {
			put(t, spool, fmt.Sprintf("test-%d.cdiff.sign", i), fmt.Sprintf("test-%d.cdiff.sign", i))
		}
	}
	if sign {
		put(t, spool, fmt.Sprintf("test-%d.cvd.sign", n), fmt.Sprintf("test-%d.cvd.sign", n))
	}
	s, err := newOutside(spool).fetch(t, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// replace puts other bytes under a path, as an attacker with the bundle keys could.
func replace(s *snapshot, p string, b []byte) {
	a := s.Named[p]
	if a.Path == "" {
		f, _ := parseName(p)
		a = f.artifact()
	}
	s.Set(a, b)
}

func TestVerify(t *testing.T) {
	f := newKind(t, nil)
	for name, tt := range map[string]struct {
		change   func(*snapshot)
		err      error
		withheld []string
	}{
		"genuine": {change: func(*snapshot) {}},
		"flipped database": {change: func(s *snapshot) {
			b := bytes.Clone(s.Body("test.cvd"))
			b[4000] ^= 1
			replace(s, "test.cvd", b)
		}, err: feed.ErrUntrusted},
		"other version than stated": {change: func(s *snapshot) {
			a := s.Named["test.cvd"]
			a.Version = "7"
			s.Named["test.cvd"] = a
		}, err: feed.ErrUntrusted},
		"other time than stated": {change: func(s *snapshot) {
			a := s.Named["test.cvd"]
			a.Time = taken
			s.Named["test.cvd"] = a
		}, err: feed.ErrUntrusted},
		"database under another name": {change: func(s *snapshot) {
			a := s.Named["test.cvd"]
			a.Path = "daily.cvd"
			s.Named["daily.cvd"] = a
		}, err: feed.ErrUntrusted},
		"patch of another version": {change: func(s *snapshot) { replace(s, "test-5.cdiff", clamFile(t, "test-4.cdiff")) },
			withheld: []string{"test-5.cdiff", "test-5.cdiff.sign"}},
		"patch flipped": {change: func(s *snapshot) {
			b := bytes.Clone(clamFile(t, "test-5.cdiff"))
			b[100] ^= 4
			replace(s, "test-5.cdiff", b)
		}, withheld: []string{"test-5.cdiff", "test-5.cdiff.sign"}},
		"patch to the future": {change: func(s *snapshot) { replace(s, "test-7.cdiff", clamFile(t, "test-6.cdiff")) },
			withheld: []string{"test-7.cdiff"}},
		"patch with a wrong detached signature": {change: func(s *snapshot) { replace(s, "test-5.cdiff.sign", clamFile(t, "test-4.cdiff.sign")) },
			withheld: []string{"test-5.cdiff", "test-5.cdiff.sign"}},
		"database with a wrong detached signature": {change: func(s *snapshot) { replace(s, "test-6.cvd.sign", clamFile(t, "test-5.cvd.sign")) },
			err: feed.ErrUntrusted},
		"detached signature of another version": {change: func(s *snapshot) { replace(s, "test-5.cvd.sign", clamFile(t, "test-5.cvd.sign")) },
			err: feed.ErrUntrusted},
		"detached signature removed": {change: func(s *snapshot) { delete(s.Named, "test-6.cvd.sign") }},
		"foreign file":               {change: func(s *snapshot) { replace(s, "index.html", []byte("x")) }, err: feed.ErrUntrusted},
		"database missing":           {change: func(s *snapshot) { delete(s.Named, "test.cvd") }, err: feed.ErrUntrusted},
		"database in a group": {change: func(s *snapshot) {
			a := s.Named["test.cvd"]
			a.Group = "x"
			s.Named["test.cvd"] = a
		}, err: feed.ErrUntrusted},
	} {
		s := published(t, f, 2, 6, true)
		tt.change(s)
		v, err := judge(t, f, s, testTrust(t), nil)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var held []string
		for p := range v.Withheld {
			held = append(held, p)
		}
		if slices.Sort(held); !slices.Equal(held, tt.withheld) {
			t.Errorf("%s: withheld %v", name, v.Withheld)
		}
	}
	if _, err := judge(t, f, published(t, f, 6, 6, true), feed.Trust{At: taken, Anchors: Kind().Anchors}, nil); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("vendor's test signatures under the production root: %v", err)
	}
}

func TestServe(t *testing.T) {
	f := newKind(t, nil)
	m := newMirror(t, f)
	get := func(name string, header ...string) (*http.Response, string) {
		t.Helper()
		r, _ := http.NewRequest("GET", m.base().JoinPath(name).String(), nil)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(b)
	}
	expect := func(name string, status int, size int) {
		t.Helper()
		res, b := get(name)
		if res.StatusCode != status || size >= 0 && (len(b) != size || res.ContentLength != int64(size)) {
			t.Errorf("%s: %d, %d bytes (Content-Length %d), want %d, %d", name, res.StatusCode, len(b), res.ContentLength, status, size)
		}
	}
	expect("test.cvd", 503, -1)
	five := published(t, f, 4, 5, true)
	m.publish(five)
	expect("test.cvd", 200, len(clamFile(t, "test-5.cvd")))
	expect("test-5.cdiff", 200, len(clamFile(t, "test-5.cdiff")))
	expect("test-3.cdiff", 200, 0)
	expect("test-1.cdiff", 200, 0)
	expect("test-6.cdiff", 404, -1)
	expect("test-5.cvd.sign", 200, -1)
	expect("test-6.cvd.sign", 404, -1)
	expect("test-3.cdiff.sign", 404, -1)
	for _, n := range []string{"test.cld", "daily.cvd", "daily-5.cdiff", "", "x/test.cvd", "index.html"} {
		expect(n, 404, -1)
	}
	res, b := get("test.cvd", "Range", "bytes=0-511", "If-Modified-Since", "Tue, 22 Jun 2021 18:58:22 GMT")
	if res.StatusCode != 206 || len(b) != 512 || res.Header.Get("Last-Modified") != taken.Format(http.TimeFormat) || res.Header.Get("ETag") == "" {
		t.Errorf("probe: %d %v", res.StatusCode, res.Header)
	}
	if res, _ = get("test.cvd", "If-None-Match", res.Header.Get("ETag")); res.StatusCode != 304 {
		t.Errorf("same: %d", res.StatusCode)
	}
	m.set(func() { five.Time = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }) // a clock that was wrong
	if res, _ = get("test.cvd"); res.Header.Get("Last-Modified") != five.Named["test.cvd"].Time.Format(http.TimeFormat) {
		t.Errorf("Last-Modified %s is before the build", res.Header.Get("Last-Modified"))
	}
	six := published(t, f, 6, 6, false)
	m.publish(six)
	expect("test.cvd", 200, len(clamFile(t, "test-6.cvd")))
	expect("test-4.cdiff", 200, len(clamFile(t, "test-4.cdiff"))) // of the publication before
	expect("test-5.cvd.sign", 200, -1)
	m.set(func() { m.view.Withheld = map[string]string{"test-6.cdiff": "bad"} })
	expect("test-6.cdiff", 200, 0)
	m.set(func() { m.view.Withheld = nil })
	m.publish(five) // a rollback
	expect("test.cvd", 200, len(clamFile(t, "test-5.cvd")))
	expect("test-6.cdiff", 404, -1)
	if res, err := http.Post(m.base().JoinPath("test.cvd").String(), "", nil); err != nil || res.StatusCode != 405 {
		t.Errorf("POST: %v %v", res, err)
	}
}

func TestAbilities(t *testing.T) {
	f := newKind(t, nil)
	s := published(t, f, 5, 6, false)
	if at, v := f.(feed.Freshness).Released(s); v != "test 6" || !at.Equal(s.Named["test.cvd"].Time) {
		t.Errorf("%v %v", at, v)
	}
	m := newMirror(t, f)
	m.publish(s)
	set, err := f.(feed.ClientSettings).Settings(s, m.base())
	if err != nil || len(set) != 2 || !strings.Contains(set[0].Body, "DatabaseMirror "+m.URL+"/av/clamav\n") ||
		!strings.Contains(set[0].Body, "ExtraDatabase test\n") || !strings.Contains(set[0].Body, "ExcludeDatabase main\n") ||
		!strings.Contains(set[0].Note.JA, "FIPS") || !strings.Contains(set[0].Note.EN, "FIPS") {
		t.Errorf("%+v %v", set, err)
	}
	if set, _ := f.(feed.ClientSettings).Settings(published(t, f, 6, 6, true), m.base()); strings.Contains(set[0].Note.EN, "FIPS") {
		t.Error("warns although .sign is there")
	}
	got, err := f.(feed.Prober).Probe(t.Context(), http.DefaultClient.Do, s, m.base())
	if err != nil || len(got) != 1 || !strings.Contains(got[0], "version 6") {
		t.Errorf("%v %v", got, err)
	}
	if _, err := f.(feed.Prober).Probe(t.Context(), http.DefaultClient.Do, published(t, f, 4, 4, false), m.base()); err == nil {
		t.Error("the probe does not see another version")
	}
}
