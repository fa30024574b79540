package kaspersky

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/tooldir/tooltest"
)

var day = time.Date(2026, 11, 20, 3, 15, 0, 0, time.UTC)

// signature has the form of the last line of a genuine index.
var signature = ";:10" + strings.Repeat("Ab9+", 21) + "Q=%%\r\n"

func document(n int, entries string) []byte {
	at := day.Add(time.Duration(n) * time.Hour).Format("02012006 1504")
	return []byte("<?xml version=\"1.0\"?>\r\n<UpdateFiles UpdateDate=\"" + at + "\" ObjectType=\"AllUpdates\">\r\n" + entries + "</UpdateFiles>\r\n" + signature)
}

func state(n int) feedtest.State { return named(n, "kdb-i386-0607g.xml") }

// named is a state whose first index gives its component's index this name.
func named(n int, name string) feedtest.State {
	component := document(n, "<FileDescription UpdateType=\"base\" ServerFolder=\".\" Filename=\"base001.kdc\" FileDate=\"20112026 0300\"/>\r\n<FileDescription UpdateType=\"base\" Filename=\"not-ours.kdc\"/>\r\n")
	return feedtest.State{Files: feedtest.Files{
		"index/u0607g.xml": document(n, fmt.Sprintf("<FileDescription ComponentID=\"KDB\" UpdateType=\"desc\" ServerFolder=\"../bases/av/kdb\" Filename=\"%s\"/>\r\n"+
			"<Registry UpdateType=\"KLKEY\" Body=\"S0xyZw==\" Filename=\"x.pbv\"/>\r\n", name)),
		"bases/av/kdb/" + name:        component,
		"bases/av/kdb/base001.kdc":    fmt.Appendf(nil, "database %d", n),
		"bases/av/kdb/incomplete.tmp": []byte("of the tool"),
	}}
}

func TestConformance(t *testing.T) {
	feedtest.Run(t, feedtest.Folder(feedtest.Case{
		Kind: Kind(), Time: day.Add(72 * time.Hour),
		Config: "exclude = ['*.tmp']\n",
		Older:  state(1), Now: state(2), Newer: state(3),
		Hostile: func(name string) feedtest.State {
			if strings.ContainsAny(name, "\x00\x7f") { // XML cannot say it
				name = "../" + strings.Map(func(r rune) rune { return max(r, 'x') }, name)
			}
			return named(2, name)
		},
		Optional: func(p string) bool { return strings.HasSuffix(p, ".kdc") }, // an index lists what nobody fetched
		Requests: []feedtest.Request{{Path: "/index/U0607G.XML"}, {Path: "/bases/av/kdb/incomplete.tmp", Status: 404}},
	}, true))
}

func FuzzRead(f *testing.F) { tooltest.FuzzIndex(f, read, state(2).Files, "index/u0607g.xml") }
