package eset

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/tooldir/tooltest"
	"github.com/hashike/hashike/internal/format/nup/nuptest"
)

var taken = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

// lines are what an index says of a module of the n-th day, and the module of itself.
func lines(n, level int) []string {
	day := taken.AddDate(0, 0, n-10)
	return []string{"platform=x86", fmt.Sprintf("versionid=%d", 32000+n), "type=engine", fmt.Sprintf("version=%d (%s)", 32000+n, day.Format("20060102")),
		fmt.Sprintf("build=%d", 70000+n), fmt.Sprintf("level=%d", level), "category=engine", "base=268435456", "group=perseus,ra", "date=" + day.Format("02.01.2006")}
}

func state(t testing.TB, s *nuptest.Signer, n int, name string) feedtest.State {
	at := taken.AddDate(0, 0, n-10)
	files := feedtest.Files{}
	var index strings.Builder
	for level, file := range []string{name, "nod1.nup"} {
		section := fmt.Sprintf("ENGINE%d", level)
		m := s.Module(t, append([]string{"name=" + section, "filesize=9", "crc=1"}, lines(n, level)...), bytes.Repeat([]byte{byte(n)}, 300), at, level == 0)
		fmt.Fprintf(&index, "[%s]\r\n%s\r\nfile=%s\r\nsize=%d\r\n", section, strings.Join(lines(n, level), "\r\n"), file, len(m))
		files[strings.TrimPrefix(file, "/")] = m
	}
	index.WriteString("[HOSTS]\r\nOther=200@/\r\n")
	files["update.ver"] = []byte(index.String())
	return feedtest.State{Files: files}
}

func pin(s *nuptest.Signer) feed.Anchor {
	return feed.Anchor{Name: "test-eset", Use: "eset-update", Data: []byte(s.Fingerprint), Source: "made for this test"}
}

func TestConformance(t *testing.T) {
	s := nuptest.New(t, taken.AddDate(-1, 0, 0))
	other := nuptest.New(t, taken.AddDate(-1, 0, 0))
	feedtest.Run(t, feedtest.Folder(feedtest.Case{
		Kind: Kind(), Time: taken, Trust: []feed.Anchor{pin(s)}, Config: fmt.Sprintf("keys = ['%s']\n", s.Fingerprint),
		Older: state(t, s, 1, "/em/nod0.nup"), Now: state(t, s, 2, "/em/nod0.nup"), Newer: state(t, s, 3, "/em/nod0.nup"), Forged: state(t, other, 2, "/em/nod0.nup"),
		Hostile: func(name string) feedtest.State {
			if strings.HasPrefix(name, "/") { // one is the server's root
				name = "/" + name
			}
			return state(t, s, 2, name)
		},
		Unsigned: map[string]func(feedtest.Files){"signature packets": func(f feedtest.Files) {
			for p, b := range f {
				if strings.HasSuffix(p, ".nup") {
					f[p] = b[:len(b)-280-60]
				}
			}
		}},
		Requests: []feedtest.Request{{Path: "/update.ver", Holds: "[ENGINE0]"}, {Path: "/EM/nod0.NUP"}},
		Without:  map[string]string{"upstream tampered": "of an index only what names modules is proved: see TestIndexIsProvedByItsModules"},
	}, false))
}

// fold is a folder in memory.
func take(t *testing.T, files feedtest.Files, s *nuptest.Signer, keys string) error {
	t.Helper()
	return feedtest.Once(t, Kind(), []feed.Anchor{pin(s)}, "tool", "quiet = '10ms'\n"+keys, files, taken)
}

// Every entry of an index is held to what its module says under signature.
func TestIndexIsProvedByItsModules(t *testing.T) {
	s := nuptest.New(t, taken.AddDate(-1, 0, 0))
	keys := fmt.Sprintf("keys = ['%s']\n", s.Fingerprint)
	good := state(t, s, 5, "nod0.nup").Files
	if err := take(t, good, s, keys); err != nil {
		t.Fatal(err)
	}
	index := string(good["update.ver"])
	with := func(p string, b []byte) feedtest.Files {
		return feedtest.State{Files: good}.With(p, b).Files
	}
	for old, new := range map[string]string{"versionid=32005": "versionid=32006", "build=70005": "build=70009", "(20261117)": "(20261118)", "level=1": "level=2",
		"platform=x86": "platform=x64", "group=perseus,ra": "group=perseus", "base=268435456": "base=1", "date=17.11.2026": "date=18.11.2026",
		"type=engine": "type=perseus", "[ENGINE1]": "[ENGINE2]", "file=nod1.nup": "file=nod0.nup", "category=engine": "buildregname=x"} {
		changed := strings.Replace(index, old, new, 1)
		if changed == index {
			t.Fatalf("%s is not in the index", old)
		}
		err := take(t, with("update.ver", []byte(changed)), s, keys)
		if !errors.Is(err, feed.ErrUntrusted) && !(strings.HasPrefix(old, "file=") && errors.Is(err, feed.ErrTransient)) {
			t.Errorf("%s for %s: %v", new, old, err)
		}
	}
	module := good["nod1.nup"]
	for what, c := range map[string]struct {
		files feedtest.Files
		want  error
	}{
		"a module cut short":  {with("nod1.nup", module[:len(module)-1]), feed.ErrTransient},
		"a bit":               {with("nod1.nup", flipped(module)), feed.ErrUntrusted},
		"no index":            {feedtest.Files{"nod1.nup": module}, feed.ErrTransient},
		"an index in RAR":     {with("update.ver", []byte("Rar!\x1a\x07\x00x")), feed.ErrUpstream},
		"a licence wrapper":   {with("lic.nup", []byte("NOD32.LIC")), feed.ErrUntrusted},
		"an unknown envelope": {with("em.dll.nup", []byte("MZ of a generation that nobody has shown us")), feed.ErrHeld},
	} {
		if err := take(t, c.files, s, keys); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The pin alone is not enough: the operator confirms it.
	if err := take(t, good, s, ""); !errors.Is(err, feed.ErrUntrusted) {
		t.Errorf("not confirmed: %v", err)
	}
}

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[bytes.Index(b, []byte("[update_data]"))+40] ^= 1
	return b
}

func FuzzRead(f *testing.F) {
	tooltest.FuzzIndex(f, read, state(f, nuptest.New(f, taken.AddDate(-1, 0, 0)), 2, "nod0.nup").Files, "update.ver")
}
