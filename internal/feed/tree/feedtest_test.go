package tree

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
)

// vendorTree is a generated vendor of files with a signed list.
type vendorTree struct {
	t      *testing.T
	signer *feedtest.Signer
	form   string // "SHA256SUMS.asc", "SHA256SUMS.sig" or "clear"
}

func (v vendorTree) state(at time.Time, files feedtest.Files) feedtest.State {
	v.t.Helper()
	var sums bytes.Buffer
	for _, p := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&sums, "%s  %s\n", feed.DigestOf(files[p]).Hex(), p)
	}
	return v.signed(at, files, sums.Bytes())
}

func (v vendorTree) signed(at time.Time, files feedtest.Files, list []byte) feedtest.State {
	s := feedtest.State{Files: maps.Clone(files)}
	if s.Files["SHA256SUMS"] = list; v.form == "clear" {
		s.Files["SHA256SUMS"] = v.signer.Clear(v.t, list, at)
	} else {
		s.Files[v.form] = v.signer.Detached(v.t, list, at, v.form == "SHA256SUMS.asc")
	}
	return s
}

func TestConformance(t *testing.T) {
	now := time.Now()
	vendor, stranger := feedtest.NewSigner(t, "vendor", now), feedtest.NewSigner(t, "vendor", now)
	for name, form := range map[string]string{"server": "SHA256SUMS.asc", "clear": "clear", "directory": "SHA256SUMS.sig"} {
		t.Run(name, func(t *testing.T) {
			v, forger := vendorTree{t, vendor, form}, vendorTree{t, stranger, form}
			older := feedtest.Files{"tool-1.exe": bytes.Repeat([]byte("tool one "), 500), "doc/読んで.txt": []byte("old"), "data/100%25.bin": []byte("data")}
			newer := maps.Clone(older)
			newer["tool-2.exe"], newer["doc/読んで.txt"] = bytes.Repeat([]byte("tool two "), 5000), []byte("new")
			newest := maps.Clone(newer)
			delete(newest, "tool-1.exe")
			newest["tool-3.exe"], newest["doc/読んで.txt"] = []byte("tool three"), []byte("newest")
			c := feedtest.Case{
				Kind: Kind(), Trust: []feed.Anchor{vendor.Anchor}, Time: now,
				Config: "url = '{url}/pub'\nsignature = '" + form + "'\nkeys = ['vendor']\nmax_file = 1048576\n",
				Older:  v.state(now.Add(-3*time.Hour), older), Now: v.state(now.Add(-2*time.Hour), newer), Newer: v.state(now.Add(-time.Hour), newest),
				Forged: forger.state(now.Add(-2*time.Hour), newer),
				Hostile: func(p string) feedtest.State {
					files := maps.Clone(newer)
					files[p] = []byte("escaped")
					return v.state(now.Add(-time.Hour), files)
				},
				// A snapshot may carry a choice of what the list names.
				Optional: func(p string) bool { return !strings.HasPrefix(p, "SHA256SUMS") },
				Requests: []feedtest.Request{{Path: "/doc/読んで.txt", Holds: "newest"}, {Path: "/data/100%25.bin", Holds: "data"}, {Path: "/doc", Status: 404}},
			}
			if name == "directory" {
				c.Config, c.Dir = "dir = 'drop'\nsignature = 'SHA256SUMS.sig'\nkeys = ['vendor']\n", "drop"
			} else {
				for _, s := range []*feedtest.State{&c.Older, &c.Now, &c.Newer, &c.Forged} {
					*s = s.Below("pub/")
				}
				hostile := c.Hostile
				c.Hostile = func(p string) feedtest.State { return hostile(p).Below("pub/") }
			}
			feedtest.Run(t, c)
		})
	}
}
