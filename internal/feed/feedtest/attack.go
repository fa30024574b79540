package feedtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashike/hashike/internal/feed"
)

func readAll(t testing.TB, fsys fs.FS, p string) []byte {
	t.Helper()
	b, err := fs.ReadFile(fsys, p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attack is a snapshot in which something is not as the vendor made it.
type attack struct {
	*bench
	t       *testing.T
	what    string
	like    feed.Header
	marks   map[string]int64
	genuine judgement
	files   []file
	wrong   []string // paths that must not be accepted: the snapshot is refused, or they are withheld
	loose   bool     // the change lies in a signature's own encoding: it may be accepted if it changes nothing that is proved
	gone    bool     // what is wrong is that something is missing: acceptance needs Optional
	bytes   bool     // bytes were changed: weakness alone (ErrHeld) is no answer to that
}

// mustFail judges the snapshot: it is refused with the right class and a fault
// that names feed and file, or exactly the groups of the wrong files are withheld.
func (x attack) mustFail() judgement {
	x.t.Helper()
	j := x.judge(x.t.Context(), x.forge(x.t, x.like, x.files), x.marks)
	if j.err != nil {
		x.class(j.err)
		return j
	}
	groups := map[string]bool{}
	for _, f := range x.files {
		if slices.Contains(x.wrong, f.Path) {
			groups[f.Group] = true
			if _, held := j.verdict.Withheld[f.Path]; !held && !(x.loose && x.sameProof(j)) {
				x.t.Errorf("%s: accepted", x.what)
			}
		}
	}
	for _, f := range x.files {
		if _, held := j.verdict.Withheld[f.Path]; held && !groups[f.Group] && !x.gone && !slices.ContainsFunc(x.wrong, func(p string) bool { return x.c.Falls(p, f.Path) }) {
			x.t.Errorf("%s: %s of another group is withheld too", x.what, f.Path)
		}
	}
	return j
}

// sameProof reports whether j proves of every other file what the genuine
// snapshot's verification does.
func (x attack) sameProof(j judgement) bool {
	said := func(list []feed.Evidence) (out []string) {
		for _, e := range list {
			if !slices.Contains(x.wrong, e.Path) {
				e.Via = "" // the changed document's digest is another
				out = append(out, fmt.Sprintf("%+v", e))
			}
		}
		return out
	}
	return slices.Equal(said(j.evidence), said(x.genuine.evidence))
}

// class holds a refusal against what a person and an exit code need.
func (x attack) class(err error) {
	x.t.Helper()
	untrusted := errors.Is(err, feed.ErrUntrusted)
	switch {
	case strings.Contains(err.Error(), " panicked: "):
		x.t.Errorf("%s: %v", x.what, err)
	case untrusted, errors.Is(err, feed.ErrDamaged), errors.Is(err, feed.ErrUpstream):
	case errors.Is(err, feed.ErrHeld) && !x.bytes:
	default:
		x.t.Errorf("%s: refused with the wrong class: %v", x.what, err)
	}
	if untrusted {
		// A step back is of a stream, not of a file.
		if f, ok := errors.AsType[*feed.Fault](err); !ok || f.Args["feed"] == "" || f.Args["file"] == "" && (f.Code != "H-505" || f.Args["stream"] == "") {
			x.t.Errorf("%s: the refusal names no feed or file: %#v: %v", x.what, f, err)
		}
	}
}

func (h *history) attack(t *testing.T, what string, list []file, wrong ...string) attack {
	return attack{bench: h.bench, t: t, what: what, like: h.now.Header(), marks: h.marks, genuine: h.verdict, files: list, wrong: wrong}
}

// testEvidence: every artifact reaches its floor by a chain that ends at a key.
func testEvidence(t *testing.T, h *history) {
	at := map[string][]feed.Evidence{}
	proved := map[feed.Digest]feed.Strength{} // in the order in which it was said
	for i, e := range h.verdict.evidence {
		a, ok := h.now.Lookup(e.Path)
		if !ok || a.Digest != e.Subject || e.Refused != "" || e.Method == "" {
			t.Errorf("evidence %d: %+v", i, e)
			continue
		}
		reach := e.Strength
		if e.Via != "" {
			via, ok := proved[e.Via]
			if !ok {
				t.Errorf("%s: by way of %s, which nothing before proves", e.Path, e.Via)
			}
			reach = min(reach, via)
		} else if e.Strength == feed.Signed && (e.KeyID == "" || e.Anchor == "" || e.Signer == "") {
			t.Errorf("%s: signed, but by whom, and who says so? %+v", e.Path, e)
		}
		proved[e.Subject] = max(proved[e.Subject], reach)
		at[e.Path] = append(at[e.Path], e)
	}
	for a := range h.now.Artifacts() {
		need, ok := h.setup.Floors[a.Class]
		if !ok {
			need = feed.Signed
		}
		if h.c.Except {
			need = feed.None
		}
		if len(at[a.Path]) == 0 || proved[a.Digest] < need {
			t.Errorf("%s: evidence %v, proved %s, floor %s", a.Path, at[a.Path], proved[a.Digest], need)
		}
	}
	for stream, n := range h.marks {
		if stream == "" || n == 0 {
			t.Errorf("mark %q is %d", stream, n)
		}
	}
	if len(h.marks) == 0 {
		t.Error("no mark: an older state would be accepted")
	}
}

type offline struct{}

func (offline) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("verification asked the network for %s", r.URL)
}

// testPure: the same snapshot gives the same evidence, whatever is around it.
func testPure(t *testing.T, h *history) {
	want := h.judge(t.Context(), h.now, h.marks)
	same := func(what string, got judgement) {
		t.Helper()
		if want.err != nil || got.err != nil || !bytes.Equal(want.document, got.document) || !maps.Equal(want.verdict.Marks, got.verdict.Marks) {
			t.Errorf("%s: %v, evidence\n%+v\nwant\n%+v", what, got.err, got.evidence, want.evidence)
		}
	}
	same("again", h.judge(t.Context(), h.now, h.marks))
	func() {
		t.Chdir(t.TempDir())
		t.Setenv("HOME", t.TempDir())
		t.Setenv("TZ", "Pacific/Kiritimati")
		was := http.DefaultTransport
		http.DefaultTransport = offline{}
		defer func() { http.DefaultTransport = was }()
		same("elsewhere, without network", h.judge(t.Context(), h.now, h.marks))
	}()
	// Clocks in the bubble stand at 2000; it ends only when no goroutine is left.
	var there judgement
	synctest.Test(t, func(t *testing.T) { there = h.judge(context.Background(), h.now, h.marks) })
	same("under another clock", there)
}

// offsets are where bits are flipped: the ends, the quarters and some that
// depend on the name, the same in every run.
func offsets(p string, n int) []int {
	if n == 0 {
		return nil
	}
	s := fnv.New32a()
	io.WriteString(s, p)
	x := s.Sum32()
	at := []int{0, n / 4, n / 2, 3 * n / 4, n - 1}
	// For a thorough run: so many offsets a file, evenly.
	if many, _ := strconv.Atoi(os.Getenv("HASHIKE_FLIPS")); many > 0 {
		for i := 0; i < n; i += 1 + n/many {
			at = append(at, i)
		}
	}
	for range 3 {
		x = x*1664525 + 1013904223
		at = append(at, int(x>>8)%n)
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// change is one way in which a file's bytes are wrong.
type change struct {
	what  string
	body  []byte
	loose bool // see encoding
}

// encoding reports whether a byte belongs to the encoding of a signature:
// armor, its headers and checksum, fields that hold what is said elsewhere.
// Nothing covers these bytes; a change there proves the same or nothing.
func encoding(f file, at int) bool {
	text, clear := clearSigned(f.body)
	if !clear {
		return isSignature(f.Path)
	}
	from := strings.Index(string(f.body), "\n\n") + 2
	return at >= len(clearBegin) && at < from || at >= from+len(text)
}

func changes(c *Case, f file) []change {
	var out []change
	for i, at := range offsets(f.Path, len(f.body)) {
		if c.Loose(f.Path, at) {
			continue
		}
		b := bytes.Clone(f.body)
		b[at] ^= 1 << (i % 7)
		out = append(out, change{fmt.Sprintf("bit %d of byte %d flipped", i%7, at), b, encoding(f, at)})
	}
	if n := len(f.body); n > 0 {
		out = append(out, change{what: "truncated", body: f.body[:n-1-n/3]}, change{what: "emptied"})
	}
	return append(out, change{what: "grown", body: append(bytes.Clone(f.body), "\nx"...)})
}

// replaced is the list with one file's bytes changed.
func replaced(list []file, i int, body []byte) []file {
	list = slices.Clone(list)
	list[i].body = body
	return list
}

// testTampered: each artifact flipped, cut, emptied, grown, swapped, renamed,
// removed; and files that nobody named.
func testTampered(t *testing.T, h *history) {
	list := files(t, h.now)
	for i, f := range list {
		for _, c := range changes(h.c, f) {
			x := h.attack(t, f.Path+": "+c.what, replaced(list, i, c.body), f.Path)
			x.bytes, x.loose = true, c.loose
			x.mustFail()
		}
		if other := list[(i+1)%len(list)]; !bytes.Equal(other.body, f.body) {
			x := h.attack(t, f.Path+": has the bytes of "+other.Path, replaced(list, i, other.body), f.Path)
			x.bytes = true
			x.mustFail()
		}
		renamed := slices.Clone(list)
		renamed[i].Path = path.Join(path.Dir(f.Path), "renamed-"+path.Base(f.Path))
		x := h.attack(t, f.Path+": renamed", renamed, renamed[i].Path)
		x.gone = true
		x.mustFail()
		x = h.attack(t, f.Path+": removed", slices.Delete(slices.Clone(list), i, i+1))
		x.gone = true
		if j := x.mustFail(); j.err == nil && !h.c.Optional(f.Path) {
			t.Errorf("%s: accepted", x.what)
		}
	}
	payload := list[slices.IndexFunc(list, func(f file) bool { return f.Class != feed.Metadata })]
	for _, group := range []string{"", "stray", payload.Group} {
		for _, at := range []string{"stray.bin", path.Join(path.Dir(payload.Path), "stray-"+path.Base(payload.Path)), payload.Path + "/stray"} {
			stray := file{feed.Artifact{Path: at, Class: payload.Class, Group: group}, []byte("nobody named this")}
			h.attack(t, fmt.Sprintf("%s added in group %q", at, group), append(slices.Clone(list), stray), at).mustFail()
		}
	}
}

// testLabels: what a snapshot says of a file is as little to be believed as
// the file. A class decides waits, a group how far a fault reaches.
func testLabels(t *testing.T, h *history) {
	list := files(t, h.now)
	for i, f := range list {
		for _, class := range []feed.Class{feed.Metadata, feed.Definition, feed.Security, feed.Feature} {
			if class == f.Class {
				continue
			}
			forged := slices.Clone(list)
			forged[i].Class = class
			h.attack(t, fmt.Sprintf("%s: called %s", f.Path, class), forged, f.Path).mustFail()
		}
		for _, group := range []string{"", "stray"} {
			if group == f.Group || len(f.body) == 0 {
				continue
			}
			body := bytes.Clone(f.body)
			body[len(body)/2] ^= 1
			forged := replaced(list, i, body)
			forged[i].Group = group
			x := h.attack(t, fmt.Sprintf("%s: flipped, in group %q", f.Path, group), forged, f.Path)
			x.bytes = true
			x.mustFail()
		}
	}
}

// testUnsigned takes signatures away, each alone.
func testUnsigned(t *testing.T, h *history) {
	list := files(t, h.now)
	n := 0
	for i, f := range list {
		if text, ok := clearSigned(f.body); ok {
			n++
			h.attack(t, f.Path+": only the text", replaced(list, i, []byte(text)), f.Path).mustFail()
			_, sig, _ := strings.Cut(string(f.body), sigBegin)
			empty := strings.Replace(string(f.body), sigBegin+sig, sigBegin+"\n-----END PGP SIGNATURE-----\n", 1)
			h.attack(t, f.Path+": with an empty signature", replaced(list, i, []byte(empty)), f.Path).mustFail()
		}
		if isSignature(f.Path) && !h.c.Optional(f.Path) {
			n++
			x := h.attack(t, f.Path+": removed", slices.Delete(slices.Clone(list), i, i+1))
			if j := x.mustFail(); j.err == nil {
				t.Errorf("%s: accepted", x.what)
			}
		}
	}
	for what, strip := range h.c.Unsigned {
		n++
		all := Files{}
		for _, f := range list {
			all[f.Path] = f.body
		}
		strip(all)
		var changed []file
		var wrong []string
		for _, f := range list {
			b, ok := all[f.Path]
			if ok && !bytes.Equal(b, f.body) {
				wrong = append(wrong, f.Path)
			}
			if f.body = b; ok {
				changed = append(changed, f)
			}
		}
		x := h.attack(t, what, changed, wrong...)
		if j := x.mustFail(); j.err == nil && len(wrong) == 0 {
			t.Errorf("%s: accepted", what)
		}
	}
	if n == 0 {
		t.Fatal("the suite knows no signature in this snapshot: name them in Unsigned")
	}
}

// testMixed: files that were genuine once, in a snapshot of another day. Even
// with nothing accepted before, they do not belong together.
func testMixed(t *testing.T, h *history) {
	list, n := files(t, h.now), 0
	for i, f := range list {
		old, ok := h.older.Lookup(f.Path)
		if !ok || old.Digest == f.Digest {
			continue
		}
		n++
		body := readAll(t, h.older, f.Path)
		x := h.attack(t, f.Path+": of the older state", replaced(list, i, body), f.Path)
		x.bytes = true
		x.mustFail()
		x.what = f.Path + ": of the older state, with its labels"
		x.files[i].Artifact = old
		x.mustFail()
	}
	if n == 0 {
		t.Error("no path has other bytes in Older and Now")
	}
}
