package feed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func header() Header {
	return Header{Schema: 1, Feed: "toy-1", Kind: "toy", Serial: 7, Taken: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC), State: "s"}
}

func artifacts(n int) []Artifact {
	var out []Artifact
	for i := range n {
		out = append(out, Artifact{Path: fmt.Sprintf("pool/%06d.deb", i), Digest: DigestOf(fmt.Append(nil, i)), Size: int64(i), Class: Security,
			Version: "v", Time: time.Unix(int64(1e9+i), 0).UTC(), Group: "g", Origin: Origin{URL: "https://x.example/", Fetched: time.Unix(2e9, 0).UTC(), Peer: "CN=x", Inspected: i%2 == 1}})
	}
	return out
}

func write(t *testing.T, h Header, arts []Artifact) ([]byte, Digest) {
	t.Helper()
	var b bytes.Buffer
	w, err := NewSnapshotWriter(&b, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range arts {
		if err := w.Add(a); err != nil {
			t.Fatal(err)
		}
	}
	id, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), id
}

func TestSnapshotAndIndexRoundTrip(t *testing.T) {
	want := artifacts(1000)
	doc, id := write(t, header(), want)
	r, err := NewSnapshotReader(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []Artifact
	var b IndexBuilder
	for a, err := range r.Artifacts() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
		b.Add(a)
	}
	if d, err := r.Digest(); err != nil || d != id {
		t.Fatalf("identity %s %v, want %s", d, err, id)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	raw, err := b.Bytes(id, r.Header)
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(raw)
	if err != nil || x.ID() != id || x.Len() != len(want) {
		t.Fatal(err)
	}
	if d := cmp.Diff(header(), x.Header()); d != "" {
		t.Error(d)
	}
	for _, a := range want {
		if got, ok := x.Lookup(a.Path); !ok || !cmp.Equal(got, a) {
			t.Fatalf("%s: %v\n%s", a.Path, ok, cmp.Diff(a, got))
		}
	}
	for _, p := range []string{"", "pool", "pool/", "pool/000000.de", "pool/9", "zzz"} {
		if _, ok := x.Lookup(p); ok {
			t.Errorf("found %q", p)
		}
	}
	n := 0
	for range x.Under("pool/0000") {
		n++
	}
	if n != 100 {
		t.Errorf("%d under the prefix", n)
	}
	for i := 0; i < len(raw); i += 97 {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := OpenIndex(bad); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a flip at %d was not seen", i)
		}
	}
}

func TestSnapshotWriterRefuses(t *testing.T) {
	ok := artifacts(2)
	for name, change := range map[string]func(*Artifact){
		"order":     func(a *Artifact) { a.Path = "a" },
		"same path": func(a *Artifact) { a.Path = ok[0].Path },
		"parent":    func(a *Artifact) { a.Path = "z/../y" },
		"absolute":  func(a *Artifact) { a.Path = "/z" },
		"backslash": func(a *Artifact) { a.Path = `z\y` },
		"drive":     func(a *Artifact) { a.Path = "z:y" },
		"control":   func(a *Artifact) { a.Path = "z\ny" },
		"digest":    func(a *Artifact) { a.Digest = "sha256:zz" },
		"size":      func(a *Artifact) { a.Size = -1 },
		"class":     func(a *Artifact) { a.Class = "toy" },
		"long":      func(a *Artifact) { a.Version = strings.Repeat("x", 5000) },
		"long path": func(a *Artifact) { a.Path = "z" + strings.Repeat("x", MaxPath) },
	} {
		w, err := NewSnapshotWriter(io.Discard, header())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(ok[0]); err != nil {
			t.Fatal(err)
		}
		a := ok[1]
		change(&a)
		if err := w.Add(a); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for _, name := range []string{"", "A", "a_b", "con", "com7", strings.Repeat("a", 41), "a/b", "日本"} {
		if ValidName(name) {
			t.Errorf("feed name %q was accepted", name)
		}
	}
}

// Whatever the bytes, reading ends without a panic and never yields an artifact that breaks the rules.
func FuzzSnapshot(f *testing.F) {
	var b bytes.Buffer
	w, _ := NewSnapshotWriter(&b, header())
	for _, a := range artifacts(3) {
		w.Add(a)
	}
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, doc []byte) {
		r, err := NewSnapshotReader(bytes.NewReader(doc))
		if err != nil {
			return
		}
		defer r.Close()
		last := ""
		for a, err := range r.Artifacts() {
			if err != nil {
				if _, derr := r.Digest(); derr == nil {
					t.Fatal("identity of a document that could not be read")
				}
				return
			}
			if !ValidPath(a.Path) || a.Path <= last && last != "" || a.Size < 0 {
				t.Fatalf("yielded %+v", a)
			}
			last = a.Path
		}
	})
}

