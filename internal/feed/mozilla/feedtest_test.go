package mozilla

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/mozilla/terminal"
	"github.com/hashike/hashike/internal/format/mar"
)

func TestConformance(t *testing.T) {
	now := time.Now()
	m, forger := newMaker(t, "vendor", now), newMaker(t, "forger", now)
	h := terminal.NewHistory(now)
	places := []string{"win64 ja"}
	lured := h.UpTo("128.3.0") // by another build, or nobody would look at the files
	lured.All = append(slices.Clone(lured.All[:4]), terminal.Published{Version: "128.3.0", Build: lured.All[4].Build[:12] + "59", Partials: lured.All[4].Partials})
	const newest = "thunderbird/releases/128.3.0esr/"
	full := newest + "update/win64/ja/thunderbird-128.3.0esr.complete.mar"
	ask := func(version, build string) string {
		return "/update/6/Thunderbird/" + version + "/" + build + "/WINNT_x86_64-msvc-x64/ja/esr/Windows_NT 10.0.0.0.19045.1 (x64)/ISET:SSE4_2,MEM:4096/default/default/update.xml"
	}
	feedtest.Run(t, feedtest.Case{
		Kind: Kind(), Trust: m.anchors(), Time: now, Config: conformanceConfig,
		Older: m.state(h.UpTo("128.2.0"), places), Now: m.state(h.UpTo("128.3.0"), places), Newer: m.state(h, places),
		Forged: forger.state(lured, places),
		Hostile: func(name string) feedtest.State {
			return m.state(h.UpTo("128.3.0"), places, name)
		},
		Optional: func(p string) bool { return strings.HasSuffix(p, ".partial.mar") },
		Huge:     func(p string) bool { return strings.HasSuffix(p, ".partial.mar") || strings.HasSuffix(p, ".exe") },
		// Without its list nothing of a release is published.
		Falls: func(wrong, p string) bool {
			root, _, ok := strings.Cut(wrong, "SHA256SUMS")
			return ok && strings.HasPrefix(p, root)
		},
		Address: func(p string) string {
			if p == indexPath {
				return ""
			}
			return "/" + p
		},
		Quiet: 8,
		Unsigned: map[string]func(feedtest.Files){
			"MAR signature blanked": func(f feedtest.Files) {
				x, err := mar.Read(bytes.NewReader(f[full]), int64(len(f[full])))
				if err != nil {
					t.Fatal(err)
				}
				f[full] = bytes.Replace(f[full], x.Signatures[0].Data, make([]byte, len(x.Signatures[0].Data)), 1)
			},
			"signed list removed": func(f feedtest.Files) { delete(f, newest+"SHA256SUMS") },
			"both removed":        func(f feedtest.Files) { delete(f, newest+"SHA256SUMS"); delete(f, newest+"SHA256SUMS.asc") },
			"watershed's removed": func(f feedtest.Files) { delete(f, "thunderbird/releases/115.18.0esr/SHA256SUMS.asc") },
			"signature of another": func(f feedtest.Files) {
				f[newest+"SHA256SUMS.asc"] = f["thunderbird/releases/115.18.0esr/SHA256SUMS.asc"]
			},
		},
		Requests: []feedtest.Request{
			{Path: ask("128.3.0", h.All[4].Build), Holds: "128.3.0esr-128.4.0esr.partial.mar"},
			{Path: ask("128.4.0", h.All[5].Build), Holds: noUpdate},
			{Path: ask("115.10.0", "20230101000000") + "?force=1", Holds: "115.18.0esr.complete.mar"},
			{Path: ask("128.0.0", "20240101000000") + "?pin=128.", Holds: "128.4.0esr.complete.mar"},
			{Path: ask("128.0.0", "20240101000000") + "?pin=x", Status: 400},
			{Path: strings.TrimSuffix(ask("128.0.0", "2"), "/update.xml"), Status: 404},
			{Path: "/update/6/Thunderbird/update.xml", Status: 404},
			{Method: "POST", Path: ask("128.3.0", "2"), Status: 405},
			{Path: "/offers.json", Status: 404},
		},
	})
}
