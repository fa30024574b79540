package clamav

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashike/hashike/internal/feed/feedtest"
)

// vendorAt is what the vendor publishes at a version: the project's own test files.
func vendorAt(t *testing.T, version int, signed bool) feedtest.State {
	s := feedtest.State{Files: feedtest.Files{"test.cvd": clamFile(t, fmt.Sprintf("test-%d.cvd", version))}}
	add := func(name string) {
		s.Files[name] = clamFile(t, name)
		if signed {
			s.Files[name+".sign"] = clamFile(t, name+".sign")
		}
	}
	for n := 2; n <= version; n++ {
		add(fmt.Sprintf("test-%d.cdiff", n))
	}
	if signed {
		name := fmt.Sprintf("test-%d.cvd.sign", version)
		s.Files[name] = clamFile(t, name)
	}
	return s
}

// unsigned blanks the last field of a colon-separated line that ends at end.
func blank(b []byte, from, to int) []byte {
	b = bytes.Clone(b)
	for i := from; i < to; i++ {
		b[i] = 'a'
	}
	return b
}

func TestConformance(t *testing.T) {
	samples := os.Getenv("HASHIKE_SAMPLES")
	for name, signed := range map[string]bool{"mirror": samples != "", "spool": false} {
		t.Run(name, func(t *testing.T) {
			c := feedtest.Case{
				Kind: Kind(), Trust: testTrust(t).Anchors, Time: taken,
				Config: "databases = ['test']\nurl = '{url}/'\n",
				Older:  vendorAt(t, 3, signed), Now: vendorAt(t, 5, signed), Newer: vendorAt(t, 6, signed),
				// Without a patch terminals take the whole database; without .sign, older ones still verify.
				Optional: func(p string) bool { return p != "test.cvd" },
				Huge:     func(p string) bool { return !strings.HasSuffix(p, ".sign") },
				Requests: []feedtest.Request{{Path: "/test-7.cdiff", Status: 404}, {Path: "/test-1.cdiff"}, {Path: "/daily.cvd", Status: 404}},
				Unsigned: map[string]func(feedtest.Files){
					"header's legacy signature blanked": func(f feedtest.Files) {
						head := string(f["test.cvd"][:512])
						fields := strings.Split(head, ":")
						at := len(strings.Join(fields[:6], ":")) + 1
						f["test.cvd"] = blank(f["test.cvd"], at, at+len(fields[6]))
					},
					"patch's signature blanked": func(f feedtest.Files) {
						b := f["test-5.cdiff"]
						f["test-5.cdiff"] = blank(b, bytes.LastIndexByte(b, ':')+1, len(b))
					},
					"patch's signature cut off": func(f feedtest.Files) {
						b := f["test-5.cdiff"]
						f["test-5.cdiff"] = b[:bytes.LastIndexByte(b, ':')+1]
					},
				},
				Without: map[string]string{
					"key swapped":   "nobody has a private key for this format; see the blanked signatures and the negative samples",
					"hostile index": "file names come from the configuration and from version numbers",
				},
			}
			if name == "spool" {
				c.Dir, c.Config = "spool", "databases = ['test']\n"
			}
			if samples != "" {
				for _, n := range []string{"header-version-forged.cvd", "test-6.body-flipped.cvd"} {
					b, err := os.ReadFile(filepath.Join(samples, "clamav", "negative", n))
					if err != nil {
						t.Fatal(err)
					}
					c.Unsigned["negative sample "+n] = func(f feedtest.Files) { f["test.cvd"] = b }
				}
			}
			feedtest.Run(t, c)
		})
	}
}
