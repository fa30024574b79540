package web

import (
	"slices"
	"testing"

	"github.com/hashike/hashike/mirror"
)

// A feed that somebody stopped is a problem until it is served again.
func TestStoppedFeedsAreProblems(t *testing.T) {
	got := problems(mirror.Overview{Feeds: []mirror.FeedStatus{
		{Feed: "fine", Rings: []mirror.RingStatus{{Ring: "all"}}},
		{Feed: "stopped", Rings: []mirror.RingStatus{{Ring: "test"}, {Ring: "all", Stopped: true}}},
		{Feed: "refused", Code: "H-502", Problem: "H-502: bad"},
	}})
	if len(got) != 2 || got[0].Feed != "stopped" || !slices.Equal(got[0].Stopped, []string{"all"}) || got[1].Problem != "bad" {
		t.Errorf("%+v", got)
	}
}
