package symantec

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

var taken = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func pack(t testing.TB, members map[string][]byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = w.Write(members[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// guard is a signed archive of the n-th hour; change spoils it after signing.
func guard(t testing.TB, p *feedtest.Publisher, n int, members map[string][]byte, change func(map[string][]byte)) []byte {
	at := taken.Add(time.Duration(n-20) * time.Hour)
	g := fmt.Appendf(nil, "[GuardHeader]\r\nLastModifiedUtcSeconds=%d\r\n", at.Unix())
	all := maps.Clone(members)
	for name, b := range members {
		g = fmt.Appendf(g, "[File-%s]\r\nSHA1=00\r\nSHA256=%x\r\n", name, sha256.Sum256(b))
	}
	all["v.grd"], all["v.sig"], all["lic.dat"] = g, p.Detached(t, g, at), make([]byte, licence)
	if change != nil {
		change(all)
	}
	return pack(t, all)
}

func state(t testing.TB, p *feedtest.Publisher, n int, name string) feedtest.State {
	return feedtest.State{Files: feedtest.Files{
		"vd1.jdb":             guard(t, p, n, map[string][]byte{name: fmt.Appendf(nil, "virscan %d", n), "catalog.dat": []byte("c")}, nil),
		"lu/sesm_livetri.zip": guard(t, p, n, map[string][]byte{"liveupdt.tri": fmt.Appendf(nil, "[x] %d", n)}, nil),
		"lu/minitri.flg":      []byte(" "),
	}}
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has the same driver in kaspersky and eset")
	}
	p, other := feedtest.NewPublisher(t, Use, "Symantec", taken), feedtest.NewPublisher(t, Use, "Symantec", taken)
	feedtest.Run(t, feedtest.Folder(feedtest.Case{
		Kind: Kind(), Time: taken, Trust: []feed.Anchor{p.Anchor},
		Older: state(t, p, 1, "virscan1.dat"), Now: state(t, p, 2, "virscan1.dat"), Newer: state(t, p, 3, "virscan1.dat"), Forged: state(t, other, 2, "virscan1.dat"),
		Hostile: func(name string) feedtest.State { return state(t, p, 2, name) },
		Unsigned: map[string]func(feedtest.Files){"v.sig": func(f feedtest.Files) {
			f["vd1.jdb"] = pack(t, map[string][]byte{"virscan1.dat": []byte("virscan 2")})
		}},
		Optional: func(p string) bool { return p == "vd1.jdb" || p == "lu/minitri.flg" }, // no index names it
		Loose:    func(p string, _ int) bool { return p == "lu/minitri.flg" },            // one byte, of no signature
		Without:  map[string]string{"upstream tampered": "the zip directory has bytes that nothing covers: see TestGuard"},
	}, false))
}

func TestGuard(t *testing.T) {
	p := feedtest.NewPublisher(t, Use, "Symantec", taken)
	take := func(b []byte, trust ...feed.Anchor) error {
		t.Helper()
		return feedtest.Once(t, Kind(), trust, "tool", "quiet = '10ms'\n", feedtest.Files{"vd.jdb": b}, taken)
	}
	members := map[string][]byte{"a.dat": []byte("first"), "b/c.dat": []byte("second")}
	good := guard(t, p, 5, members, nil)
	if err := take(good, p.Anchor); err != nil {
		t.Fatal(err)
	}
	if err := take(good); !errors.Is(err, feed.ErrHeld) {
		t.Errorf("without a root: %v", err)
	}
	for what, change := range map[string]func(map[string][]byte){
		"a member changed":     func(m map[string][]byte) { m["a.dat"] = []byte("other") },
		"a member added":       func(m map[string][]byte) { m["z.dat"] = []byte("x") },
		"a member missing":     func(m map[string][]byte) { delete(m, "a.dat") },
		"the guard changed":    func(m map[string][]byte) { m["v.grd"] = append(m["v.grd"], "\r\n"...) },
		"another signature":    func(m map[string][]byte) { m["v.sig"] = p.Detached(t, []byte("x"), taken) },
		"a licence too long":   func(m map[string][]byte) { m["lic.dat"] = make([]byte, licence+1) },
		"an empty signature":   func(m map[string][]byte) { m["v.sig"] = []byte{} },
		"no licence is no sin": func(m map[string][]byte) { delete(m, "lic.dat") },
	} {
		err := take(guard(t, p, 5, members, change), p.Anchor)
		if what == "no licence is no sin" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		} else if !errors.Is(err, feed.ErrUntrusted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, b := range map[string][]byte{"cut": good[:len(good)/2], "not guarded": pack(t, members), "empty": nil} {
		if err := take(b, p.Anchor); !errors.Is(err, feed.ErrTransient) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzGuard(f *testing.F) {
	f.Add(pack(f, map[string][]byte{"v.grd": []byte("[GuardHeader]\nLastModifiedUtcSeconds=1700000000\n[File-a]\nSHA256=" + fmt.Sprintf("%x", sha256.Sum256(nil))), "v.sig": {1}, "a": nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok, err := open(bytes.NewReader(b), int64(len(b)))
		if err == nil && ok && len(b) < 1<<16 {
			_ = a.holds(bytes.NewReader(b), int64(len(b)))
		}
	})
}
