package wsus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/format/cab"
	"github.com/hashike/hashike/verifier"
)

const payloadFile81 = "Windows8.1-KB2999226-x64.cab"

// packed is a cabinet of files.
func packed(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var list []cab.Source
	for _, n := range slices.Sorted(maps.Keys(files)) {
		list = append(list, cab.Source{Name: n, Modified: taken, Size: int64(len(files[n])), Body: bytes.NewReader(files[n])})
	}
	var b bytes.Buffer
	if err := cab.Write(&b, list); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// scanFragments are the genuine fragments of KB2999226 under the short folder
// names of wsusscn2.cab.
func scanFragments(t testing.TB) map[string][]byte {
	t.Helper()
	inner, err := openPackage(bytes.NewReader(dropOf(t, "win8.1")[scan81].Data), int64(len(dropOf(t, "win8.1")[scan81].Data)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	short := map[string]string{"core": "c", "extended": "x", "localized": "l", "eula": "e"}
	err = inner.Walk(func(e cab.File, body io.Reader) error {
		folder, rest, _ := strings.Cut(e.Name, "/")
		b, err := io.ReadAll(body)
		if f, ok := short[folder]; ok {
			out[f+"/"+rest] = b
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// catalogueOf lays fragments out as wsusscn2.cab does, the lower half of the
// numbers in one cabinet and the others in another.
func catalogueOf(t testing.TB, fragments map[string][]byte, created, files string) map[string][]byte {
	t.Helper()
	var numbers []int
	of := func(name string) int {
		n, err := strconv.Atoi(name[strings.LastIndex(name, "/")+1:])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for n := range fragments {
		numbers = append(numbers, of(n))
	}
	slices.Sort(numbers)
	middle := numbers[len(numbers)/2]
	low, high := map[string][]byte{}, map[string][]byte{}
	for n, b := range fragments {
		if of(n) < middle {
			low[n] = b
		} else {
			high[n] = b
		}
	}
	return map[string][]byte{
		"index.xml":    []byte(`<INDEX VERSION="1"><CABLIST XOR="0"><CAB NAME="package.cab"/><CAB NAME="package3.cab" RANGESTART="` + strconv.Itoa(middle) + `"/><CAB NAME="package2.cab" RANGESTART="0" FILESDIR="1"/></CABLIST></INDEX>`),
		"package.cab":  oneFolder(map[string][]byte{"package.xml": []byte(`<OfflineSyncPackage CreationDate="` + created + `"><Updates/><FileLocations>` + files + `</FileLocations></OfflineSyncPackage>`)}),
		"package2.cab": oneFolder(low), "package3.cab": oneFolder(high),
	}
}

// offlineWorld is a publisher and its catalogue.
type offlineWorld struct {
	by    *feedtest.Publisher
	parts map[string][]byte
	frags map[string][]byte
}

func newOfflineWorld(t testing.TB) *offlineWorld {
	w := &offlineWorld{by: feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken), frags: scanFragments(t)}
	w.parts = catalogueOf(t, w.frags, "2026-11-10T00:00:00Z", "")
	return w
}

func (w *offlineWorld) signed(t testing.TB) []byte { return w.by.Cabinet(t, packed(t, w.parts), taken) }

// drop is a directory with the signed cabinet and the payload beside it.
func (w *offlineWorld) drop(t testing.TB) fstest.MapFS {
	return fstest.MapFS{
		"scan/WSUSSCN2.CAB":     &fstest.MapFile{Data: w.signed(t), Mode: 0o644, ModTime: taken},
		"scan/" + payloadFile81: &fstest.MapFile{Data: dropOf(t, "win8.1")[file81].Data, Mode: 0o644, ModTime: taken},
	}
}

func (w *offlineWorld) kind(t testing.TB, change func(*Config)) *updates {
	t.Helper()
	f, err := newFeed(func(into any) error {
		c := into.(*Config)
		*c = Config{Products: []string{"Windows"}, Classifications: []string{"Critical Updates", "Security Updates"}, Others: "install"}
		if change != nil {
			change(c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	u := f.(*updates)
	u.anchors, u.now = []feed.Anchor{w.by.Anchor}, func() time.Time { return taken }
	return u
}

// judge runs the engine with the test publisher beside Microsoft's roots: the payload is genuine.
func (w *offlineWorld) judge(t testing.TB, f *updates, s *snapshot, marks map[string]int64) (verifier.Verdict, error) {
	return verifier.Run(t.Context(), verifier.Job{
		Setup: feed.Setup{Name: "windows", Kind: Kind(), Feed: f}, Content: s, Marks: marks,
		Trust: feed.Trust{Anchors: append(verifier.MicrosoftAnchors(), w.by.Anchor), At: taken}, Policy: verifier.Policy{Floors: Kind().Floors},
	})
}

func pathsOf(s *snapshot) (extract, cabinet string) {
	for p, a := range s.Named {
		if isExtract(a) {
			extract = p
		}
		if isOfflineCab(a) {
			cabinet = p
		}
	}
	return extract, cabinet
}

// TestOfflineCatalogue: a signed wsusscn2.cab in the drop directory with the
// payload beside it brings a terminal its update; what is in the extract is
// proved by the cabinet's signature.
func TestOfflineCatalogue(t *testing.T) {
	w := newOfflineWorld(t)
	f := w.kind(t, nil)
	drop := w.drop(t)
	c := fetched(t, f, drop, nil)
	x, cabinet := pathsOf(c)
	if len(c.Named) != 4 || x == "" || cabinet == "" {
		t.Fatalf("%v", slices.Sorted(maps.Keys(c.Named)))
	}
	v, err := w.judge(t, f, c, nil)
	if err != nil || len(v.Withheld) != 0 {
		t.Fatalf("%+v, %v", v.Withheld, err)
	}
	if v.Marks[offlineName] != time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC).Unix() {
		t.Errorf("marks %v", v.Marks)
	}
	s := newSite(t, f)
	s.publish(c, feed.View{}, "all")
	if got := needs(t, s.terminal("")); !slices.Equal(got, []string{member81, update81}) {
		t.Fatalf("a terminal needs %v", got)
	}
	if _, err := take(f, drop, c); !errors.Is(err, feed.ErrUnchanged) {
		t.Errorf("nothing new: %v", err)
	}
	// The fragments that a terminal gets are the vendor's, byte for byte.
	n := 0
	err = eachFragment(bytes.NewReader(c.Body(x)), func(extractHead) error { return nil }, func(k fragmentKey, b []byte) error {
		name := partLetters[k.p] + "/" + strconv.Itoa(k.n)
		if k.lang != "" {
			name = partLetters[k.p] + "/" + k.lang + "/" + strconv.Itoa(k.n)
		}
		if n++; !bytes.Equal(w.frags[name], b) {
			t.Errorf("%s differs", name)
		}
		return nil
	})
	if err != nil || n < 15 || n > len(w.frags)/10 {
		t.Errorf("%d fragments of %d, %v", n, len(w.frags), err)
	}
}

// Without a good signature of Microsoft's nothing of the cabinet is taken;
// without a word about what to take of it, the operator is told.
func TestOfflineIsNotTaken(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	w := newOfflineWorld(t)
	for why, c := range map[string]struct {
		change func(fstest.MapFS)
		conf   func(*Config)
		want   error
	}{
		"unsigned":             {func(d fstest.MapFS) { d["scan/WSUSSCN2.CAB"].Data = packed(t, w.parts) }, nil, feed.ErrUntrusted},
		"the published sample": {func(d fstest.MapFS) { d["scan/WSUSSCN2.CAB"].Data = sample(t, "microsoft", "wsusscn2", "wsusscn2.cab") }, nil, feed.ErrUntrusted},
		"altered":              {func(d fstest.MapFS) { d["scan/WSUSSCN2.CAB"].Data = flip(d["scan/WSUSSCN2.CAB"].Data, 60_000) }, nil, feed.ErrUntrusted},
		"another publisher": {func(d fstest.MapFS) {
			d["scan/WSUSSCN2.CAB"].Data = feedtest.NewPublisher(t, "x509-microsoft", "Microsoft Corporation", taken).Cabinet(t, packed(t, w.parts), taken)
		}, nil, feed.ErrUntrusted},
		"being copied":    {func(d fstest.MapFS) { d["scan/WSUSSCN2.CAB"].Data = d["scan/WSUSSCN2.CAB"].Data[:90_000] }, nil, feed.ErrTransient},
		"two of them":     {func(d fstest.MapFS) { d["old/wsusscn2.cab"] = d["scan/WSUSSCN2.CAB"] }, nil, feed.ErrConfig},
		"no products":     {nil, func(c *Config) { c.Products = nil }, feed.ErrConfig},
		"unknown product": {nil, func(c *Config) { c.Products = []string{"Windows 13"} }, feed.ErrConfig},
		"nothing chosen":  {nil, func(c *Config) { c.Products = []string{"00000000-0000-0000-0000-000000000001"} }, feed.ErrUpstream},
	} {
		d := w.drop(t)
		if c.change != nil {
			c.change(d)
		}
		if _, err := take(w.kind(t, c.conf), d, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", why, err, c.want)
		}
	}
}

// TestOfflineVerify: nothing but the signed cabinet's own fragments passes on
// the other side, whatever our outside says; an older catalogue is refused.
func TestOfflineVerify(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	w := newOfflineWorld(t)
	f := w.kind(t, nil)
	good := fetched(t, f, w.drop(t), nil)
	x, cabinet := pathsOf(good)
	body := good.Body(x)
	// forged is the snapshot with another extract, rightly labelled.
	forged := func(change func(h *extractHead, k *fragmentKey, b []byte) []byte) *snapshot {
		var out bytes.Buffer
		z := zstdWriter(t, &out)
		var head extractHead
		err := eachFragment(bytes.NewReader(body), func(h extractHead) error {
			change(&h, nil, nil)
			head = h
			_, err := io.WriteString(z, h.String())
			return err
		}, func(k fragmentKey, b []byte) error {
			b = change(nil, &k, bytes.Clone(b))
			_, err := fmt.Fprintf(z, "%s\n%s\n", k.line(len(b)), b)
			return err
		})
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		s := good.Clone()
		delete(s.Named, x)
		delete(s.Named, cabinet)
		d := feed.DigestOf(out.Bytes())
		s.Blobs[d] = out.Bytes()
		a, c := offlineArtifacts(head, d)
		a.Size, c.Size = int64(out.Len()), int64(len(s.Blobs[c.Digest]))
		s.Named[a.Path], s.Named[c.Path] = a, c
		return s
	}
	same := func(h *extractHead, k *fragmentKey, b []byte) []byte { return b }
	if v, err := w.judge(t, f, forged(same), nil); err != nil || len(v.Withheld) > 0 {
		t.Fatalf("the test's own writing: %v, %v", v.Withheld, err)
	}
	done := false
	for why, s := range map[string]*snapshot{
		"a fragment altered": forged(func(h *extractHead, k *fragmentKey, b []byte) []byte {
			if k != nil && k.p == localized && !done {
				done, b = true, bytes.Replace(b, []byte("<Title>"), []byte("<Title>!"), 1)
			}
			return b
		}),
		"a fragment under another number": forged(func(h *extractHead, k *fragmentKey, b []byte) []byte {
			if k != nil && k.p == localized && k.lang == "en" {
				k.n += 1_000_000
			}
			return b
		}),
		"another date": forged(func(h *extractHead, k *fragmentKey, b []byte) []byte {
			if h != nil {
				h.created = h.created.AddDate(0, 1, 0)
			}
			return b
		}),
		"without the cabinet": func() *snapshot { s := forged(same); _, c := pathsOf(s); delete(s.Named, c); return s }(),
		"the cabinet altered": func() *snapshot {
			s := forged(same)
			_, c := pathsOf(s)
			a := s.Named[c]
			s.Blobs = maps.Clone(s.Blobs)
			s.Blobs[a.Digest] = flip(s.Blobs[a.Digest], 100_000)
			return s
		}(),
	} {
		v, err := w.judge(t, f, s, nil)
		x, _ := pathsOf(s)
		if _, held := v.Withheld[x]; err != nil && !errors.Is(err, feed.ErrDamaged) || err == nil && !held {
			t.Errorf("%s: %v, %v", why, v.Withheld, err)
		}
		if err == nil && v.Marks[offlineName] != 0 {
			t.Errorf("%s: and the date is believed: %v", why, v.Marks)
		}
	}
	if _, err := w.judge(t, f, good, map[string]int64{offlineName: taken.Unix()}); !errors.Is(err, feed.ErrRollback) {
		t.Errorf("an older catalogue: %v", err)
	}
}

// TestOfflineFromAddress: the cabinet and its payload come from where they are
// said to be, and a second fetch asks for two small pieces.
func TestOfflineFromAddress(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	w := newOfflineWorld(t)
	var asked []string
	payload := dropOf(t, "win8.1")[file81].Data
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+" "+r.Header.Get("Range"))
		b := map[string][]byte{"/wsusscn2.cab": body, "/files/a.cab": payload}[r.URL.Path]
		http.ServeContent(rw, r, "", taken, bytes.NewReader(b))
	}))
	defer srv.Close()
	w.parts = catalogueOf(t, w.frags, "2026-11-10T00:00:00Z", `<FileLocation Id="WH6FexLo3nx830CZKdXdjIsmhKI=" Url="`+srv.URL+`/files/a.cab"/><FileLocation Id="AAAA" Url="file:///etc/passwd"/>`)
	body = w.signed(t)
	f := w.kind(t, func(c *Config) { c.Offline = srv.URL + "/wsusscn2.cab" })
	if got := f.Reaches(); !slices.Contains(got, srv.URL+"/wsusscn2.cab") || !slices.Contains(got, "http://download.windowsupdate.com") {
		t.Errorf("reaches %v", got)
	}
	c, err := follow(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := w.judge(t, f, c, nil); err != nil || len(v.Withheld) > 0 || c.Named[payload81].Size != int64(len(payload)) {
		t.Fatalf("%v, %v, %v", v.Withheld, err, c.Named[payload81])
	}
	asked = nil
	if _, err := follow(f, c); !errors.Is(err, feed.ErrUnchanged) || len(asked) != 2 || !strings.HasSuffix(asked[0], "bytes=0-4095") {
		t.Errorf("nothing new: %v, %v", err, asked)
	}
	// Another month.
	w.parts = catalogueOf(t, w.frags, "2026-11-12T00:00:00Z", "")
	body = w.signed(t)
	d, err := follow(f, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, had := d.Lookup(payload81); !had {
		t.Error("the payload that was here is gone")
	}
	if v, err := w.judge(t, f, d, map[string]int64{offlineName: time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC).Unix()}); err != nil || len(v.Withheld) > 0 {
		t.Errorf("%v, %v", v.Withheld, err)
	}
}

// TestOfflineSample reads the published cut of a genuine catalogue: the index,
// the cabinets within, and the fragments by their ranges.
func TestOfflineSample(t *testing.T) {
	b := sample(t, "microsoft", "wsusscn2", "wsusscn2.cab")
	o, err := openOffline(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := readCatalogue(o)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(c.updates)); !slices.Equal(got, []int{123456, 234567, 345678}) {
		t.Fatalf("%v", got)
	}
	if u := c.updates[345678]; u.identity.String() != "1c560bb8-276c-41ca-b597-35ae23bf424c.203" || len(u.Prereqs) != 4 || !u.Explicit || u.KB == "" {
		t.Errorf("%+v", u)
	}
	security, product := mustGUID("0fa1201d-4330-4fa8-8ae9-b877473b6441"), mustGUID("d31bd4c3-d872-41c9-a2e7-231f372588cb")
	if got := c.choose([]guid{product}, []guid{security}); !maps.Equal(got, map[int]bool{123456: true, 234567: true}) {
		t.Errorf("chosen %v", got)
	}
	if got := c.choose([]guid{mustGUID("2ee2ad83-828c-4405-9479-544d767993fc")}, []guid{security}); !maps.Equal(got, map[int]bool{345678: true}) {
		t.Errorf("chosen %v", got)
	}
	if at, err := o.created(); err != nil || at.Format(time.RFC3339) != "2023-04-06T18:29:32Z" {
		t.Errorf("%v, %v", at, err)
	}
}

// A cabinet's fragments count only in the range that the index gives it.
func TestOfflineRanges(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing here for the race detector")
	}
	w := newOfflineWorld(t)
	low, err := cab.NewReader(bytes.NewReader(w.parts["package2.cab"]), int64(len(w.parts["package2.cab"])), cab.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	strays := map[string][]byte{}
	err = low.Walk(func(e cab.File, body io.Reader) (err error) {
		strays[e.Name], err = io.ReadAll(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	high := maps.Clone(strays)
	w.parts["package3.cab"] = oneFolder(high) // the lower numbers once more, in the wrong place
	b := packed(t, w.parts)
	o, err := openOffline(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := o.walk(func(int, part, string, []byte) error { n++; return nil }); err != nil || n != len(strays) {
		t.Errorf("%d fragments, %v; want %d", n, err, len(strays))
	}
	for _, c := range []struct{ in, why string }{
		{`<INDEX><CABLIST/></INDEX>`, "empty"}, {`<INDEX><CABLIST><CAB NAME="a" RANGESTART="-1"/></CABLIST></INDEX>`, "negative"},
		{`<INDEX><CABLIST><CAB NAME="a" RANGESTART="1"/><CAB NAME="b" RANGESTART="1"/></CABLIST></INDEX>`, "twice"},
		{`<INDEX><CABLIST>` + strings.Repeat(`<CAB NAME="a" RANGESTART="1"/>`, 2000) + `</CABLIST></INDEX>`, "many"},
	} {
		if _, err := parseOfflineIndex(strings.NewReader(c.in)); !errors.Is(err, feed.ErrUpstream) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func FuzzOfflineIndex(f *testing.F) {
	f.Add([]byte(`<INDEX VERSION="1"><CABLIST XOR="0"><CAB NAME="package.cab"/><CAB NAME="package2.cab" RANGESTART="0"/></CABLIST></INDEX>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseOfflineIndex(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i, c := range list {
			if holder(list, c.first) != i || len(list) > maxOfflineCabs {
				t.Fatalf("%+v", list)
			}
		}
	})
}

func FuzzExtract(f *testing.F) {
	var b bytes.Buffer
	z := zstdWriter(f, &b)
	h := extractHead{feed.DigestOf(nil), taken, "x"}
	fmt.Fprintf(z, "%s1 c - 4\n<a/>\n1 l ja 4\n<b/>\n", h)
	if err := z.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		err := eachFragment(bytes.NewReader(b), func(extractHead) error { return nil }, func(k fragmentKey, body []byte) error {
			if back, n, err := fragmentLine(k.line(len(body))); err != nil || back != k || n != len(body) {
				t.Fatalf("%+v: %v", k, err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, feed.ErrUpstream) {
			t.Fatal(err)
		}
	})
}

// oneFolder is a cabinet of stored files, all in one folder (MS-CAB): real ones
// hold tens of thousands, which cab.Write does not make.
func oneFolder(files map[string][]byte) []byte {
	le := binary.LittleEndian
	var text, entries []byte
	for _, n := range slices.Sorted(maps.Keys(files)) {
		entries = le.AppendUint32(le.AppendUint32(entries, uint32(len(files[n]))), uint32(len(text)))
		entries = append(entries, 0, 0, 0x21, 0x5d, 0, 0, 0x20, 0)
		entries = append(entries, strings.ReplaceAll(n, "/", `\`)+"\x00"...)
		text = append(text, files[n]...)
	}
	var data []byte
	blocks := 0
	for part := range slices.Chunk(text, 32768) {
		data = le.AppendUint32(data, 0) // no checksum
		data = le.AppendUint16(le.AppendUint16(data, uint16(len(part))), uint16(len(part)))
		data = append(data, part...)
		blocks++
	}
	head := []byte("MSCF\x00\x00\x00\x00")
	head = le.AppendUint32(head, uint32(36+8+len(entries)+len(data)))
	head = le.AppendUint32(le.AppendUint32(le.AppendUint32(head, 0), 36+8), 0)
	head = append(head, 3, 1, 1, 0)
	head = le.AppendUint16(head, uint16(len(files)))
	head = append(head, 0, 0, 0, 0, 0, 0)
	head = le.AppendUint16(le.AppendUint16(le.AppendUint32(head, uint32(36+8+len(entries))), uint16(blocks)), 0)
	return slices.Concat(head, entries, data)
}

func zstdWriter(t testing.TB, w io.Writer) *zstd.Encoder {
	t.Helper()
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return z
}