func TestOrders(t *testing.T) {
	issued := time.Date(2026, 11, 22, 0, 0, 0, 0, JST())
	if got, want := FiscalYearEnd(issued), time.Date(2027, 4, 1, 0, 0, 0, 0, JST()); !got.Equal(want) {
		t.Errorf("fiscal year ends %s", got)
	}
	if got := FiscalYearEnd(time.Date(2027, 3, 31, 23, 59, 0, 0, JST())); got.Year() != 2027 {
		t.Errorf("31 March belongs to the year that ends: %s", got)
	}
	ok := Order{Schema: 1, Number: 17, Kind: OrderException, Feed: "a", Strength: Listed, Reason: "r", Operator: "o", Approver: "p", Issued: issued, Until: issued.AddDate(0, 1, 0)}
	if err := ok.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Order){
		"own approver":  func(o *Order) { o.Approver = "o" },
		"no approver":   func(o *Order) { o.Approver = "" },
		"no reason":     func(o *Order) { o.Reason = " " },
		"no end":        func(o *Order) { o.Until = time.Time{} },
		"past 31 March": func(o *Order) { o.Until = FiscalYearEnd(issued).Add(time.Second) },
		"for nothing":   func(o *Order) { o.Feed = "" },
		"unknown":       func(o *Order) { o.Kind = "bypass" },
	} {
		o := ok
		change(&o)
		if o.Check() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// catalogue is a feed that describes whatever it is told to.
type catalogue struct {
	Feed
	list []Installer
}

func (c catalogue) Installers(Content) ([]Installer, error) { return c.list, nil }

// oneFile is content with a single artifact.
type oneFile struct {
	Content
	a Artifact
}

func (c oneFile) Lookup(p string) (Artifact, bool) { return c.a, p == c.a.Path }

func TestInstallers(t *testing.T) {
	good := Installer{Path: "a.msi", ID: "A.B", Name: "B", Publisher: "A", Version: "1", Arch: "x64", Type: "msi"}
	gone := good
	gone.Path = "gone.msi"
	v := View{Content: oneFile{a: Artifact{Path: "a.msi", Digest: DigestOf([]byte("a")), Size: 1, Class: Feature}}}
	list, err := Installers(catalogue{list: []Installer{good, gone}}, v)
	if err != nil || len(list) != 1 || list[0].Digest != DigestOf([]byte("a")) || list[0].Size != 1 || list[0].Class != Feature {
		t.Errorf("%+v, %v", list, err)
	}
	v.Withheld = map[string]string{"a.msi": "held"}
	if list, err := Installers(catalogue{list: []Installer{good}}, v); err != nil || len(list) != 0 {
		t.Errorf("withheld: %+v, %v", list, err)
	}
	if list, err := Installers(struct{ Feed }{}, v); err != nil || list != nil {
		t.Errorf("a feed without installers: %+v, %v", list, err)
	}
	for name, change := range map[string]func(*Installer){
		"path": func(i *Installer) { i.Path = "../a" }, "id": func(i *Installer) { i.ID = "one" }, "version": func(i *Installer) { i.Version = "" },
		"architecture": func(i *Installer) { i.Arch = "amd64" }, "type": func(i *Installer) { i.Type = "dmg" }, "scope": func(i *Installer) { i.Scope = "all" },
		"control": func(i *Installer) { i.Silent = "/S\n/X" }, "long": func(i *Installer) { i.Name = strings.Repeat("x", maxText+1) },
	} {
		i := good
		if change(&i); i.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, n := range [][2]string{{"Microsoft Corporation", "Visual C++ 2010 x86"}, {"", ""}, {"株式会社ジャストシステム", "一太郎2026 (試用版)"}, {strings.Repeat("長い", 200), "a/b\\c:d*e?f\"g<h>i|j.k"}} {
		if id := InstallerID(n[0], n[1]); !ValidInstallerID(id) {
			t.Errorf("%q: %q", n, id)
		}
	}
}

// Kinds do not know what their feed is called; who shows the message does.
func TestAboutNamesTheFeed(t *testing.T) {
	one, two := NewFault(errors.New("x"), "H-401"), NewFault(errors.New("y"), "H-402", "feed", "other")
	err := About("debian", fmt.Errorf("a: %w", errors.Join(one, two)))
	if one.(*Fault).Args["feed"] != "debian" || two.(*Fault).Args["feed"] != "other" || !errors.Is(err, one) {
		t.Errorf("%v %v", one, two)
	}
	var f *Fault
	if err := About("debian", fmt.Errorf("odd: %w", ErrUpstream)); !errors.As(err, &f) || f.Code != "H-401" || f.Args["feed"] != "debian" {
		t.Errorf("%v", err)
	}
	if About("debian", nil) != nil || About("debian", ErrHeld) != ErrHeld {
		t.Error("what needs no message got one")
	}
}
