package intake

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

const organisation = "JustSystems Corporation"

// vendor makes modules as a publisher would.
type vendor struct {
	t  testing.TB
	by *feedtest.Publisher
	at time.Time
}

func newVendor(t testing.TB, who string, at time.Time) vendor {
	return vendor{t, feedtest.NewPublisher(t, use, who, at), at}
}

func (v vendor) module(product string, version uint16) []byte {
	return v.by.Program(v.t, feedtest.UnsignedProgram([4]uint16{36, 0, version, 0}, 0x14c, 1, []byte(product)), v.at)
}

func describe(product, version, file string, body []byte) Descriptor {
	return Descriptor{Product: product, Name: "一太郎2026 アップデートモジュール", Vendor: "株式会社ジャストシステム", Version: version, File: file, SHA256: feed.DigestOf(body),
		Publisher: organisation, Released: "2026-03-15", Source: "https://support.justsystems.com/x", ID: "JustSystems.Ichitaro2026", Type: "exe", Arch: "x86", Silent: "/s", Says: "36.0.1.0", By: "試験 花子",
		Added: time.Date(2026, 3, 20, 1, 2, 3, 0, time.UTC)}
}

func (v vendor) hand(f feedtest.Files, d Descriptor, body []byte) {
	v.t.Helper()
	b, err := d.Encode()
	if err != nil {
		v.t.Fatal(err)
	}
	f[d.path()], f[d.path()+".toml"] = body, b
}

// state is a folder with two products.
func (v vendor) state(version string, n uint16) feedtest.State {
	f := feedtest.Files{"note.txt": []byte("not handed in")}
	a, b := v.module("ichitaro2026", n), v.module("atok2026", n)
	v.hand(f, describe("ichitaro2026", version, "tar2026up.exe", a), a)
	v.hand(f, describe("atok2026", version, "ATOK 2026 更新.exe", b), b)
	return feedtest.State{Files: f}
}

func TestConformance(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	v, other := newVendor(t, organisation, now), newVendor(t, organisation, now)
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Trust: []feed.Anchor{v.by.Anchor}, Time: now, Dir: "drop",
		Config: "dir = 'drop'\nmax_file = 1048576\npublishers = { ichitaro2026 = '" + organisation + "', atok2026 = '" + organisation + "' }\n",
		Older:  v.state("2026.1", 1), Now: v.state("2026.2", 2), Newer: v.state("2026.10", 3), Forged: other.state("2026.2", 2),
		Optional: func(string) bool { return true }, // no list says what there is
		Hostile: func(p string) feedtest.State {
			s := v.state("2026.2", 2)
			b := v.module("ichitaro2026", 2)
			d := describe("ichitaro2026", "2026.2", "tar2026up.exe", b)
			d.File = p
			text, err := d.Encode()
			if err == nil {
				s.Files["ichitaro2026/2026.2/tar2026up.exe.toml"] = text
			} else {
				s.Files["ichitaro2026/2026.2/tar2026up.exe.toml"] = forge(t, d)
			}
			return s
		},
		Unsigned: map[string]func(feedtest.Files){"signature damaged": func(f feedtest.Files) {
			for p, b := range f {
				if i := bytes.Index(b, []byte(organisation+"1")); i > 0 {
					b = bytes.Clone(b)
					b[i+200] ^= 1
					f[p] = b
				}
			}
		}},
		Without:  map[string]string{"mixed": "a version's file never changes: no path has other bytes"},
		Requests: []feedtest.Request{{Path: "/ichitaro2026/2026.10/tar2026up.exe"}, {Path: "/ichitaro2026/2026.3/tar2026up.exe", Status: 404}, {Path: "/atok2026/2026.10/ATOK 2026 更新.exe.toml", Holds: "hashike intake 1"}},
	})
}
