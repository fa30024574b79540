package mirror_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/mirror"
	"github.com/hashike/hashike/packager"
)

// Volumes over several days with a clean-up between them: what waits for the
// next volume is no error, is not removed, and is named until it is there.
func TestVolumesOverDaysSurviveCleanUp(t *testing.T) {
	x := newCrossing(t, t.TempDir())
	files := genuine("a1", "a2")
	files["huge"] = random(40 << 20)
	x.now = x.now.Add(time.Hour)
	r, err := packager.Pack(context.Background(), packager.PackOptions{Data: x.out, DB: x.outDB, Store: x.outCAS,
		Feeds: []packager.Carry{x.snapshot("alpha", files)}, Sites: []int{1}, To: filepath.Join(t.TempDir(), "m"), VolumeSize: 18 << 20, Now: x.now, Who: "tester"})
	ok(t, err)
	if r.Volumes != 3 {
		t.Fatalf("%d volumes", r.Volumes)
	}
	pub := mirror.NewPublisher(mirror.Options{Data: x.in, DB: x.inDB, Store: x.inCAS, Clock: x.clock, Who: "tester"})
	left := []int{1, 2, 3}
	for _, n := range []int{1, 3, 2} {
		x.now = x.now.Add(48 * time.Hour)
		got, err := x.take(r.Dirs[n-1])
		ok(t, err)
		left = slices.DeleteFunc(left, func(v int) bool { return v == n })
		if !slices.Equal(got.Needed, left) {
			t.Errorf("after volume %d: needed %v, want %v", n, got.Needed, left)
		}
		want := mirror.FeedIncomplete
		if len(left) == 0 {
			want = mirror.FeedAccepted
		}
		if len(got.Feeds) != 1 || got.Feeds[0].Outcome != want {
			t.Errorf("after volume %d: %+v", n, got.Feeds)
		}
		_, err = pub.GC(context.Background(), mirror.GCOptions{})
		ok(t, err)
	}
	x.whole("alpha")
	// Whole now: the segments are nobody's any more.
	_, err = x.take(r.Dirs[0])
	ok(t, err)
	_, err = pub.GC(context.Background(), mirror.GCOptions{})
	ok(t, err)
	blobs := 0
	ok(t, x.inCAS.Walk(context.Background(), func(feed.Digest, int64, time.Time) error { blobs++; return nil }))
	if blobs != len(files) {
		t.Errorf("%d blobs are stored for %d files", blobs, len(files))
	}
}
