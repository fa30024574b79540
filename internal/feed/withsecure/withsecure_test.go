package withsecure

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/feed/feedtest"
	"github.com/hashike/hashike/internal/feed/tooldir/tooltest"
)

var taken = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func state(t testing.TB, n int) feedtest.State {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "aquarius/1763000000", Method: zip.Store, Modified: taken.Add(time.Duration(n-20) * time.Hour)})
	if err == nil {
		_, err = fmt.Fprintf(w, "definitions %d", n)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return feedtest.State{Files: feedtest.Files{"out/f-secure-updates.zip": b.Bytes(), "out/channels.json": fmt.Appendf(nil, "{\"n\":%d}", n)}}
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has the same driver in kaspersky and eset")
	}
	feedtest.Run(t, feedtest.Folder(feedtest.Case{
		Kind: Kind(), Time: taken,
		Older: state(t, 1), Now: state(t, 2), Newer: state(t, 3),
		Optional: func(p string) bool { return p == "out/channels.json" },
		Without:  map[string]string{"hostile index": "there is no index"},
	}, true))
}

func TestTornArchive(t *testing.T) {
	s := state(t, 5)
	b := s.Files["out/f-secure-updates.zip"]
	for n := range b {
		if n%16 == 0 {
			s.Files["out/f-secure-updates.zip"] = b[:n]
			if err := feedtest.Once(t, Kind(), nil, "tool", "quiet = '10ms'\n", s.Files, taken); !errors.Is(err, feed.ErrTransient) {
				t.Fatalf("%d of %d bytes: %v", n, len(b), err)
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	tooltest.FuzzIndex(f, read, state(f, 2).Files, "out/f-secure-updates.zip")
}
