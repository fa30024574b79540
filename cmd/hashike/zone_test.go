package main

import (
	"strings"
	"testing"
)

// An edited line does not take a site out of the My Number network: a person
// with a reason does, and every change is in the log.
func TestTheZoneIsKept(t *testing.T) {
	w, _ := twoFeeds(t)
	w.unapproved = false
	w.pack()
	in := []string{"--data", w.path(inside)}
	back := append(in, "import", w.path("media"), "--return")
	zone := func(from, to string) {
		t.Helper()
		setLine(t, w.path(inside, "hashike.toml"), `zone = "`+from+`"`, `zone = "`+to+`"`)
	}
	w.inside("gc") // the first use keeps lgwan
	if strings.Contains(w.logText(inside), `"what":"zone"`) {
		t.Error("nothing changed yet")
	}
	zone("lgwan", "mynumber")
	w.fails(exitHeld, "H-655", back...)
	if r := w.lastRecord(inside, "zone"); r.Detail["from"] != "lgwan" || r.Detail["to"] != "mynumber" {
		t.Errorf("%+v", r)
	}
	zone("mynumber", "lgwan")
	before := tree(t, w.path("media"))
	w.fails(exitHeld, "H-664", back...)
	w.fails(exitHeld, "H-664", append(in, "import", w.path("media"))...)
	w.fails(exitConfig, "--reason", append(in, "zone")...)
	if tree(t, w.path("media")) != before {
		t.Error("the medium was written")
	}
	_, said, code := w.run("", append(in, "status")...)
	if code != 0 || !strings.Contains(said, "H-664") || !strings.HasPrefix(said, "内側（マイナンバー利用事務系）") {
		t.Errorf("reading goes on as before and says it: exit %d\n%s", code, said)
	}
	w.inside("zone", "--reason", "庁舎の統合、承認番号 12")
	if r := w.lastRecord(inside, "zone"); r.Detail["from"] != "mynumber" || r.Detail["to"] != "lgwan" || r.Detail["reason"] == "" {
		t.Errorf("%+v", r)
	}
	w.ok("", back...)
}
